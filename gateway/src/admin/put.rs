//! Puts over the admin API.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use nearfield_cluster::peer::forward::{Forwarded, accepted, forward};
use nearfield_cluster::{Keeping, PutInput, REPLICAS_RANGE, Target};
use nearfield_protocol::node::{Label, Role};
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, NodeId, PartName, Problem, ProblemKind, Split};
use nearfield_store::{Placement, PutProgress, PutReport, PutRequest};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use super::datasets::parse_name;
use super::events::{self, PROGRESS_STEP, event};
use super::request::AdminRequest;
use crate::body::{Body, BodyFault, BoundedBody};
use crate::reply;
use crate::state::Gateway;

/// Bounds of `shard-size`: what the cutter can aim at.
const SHARD_BYTES_RANGE: std::ops::RangeInclusive<u32> = (64 << 10)..=(4 << 20);

/// `via` is the gateway that has this node take the put.
pub async fn put(
    gateway: &Arc<Gateway>,
    name: &str,
    asked: AdminRequest,
    via: Option<NodeId>,
) -> Result<Response<Body>, Problem> {
    let name: DatasetName = parse_name(name)?;
    let split = match asked.parameter("split") {
        None | Some("auto") => None,
        Some(_) => asked.parsed::<Split>("split")?,
    };
    let shard_size_bytes = asked.parsed::<u32>("shard-size")?;
    if let Some(shard_size_bytes) = shard_size_bytes
        && !SHARD_BYTES_RANGE.contains(&shard_size_bytes)
    {
        return Err(Problem::new(
            ProblemKind::BadRequest,
            format!("shard-size = {shard_size_bytes} bytes is not between 64 KiB and 4 MiB"),
        ));
    }
    let request = PutRequest {
        source: asked.parameter("source").unwrap_or(name.as_str()).to_owned(),
        split,
        shard_size_bytes,
        header: None,
        folder: asked.flag("folder")?,
        placement: match (asked.flag("append")?, asked.parsed::<PartName>("part")?) {
            (true, part) => Placement::Append(part),
            (false, Some(part)) => Placement::Part(part),
            (false, None) => Placement::Whole,
        },
        key: asked.parameter("key").map(str::to_owned),
        exclude: asked.all("exclude").map(str::to_owned).collect(),
    };
    let refused = |text: &str| Err(Problem::new(ProblemKind::BadRequest, text));
    if !request.exclude.is_empty() && asked.parameter("in-place").is_none() {
        return refused("`exclude` goes with `in-place`: leave out of the body what is not to be put");
    }
    if request.key.is_some() {
        if request.placement != Placement::Whole {
            return refused("what is sorted by a key is put whole: leave out `append` and `part`");
        }
        if request.folder {
            return refused("a folder is not sorted by a key: put one file, or the output of `cat`");
        }
        if asked.parameter("in-place").is_some() {
            return refused("sorting by a key makes a copy: leave out `in-place`");
        }
    }
    let if_version = asked.parsed::<u64>("if-version")?;
    let keeping = keeping(&asked)?;
    let only = gateway
        .cluster
        .catalog
        .rule_of(&name, &request.placement, &keeping);
    let is_gateway = gateway.cluster.catalog.node.role() == Role::Gateway;
    if !gateway.cluster.catalog.may_keep(&only) && is_gateway && via.is_none() {
        return put_elsewhere(gateway, &name, &only, asked).await;
    }
    let target = Target {
        name,
        if_version,
        via,
    };
    let fault = BodyFault::default();
    if let Some(place) = asked.parameter("in-place") {
        let input = PutInput::InPlace(place.to_owned());
        let (gateway, progress) = (gateway.clone(), Arc::new(PutProgress::default()));
        let shown = progress.clone();
        let put = async move {
            gateway
                .cluster
                .catalog
                .put(target, input, request, keeping, progress)
                .await
        };
        return match asked.takes(events::CONTENT) {
            true => followed(tokio::spawn(put), shown).await,
            false => stored(put.await?),
        };
    }
    // Data has no size limit of its own: the store's quota and the disk bound it.
    let body = BoundedBody::new(asked.request.into_body(), u64::MAX, fault.clone());
    let input = BodyReader {
        body: Some(body),
        runtime: Handle::current(),
        chunk: Bytes::new(),
    };
    let input = PutInput::Stream(Box::new(input));
    let progress = Arc::default();
    let put = gateway
        .cluster
        .catalog
        .put(target, input, request, keeping, progress);
    stored(put.await.map_err(|problem| fault.problem().unwrap_or(problem))?)
}

/// A put whose bytes may not rest here streams through to a node that may keep them.
async fn put_elsewhere(
    gateway: &Gateway,
    name: &DatasetName,
    only: &[Label],
    asked: AdminRequest,
) -> Result<Response<Body>, Problem> {
    if let Some(place) = asked.parameter("in-place")
        && !place.contains("://")
    {
        let refused = gateway.cluster.catalog.may_not_keep(name, only);
        return Err(Problem::new(
            refused.kind,
            format!(
                "{}; what stays in place stays on this machine: leave out `in-place`, or put it at a node that may keep it",
                refused.detail
            ),
        ));
    }
    let put = Forwarded {
        name,
        only,
        parameters: asked.query.clone(),
        accept: accepted(asked.request.headers()),
    };
    let fault = BodyFault::default();
    let body = BoundedBody::new(asked.request.into_body(), u64::MAX, fault.clone());
    let answered = forward(&gateway.cluster, put, body.boxed_unsync()).await;
    answered.map_err(|problem| fault.problem().unwrap_or(problem))
}

/// `replicas` and any number of `only`.
fn keeping(asked: &AdminRequest) -> Result<Keeping, Problem> {
    let bad = |error: &dyn std::fmt::Display| Problem::new(ProblemKind::BadRequest, error.to_string());
    let replicas = asked.parsed::<u32>("replicas")?;
    if replicas.is_some_and(|replicas| !REPLICAS_RANGE.contains(&replicas)) {
        return Err(bad(&format!(
            "`replicas` is between {} and {}",
            REPLICAS_RANGE.start(),
            REPLICAS_RANGE.end()
        )));
    }
    let only: Result<Vec<Label>, _> = asked.all("only").map(str::parse).collect();
    Ok(Keeping {
        replicas,
        only: only.map_err(|error| bad(&error))?,
    })
}

type Put = (DatasetVersion, PutReport);

fn stored(put: Put) -> Result<Response<Body>, Problem> {
    Ok(reply::json(StatusCode::CREATED, &told(&put)))
}

fn told((version, report): &Put) -> Value {
    json!({
        "name": version.name,
        "version": version.version,
        "digest": version.digest,
        "split": report.split.to_string(),
        "bytes": report.size_bytes,
        "put_bytes": report.put_bytes,
        "shards": report.shards,
        "new_shards": report.new_shards,
        "new_bytes": report.new_bytes,
        "notices": report.notices,
    })
}

/// Server-sent events of a put that goes on whether they are read or not: `progress` as it goes, then `end` with what is
/// answered otherwise, or `error` with a problem. What is over at once, as most refusals are, is answered as otherwise.
async fn followed(
    mut put: JoinHandle<Result<Put, Problem>>,
    progress: Arc<PutProgress>,
) -> Result<Response<Body>, Problem> {
    let of = |ended: Result<_, JoinError>| {
        ended.unwrap_or_else(|error| {
            Err(Problem::new(
                ProblemKind::Internal,
                format!("the task of the put ended early: {error}"),
            ))
        })
    };
    if let Ok(ended) = tokio::time::timeout(PROGRESS_STEP, &mut put).await {
        return stored(of(ended)?);
    }
    Ok(events::response(stream::unfold(Some(put), move |put| {
        let progress = progress.clone();
        async move {
            let mut put = put?;
            Some(match tokio::time::timeout(PROGRESS_STEP, &mut put).await {
                Err(_) => (event("progress", &far(&progress)), Some(put)),
                Ok(ended) => match of(ended) {
                    Ok(put) => (event("end", &told(&put)), None),
                    Err(problem) => (event("error", &json!(problem)), None),
                },
            })
        }
    })))
}

fn far(progress: &PutProgress) -> Value {
    json!({
        "bytes": progress.total_bytes.load(Ordering::Relaxed),
        "bytes_done": progress.bytes.load(Ordering::Relaxed),
        "shards": progress.shards.load(Ordering::Relaxed),
    })
}

/// A body as a reader, for a thread that may block.
struct BodyReader {
    /// Until it is dropped.
    body: Option<BoundedBody>,
    runtime: Handle,
    chunk: Bytes,
}

impl Drop for BodyReader {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            body.discard(&self.runtime);
        }
    }
}

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let Some(body) = &mut self.body else {
                return Ok(0);
            };
            match self.runtime.block_on(body.frame()) {
                None => return Ok(0),
                Some(Err(problem)) => return Err(io::Error::other(problem)),
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
            }
        }
        let taken = self.chunk.len().min(buffer.len());
        self.chunk.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}
