//! Path → function. The table is made anew when the records change, and shared until then.

mod tree;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use http::HeaderName;
use nearfield_net::Records;
use nearfield_protocol::manifest::{Input, Route};
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{Digest, FunctionName, Problem, ProblemKind};
use parking_lot::RwLock;

use crate::admit::{Admission, Pool};
use crate::calls::CallPlacement;
use crate::metrics::{FunctionMetrics, Metrics};

pub(crate) use tree::Tree;

/// A function as it is served.
pub struct Served {
    pub function: Arc<FunctionVersion>,
    /// The route it answers for, without a `/` at the end.
    pub route: Route,
    /// The route's parameters, in order: their names, and the headers that tell them to guests.
    pub parameters: Vec<(String, HeaderName)>,
    /// Its inputs, each resolved to a version; or the one that is missing.
    pub inputs: Result<Arc<BTreeMap<String, Digest>>, Problem>,
    /// Its calls at once.
    pub pool: Arc<Pool>,
    pub metrics: Arc<FunctionMetrics>,
    /// Where its calls go if it has no inputs and there is one host alone, which is always the same then.
    pub placement: OnceLock<Arc<CallPlacement>>,
}

impl Served {
    /// The same function with other inputs.
    fn with_inputs(&self, inputs: Result<Arc<BTreeMap<String, Digest>>, Problem>) -> Self {
        Served {
            function: self.function.clone(),
            route: self.route.clone(),
            parameters: self.parameters.clone(),
            inputs,
            pool: self.pool.clone(),
            metrics: self.metrics.clone(),
            placement: OnceLock::new(),
        }
    }
}

/// A function that answers for a path, and what of the path is whose.
pub struct Routed {
    pub served: Arc<Served>,
    /// Bytes of the path that are the route's; what follows is the function's.
    prefix_bytes: usize,
    /// Where the values of its parameters lie in the path, in order.
    values: Vec<Range<usize>>,
}

/// All routes, by one snapshot of the records.
pub struct RouteTable {
    tree: Arc<Tree>,
    served: Vec<Arc<Served>>,
    records: Arc<Records>,
}

impl RouteTable {
    fn new(records: &Arc<Records>, admission: &Admission, metrics: &Metrics) -> Self {
        let (mut tree, mut served) = (Tree::default(), Vec::new());
        for function in records.functions() {
            let route = function
                .manifest
                .route
                .clone()
                .unwrap_or_else(|| Route::of(&function.name));
            // Deploy refuses a route that is taken; of two gateways' simultaneous deploys one must lose.
            if !tree.insert(&route, served.len()) {
                tracing::error!(function = %function.name, route = route.as_str(), "the route is taken");
                continue;
            }
            served.push(Arc::new(Served {
                inputs: resolve_inputs(function, records),
                function: Arc::new(function.clone()),
                parameters: route.parameters().filter_map(parameter).collect(),
                route,
                pool: admission.pool(&function.name),
                metrics: metrics.function(&function.name),
                placement: OnceLock::new(),
            }));
        }
        metrics.keep(served.iter().map(|served| &served.function.name));
        RouteTable {
            tree: Arc::new(tree),
            served,
            records: records.clone(),
        }
    }

    /// The table by newer records, made of this one where functions are the same: those with other inputs are served anew.
    fn renewed(&self, records: &Arc<Records>, admission: &Admission, metrics: &Metrics) -> Self {
        if !records.has_functions_of(&self.records) {
            return RouteTable::new(records, admission, metrics);
        }
        let mut served = self.served.clone();
        if !records.has_datasets_of(&self.records) {
            for served in &mut served {
                let inputs = resolve_inputs(&served.function, records);
                if inputs != served.inputs {
                    *served = Arc::new(served.with_inputs(inputs));
                }
            }
        }
        RouteTable {
            tree: self.tree.clone(),
            served,
            records: records.clone(),
        }
    }

    /// The function that answers for `path`, the longest route first.
    pub fn find(&self, path: &str) -> Option<Routed> {
        let found = self.tree.find(path)?;
        Some(Routed {
            served: self.served.get(found.index)?.clone(),
            prefix_bytes: found.prefix_bytes,
            values: found.values,
        })
    }

    /// The function that answers already for the paths of `route`, if it is another than `name`.
    pub fn taken_by(&self, route: &Route, name: &FunctionName) -> Option<&Served> {
        let shape = route.shape();
        let mut served = self.served.iter().map(|served| &**served);
        served.find(|served| served.function.name != *name && served.route.shape() == shape)
    }
}

fn parameter(name: &str) -> Option<(String, HeaderName)> {
    let header = HeaderName::try_from(format!("nearfield-param-{name}")).ok()?;
    Some((name.to_owned(), header))
}

impl Routed {
    /// The path's beginning that led here, as it was sent.
    pub fn prefix<'a>(&self, path: &'a str) -> &'a str {
        &path[..self.prefix_bytes]
    }

    /// The path that the guest sees, as it was sent: empty, or with its first `/`.
    pub fn below<'a>(&self, path: &'a str) -> &'a str {
        &path[self.prefix_bytes..]
    }

    /// The path that the guest sees, percent-decoded, without its first `/`.
    pub fn rest(&self, path: &str) -> Result<String, Problem> {
        let below = self.below(path);
        let rest = decoded(below.strip_prefix('/').unwrap_or(below));
        rest.ok_or_else(|| {
            Problem::new(
                ProblemKind::BadRequest,
                "the path is not UTF-8 once it is percent-decoded",
            )
        })
    }

    /// The values of the route's parameters, percent-decoded, in order.
    pub fn values(&self, path: &str) -> Result<Vec<String>, Problem> {
        let names = self.served.parameters.iter().map(|(name, _)| name);
        let values = self.values.iter().map(|value| &path[value.clone()]);
        names.zip(values).map(|(name, value)| told(name, value)).collect()
    }
}

/// A parameter's value as a header can tell it.
pub(crate) fn told(name: &str, raw: &str) -> Result<String, Problem> {
    let refused = |why: &str| {
        Err(Problem::new(
            ProblemKind::BadRequest,
            format!("the path's parameter `{name}` {why}"),
        ))
    };
    match decoded(raw) {
        None => refused("is not UTF-8 once it is percent-decoded"),
        Some(value) if value.chars().any(char::is_control) => refused("holds a control character"),
        Some(value) if value.trim_matches(' ') != value => refused("begins or ends with a space"),
        Some(value) => Ok(value),
    }
}

fn decoded(text: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.ok().map(|text| text.into_owned())
}

fn resolve_inputs(
    function: &FunctionVersion,
    records: &Records,
) -> Result<Arc<BTreeMap<String, Digest>>, Problem> {
    let resolved: Result<BTreeMap<_, _>, _> = function
        .manifest
        .inputs
        .iter()
        .map(|(name, input)| match input {
            Input::Pinned(digest) => Ok((name.clone(), *digest)),
            Input::Newest(dataset) => match records.dataset(dataset) {
                Some(version) => Ok((name.clone(), version.digest)),
                None => Err(Problem::new(
                    ProblemKind::UnknownDataset,
                    format!(
                        "function `{}` needs the dataset `{dataset}`, which is not there: put it with \
                         `nearfield put PATH --name {dataset}`",
                        function.name
                    ),
                )),
            },
        })
        .collect();
    resolved.map(Arc::new)
}

/// The current table.
#[derive(Default)]
pub struct Routes {
    /// Replaced whole by whoever first sees newer records.
    table: RwLock<Option<Arc<RouteTable>>>,
}

impl Routes {
    pub fn current(
        &self,
        records: &Arc<Records>,
        admission: &Admission,
        metrics: &Metrics,
    ) -> Arc<RouteTable> {
        let old = self.table.read().clone();
        let fresh = match old {
            Some(table) if table.records.generation == records.generation => return table,
            Some(table) => table.renewed(records, admission, metrics),
            None => RouteTable::new(records, admission, metrics),
        };
        let fresh = Arc::new(fresh);
        *self.table.write() = Some(fresh.clone());
        fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_once_and_fit_into_a_header() {
        for (raw, value) in [
            ("7", Some("7")),
            ("a%20b%2525", Some("a b%25")),
            ("J%C3%BCrgen", Some("Jürgen")),
            ("a%2Fb", Some("a/b")),
            ("a/b", Some("a/b")),
            ("100%", Some("100%")),
            ("%ff", None),
            ("a%0d%0ax-evil:%201", None),
            ("%00", None),
            ("%20a", None),
            ("a%20", None),
        ] {
            let told = told("id", raw);
            assert_eq!(told.as_deref().ok(), value, "{raw}");
            match told {
                Ok(value) => assert!(http::HeaderValue::from_bytes(value.as_bytes()).is_ok()),
                Err(problem) => {
                    assert_eq!(problem.kind, ProblemKind::BadRequest);
                    assert!(problem.detail.contains("`id`"), "{problem}");
                }
            }
        }
    }
}
