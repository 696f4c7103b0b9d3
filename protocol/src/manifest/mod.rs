//! `nearfield.toml`: what a function's author asks for, and nothing is granted beyond it.

mod cors;
mod file;
mod grants;
mod locate;
mod quantities;
mod route;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::limits;

pub use cors::{Cors, Origin};
pub use file::{ComponentSource, FunctionEntry, ManifestError, ManifestFile};
pub use grants::{Allow, HostPort, Input, Require};
pub use locate::{Locate, Sought, Template};
pub use quantities::{ByteSize, Limits, Timeout};
pub use route::{RESERVED_ROUTES, Route, Segment};

/// What a deployed function is granted and bounded by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionManifest {
    /// Served here and below; `/fn/{name}` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Route>,
    /// Anybody may call it; otherwise a token is needed.
    pub public: bool,
    /// Pages of other origins that may call it from a browser; without it the gateway says nothing of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Datasets it may open, by the names it opens them with.
    pub inputs: BTreeMap<String, Input>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locate: Option<Locate>,
    pub limits: Limits,
    pub allow: Allow,
    pub require: Require,
    pub instances: Instances,
    /// Environment variables that the guest sees.
    pub env: BTreeMap<String, String>,
}

impl Default for FunctionManifest {
    fn default() -> Self {
        FunctionManifest {
            route: None,
            public: false,
            cors: None,
            inputs: BTreeMap::new(),
            locate: None,
            limits: Limits::default(),
            allow: Allow::default(),
            require: Require::default(),
            instances: Instances::Fresh,
            env: BTreeMap::new(),
        }
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

impl FunctionManifest {
    /// Checks what types alone cannot: limits within bounds, lists not too long, `locate` naming an input.
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
        within(
            "gpu_time (ms)",
            limits.gpu_time.0.as_millis() as u64,
            limits::MAX_CALL_TIMEOUT.as_millis() as u64,
        )?;
        within("gpu_memory", limits.gpu_memory.0, limits::MAX_GPU_MEMORY_BYTES)?;
        within(
            "calls",
            limits.calls.into(),
            limits::MAX_CALLS_PER_FUNCTION.into(),
        )?;
        if let Some(locate) = &self.locate
            && locate.sought().is_none()
        {
            return Err("locate needs either a `path` or a `key`".to_owned());
        }
        if let Some(locate) = &self.locate
            && !self.inputs.contains_key(&locate.input)
        {
            return Err(format!(
                "locate.input = \"{}\" is not among inputs ({})",
                locate.input,
                self.inputs.keys().cloned().collect::<Vec<_>>().join(", ")
            ));
        }
        if let Some(Sought::Path(template) | Sought::Key(template)) =
            self.locate.as_ref().and_then(Locate::sought)
            && let Some(name) = template.parameters().find(|name| !self.has_parameter(name))
        {
            return Err(format!(
                "locate names `{{{name}}}`, which is no parameter of the route: write `{{{name}}}` into `route`, or use \
                 {{rest}} or {{query.{name}}}"
            ));
        }
        if let Some(cors) = &self.cors {
            cors.check()?;
        }
        at_most("inputs", self.inputs.len(), limits::INPUTS)?;
        at_most("allow.http", self.allow.http.len(), limits::ALLOWED_HOSTS)?;
        at_most("env", self.env.len(), limits::ENV_VARIABLES)?;
        let env_bytes: usize = self
            .env
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        if env_bytes > limits::ENV_BYTES {
            return Err(format!(
                "env has {env_bytes} bytes of names and values; at most {} are taken: put larger settings as a dataset",
                limits::ENV_BYTES
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

impl FunctionManifest {
    fn has_parameter(&self, name: &str) -> bool {
        let route = self.route.as_ref();
        route.is_some_and(|route| route.parameters().any(|known| known.eq_ignore_ascii_case(name)))
    }
}

fn at_most(key: &str, entries: usize, max: usize) -> Result<(), String> {
    if entries > max {
        return Err(format!("{key} has {entries} entries; at most {max} are taken"));
    }
    Ok(())
}
