use anyhow::{Context, Result};
use nearfield_protocol::units::format_bytes;
use serde::Deserialize;

use super::Session;
use crate::output::counted;
use crate::visible::visible_line;

#[derive(Deserialize)]
struct Status {
    node: String,
    version: String,
    uptime_s: u64,
    store: Stored,
    functions: u64,
    datasets: u64,
    functions_url: String,
}

#[derive(Deserialize)]
struct Stored {
    bytes: u64,
    max_bytes: Option<u64>,
}

pub fn run(session: &Session) -> Result<()> {
    let status = session
        .client
        .get("/v1/status")
        .context("asking the node how it is")?;
    session.out.show(&status, |status: Status| text(&status))
}

fn text(status: &Status) -> String {
    let (hours, minutes) = (status.uptime_s / 3_600, status.uptime_s / 60 % 60);
    let most = status
        .store
        .max_bytes
        .map(|most| format!(" of {}", format_bytes(most)))
        .unwrap_or_default();
    [
        format!(
            "node {} is up for {hours} h {minutes} min, version {}",
            visible_line(&status.node.chars().take(10).collect::<String>()),
            visible_line(&status.version)
        ),
        format!("  functions answer at {}", visible_line(&status.functions_url)),
        format!(
            "  {}, {}, {}{most} stored",
            counted(status.functions, "function"),
            counted(status.datasets, "dataset"),
            format_bytes(status.store.bytes)
        ),
    ]
    .join("\n")
}
