//! The files of a dataset that came from a folder, page by page.

use http::{Response, StatusCode};
use nearfield_protocol::{DatasetName, Problem, ProblemKind};
use nearfield_store::path_index::{Entry, EntryKind};
use serde_json::{Value, json};

use super::Asked;
use crate::body::Body;
use crate::catalog::unknown_dataset;
use crate::reply::{self, store_problem};
use crate::server::Gateway;

/// Files of one page at most, and unless fewer are asked for.
const PAGE: usize = 1_000;

/// `?after=PATH&limit=N`: the files behind a path, in byte order of their paths, and the last of them if there are more.
pub async fn list(gateway: &Gateway, name: &str, asked: &Asked) -> Result<Response<Body>, Problem> {
    let refused =
        |error: nearfield_protocol::InvalidName| Problem::new(ProblemKind::BadRequest, error.to_string());
    let name: DatasetName = name.parse().map_err(refused)?;
    let records = gateway.catalog.node.records();
    let newest = records
        .dataset(&name)
        .ok_or_else(|| unknown_dataset(name.as_str()))?;
    let dataset = gateway
        .catalog
        .store
        .dataset(&newest.digest)
        .await
        .map_err(store_problem)?;
    let after = asked.parameter("after").unwrap_or_default();
    let limit = asked.parsed::<usize>("limit")?.unwrap_or(PAGE).clamp(1, PAGE);
    let behind = dataset
        .entries()
        .skip_while(|entry| !after.is_empty() && entry.path.as_str() <= after);
    let mut page: Vec<Entry> = behind.take(limit + 1).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(|entry| entry.path.clone());
    let files: Vec<Value> = page.iter().map(to_json).collect();
    let answer = json!({ "name": name, "version": newest.version, "files": files, "next": next });
    Ok(reply::json(StatusCode::OK, &answer))
}

fn to_json(entry: &Entry) -> Value {
    match &entry.kind {
        EntryKind::File { len, executable, .. } => {
            json!({ "path": entry.path, "kind": "file", "bytes": len, "executable": executable })
        }
        EntryKind::Symlink { target } => json!({ "path": entry.path, "kind": "symlink", "target": target }),
        EntryKind::EmptyDir => json!({ "path": entry.path, "kind": "folder" }),
    }
}
