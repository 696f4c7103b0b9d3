//! `cargo xtask test`: everything that can be tested, the long ones aside.

use std::process::Command;

use anyhow::Result;

use crate::workspace::{self, cargo, has, root, step};
use crate::{gpu, guests};

pub fn run() -> Result<()> {
    let components = guests::build()?;
    let binary = workspace::nearfield_with_tests()?;

    let adapter = gpu::adapter(&binary)?;
    // Tests that need one leave themselves out by this.
    let test_gpu = match &adapter {
        Ok(_) => "any",
        Err(_) => "none",
    };

    step("the functions' native tests");
    let functions = root().join("functions");
    workspace::run(
        Command::new("cargo")
            .args(["test", "--quiet", "--workspace"])
            .env("NEARFIELD_TEST_GPU", test_gpu)
            .current_dir(&functions),
    )?;

    step("the SDK's documentation");
    let mut documentation = cargo();
    documentation.args([
        "test",
        "--quiet",
        "--doc",
        "--package",
        "nearfield",
        "--features",
        "gpu",
    ]);
    workspace::run(documentation.env("NEARFIELD_TEST_GPU", test_gpu))?;

    let mut listing = cargo();
    let ours = on_a_gpu(&mut listing)?;
    let theirs = on_a_gpu(Command::new("cargo").current_dir(&functions))?;
    match &adapter {
        Ok(name) => step(&format!(
            "of what follows and went before {} tests run on {name}",
            ours + theirs
        )),
        Err(lacks) => step(&format!("no test runs on a GPU, of {}: {lacks}", ours + theirs)),
    }

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
            .env("NEARFIELD_TEST_GPU", test_gpu)
            .env("NEARFIELD_FUNCTIONS", components)
            .env("NEARFIELD_BIN", binary),
    )
}

/// How many tests of a workspace need a GPU.
fn on_a_gpu(cargo: &mut Command) -> Result<usize> {
    cargo.args([
        "test",
        "--quiet",
        "--workspace",
        "--lib",
        "--bins",
        "--tests",
        "--",
        "--list",
        "on_a_gpu",
    ]);
    let listed = workspace::output(cargo)?;
    Ok(String::from_utf8_lossy(&listed)
        .lines()
        .filter(|line| line.ends_with(": test"))
        .count())
}
