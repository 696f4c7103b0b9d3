//! Two gateways and three hosts, each on a cable of its own, which are pulled: one host's, then those between two halves
//! of the network, while both write the same names. At last a gateway dies.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start};
use serde_json::Value;

use super::inputs::{write_noise, write_words};
use super::wires::{Side, Wires};
use super::{Finding, Setting};
use crate::guests::component;
use crate::report::{bytes, count, time};

/// Hosts on the cables after those of the gateways.
const HOSTS: usize = 3;
/// How soon a host that is cut off must be out of placement, and back in it.
const SILENCE: Duration = Duration::from_secs(3);
/// A beat may have come just before the cut, and asking takes a process of the command line.
const SLACK: Duration = Duration::from_millis(700);
/// How long anything may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);

struct Network<'a> {
    setting: &'a Setting,
    folder: &'a Path,
    wires: Wires,
    gateways: Vec<Node>,
    _hosts: Vec<Node>,
}

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let wires = match Wires::lay(2 + HOSTS) {
        Ok(wires) => wires,
        Err(error) => {
            return Ok(vec![(
                "cables pulled between nodes".to_owned(),
                format!("left out: no network namespaces here: {error:#}"),
            )]);
        }
    };
    let folder = Folder::new("partition")?;
    let dir = folder.path();
    let nearfield = &setting.nearfield;
    let no_host = &["--no-host"];
    let first = Start::new(nearfield, &dir.join("gateway-0"))
        .at(wires.place(0))
        .flags(no_host)
        .run()?;
    let as_gateway = &["--role", "gateway"];
    let at = dir.join("gateway-1");
    let second = Start::new(nearfield, &at)
        .at(wires.place(1))
        .flags(no_host)
        .join(&first, as_gateway)?;
    let hosts: Result<Vec<_>> = (0..HOSTS)
        .map(|index| {
            let at = dir.join(format!("host-{index}"));
            Start::new(nearfield, &at)
                .at(wires.place(2 + index))
                .join(&first, &[])
        })
        .collect();
    let mut network = Network {
        setting,
        folder: dir,
        wires,
        gateways: vec![first, second],
        _hosts: hosts?,
    };
    for gateway in &network.gateways {
        until_hosts(gateway, HOSTS)?;
    }
    let input_bytes = if setting.quick { 8 << 20 } else { 64 << 20 };
    let text = dir.join("text");
    write_words(&text, input_bytes)?;
    let text = text.to_str().context("a path that is not UTF-8")?;
    let put = [
        "put",
        text,
        "--name",
        "text",
        "--split",
        "lines",
        "--shard-size",
        "256KiB",
    ];
    network.gateways[0].json(&put)?;
    for function in ["hello", "wordcount"] {
        network.deploy(0, function, function)?;
    }
    until_replicated(&network.gateways[0], "text")?;
    Ok(vec![
        network.silent_host()?,
        network.halves(if setting.quick { 5 } else { 50 })?,
        network.gateway_dies()?,
    ])
}

impl Network<'_> {
    fn deploy(&self, gateway: usize, function: &str, name: &str) -> Result<Value> {
        let file = component(&self.setting.components, function);
        let file = file.to_str().context("a path that is not UTF-8")?;
        self.gateways[gateway].json(&["deploy", file, "--name", name, "--public"])
    }

    fn run(&self, gateway: usize, round: &str) -> Result<Value> {
        let args = format!("{{\"round\":\"{round}\"}}");
        self.gateways[gateway].json(&["run", "wordcount", "--over", "text", "--args", &args])
    }

    /// One host's cable: nothing comes through, and nobody says so.
    fn silent_host(&self) -> Result<Finding> {
        let gateway = &self.gateways[0];
        let whole = self.run(0, "whole")?;
        self.wires.plug(2, Side::Nowhere)?;
        let cut = Instant::now();
        // Begun before anybody has noticed.
        let ran = self.run(0, "cut")?;
        let took = cut.elapsed();
        ensure!(ran["output"] == whole["output"], "another result: {ran}");
        // That took as long as it did: the host is cut off again to see how soon it is missed.
        self.wires.plug(2, Side::Left)?;
        until_hosts(gateway, HOSTS)?;
        self.wires.plug(2, Side::Nowhere)?;
        let out = until_hosts(gateway, HOSTS - 1)?;
        self.wires.plug(2, Side::Left)?;
        let back = until_hosts(gateway, HOSTS)?;
        ensure!(
            out <= SILENCE + SLACK && back <= SILENCE + SLACK,
            "out after {out:?}, back after {back:?}"
        );
        Ok((
            "a host's cable pulled, and plugged in again".to_owned(),
            format!(
                "out of placement after {}, back after {}; a job that was under way: the same result after {}",
                time(out),
                time(back),
                time(took)
            ),
        ))
    }

    /// Each half has a gateway; both write the same names, and what either acknowledged stays.
    fn halves(&self, names: usize) -> Result<Finding> {
        let whole = self.run(0, "halves")?;
        for index in [1, 2 + HOSTS - 1] {
            self.wires.plug(index, Side::Right)?;
        }
        until_hosts(&self.gateways[0], HOSTS - 1)?;
        until_hosts(&self.gateways[1], 1)?;
        // Not the records' rest of the others: a name that only the other half knows is not there.
        let mut put = Vec::new();
        for index in 0..names {
            let mut digests = Vec::new();
            for (side, gateway) in self.gateways.iter().enumerate() {
                let file = self.folder.join(format!("put-{index}-{side}"));
                write_noise(&file, (2 * index + side) as u64 + 100, 50_000)?;
                let path = file.to_str().context("a path that is not UTF-8")?;
                let done = gateway.json(&["put", path, "--name", &format!("both-{index}")])?;
                digests.push(done["digest"].clone());
                self.deploy(side, "hello", &format!("both-{index}"))?;
            }
            put.push(digests);
        }
        let half = self.run(0, "apart")?;
        ensure!(half["output"] == whole["output"], "another result: {half}");
        // One host has not all of it: no answer, rather than one of a part.
        let refused = match self.run(1, "apart") {
            Err(_) => "no result",
            Ok(ran) if ran["output"] == whole["output"] => "the same result",
            Ok(ran) => anyhow::bail!("a result of a part of the data: {ran}"),
        };
        for index in 0..2 + HOSTS {
            self.wires.plug(index, Side::Left)?;
        }
        let healed = Instant::now();
        for gateway in &self.gateways {
            until_hosts(gateway, HOSTS)?;
            for (index, digests) in put.iter().enumerate() {
                let name = format!("dataset/both-{index}");
                until(&format!("both versions of {name}"), || {
                    let described = gateway.json(&["describe", &name])?;
                    let listed = described["versions"].as_array().context("versions")?;
                    let has = |digest: &Value| listed.iter().any(|version| version["digest"] == *digest);
                    Ok(listed.len() == 2 && digests.iter().all(has))
                })?;
                let name = format!("function/both-{index}");
                let described = gateway.json(&["describe", &name])?;
                let listed = described["versions"].as_array().context("versions")?.len();
                ensure!(listed == 2, "{listed} versions of {name}");
            }
        }
        let healed = healed.elapsed();
        ensure!(
            self.run(1, "again")?["output"] == whole["output"],
            "another result after healing"
        );
        Ok((
            format!(
                "two halves, a gateway in each, {} datasets and functions of the same names put at both",
                count(names as u64)
            ),
            format!(
                "all that was acknowledged is there, both versions of each at both gateways {} after healing; a job apart: \
                 the same result where all shards were, {refused} where they were not",
                time(healed)
            ),
        ))
    }

    /// The other one has all that it acknowledged, and ends its job.
    fn gateway_dies(&mut self) -> Result<Finding> {
        let expected = self.run(1, "before")?;
        let args = ["--args", "{\"round\":\"dies\"}", "--detach"];
        let started =
            self.gateways[0].json(&[&["run", "wordcount", "--over", "text"], &args[..]].concat())?;
        let job = started["job"].as_str().context("a job")?.to_owned();
        let deployed = self.deploy(0, "hello", "just-before")?;
        self.gateways[0].kill()?;
        self.gateways[0].ended()?;
        let second = &self.gateways[1];
        let killed = Instant::now();
        until("what was deployed just before answers", || {
            let called = second.nearfield().args(["call", "just-before"]).output()?;
            Ok(called.status.success())
        })?;
        let serves = killed.elapsed();
        let versions = second.json(&["describe", "function/just-before"])?;
        ensure!(
            versions["versions"][0]["component"] == deployed["component"],
            "another component: {versions}"
        );
        let ran = self.run(1, "dies")?;
        ensure!(ran["output"] == expected["output"], "another result: {ran}");
        let back = self.folder.join("text-back");
        let back_path = back.to_str().context("a path that is not UTF-8")?;
        second.json(&["get", "text", "-o", back_path])?;
        let same = std::fs::read(&back)? == std::fs::read(self.folder.join("text"))?;
        ensure!(same, "what came back is not what was put");
        // Its own job goes on where it is started again.
        let data = self.folder.join("gateway-0");
        let place = self.wires.place(0);
        self.gateways[0] = Start::new(&self.setting.nearfield, &data)
            .at(place)
            .flags(&["--no-host"])
            .run()?;
        let waited = self.gateways[0].json(&["wait", &job])?;
        ensure!(waited["output"] == expected["output"], "another result: {waited}");
        Ok((
            format!(
                "a gateway killed right after a deploy, with a job under way over {}",
                bytes(file_bytes(&back)?)
            ),
            format!(
                "the other one serves it after {}, has every dataset, and ran the same job; the first one's own went on \
                 after its restart",
                time(serves)
            ),
        ))
    }
}

fn file_bytes(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

/// Waits until a gateway has so many hosts, and gives the time that took.
fn until_hosts(gateway: &Node, wanted: usize) -> Result<Duration> {
    until(&format!("a gateway with {wanted} hosts"), || {
        let nodes = gateway.json(&["ls", "nodes"])?;
        let nodes = nodes["nodes"].as_array().context("a list of nodes")?.iter();
        Ok(nodes.filter(|node| node["hosting"] == true).count() == wanted)
    })
}

fn until_replicated(gateway: &Node, name: &str) -> Result<Duration> {
    until("every shard has its replicas", || {
        let described = gateway.json(&["describe", &format!("dataset/{name}")])?;
        Ok(described["replicas"]["least"].as_u64() >= described["replicas"]["wanted"].as_u64())
    })
}

fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begun.elapsed())
}
