//! The nodes of the network over the admin API.

use std::time::{Duration, SystemTime};

use http::{Response, StatusCode};
use nearfield_cluster::{ask_gateways, net_problem};
use nearfield_net::control::{Question, Reply};
use nearfield_net::{Membership, Offer};
use nearfield_protocol::node::{Label, Role, labels};
use nearfield_protocol::{DatasetName, NodeId, Problem, ProblemKind, unix_ms};
use serde::Deserialize;
use serde_json::{Value, json};

use super::only_one;
use super::request::AdminRequest;
use crate::body::Body;
use crate::reply;
use crate::state::Gateway;

/// How long an invitation holds, unless it says so.
const INVITATION: Duration = Duration::from_secs(3600);
/// Longest that one may.
const LONGEST_INVITATION: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a gateway may take to look what only this node keeps: longer than it takes before it gives up.
const LEAVING: Duration = Duration::from_secs(90);

pub fn list(gateway: &Gateway) -> Response<Body> {
    let records = gateway.cluster.catalog.node.records();
    let nodes: Vec<_> = records.nodes().map(|member| to_json(gateway, member)).collect();
    reply::json(StatusCode::OK, &json!({ "nodes": nodes }))
}

pub fn describe(gateway: &Gateway, id: &str) -> Result<Response<Body>, Problem> {
    let records = gateway.cluster.catalog.node.records();
    let id = find(gateway, id)?;
    let member = records.node(&id).ok_or_else(|| unknown(&id.to_string()))?;
    let mut described = to_json(gateway, member);
    if member.draining
        && let Some(drain) = gateway.cluster.hosts.drain(&id)
    {
        described["drain"] = json!({ "blobs_left": drain.left, "blobs_held": drain.held });
    }
    Ok(reply::json(StatusCode::OK, &described))
}

fn to_json(gateway: &Gateway, member: &Membership) -> Value {
    let (node, own) = (&member.node, &gateway.cluster.catalog.node);
    let here = node.id == own.id();
    let addresses = match here {
        true => own.addresses(),
        false => {
            let book = own.peers().book();
            let known = book.into_iter().find(|contact| contact.id == node.id);
            known.map_or_else(|| node.addresses.clone(), |contact| contact.addresses)
        }
    };
    let (hosting, load) = {
        let table = gateway.cluster.hosts.table();
        let host = table.find(&node.id);
        (host.is_some(), host.map(|host| host.load.clone()))
    };
    let there = here || own.present().contains(&node.id);
    json!({
        "id": node.id,
        "role": node.role,
        "this": here,
        "there": there,
        "hosting": hosting,
        "draining": member.draining,
        "quarantined": member.quarantined,
        "labels": node.labels,
        "max_bytes": node.max_bytes,
        "may_put": node.may_put,
        "addresses": addresses,
        "joined_unix_ms": node.joined_unix_ms,
        "load": load,
    })
}

/// The node of which `id` is the beginning, if it is that of one alone.
fn find(gateway: &Gateway, id: &str) -> Result<NodeId, Problem> {
    let records = gateway.cluster.catalog.node.records();
    let found = records
        .nodes()
        .map(|member| member.node.id)
        .filter(|node| node.to_string().starts_with(id));
    only_one(found, "nodes", id)?.ok_or_else(|| unknown(id))
}

fn unknown(id: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownNode,
        format!("no node `{id}`; `nearfield ls nodes` lists them"),
    )
}

/// `?keep-tokens=true`: the function tokens that it gave out go on to count.
pub async fn expel(gateway: &Gateway, id: &str, asked: &AdminRequest) -> Result<Response<Body>, Problem> {
    let (id, keep_tokens) = (find(gateway, id)?, asked.flag("keep-tokens")?);
    if id == gateway.cluster.catalog.node.id() {
        let text = "this node cannot expel itself: `nearfield leave` takes it out of the network";
        return Err(Problem::new(ProblemKind::BadRequest, text));
    }
    let node = &gateway.cluster.catalog.node;
    let tokens = node.records().tokens_of(&id);
    node.expel(&id, keep_tokens).await.map_err(net_problem)?;
    let ended = if keep_tokens { 0 } else { tokens };
    Ok(reply::json(
        StatusCode::OK,
        &json!({ "removed": id, "tokens_ended": ended }),
    ))
}

pub async fn drain(gateway: &Gateway, id: &str, asked: &AdminRequest) -> Result<Response<Body>, Problem> {
    let id = find(gateway, id)?;
    let draining = !asked.flag("undo")?;
    gateway
        .cluster
        .catalog
        .node
        .drain(&id, draining)
        .await
        .map_err(net_problem)?;
    Ok(reply::json(
        StatusCode::OK,
        &json!({ "node": id, "draining": draining }),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invite {
    role: Role,
    #[serde(default)]
    labels: Vec<String>,
    max_bytes: Option<u64>,
    #[serde(default)]
    may_put: Vec<DatasetName>,
    expires_s: Option<u64>,
}

pub async fn invite(gateway: &Gateway, asked: AdminRequest) -> Result<Response<Body>, Problem> {
    let invite: Invite = asked.json().await?;
    let bad = |text: String| Problem::new(ProblemKind::BadRequest, text);
    let given: Result<Vec<Label>, _> = invite.labels.iter().map(|label| label.parse()).collect();
    let labels = given.and_then(labels).map_err(|error| bad(error.to_string()))?;
    let expires = invite.expires_s.map_or(INVITATION, Duration::from_secs);
    if expires > LONGEST_INVITATION {
        let days = LONGEST_INVITATION.as_secs() / (24 * 3600);
        return Err(bad(format!("an invitation holds for at most {days} days")));
    }
    if invite.role == Role::Gateway && !invite.may_put.is_empty() {
        return Err(bad(
            "a gateway may put everything: `may_put` is for hosts".to_owned()
        ));
    }
    let offer = Offer {
        role: invite.role,
        labels,
        max_bytes: invite.max_bytes,
        may_put: invite.may_put,
        expires_unix_ms: unix_ms(SystemTime::now()) + expires.as_millis() as u64,
    };
    let ticket = gateway
        .cluster
        .catalog
        .node
        .invite(offer.clone())
        .map_err(net_problem)?;
    Ok(reply::json(
        StatusCode::CREATED,
        &json!({
            "ticket": ticket.to_string(),
            "role": offer.role,
            "labels": offer.labels,
            "addresses": ticket.addresses,
            "expires_unix_ms": offer.expires_unix_ms,
        }),
    ))
}

/// Has a gateway write down that this node leaves, then forgets the network. The node ends afterwards.
pub async fn leave(gateway: &Gateway) -> Result<Response<Body>, Problem> {
    let node = &gateway.cluster.catalog.node;
    if node.gateways().is_empty() {
        let text = "this is the network's only gateway: without it there is none to leave";
        return Err(Problem::new(ProblemKind::Conflict, text));
    }
    if node.role() == Role::Gateway {
        gateway.cluster.let_go(&node.id()).await?;
        node.forget_network().map_err(net_problem)?;
        gateway.leaving.cancel();
        return Ok(reply::json(StatusCode::OK, &json!({ "left": node.id() })));
    }
    match ask_gateways(node, Question::Leave, LEAVING)
        .await
        .map_err(net_problem)?
    {
        Reply::Done => {}
        Reply::Failed(problem) => return Err(problem),
        _ => {
            return Err(Problem::new(
                ProblemKind::Internal,
                "a gateway answered the leave with an unexpected reply",
            ));
        }
    }
    node.forget_network().map_err(net_problem)?;
    gateway.leaving.cancel();
    Ok(reply::json(StatusCode::OK, &json!({ "left": node.id() })))
}
