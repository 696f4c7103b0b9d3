//! The admin API: `/v1`, its OpenAPI document, health and metrics. `openapi.json` beside this crate is
//! the reference; a test holds its paths against the ones matched here.

pub(crate) mod browser;
mod datasets;
mod events;
mod files;
mod functions;
mod jobs;
mod nodes;
mod put;
mod request;
mod shards;
mod streamed;
mod tokens;
mod usage;

use std::sync::Arc;

use http::header::CACHE_CONTROL;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use nearfield_cluster::place::others;
use nearfield_cluster::store_problem;
use nearfield_net::Records;
use nearfield_protocol::{NodeId, Problem, ProblemKind};
use serde_json::json;
use tokio::task::JoinError;

use self::request::AdminRequest;
use crate::body::Body;
use crate::calls::{MAX_CALLS, NotFound};
use crate::content;
use crate::reply;
use crate::state::Gateway;

pub use browser::AdminHosts;

const OPENAPI: &str = include_str!("../../openapi.json");

/// What needs no token.
const OPEN: [&str; 3] = ["/readyz", "/metrics", "/v1/openapi.json"];

/// What both listeners answer to everybody.
pub const HEALTH: &str = "/healthz";

/// Whether the admin listener answers whoever asks for this path.
pub fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// Calls that one list gives at most.
const MAX_LISTED_CALLS: usize = 1_000;

/// Answers what came in on the admin listener.
pub async fn answer(gateway: &Arc<Gateway>, request: Request<Incoming>, tls: bool) -> Response<Body> {
    let answered = open(gateway, request, tls).await;
    let mut response = answered.unwrap_or_else(|problem| reply::problem(&problem));
    // What is told of a network is true now. Content says for itself how long it is.
    let cached = response.headers_mut().entry(CACHE_CONTROL);
    cached.or_insert(http::HeaderValue::from_static("no-store"));
    response
}

/// What needs no token; the rest after it.
async fn open(
    gateway: &Arc<Gateway>,
    request: Request<Incoming>,
    tls: bool,
) -> Result<Response<Body>, Problem> {
    browser::check_origin(&request, tls)?;
    let path = request.uri().path();
    if OPEN.contains(&path) && request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(reply::not_allowed(
            &format!("`{path}`"),
            request.method(),
            content::METHODS,
        ));
    }
    if OPEN.contains(&path) && gateway.auth.admin(request.headers()).is_err() {
        browser::check_host(&gateway.admin_hosts, &request, tls)?;
    }
    match path {
        "/readyz" => Ok(match gateway.cluster.catalog.store.unhealthy() {
            None => reply::text(StatusCode::OK, ready(&gateway.cluster.catalog.node.records())),
            Some(reason) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        }),
        "/metrics" => {
            if let Ok((bytes, _)) = gateway.cluster.catalog.store.usage() {
                gateway.metrics.store_bytes.set(bytes);
                let resident = {
                    let table = gateway.cluster.hosts.table();
                    let own = table.find(&gateway.cluster.hosts.local());
                    own.and_then(|host| host.load.gpu.as_ref())
                        .map_or(0, |gpu| gpu.resident_bytes)
                };
                gateway.metrics.gpu_resident_bytes.set(resident);
            }
            Ok(reply::text(StatusCode::OK, gateway.metrics.render()))
        }
        "/v1/openapi.json" => {
            let mut response = reply::text(StatusCode::OK, OPENAPI);
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
            Ok(response)
        }
        _ => {
            gateway.auth.admin(request.headers())?;
            let asked = AdminRequest::new(request)?;
            match asked.changes() {
                true => to_its_end(gateway.clone(), asked).await,
                false => admitted(gateway, asked).await,
            }
        }
    }
}

/// The text of `/readyz` at a node that is ready. Unreadable records are named and leave it ready: everything else works.
fn ready(records: &Records) -> String {
    let unreadable = records.unreadable();
    match unreadable.first() {
        None => "ready\n".to_owned(),
        Some((kind, name)) => format!(
            "ready, but records of {} names cannot be read, of {} `{name}` first: restore the data folder from a backup\n",
            unreadable.len(),
            kind.name(),
        ),
    }
}

/// A change goes on when its client goes away: one that stopped between data and record, or between the record's disk
/// and our memory of it, would show only after the next start.
async fn to_its_end(gateway: Arc<Gateway>, asked: AdminRequest) -> Result<Response<Body>, Problem> {
    let task = tokio::spawn(async move { admitted(&gateway, asked).await });
    task.await.unwrap_or_else(|error| Ok(failed(&error)))
}

/// Takes a put for a gateway, whose client was admitted there.
pub async fn put_for(gateway: &Arc<Gateway>, via: NodeId, request: Request<Incoming>) -> Response<Body> {
    let taken = async {
        let asked = AdminRequest::new(request)?;
        let segments = asked.segments.clone();
        match segments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["v1", "datasets", name] if asked.method == Method::POST => {
                put::put(gateway, name, asked, Some(via)).await
            }
            _ => Err(Problem::new(
                ProblemKind::BadRequest,
                "nodes ask each other for puts alone",
            )),
        }
    };
    taken.await.unwrap_or_else(|problem| reply::problem(&problem))
}

/// The answer to a change whose task ended early.
pub fn failed(error: &JoinError) -> Response<Body> {
    reply::problem(&Problem::new(
        ProblemKind::Internal,
        format!("the task that made the change ended early: {error}"),
    ))
}

async fn admitted(gateway: &Arc<Gateway>, asked: AdminRequest) -> Result<Response<Body>, Problem> {
    let method = asked.method.clone();
    let segments = asked.segments.clone();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (method.as_str(), segments.as_slice()) {
        ("GET", ["v1", "status"]) => status(gateway),
        ("GET", ["v1", "nodes"]) => Ok(nodes::list(gateway)),
        ("GET", ["v1", "nodes", id]) => nodes::describe(gateway, id),
        ("DELETE", ["v1", "nodes", id]) => nodes::expel(gateway, id, &asked).await,
        ("POST", ["v1", "nodes", id, "drain"]) => nodes::drain(gateway, id, &asked).await,
        ("POST", ["v1", "invitations"]) => nodes::invite(gateway, asked).await,
        ("POST", ["v1", "leave"]) => nodes::leave(gateway).await,
        ("GET", ["v1", "datasets"]) => Ok(datasets::list(gateway)),
        ("POST", ["v1", "datasets", name]) => put::put(gateway, name, asked, None).await,
        ("GET", ["v1", "datasets", name]) => datasets::describe(gateway, name, asked.flag("shards")?).await,
        ("GET", ["v1", "datasets", name, "files"]) => files::list(gateway, name, &asked).await,
        ("DELETE", ["v1", "datasets", name]) => datasets::remove(gateway, name, asked.flag("purge")?).await,
        ("POST", ["v1", "datasets", name, "rollback"]) => datasets::rollback(gateway, name, &asked).await,
        ("POST", ["v1", "datasets", name, "prune"]) => datasets::prune(gateway, name, &asked).await,
        ("GET", ["v1", "usage"]) => usage::usage(gateway).await,
        ("GET", ["v1", "content"]) => datasets::content(gateway, &asked).await,
        ("POST", ["v1", "blobs"]) => functions::upload(gateway, asked).await,
        ("GET", ["v1", "pins"]) => datasets::pins(gateway),
        ("PUT", ["v1", "pins", digest]) => datasets::pin(gateway, digest, true).await,
        ("DELETE", ["v1", "pins", digest]) => datasets::pin(gateway, digest, false).await,
        ("GET", ["v1", "functions"]) => Ok(functions::list(gateway)),
        ("PUT", ["v1", "functions", name]) => functions::deploy(gateway, name, asked).await,
        ("GET", ["v1", "functions", name]) => functions::describe(gateway, name),
        ("DELETE", ["v1", "functions", name]) => functions::remove(gateway, name).await,
        ("POST", ["v1", "functions", name, "rollback"]) => functions::rollback(gateway, name, &asked).await,
        ("GET", ["v1", "functions", name, "logs"]) => functions::logs(gateway, name, &asked).await,
        ("GET", ["v1", "calls"]) => {
            let limit = asked
                .parsed::<usize>("limit")?
                .unwrap_or(100)
                .min(MAX_LISTED_CALLS);
            let calls = gateway.calls.list(asked.parameter("function"), limit);
            let calls: Vec<_> = calls.iter().map(|call| call.to_json(&[])).collect();
            Ok(reply::json(StatusCode::OK, &json!({ "calls": calls })))
        }
        ("GET", ["v1", "calls", id]) => {
            let call = gateway.calls.find(id).map_err(|not_found| {
                let text = match not_found {
                    NotFound::Unknown => format!("no call `{id}` among the last {MAX_CALLS}"),
                    NotFound::Several => format!("several calls end in `{id}`: give more of the id"),
                };
                Problem::new(ProblemKind::UnknownCall, text)
            })?;
            let others = others(&call.placement.candidates, &gateway.cluster.hosts.table());
            Ok(reply::json(StatusCode::OK, &call.to_json(&others)))
        }
        ("POST", ["v1", "jobs"]) => jobs::start(gateway, asked).await,
        ("GET", ["v1", "jobs"]) => jobs::list(gateway).await,
        ("GET", ["v1", "jobs", id]) => jobs::describe(gateway, id),
        ("DELETE", ["v1", "jobs", id]) => jobs::cancel(gateway, id).await,
        ("GET", ["v1", "jobs", id, "output"]) => jobs::output(gateway, id).await,
        ("GET", ["v1", "jobs", id, "events"]) => jobs::follow(gateway, id).await,
        ("GET", ["v1", "jobs", id, "logs"]) => jobs::logs(gateway, id, &asked).await,
        ("GET", ["v1", "jobs", id, "shards", index]) => shards::parcel(gateway, id, index, &asked).await,
        ("POST", ["v1", "jobs", id, "shards", index, "replay"]) => {
            shards::replay(gateway, id, index, &asked).await
        }
        ("POST", ["v1", "tokens"]) => tokens::create(gateway, asked).await,
        ("GET", ["v1", "tokens"]) => Ok(tokens::list(gateway)),
        ("DELETE", ["v1", "tokens", id]) => tokens::revoke(gateway, id).await,
        _ => match methods(&segments) {
            Some(allow) => Ok(reply::not_allowed(
                &format!("`{}`", asked.request.uri().path()),
                asked.request.method(),
                allow,
            )),
            None => Err(Problem::new(
                ProblemKind::UnknownRoute,
                format!(
                    "nothing at `{}`; see /v1/openapi.json",
                    asked.request.uri().path()
                ),
            )),
        },
    }
}

/// The methods that a path takes, as `Allow` lists them; `None` where there is nothing.
fn methods(segments: &[&str]) -> Option<&'static str> {
    let ["v1", rest @ ..] = segments else {
        return None;
    };
    Some(match rest {
        ["status" | "nodes" | "datasets" | "usage" | "content" | "pins" | "functions" | "calls"] => {
            "GET, HEAD"
        }
        ["jobs" | "tokens"] => "GET, HEAD, POST",
        ["invitations" | "leave" | "blobs"] => "POST",
        ["nodes" | "jobs", _] => "GET, HEAD, DELETE",
        ["calls", _] => "GET, HEAD",
        ["datasets", _] => "GET, HEAD, POST, DELETE",
        ["functions", _] => "GET, HEAD, PUT, DELETE",
        ["pins", _] => "PUT, DELETE",
        ["tokens", _] => "DELETE",
        ["nodes", _, "drain"] | ["datasets", _, "prune" | "rollback"] | ["functions", _, "rollback"] => {
            "POST"
        }
        ["functions", _, "logs"] | ["datasets", _, "files"] => "GET, HEAD",
        ["jobs", _, "output" | "events" | "logs"] => "GET, HEAD",
        ["jobs", _, "shards", _] => "GET, HEAD",
        ["jobs", _, "shards", _, "replay"] => "POST",
        _ => return None,
    })
}

fn status(gateway: &Gateway) -> Result<Response<Body>, Problem> {
    let (bytes, blobs) = gateway.cluster.catalog.store.usage().map_err(store_problem)?;
    let records = gateway.cluster.catalog.node.records();
    Ok(reply::json(
        StatusCode::OK,
        &json!({
            "node": gateway.cluster.catalog.node.id().to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_s": gateway.started.elapsed().as_secs(),
            "store": { "bytes": bytes, "blobs": blobs, "max_bytes": gateway.max_store_bytes },
            "functions": records.functions().count(),
            "datasets": records.datasets().count(),
            "functions_url": gateway.functions_url,
        }),
    ))
}

/// The one of which `id` is the beginning, if it is that of one alone. `what` are several.
fn only_one<T>(mut found: impl Iterator<Item = T>, what: &str, id: &str) -> Result<Option<T>, Problem> {
    match (found.next(), found.next()) {
        (found, None) => Ok(found),
        _ => Err(Problem::new(
            ProblemKind::BadRequest,
            format!("several {what} begin with `{id}`: give more of it"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use nearfield_protocol::{DatasetName, FunctionName, limits};

    use super::*;

    #[test]
    fn the_document_and_allow_name_the_same_methods() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let mut documented = 0;
        for (path, item) in paths.iter().filter(|(path, _)| !OPEN.contains(&path.as_str())) {
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            if segments[0] != "v1" {
                continue;
            }
            documented += 1;
            let allow = methods(&segments).unwrap_or_else(|| panic!("{path} is documented but not served"));
            // HEAD goes without saying wherever GET is.
            let mut allowed: Vec<_> = allow.split(", ").map(str::to_lowercase).collect();
            assert_eq!(
                allowed.contains(&"head".to_owned()),
                allowed.contains(&"get".to_owned()),
                "{path}"
            );
            allowed.retain(|method| method != "head");
            let mut named: Vec<_> = item.as_object().unwrap().keys().cloned().collect();
            named.retain(|key| key != "parameters" && key != "head");
            allowed.sort();
            named.sort();
            assert_eq!(allowed, named, "{path}");
        }
        assert_eq!(documented, SERVED, "a path is served but not documented");
        assert_eq!(methods(&["v1", "nothing"]), None);
        assert_eq!(methods(&["v2", "status"]), None);
    }

    /// What the document promises is what the code takes, at the bound and one beyond it.
    #[test]
    fn the_document_has_the_bounds_of_the_code() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let bound = |pointer: &str| {
            let found = document.pointer(pointer).and_then(serde_json::Value::as_u64);
            found.unwrap_or_else(|| panic!("{pointer} is no number of the document"))
        };
        let manifest = "/components/schemas/FunctionManifest/properties";
        for (pointer, most) in [
            (
                "limits/properties/calls/maximum",
                u64::from(limits::MAX_CALLS_PER_FUNCTION),
            ),
            ("limits/properties/fuel/maximum", limits::MAX_FUEL_PER_CALL),
            ("cors/properties/origins/maxItems", limits::CORS_ENTRIES as u64),
            ("cors/properties/methods/maxItems", limits::CORS_ENTRIES as u64),
            ("env/additionalProperties/maxLength", limits::ENV_BYTES as u64),
        ] {
            assert_eq!(bound(&format!("{manifest}/{pointer}")), most, "{pointer}");
        }
        for kind in ["wasm", "octet-stream"] {
            let pointer =
                format!("/paths/~1v1~1blobs/post/requestBody/content/application~1{kind}/schema/maxLength");
            assert_eq!(bound(&pointer), limits::COMPONENT_BYTES);
        }
        let is_dataset: fn(&str) -> bool = |name| name.parse::<DatasetName>().is_ok();
        let is_function: fn(&str) -> bool = |name| name.parse::<FunctionName>().is_ok();
        for (schema, is_name) in [("DatasetName", is_dataset), ("FunctionName", is_function)] {
            let most = bound(&format!("/components/schemas/{schema}/maxLength")) as usize;
            assert!(is_name(&"x".repeat(most)), "{schema} of {most} letters");
            assert!(!is_name(&"x".repeat(most + 1)), "{schema} of one letter more");
        }
        let pages = "/paths/~1v1~1datasets~1{name}~1files/get/responses/200/content/application~1json/schema/properties/files/maxItems";
        assert_eq!(bound(pages), files::PAGE as u64);
        let labels = "/paths/~1v1~1invitations/post/requestBody/content/application~1json/schema/properties/labels/maxItems";
        let several = |count: u64| {
            let some = (0..count).map(|n| format!("l{n}=x").parse().unwrap());
            nearfield_protocol::node::labels(some).is_ok()
        };
        assert!(several(bound(labels)) && !several(bound(labels) + 1));
    }

    #[test]
    fn the_document_lists_every_problem_type() {
        let document: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let listed = &document["components"]["schemas"]["Problem"]["properties"]["type"]["description"];
        let types: Vec<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        let types = format!("one of {}; more may be added", types.join(", "));
        assert!(listed.as_str().unwrap().ends_with(&types), "{types}");
    }

    /// How many paths [`admitted`] and [`methods`] match.
    const SERVED: usize = 31;
}
