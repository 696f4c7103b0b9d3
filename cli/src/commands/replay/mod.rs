//! `replay`: one shard of a job once more, on the node or natively.

mod native;

use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, ensure};
use nearfield_protocol::units::{format_bytes, format_count};
use nearfield_protocol::{Digest, Problem};
use serde::Deserialize;
use ureq::SendBody;

use super::Session;
use super::jobs::short;
use crate::args::ReplayArgs;
use crate::client::Call;
use crate::deliver;
use crate::failure::{Exit, Failure};
use crate::output::counted;
use crate::visible::visible_line;

pub fn run(session: &Session, args: ReplayArgs) -> Result<()> {
    let doing = format!("replaying shard {} of job {}", args.shard, args.job);
    let done = match args.native {
        true => native::run(session, args),
        false => on_node(session, &args),
    };
    done.context(doing)
}

#[derive(Deserialize)]
struct Replay {
    function: String,
    shard: u32,
    digest: String,
    size_bytes: u64,
    source: Option<String>,
    fuel: u64,
    /// What it came to, or the problem.
    #[serde(flatten)]
    done: Option<Done>,
    problem: Option<Problem>,
    remembered: Option<Known>,
    log: Vec<String>,
}

#[derive(Deserialize)]
struct Done {
    output: Digest,
    output_bytes: u64,
    run_us: u64,
    data_bytes: u64,
    written_files: u64,
    written_bytes: u64,
}

/// A result that is remembered.
#[derive(Deserialize)]
struct Known {
    output: Digest,
    output_bytes: u64,
    fuel: u64,
}

fn on_node(session: &Session, args: &ReplayArgs) -> Result<()> {
    let path = format!(
        "/v1/jobs/{}/shards/{}/replay?output={}",
        args.job,
        args.shard,
        args.output.is_some()
    );
    let response = session.client.send(Call::new("POST", path), SendBody::none())?;
    // One line of JSON, and behind it the output if it was asked for.
    let mut answer = BufReader::new(response.into_body().into_reader());
    let mut line = String::new();
    answer.read_line(&mut line).context("the answer is cut short")?;
    let value = serde_json::from_str(&line)?;
    const OTHER: &str = "the node's answer is not what this build expects; are both of the same version?";
    let replay: Replay = serde_json::from_value(value).context(OTHER)?;
    ensure!(replay.done.is_some() || replay.problem.is_some(), OTHER);
    if let (Some(file), Some(_)) = (&args.output, &replay.done) {
        deliver::write(&mut answer, file, false)?;
    }
    session
        .out
        .show_as(&serde_json::from_str(&line)?, || text(&replay))?;
    if let Some(problem) = replay.problem {
        return Err(problem.into());
    }
    match (&replay.done, &replay.remembered) {
        (Some(done), Some(known)) if known.output != done.output || known.fuel != replay.fuel => {
            Err(Failure::new(
                Exit::Failed,
                "it came to another result than the one that is remembered, which must not be",
            )
            .next("tell the makers of nearfield; `nearfield rm dataset/NAME --purge` forgets what is remembered")
            .into())
        }
        _ => Ok(()),
    }
}

fn text(replay: &Replay) -> String {
    let of = replay
        .source
        .as_ref()
        .map(|source| format!(" of {}", visible_line(source)))
        .unwrap_or_default();
    let mut text = format!(
        "shard {}{of} ({}, {}), mapped by {}: ",
        replay.shard,
        short(&replay.digest),
        format_bytes(replay.size_bytes),
        visible_line(&replay.function)
    );
    match &replay.done {
        Some(done) => {
            text.push_str(&format!("ok in {:.3} s\n", done.run_us as f64 / 1e6));
            text.push_str(&format!(
                "output   {} ({})\n",
                done.output,
                format_bytes(done.output_bytes)
            ));
            text.push_str(&format!("fuel     {}\n", format_count(replay.fuel)));
            text.push_str(&format!("read     {}\n", format_bytes(done.data_bytes)));
            if done.written_files > 0 {
                text.push_str(&format!(
                    "written  {}, {}\n",
                    counted(done.written_files, "file"),
                    format_bytes(done.written_bytes)
                ));
            }
            text.push_str(&match &replay.remembered {
                None => "nothing is remembered of it".to_owned(),
                Some(known) if known.output == done.output && known.fuel == replay.fuel => {
                    "the same as what is remembered of it".to_owned()
                }
                Some(known) => format!(
                    "remembered is another result: {} ({}), {} fuel",
                    known.output,
                    format_bytes(known.output_bytes),
                    format_count(known.fuel)
                ),
            });
        }
        None => text.push_str(&format!("failed after {} fuel", format_count(replay.fuel))),
    }
    if !replay.log.is_empty() {
        text.push_str("\nlog");
        for line in &replay.log {
            text.push_str(&format!("\n  {}", line.trim_end()));
        }
    }
    text
}
