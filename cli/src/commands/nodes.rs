use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use crate::args::{DrainArgs, InviteArgs};
use crate::client::segment;
use crate::failure::{Exit, Failure};
use crate::interrupt::Farewell;

/// How often a node is asked how far it is: repair looks every two seconds.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often the spinner turns meanwhile.
const SPIN: Duration = Duration::from_millis(100);

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
    if args.wait {
        return follow_drain(session, &args.node);
    }
    session.out.show_as(&drained, || match args.undo {
        true => format!("{} takes calls and shards again", args.node),
        false => format!(
            "{} takes nothing new, and others copy what only it keeps: `nearfield drain {} --wait` tells how far that is",
            args.node, args.node
        ),
    })
}

/// Until no blob is left that too few others keep.
fn follow_drain(session: &Session, node: &str) -> Result<()> {
    let _farewell = Farewell::new(format!(
        "node {node} goes on handing over: `nearfield drain {node} --wait` follows it, `nearfield drain {node} --undo` ends it"
    ));
    let spinner = session.out.spinner();
    spinner.enable_steady_tick(SPIN);
    loop {
        let described = session.client.get(format!("/v1/nodes/{}", segment(node)));
        let described = described.with_context(|| format!("asking how far node {node} is"))?;
        let not_followed = |exit, what: String, next: &str| {
            spinner.finish_and_clear();
            Err(Failure::new(exit, what).next(next).into())
        };
        if described["draining"] != true {
            let what = format!("node {node} is not draining any more");
            return not_followed(Exit::Failed, what, "`nearfield ls nodes` shows what it does");
        }
        if described["there"] != true {
            let what = format!("node {node} is away: what only it holds cannot be copied");
            return not_followed(
                Exit::Unreachable,
                what,
                "start it again, or `nearfield rm` it if it is lost",
            );
        }
        let count = |what: &str| described["drain"][what].as_u64();
        let (Some(left), Some(held)) = (count("blobs_left"), count("blobs_held")) else {
            spinner.set_message(format!("{node}: its blobs are being counted"));
            std::thread::sleep(ASK_AGAIN);
            continue;
        };
        if left == 0 {
            spinner.finish_and_clear();
            return session.out.show_as(&described, || {
                format!("others keep all {held} blobs that {node} holds: it can be stopped, or `nearfield rm node/{node}`")
            });
        }
        spinner.set_message(format!(
            "{node}: {left} of {held} blobs are still to be kept by others"
        ));
        std::thread::sleep(ASK_AGAIN);
    }
}

pub fn leave(session: &Session) -> Result<()> {
    let left = session.client.change("POST", "/v1/leave", &Value::Null);
    let left = left.context("leaving the network")?;
    session.out.show_as(&left, || {
        "left: the node has ended; the next `nearfield up` on its folder makes a network of its own"
            .to_owned()
    })
}
