//! Function tokens over the admin API.

use std::time::SystemTime;

use http::{Response, StatusCode};
use nearfield_cluster::{net_problem, unknown_function};
use nearfield_net::Records;
use nearfield_protocol::records::TokenVersion;
use nearfield_protocol::{FunctionName, Problem, ProblemKind, unix_ms};
use serde::Deserialize;
use serde_json::json;

use super::only_one;
use super::request::AdminRequest;
use crate::body::Body;
use crate::reply;
use crate::state::Gateway;

/// The end of the year 9999, the last that a token's date can say.
const MAX_EXPIRY_UNIX_MS: u64 = 253_402_300_799_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    function: FunctionName,
    /// A digest, or its beginning.
    component: Option<String>,
    max_fuel_per_day: Option<u64>,
    expires_unix_ms: Option<u64>,
}

pub async fn create(gateway: &Gateway, asked: AdminRequest) -> Result<Response<Body>, Problem> {
    let Create {
        function,
        component,
        max_fuel_per_day,
        expires_unix_ms,
    } = asked.json().await?;
    let node = &gateway.cluster.catalog.node;
    if node.records().function(&function).is_none() {
        return Err(unknown_function(function.as_str()));
    }
    let component = component
        .map(|component| gateway.cluster.digest(&component))
        .transpose()?;
    let issued_unix_ms = unix_ms(SystemTime::now());
    if expires_unix_ms.is_some_and(|expires| expires <= issued_unix_ms) {
        return Err(Problem::new(
            ProblemKind::BadRequest,
            "the token would have expired already",
        ));
    }
    if expires_unix_ms.is_some_and(|expires| expires > MAX_EXPIRY_UNIX_MS) {
        return Err(Problem::new(
            ProblemKind::BadRequest,
            "the token would expire after the year 9999",
        ));
    }
    let id = format!("{:016x}", rand::random::<u64>());
    let grant = TokenVersion {
        id,
        key: gateway.auth.key(),
        function,
        component,
        max_fuel_per_day,
        expires_unix_ms,
        issued_unix_ms,
    };
    let token = gateway.auth.issue(&grant).map_err(internal)?;
    node.issue_token(grant.clone()).await.map_err(net_problem)?;
    let mut answer = serde_json::to_value(&grant).map_err(internal)?;
    answer["token"] = json!(token);
    Ok(reply::json(StatusCode::CREATED, &answer))
}

pub fn list(gateway: &Gateway) -> Response<Body> {
    let records = gateway.cluster.catalog.node.records();
    reply::json(
        StatusCode::OK,
        &json!({ "tokens": records.tokens().collect::<Vec<_>>() }),
    )
}

pub async fn revoke(gateway: &Gateway, id: &str) -> Result<Response<Body>, Problem> {
    let node = &gateway.cluster.catalog.node;
    let id = find(&node.records(), id)?;
    node.revoke_token(&id).await.map_err(net_problem)?;
    Ok(reply::json(StatusCode::OK, &json!({ "revoked": id })))
}

/// The id of which `id` is the beginning, if it is that of one token alone.
fn find(records: &Records, id: &str) -> Result<String, Problem> {
    let found = records
        .tokens()
        .map(|token| &token.id)
        .filter(|token| token.starts_with(id));
    only_one(found, "tokens", id)?.cloned().ok_or_else(|| {
        Problem::new(
            ProblemKind::UnknownToken,
            format!("no token `{id}`; `nearfield ls tokens` lists them"),
        )
    })
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Internal, format!("making the token: {error}"))
}
