//! Jobs over the admin API.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use nearfield_protocol::gpu::GpuGrant;
use nearfield_protocol::job::PureLimits;
use nearfield_protocol::manifest::Input;
use nearfield_protocol::{DatasetName, Digest, FunctionName, JobId, Problem, ProblemKind, limits};
use serde::Deserialize;
use serde_json::{Value, json};

use super::events::{self, PROGRESS_STEP, event};
use super::functions::log_lines;
use super::{Asked, streamed};
use crate::body::{self, Body};
use crate::catalog::{unix_ms, unknown_dataset, unknown_function};
use crate::dispatch::LogQuery;
use crate::jobs::{JobRecord, JobState, Jobs, Selection, find_result, runs, unknown};
use crate::logs;
use crate::reply;
use crate::server::Gateway;

/// How long after a job's end its last lines may come: they are written by another task.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Jobs that one list gives at most.
const MAX_LISTED: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asking {
    function: FunctionName,
    /// A dataset's name, or `b3:…`.
    over: String,
    #[serde(default)]
    args: Value,
    into: Option<DatasetName>,
    max_fuel: Option<u64>,
    /// A fraction of the shards, above 0 and up to 1.
    sample: Option<f64>,
    /// One shard.
    only: Option<u32>,
    /// Shards that may fail.
    #[serde(default)]
    skip: u32,
    #[serde(default)]
    dry_run: bool,
    /// A fraction of the runs, above 0 and up to 1, to make once more on another host.
    check: Option<f64>,
}

pub async fn start(gateway: &Arc<Gateway>, asked: Asked) -> Result<Response<Body>, Problem> {
    let record = resolve(gateway, asked.json().await?).await?;
    let held = Jobs::hold(gateway, &record).await;
    let record = aside(gateway, move |gateway| {
        Jobs::start(gateway, record.clone(), held)?;
        Ok(record)
    })
    .await?;
    Ok(reply::json(
        StatusCode::ACCEPTED,
        &describe_record(gateway, &record),
    ))
}

/// Does what reads many files, or waits for the disk, where that holds up nobody.
async fn aside<T: Send + 'static>(
    gateway: &Arc<Gateway>,
    work: impl FnOnce(&Arc<Gateway>) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let gateway = gateway.clone();
    let done = tokio::task::spawn_blocking(move || work(&gateway)).await;
    done.unwrap_or_else(|error| {
        Err(Problem::new(
            ProblemKind::Internal,
            format!("the records of jobs: {error}"),
        ))
    })
}

/// Names become versions here, once: whatever changes later, the job is the same.
async fn resolve(gateway: &Gateway, asking: Asking) -> Result<JobRecord, Problem> {
    let refused = |detail: String| Problem::new(ProblemKind::BadRequest, detail);
    let records = gateway.catalog.node.records();
    let function = records
        .function(&asking.function)
        .ok_or_else(|| unknown_function(asking.function.as_str()))?;
    let (dataset, dataset_digest) = match asking.over.strip_prefix("b3:") {
        Some(_) => (None, gateway.digest(&asking.over)?),
        None => {
            let name: DatasetName = asking
                .over
                .parse()
                .map_err(|error| refused(format!("over: {error}")))?;
            let newest = gateway.newest(&name)?;
            (Some(name), newest.digest)
        }
    };
    // Told now rather than by the job.
    gateway.dataset(&dataset_digest).await?;
    let mut inputs = std::collections::BTreeMap::new();
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
    if let Some(into) = &asking.into {
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
    let selection = match (asking.dry_run, asking.only, asking.sample) {
        (true, None, None) => Selection::DryRun,
        (false, Some(index), None) => Selection::Only(index),
        (false, None, Some(fraction)) if fraction > 0.0 && fraction <= 1.0 => Selection::Sample(fraction),
        (false, None, None) => Selection::All,
        (false, None, Some(fraction)) => {
            return Err(refused(format!("sample = {fraction} is not above 0 and up to 1")));
        }
        _ => return Err(refused("dry_run, only and sample exclude each other".to_owned())),
    };
    if asking.dry_run && asking.into.is_some() {
        return Err(refused("a dry run writes nothing: leave `into` out".to_owned()));
    }
    if let Some(fraction) = asking.check
        && !(fraction > 0.0 && fraction <= 1.0)
    {
        return Err(refused(format!("check = {fraction} is not above 0 and up to 1")));
    }
    let manifest = &function.manifest;
    if asking.check.is_some() && manifest.require.gpu.is_some() {
        return Err(refused(
            "the runs of a function that requires a GPU are not checked against another host's: GPUs differ in the last \
             bits of their numbers; leave `check` out"
                .to_owned(),
        ));
    }
    let id = JobId::new(unix_ms(), rand::random()).to_string();
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
        args: asking.args,
        inputs,
        limits: PureLimits {
            fuel: manifest.limits.fuel,
            memory_bytes: manifest.limits.memory.0,
            timeout: limits::SHARD_TIMEOUT,
        },
        max_fuel: asking.max_fuel.unwrap_or(limits::FUEL_PER_JOB),
        selection,
        skip: asking.skip,
        check: asking.check,
        into: asking.into,
        started_unix_ms: unix_ms(),
        state: JobState::Running,
    })
}

pub async fn list(gateway: &Arc<Gateway>) -> Result<Response<Body>, Problem> {
    let records = aside(gateway, |gateway| gateway.jobs.list()).await?;
    let jobs: Vec<_> = records
        .iter()
        .take(MAX_LISTED)
        .map(|record| describe_record(gateway, record))
        .collect();
    Ok(reply::json(StatusCode::OK, &json!({ "jobs": jobs })))
}

pub fn describe(gateway: &Gateway, id: &str) -> Result<Response<Body>, Problem> {
    let record = gateway.jobs.get(&parse_id(id)?)?;
    Ok(reply::json(StatusCode::OK, &describe_record(gateway, &record)))
}

/// The record, and how far the job is if it runs.
fn describe_record(gateway: &Gateway, record: &JobRecord) -> Value {
    let mut value = json!(record);
    if let Some(running) = record.id().and_then(|id| gateway.jobs.running(&id)) {
        value["progress"] = json!(*running.progress.borrow());
    }
    value
}

pub async fn cancel(gateway: &Arc<Gateway>, id: &str) -> Result<Response<Body>, Problem> {
    let id = parse_id(id)?;
    let record = aside(gateway, move |gateway| gateway.jobs.cancel(&id)).await?;
    Ok(reply::json(
        StatusCode::ACCEPTED,
        &describe_record(gateway, &record),
    ))
}

/// What the job came to, as its function gave it: JSON from the SDK, any bytes from others.
pub async fn output(gateway: &Gateway, id: &str) -> Result<Response<Body>, Problem> {
    let record = gateway.jobs.get(&parse_id(id)?)?;
    let JobState::Done(report) = &record.state else {
        return Err(Problem::new(
            ProblemKind::Conflict,
            format!("job {id} has no output: it is not done"),
        ));
    };
    let output = match report.output_key {
        None => Bytes::from_static(b"null"),
        Some(key) => {
            let output = match find_result(gateway, key).await? {
                Some((host, _)) => {
                    let output = gateway.dispatch.to(host).output(key).await?;
                    if output
                        .as_ref()
                        .is_some_and(|output| Digest::of(output) != report.digest)
                    {
                        return Err(Problem::new(
                            ProblemKind::Corrupt,
                            format!(
                                "host {} has other bytes than job {id} came to: `nearfield run … --check 100%` finds out who is wrong",
                                host.short()
                            ),
                        ));
                    }
                    output
                }
                None => None,
            };
            output.ok_or_else(|| {
                Problem::new(
                    ProblemKind::UnknownBlob,
                    format!("the output of job {id} was forgotten; run the job again"),
                )
            })?
        }
    };
    let mut response = Response::new(body::full(output));
    let any = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, any);
    Ok(response)
}

/// The lines that the runs of a job printed, or those of one shard: whichever job ran them, since a remembered run
/// printed when it was made. Followed until the job ends.
pub async fn logs(gateway: &Gateway, id: &str, asked: &Asked) -> Result<Response<Body>, Problem> {
    let id = parse_id(id)?;
    let running = match asked.flag("follow")? {
        true => gateway.jobs.taken_up(&id).await?,
        false => None,
    };
    let record = gateway.jobs.get(&id)?;
    let function = record.function.clone();
    let query = LogQuery {
        function,
        runs: Some(Arc::new(runs(gateway, record, asked.parsed("shard")?).await?)),
        lines: log_lines(asked)?,
        follow: running.is_some(),
    };
    let received = logs::everywhere(gateway, query).await?;
    let progress = running.map(|running| running.progress.subscribe());
    let ended = async move {
        let Some(mut progress) = progress else {
            // What is there ends by itself.
            return std::future::pending().await;
        };
        while progress.changed().await.is_ok() {}
        tokio::time::sleep(LAST_LINES).await;
    };
    Ok(streamed::lines(received, ended))
}

/// Server-sent events: `progress` as it goes, then one `end` with the whole record.
pub async fn follow(gateway: &Arc<Gateway>, id: &str) -> Result<Response<Body>, Problem> {
    let id = parse_id(id)?;
    let running = gateway.jobs.taken_up(&id).await?;
    let progress = running.map(|running| running.progress.subscribe());
    let gateway = gateway.clone();
    Ok(events::response(stream::unfold(Some(progress), move |state| {
        let gateway = gateway.clone();
        async move {
            Some(match state? {
                Some(mut progress) => match progress.changed().await {
                    Ok(()) => {
                        // What comes within a step is told together; the end is not waited for.
                        let step = tokio::time::Instant::now() + PROGRESS_STEP;
                        while let Ok(Ok(())) = tokio::time::timeout_at(step, progress.changed()).await {}
                        let now = *progress.borrow_and_update();
                        (event("progress", &json!(now)), Some(Some(progress)))
                    }
                    // The job's own end of the channel is gone: it has ended.
                    Err(_) => (end(&gateway, &id), None),
                },
                None => (end(&gateway, &id), None),
            })
        }
    })))
}

fn end(gateway: &Gateway, id: &JobId) -> Bytes {
    match gateway.jobs.get(id) {
        Ok(record) => event("end", &json!(record)),
        Err(problem) => event("error", &json!(problem)),
    }
}

pub(super) fn parse_id(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|_| unknown(id))
}
