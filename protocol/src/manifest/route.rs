//! Where a function answers.

use serde::{Deserialize, Serialize};

use crate::{FunctionName, limits};

/// Paths that functions cannot take: they are the gateway's own.
pub const RESERVED_ROUTES: [&str; 6] = ["/v1", "/b3", "/fn", "/healthz", "/readyz", "/metrics"];

/// A path prefix that a function answers for. It starts with `/`, is not reserved and not `/` alone. A whole segment may be
/// a parameter, `{id}`, and the last one all that is left, `{*rest}`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Route(String);

/// One segment of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment<'a> {
    Text(&'a str),
    /// Any one segment that is not empty.
    Parameter(&'a str),
    /// All that is left, if there is something.
    Rest(&'a str),
}

impl Route {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where a function without a declared route is served.
    pub fn of(name: &FunctionName) -> Self {
        Route(format!("/fn/{name}"))
    }

    pub fn segments(&self) -> impl Iterator<Item = Segment<'_>> {
        self.0.split('/').skip(1).map(Segment::of)
    }

    /// The names of its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments().filter_map(|segment| match segment {
            Segment::Text(_) => None,
            Segment::Parameter(name) | Segment::Rest(name) => Some(name),
        })
    }

    /// Equal for two routes that answer for the same paths, whatever their parameters are called. `{id}` at the end and
    /// `{*rest}` are the same here, because a route answers for all below it, too.
    pub fn shape(&self) -> String {
        let shapes = self.segments().map(|segment| match segment {
            Segment::Text(text) => format!("/{text}"),
            Segment::Parameter(_) | Segment::Rest(_) => "/{}".to_owned(),
        });
        shapes.collect()
    }
}

impl<'a> Segment<'a> {
    fn of(text: &'a str) -> Self {
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        match inner {
            None => Segment::Text(text),
            Some(name) => match name.strip_prefix('*') {
                Some(name) => Segment::Rest(name),
                None => Segment::Parameter(name),
            },
        }
    }
}

impl TryFrom<String> for Route {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
        let no_route = |why: &str| Err(format!("`{text}` is no route: {why}"));
        if !text.starts_with('/') || text.len() < 2 || text.ends_with('/') || text.contains("//") {
            return no_route("start with `/`, do not end with it, and use it once between two segments");
        }
        if text.len() > limits::ROUTE_BYTES {
            return Err(format!(
                "route has {} bytes; at most {} are taken",
                text.len(),
                limits::ROUTE_BYTES
            ));
        }
        let mut names: Vec<String> = Vec::new();
        let mut segments = text[1..].split('/').peekable();
        while let Some(segment) = segments.next() {
            let name = match Segment::of(segment) {
                Segment::Text("." | "..") => return no_route("`.` and `..` are folded away by clients"),
                Segment::Text(text) if !text.chars().all(plain) => {
                    return no_route(
                        "a segment is letters, digits and -_.~, or as a whole a parameter such as `{id}`",
                    );
                }
                Segment::Text(_) => continue,
                Segment::Rest(_) if segments.peek().is_some() => {
                    return no_route("`{*…}` takes all that is left, so it comes last");
                }
                Segment::Parameter("rest") => {
                    return no_route(
                        "`rest` is what lies below the route; write `{*rest}` for all that is left",
                    );
                }
                Segment::Parameter(name) | Segment::Rest(name) => name,
            };
            if !is_parameter(name) {
                return no_route(
                    "a parameter's name starts with a letter and goes on with letters, digits, `-` and `_`",
                );
            }
            // A header's name, which is the same in either case.
            let name = name.to_ascii_lowercase();
            if names.contains(&name) {
                return no_route(&format!("it has the parameter `{name}` twice"));
            }
            names.push(name);
        }
        let first = text[1..].split('/').next().unwrap_or_default();
        if !matches!(Segment::of(first), Segment::Text(_)) {
            return no_route("it starts with a parameter, which would take the gateway's own paths");
        }
        match RESERVED_ROUTES.iter().find(|reserved| &reserved[1..] == first) {
            Some(reserved) => no_route(&format!("{reserved} is reserved")),
            None => Ok(Route(text)),
        }
    }
}

/// Whether `name` can name a parameter: it is the end of a header's name.
pub(super) fn is_parameter(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(inner)
}

impl From<Route> for String {
    fn from(route: Route) -> String {
        route.0
    }
}
