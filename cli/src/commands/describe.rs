use anyhow::{Context, Result};
use serde_json::Value;

use super::Session;
use crate::args::Thing;
use crate::client::segment;
use crate::failure::{Exit, Failure};
use crate::output::tree;

pub fn run(session: &Session, thing: Thing) -> Result<()> {
    let client = &session.client;
    let value = match thing {
        Thing::Function(name) => client.get(format!("/v1/functions/{}", segment(name.as_str())))?,
        Thing::Dataset(name) => client.get(format!("/v1/datasets/{}", segment(name.as_str())))?,
        Thing::Job(id) => client.get(format!("/v1/jobs/{id}"))?,
        Thing::Token(id) => one_of(client.get("/v1/tokens")?, "tokens", &id)?,
        Thing::Node(id) => client.get(format!("/v1/nodes/{}", segment(&id)))?,
    };
    session.out.show_as(&value, || tree(&value))
}

/// Tokens have no page of their own: the list holds all that is known of each.
fn one_of(mut list: Value, kind: &str, id: &str) -> Result<Value> {
    let items = list[kind]
        .as_array_mut()
        .with_context(|| format!("the node lists no {kind}"))?;
    let is_it = |item: &Value| item["id"].as_str().is_some_and(|found| found.starts_with(id));
    let missing = || {
        Failure::new(
            Exit::NotFound,
            format!("no id among the {kind} starts with `{id}`"),
        )
    };
    let at = items
        .iter()
        .position(is_it)
        .ok_or_else(|| missing().next(format!("see `nearfield ls {kind}`")))?;
    Ok(items.swap_remove(at))
}
