//! Builds guests: finds out how this machine can compile for `wasm32-wasip2`, and does it.
//!
//! Three ways, in this order: the active toolchain has the target; rustup can add it; Debian's second Rust builds
//! the standard library from its sources (`rustc-web`, `cargo-web`, `rust-web-src`, `wasi-libc`).

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const TARGET: &str = "wasm32-wasip2";

/// What can compile guests here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// The active Rust has the target's standard library.
    Installed,
    /// Debian's second Rust builds it, linking with the tools in these folders.
    Debian { linkers: Vec<PathBuf> },
    /// Nothing, for this reason; the text says what to install.
    Missing(String),
}

/// Looks for a toolchain, and changes nothing.
pub fn toolchain() -> Toolchain {
    find(Path::new("."))
}

/// Builds the crate in `crate_dir` in release, telling each of cargo's lines to `progress`, and returns the component.
pub fn build(crate_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let mut found = find(crate_dir);
    if found != Toolchain::Installed && add_target(crate_dir) {
        found = find(crate_dir);
    }
    let mut cargo = match found {
        Toolchain::Installed => clean(Command::new("cargo")),
        Toolchain::Debian { linkers } => debian(linkers)?,
        Toolchain::Missing(what) => bail!(what),
    };
    cargo.args(["build", "--release", "--target", TARGET]);
    let found = artifact(cargo, crate_dir, component, progress)?;
    found.with_context(|| {
        format!(
            "{} builds no component; its Cargo.toml needs [lib] crate-type = [\"cdylib\"]",
            crate_dir.display()
        )
    })
}

/// Runs `cargo` in `crate_dir`, and returns the file that `of` finds in the message about the crate there.
pub fn artifact(
    mut cargo: Command,
    crate_dir: &Path,
    of: fn(&str) -> Option<PathBuf>,
    progress: &mut dyn FnMut(&str),
) -> Result<Option<PathBuf>> {
    cargo
        .arg("--message-format=json-render-diagnostics")
        .current_dir(crate_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = cargo
        .spawn()
        .with_context(|| format!("starting {}", cargo.get_program().display()))?;

    // Both pipes are read at once: a full one would stop cargo.
    let stdout = child.stdout.take().context("cargo's stdout")?;
    let artifacts = std::thread::spawn(move || artifacts_of(BufReader::new(stdout), of));
    let stderr = child.stderr.take().context("cargo's stderr")?;
    for line in BufReader::new(stderr).lines() {
        progress(&line?);
    }
    let artifacts = artifacts
        .join()
        .map_err(|_| anyhow::anyhow!("reading cargo's messages"))?;
    ensure!(
        child.wait()?.success(),
        "cargo could not build {}",
        crate_dir.display()
    );

    // A workspace's root builds all its members: the one in `crate_dir` itself counts.
    let manifest = crate_dir.join("Cargo.toml").canonicalize()?;
    let found = artifacts
        .into_iter()
        .find(|(built, _)| Path::new(built).canonicalize().is_ok_and(|path| path == manifest));
    Ok(found.map(|(_, file)| file))
}

/// What compiles in `dir`: a `rust-toolchain.toml` there may choose.
fn find(dir: &Path) -> Toolchain {
    let sysroot = sysroot(dir);
    if sysroot
        .as_ref()
        .is_some_and(|root| root.join("lib/rustlib").join(TARGET).join("lib").is_dir())
    {
        return Toolchain::Installed;
    }
    let missing: Vec<_> = DEBIAN
        .iter()
        .filter(|(path, _)| !Path::new(path).exists())
        .map(|(_, name)| *name)
        .collect();
    let linkers = sysroot.map(|root| linkers(&root)).unwrap_or_default();
    if missing.is_empty() && !linkers.is_empty() {
        return Toolchain::Debian { linkers };
    }
    let otherwise = match missing.as_slice() {
        [] => "; its linkers wasm-component-ld and wasm-ld come with rustup's toolchains".to_owned(),
        names => format!(", or on Debian: apt-get install {}", names.join(" ")),
    };
    Toolchain::Missing(format!(
        "no Rust here compiles for {TARGET}; run: rustup target add {TARGET}{otherwise}"
    ))
}

/// What the Debian way needs: a file of each package.
const DEBIAN: [(&str, &str); 4] = [
    ("/usr/bin/rustc", "rustc-web"),
    ("/usr/bin/cargo", "cargo-web"),
    ("/usr/lib/rustlib/src/rust/library/std/Cargo.toml", "rust-web-src"),
    ("/usr/lib/wasm32-wasi/libc.a", "wasi-libc"),
];

fn debian(linkers: Vec<PathBuf>) -> Result<Command> {
    let mut cargo = clean(Command::new("/usr/bin/cargo"));
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(linkers.into_iter().chain(std::env::split_paths(&inherited)))?;
    cargo
        .env("PATH", path)
        .env("RUSTC", "/usr/bin/rustc")
        // build-std is unstable; this is how a stable compiler allows it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", "-L /usr/lib/wasm32-wasi")
        .args(["-Z", "build-std=std,panic_abort"]);
    Ok(cargo)
}

/// The folders of rustup's `wasm-component-ld` and `wasm-ld`, if both are there.
fn linkers(sysroot: &Path) -> Vec<PathBuf> {
    let hosts = sysroot
        .join("lib/rustlib")
        .read_dir()
        .into_iter()
        .flatten()
        .flatten();
    let mut bins = hosts.map(|host| host.path().join("bin"));
    bins.find(|bin| bin.join("wasm-component-ld").exists() && bin.join("gcc-ld/wasm-ld").exists())
        .map(|bin| vec![bin.join("gcc-ld"), bin])
        .unwrap_or_default()
}

/// A command without what an outer cargo or rustup set for its own build.
pub fn clean(mut command: Command) -> Command {
    let outer = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("RUSTC") || name.starts_with("RUSTFLAGS") || name == "RUSTDOCFLAGS" || name == "RUSTUP_TOOLCHAIN"
            // The user's own settings (home, network, offline) stay.
            || (name.starts_with("CARGO") && !KEPT.iter().any(|kept| name.starts_with(kept)))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| outer(name)) {
        command.env_remove(name);
    }
    command
}

/// Of cargo's variables those that say where and how to get crates, not what is being built.
const KEPT: [&str; 4] = ["CARGO_HOME", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR"];

fn sysroot(dir: &Path) -> Option<PathBuf> {
    let output = clean(Command::new("rustc"))
        .args(["--print", "sysroot"])
        .current_dir(dir)
        .output()
        .ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Asks rustup to add the target: once in this process, since without a network each try costs its whole time.
fn add_target(dir: &Path) -> bool {
    /// Enough to download 30 MB on a slow line.
    const PATIENCE: Duration = Duration::from_secs(60);
    static ADDED: OnceLock<bool> = OnceLock::new();

    *ADDED.get_or_init(|| {
        let mut rustup = clean(Command::new("rustup"));
        rustup
            .args(["target", "add", TARGET])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let Ok(mut child) = rustup.spawn() else {
            return false;
        };
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            match child.try_wait() {
                Ok(Some(status)) => return status.success(),
                Ok(None) => std::thread::sleep(Duration::from_millis(50)),
                Err(_) => break,
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    })
}

fn component(message: &str) -> Option<PathBuf> {
    message
        .split('"')
        .find(|text| text.ends_with(".wasm"))
        .map(PathBuf::from)
}

/// The manifest and the file that `of` finds of each artifact in cargo's messages.
fn artifacts_of(messages: impl BufRead, of: fn(&str) -> Option<PathBuf>) -> Vec<(String, PathBuf)> {
    let artifact = |line: String| Some((text_after(&line, "\"manifest_path\":\"")?, of(&line)?));
    let lines = messages.lines().map_while(Result::ok);
    lines
        .filter(|line| line.contains("\"reason\":\"compiler-artifact\""))
        .filter_map(artifact)
        .collect()
}

/// A JSON string's text; paths that JSON would escape are not worth a parser here.
pub fn text_after(line: &str, key: &str) -> Option<String> {
    let (_, rest) = line.split_once(key)?;
    Some(rest.split('"').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_found_among_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","manifest_path":"/c/dep/Cargo.toml","filenames":["/t/libdep.rlib"]}"#,
            "\n",
            r#"{"reason":"compiler-artifact","manifest_path":"/c/Cargo.toml","filenames":["/t/release/my_fn.wasm"]}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = artifacts_of(messages.as_bytes(), component);
        assert_eq!(
            found,
            [("/c/Cargo.toml".to_owned(), PathBuf::from("/t/release/my_fn.wasm"))]
        );
    }

    #[test]
    fn the_outer_builds_variables_do_not_reach_a_guest() {
        let command = clean(Command::new("true"));
        let removed: Vec<_> = command
            .get_envs()
            .filter(|(_, value)| value.is_none())
            .map(|(name, _)| name)
            .collect();
        // cargo runs this test, so its variables are there.
        assert!(removed.contains(&OsStr::new("CARGO_MANIFEST_DIR")));
        assert!(!removed.contains(&OsStr::new("CARGO_HOME")));
    }
}
