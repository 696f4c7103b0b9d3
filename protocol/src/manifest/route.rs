//! Where a function answers.

use serde::{Deserialize, Serialize};

use crate::{FunctionName, limits};

/// Paths that functions cannot take: they are the gateway's own.
pub const RESERVED_ROUTES: [&str; 6] = ["/v1", "/b3", "/fn", "/healthz", "/readyz", "/metrics"];

/// A path prefix that a function answers for. It starts with `/`, is not reserved and not `/` alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Route(String);

impl Route {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where a function without a declared route is served.
    pub fn of(name: &FunctionName) -> Self {
        Route(format!("/fn/{name}"))
    }
}

impl TryFrom<String> for Route {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/".contains(c);
        if !text.starts_with('/')
            || text.len() < 2
            || text.ends_with('/')
            || text.contains("//")
            || !text.chars().all(plain)
        {
            return Err(format!(
                "`{text}` is no route: start with `/`, do not end with it, and use letters, digits and -_.~"
            ));
        }
        if text.len() > limits::ROUTE_BYTES {
            return Err(format!(
                "route has {} bytes; at most {} are taken",
                text.len(),
                limits::ROUTE_BYTES
            ));
        }
        if text.split('/').any(|part| part == "." || part == "..") {
            return Err(format!(
                "`{text}` is no route: `.` and `..` are folded away by clients"
            ));
        }
        let first = text[1..].split('/').next().unwrap_or_default();
        match RESERVED_ROUTES.iter().find(|reserved| &reserved[1..] == first) {
            Some(reserved) => Err(format!("`{text}` is no route: {reserved} is reserved")),
            None => Ok(Route(text)),
        }
    }
}

impl From<Route> for String {
    fn from(route: Route) -> String {
        route.0
    }
}
