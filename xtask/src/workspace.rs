//! Where things are, and running other programs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
pub use nearfield_testkit::{output, root};

/// Which build of ours runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    Debug,
    Release,
}

/// Something that was built before, on this machine or another, if `variable` says where.
pub fn given(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

/// Builds and gives the path of the `nearfield` binary.
pub fn nearfield(profile: Profile) -> Result<PathBuf> {
    if let Some(binary) = given("NEARFIELD_BIN") {
        return Ok(binary);
    }
    build(profile, &["nearfield-cli"], "nearfield")
}

/// The debug binary as the tests use it, built in one go with them: by itself it would be built with other
/// features of its dependencies, and then all of these twice.
pub fn nearfield_with_tests() -> Result<PathBuf> {
    if let Some(binary) = given("NEARFIELD_BIN") {
        return Ok(binary);
    }
    step("building nearfield and the tests");
    run(cargo().args(["build", "--workspace", "--bins", "--tests"]))?;
    built("debug", "nearfield")
}

/// Builds and gives the path of the servers that `bench http` compares with.
pub fn bare_server() -> Result<PathBuf> {
    if let Some(binary) = given("NEARFIELD_BARE_SERVER") {
        return Ok(binary);
    }
    // Chosen beside the node, they share its build of the engine: the same features.
    build(
        Profile::Release,
        &["nearfield-cli", "nearfield-benches"],
        "bare-server",
    )
}

/// Builds and gives the path of the program that `bench gpu` compares with.
pub fn bare_gpu() -> Result<PathBuf> {
    match given("NEARFIELD_BARE_GPU") {
        Some(binary) => Ok(binary),
        None => build(
            Profile::Release,
            &["nearfield-cli", "nearfield-benches"],
            "bare-gpu",
        ),
    }
}

/// Builds and gives the path of the S3 server that fails now and then.
pub fn s3_server(profile: Profile) -> Result<PathBuf> {
    match profile {
        // It came with the tests, as the debug binary does.
        Profile::Debug => built("debug", "s3-server"),
        Profile::Release => build(profile, &["nearfield-s3-server"], "s3-server"),
    }
}

/// Builds and gives the path of the word count without a host that `bench jobs` compares with.
pub fn native_wordcount() -> Result<PathBuf> {
    step("building the native word count");
    let functions = root().join("functions");
    let mut cargo = cargo();
    cargo.current_dir(&functions);
    run(cargo.args([
        "build",
        "--release",
        "--package",
        "wordcount",
        "--example",
        "native",
    ]))?;
    let path = functions.join("target/release/examples/native");
    path.canonicalize()
        .with_context(|| format!("cargo built no {}", path.display()))
}

fn build(profile: Profile, packages: &[&str], binary: &str) -> Result<PathBuf> {
    step(&format!("building {binary}"));
    let mut cargo = cargo();
    cargo.args(["build", "--bin", binary]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let folder = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    run(&mut cargo)?;
    built(folder, binary)
}

fn built(folder: &str, binary: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let path = root().join(target).join(folder).join(binary);
    path.canonicalize()
        .with_context(|| format!("cargo built no {}", path.display()))
}

/// cargo at the root of the workspace, without what the cargo that runs us says of this crate: some build
/// scripts watch that, and with them half of our dependencies would be built anew each time.
pub fn cargo() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root());
    for (name, _) in std::env::vars_os() {
        let of_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if of_ours {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs it with our terminal, and fails where it fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Whether a program is on the path.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Installs Debian packages where that needs nobody's password; says whether it worked.
pub fn apt_install(packages: &[&str]) -> bool {
    if !has("apt-get") || !rustix::process::geteuid().is_root() {
        return false;
    }
    step(&format!("installing {}", packages.join(" ")));
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(["-qq", "-y"]).args(arguments);
        run(apt.env("DEBIAN_FRONTEND", "noninteractive").stdout(Stdio::null()))
    };
    // Lists that could not be updated may still be good enough.
    let _ = apt(&["update"]);
    let mut install = vec!["install", "--no-install-recommends"];
    install.extend(packages);
    apt(&install).inspect_err(|error| eprintln!("{error:#}")).is_ok()
}

/// Says on stderr what is going on.
pub fn step(what: &str) {
    eprintln!("── {what}");
}
