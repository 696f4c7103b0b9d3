//! Path → function. The table is made anew when the records change, and shared until then.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, RwLock};

use http::HeaderValue;
use matchit::Router;
use nearfield_net::Records;
use nearfield_protocol::manifest::{Input, Route};
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{Digest, FunctionName, Problem, ProblemKind};

use crate::admit::{Admission, Places};
use crate::calls::Placement;
use crate::metrics::{FunctionMetrics, Metrics};

/// A function as it is served.
pub struct Served {
    pub function: Arc<FunctionVersion>,
    /// The route it answers for, without a `/` at the end.
    pub prefix: Route,
    /// The same as a header for the guest.
    pub prefix_header: HeaderValue,
    /// Its inputs, each resolved to a version; or the one that is missing.
    pub inputs: Result<Arc<BTreeMap<String, Digest>>, Problem>,
    /// Its calls at once.
    pub places: Arc<Places>,
    pub metrics: Arc<FunctionMetrics>,
    /// Where its calls go if it has no inputs. So far there is one host, which never changes.
    pub placement: OnceLock<Arc<Placement>>,
}

/// All routes at one generation of the records.
pub struct RouteTable {
    router: Router<usize>,
    served: Vec<Arc<Served>>,
    generation: u64,
}

impl RouteTable {
    fn new(records: &Records, admission: &Admission, metrics: &Metrics) -> Self {
        let (mut router, mut served) = (Router::new(), Vec::new());
        for function in records.functions() {
            let prefix = function
                .manifest
                .route
                .clone()
                .unwrap_or_else(|| Route::of(&function.name));
            let index = served.len();
            let path = prefix.as_str();
            // Deploy refuses a route that is taken; of two gateways' simultaneous deploys one must lose.
            if let Err(error) = router.insert(path, index) {
                tracing::error!(function = %function.name, route = path, %error, "the route is taken");
                continue;
            }
            for below in [format!("{path}/"), format!("{path}/{{*rest}}")] {
                if let Err(error) = router.insert(below, index) {
                    tracing::error!(function = %function.name, route = path, %error, "the route is taken below");
                }
            }
            served.push(Arc::new(Served {
                inputs: resolve_inputs(function, records),
                function: Arc::new(function.clone()),
                prefix_header: HeaderValue::from_str(prefix.as_str()).unwrap_or(HeaderValue::from_static("")),
                prefix,
                places: admission.places(&function.name),
                metrics: metrics.function(&function.name),
                placement: OnceLock::new(),
            }));
        }
        RouteTable {
            router,
            served,
            generation: records.generation,
        }
    }

    /// The function that answers for `path`, the longest route first.
    pub fn find(&self, path: &str) -> Option<&Arc<Served>> {
        let found = self.router.at(path).ok()?;
        self.served.get(*found.value)
    }

    /// The function that has `route` already, if it is another than `name`.
    pub fn taken_by(&self, route: &Route, name: &FunctionName) -> Option<&FunctionName> {
        self.served
            .iter()
            .find(|served| served.prefix == *route && served.function.name != *name)
            .map(|served| &served.function.name)
    }
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
    pub fn current(&self, records: &Records, admission: &Admission, metrics: &Metrics) -> Arc<RouteTable> {
        if let Some(table) = &*self.table.read().expect("no panic under this lock")
            && table.generation == records.generation
        {
            return table.clone();
        }
        let fresh = Arc::new(RouteTable::new(records, admission, metrics));
        *self.table.write().expect("no panic under this lock") = Some(fresh.clone());
        fresh
    }
}

/// The path below a route, percent-decoded, without its first `/`. `None` if it is not UTF-8.
pub fn rest_of<'a>(path: &'a str, prefix: &Route) -> Option<std::borrow::Cow<'a, str>> {
    let rest = path.strip_prefix(prefix.as_str()).unwrap_or(path);
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    percent_encoding::percent_decode_str(rest).decode_utf8().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_are_decoded_once() {
        let prefix = Route::try_from("/grep".to_owned()).unwrap();
        for (path, rest) in [
            ("/grep", ""),
            ("/grep/", ""),
            ("/grep/a/b", "a/b"),
            ("/grep/a%20b%2525", "a b%25"),
        ] {
            assert_eq!(rest_of(path, &prefix).as_deref(), Some(rest), "{path}");
        }
        assert_eq!(rest_of("/grep/%ff", &prefix), None);
    }
}
