//! Jobs on data that is large, hostile or changing: what they come to, what they cost, and that memory stays flat.

mod big;
mod failing;
mod flights;
mod incremental;
mod reference;
mod repeat;
mod result;
pub mod rig;

use anyhow::Result;

use super::{Finding, Setting};
use crate::workspace::step;

type Check = (&'static str, fn(&Setting) -> Result<Vec<Finding>>);

const CHECKS: [Check; 7] = [
    ("many files", big::files),
    ("a large result", result::run),
    ("failing shards", failing::run),
    ("changed data", incremental::run),
    ("against a reference", reference::run),
    ("the same everywhere", repeat::run),
    ("many shards", big::shards),
];

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (name, check) in CHECKS {
        step(&format!("soak: jobs: {name}"));
        let found = check(setting)?;
        // They are in the table at the end; what was found before a failure is worth knowing, too.
        for (what, result) in &found {
            eprintln!("   {what}: {result}");
        }
        findings.extend(found);
    }
    Ok(findings)
}
