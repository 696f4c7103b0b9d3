//! What a function may reach: datasets and other servers.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::gpu::GpuKind;
use crate::units::parse_digits;
use crate::{DatasetName, Digest};

/// A dataset granted to a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Input {
    /// The newest version at the time of the call.
    Newest(DatasetName),
    /// One version, for ever.
    Pinned(Digest),
}

impl TryFrom<String> for Input {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text.starts_with("b3:") {
            text.parse()
                .map(Input::Pinned)
                .map_err(|error: crate::ParseDigestError| error.to_string())
        } else {
            text.parse()
                .map(Input::Newest)
                .map_err(|error: crate::InvalidName| error.to_string())
        }
    }
}

impl From<Input> for String {
    fn from(input: Input) -> String {
        match input {
            Input::Newest(name) => name.into(),
            Input::Pinned(digest) => digest.to_string(),
        }
    }
}

/// What a function may reach beyond its own memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allow {
    /// Hosts it may send requests to.
    pub http: BTreeSet<HostPort>,
}

/// What a host must have for a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Require {
    /// Without it the function gets no GPU, wherever it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuKind>,
}

/// `host:port` of an allowed outgoing request. The host is a name or an address, never a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    /// Lower case; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}` is no host and port, such as api.example.org:443 or [::1]:8080");
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let port = parse_digits(port).ok_or_else(refused)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // No name has a colon, so whatever has one is an address: a record could not be read again otherwise.
        let host = match bare.or(Some(host).filter(|host| host.contains(':'))) {
            Some(v6) => v6
                .parse::<std::net::Ipv6Addr>()
                .map_err(|_| refused())?
                .to_string(),
            None => host.to_ascii_lowercase(),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
            return Err(refused());
        }
        Ok(HostPort { host, port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<HostPort> for String {
    fn from(host: HostPort) -> String {
        host.to_string()
    }
}
