use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_protocol::FunctionName;
use serde::Deserialize;
use serde_json::Value;

use super::Session;
use crate::args::LogsArgs;
use crate::client::{Call, segment};
use crate::failure::{Exit, Failure};
use crate::output::utc;

/// How long to wait before asking a node again that went away.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Line {
    unix_ms: u64,
    call: String,
    line: String,
}

pub fn run(session: &Session, args: LogsArgs) -> Result<()> {
    stream(session, &args.function, args.lines, args.follow)
        .with_context(|| format!("reading the logs of `{}`", args.function))?;
    if args.follow {
        return Err(Failure::new(Exit::Unreachable, "the node ended the log")
            .next("is it shutting down?")
            .into());
    }
    Ok(())
}

/// New lines only, across restarts of the node.
pub fn follow_for_ever(session: &Session, function: &FunctionName) {
    loop {
        // Why it ended does not matter: `dev` says on its next deployment if the node is gone.
        let _ = stream(session, function, 0, true);
        std::thread::sleep(RETRY);
    }
}

fn stream(session: &Session, function: &FunctionName, lines: u32, follow: bool) -> Result<()> {
    let path = format!(
        "/v1/functions/{}/logs?lines={lines}&follow={follow}",
        segment(function.as_str())
    );
    let response = session.client.send(Call::get(path), ())?;
    let mut all = Vec::new();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line.context("the log is cut short")?;
        match session.out.json {
            // One value a line while following, since that never ends; else one value in all.
            true if follow => writeln!(std::io::stdout(), "{line}")?,
            true => all.push(serde_json::from_str::<Value>(&line)?),
            false => writeln!(std::io::stdout(), "{}", text(&serde_json::from_str(&line)?))?,
        }
    }
    if session.out.json && !follow {
        session.out.show_as(&Value::Array(all), String::new)?;
    }
    Ok(())
}

/// The time of day, the end of the call's id (its begin is time too), and the line.
fn text(line: &Line) -> String {
    let call = line
        .call
        .get(line.call.len().saturating_sub(8)..)
        .unwrap_or(&line.call);
    format!("{} {call} {}", &utc(line.unix_ms)[11..], line.line.trim_end())
}
