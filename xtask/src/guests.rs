//! Builds the example functions, after making sure that something here can.

// The CLI's own way to compile guests: `cargo xtask` must choose as it does, also before there is a CLI.
#[path = "../../cli/src/guest.rs"]
mod guest;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use guest::{Toolchain, toolchain};

use crate::workspace::{apt_install, given, root, step};

/// Builds all functions and gives the folder with their components.
pub fn build() -> Result<PathBuf> {
    if let Some(folder) = given("NEARFIELD_FUNCTIONS") {
        return Ok(folder);
    }
    prepare()?;
    let functions = root().join("functions").canonicalize()?;
    let mut folder = None;
    for member in members(&functions)? {
        let name = member.file_name().unwrap_or_default().display().to_string();
        step(&format!("building functions/{name}"));
        let mut said = Vec::new();
        let built = guest::build(&member, &mut |line| said.push(line.to_owned()));
        let component = built.inspect_err(|_| eprintln!("{}", said.join("\n")))?;
        folder = component.parent().map(Path::to_owned);
    }
    match folder {
        Some(folder) => Ok(folder),
        None => bail!("there are no functions in {}", functions.display()),
    }
}

/// What a function's crate becomes.
pub fn component(folder: &Path, function: &str) -> PathBuf {
    folder.join(format!("{}.wasm", function.replace('-', "_")))
}

/// Sets up a toolchain for guests where there is none: rustup's target, else Debian's second Rust.
fn prepare() -> Result<()> {
    if !matches!(toolchain(), Toolchain::Missing(_)) {
        return Ok(());
    }
    step("adding the target wasm32-wasip2");
    let _ = Command::new("rustup")
        .args(["target", "add", "wasm32-wasip2"])
        .current_dir(root())
        .stdin(Stdio::null())
        .status();
    if let Toolchain::Missing(_) = toolchain() {
        apt_install(&["rustc-web", "cargo-web", "rust-web-src", "wasi-libc"]);
    }
    match toolchain() {
        Toolchain::Missing(what_to_do) => bail!(what_to_do),
        Toolchain::Installed | Toolchain::Debian { .. } => Ok(()),
    }
}

/// The folders of the functions' crates, sorted.
fn members(functions: &Path) -> Result<Vec<PathBuf>> {
    let mut members: Vec<_> = fs::read_dir(functions)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("Cargo.toml").is_file())
        .collect();
    members.sort();
    Ok(members)
}
