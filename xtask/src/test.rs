//! `cargo xtask test`: everything that can be tested, the long ones aside.

use std::process::Command;

use anyhow::Result;

use crate::guests;
use crate::workspace::{self, cargo, has, root, step};

pub fn run() -> Result<()> {
    let components = guests::build()?;
    let binary = workspace::nearfield_with_tests()?;

    step("the functions' native tests");
    workspace::run(
        Command::new("cargo")
            .args(["test", "--quiet", "--workspace"])
            .current_dir(root().join("functions")),
    )?;

    step("the SDK's documentation");
    workspace::run(cargo().args(["test", "--quiet", "--doc", "--package", "nearfield"]))?;

    // Last, so that its summary is what one sees.
    step("the workspace");
    let mut tests = cargo();
    if has("cargo-nextest") {
        tests.args(["nextest", "run", "--workspace"]);
    } else {
        tests.args(["test", "--workspace", "--lib", "--bins", "--tests"]);
    }
    workspace::run(
        tests
            .env("NEARFIELD_FUNCTIONS", components)
            .env("NEARFIELD_BIN", binary),
    )
}
