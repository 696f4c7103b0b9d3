//! Datasets over the admin API.

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use http::header::{ACCEPT_RANGES, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response, StatusCode};
use nearfield_cluster::{REPLICAS, store_problem};
use nearfield_protocol::node::Label;
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, InvalidName, Problem, ProblemKind, unix_ms};
use nearfield_store::{Dataset, Shard, Store, pack};
use serde_json::json;
use tokio::runtime::Handle;

use super::request::AdminRequest;
use super::streamed;
use crate::body::Body;
use crate::content::{self, Content, NamedBy};
use crate::preconditions::{self, Answer, EntityTag, Modified, Validators};
use crate::reply;
use crate::state::Gateway;

/// Shards and sources that a description lists.
const MAX_LISTED: usize = 1_000;
const MAX_LISTED_SOURCES: usize = 100;

pub fn list(gateway: &Gateway) -> Response<Body> {
    let records = gateway.cluster.catalog.node.records();
    let datasets: Vec<_> = records
        .datasets()
        .map(|newest| {
            json!({
                "name": newest.name,
                "version": newest.version,
                "digest": newest.digest,
                "size_bytes": newest.size_bytes,
                "shards": newest.shards,
                "put_unix_ms": newest.put_unix_ms,
                "versions": records.dataset_versions(&newest.name).len(),
            })
        })
        .collect();
    reply::json(StatusCode::OK, &json!({ "datasets": datasets }))
}

/// `?shards=true` lists the first shards, too.
pub async fn describe(gateway: &Gateway, name: &str, with_shards: bool) -> Result<Response<Body>, Problem> {
    let records = gateway.cluster.catalog.node.records();
    let name: DatasetName = parse_name(name)?;
    let newest = gateway.cluster.newest(&name)?;
    let dataset = gateway
        .cluster
        .catalog
        .store
        .dataset(&newest.digest)
        .await
        .map_err(store_problem)?;
    let meta = &dataset.meta;
    let headers: Vec<_> = meta
        .headers
        .iter()
        .map(|header| String::from_utf8_lossy(header))
        .collect();
    let shards: Vec<_> = (0..)
        .map_while(|index| Some((index, dataset.shard(index)?)))
        .take(MAX_LISTED)
        .map(|(index, (shard, digest))| {
            let source = shard.source.and_then(|source| meta.sources.get(source as usize));
            let range = meta.key.as_ref().and_then(|key| key.ranges.get(index as usize));
            let keys = range.map(|range| [&range.min, &range.max].map(|key| String::from_utf8_lossy(key)));
            let holders: Vec<_> = gateway
                .cluster
                .hosts
                .table()
                .holders_of(&digest)
                .map(|host| host.id.short())
                .collect();
            json!({
                "digest": digest,
                "size_bytes": shard.size_bytes,
                "source": source,
                "keys": keys,
                "holders": holders,
            })
        })
        .collect();
    let least = {
        let fewest = |some: &[Digest]| {
            let table = gateway.cluster.hosts.table();
            let shards = some.iter().filter(|digest| **digest != Digest::EMPTY);
            shards.map(|digest| table.holders_of(digest).count()).min()
        };
        // Others use the table between the pieces.
        dataset.shards.chunks(MAX_LISTED).filter_map(fewest).min()
    };
    let mut described = json!({
        "name": name,
        "versions": records.dataset_versions(&name).iter().rev().take(MAX_LISTED).rev().collect::<Vec<_>>(),
        "meta": {
            "split": meta.split.to_string(),
            "folder": meta.folder,
            "shard_size_bytes": meta.shard_size_bytes,
            "headers": headers,
            "sources": meta.sources.iter().take(MAX_LISTED_SOURCES).collect::<Vec<_>>(),
            "key": meta.key.as_ref().map(|key| &key.name),
            "parts": meta.parts.iter().take(MAX_LISTED).collect::<Vec<_>>(),
        },
        "replicas": {
            "wanted": newest.replicas.unwrap_or(REPLICAS),
            "least": least.unwrap_or(0),
        },
        "only": newest.only.iter().map(Label::to_string).collect::<Vec<_>>(),
    });
    if with_shards {
        described["shards"] = shards.into();
    }
    Ok(reply::json(StatusCode::OK, &described))
}

/// `?to=N`: makes an older version, or the one before, the newest once more.
pub async fn rollback(
    gateway: &Gateway,
    name: &str,
    asked: &AdminRequest,
) -> Result<Response<Body>, Problem> {
    let name: DatasetName = parse_name(name)?;
    let version = gateway
        .cluster
        .catalog
        .roll_dataset_back(&name, asked.parsed("to")?)
        .await?;
    Ok(reply::json(StatusCode::OK, &json!(version)))
}

pub async fn remove(gateway: &Gateway, name: &str, purge: bool) -> Result<Response<Body>, Problem> {
    let name: DatasetName = parse_name(name)?;
    let removed = gateway.cluster.catalog.remove_dataset(&name, purge).await?;
    Ok(reply::json(
        StatusCode::OK,
        &json!({
            "removed": name,
            "released_bytes": removed.released_bytes,
            "forgotten_results": removed.forgotten_results,
            "remaining": removed.remaining,
        }),
    ))
}

/// `?keep=N`: all versions but the newest N go.
pub async fn prune(gateway: &Gateway, name: &str, asked: &AdminRequest) -> Result<Response<Body>, Problem> {
    let name: DatasetName = parse_name(name)?;
    let keep = asked.parsed::<NonZeroUsize>("keep")?.ok_or_else(|| {
        Problem::new(
            ProblemKind::BadRequest,
            "parameter `keep` is missing: how many of the newest versions stay",
        )
    })?;
    let (pruned, released_bytes) = gateway.cluster.catalog.prune_dataset(&name, keep).await?;
    Ok(reply::json(
        StatusCode::OK,
        &json!({ "name": name, "pruned": pruned, "released_bytes": released_bytes }),
    ))
}

/// `?of=NAME|b3:…&path=P`: a file, a blob, a stream, or a folder as a tar.
pub async fn content(gateway: &Gateway, asked: &AdminRequest) -> Result<Response<Body>, Problem> {
    let of = asked.parameter("of").ok_or_else(|| {
        Problem::new(
            ProblemKind::BadRequest,
            "parameter `of` is missing: a dataset or b3:…",
        )
    })?;
    let store = &gateway.cluster.catalog.store;
    let (digest, named) = if of.starts_with("b3:") {
        (gateway.cluster.digest(of)?, NamedBy::ByDigest)
    } else {
        let name = parse_name(of)?;
        let newest = gateway.cluster.newest(&name)?;
        let records = gateway.cluster.catalog.node.records();
        let put = put_at(records.dataset_versions(&name), unix_ms(SystemTime::now()));
        (newest.digest, NamedBy::ByName { put })
    };
    let (method, headers) = (asked.request.method(), asked.request.headers());
    let dataset = gateway.cluster.dataset_or_blob(&digest).await?;
    let named_file = dataset.as_ref().zip(asked.parameter("path"));
    let executable = named_file.is_some_and(|(dataset, path)| dataset.is_executable(path));
    let whole = match (dataset, asked.parameter("path")) {
        (Some(dataset), Some(path)) => Content::file(&dataset, path)?,
        (Some(dataset), None) if dataset.meta.folder => {
            return folder_tar(store, dataset, named, method, headers).await;
        }
        (Some(dataset), None) => Content::whole(&dataset),
        (None, None) => Content::blob(store, digest).await?,
        (None, Some(_)) => return Err(content::no_folder(&digest)),
    };
    let mut response = content::respond(store, &whole, named, method, headers).await;
    if executable {
        let headers = response.headers_mut();
        headers.insert(
            HeaderName::from_static("nearfield-executable"),
            HeaderValue::from_static("true"),
        );
    }
    Ok(response)
}

/// When the newest of `versions` was put. The date alone tells two contents apart only once its second is over and if
/// no other version was put within it.
fn put_at(versions: &[DatasetVersion], now_unix_ms: u64) -> Option<Modified> {
    let seconds = |version: &DatasetVersion| version.put_unix_ms / 1000;
    let (newest, older) = versions.split_last()?;
    let unix_s = seconds(newest);
    let alone = older.iter().rev().take(1).all(|older| seconds(older) < unix_s);
    Some(Modified {
        unix_s,
        strong: alone && unix_s < now_unix_ms / 1000,
    })
}

pub fn pins(gateway: &Gateway) -> Result<Response<Body>, Problem> {
    let pins = gateway.cluster.catalog.store.pins().map_err(store_problem)?;
    let records = gateway.cluster.catalog.node.records();
    // What a digest is to people: a version of a dataset, or of a function.
    let versions = |digest: &Digest| -> Vec<String> {
        let datasets = records
            .all_dataset_versions()
            .filter(|version| version.digest == *digest)
            .map(|version| format!("dataset/{} v{}", version.name, version.version));
        let functions = records
            .all_function_versions()
            .filter(|version| version.component == *digest)
            .map(|version| format!("function/{} v{}", version.name, version.version));
        datasets.chain(functions).collect()
    };
    let names: Vec<_> = pins.iter().map(versions).collect();
    Ok(reply::json(
        StatusCode::OK,
        &json!({ "pins": pins, "names": names }),
    ))
}

pub async fn pin(gateway: &Gateway, digest: &str, pinned: bool) -> Result<Response<Body>, Problem> {
    let digest = gateway.cluster.digest(digest)?;
    if pinned {
        gateway.cluster.dataset(&digest).await?;
    }
    gateway.cluster.catalog.pin(digest, pinned).await?;
    Ok(reply::json(
        StatusCode::OK,
        &json!({ "digest": digest, "pinned": pinned }),
    ))
}

/// A name from a URL.
pub(super) fn parse_name<N: FromStr<Err = InvalidName>>(name: &str) -> Result<N, Problem> {
    name.parse()
        .map_err(|error: InvalidName| Problem::new(ProblemKind::BadRequest, error.to_string()))
}

/// A folder as one tar stream. Another build may write another tar of the same files, so its ETag is weak, and it has no
/// ranges.
async fn folder_tar(
    store: &Store,
    dataset: Arc<Dataset>,
    named: NamedBy,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response<Body>, Problem> {
    let digest = dataset.digest;
    let validators = Validators {
        tag: EntityTag::weak(format!("{}.tar", digest.to_hex())),
        modified: named.modified().map(|put| Modified { strong: false, ..put }),
    };
    let answer = preconditions::evaluate(method, headers, &validators, None);
    let mut head = content::headed(&answer, &validators, named, 0);
    if let Ok(value) = HeaderValue::from_str(&digest.to_string()) {
        let headers = head.headers_mut();
        headers.insert(HeaderName::from_static("nearfield-digest"), value);
    }
    if answer != Answer::Whole {
        return Ok(head);
    }
    let headers = head.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(streamed::TAR));
    if method == Method::HEAD {
        return Ok(head);
    }
    let (store, runtime) = (store.clone(), Handle::current());
    let tar = streamed::tar(digest.to_string(), move |out| {
        write_tar(&store, &runtime, &dataset, out)
    })
    .await?;
    Ok(head.map(|_| tar.into_body()))
}

fn write_tar(store: &Store, runtime: &Handle, dataset: &Dataset, out: &mut dyn Write) -> io::Result<()> {
    let Some(index) = &dataset.paths else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the folder has no path index",
        ));
    };
    let mut open: Option<(u32, Shard)> = None;
    let mut read = |index: u32, offset: u64, most: u64| {
        let shard = match &open {
            Some((number, shard)) if *number == index => shard,
            _ => {
                let digest: Digest = dataset.shard(index).ok_or(io::ErrorKind::NotFound)?.1;
                let shard = runtime.block_on(store.shard(&digest)).map_err(io::Error::other)?;
                &open.insert((index, shard)).1
            }
        };
        let size = shard.size_bytes();
        let start = offset.min(size);
        shard
            .read(start..size.min(start + most))
            .map_err(io::Error::other)
    };
    pack::write_folder_tar(index, &mut read, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_strong_once_nothing_else_can_have_it() {
        let version = |version, put_unix_ms| DatasetVersion {
            name: "data".parse().unwrap(),
            version,
            digest: Digest::of(b"data"),
            size_bytes: 0,
            shards: 0,
            put_unix_ms,
            replicas: None,
            only: Vec::new(),
        };
        let put = |times: &[u64], now| {
            let versions: Vec<_> = (1..)
                .zip(times)
                .map(|(number, at)| version(number, *at))
                .collect();
            put_at(&versions, now).map(|put| (put.unix_s, put.strong))
        };
        assert_eq!(put(&[], 5_000), None);
        assert_eq!(put(&[3_200], 3_900), Some((3, false)), "another put may come");
        assert_eq!(put(&[3_200], 4_000), Some((3, true)));
        assert_eq!(put(&[3_200, 3_900], 9_000), Some((3, false)), "two had it");
        assert_eq!(put(&[3_200, 4_000], 9_000), Some((4, true)));
    }
}
