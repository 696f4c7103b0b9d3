//! `--into`: a dataset of the files that a job's runs wrote.

use std::sync::Arc;

use bytes::Bytes;
use nearfield_protocol::node::Label;
use nearfield_protocol::{DatasetName, Problem, ProblemKind, Split};
use nearfield_store::{Placement, PutRequest, written};

use super::record::Written;
use crate::catalog::{Catalog, Keeping, PutInput};

/// Puts the files of all `blobs` as one dataset, in path order. A blob is what one run wrote.
/// What came of restricted data is restricted alike.
pub async fn put(
    catalog: &Catalog,
    name: &DatasetName,
    blobs: Vec<Bytes>,
    only: Vec<Label>,
) -> Result<Written, Problem> {
    let counted = blobs.clone();
    let files = tokio::task::spawn_blocking(move || written::count(counted))
        .await
        .map_err(|error| Problem::new(ProblemKind::Internal, format!("counting files: {error}")))?
        .map_err(|path| {
            Problem::new(
                ProblemKind::Conflict,
                format!("two shards wrote `{path}`: each file of a job's output is written once"),
            )
        })?;
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
    let tar = written::Tar::new(blobs);
    let (version, report) = catalog
        .put(
            name.clone(),
            None,
            PutInput::Stream(Box::new(tar)),
            request,
            Keeping { replicas: None, only },
            Arc::default(),
        )
        .await?;
    Ok(Written {
        name: version.name,
        version: version.version,
        digest: version.digest,
        files,
        bytes: report.size_bytes,
    })
}
