//! Many seeds of the simulated network, and what grows with the number of hosts.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

use super::{Finding, Setting};
use crate::report::count;
use crate::workspace::{cargo, output};

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let seeds = if setting.quick { 5 } else { 200 };
    let job_seeds = if setting.quick { 500 } else { 10_000 };
    // Other seeds each time; one that fails names itself.
    let first = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let test = |name: &str, more: &[&str]| -> Result<String> {
        let mut tests = cargo();
        tests
            .args([
                "test",
                "--quiet",
                "--workspace",
                "--lib",
                name,
                "--",
                "--nocapture",
            ])
            .args(more)
            .env("NEARFIELD_SEEDS", seeds.to_string())
            .env("NEARFIELD_JOB_SEEDS", job_seeds.to_string())
            .env("NEARFIELD_FIRST_SEED", first.to_string());
        Ok(String::from_utf8(output(&mut tests)?)?)
    };
    let said = test("simulation::tests::whatever_happens", &[])?;
    let of = |what: &str| -> Result<u64> {
        let sum = said.lines().filter(|line| line.starts_with("seed ")).map(|line| {
            let at = line.split_once(&format!(" {what}: ")).context("a tally")?.1;
            let digits = at.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            Ok(digits.parse::<u64>()?)
        });
        sum.sum()
    };
    let ran = said.lines().filter(|line| line.starts_with("seed ")).count();
    ensure!(ran >= seeds, "only {ran} of {seeds} seeds ran: {said}");
    let mut findings = vec![(
        format!("{ran} seeds of a simulated network from {first} on"),
        format!(
            "{} crashes, {} hosts lost for good, {} partitions, {} bits rotten: nothing lost, {} jobs right, {} liars found, {} of {} \
             calls found no host",
            count(of("crashes")?),
            count(of("lost")?),
            count(of("partitions")?),
            count(of("rotten")?),
            count(of("jobs")?),
            count(of("quarantined")?),
            count(of("refused")?),
            count(of("calls")?)
        ),
    )];
    let said = test("simulation::tests::every_job", &[])?;
    let all = said.lines().find(|line| line.contains("seeds of jobs"));
    findings.push((
        "the jobs' engine over a few hosts".to_owned(),
        all.context("a tally of jobs")?.to_owned(),
    ));
    if !setting.quick {
        let said = test("simulation::tests::what_grows", &["--ignored"])?;
        let rows = said.lines().filter(|line| line.starts_with("hosts "));
        findings.extend(rows.map(|row| ("what grows".to_owned(), row.to_owned())));
        ensure!(findings.len() > 1, "no figures: {said}");
    }
    Ok(findings)
}
