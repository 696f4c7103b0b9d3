//! `kill -9` at random moments while datasets are put and functions deployed. What was acknowledged must be there and
//! verify; what was not must be whole or absent; the node must start by itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;

use super::inputs::{draw, noise_bytes, vary_component};
use super::{Finding, Setting};
use crate::guests;
use crate::report::count;

/// The longest wait before a kill: by then a round's puts and deploys are well under way.
const LATEST_KILL_MS: u64 = 400;
/// Largest dataset of a round: several shards.
const MOST_BYTES: u64 = 12 << 20;
/// Rounds whose writes are looked at after each restart; all are at the end.
const WATCHED_ROUNDS: usize = 3;
/// A round's writes go on until the kill; more than this none gets done.
const MOST_WRITES: u64 = 200;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let rounds = if setting.quick { 25 } else { 1000 };
    let folder = Folder::new("crash")?;
    let data = folder.path().join("data");
    let component = fs::read(guests::component(&setting.components, "plain-p2"))?;
    let mut writes: Vec<Vec<Write>> = Vec::new();
    let mut node = Node::start(&setting.nearfield, &data)?;
    for round in 0..rounds {
        writes.push(one_round(&node, round, &component, folder.path())?);
        drop(node);
        node = Node::start(&setting.nearfield, &data)
            .with_context(|| format!("restarting after kill {round}"))?;
        let watched = writes.len().saturating_sub(WATCHED_ROUNDS);
        for write in writes[watched..].iter().flatten() {
            write
                .check(&node)
                .with_context(|| format!("after kill {round}"))?;
        }
    }
    let all: Vec<_> = writes.iter().flatten().collect();
    for write in &all {
        write.check(&node).context("at the end")?;
    }
    node.stop()?;
    let acknowledged = all.iter().filter(|write| write.acknowledged).count() as u64;
    ensure!(
        acknowledged > rounds / 2,
        "only {acknowledged} writes were acknowledged: that shows nothing"
    );
    Ok(vec![
        (
            format!("kill -9 during put and deploy, {} times", count(rounds)),
            "started by itself each time".to_owned(),
        ),
        (
            format!("{} acknowledged", count(acknowledged)),
            "all there, byte for byte".to_owned(),
        ),
        (
            format!("{} cut off", count(all.len() as u64 - acknowledged)),
            "each whole or absent".to_owned(),
        ),
    ])
}

/// Something that was written, or was being written when the node died.
struct Write {
    name: String,
    seed: u64,
    function: bool,
    acknowledged: bool,
}

/// Writes one thing after another until the node is killed at a moment that the round's number draws.
fn one_round(node: &Node, round: u64, component: &[u8], folder: &Path) -> Result<Vec<Write>> {
    let moment = Duration::from_millis(draw(round) % LATEST_KILL_MS);
    std::thread::scope(|scope| {
        let killer = scope.spawn(move || {
            std::thread::sleep(moment);
            node.kill()
        });
        let mut writes = Vec::new();
        for number in 0..MOST_WRITES {
            let seed = round * MOST_WRITES + number;
            let function = seed % 4 == 3;
            let mut write = Write {
                name: format!("{}-{seed}", if function { "f" } else { "d" }),
                seed,
                function,
                acknowledged: false,
            };
            let file = folder.join(if function { "input.wasm" } else { "input" });
            fs::write(&file, write.content(component))?;
            let done = if function {
                let path = file.to_str().context("a path that is not UTF-8")?;
                node.json(&["deploy", path, "--name", &write.name, "--public"])
            } else {
                node.put(&file, &write.name, "bytes")
            };
            write.acknowledged = done.is_ok();
            writes.push(write);
            if done.is_err() {
                break;
            }
        }
        killer.join().expect("the killer does not panic")?;
        Ok(writes)
    })
}

impl Write {
    fn content(&self, component: &[u8]) -> Vec<u8> {
        if self.function {
            return vary_component(component, self.seed);
        }
        // Most are small, so that kills also fall between writes.
        let most = if self.seed.is_multiple_of(3) {
            MOST_BYTES
        } else {
            64 << 10
        };
        noise_bytes(self.seed, (draw(!self.seed) % most) as usize)
    }

    fn check(&self, node: &Node) -> Result<()> {
        if self.function {
            let answer = node.get(&format!("/fn/{}", self.name))?;
            let whole = answer.status == 200 && answer.text() == "Hello, world!";
            let absent = answer.status == 404 && !self.acknowledged;
            ensure!(
                whole || absent,
                "{}: {} {}",
                self.name,
                answer.status,
                answer.text()
            );
            return Ok(());
        }
        let got = node.nearfield().args(["get", &self.name]).output()?;
        let whole = got.status.success() && got.stdout == self.content(&[]);
        // 4 is the exit code for what is not there.
        let absent = got.status.code() == Some(4) && !self.acknowledged;
        ensure!(
            whole || absent,
            "{} (acknowledged: {}): {} with {} bytes: {}",
            self.name,
            self.acknowledged,
            got.status,
            got.stdout.len(),
            String::from_utf8_lossy(&got.stderr)
        );
        Ok(())
    }
}
