use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_protocol::FunctionName;
use serde::Deserialize;
use serde_json::Value;

use super::Session;
use crate::args::{Logged, LogsArgs};
use crate::client::{Call, segment};
use crate::failure::{Exit, Failure};
use crate::output::{self, utc};
use crate::visible::{visible, visible_json};

/// How long to wait before asking a node again that went away.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Line {
    unix_ms: u64,
    call: String,
    run: Option<String>,
    line: String,
}

pub fn run(session: &Session, args: LogsArgs) -> Result<()> {
    let LogsArgs {
        of,
        follow,
        shard,
        lines,
    } = args;
    let query = format!("logs?lines={lines}&follow={follow}");
    match (of, shard) {
        (Logged::Function(name), None) => {
            let path = format!("/v1/functions/{}/{query}", segment(name.as_str()));
            stream(session, path, follow).with_context(|| format!("reading the logs of `{name}`"))?;
            if follow {
                return Err(Failure::new(Exit::Unreachable, "the node ended the log")
                    .next("is it shutting down?")
                    .into());
            }
            Ok(())
        }
        (Logged::Function(name), Some(_)) => Err(Failure::new(
            Exit::Usage,
            format!("--shard goes with a job's id, and `{name}` is a function's name"),
        )
        .next("`nearfield ls jobs` shows the ids")
        .into()),
        (Logged::Job(job), shard) => {
            let shard = shard.map(|shard| format!("&shard={shard}")).unwrap_or_default();
            stream(session, format!("/v1/jobs/{job}/{query}{shard}"), follow)
                .with_context(|| format!("reading the logs of job {job}"))
        }
    }
}

/// New lines only, across restarts of the node.
pub fn follow_for_ever(session: &Session, function: &FunctionName) {
    loop {
        // Why it ended does not matter: `dev` says on its next deployment if the node is gone.
        let path = format!(
            "/v1/functions/{}/logs?lines=0&follow=true",
            segment(function.as_str())
        );
        let _ = stream(session, path, true);
        std::thread::sleep(RETRY);
    }
}

fn stream(session: &Session, path: String, follow: bool) -> Result<()> {
    let response = session.client.send(Call::get(path), ())?;
    let mut all = Vec::new();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.context("the log is cut short")?;
        match session.out.json {
            // One value a line while following, since that never ends; else one value in all.
            true if follow => writeln!(output::stdout(), "{}", visible_json(&line))?,
            true => all.push(serde_json::from_str::<Value>(&line)?),
            false => {
                let text = text(&serde_json::from_str(&line)?);
                writeln!(output::stdout(), "{}", visible(&text))?;
            }
        }
    }
    if session.out.json && !follow {
        session.out.show_as(&Value::Array(all), String::new)?;
    }
    Ok(())
}

/// The time of day, what printed it, and the line. A call is told by the end of its id (its begin is time too).
fn text(line: &Line) -> String {
    let end = || line.call.get(line.call.len().saturating_sub(8)..);
    let from = line.run.as_deref().or_else(end).unwrap_or(&line.call);
    format!("{} {from} {}", &utc(line.unix_ms)[11..], line.line.trim_end())
}
