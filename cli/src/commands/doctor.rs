use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use nearfield_gpu::client;
use nearfield_gpu::wire::Choice;
use nearfield_protocol::units::format_bytes;
use nearfield_sandbox::Enforced;
use serde::Serialize;
use serde_json::json;

use super::Session;
use crate::client::{Call, Client};
use crate::failure::{Exit, Failure};
use crate::guest::{self, Toolchain};

/// Below this much room a node is of little use.
const DISK_BYTES: u64 = 1 << 30;

/// The first kernel with PAGEMAP_SCAN, by which wasmtime resets only the pages that a call has written.
const PAGEMAP_SCAN: (u32, u32) = (6, 7);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    level: Level,
    what: &'static str,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The adapter that functions would get.
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<String>,
}

impl Check {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Check {
            level: Level::Ok,
            what,
            found: found.into(),
            next: None,
            adapter: None,
        }
    }

    fn short_of(level: Level, what: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Check {
            level,
            what,
            found: found.into(),
            next: Some(next.into()),
            adapter: None,
        }
    }
}

pub fn run(session: &Session, data_dir: &Path) -> Result<()> {
    let checks = [
        cargo(),
        toolchain(guest::toolchain()),
        node(session),
        port("functions port", 8080, "--listen"),
        port("admin port", 8081, "--admin"),
        disk(data_dir),
        kernel(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        sandbox(),
        gpu(),
    ];
    session
        .out
        .show_as(&json!({ "checks": checks }), || checks.iter().map(line).collect())?;
    if checks.iter().any(|check| check.level == Level::Fail) {
        return Err(Failure::new(Exit::Failed, "something above is missing")
            .next("follow its arrow")
            .into());
    }
    Ok(())
}

fn line(check: &Check) -> String {
    let level = match check.level {
        Level::Ok => "ok  ",
        Level::Warn => "warn",
        Level::Fail => "fail",
    };
    let next = check
        .next
        .as_ref()
        .map(|next| format!("\n      → {next}"))
        .unwrap_or_default();
    format!("{level}  {}: {}{next}\n", check.what, check.found)
}

fn cargo() -> Check {
    match Command::new("cargo").arg("--version").output() {
        Ok(output) if output.status.success() => {
            Check::ok("cargo", String::from_utf8_lossy(&output.stdout).trim())
        }
        _ => Check::short_of(
            Level::Warn,
            "cargo",
            "not found, so nothing can be built here",
            "install Rust from https://rustup.rs; a node that only runs functions needs none",
        ),
    }
}

fn toolchain(found: Toolchain) -> Check {
    const WHAT: &str = "guest toolchain";
    match found {
        Toolchain::Installed => Check::ok(WHAT, "Rust with wasm32-wasip2"),
        Toolchain::Debian { .. } => Check::ok(WHAT, "Debian's Rust builds wasm32-wasip2 from its sources"),
        Toolchain::Missing(what) => match what.split_once("; run: ") {
            Some((found, next)) => Check::short_of(Level::Warn, WHAT, found, next),
            None => Check::short_of(Level::Warn, WHAT, what, "run: rustup target add wasm32-wasip2"),
        },
    }
}

/// The node that the other commands would speak with, as `--url` or `NEARFIELD_URL` names it.
fn node(session: &Session) -> Check {
    const WHAT: &str = "node";
    let url = session.client.url();
    match session.client.get("/v1/status") {
        Ok(status) => {
            let functions = status["functions_url"].as_str().unwrap_or_default().to_owned();
            Check::ok(WHAT, format!("up at {url}, functions at {functions}"))
        }
        Err(error) => Check::short_of(
            Level::Warn,
            WHAT,
            format!("{error:#}"),
            "nearfield up starts one here; --url and --token, or NEARFIELD_URL and NEARFIELD_TOKEN, name another",
        ),
    }
}

/// Free, or taken by a node of ours: both listeners answer /healthz.
fn port(what: &'static str, port: u16, flag: &str) -> Check {
    let address = format!("127.0.0.1:{port}");
    if TcpListener::bind(&address).is_ok() {
        return Check::ok(what, format!("{address} is free"));
    }
    match Client::probe(&format!("http://{address}")).send(Call::get("/healthz"), ()) {
        Ok(_) => Check::ok(what, format!("a node answers on {address}")),
        Err(_) => Check::short_of(
            Level::Warn,
            what,
            format!("something else has {address}"),
            format!("nearfield up {flag} 127.0.0.1:PORT"),
        ),
    }
}

fn disk(data_dir: &Path) -> Check {
    const WHAT: &str = "disk";
    // The folder may not be made yet: what holds it decides.
    let existing = data_dir
        .ancestors()
        .find(|dir| dir.is_dir())
        .unwrap_or(Path::new("."));
    let place = data_dir.display();
    match rustix::fs::statvfs(existing) {
        Err(error) => Check::short_of(
            Level::Fail,
            WHAT,
            format!("{place}: {error}"),
            "name another with --data-dir",
        ),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let found = format!("{} free at {place}", format_bytes(free));
            match free {
                DISK_BYTES.. => Check::ok(WHAT, found),
                _ => Check::short_of(
                    Level::Warn,
                    WHAT,
                    found,
                    "make room, or name another disk with --data-dir",
                ),
            }
        }
    }
}

fn kernel(release: &str) -> Check {
    const WHAT: &str = "kernel";
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = numbers.next().zip(numbers.next());
    match version {
        Some(version) if version >= PAGEMAP_SCAN => Check::ok(WHAT, format!("{release}, with PAGEMAP_SCAN")),
        _ => Check::short_of(
            Level::Warn,
            WHAT,
            format!("{release} lacks PAGEMAP_SCAN, so each call's memory takes longer to reset"),
            "a kernel from 6.7 on has it; all works without",
        ),
    }
}

/// What of a node's walls this kernel holds.
fn sandbox() -> Check {
    const WHAT: &str = "sandbox";
    match nearfield_sandbox::held_here() {
        Ok(Enforced::Whole) => Check::ok(
            WHAT,
            "a node can open its own files and signal its own children alone (Landlock), and lacks calls of the kernel (seccomp)",
        ),
        held => Check::short_of(
            Level::Warn,
            WHAT,
            match held {
                Ok(held) => format!("files are held {held}"),
                Err(error) => format!("it cannot be tried: {error}"),
            },
            "a kernel from 6.12 on has all of Landlock; a node runs without, behind one wall less",
        ),
    }
}

/// Asks as a node would: in the worker's own process, behind its walls.
fn gpu() -> Check {
    const WHAT: &str = "GPU";
    let next = "on Debian: apt-get install libvulkan1, and the GPU's driver or mesa-vulkan-drivers, which computes on the \
                processor; all but functions that require a GPU works without";
    let options = nearfield_node::gpu_options(Choice::Best, None);
    let probed = options.and_then(|options| Ok(client::probe(&options)?));
    let found = match probed {
        Ok(found) => found,
        Err(error) => return Check::short_of(Level::Warn, WHAT, error.to_string(), next),
    };
    let check = match found.software {
        true => Check::short_of(
            Level::Warn,
            WHAT,
            format!("{} alone, which computes on the processor", found.name),
            "enough for functions that require `gpu = \"any\"`; for `\"hardware\"` install the GPU's driver",
        ),
        false => Check::ok(
            WHAT,
            format!("{}, {}, {}", found.name, found.backend, found.driver),
        ),
    };
    Check {
        adapter: Some(found.name),
        ..check
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_by_their_first_two_numbers() {
        for (release, level) in [
            ("6.7.0-generic\n", Level::Ok),
            ("6.12-rc1", Level::Ok),
            ("7.0", Level::Ok),
            ("6.6.99", Level::Warn),
            ("5.15.0", Level::Warn),
            ("", Level::Warn),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn what_is_missing_comes_with_its_next_step() {
        let check = toolchain(Toolchain::Missing(
            "no Rust here; run: rustup target add x".into(),
        ));
        assert_eq!(
            line(&check),
            "warn  guest toolchain: no Rust here\n      → rustup target add x\n"
        );
    }
}
