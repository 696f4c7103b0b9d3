//! `nearfield.toml`: what a function's author asks for, and nothing is granted beyond it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{DatasetName, Digest, FunctionName, limits, units};

/// Paths that functions cannot take: they are the gateway's own.
pub const RESERVED_ROUTES: [&str; 6] = ["/v1", "/b3", "/fn", "/healthz", "/readyz", "/metrics"];

/// A whole `nearfield.toml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    #[serde(default)]
    pub function: BTreeMap<FunctionName, FunctionEntry>,
}

/// One `[function.NAME]`: where its component comes from, and its manifest.
#[derive(Debug, Clone, PartialEq)]
pub struct FunctionEntry {
    pub source: ComponentSource,
    pub manifest: FunctionManifest,
}

/// Where a component comes from; relative paths start at the manifest's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComponentSource {
    /// `build = { crate = "." }`
    Crate(String),
    /// `component = "file.wasm"`
    File(String),
}

/// What a deployed function is granted and bounded by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionManifest {
    /// Served here and below; `/fn/{name}` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Anybody may call it; otherwise a token is needed.
    pub public: bool,
    /// Datasets it may open, by the names it opens them with.
    pub inputs: BTreeMap<String, Input>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locate: Option<Locate>,
    pub limits: Limits,
    pub allow: Allow,
    pub instances: Instances,
    /// Environment variables that the guest sees.
    pub env: BTreeMap<String, String>,
}

impl Default for FunctionManifest {
    fn default() -> Self {
        FunctionManifest {
            route: None,
            public: false,
            inputs: BTreeMap::new(),
            locate: None,
            limits: Limits::default(),
            allow: Allow::default(),
            instances: Instances::Fresh,
            env: BTreeMap::new(),
        }
    }
}

/// Why a manifest is refused; where the text is at hand, with line and column.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ManifestError {
    pub message: String,
    /// Byte range of the offending text.
    pub span: Option<std::ops::Range<usize>>,
    /// Line and column, from 1.
    pub at: Option<(usize, usize)>,
}

impl ManifestFile {
    /// Parses and checks. The error names line and column.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let file: ManifestFile = toml::from_str(text).map_err(|error| ManifestError {
            message: error.message().trim().to_owned(),
            at: error.span().map(|span| line_and_column(text, span.start)),
            span: error.span(),
        })?;
        for (name, entry) in &file.function {
            entry.manifest.check().map_err(|message| {
                let header = format!("[function.{name}]");
                let span = text.find(&header).map(|start| start..start + header.len());
                ManifestError {
                    message: format!("function `{name}`: {message}"),
                    at: span.as_ref().map(|span| line_and_column(text, span.start)),
                    span,
                }
            })?;
        }
        Ok(file)
    }
}

impl FunctionManifest {
    /// Checks what types alone cannot: limits within bounds, `locate` naming an input.
    pub fn check(&self) -> Result<(), String> {
        let limits = &self.limits;
        let within = |name: &str, value: u64, max: u64| match value {
            0 => Err(format!("limits.{name} is 0: it would stop every call")),
            _ if value > max => Err(format!("limits.{name} = {value} is above {max}")),
            _ => Ok(()),
        };
        within("fuel", limits.fuel, limits::MAX_FUEL_PER_CALL)?;
        within("memory", limits.memory.0, limits::MAX_GUEST_MEMORY_BYTES)?;
        within(
            "timeout (ms)",
            limits.timeout.0.as_millis() as u64,
            limits::MAX_CALL_TIMEOUT.as_millis() as u64,
        )?;
        if let Some(locate) = &self.locate
            && !self.inputs.contains_key(&locate.input)
        {
            return Err(format!(
                "locate.input = \"{}\" is not among inputs ({})",
                locate.input,
                self.inputs.keys().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        if let Some(name) = self
            .env
            .keys()
            .find(|name| name.is_empty() || name.contains(['=', '\0']))
        {
            return Err(format!("env has a variable that no system could hold: {name:?}"));
        }
        Ok(())
    }
}

/// Line and column, both from 1, of byte `at`.
fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
    (line, column)
}

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

/// Run where the shard of this file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locate {
    /// A name from `inputs`.
    pub input: String,
    /// The file's path in it: text with `{rest}` (the path below the route) and `{query.NAME}`.
    pub path: PathTemplate,
}

/// Text with holes that a request fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathTemplate {
    text: String,
    parts: Vec<TemplatePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TemplatePart {
    Text(String),
    Rest,
    Query(String),
}

impl PathTemplate {
    /// Fills the holes: `rest` is the decoded path below the route without its first `/`.
    /// `None` when the request lacks a query parameter that is named.
    pub fn fill<'a>(
        &self,
        rest: &str,
        query: impl Fn(&str) -> Option<std::borrow::Cow<'a, str>>,
    ) -> Option<String> {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                TemplatePart::Text(text) => filled.push_str(text),
                TemplatePart::Rest => filled.push_str(rest),
                TemplatePart::Query(name) => filled.push_str(&query(name)?),
            }
        }
        Some(filled)
    }
}

impl TryFrom<String> for PathTemplate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut left = text.as_str();
        while let Some((before, hole)) = left.split_once('{') {
            let (name, after) = hole
                .split_once('}')
                .ok_or_else(|| format!("`{text}` has a `{{` without its `}}`"))?;
            if !before.is_empty() {
                parts.push(TemplatePart::Text(before.to_owned()));
            }
            parts.push(match name.strip_prefix("query.") {
                Some(query) if !query.is_empty() => TemplatePart::Query(query.to_owned()),
                _ if name == "rest" => TemplatePart::Rest,
                _ => {
                    return Err(format!(
                        "`{{{name}}}` in `{text}` is unknown: use {{rest}} or {{query.NAME}}"
                    ));
                }
            });
            left = after;
        }
        if !left.is_empty() {
            parts.push(TemplatePart::Text(left.to_owned()));
        }
        Ok(PathTemplate { text, parts })
    }
}

impl From<PathTemplate> for String {
    fn from(template: PathTemplate) -> String {
        template.text
    }
}

/// Bounds on one call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Guest operators and host calls by the cost table.
    #[serde(deserialize_with = "fuel")]
    pub fuel: u64,
    /// Linear memory.
    pub memory: ByteSize,
    /// Wall time from admission to the end of the response.
    pub timeout: Timeout,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            fuel: limits::FUEL_PER_CALL,
            memory: ByteSize(limits::GUEST_MEMORY_BYTES),
            timeout: Timeout(limits::CALL_TIMEOUT),
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
        let port = port.parse().map_err(|_| refused())?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
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

/// Whether calls share instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instances {
    /// A new instance for each call: nothing outlives it.
    #[default]
    Fresh,
    /// An instance serves calls one after another; its statics persist.
    Reuse,
}

/// Bytes; in text as `256MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

/// Wall time; in text as `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout(pub Duration);

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

fn fuel<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(fuel) => Ok(fuel),
        NumberOrText::Text(text) => units::parse_count(&text).map_err(de::Error::custom),
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(bytes) => Ok(ByteSize(bytes)),
            NumberOrText::Text(text) => units::parse_bytes(&text).map(ByteSize).map_err(de::Error::custom),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Timeout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        units::parse_duration(&text)
            .map(Timeout)
            .map_err(de::Error::custom)
    }
}

impl Serialize for Timeout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", self.0.as_millis()))
    }
}

/// `build` and `component` stand beside the manifest's own keys, so the entry takes them out first.
impl<'de> Deserialize<'de> for FunctionEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Build {
            #[serde(rename = "crate")]
            path: String,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            build: Option<Build>,
            component: Option<String>,
            route: Option<Route>,
            #[serde(default)]
            public: bool,
            #[serde(default)]
            inputs: BTreeMap<String, Input>,
            locate: Option<Locate>,
            #[serde(default)]
            limits: Limits,
            #[serde(default)]
            allow: Allow,
            #[serde(default)]
            instances: Instances,
            #[serde(default)]
            env: BTreeMap<String, String>,
        }
        let Raw {
            build,
            component,
            route,
            public,
            inputs,
            locate,
            limits,
            allow,
            instances,
            env,
        } = Raw::deserialize(deserializer)?;
        let source = match (build, component) {
            (Some(build), None) => ComponentSource::Crate(build.path),
            (None, Some(file)) => ComponentSource::File(file),
            (None, None) => ComponentSource::Crate(".".to_owned()),
            (Some(_), Some(_)) => return Err(de::Error::custom("give `build` or `component`, not both")),
        };
        let manifest = FunctionManifest {
            route,
            public,
            inputs,
            locate,
            limits,
            allow,
            instances,
            env,
        };
        Ok(FunctionEntry { source, manifest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = r#"
[function.errors]
build     = { crate = "." }
route     = "/errors"
public    = true
inputs    = { logs = "app-logs" }
locate    = { input = "logs", path = "{rest}" }
limits    = { fuel = 5_000_000_000, memory = "256MiB", timeout = "30s" }
allow     = { http = ["api.example.org:443", "[::1]:80"] }
instances = "reuse"
env       = { LEVEL = "info" }
"#;

    #[test]
    fn the_whole_of_it() {
        let file = ManifestFile::parse(WHOLE).unwrap();
        let manifest = &file.function[&"errors".parse().unwrap()].manifest;
        assert_eq!(manifest.limits.fuel, 5_000_000_000);
        assert_eq!(manifest.limits.memory, ByteSize(256 << 20));
        assert_eq!(manifest.limits.timeout, Timeout(Duration::from_secs(30)));
        assert_eq!(manifest.instances, Instances::Reuse);
        let json = serde_json::to_string(manifest).unwrap();
        assert_eq!(
            serde_json::from_str::<FunctionManifest>(&json).unwrap(),
            *manifest
        );
    }

    #[test]
    fn errors_name_the_place() {
        let place = |text: &str| ManifestFile::parse(text).unwrap_err().at;
        assert_eq!(place("[function.a]\npubic = true"), Some((2, 1)));
        assert_eq!(place("[function.a]\nroute = \"/v1/x\""), Some((2, 9)));
        assert_eq!(place("\n[function.a]\nlimits = { fuel = 0 }"), Some((2, 1)));
        assert_eq!(place("[function.\"a b\"]"), Some((1, 11)));
        assert!(place("[function.a]\nlocate = { input = \"x\", path = \"{rest}\" }").is_some());
    }

    #[test]
    fn templates_fill() {
        let template = PathTemplate::try_from("logs/{rest}-{query.day}".to_owned()).unwrap();
        let query = |name: &str| (name == "day").then_some("1".into());
        assert_eq!(template.fill("a/b", query).as_deref(), Some("logs/a/b-1"));
        assert_eq!(template.fill("a", |_| None), None);
        assert!(PathTemplate::try_from("{else}".to_owned()).is_err());
        assert!(PathTemplate::try_from("{rest".to_owned()).is_err());
    }

    #[test]
    fn routes_keep_off_the_gateway_s_paths() {
        for bad in [
            "", "/", "x", "/v1", "/v1/x", "/fn/x", "/a/", "/a//b", "/a/../b", "/a?b", "/{x}",
        ] {
            assert!(Route::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert!(Route::try_from("/v1x/y".to_owned()).is_ok());
    }
}
