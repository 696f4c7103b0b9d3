//! Three shards of a thousand fail: named exactly, run once each, and left out where that was asked for.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use nearfield_testkit::Node;
use serde_json::Value;

use super::rig::{self, Rig, number, put};
use crate::report::count;
use crate::soak::{Finding, Setting};

const FAILING: u64 = 3;
/// What the guest may burn in a shard, so that a loop ends.
const FUEL: u64 = 500_000_000;
const LOG_WRITER: Duration = Duration::from_millis(300);
/// What the data says, and the problem that it makes.
const KINDS: [(&str, &str); 4] = [
    ("trap", "trap"),
    ("err", "function-failed"),
    ("loop", "out-of-fuel"),
    ("memory", "out-of-memory"),
];

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let shards: u64 = if setting.quick { 100 } else { 1_000 };
    let place = Rig::new(setting)?;
    place.deploy(
        "hostile-job",
        &format!("limits = {{ fuel = {FUEL}, memory = \"64MiB\" }}"),
    )?;
    let mut findings = Vec::new();
    for (number, (poison, problem)) in KINDS.into_iter().enumerate() {
        let number = number as u64;
        let failing = [1, 2, 3].map(|part| part * shards / 4 + number);
        let spent = fail(&place, shards, poison, problem, failing)?;
        findings.push((
            format!("{FAILING} of {} shards: {problem}", count(shards)),
            format!(
                "shards {failing:?} named with their files; each ran once a job, {} fuel in all; skip:3 goes on",
                count(spent)
            ),
        ));
    }
    place.node.stop()?;
    Ok(findings)
}

/// Returns the fuel that the failing shards burned.
fn fail(place: &Rig, shards: u64, poison: &str, problem: &str, failing: [u64; 3]) -> Result<u64> {
    let node = &place.node;
    let folder = place.folder.path().join(poison);
    fs::create_dir_all(&folder)?;
    for shard in 0..shards {
        let poison = match failing.contains(&shard) {
            true => format!("poison {poison}\n"),
            false => String::new(),
        };
        // A file that is cut by lines is a shard.
        fs::write(
            folder.join(format!("{shard:05}.txt")),
            format!("{shard}\n{poison}"),
        )?;
    }
    let stored = put(node, &folder, poison, "lines", "64KiB")?;
    ensure!(stored["shards"] == shards, "{stored} instead of {shards} shards");
    let job = ["hostile-job", "--over", poison, "--on-error"];
    let with = |on_error: &'static str| rig::run(node, &[&job[..], &[on_error]].concat());

    let failed = with("fail")?;
    ensure!(failed.state == "failed", "it is {}", failed.state);
    named(&failed.report, &failing, problem, 1..=1)?;

    let skipped = with("skip:3")?.done()?;
    named(&skipped.report, &failing, problem, 3..=3)?;
    ensure!(skipped.number("failed")? == FAILING && skipped.number("shards")? == shards);
    let output: Value = serde_json::from_slice(&skipped.output(node)?)?;
    ensure!(
        number(&output, "lines")? == shards - FAILING,
        "{output} instead of the lines of {} shards",
        shards - FAILING
    );

    // Now all others are remembered: what is burned and printed comes from failing shards.
    let printed = poisoned(node)?;
    let again = with("skip:3")?.done()?;
    let spent = again.number("fuel_spent")?;
    ensure!(
        again.number("remembered")? == shards - FAILING && again.report["digest"] == skipped.report["digest"]
    );
    ensure!(
        again.number("fuel")? == skipped.number("fuel")?,
        "the job's fuel is another the second time"
    );
    if poison == "loop" {
        ensure!(
            (FAILING * FUEL..=FAILING * FUEL * 11 / 10).contains(&spent),
            "three loops of {FUEL} fuel burned {spent}"
        );
    }
    let too_many = with("skip:2")?;
    ensure!(too_many.state == "failed", "it is {}", too_many.state);
    named(&too_many.report, &failing, problem, 3..=3)?;
    let runs = poisoned(node)? - printed;
    ensure!(
        runs == 2 * FAILING,
        "in two jobs the three failing shards ran {runs} times"
    );
    Ok(spent)
}

/// How often a failing shard ran so far: each run says so in the log, whose writer may be a moment behind.
fn poisoned(node: &Node) -> Result<u64> {
    let mut last = None;
    loop {
        let log = node.json(&["logs", "hostile-job", "--lines", "10000"])?;
        let now = log.to_string().matches("poisoned").count() as u64;
        if last == Some(now) {
            return Ok(now);
        }
        last = Some(now);
        std::thread::sleep(LOG_WRITER);
    }
}

/// Checks that what a report lists are so many of the failing shards, in order, each with its file and reason.
fn named(
    report: &Value,
    failing: &[u64; 3],
    problem: &str,
    wanted: std::ops::RangeInclusive<usize>,
) -> Result<()> {
    let failures = report["failures"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(wanted.contains(&failures.len()), "{} failures", failures.len());
    let mut last = None;
    for failure in failures {
        let shard = number(failure, "shard")?;
        ensure!(failing.contains(&shard), "shard {shard} is said to have failed");
        ensure!(last < Some(shard), "shard {shard} is out of order");
        let file = format!("{shard:05}.txt");
        let kind = failure["problem"]["type"].as_str().unwrap_or_default();
        ensure!(
            failure["source"] == *file && kind.ends_with(&format!(":{problem}")),
            "shard {shard}: {failure}"
        );
        last = Some(shard);
    }
    Ok(())
}
