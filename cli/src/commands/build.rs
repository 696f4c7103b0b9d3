use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::Session;
use crate::args::{CrateArgs, TestArgs};
use crate::failure::{Exit, Failure};
use crate::{guest, sdk};

pub fn run(session: &Session, args: CrateArgs) -> Result<()> {
    let component = component(session, &args.path)?;
    let size_bytes = std::fs::metadata(&component)?.len();
    let value = json!({ "component": component, "size_bytes": size_bytes });
    session.out.show_as(&value, || component.display().to_string())
}

/// Natively: the SDK's mock host stands in for a node, so that a debugger works and nothing has to run.
pub fn test(args: TestArgs) -> Result<()> {
    require_crate(&args.path)?;
    sdk::provide(&args.path)?;
    let status = Command::new("cargo")
        .arg("test")
        .current_dir(&args.path)
        .status()
        .context("starting cargo")?;
    if !status.success() {
        return Err(Failure::new(
            Exit::Failed,
            format!("the tests of {} failed", args.path.display()),
        )
        .into());
    }
    Ok(())
}

/// Builds the crate in `dir`.
pub fn component(session: &Session, dir: &Path) -> Result<PathBuf> {
    watched(session, dir, guest::build)
}

/// Builds something of the crate in `dir`. cargo's lines pass by on a terminal, and stay only if it fails.
pub fn watched(
    session: &Session,
    dir: &Path,
    build: impl FnOnce(&Path, &mut dyn FnMut(&str)) -> Result<PathBuf>,
) -> Result<PathBuf> {
    require_crate(dir)?;
    sdk::provide(dir)?;
    let spinner = session.out.spinner();
    let mut lines = Vec::new();
    let built = build(dir, &mut |line| {
        spinner.set_message(line.trim().to_owned());
        spinner.tick();
        lines.push(line.to_owned());
    });
    spinner.finish_and_clear();
    if built.is_err() {
        lines.iter().for_each(|line| eprintln!("{line}"));
    }
    built
}

fn require_crate(dir: &Path) -> Result<()> {
    if dir.join("Cargo.toml").is_file() {
        return Ok(());
    }
    let failure = Failure::new(Exit::NotFound, format!("{} holds no Cargo.toml", dir.display()));
    Err(failure
        .next("name a crate's folder, or make one with `nearfield new NAME`")
        .into())
}
