//! Bits that flip on the disks of hosts, at rest and under running nodes that then send what is not so: nobody reads a wrong
//! byte, and what is broken is repaired from another host.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start};

use super::inputs::{draw, write_text};
use super::{Finding, Setting};
use crate::guests::component;
use crate::report::{bytes, count, time};

const HOSTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let (rounds, flips, input_bytes) = if setting.quick {
        (2, 50, 8 << 20)
    } else {
        (20, 500, 64 << 20)
    };
    let folder = Folder::new("corruption")?;
    // What the gateway reads comes from the hosts each time.
    let gateway = Start::new(&setting.nearfield, &folder.path().join("gateway"))
        .flags(&["--no-host", "--max-cached", "1MiB"])
        .run()?;
    let dir = |index: usize| folder.path().join(format!("host-{index}"));
    let hosts: Result<Vec<Node>> = (0..HOSTS)
        .map(|index| Start::new(&setting.nearfield, &dir(index)).join(&gateway, &[]))
        .collect();
    let mut hosts: Vec<Option<Node>> = hosts?.into_iter().map(Some).collect();
    let text = folder.path().join("text");
    write_text(&text, input_bytes)?;
    let path = text.to_str().context("a path that is not UTF-8")?;
    let shards = ["--split", "lines", "--shard-size", "256KiB"];
    gateway.json(&[&["put", path, "--name", "text"], &shards[..]].concat())?;
    until_whole(&gateway)?;
    let function = component(&setting.components, "distinct");
    let function = function.to_str().context("a path that is not UTF-8")?;
    gateway.json(&["deploy", function, "--name", "distinct"])?;
    let truth = fs::read(&text)?;
    let counted = gateway.json(&["run", "distinct", "--over", "text"])?;

    let (mut at_rest, mut slowest, mut refused) = (0, Duration::ZERO, 0);
    for round in 0..rounds {
        let index = round as usize % HOSTS;
        // A running node has looked at its blobs once: what flips now, it sends.
        let half = flips / 2;
        flip(&dir(index), half, round * 2)?;
        refused += u64::from(!reads_right(&gateway, &truth)?);
        hosts[index].take().context("a host that runs")?.stop()?;
        flip(&dir(index), flips - half, round * 2 + 1)?;
        at_rest += flips;
        hosts[index] = Some(Node::start(&setting.nearfield, &dir(index))?);
        ensure!(
            reads_right(&gateway, &truth)?,
            "round {round}: two hosts have every byte, and it cannot be read"
        );
        // Run again by whoever holds the shards, with another result's name.
        let args = format!("{{\"round\": {round}}}");
        let again = gateway.json(&["run", "distinct", "--over", "text", "--args", &args])?;
        ensure!(
            again["output"] == counted["output"],
            "round {round}: {} instead of {}",
            again["output"],
            counted["output"]
        );
        slowest = slowest.max(until_whole(&gateway)?);
    }
    let found: u64 = (0..HOSTS)
        .map(|index| broken_blobs(&dir(index)))
        .sum::<Result<u64>>()?;
    ensure!(found > 0, "nobody found anything broken");
    Ok(vec![(
        format!(
            "{} bits flipped in the blobs of hosts, half of them under running nodes",
            count(at_rest)
        ),
        format!(
            "{} read {} times, never a wrong byte; {refused} times not at all; {found} blobs found broken and left out; \
             made up for within {}",
            bytes(input_bytes),
            rounds * 2,
            time(slowest)
        ),
    )])
}

/// Flips so many bits in the files of a node's blobs.
fn flip(data: &Path, flips: u64, seed: u64) -> Result<()> {
    let folder = data.join("blobs/data");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for number in 0..flips {
        let random = draw(seed << 32 | number);
        let path = &files[random as usize % files.len()];
        let file = File::options().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        if len == 0 {
            continue;
        }
        let (at, bit) = ((random >> 20) % len, (random >> 8) & 7);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1 << bit], at)?;
    }
    Ok(())
}

/// Whether the dataset can be read now. What comes must be what was put.
fn reads_right(gateway: &Node, truth: &[u8]) -> Result<bool> {
    let got = gateway.nearfield().args(["get", "text"]).output()?;
    if !got.status.success() {
        return Ok(false);
    }
    if got.stdout != truth {
        bail!("{} bytes came, and they are not what was put", got.stdout.len());
    }
    Ok(true)
}

fn until_whole(gateway: &Node) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        let described = gateway.json(&["describe", "dataset/text"])?;
        let replicas = &described["replicas"];
        if replicas["least"].as_u64() >= replicas["wanted"].as_u64() {
            return Ok(begun.elapsed());
        }
        ensure!(begun.elapsed() < PATIENCE, "never whole again: {replicas}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Blobs that a node has found broken, by its log.
fn broken_blobs(data: &Path) -> Result<u64> {
    let log = fs::read_to_string(data.with_extension("log"))?;
    Ok(log
        .matches("no longer matches its digest; it is quarantined")
        .count() as u64)
}
