//! Which pages of other origins may call a function from a browser (the Fetch standard, "CORS protocol").

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Timeout, at_most};
use crate::limits;

/// What browsers are told. The gateway tells it; the function is not asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Whose pages may read the answers; `*` alone is everybody's.
    pub origins: Vec<Origin>,
    /// Methods that they may use; `*` alone is any. Browsers send GET, HEAD and plain POSTs unasked.
    #[serde(default = "plain_methods")]
    pub methods: Vec<String>,
    /// Headers that they may set; `*` alone is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Headers of an answer that they may read, beside the few that they always may; `*` alone is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose: Vec<String>,
    /// Whether browsers send cookies and `authorization` along.
    #[serde(default)]
    pub credentials: bool,
    /// How long the answer to a preflight may be kept; a browser's own few seconds without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Timeout>,
}

/// `https://app.example`, as browsers send it, or `*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin(String);

impl Cors {
    /// Whether everybody's pages may.
    pub fn any_origin(&self) -> bool {
        self.origins.iter().any(|origin| origin.0 == "*")
    }

    /// Whether pages of `origin` may.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.any_origin() || self.origins.iter().any(|known| known.0.as_bytes() == origin)
    }

    /// What types alone cannot check.
    pub(super) fn check(&self) -> Result<(), String> {
        let origins: Vec<&str> = self.origins.iter().map(|origin| origin.0.as_str()).collect();
        let (methods, headers, expose) = (texts(&self.methods), texts(&self.headers), texts(&self.expose));
        if origins.is_empty() {
            return Err("cors.origins is empty: name whose pages may call, or leave out `cors`".to_owned());
        }
        for (key, entries) in [
            ("cors.origins", &origins),
            ("cors.methods", &methods),
            ("cors.headers", &headers),
            ("cors.expose", &expose),
        ] {
            at_most(key, entries.len(), limits::CORS_ENTRIES)?;
            if entries.len() > 1 && entries.contains(&"*") {
                return Err(format!("{key} has `*` and others: `*` stands alone"));
            }
            if let Some(entry) = entries
                .iter()
                .find(|entry| key != "cors.origins" && !is_token(entry))
            {
                return Err(format!("{key} has `{entry}`, which is no name that HTTP knows"));
            }
        }
        if self.credentials && self.any_origin() {
            return Err(
                "cors.credentials is true for all origins, so any page could act as its visitor: name the origins"
                    .to_owned(),
            );
        }
        if self.credentials && expose == ["*"] {
            return Err(
                "cors.expose is `*`, which browsers take as a name with credentials: name the headers"
                    .to_owned(),
            );
        }
        let ends_here = |method: &&&str| matches!(**method, "CONNECT" | "TRACE" | "TRACK");
        if let Some(method) = methods.iter().find(ends_here) {
            return Err(format!("cors.methods has `{method}`, which no page may send"));
        }
        match self.max_age {
            Some(age) if age.0 > limits::MAX_CORS_AGE => Err(format!(
                "cors.max_age is above {} h, which no browser keeps",
                limits::MAX_CORS_AGE.as_secs() / 3600
            )),
            _ => Ok(()),
        }
    }
}

fn plain_methods() -> Vec<String> {
    ["GET", "HEAD", "POST"].map(str::to_owned).to_vec()
}

fn texts(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    !text.is_empty() && text.chars().all(inner)
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Origin(text.to_owned()));
        }
        let refused = || {
            format!(
                "`{text}` is no origin: write it as browsers send it, such as https://app.example or http://localhost:3000"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(refused)?;
        let (host, port) = match rest.rsplit_once(':') {
            // What follows the last colon within brackets is part of an address.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let scheme_is_one = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| lower(c) || "+-.".contains(c));
        let host_is_one = !host.is_empty() && host.chars().all(|c| lower(c) || "-._[]:".contains(c));
        // Browsers leave out the port that the scheme has anyway.
        let port_is_one = port.is_none_or(|port| {
            let number = port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
            number && !matches!((scheme, port), ("https", "443") | ("http", "80"))
        });
        match scheme_is_one && host_is_one && port_is_one {
            true => Ok(Origin(text.to_owned())),
            false => Err(refused()),
        }
    }
}

impl TryFrom<String> for Origin {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> String {
        origin.0
    }
}
