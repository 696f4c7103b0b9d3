//! Random jobs in Wasm and natively: the same bytes (`tests/src/differential.rs`).

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::{Finding, Setting};
use crate::workspace;

/// Random jobs, and in CI, whose tests have run some already.
const SEEDS: u32 = 10_000;
const QUICK_SEEDS: u32 = 400;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let seeds = if setting.quick { QUICK_SEEDS } else { SEEDS };
    // Others each time; a job that differs names its seed.
    let first = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut tests = workspace::cargo();
    // All of them, or their dependencies would be built anew with other features.
    tests
        .args([
            "test",
            "--quiet",
            "--workspace",
            "--bins",
            "--tests",
            "differential::",
        ])
        .env("NEARFIELD_SEEDS", seeds.to_string())
        .env("NEARFIELD_FIRST_SEED", first.to_string())
        .env("NEARFIELD_BIN", &setting.nearfield)
        .env("NEARFIELD_FUNCTIONS", &setting.components);
    workspace::run(&mut tests)?;
    Ok(vec![(
        format!("{seeds} random jobs from seed {first} on, and the example jobs over random data"),
        "the same bytes in Wasm and natively".to_owned(),
    )])
}
