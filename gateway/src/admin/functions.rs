//! Functions over the admin API.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::StreamExt;
use http::{Response, StatusCode};
use nearfield_cluster::everywhere;
use nearfield_cluster::host::{LogQuery, Surface};
use nearfield_cluster::{store_problem, unknown_function};
use nearfield_protocol::manifest::{FunctionManifest, Input, Route};
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{Digest, FunctionName, NodeId, Problem, ProblemKind, limits, unix_ms};
use serde::Deserialize;
use serde_json::json;

use super::datasets::parse_name;
use super::request::AdminRequest;
use super::streamed;
use crate::body::Body;
use crate::reply;
use crate::route::Served;
use crate::state::Gateway;

/// Hosts that compile one component at once: each takes its bytes from those that have them.
const COMPILED_AT_ONCE: usize = 8;
/// Log lines that one request gives at most from the past.
const MAX_LOG_LINES: usize = 10_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deploy {
    component: Digest,
    #[serde(default)]
    manifest: FunctionManifest,
    /// Check everything, change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Takes a component's bytes in.
pub async fn upload(gateway: &Gateway, asked: AdminRequest) -> Result<Response<Body>, Problem> {
    let bytes = asked.bytes(limits::COMPONENT_BYTES).await?;
    let size_bytes = bytes.len();
    let digest = gateway
        .cluster
        .catalog
        .store
        .add_sealed(bytes)
        .await
        .map_err(store_problem)?;
    Ok(reply::json(
        StatusCode::CREATED,
        &json!({ "digest": digest, "size_bytes": size_bytes }),
    ))
}

pub async fn deploy(
    gateway: &Arc<Gateway>,
    name: &str,
    asked: AdminRequest,
) -> Result<Response<Body>, Problem> {
    let name = parse_name(name)?;
    let Deploy {
        component,
        manifest,
        dry_run,
    } = asked.json().await?;
    let (host, surface) = check(gateway, &name, component, &manifest).await?;
    let previous = gateway.cluster.catalog.node.records().function(&name).cloned();
    let version = if dry_run {
        let number = previous.as_ref().map_or(1, |previous| previous.version + 1);
        new_version(&name, number, component, manifest, None)
    } else {
        let route = manifest.route.clone();
        let free = || check_route(gateway, &name, route.as_ref());
        let write = |number| new_version(&name, number, component, manifest, None);
        let version = gateway
            .cluster
            .catalog
            .deploy(&name, component, free, write)
            .await?;
        compile_elsewhere(gateway, component, host);
        version
    };
    Ok(deployed(gateway, &version, previous.as_ref(), &surface).await)
}

pub async fn rollback(
    gateway: &Arc<Gateway>,
    name: &str,
    asked: &AdminRequest,
) -> Result<Response<Body>, Problem> {
    let name = parse_name(name)?;
    let records = gateway.cluster.catalog.node.records();
    let versions = records.function_versions(&name);
    let newest = versions.last().ok_or_else(|| unknown_function(name.as_str()))?;
    let to = match asked.parsed::<u64>("to")? {
        Some(to) => to,
        None => newest.version.saturating_sub(1),
    };
    let target = versions
        .iter()
        .find(|version| version.version == to)
        .ok_or_else(|| {
            let known: Vec<_> = versions
                .iter()
                .map(|version| version.version.to_string())
                .collect();
            Problem::new(
                ProblemKind::UnknownFunction,
                format!(
                    "function `{name}` has no version {to}; there are {}",
                    known.join(", ")
                ),
            )
        })?;
    let (host, surface) = check(gateway, &name, target.component, &target.manifest).await?;
    let write = |number| new_version(&name, number, target.component, target.manifest.clone(), Some(to));
    let free = || check_route(gateway, &name, target.manifest.route.as_ref());
    let version = gateway
        .cluster
        .catalog
        .deploy(&name, target.component, free, write)
        .await?;
    compile_elsewhere(gateway, target.component, host);
    Ok(deployed(gateway, &version, Some(newest), &surface).await)
}

pub fn list(gateway: &Gateway) -> Response<Body> {
    let records = gateway.cluster.catalog.node.records();
    let functions: Vec<_> = records
        .functions()
        .map(|function| {
            json!({
                "name": function.name,
                "version": function.version,
                "component": function.component,
                "route": route(function),
                "public": function.manifest.public,
                "deployed_unix_ms": function.deployed_unix_ms,
                "url": url(gateway, function),
            })
        })
        .collect();
    reply::json(StatusCode::OK, &json!({ "functions": functions }))
}

pub fn describe(gateway: &Gateway, name: &str) -> Result<Response<Body>, Problem> {
    let name = parse_name(name)?;
    let records = gateway.cluster.catalog.node.records();
    let current = records
        .function(&name)
        .ok_or_else(|| unknown_function(name.as_str()))?;
    let mut shown = json!(current);
    // Left out of records where it is the default, and looked for here.
    shown["manifest"]["limits"]["calls"] = current.manifest.limits.calls.into();
    Ok(reply::json(
        StatusCode::OK,
        &json!({
            "current": shown,
            "versions": records.function_versions(&name),
            "url": url(gateway, current),
        }),
    ))
}

pub async fn remove(gateway: &Gateway, name: &str) -> Result<Response<Body>, Problem> {
    let name = parse_name(name)?;
    gateway.cluster.catalog.remove_function(&name).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "removed": name })))
}

/// `?lines=100&follow=true`: newline-delimited JSON.
pub async fn logs(gateway: &Gateway, name: &str, asked: &AdminRequest) -> Result<Response<Body>, Problem> {
    let name = parse_name(name)?;
    if gateway.cluster.catalog.node.records().function(&name).is_none() {
        return Err(unknown_function(name.as_str()));
    }
    let query = LogQuery {
        function: name,
        runs: None,
        lines: log_lines(asked)?,
        follow: asked.flag("follow")?,
    };
    let received = everywhere(&gateway.cluster, query).await?;
    Ok(streamed::lines(received, std::future::pending()))
}

/// How many lines of the past are asked for.
pub(super) fn log_lines(asked: &AdminRequest) -> Result<usize, Problem> {
    Ok(asked.parsed::<usize>("lines")?.unwrap_or(100).min(MAX_LOG_LINES))
}

/// Everything that can be said against a deployment before it is one.
async fn check(
    gateway: &Gateway,
    name: &FunctionName,
    component: Digest,
    manifest: &FunctionManifest,
) -> Result<(NodeId, Surface), Problem> {
    manifest
        .check()
        .map_err(|error| Problem::new(ProblemKind::BadManifest, format!("function `{name}`: {error}")))?;
    check_route(gateway, name, manifest.route.as_ref())?;
    let host = gateway.cluster.host_for(&component, &[], None)?;
    Ok((host, gateway.cluster.dispatch.to(host).check(component).await?))
}

/// Has the other hosts compile what was deployed, a few at a time and behind the answer, so that the first call there
/// need not wait for a compiler. `ready` has it.
fn compile_elsewhere(gateway: &Arc<Gateway>, component: Digest, ready: NodeId) {
    let hosts: Vec<NodeId> = {
        let table = gateway.cluster.hosts.table();
        let others = table.iter().filter(|(_, host)| host.there && host.id != ready);
        others.map(|(_, host)| host.id).collect()
    };
    let gateway = gateway.clone();
    tokio::spawn(async move {
        futures_util::stream::iter(hosts)
            .for_each_concurrent(COMPILED_AT_ONCE, |host| {
                let way = gateway.cluster.dispatch.to(host);
                async move {
                    if let Err(problem) = way.check(component).await {
                        tracing::warn!(host = host.short(), %problem, "a host has not compiled what was deployed");
                    }
                }
            })
            .await;
    });
}

/// Whether the route that `name` is to have is nobody else's.
fn check_route(gateway: &Gateway, name: &FunctionName, route: Option<&Route>) -> Result<(), Problem> {
    let records = gateway.cluster.catalog.node.records();
    let route = route.cloned().unwrap_or_else(|| Route::of(name));
    match gateway.route_table(&records).taken_by(&route, name) {
        None => Ok(()),
        Some(other) => Err(Problem::new(ProblemKind::Conflict, taken(&route, other))),
    }
}

fn taken(route: &Route, other: &Served) -> String {
    let (route, other_route, other) = (route.as_str(), other.route.as_str(), &other.function.name);
    match route == other_route {
        true => {
            format!("the route `{route}` belongs to function `{other}`: choose another, or remove that one")
        }
        false => format!(
            "the route `{route}` answers for the same paths as `{other_route}` of function `{other}`: choose another, or \
             remove that one"
        ),
    }
}

fn new_version(
    name: &FunctionName,
    version: u64,
    component: Digest,
    manifest: FunctionManifest,
    rolled_back_to: Option<u64>,
) -> FunctionVersion {
    FunctionVersion {
        name: name.clone(),
        version,
        component,
        manifest,
        deployed_unix_ms: unix_ms(SystemTime::now()),
        rolled_back_to,
    }
}

async fn deployed(
    gateway: &Gateway,
    version: &FunctionVersion,
    previous: Option<&FunctionVersion>,
    surface: &Surface,
) -> Response<Body> {
    reply::json(
        StatusCode::OK,
        &json!({
            "name": version.name,
            "version": version.version,
            "component": version.component,
            "url": is_called(surface).then(|| url(gateway, version)),
            "notices": notices(gateway, version).await,
            "imports": surface.imports,
            "exports": surface.exports,
            "code_bytes": surface.code_bytes,
            "compiled_in_ms": surface.compiled_in_ms,
            "previous": previous,
        }),
    )
}

/// Whether requests reach it; what only exports a job's interfaces has no address.
fn is_called(surface: &Surface) -> bool {
    let handler = |export: &String| {
        export.starts_with("wasi:http/incoming-handler@") || export.starts_with("wasi:http/handler@")
    };
    surface.exports.iter().any(handler)
}

/// What a deployment is told that it will lack.
async fn notices(gateway: &Gateway, version: &FunctionVersion) -> Vec<String> {
    let mut notices = Vec::new();
    for (name, input) in &version.manifest.inputs {
        match input {
            Input::Newest(dataset) => {
                let records = gateway.cluster.catalog.node.records();
                if records.dataset(dataset).is_none() {
                    notices.push(format!(
                        "input `{name}` is the dataset `{dataset}`, which is not there: until `nearfield put … --name {dataset}`, \
                         calls fail"
                    ));
                }
            }
            Input::Pinned(digest) => {
                let Err(Problem { kind, detail, .. }) = gateway.cluster.dataset(digest).await else {
                    continue;
                };
                match kind {
                    ProblemKind::UnknownBlob => {
                        notices.push(format!("input `{name}`: {detail}: until one has, calls fail"));
                    }
                    ProblemKind::UnknownDataset => {
                        notices.push(format!(
                            "input `{name}`: {detail}: calls fail until the manifest names one"
                        ));
                    }
                    // The call that needs a dataset reports that no node reaches it now.
                    _ => {}
                }
            }
        }
    }
    notices
}

fn route(function: &FunctionVersion) -> Route {
    function
        .manifest
        .route
        .clone()
        .unwrap_or_else(|| Route::of(&function.name))
}

fn url(gateway: &Gateway, function: &FunctionVersion) -> String {
    format!("{}{}", gateway.functions_url, route(function).as_str())
}
