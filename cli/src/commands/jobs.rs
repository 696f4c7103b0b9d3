//! `run`, `ls jobs`, `wait`, `cancel`: jobs as a user sees them.

use std::io::Read;

use anyhow::{Context, Result, bail};
use nearfield_protocol::units::{format_bytes, format_count};
use nearfield_protocol::{JobId, Problem};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Session;
use crate::args::RunArgs;
use crate::client::Call;
use crate::events;
use crate::failure::{Exit, Failure};
use crate::interrupt::Farewell;
use crate::output::{counted, table, utc_minute};
use crate::visible::{visible, visible_line};

/// Outputs up to this size are part of `--json`'s value; larger ones are fetched with `get`-like curl.
const INLINE_OUTPUT_BYTES: u64 = 16 << 20;
/// Failed shards that are shown one by one.
const SHOWN_FAILURES: usize = 10;

#[derive(Deserialize)]
struct Record {
    id: String,
    function: String,
    dataset: Option<String>,
    dataset_digest: String,
    #[serde(default)]
    args: Value,
    started_unix_ms: u64,
    state: State,
    progress: Option<Progress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
enum State {
    Running,
    Done(Box<Report>),
    Failed { problem: Problem, failures: Vec<Failed> },
    Cancelled,
}

#[derive(Deserialize)]
struct Report {
    digest: String,
    output_bytes: u64,
    shards: u64,
    remembered: u64,
    fuel: u64,
    fuel_spent: u64,
    bytes_read: u64,
    shard_bytes_moved: u64,
    partial_bytes_moved: u64,
    seconds: f64,
    hosts: u64,
    failed: u64,
    failures: Vec<Failed>,
    into: Option<Value>,
    checked: Option<Checked>,
    #[serde(default)]
    quarantined: Vec<String>,
    predicted: Option<Predicted>,
}

#[derive(Deserialize, Serialize)]
struct Checked {
    runs: u64,
    unchecked: u64,
    fuel: u64,
}

#[derive(Deserialize)]
struct Failed {
    shard: u32,
    digest: String,
    source: Option<String>,
    problem: Problem,
}

#[derive(Deserialize)]
struct Predicted {
    shards: u64,
    bytes: u64,
    fuel: u64,
    seconds: Option<f64>,
}

#[derive(Deserialize)]
struct Progress {
    shards: u64,
    done: u64,
    remembered: u64,
    failed: u64,
    bytes_done: u64,
    bytes: u64,
    fuel_spent: u64,
}

pub fn run(session: &Session, args: RunArgs) -> Result<()> {
    let request = json!({
        "function": args.function,
        "over": args.over,
        "args": args.args,
        "into": args.into,
        "max_fuel": args.max_fuel,
        "sample": args.sample,
        "only": args.only,
        "skip": args.on_error,
        "dry_run": args.dry_run,
        "check": args.check,
    });
    let started = session
        .client
        .change("POST", "/v1/jobs", &request)
        .with_context(|| format!("running `{}` over `{}`", args.function, args.over))?;
    let id = started["id"].as_str().context("the node names no job")?;
    if args.detach {
        let reply = json!({ "job": id });
        return session.out.show_as(&reply, || id.to_owned());
    }
    session.out.notice(&format!("job {id}"));
    wait(session, id.parse()?)
}

/// Follows the job's events, then shows what it came to.
pub fn wait(session: &Session, job: JobId) -> Result<()> {
    let record = follow(session, job)?;
    match &record.state {
        State::Done(report) => show(session, &record, report),
        State::Failed { problem, failures } => {
            // The problem itself names the first one.
            if failures.len() > 1 {
                list_failures(session, &record, failures);
            }
            Err(anyhow::Error::from(problem.clone()).context(format!("job {} failed", record.id)))
        }
        State::Cancelled => Err(Failure::new(Exit::Failed, format!("job {job} was cancelled"))
            .next("run it again: what it had done is remembered")
            .into()),
        State::Running => Err(Failure::new(
            Exit::Unreachable,
            format!("job {job} still runs, but the node stops"),
        )
        .next("start the node again: the job goes on")
        .into()),
    }
}

fn follow(session: &Session, job: JobId) -> Result<Record> {
    let response = session
        .client
        .send(Call::get(format!("/v1/jobs/{job}/events")), ())
        .with_context(|| format!("following job {job}"))?;
    let _farewell = Farewell::new(format!(
        "job {job} goes on: `nearfield wait {job}` follows it, `nearfield cancel {job}` stops it"
    ));
    let bar = session.out.bytes_bar(Some(0));
    let ended = events::follow(response, |event, data| match event {
        "progress" => {
            let progress: Progress = serde_json::from_str(data)?;
            bar.set_length(progress.bytes);
            bar.set_position(progress.bytes_done);
            bar.set_message(line_of(&progress));
            Ok(None)
        }
        "end" => Ok(Some(serde_json::from_str(data)?)),
        _ => bail!("the node says: {data}"),
    });
    bar.finish_and_clear();
    let ended = ended.with_context(|| format!("following job {job}; `nearfield wait` takes it up again"))?;
    ended.with_context(|| format!("the job's events ended early; `nearfield wait {job}` takes them up again"))
}

fn line_of(progress: &Progress) -> String {
    let failed = match progress.failed {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!(
        "{}/{} shards, {} remembered{failed}, {} fuel",
        progress.done,
        progress.shards,
        progress.remembered,
        format_count(progress.fuel_spent)
    )
}

fn show(session: &Session, record: &Record, report: &Report) -> Result<()> {
    list_failures(session, record, &report.failures);
    let output = output(session, record, report)?;
    let value = json!({
        "job": record.id,
        "output": output,
        "digest": report.digest,
        "output_bytes": report.output_bytes,
        "fuel": report.fuel,
        "fuel_spent": report.fuel_spent,
        "shards": report.shards,
        "remembered": report.remembered,
        "skipped": report.failed,
        "bytes_read": report.bytes_read,
        "shard_bytes_moved": report.shard_bytes_moved,
        "partial_bytes_moved": report.partial_bytes_moved,
        "seconds": report.seconds,
        "hosts": report.hosts,
        "into": report.into,
        "checked": report.checked,
        "quarantined": report.quarantined,
        "predicted": report.predicted.as_ref().map(|predicted| json!({
            "shards": predicted.shards,
            "bytes": predicted.bytes,
            "fuel": predicted.fuel,
            "seconds": predicted.seconds,
        })),
    });
    session.out.notice(&summary(report));
    for host in &report.quarantined {
        let host = host.get(..10).unwrap_or(host);
        session.out.notice(&format!(
            "host {host} returned wrong results and is quarantined: what it made was made again by others; \
             `nearfield rm node/{host}` expels it, `nearfield drain {host} --undo` trusts it again"
        ));
    }
    if let (false, None, Value::String(text)) = (session.out.json, &report.predicted, &output) {
        return session.out.data(text);
    }
    session
        .out
        .show_as(&value, || match (&report.predicted, &output) {
            (Some(predicted), _) => format!(
                "{} shards, {}: about {} fuel{}",
                predicted.shards,
                format_bytes(predicted.bytes),
                format_count(predicted.fuel),
                predicted
                    .seconds
                    .map(|seconds| format!(" and {seconds:.1} s here"))
                    .unwrap_or_default()
            ),
            (None, output) => serde_json::to_string_pretty(output).unwrap_or_default(),
        })
}

fn summary(report: &Report) -> String {
    let into = match &report.into {
        Some(into) => format!(
            "; {} files in dataset {} v{}",
            into["files"],
            into["name"].as_str().unwrap_or_default(),
            into["version"]
        ),
        None => String::new(),
    };
    let checked = match &report.checked {
        Some(Checked {
            runs, unchecked: 0, ..
        }) => format!("; {} checked on another host", counted(*runs, "run")),
        Some(Checked { runs, unchecked, .. }) => format!(
            "; {} checked on another host, {unchecked} not, for want of one",
            counted(*runs, "run")
        ),
        None => String::new(),
    };
    format!(
        "{} in {:.2} s, {} remembered; {} fuel, {} of it now; {} read{checked}{into}",
        counted(report.shards, "shard"),
        report.seconds,
        report.remembered,
        format_count(report.fuel),
        format_count(report.fuel_spent),
        format_bytes(report.bytes_read),
    )
}

/// The output as JSON if it is some, as text if it is that; null with a word if it is too large.
fn output(session: &Session, record: &Record, report: &Report) -> Result<Value> {
    let path = format!("/v1/jobs/{}/output", record.id);
    if report.output_bytes > INLINE_OUTPUT_BYTES {
        let size = format_bytes(report.output_bytes);
        session
            .out
            .notice(&format!("the output has {size}: fetch {path} from the admin API"));
        return Ok(Value::Null);
    }
    let mut bytes = Vec::new();
    let response = session.client.send(Call::get(path), ())?;
    response
        .into_body()
        .into_reader()
        .read_to_end(&mut bytes)
        .context("reading the job's output")?;
    Ok(serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned())))
}

/// Which shards failed, why, and how to look into it.
fn list_failures(session: &Session, record: &Record, failures: &[Failed]) {
    if session.out.json {
        return;
    }
    for failed in failures.iter().take(SHOWN_FAILURES) {
        let source = failed
            .source
            .as_ref()
            .map(|source| format!(" of {source}"))
            .unwrap_or_default();
        eprintln!(
            "shard {}{} ({}): {}",
            failed.shard,
            visible_line(&source),
            short(&failed.digest),
            visible(&failed.problem.to_string())
        );
    }
    if let Some(first) = failures.first() {
        if failures.len() > SHOWN_FAILURES {
            eprintln!("and {} more", failures.len() - SHOWN_FAILURES);
        }
        eprintln!(
            "to look into one: nearfield replay {} --shard {}   (--native runs it here, under a debugger if you like)",
            record.id, first.shard
        );
    }
}

/// A digest's beginning.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..13).unwrap_or(digest)
}

pub fn list(session: &Session) -> Result<()> {
    let listed = session.client.get("/v1/jobs")?;
    session.out.show_as(&listed, || {
        let records: Vec<Record> = serde_json::from_value(listed["jobs"].clone()).unwrap_or_default();
        if records.is_empty() {
            return "no jobs; start one with `nearfield run FUNCTION --over DATASET`".to_owned();
        }
        let rows = records.iter().map(|record| {
            let over = record
                .dataset
                .clone()
                .unwrap_or_else(|| short(&record.dataset_digest).to_owned());
            let state = match (&record.state, &record.progress) {
                (State::Done(report), _) => format!("done in {:.2} s", report.seconds),
                (State::Failed { problem, .. }, _) => format!("failed: {}", problem.kind.slug()),
                (State::Cancelled, _) => "cancelled".to_owned(),
                (State::Running, Some(progress)) => format!("{}/{} shards", progress.done, progress.shards),
                (State::Running, None) => "waits for the node".to_owned(),
            };
            let started = utc_minute(record.started_unix_ms);
            let args = shown(&record.args);
            [
                record.id.clone(),
                record.function.clone(),
                over,
                args,
                started,
                state,
            ]
        });
        table(
            ["JOB", "FUNCTION", "OVER", "ARGS", "STARTED (UTC)", "STATE"],
            rows,
        )
    })
}

/// Arguments in a table's column.
fn shown(args: &Value) -> String {
    const WIDTH: usize = 40;
    match args {
        Value::Null => String::new(),
        args => {
            let text = args.to_string();
            match text.char_indices().nth(WIDTH) {
                Some((at, _)) => format!("{}…", &text[..at]),
                None => text,
            }
        }
    }
}

pub fn cancel(session: &Session, job: JobId) -> Result<()> {
    let record = session.client.delete(format!("/v1/jobs/{job}"))?;
    session
        .out
        .show_as(&record, || match record["state"]["state"].as_str() {
            Some("running") => format!("job {job} stops"),
            _ => format!("job {job} had ended already"),
        })
}
