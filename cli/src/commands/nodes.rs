use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use crate::args::{DrainArgs, InviteArgs};
use crate::client::segment;

#[derive(Deserialize)]
struct Invited {
    ticket: String,
    addresses: Vec<String>,
}

pub fn invite(session: &Session, args: InviteArgs) -> Result<()> {
    let labels: Vec<String> = args.labels.iter().map(ToString::to_string).collect();
    let body = json!({
        "role": args.role,
        "labels": labels,
        "max_bytes": args.max_bytes,
        "may_put": args.may_put,
        "expires_s": args.expires.as_secs(),
    });
    let invited = session.client.change("POST", "/v1/invitations", &body);
    let invited = invited.context("making an invitation")?;
    session.out.show(&invited, |invited: Invited| {
        session.out.notice(&format!(
            "For one {}, once. On the other machine: nearfield join TICKET\nIt reaches this node at {}.",
            args.role,
            invited.addresses.join(", ")
        ));
        invited.ticket
    })
}

pub fn drain(session: &Session, args: DrainArgs) -> Result<()> {
    let path = format!("/v1/nodes/{}/drain?undo={}", segment(&args.node), args.undo);
    let drained = session.client.change("POST", path, &Value::Null);
    let drained = drained.with_context(|| format!("draining node {}", args.node))?;
    session.out.show_as(&drained, || match args.undo {
        true => format!("{} takes calls and shards again", args.node),
        false => format!(
            "{} takes nothing new, and others copy what only it keeps: `nearfield describe node/{}` tells how far that is",
            args.node, args.node
        ),
    })
}

pub fn leave(session: &Session) -> Result<()> {
    let left = session.client.change("POST", "/v1/leave", &Value::Null);
    let left = left.context("leaving the network")?;
    session.out.show_as(&left, || {
        "left: the node has ended; the next `nearfield up` on its folder makes a network of its own"
            .to_owned()
    })
}
