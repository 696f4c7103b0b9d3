//! The node's second wall. Guests run behind the engine's; whoever gets through that stands in the node's process, with its keys.
//! There they find its own folder, what it may read of others, and nothing that other users or programs have.

use std::io;
use std::path::PathBuf;

use anyhow::Context;
use nearfield_sandbox::{Allowed, Calls, Files, Held, USUAL_DEVICES, confine, refuse};

use crate::args::UpArgs;

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

/// Closes this process in, and what it starts. Must come before it has a second thread, since a thread that is there
/// already keeps what it may.
pub fn close_in(args: &UpArgs) -> anyhow::Result<()> {
    if args.no_sandbox {
        tracing::warn!("--no-sandbox: whoever breaks out of the engine may do what this user may do");
        return Ok(());
    }
    let held =
        confine(allowed(args)?).context("closing the node in: give --no-sandbox to start it without")?;
    refuse(&[Calls::Intrusion]).context("closing the node in: give --no-sandbox to start it without")?;
    match held {
        Held::Whole => tracing::info!("the node is closed in: its own files, no others"),
        Held::Partly | Held::Not => tracing::warn!(files = %held, "the node is closed in, in part"),
    }
    Ok(())
}

/// What a node may open.
fn allowed(args: &UpArgs) -> io::Result<impl Iterator<Item = Allowed>> {
    let own = Allowed::all(Files::Write, [args.data_dir.clone()]);
    let program = Allowed::all(Files::Run, [std::env::current_exe()?]);
    let readable = READABLE.iter().map(PathBuf::from).chain(args.allow_path.clone());
    Ok(own
        .chain(program)
        .chain(Allowed::all(Files::Run, LIBRARIES))
        .chain(Allowed::all(Files::Read, readable))
        .chain(Allowed::all(Files::Device, USUAL_DEVICES))
        // Its GPU's worker is its child, and gives up most of it once the driver is there.
        .chain(nearfield_gpu::worker_may_open()))
}
