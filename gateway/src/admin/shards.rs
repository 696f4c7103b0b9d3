//! One shard of a job over the admin API: run again, or fetched for a native run.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nearfield_cluster::host::Replayed;
use nearfield_jobs::{JobShard, Parcel, find_result};
use nearfield_protocol::job::PureReport;
use nearfield_protocol::{Problem, ProblemKind};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::request::AdminRequest;
use super::{jobs, streamed};
use crate::body::Body;
use crate::reply;
use crate::state::Gateway;

/// Bytes of the datasets that a job may open that are sent unless more is asked for.
const MAX_INPUT_BYTES: u64 = 1 << 30;

/// Maps a shard again. With `?output=true` the JSON is one line, and the output follows it.
pub async fn replay(
    gateway: &Gateway,
    id: &str,
    index: &str,
    asked: &AdminRequest,
) -> Result<Response<Body>, Problem> {
    let with_output = asked.flag("output")?;
    let shard = find(gateway, id, index).await?;
    let replayed = shard.replay(&gateway.cluster).await?;
    let value = describe(&shard, &replayed);
    if !with_output {
        return Ok(reply::json(StatusCode::OK, &value));
    }
    let line = Bytes::from(format!("{value}\n"));
    let output = replayed.outcome.map(|(_, output)| output).ok();
    let frames = [line]
        .into_iter()
        .chain(output)
        .map(|bytes| Ok(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
    let any = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, any);
    Ok(response)
}

fn describe(shard: &JobShard, replayed: &Replayed) -> Value {
    let result = |report: &PureReport| json!({ "output": report.output, "output_bytes": report.output_bytes, "fuel": report.fuel });
    let mut value = json!({
        "job": shard.record.id,
        "function": shard.record.function,
        "shard": shard.leaf.index,
        "digest": shard.leaf.shard,
        "size_bytes": shard.leaf.size_bytes,
        "source": shard.source(),
        "remembered": replayed.remembered.as_ref().map(result),
        "log": replayed.log,
    });
    match &replayed.outcome {
        Ok((report, _)) => {
            let same = |known: &PureReport| known.output == report.output && known.fuel == report.fuel;
            value["ok"] = json!(true);
            value["output"] = json!(report.output);
            value["output_bytes"] = json!(report.output_bytes);
            value["fuel"] = json!(report.fuel);
            value["run_us"] = json!(report.run_us);
            value["data_bytes"] = json!(report.data_bytes);
            value["written_files"] = json!(report.written_files);
            value["written_bytes"] = json!(report.written_bytes);
            value["same"] = json!(replayed.remembered.as_ref().map(same));
        }
        Err(failure) => {
            value["ok"] = json!(false);
            value["problem"] = json!(failure.problem);
            value["fuel"] = json!(failure.fuel);
        }
    }
    value
}

/// All that a native run of a shard needs, as a tar.
pub async fn parcel(
    gateway: &Arc<Gateway>,
    id: &str,
    index: &str,
    asked: &AdminRequest,
) -> Result<Response<Body>, Problem> {
    let max_input_bytes = asked.parsed("max-input-bytes")?.unwrap_or(MAX_INPUT_BYTES);
    let shard = find(gateway, id, index).await?;
    let what = format!("shard {index} of job {id}");
    let remembered = find_result(&gateway.cluster, shard.leaf.key)
        .await?
        .map(|(_, report)| report);
    let store = gateway.cluster.catalog.store.clone();
    let parcel = Parcel::new(&store, shard, remembered, max_input_bytes).await?;
    let runtime = Handle::current();
    streamed::tar(what, move |out| parcel.write(&store, &runtime, out)).await
}

async fn find(gateway: &Gateway, id: &str, index: &str) -> Result<JobShard, Problem> {
    let record = gateway.jobs.get(&jobs::parse_id(id)?)?;
    let index = index.parse().map_err(|_| {
        Problem::new(
            ProblemKind::BadRequest,
            format!("`{index}` is no number of a shard, counted from 0"),
        )
    })?;
    JobShard::find(&gateway.cluster, record, index).await
}
