//! The node's second wall. Guests run behind the engine's; whoever gets through that stands in the node's process, with its keys.
//! There they find its own folder, what it may read of others, and nothing that other users or programs have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nearfield_sandbox::{Allowed, Calls, Enforced, Files, USUAL_DEVICES, confine, refuse};

use crate::config::Config;

/// Libraries, which a program is started with, and time zones, certificates and the like. The node's children are this same program.
const LIBRARIES: [&str; 6] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix",
];
/// Names, networks, time, what describes the machine and this process.
const READABLE: [&str; 5] = ["/etc", "/usr/share", "/run/systemd/resolve", "/proc", "/sys"];

/// What `/etc` tells by links.
const TOLD: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/localtime"];

/// Closes this process in, and what it starts. Must come before it has a second thread, since a thread that is there
/// already keeps what it may.
pub fn close_in(config: &Config) -> anyhow::Result<()> {
    if !config.sandbox {
        tracing::warn!("--no-sandbox: whoever breaks out of the engine may do what this user may do");
        return Ok(());
    }
    let held =
        confine(allowed(config)?).context("closing the node in: give --no-sandbox to start it without")?;
    refuse(&[Calls::Intrusion, Calls::LocalSockets])
        .context("closing the node in: give --no-sandbox to start it without")?;
    match held {
        Enforced::Whole => tracing::info!("the node is closed in: its own files, no others"),
        Enforced::Partly | Enforced::Not => tracing::warn!(files = %held, "the node is closed in, in part"),
    }
    Ok(())
}

/// What a node may open.
fn allowed(config: &Config) -> io::Result<impl Iterator<Item = Allowed>> {
    let own = Allowed::all(
        Files::Write,
        [config.data_dir.root().to_owned()]
            .into_iter()
            .chain(linked(config.data_dir.root())?),
    );
    let program = Allowed::all(Files::Run, [std::env::current_exe()?]);
    // Where these are links, they lead to wherever the system's services keep them.
    let told = TOLD.iter().filter_map(|path| fs::canonicalize(path).ok());
    let readable = READABLE
        .iter()
        .map(PathBuf::from)
        .chain(told)
        .chain(config.allow_path.clone());
    Ok(own
        .chain(program)
        .chain(Allowed::all(Files::Run, LIBRARIES))
        .chain(Allowed::all(Files::Read, readable))
        .chain(Allowed::all(Files::Device, USUAL_DEVICES))
        // Its GPU's worker is its child, and gives up most of it once the driver is there.
        .chain(nearfield_gpu::worker_may_open()))
}

/// Where links in the data folder lead: its owner may have put parts of it on another disk.
fn linked(data_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(data_dir)?.flatten().map(|entry| entry.path());
    Ok(entries
        .filter(|path| path.is_symlink())
        .filter_map(|path| fs::canonicalize(path).ok())
        .collect())
}
