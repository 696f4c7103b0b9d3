//! `--into`: a dataset of the files that a job's runs wrote.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nearfield_cluster::body::Body;
use nearfield_cluster::peer::forward::{Forwarded, answered, forward};
use nearfield_cluster::{Cluster, Keeping, PutInput, Target};
use nearfield_protocol::node::Label;
use nearfield_protocol::{DatasetName, Digest, Problem, ProblemKind, Split};
use nearfield_store::{Placement, PutRequest, written};
use serde::Deserialize;

use crate::record::WrittenDataset;

/// Bytes of files that are sent at once.
const PIECE_BYTES: usize = 256 << 10;
/// Longest answer of a node that takes them: its numbers and notices.
const ANSWER_BYTES: usize = 1 << 20;

/// Puts the files of all `blobs` as one dataset, in path order. A blob is what one run wrote.
/// What came of restricted data is restricted alike.
pub async fn put(
    cluster: &Cluster,
    name: &DatasetName,
    blobs: Vec<Bytes>,
    only: Vec<Label>,
) -> Result<WrittenDataset, Problem> {
    let counted = blobs.clone();
    let files = tokio::task::spawn_blocking(move || written::count(counted))
        .await
        .map_err(|error| {
            Problem::new(
                ProblemKind::Internal,
                format!("the files of a job could not be counted: {error}"),
            )
        })?
        .map_err(|path| {
            Problem::new(
                ProblemKind::Conflict,
                format!("two shards wrote `{path}`: each file of a job's output is written once"),
            )
        })?;
    let tar = written::Tar::new(blobs);
    if !cluster.catalog.may_keep(&only) {
        return put_elsewhere(cluster, name, tar, files, &only).await;
    }
    let request = PutRequest {
        source: name.to_string(),
        split: Some(Split::Files),
        shard_size_bytes: None,
        header: None,
        folder: true,
        key: None,
        exclude: Vec::new(),
        placement: Placement::Whole,
    };
    let target = Target {
        name: name.clone(),
        if_version: None,
        via: None,
    };
    let (version, report) = cluster
        .catalog
        .put(
            target,
            PutInput::Stream(Box::new(tar)),
            request,
            Keeping { replicas: None, only },
            Arc::default(),
        )
        .await?;
    Ok(WrittenDataset {
        name: version.name,
        version: version.version,
        digest: version.digest,
        files,
        bytes: report.size_bytes,
    })
}

/// What a node answers that took the files.
#[derive(Deserialize)]
struct Taken {
    version: u64,
    digest: Digest,
    bytes: u64,
}

/// The files stream to a node that may keep them.
async fn put_elsewhere(
    cluster: &Cluster,
    name: &DatasetName,
    tar: written::Tar,
    files: u64,
    only: &[Label],
) -> Result<WrittenDataset, Problem> {
    let parameters = [("source", name.as_str()), ("split", "files"), ("folder", "true")];
    let put = Forwarded {
        name,
        only,
        parameters: parameters
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        accept: None,
    };
    let answer = forward(cluster, put, read_through(tar)).await?;
    let answer = answered(answer, ANSWER_BYTES).await?;
    let taken: Taken = serde_json::from_slice(&answer).map_err(|error| {
        let text = format!("what the node answered that took `{name}`: {error}");
        Problem::new(ProblemKind::Internal, text)
    })?;
    Ok(WrittenDataset {
        name: name.clone(),
        version: taken.version,
        digest: taken.digest,
        files,
        bytes: taken.bytes,
    })
}

/// What a reader gives, as a body: a piece ahead of who takes it. It reads memory, so it never waits.
fn read_through(reader: impl Read + Send + 'static) -> Body {
    let pieces = stream::try_unfold(reader, |mut reader| async move {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = reader.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
        read.map_err(|error| Problem::new(ProblemKind::Internal, format!("reading files: {error}")))?;
        Ok((!piece.is_empty()).then(|| (Frame::data(Bytes::from(piece)), reader)))
    });
    StreamBody::new(pieces).boxed_unsync()
}
