//! What every check of jobs needs: a node, functions on it, jobs run to their end, and its memory watched meanwhile.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use serde_json::Value;

use crate::guests;
use crate::soak::Setting;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A node with a folder of its own, and functions to deploy on it.
pub struct Rig<'a> {
    pub node: Node,
    pub folder: Folder,
    setting: &'a Setting,
}

impl<'a> Rig<'a> {
    pub fn new(setting: &'a Setting) -> Result<Rig<'a>> {
        let folder = Folder::new("jobs")?;
        let node = Node::start(&setting.nearfield, &folder.path().join("data"))?;
        Ok(Rig {
            node,
            folder,
            setting,
        })
    }

    /// Deploys a function under its crate's name; `manifest` is what its table has beside the component.
    pub fn deploy(&self, function: &str, manifest: &str) -> Result<()> {
        deploy(self.setting, &self.node, self.folder.path(), function, manifest)
    }
}

pub fn deploy(setting: &Setting, node: &Node, folder: &Path, function: &str, manifest: &str) -> Result<()> {
    let component = guests::component(&setting.components, function).canonicalize()?;
    let table = format!(
        "[function.{function}]\nbuild = {{ component = \"{}\" }}\n{manifest}\n",
        component.display()
    );
    let crate_folder = folder.join("functions").join(function);
    fs::create_dir_all(&crate_folder)?;
    fs::write(crate_folder.join("nearfield.toml"), table)?;
    node.json(&["deploy", path(&crate_folder)?])?;
    Ok(())
}

pub fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

/// Puts a file or folder, cut into shards of this size.
pub fn put(node: &Node, source: &Path, name: &str, split: &str, shard_size: &str) -> Result<Value> {
    let size = ["--shard-size", shard_size];
    let put = ["put", path(source)?, "--name", name, "--split", split];
    node.json(&[&put[..], &size].concat())
}

/// Runs a job to its end and gives its record's state, whatever that is.
pub fn run(node: &Node, arguments: &[&str]) -> Result<Ended> {
    let started = node.json(&[&["run"], arguments, &["--detach"]].concat())?;
    let id = started["job"].as_str().context("the job's id")?.to_owned();
    follow(node, id)
}

/// A job that has ended.
pub struct Ended {
    pub id: String,
    /// `done`, `failed` or `cancelled`.
    pub state: String,
    /// The report, or the problem and failures.
    pub report: Value,
    /// How far the events said that it was, the last of them last.
    pub progress: Vec<Value>,
}

impl Ended {
    pub fn number(&self, field: &str) -> Result<u64> {
        number(&self.report, field)
    }

    pub fn seconds(&self) -> Result<f64> {
        self.report["seconds"].as_f64().context("no seconds in a report")
    }

    pub fn done(self) -> Result<Ended> {
        ensure!(
            self.state == "done",
            "job {} is {}: {}",
            self.id,
            self.state,
            self.report
        );
        Ok(self)
    }

    /// Shards that were not remembered.
    pub fn ran(&self) -> Result<u64> {
        Ok(self.number("shards")? - self.number("remembered")? - self.number("failed")?)
    }

    /// What it came to, as it was stored.
    pub fn output(&self, node: &Node) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        node.stream(&format!("/v1/jobs/{}/output", self.id))?
            .read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

pub fn number(value: &Value, field: &str) -> Result<u64> {
    let number = value[field].as_u64();
    number.with_context(|| format!("no number {field} in {value}"))
}

/// Follows a job's events to its end.
pub fn follow(node: &Node, id: String) -> Result<Ended> {
    let events = BufReader::new(node.stream(&format!("/v1/jobs/{id}/events"))?);
    let (mut event, mut progress) = (String::new(), Vec::new());
    for line in events.lines() {
        let line = line?;
        if let Some(name) = line.strip_prefix("event: ") {
            event = name.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ") {
            let mut value: Value = serde_json::from_str(data)?;
            match event.as_str() {
                "progress" => progress.push(value),
                "end" => {
                    let report = value["state"].take();
                    let state = report["state"].as_str().context("a job's state")?.to_owned();
                    return Ok(Ended {
                        id,
                        state,
                        report,
                        progress,
                    });
                }
                _ => bail!("the node says: {data}"),
            }
        }
    }
    bail!("the events of job {id} ended early")
}

/// How much memory the node had of its own while something went on, by time. Maps of files are not in it: the kernel
/// takes these back whenever it needs the room.
pub struct Memory {
    pub before: u64,
    pub looks: Vec<u64>,
}

impl Memory {
    /// Does `work` and watches.
    pub fn watch<T>(node: &Node, work: impl FnOnce() -> Result<T>) -> Result<(T, Memory)> {
        let own = || node.memory("RssAnon");
        let (before, stop) = (own()?, AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| -> Result<Vec<u64>> {
                let mut looks = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    looks.push(own()?);
                    std::thread::sleep(LOOK);
                }
                looks.push(own()?);
                Ok(looks)
            });
            let done = work();
            stop.store(true, Ordering::Relaxed);
            let looks = watcher.join().expect("the watcher does not panic");
            let memory = Memory {
                before,
                looks: looks?,
            };
            Ok((done?, memory))
        })
    }

    /// The most above what it held before.
    pub fn extra(&self) -> u64 {
        let most = self.looks.iter().max().copied().unwrap_or_default();
        most.saturating_sub(self.before)
    }
}

/// Waits until the node's own memory is below `most` above `before`, for what is freed a moment later.
pub fn settles(node: &Node, before: u64, most: u64) -> Result<u64> {
    let start = Instant::now();
    loop {
        let extra = node.memory("RssAnon")?.saturating_sub(before);
        if extra <= most || start.elapsed() > Duration::from_secs(10) {
            return Ok(extra);
        }
        std::thread::sleep(LOOK);
    }
}
