//! The same job comes to the same bytes and fuel with one worker, with two, and after a kill in the middle.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start};

use super::flights::flights;
use super::rig::{self, Ended, deploy, number, put};
use crate::report::{bytes, count};
use crate::soak::{Finding, Setting};

const JOB: [&str; 5] = ["stats", "--over", "flights", "--args", r#"{"by":"carrier"}"#];

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let folder = Folder::new("jobs")?;
    let csv = folder.path().join("many.csv");
    repeat(
        &flights(folder.path())?.0,
        if setting.quick { 1 } else { 10 },
        &csv,
    )?;
    let start = |name: &str, workers: &str| -> Result<Node> {
        let data = folder.path().join(name);
        let node = Start::new(&setting.nearfield, &data)
            .flags(&["--job-workers", workers])
            .run()?;
        put(&node, &csv, "flights", "csv", "64KiB")?;
        deploy(
            setting,
            &node,
            folder.path(),
            "stats",
            "limits = { fuel = 50_000_000_000 }",
        )?;
        Ok(node)
    };
    let one = start("one", "1")?;
    let alone = rig::run(&one, &JOB)?.done()?;
    one.stop()?;
    let two = start("two", "2")?;
    let together = rig::run(&two, &JOB)?.done()?;
    two.stop()?;
    same(&alone, &together)?;

    let node = start("killed", "2")?;
    let shards = alone.number("shards")?;
    let started = node.json(&[&["run"], &JOB[..], &["--detach"]].concat())?;
    let id = started["job"].as_str().context("the job's id")?.to_owned();
    until(&node, &id, shards / 3)?;
    node.kill()?;
    drop(node);
    let data = folder.path().join("killed");
    let node = Start::new(&setting.nearfield, &data)
        .flags(&["--job-workers", "2"])
        .run()?;
    let resumed = rig::follow(&node, id)?.done()?;
    node.stop()?;
    same(&alone, &resumed)?;
    let remembered = resumed.number("remembered")?;
    ensure!(
        remembered >= shards / 3,
        "only {remembered} of {shards} shards outlived the kill"
    );
    let spent = resumed.number("fuel_spent")?;
    ensure!(spent < alone.number("fuel_spent")?, "nothing was saved");
    Ok(vec![(
        format!(
            "stats over {} in {} shards: 1 worker, 2 workers, killed in the middle",
            bytes(fs::metadata(&csv)?.len()),
            count(shards)
        ),
        format!(
            "the same digest and {} fuel each; after the kill {} shards were not run again",
            count(alone.number("fuel")?),
            count(remembered)
        ),
    )])
}

fn same(one: &Ended, other: &Ended) -> Result<()> {
    for field in ["digest", "fuel", "output_bytes", "shards"] {
        ensure!(
            one.report[field] == other.report[field],
            "{field}: {} and {}",
            one.report[field],
            other.report[field]
        );
    }
    Ok(())
}

/// Waits until so many shards are done, and some are not.
fn until(node: &Node, id: &str, done: u64) -> Result<()> {
    let start = Instant::now();
    loop {
        let job = serde_json::from_reader(node.stream(&format!("/v1/jobs/{id}"))?)?;
        let job: serde_json::Value = job;
        ensure!(
            job["state"]["state"] == "running",
            "it ended before it was killed"
        );
        if job["progress"].is_object() && number(&job["progress"], "done")? >= done && done > 0 {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "it does not go on: {job}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The table so many times, each time with other numbers in it.
fn repeat(csv: &Path, times: usize, to: &Path) -> Result<()> {
    let mut out = BufWriter::new(File::create(to)?);
    for time in 0..times {
        for (index, line) in BufReader::new(File::open(csv)?).lines().enumerate() {
            match index {
                0 if time > 0 => {}
                0 => writeln!(out, "{}", line?)?,
                _ => writeln!(out, "{time}{}", line?)?,
            }
        }
    }
    Ok(out.flush()?)
}
