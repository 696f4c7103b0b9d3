//! Jobs over the admin API.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use nearfield_cluster::everywhere;
use nearfield_cluster::host::LogQuery;
use nearfield_jobs::{JobRecord, JobRequest, runs, unknown_job};
use nearfield_protocol::{JobId, Problem, ProblemKind};
use serde_json::{Value, json};

use super::events::{self, PROGRESS_STEP, event};
use super::functions::log_lines;
use super::request::AdminRequest;
use super::streamed;
use crate::body::{self, Body};
use crate::reply;
use crate::state::Gateway;

/// How long after a job's end its last lines may come: they are written by another task.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Jobs that one list gives at most.
const MAX_LISTED: usize = 1_000;

pub async fn start(gateway: &Arc<Gateway>, asked: AdminRequest) -> Result<Response<Body>, Problem> {
    let request: JobRequest = asked.json().await?;
    let record = request.resolve(&gateway.cluster).await?;
    let held = gateway.jobs.hold(&record).await;
    let record = aside(gateway, move |gateway| {
        gateway.jobs.start(record.clone(), held)?;
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
    let output = nearfield_jobs::output(&gateway.cluster, &record).await?;
    let mut response = Response::new(body::full(output));
    let any = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, any);
    Ok(response)
}

/// The lines that the runs of a job printed, or those of one shard: whichever job ran them, since a remembered run
/// printed when it was made. Followed until the job ends.
pub async fn logs(gateway: &Gateway, id: &str, asked: &AdminRequest) -> Result<Response<Body>, Problem> {
    let id = parse_id(id)?;
    let running = match asked.flag("follow")? {
        true => gateway.jobs.taken_up(&id).await?,
        false => None,
    };
    let record = gateway.jobs.get(&id)?;
    let function = record.function.clone();
    let query = LogQuery {
        function,
        runs: Some(Arc::new(
            runs(&gateway.cluster, record, asked.parsed("shard")?).await?,
        )),
        lines: log_lines(asked)?,
        follow: running.is_some(),
    };
    let received = everywhere(&gateway.cluster, query).await?;
    let progress = running.map(|running| running.progress.subscribe());
    let ended = async move {
        let Some(mut progress) = progress else {
            // The job does not run: its past lines end the stream.
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
    id.parse().map_err(|_| unknown_job(id))
}
