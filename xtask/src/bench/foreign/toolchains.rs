//! The toolchains of other languages, each in the version that the figures name, below `target/foreign`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::{apt_install, cargo, has, output, root, run, step};

/// What a folder of `benches/foreign` is built with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toolchain {
    /// componentize-py.
    Python,
    /// componentize-js and jco.
    Node,
    /// clang, with bindings by wit-bindgen.
    C,
}

/// The release of `wasi:http` that a component is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wasi {
    P2,
    P3,
}

const PYTHON_PACKAGES: &[&str] = &["componentize-py==0.25.1"];
const NODE_PACKAGES: &[&str] = &[
    "@bytecodealliance/componentize-js@0.23.0",
    "@bytecodealliance/jco@1.35.0",
];
/// Debian's packages.
const C_PACKAGES: &[&str] = &["clang", "lld", "wasi-libc", "libclang-rt-14-dev-wasm32"];
/// Crates with a program each, their version, and their features.
const C_CRATES: &[[&str; 4]] = &[
    ["wit-bindgen", "wit-bindgen-cli", "0.63.0", "c,async"],
    ["wasm-tools", "wasm-tools", "1.263.0", "component"],
];

/// Builds the component of one folder of `benches/foreign`, after its toolchain is there.
pub fn build(name: &str, toolchain: Toolchain, wasi: Wasi, component: &Path) -> Result<()> {
    let tools = root().join("target/foreign/tools");
    fs::create_dir_all(&tools)?;
    let programs = match toolchain {
        Toolchain::Python => python(&tools)?,
        Toolchain::Node => node(&tools)?,
        Toolchain::C => c(&tools)?,
    };
    step(&format!("building benches/foreign/{name}"));
    let script = root().join("benches/foreign").join(name).join("build.sh");
    let mut build = Command::new(script);
    build
        .arg(component)
        .env("WIT", wit(wasi)?)
        .env("PATH", before_path(&programs)?);
    if toolchain == Toolchain::Python {
        build.env("PYTHONPATH", tools.join("python"));
    }
    run(&mut build)
}

fn python(tools: &Path) -> Result<PathBuf> {
    let folder = tools.join("python");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(&folder);
    install(pip, PYTHON_PACKAGES, &folder, "bin", "componentize-py")
}

fn node(tools: &Path) -> Result<PathBuf> {
    let folder = tools.join("node");
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"])
        .arg(&folder);
    install(npm, NODE_PACKAGES, &folder, "node_modules/.bin", "jco")
}

/// Has a package manager install `packages` into `folder` unless `program` is there. Gives the folder of the programs.
fn install(
    mut manager: Command,
    packages: &[&str],
    folder: &Path,
    programs: &str,
    program: &str,
) -> Result<PathBuf> {
    let programs = folder.join(programs);
    if !programs.join(program).exists() {
        step(&format!("installing {}", packages.join(", ")));
        fs::create_dir_all(folder)?;
        run(manager.args(packages))?;
    }
    Ok(programs)
}

fn c(tools: &Path) -> Result<PathBuf> {
    ensure!(
        (has("clang") && has("wasm-ld")) || apt_install(C_PACKAGES),
        "this needs Debian's packages {}",
        C_PACKAGES.join(" ")
    );
    let folder = tools.join("cargo");
    let programs = folder.join("bin");
    for [program, name, version, features] in C_CRATES {
        if programs.join(program).is_file() {
            continue;
        }
        step(&format!("building {name} {version}"));
        let mut cargo = cargo();
        cargo
            .args(["install", "--quiet", "--locked", "--no-default-features"])
            .args(["--features", features, "--version", version, "--root"]);
        run(cargo.arg(&folder).arg(name))?;
    }
    Ok(programs)
}

/// The WIT packages of `wasi:http`, as the crate of the engine that we link brings them.
fn wit(wasi: Wasi) -> Result<PathBuf> {
    let listed = output(cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let listed: Value = serde_json::from_slice(&listed)?;
    let packages = listed["packages"].as_array().context("cargo's packages")?;
    let package = packages
        .iter()
        .find(|package| package["name"] == "wasmtime-wasi-http");
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.context("the crate wasmtime-wasi-http is no dependency")?;
    let folder = match wasi {
        Wasi::P2 => "wit/deps",
        Wasi::P3 => "src/p3/wit/deps",
    };
    let folder = Path::new(manifest).with_file_name(folder);
    ensure!(folder.is_dir(), "there is no {}", folder.display());
    Ok(folder)
}

fn before_path(programs: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = [programs.to_owned()].into_iter();
    Ok(std::env::join_paths(folders.chain(std::env::split_paths(&path)))?)
}
