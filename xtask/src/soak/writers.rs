//! Many processes write one dataset at the same time, some are killed, and so is the node. What was acknowledged must be
//! there exactly once; what was not, at most once.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::{Folder, Process};

use super::inputs::draw;
use super::{Finding, Setting};
use crate::report::count;
use crate::workspace;

const WRITERS: u64 = 8;
/// Of a put.
const RECORDS: u64 = 50;
/// One put in so many is killed, within this time.
const KILLED: u64 = 5;
const LATEST_KILL_MS: u64 = 60;
/// Writers stop for what is refused again and again: the node restarts in less.
const MOST_REFUSED: u32 = 200;

/// The node of the moment.
type Shared = RwLock<Arc<Node>>;

/// How a writer writes.
#[derive(Clone, Copy)]
enum Way {
    /// Adds to what nobody named, beside all others.
    Append,
    /// Adds to a part of its own.
    AppendPart,
    /// Replaces a part of its own by all of its acknowledged records and new ones.
    Part,
}

/// What a writer has done.
#[derive(Default)]
struct Written {
    acknowledged: Vec<String>,
    /// Killed or refused, so perhaps there.
    perhaps: Vec<String>,
    puts: u64,
    killed: u64,
}

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let (seconds, node_kills) = if setting.quick { (5, 1) } else { (60, 4) };
    let folder = Folder::new("writers")?;
    let data = folder.path().join("data");
    let node: Shared = RwLock::new(Arc::new(Node::start(&setting.nearfield, &data)?));
    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let written = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                let (node, folder) = (&node, folder.path());
                scope.spawn(move || write(number, node, folder, until))
            })
            .collect();
        for kill in 1..=node_kills {
            let pause = Duration::from_secs(seconds) * kill / (node_kills + 1);
            std::thread::sleep((begun + pause).saturating_duration_since(Instant::now()));
            restart(&node, setting, &data).context("restarting the node")?;
        }
        let join = |writer: std::thread::ScopedJoinHandle<Result<Written>>| {
            writer.join().unwrap_or_else(|_| bail!("a writer panicked"))
        };
        writers.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;

    let node = node.into_inner().ok().and_then(Arc::into_inner);
    let node = node.context("nobody else holds the node any more")?;
    let stored = String::from_utf8(workspace::output(node.nearfield().args(["get", "log"]))?)?;
    let mut times = HashMap::<&str, u64>::new();
    for record in stored.lines() {
        *times.entry(record).or_default() += 1;
    }
    let (mut acknowledged, mut puts, mut killed) = (0, 0, 0);
    for written in &written {
        for record in &written.acknowledged {
            let found = times.remove(record.as_str()).unwrap_or(0);
            ensure!(found == 1, "{record}, acknowledged, is there {found} times");
        }
        for record in &written.perhaps {
            let found = times.remove(record.as_str()).unwrap_or(0);
            ensure!(found <= 1, "{record}, not acknowledged, is there {found} times");
        }
        acknowledged += written.acknowledged.len() as u64;
        puts += written.puts;
        killed += written.killed;
    }
    ensure!(
        times.is_empty(),
        "{:?} was written by nobody",
        times.keys().next()
    );
    ensure!(
        killed > 0 && acknowledged > WRITERS * RECORDS,
        "{killed} killed, {acknowledged} acknowledged: that shows nothing"
    );
    node.stop()?;
    Ok(vec![(
        format!(
            "{WRITERS} processes write one name for {seconds} s, {} of {} killed, the node {node_kills} times",
            count(killed),
            count(puts)
        ),
        format!(
            "all of {} acknowledged records are there once",
            count(acknowledged)
        ),
    )])
}

fn write(number: u64, node: &Shared, folder: &Path, until: Instant) -> Result<Written> {
    let way = [Way::Append, Way::AppendPart, Way::Append, Way::Part][number as usize % 4];
    let file = folder.join(format!("writer-{number}"));
    let part = format!("writer-{number}");
    let mut written = Written::default();
    let mut refused = 0;
    while Instant::now() < until {
        let new: Vec<String> = (0..RECORDS)
            .map(|record| format!("{number}-{}-{record}", written.puts))
            .collect();
        let (records, arguments): (Vec<&str>, Vec<&str>) = match way {
            Way::Append => (texts(&new), vec!["--append"]),
            Way::AppendPart => (texts(&new), vec!["--append", "--part", &part]),
            // Without those that may be there: then they are not, afterwards.
            Way::Part => (
                [texts(&written.acknowledged), texts(&new)].concat(),
                vec!["--part", &part],
            ),
        };
        fs::write(&file, records.join("\n") + "\n")?;
        let current = node.read().expect("no panic under this lock").clone();
        let mut put = current.nearfield();
        put.arg("put").arg(&file);
        put.args(["--name", "log", "--split", "lines"]).args(arguments);
        let kill = draw(number << 32 | written.puts);
        // The node goes on with what a killed process had sent: a part could be replaced by that after the next put.
        let killed = kill.is_multiple_of(KILLED) && !matches!(way, Way::Part);
        let kill = killed.then_some(kill / KILLED % LATEST_KILL_MS);
        drop(current);
        written.puts += 1;
        let mut put = Process::start(
            put.stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null()),
        )?;
        if let Some(after) = kill {
            std::thread::sleep(Duration::from_millis(after));
            // It may have ended: then what it says counts.
            let _ = put.signal(rustix::process::Signal::KILL);
        }
        let status = put.child().wait()?;
        match status.code() {
            Some(0) => {
                refused = 0;
                if matches!(way, Way::Part) {
                    written.perhaps.clear();
                }
                written.acknowledged.extend(new);
            }
            code => {
                written.killed += u64::from(code.is_none());
                refused += u32::from(code.is_some());
                ensure!(refused < MOST_REFUSED, "puts are refused: {status}");
                written.perhaps.extend(new);
            }
        }
    }
    Ok(written)
}

fn texts(records: &[String]) -> Vec<&str> {
    records.iter().map(String::as_str).collect()
}

/// `kill -9`, in the middle of what is written, and a new process.
fn restart(node: &Shared, setting: &Setting, data: &Path) -> Result<()> {
    let mut current = node.write().expect("no panic under this lock");
    current.kill()?;
    current.ended()?;
    *current = Arc::new(Node::start(&setting.nearfield, data)?);
    Ok(())
}
