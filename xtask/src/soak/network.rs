//! A gateway and three hosts under load while hosts are killed, hang and are lost for good: nobody may notice but by the
//! time it takes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start};
use serde_json::Value;
use ureq::http::Request;

use super::inputs::{draw, write_noise, write_words};
use super::{Finding, Setting};
use crate::guests::component;
use crate::report::{bytes, count, time};

const HOSTS: usize = 3;
/// What is put before a host is lost.
const FRESH_BYTES: u64 = 32 << 20;
/// Clients that call at once.
const CLIENTS: usize = 4;
/// How long anything may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a host that is silent must be out of placement, and back in it.
const SILENCE: Duration = Duration::from_secs(3);
/// What cannot be retried is answered within this.
const ANSWER: Duration = Duration::from_secs(1);

struct Network<'a> {
    setting: &'a Setting,
    folder: &'a Path,
    gateway: Node,
    hosts: Vec<Node>,
}

impl Network<'_> {
    fn host_dir(&self, index: usize) -> PathBuf {
        self.folder.join(format!("host-{index}"))
    }

    /// The short ids of the hosts that the gateway has now.
    fn there(&self) -> Result<Vec<String>> {
        let nodes = self.gateway.json(&["ls", "nodes"])?;
        let nodes = nodes["nodes"].as_array().context("a list of nodes")?.iter();
        let hosting = nodes.filter(|node| node["hosting"] == true);
        Ok(hosting
            .filter_map(|node| Some(node["id"].as_str()?[..10].to_owned()))
            .collect())
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> Result<bool>) -> Result<Duration> {
        let begun = Instant::now();
        while !is_so(self)? {
            ensure!(begun.elapsed() < PATIENCE, "never: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(begun.elapsed())
    }

    /// Waits until each shard is kept by as many hosts as it should be.
    fn until_replicated(&self, name: &str) -> Result<Duration> {
        self.until("every shard has its replicas", |network| {
            let described = network.gateway.json(&["describe", &format!("dataset/{name}")])?;
            Ok(described["replicas"]["least"].as_u64() >= described["replicas"]["wanted"].as_u64())
        })
    }
}

/// What clients saw while something happened.
#[derive(Default)]
struct Seen {
    calls: u64,
    slowest: Duration,
    /// Of calls that may not be sent twice: those that came to nothing, and the slowest of them.
    refused: u64,
    slowest_refusal: Duration,
}

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let (rounds, located, input_bytes) = if setting.quick {
        (3, 200, 24 << 20)
    } else {
        (100, 1_000, 64 << 20)
    };
    let folder = Folder::new("network")?;
    let dir = folder.path();
    let gateway_dir = dir.join("gateway");
    let gateway = Start::new(&setting.nearfield, &gateway_dir)
        .flags(&["--no-host"])
        .run()?;
    let hosts: Result<Vec<_>> = (0..HOSTS)
        .map(|index| {
            let data = dir.join(format!("host-{index}"));
            Start::new(&setting.nearfield, &data).join(&gateway, &[])
        })
        .collect();
    let mut network = Network {
        setting,
        folder: dir,
        hosts: hosts?,
        gateway,
    };
    network.until("all hosts are there", |network| {
        Ok(network.there()?.len() == HOSTS)
    })?;
    let text = dir.join("text");
    write_words(&text, input_bytes)?;
    let shard_size = if setting.quick { "256KiB" } else { "1MiB" };
    let text = text.to_str().context("a path that is not UTF-8")?;
    let put = [
        "put",
        text,
        "--name",
        "text",
        "--split",
        "lines",
        "--shard-size",
        shard_size,
    ];
    network.gateway.json(&put)?;
    let spread = network.until_replicated("text")?;
    for function in ["hello", "echo", "wordcount"] {
        let file = component(&setting.components, function);
        let file = file.to_str().context("a path that is not UTF-8")?;
        network
            .gateway
            .json(&["deploy", file, "--name", function, "--public"])?;
    }

    let mut findings = vec![(
        format!("{} put at a gateway without a host", bytes(input_bytes)),
        format!(
            "two hosts keep each shard {} after it was acknowledged",
            time(spread)
        ),
    )];
    findings.push(locality(&network)?);
    findings.push(located_calls(&network, located)?);
    findings.push(added(&network, if setting.quick { 200 } else { 2_000 })?);
    findings.push(kills(&mut network, rounds)?);
    findings.push(hangs(&network)?);
    findings.push(lost(&mut network)?);
    Ok(findings)
}

fn locality(network: &Network<'_>) -> Result<Finding> {
    let ran = network.gateway.json(&["run", "wordcount", "--over", "text"])?;
    ensure!(ran["shard_bytes_moved"] == 0, "shards moved: {ran}");
    ensure!(ran["hosts"] == HOSTS as u64, "not all hosts worked: {ran}");
    Ok((
        format!(
            "word count over {} shards on {HOSTS} hosts, the first time",
            ran["shards"]
        ),
        format!(
            "0 B of shards moved, {} of partial results, {:.1} s",
            bytes(ran["partial_bytes_moved"].as_u64().unwrap_or(0)),
            ran["seconds"].as_f64().unwrap_or(0.0)
        ),
    ))
}

/// Calls that look for a file run on a host that holds it.
fn located_calls(network: &Network<'_>, calls: u64) -> Result<Finding> {
    let dir = network.folder.join("files");
    std::fs::create_dir_all(&dir)?;
    for index in 0..200u64 {
        let line = format!("{index} {:x}\n", draw(index));
        std::fs::write(dir.join(format!("{index}.txt")), line.repeat(1_000))?;
    }
    let path = dir.to_str().context("a path that is not UTF-8")?;
    let gateway = &network.gateway;
    gateway.json(&["put", path, "--name", "files", "--shard-size", "64KiB"])?;
    network.until_replicated("files")?;
    let manifest = network.folder.join("nearfield.toml");
    let cat = component(&network.setting.components, "cat");
    std::fs::write(
        &manifest,
        format!(
            "[function.cat]\nbuild = {{ component = {cat:?} }}\npublic = true\ninputs = {{ data = \"files\" }}\n\
             locate = {{ input = \"data\", path = \"{{rest}}\" }}\n"
        ),
    )?;
    let at = network.folder.to_str().context("a path that is not UTF-8")?;
    gateway.json(&["deploy", at, "--name", "cat"])?;
    let described = gateway.json(&["describe", "dataset/files", "--shards"])?;
    let shards = described["shards"].as_array().context("shards")?.clone();
    for call in 0..calls {
        let answer = gateway.get(&format!("/fn/cat/{}.txt", call % 200))?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        let host = answer.header("nearfield-host").unwrap_or_default().to_owned();
        let placed = gateway.record(answer.call()?)?;
        let holds = |shard: &&Value| shard["digest"] == placed["placement"]["located"];
        let shard = shards.iter().find(holds).context("the shard that was located")?;
        let holders = shard["holders"].as_array().context("holders")?;
        ensure!(
            holders.iter().any(|holder| *holder == host),
            "on {host}, which does not hold it: {placed}"
        );
        ensure!(placed["report"]["moved_bytes"] == 0, "bytes moved: {placed}");
    }
    Ok((
        format!("{} calls with `locate`", count(calls)),
        "all ran on a holder, 0 B moved".to_owned(),
    ))
}

/// What it costs that a host is another process.
fn added(network: &Network<'_>, calls: u64) -> Result<Finding> {
    let alone_dir = network.folder.join("alone");
    let alone = Node::start(&network.setting.nearfield, &alone_dir)?;
    let file = component(&network.setting.components, "hello");
    let file = file.to_str().context("a path that is not UTF-8")?;
    alone.json(&["deploy", file, "--name", "hello", "--public"])?;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..calls {
        // In turn, so that both meet the same machine.
        for (node, times) in [&alone, &network.gateway].into_iter().zip(&mut times) {
            let begun = Instant::now();
            let answer = node.get("/fn/hello")?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
            times.push(begun.elapsed());
        }
    }
    let [here, there] = times.map(|mut times| {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)];
        (at(50), at(99))
    });
    Ok((
        format!(
            "{} calls of hello, in the gateway's process and on another's host",
            count(calls)
        ),
        format!(
            "p50 {} and {}, p99 {} and {}",
            time(here.0),
            time(there.0),
            time(here.1),
            time(there.1)
        ),
    ))
}

/// Calls from several clients for as long as `during` takes. Those that may be sent twice must all be answered.
fn under_load<T>(network: &Network<'_>, during: impl FnOnce() -> Result<T>) -> Result<(T, Seen)> {
    let (done, seen) = (AtomicBool::new(false), Mutex::new(Seen::default()));
    let done_with = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (done, seen) = (&done, &seen);
                scope.spawn(move || -> Result<()> {
                    while !done.load(Ordering::Relaxed) {
                        let twice = client % 2 == 0;
                        let answer = match twice {
                            true => network.gateway.get("/fn/hello")?,
                            false => {
                                let url = format!("{}/fn/echo", network.gateway.functions_url);
                                network.gateway.send(Request::post(url).body(b"once".to_vec())?)?
                            }
                        };
                        let mut seen = seen.lock().expect("no client panics");
                        seen.calls += 1;
                        match answer.status {
                            200 => seen.slowest = seen.slowest.max(answer.took),
                            502 | 503 if !twice => {
                                seen.refused += 1;
                                seen.slowest_refusal = seen.slowest_refusal.max(answer.took);
                            }
                            status => anyhow::bail!("{status} after {:?}: {}", answer.took, answer.text()),
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let came = during();
        done.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("no client panics").context("a call")?;
        }
        came
    })?;
    Ok((done_with, seen.into_inner().expect("no client panics")))
}

/// `kill -9` of one host after the other, under load, with a job on its way.
fn kills(network: &mut Network<'_>, rounds: u64) -> Result<Finding> {
    let expected = network.gateway.json(&["run", "wordcount", "--over", "text"])?;
    let mut total = Seen::default();
    for round in 0..rounds {
        let index = draw(round) as usize % HOSTS;
        let args = format!("{{\"round\":{round}}}");
        let shown = &*network;
        let (ran, seen) = under_load(shown, || {
            std::thread::scope(|scope| {
                let run = ["run", "wordcount", "--over", "text", "--args", args.as_str()];
                let job = scope.spawn(move || shown.gateway.json(&run));
                std::thread::sleep(Duration::from_millis(100 + draw(round + 1_000) % 400));
                shown.hosts[index].kill()?;
                let ran = job.join().expect("the job's thread does not panic")?;
                // Calls go on beyond the moment in which the loss is noticed.
                std::thread::sleep(ANSWER);
                Ok(ran)
            })
        })
        .with_context(|| format!("round {round}, host {index} killed"))?;
        ensure!(
            ran["output"] == expected["output"],
            "another result in round {round}: {ran}"
        );
        ensure!(
            seen.slowest_refusal <= ANSWER + Duration::from_millis(200),
            "round {round}: a call was refused after {:?}",
            seen.slowest_refusal
        );
        total.calls += seen.calls;
        total.refused += seen.refused;
        total.slowest = total.slowest.max(seen.slowest);
        total.slowest_refusal = total.slowest_refusal.max(seen.slowest_refusal);
        network.hosts[index].ended()?;
        let data = network.host_dir(index);
        network.hosts[index] = Node::start(&network.setting.nearfield, &data)?;
        network.until("it is back", |network| Ok(network.there()?.len() == HOSTS))?;
        network.until_replicated("text")?;
    }
    Ok((
        format!(
            "{} calls while hosts were killed {rounds} times, a job each time",
            count(total.calls)
        ),
        format!(
            "none that may be sent twice was lost, the slowest took {}; {} others refused, after {} at most; every job's \
             result the same",
            time(total.slowest),
            total.refused,
            time(total.slowest_refusal)
        ),
    ))
}

/// A host that says nothing and does not end.
fn hangs(network: &Network<'_>) -> Result<Finding> {
    network.hosts[0].pause(true)?;
    let out = network.until("the silent host is out", |network| {
        Ok(network.there()?.len() == HOSTS - 1)
    });
    network.hosts[0].pause(false)?;
    let out = out?;
    let back = network.until("it is back", |network| Ok(network.there()?.len() == HOSTS))?;
    // A beat may have come just before it fell silent.
    let bound = SILENCE + Duration::from_millis(500);
    ensure!(
        out <= bound && back <= bound,
        "out after {out:?}, back after {back:?}"
    );
    Ok((
        "a host stopped, then continued".to_owned(),
        format!("out of placement after {}, back after {}", time(out), time(back)),
    ))
}

/// A host that never comes back.
fn lost(network: &mut Network<'_>) -> Result<Finding> {
    // What was put before is on all hosts by now, from the rounds before.
    let fresh = network.folder.join("fresh");
    write_noise(&fresh, 7, FRESH_BYTES)?;
    let path = fresh.to_str().context("a path that is not UTF-8")?;
    network.gateway.json(&["put", path, "--name", "fresh"])?;
    network.until_replicated("fresh")?;
    let host = network.hosts.pop().context("a host")?;
    host.kill()?;
    host.ended()?;
    drop(host);
    network.until("it is gone", |network| Ok(network.there()?.len() == HOSTS - 1))?;
    let restored = network.until_replicated("fresh")?;
    let back = network.folder.join("back");
    let back_path = back.to_str().context("a path that is not UTF-8")?;
    network.gateway.json(&["get", "fresh", "-o", back_path])?;
    let same = std::fs::read(&back)? == std::fs::read(&fresh)?;
    ensure!(same, "what came back is not what was put");
    Ok((
        format!("a host lost for good, {} put before", bytes(FRESH_BYTES)),
        format!(
            "two hosts keep each shard again after {}, without a command; all bytes are there",
            time(restored)
        ),
    ))
}
