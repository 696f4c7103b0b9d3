use anyhow::{Context, Result};
use nearfield_protocol::DatasetName;
use nearfield_protocol::units::format_bytes;
use serde_json::Value;

use super::{Session, deploy};
use crate::args::{PinArgs, PruneArgs, RmArgs, RollbackArgs, RolledBack, Thing, digest_or_beginning};
use crate::client::segment;
use crate::failure::{Exit, Failure};
use crate::output::counted;
use crate::visible::visible_line;

pub fn rollback(session: &Session, args: RollbackArgs) -> Result<()> {
    let to = args
        .to
        .map(|version| format!("?to={version}"))
        .unwrap_or_default();
    let (kind, name) = match &args.thing {
        RolledBack::Function(name) => ("functions", name.as_str()),
        RolledBack::Dataset(name) => ("datasets", name.as_str()),
    };
    let path = format!("/v1/{kind}/{}/rollback{to}", segment(name));
    let reply = session
        .client
        .change("POST", path, &Value::Null)
        .with_context(|| format!("rolling `{name}` back"))?;
    if matches!(args.thing, RolledBack::Dataset(_)) {
        return session.out.show_as(&reply, || {
            format!(
                "{name} v{} {}",
                reply["version"],
                reply["digest"].as_str().unwrap_or_default()
            )
        });
    }
    session.out.show(&reply, |reply: deploy::Reply| {
        format!(
            "{} v{} {}, component {}",
            reply.name,
            reply.version,
            reply.reached(),
            reply.component
        )
    })
}

pub fn rm(session: &Session, args: RmArgs) -> Result<()> {
    let RmArgs {
        purge,
        keep_tokens,
        thing,
    } = args;
    let (path, name) = match &thing {
        Thing::Function(name) => (
            format!("/v1/functions/{}", segment(name.as_str())),
            name.to_string(),
        ),
        Thing::Dataset(name) => (
            format!("/v1/datasets/{}?purge={purge}", segment(name.as_str())),
            name.to_string(),
        ),
        Thing::Token(id) => (format!("/v1/tokens/{}", segment(id)), id.clone()),
        Thing::Job(id) => {
            return Err(Failure::new(
                Exit::Usage,
                format!("job {id} cannot be removed: the oldest ended jobs are forgotten as new ones start"),
            )
            .next(format!("to stop it: nearfield cancel {id}"))
            .into());
        }
        Thing::Node(id) => (
            format!("/v1/nodes/{}?keep-tokens={keep_tokens}", segment(id)),
            id.clone(),
        ),
    };
    let removed = session
        .client
        .delete(path)
        .with_context(|| format!("removing `{name}`"))?;
    session
        .out
        .show_as(&removed, || match removed["released_bytes"].as_u64() {
            Some(bytes) => format!(
                "{name} removed, {} released{}",
                format_bytes(bytes),
                remaining(&removed)
            ),
            None => match removed["tokens_ended"].as_u64().unwrap_or_default() {
                0 => format!("{name} removed"),
                ended => format!("{name} removed, and {ended} function tokens that it gave out ended"),
            },
        })
}

/// What a purge could not remove, a line each.
fn remaining(removed: &Value) -> String {
    let remaining = removed["remaining"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |one: &Value| {
        let shards = counted(one["shards"].as_u64().unwrap_or(0), "shard");
        let bytes = format_bytes(one["bytes"].as_u64().unwrap_or(0));
        let held_by = visible_line(one["held_by"].as_str().unwrap_or_default());
        format!("\nnot removed: {shards}, {bytes}: {held_by}")
    };
    remaining.iter().map(line).collect()
}

pub fn prune(session: &Session, args: PruneArgs) -> Result<()> {
    let path = format!(
        "/v1/datasets/{}/prune?keep={}",
        segment(args.dataset.as_str()),
        args.keep
    );
    let pruned = session
        .client
        .change("POST", path, &Value::Null)
        .with_context(|| format!("pruning `{}`", args.dataset))?;
    session.out.show_as(&pruned, || {
        format!(
            "{}: {} pruned, {} released",
            args.dataset,
            counted(pruned["pruned"].as_u64().unwrap_or(0), "version"),
            format_bytes(pruned["released_bytes"].as_u64().unwrap_or(0))
        )
    })
}

pub fn pin(session: &Session, args: PinArgs) -> Result<()> {
    let digest = match args.target.strip_prefix("b3:") {
        Some(_) => digest_or_beginning(&args.target).map_err(usage)?,
        None => newest(session, &args.target.parse().map_err(usage)?)?,
    };
    let path = format!("/v1/pins/{}", segment(&digest));
    let (done, verb) = match args.remove {
        true => (session.client.delete(path)?, "no longer pinned"),
        false => (session.client.change("PUT", path, &Value::Null)?, "pinned"),
    };
    session.out.show_as(&done, || {
        format!("{} {verb}", done["digest"].as_str().unwrap_or(&digest))
    })
}

fn newest(session: &Session, name: &DatasetName) -> Result<String> {
    let list = session.client.get("/v1/datasets")?;
    let datasets = list["datasets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = datasets.iter().find(|dataset| dataset["name"] == name.as_str());
    let missing = || Failure::new(Exit::NotFound, format!("there is no dataset `{name}`"));
    let dataset = found.ok_or_else(|| missing().next("see `nearfield ls datasets`"))?;
    let digest = dataset["digest"].as_str().context("the node names no digest")?;
    Ok(digest.to_owned())
}

fn usage(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}
