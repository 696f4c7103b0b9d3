//! What somebody asks for becomes a job: each name one version.

use std::collections::BTreeMap;
use std::time::SystemTime;

use nearfield_cluster::{Cluster, unknown_dataset, unknown_function};
use nearfield_protocol::gpu::GpuGrant;
use nearfield_protocol::job::PureLimits;
use nearfield_protocol::manifest::Input;
use nearfield_protocol::{DatasetName, FunctionName, JobId, Problem, ProblemKind, limits, unix_ms};
use serde::Deserialize;
use serde_json::Value;

use crate::record::{JobRecord, JobState, Selection};

/// A job as somebody asks for it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobRequest {
    pub function: FunctionName,
    /// A dataset's name, or `b3:…`.
    pub over: String,
    #[serde(default)]
    pub args: Value,
    pub into: Option<DatasetName>,
    pub max_fuel: Option<u64>,
    /// A fraction of the shards, above 0 and up to 1.
    pub sample: Option<f64>,
    /// One shard.
    pub only: Option<u32>,
    /// Shards that may fail.
    #[serde(default)]
    pub skip: u32,
    #[serde(default)]
    pub dry_run: bool,
    /// A fraction of the runs, above 0 and up to 1, to make once more on another host.
    pub check: Option<f64>,
}

impl JobRequest {
    /// Names become versions here, once: whatever changes later, the job is the same.
    pub async fn resolve(self, cluster: &Cluster) -> Result<JobRecord, Problem> {
        let refused = |detail: String| Problem::new(ProblemKind::BadRequest, detail);
        check_depth(&self.args)?;
        let records = cluster.catalog.node.records();
        let function = records
            .function(&self.function)
            .ok_or_else(|| unknown_function(self.function.as_str()))?;
        let (dataset, dataset_digest) = match self.over.strip_prefix("b3:") {
            Some(_) => (None, cluster.digest(&self.over)?),
            None => {
                let name: DatasetName = self
                    .over
                    .parse()
                    .map_err(|error| refused(format!("over: {error}")))?;
                let newest = cluster.newest(&name)?;
                (Some(name), newest.digest)
            }
        };
        // Told now rather than by the job.
        cluster.dataset(&dataset_digest).await?;
        let mut inputs = BTreeMap::new();
        for (name, input) in &function.manifest.inputs {
            let digest = match input {
                Input::Pinned(digest) => *digest,
                Input::Newest(dataset) => {
                    let version = records.dataset(dataset);
                    version.ok_or_else(|| unknown_dataset(dataset.as_str()))?.digest
                }
            };
            inputs.insert(name.clone(), digest);
        }
        if let Some(into) = &self.into {
            let newest = records.dataset(into).map(|version| version.digest);
            let read = dataset.as_ref() == Some(into)
                || newest.is_some_and(|newest| {
                    newest == dataset_digest || inputs.values().any(|input| *input == newest)
                });
            if read {
                return Err(refused(format!(
                    "the job reads `{into}`, and what it writes would take its place: name another dataset with `into`"
                )));
            }
        }
        let selection = match (self.dry_run, self.only, self.sample) {
            (true, None, None) => Selection::DryRun,
            (false, Some(index), None) => Selection::Only(index),
            (false, None, Some(fraction)) if fraction > 0.0 && fraction <= 1.0 => Selection::Sample(fraction),
            (false, None, None) => Selection::All,
            (false, None, Some(fraction)) => {
                return Err(refused(format!("sample = {fraction} is not above 0 and up to 1")));
            }
            _ => return Err(refused("dry_run, only and sample exclude each other".to_owned())),
        };
        if self.dry_run && self.into.is_some() {
            return Err(refused("a dry run writes nothing: leave `into` out".to_owned()));
        }
        if let Some(fraction) = self.check
            && !(fraction > 0.0 && fraction <= 1.0)
        {
            return Err(refused(format!("check = {fraction} is not above 0 and up to 1")));
        }
        let manifest = &function.manifest;
        if self.check.is_some() && manifest.require.gpu.is_some() {
            return Err(refused(
                "the runs of a function that requires a GPU are not checked against another host's: GPUs differ in the last \
                 bits of their numbers; leave `check` out"
                    .to_owned(),
            ));
        }
        let now = SystemTime::now();
        let id = JobId::new(unix_ms(now), rand::random()).to_string();
        Ok(JobRecord {
            gpu: manifest.require.gpu.map(|kind| GpuGrant {
                kind,
                time: manifest.limits.gpu_time.0,
                memory_bytes: manifest.limits.gpu_memory.0,
                job: id.clone(),
            }),
            id,
            function: function.name.clone(),
            version: function.version,
            component: function.component,
            dataset,
            dataset_digest,
            args: self.args,
            inputs,
            limits: PureLimits {
                fuel: manifest.limits.fuel,
                memory_bytes: manifest.limits.memory.0,
                timeout: limits::SHARD_TIMEOUT,
            },
            max_fuel: self.max_fuel.unwrap_or(limits::FUEL_PER_JOB),
            selection,
            skip: self.skip,
            check: self.check,
            into: self.into,
            started_unix_ms: unix_ms(now),
            state: JobState::Running,
        })
    }
}

/// Refuses arguments that nest too deep to be shown with their job.
fn check_depth(args: &Value) -> Result<(), Problem> {
    match depth(args) {
        ..=limits::JOB_ARGS_DEPTH => Ok(()),
        depth => Err(Problem::new(
            ProblemKind::BadRequest,
            format!(
                "args: they nest {depth} deep; make them flatter, or give what is inside as a string of JSON"
            ),
        )
        .with_limit(format!("depth of args = {}", limits::JOB_ARGS_DEPTH))),
    }
}

/// The number of arrays and objects that stand in each other. The JSON parser lets 128 through at most.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn args_that_nest_too_deep_are_refused_by_their_limit() {
        let nested = |open: &str, close: &str, depth: usize| -> Value {
            serde_json::from_str(&format!("{}null{}", open.repeat(depth), close.repeat(depth))).unwrap()
        };
        for (open, close) in [("[", "]"), ("[0, ", r#", "[["]"#), (r#"{"a": "#, "}")] {
            for fits in [0, 1, limits::JOB_ARGS_DEPTH] {
                assert_eq!(check_depth(&nested(open, close, fits)), Ok(()), "{fits}");
            }
            for too_deep in [limits::JOB_ARGS_DEPTH + 1, 125] {
                let problem = check_depth(&nested(open, close, too_deep)).unwrap_err();
                assert_eq!(problem.kind, ProblemKind::BadRequest);
                assert!(problem.detail.contains(&too_deep.to_string()), "{problem}");
                assert_eq!(problem.limit.as_deref(), Some("depth of args = 64"));
            }
        }
    }
}
