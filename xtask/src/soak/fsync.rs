//! Nothing is acknowledged before it is on disk. A crash of the process can't show that, since the page cache outlives
//! it; the order of the system calls does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::{Folder, Process};
use rustix::process::Signal;

use super::inputs::{vary_component, write_noise};
use super::{Finding, Setting};
use crate::guests;
use crate::report::count;
use crate::workspace::{apt_install, has};

/// Enough for several shards.
const BYTES: u64 = 20 << 20;
const PUTS: u64 = 3;
const DEPLOYS: u64 = 3;
/// How long strace may take to attach and to let go.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let what = format!("system calls of {PUTS} puts and {DEPLOYS} deploys");
    if !has("strace") && !apt_install(&["strace"]) {
        return Ok(vec![(what, "skipped: there is no strace".to_owned())]);
    }
    let folder = Folder::new("fsync")?;
    let data = folder.path().join("data");
    let node = Node::start(&setting.nearfield, &data)?;
    let trace = folder.path().join("trace");
    let strace = attach(&node, &trace)?;
    for number in 0..PUTS {
        let input = folder.path().join("input");
        write_noise(&input, number, BYTES)?;
        node.put(&input, &format!("d{number}"), "bytes")?;
    }
    let component = fs::read(guests::component(&setting.components, "plain-p2"))?;
    for number in 0..DEPLOYS {
        let varied = folder.path().join("varied.wasm");
        fs::write(&varied, vary_component(&component, number))?;
        let path = varied.to_str().context("a path that is not UTF-8")?;
        node.json(&["deploy", path, "--name", &format!("f{number}")])?;
    }
    detach(strace)?;
    node.stop()?;
    let order = Order::read(&fs::read_to_string(&trace)?, &data)?;
    ensure!(
        // A deploy asks for more than one thing, each of them acknowledged.
        order.acknowledged >= PUTS + 2 * DEPLOYS,
        "the trace shows only {} acknowledgements",
        order.acknowledged
    );
    ensure!(
        order.blobs >= PUTS && order.databases >= PUTS,
        "the trace shows too few fsyncs: {order:?}"
    );
    Ok(vec![(
        what,
        format!(
            "all synced before each acknowledgement: {} blob files, {} database commits",
            count(order.blobs),
            count(order.databases)
        ),
    )])
}

/// What was synced before the acknowledgements.
#[derive(Debug, Default)]
struct Order {
    acknowledged: u64,
    /// Syncs of files of blobs.
    blobs: u64,
    /// Syncs of databases.
    databases: u64,
}

impl Order {
    /// Goes through the calls in their order; fails at an acknowledgement while something written is not synced.
    fn read(trace: &str, data: &Path) -> Result<Order> {
        let data = data.to_str().context("a path that is not UTF-8")?;
        let mut order = Order::default();
        let mut written: BTreeSet<&str> = BTreeSet::new();
        // A call that waits is told in two lines, and by then another thread may have spoken.
        let mut started: BTreeMap<&str, &str> = BTreeMap::new();
        for line in trace.lines() {
            let Some((thread, said)) = line.split_once(char::is_whitespace) else {
                continue;
            };
            let said = said.trim_start();
            let (call, ended) = match said.strip_prefix("<... ") {
                Some(_) => match started.remove(thread) {
                    Some(call) => (call, true),
                    None => continue,
                },
                None if said.ends_with("<unfinished ...>") => {
                    started.insert(thread, said);
                    (said, false)
                }
                None => (said, true),
            };
            let name = call.split('(').next().unwrap_or_default();
            let file = call
                .split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'))
                .map_or("", |(path, _)| path);
            match name {
                // Counts from its end.
                "fsync" | "fdatasync" if ended && file.starts_with(data) => {
                    written.remove(file);
                    order.blobs += u64::from(file.contains("/blobs/") && !is_database(file));
                    order.databases += u64::from(is_database(file));
                }
                "fsync" | "fdatasync" => {}
                // A file is written under another name first; what it lacks goes with it.
                "rename" | "renameat" | "renameat2" if ended => {
                    if let [_, from, _, to, ..] = call.split('"').collect::<Vec<_>>()[..]
                        && written.remove(from)
                    {
                        written.insert(to);
                    }
                }
                // The rest counts from its begin, since it may have happened from then on.
                _ if said.starts_with("<... ") => {}
                _ if call.contains("HTTP/1.1 20") => {
                    let unsynced: Vec<_> = written.iter().filter(|file| is_kept(file, data)).collect();
                    ensure!(
                        unsynced.is_empty(),
                        "acknowledged before these were synced: {unsynced:?}"
                    );
                    order.acknowledged += 1;
                }
                _ if file.starts_with(data) => {
                    written.insert(file);
                }
                _ => {}
            }
        }
        Ok(order)
    }
}

fn is_database(file: &str) -> bool {
    file.ends_with(".redb") || file.ends_with(".db")
}

/// Logs and what is still being received may be lost.
fn is_kept(file: &str, data: &str) -> bool {
    let below = file.strip_prefix(data).unwrap_or_default();
    is_database(file) || below.starts_with("/blobs/data/")
}

fn attach(node: &Node, trace: &Path) -> Result<Process> {
    const CALLS: &str = "--trace=fsync,fdatasync,write,writev,pwrite64,pwritev,sendto,sendmsg,copy_file_range,\
                         sendfile,rename,renameat,renameat2";
    // To a file: a pipe that nobody reads to its end would kill it.
    let said = trace.with_extension("said");
    let mut command = Command::new("strace");
    command
        .args([
            "--follow-forks",
            "--decode-fds=path",
            "--string-limit=16",
            CALLS,
            "--attach",
        ])
        .arg(node.pid().to_string())
        .arg("--output")
        .arg(trace)
        .stderr(File::create(&said)?);
    let mut strace = Process::start(&mut command)?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE && strace.child().try_wait()?.is_none() {
        if fs::read_to_string(&said)?.contains("attached") {
            return Ok(strace);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("strace could not attach: {}", fs::read_to_string(&said)?.trim())
}

/// Ends it so that it lets the node go, with all it saw in its file.
fn detach(mut strace: Process) -> Result<()> {
    strace.signal(Signal::INT)?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if strace.child().try_wait()?.is_some() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("strace does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNCED: &str = "\
10 pwrite64(7</d/state.redb>, \"x\", 1, 0) = 1
11 write(9</d/blobs/temp/1>, \"x\", 1) = 1
11 rename(\"/d/blobs/temp/1\", \"/d/blobs/data/aa.data\") = 0
11 fsync(9</d/blobs/data/aa.data> <unfinished ...>
10 fdatasync(7</d/state.redb>) = 0
11 <... fsync resumed>) = 0
12 writev(5<socket:[1]>, [{iov_base=\"HTTP/1.1 201 Crea\"..., iov_len=9}], 1) = 9
";

    #[test]
    fn an_acknowledgement_waits_for_its_fsync() {
        let order = Order::read(SYNCED, Path::new("/d")).unwrap();
        assert_eq!((order.acknowledged, order.blobs, order.databases), (1, 1, 1));
    }

    #[test]
    fn an_acknowledgement_before_the_fsync_is_seen() {
        let early = SYNCED.replace("11 <... fsync resumed>) = 0\n", "");
        let error = Order::read(&early, Path::new("/d")).unwrap_err();
        assert!(error.to_string().contains("aa.data"), "{error}");
    }
}
