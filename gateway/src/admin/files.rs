//! The files of a dataset that came from a folder, page by page.

use http::{Response, StatusCode};
use nearfield_cluster::store_problem;
use nearfield_protocol::Problem;
use nearfield_store::path_index::{Entry, EntryKind};
use serde_json::{Value, json};

use super::datasets::parse_name;
use super::request::AdminRequest;
use crate::body::Body;
use crate::reply;
use crate::state::Gateway;

/// Files of one page at most, and unless fewer are asked for.
pub(super) const PAGE: usize = 1_000;

/// `?after=KEY&limit=N`: the files behind a page, in order of their keys, and the key of the last of them if there are more.
pub async fn list(gateway: &Gateway, name: &str, asked: &AdminRequest) -> Result<Response<Body>, Problem> {
    let name = parse_name(name)?;
    let newest = gateway.cluster.newest(&name)?;
    let dataset = gateway
        .cluster
        .catalog
        .store
        .dataset(&newest.digest)
        .await
        .map_err(store_problem)?;
    let after = asked.parameter("after").unwrap_or_default();
    let limit = asked.parsed::<usize>("limit")?.unwrap_or(PAGE).clamp(1, PAGE);
    let mut page: Vec<Entry> = dataset.entries_behind(after).take(limit + 1).collect();
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(Entry::key);
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
