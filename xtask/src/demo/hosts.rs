//! `cargo xtask demo --hosts N`: a gateway and hosts that put their parts of one dataset; a job goes to the data, and a host is
//! killed in the middle of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start};
use serde_json::Value;

use super::SOURCES_BYTES;
use crate::guests::{self, component};
use crate::report::{Table, bytes, count, rate, time};
use crate::sources;
use crate::workspace::{self, Profile, step};

/// How long anything may take before it counts as broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// How far a job is when a host is killed.
const KILLED_AT: f64 = 0.2;

pub fn run(hosts: usize, profile: Profile) -> Result<()> {
    let components = guests::build()?;
    let binary = workspace::nearfield(profile)?;
    let folder = Folder::new("demo-hosts")?;

    step("starting a gateway, which hosts nothing, and its hosts");
    let gateway = Start::new(&binary, &folder.path().join("gateway"))
        .flags(&["--no-host"])
        .run()?;
    let may_put = ["--may-put", "registry"];
    let hosts: Result<Vec<Node>> = (0..hosts)
        .map(|index| {
            let data = folder.path().join(format!("host-{index}"));
            Start::new(&binary, &data).join(&gateway, &may_put)
        })
        .collect();
    let hosts = hosts?;
    until("all hosts are there", || Ok(hosting(&gateway)? == hosts.len()))?;

    step("making sources, a part for each host");
    let sources = folder.path().join("sources");
    sources::write(&sources, SOURCES_BYTES)?;
    let parts = parts(&sources, folder.path(), hosts.len())?;
    println!("\n{}", put(&gateway, &hosts, &parts)?);

    let replicated = until("each shard is on two hosts", || is_replicated(&gateway))?;
    println!("Two hosts kept each shard {} later.\n", time(replicated));
    println!("{}", held(&gateway, &hosts)?);
    same_file(&gateway, &parts)?;

    let file = component(&components, "wordcount");
    gateway.json(&[
        "deploy",
        file.to_str().context("a path that is not UTF-8")?,
        "--name",
        "wordcount",
    ])?;
    let mut table = Table::new([
        "job",
        "shards",
        "hosts",
        "fuel",
        "shards moved",
        "partials moved",
        "time",
    ]);
    step("counting words where they lie");
    let whole = gateway.json(&["run", "wordcount", "--over", "registry"])?;
    row(&mut table, "undisturbed", &whole);
    ensure!(whole["shard_bytes_moved"] == 0, "shards moved: {whole}");

    step("counting once more, and killing a host in the middle");
    let (killed, at) = with_a_kill(&gateway, &hosts[0])?;
    row(
        &mut table,
        &format!("a host killed at {:.0} %", at * 100.0),
        &killed,
    );
    for total in ["words", "distinct"] {
        ensure!(
            whole["output"][total].is_u64() && killed["output"][total] == whole["output"][total],
            "the job came to something else: {} and {}",
            whole["output"],
            killed["output"]
        );
    }
    println!("\n{table}");
    println!(
        "Both counted {} words, {} different ones.",
        count(whole["output"]["words"].as_u64().unwrap_or_default()),
        count(whole["output"]["distinct"].as_u64().unwrap_or_default())
    );
    if hosts.len() > 2 {
        let begun = Instant::now();
        until("each shard is on two hosts again", || {
            Ok(hosting(&gateway)? == hosts.len() - 1 && is_replicated(&gateway)?)
        })?;
        println!(
            "The hosts that are left kept each shard twice again {} later, without a command.",
            time(begun.elapsed())
        );
    }
    same_file(&gateway, &parts)?;
    println!("Files read back through the gateway are what was put, before and after.");
    for host in hosts.into_iter().skip(1) {
        host.stop()?;
    }
    gateway.stop()
}

/// Folders with a part of the crates each.
fn parts(sources: &Path, folder: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let mut crates: Vec<PathBuf> = fs::read_dir(sources)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    crates.sort();
    let parts: Vec<PathBuf> = (0..count)
        .map(|part| folder.join(format!("part-{part}")))
        .collect();
    for (index, path) in crates.iter().filter(|path| path.is_dir()).enumerate() {
        let name = path.file_name().context("a folder without a name")?;
        let part = &parts[index % count];
        fs::create_dir_all(part)?;
        fs::rename(path, part.join(name))?;
    }
    Ok(parts)
}

/// Each host puts its part, all at once.
fn put(gateway: &Node, hosts: &[Node], parts: &[PathBuf]) -> Result<Table> {
    step("each host puts its part");
    let put: Vec<Result<(Value, Duration)>> = std::thread::scope(|scope| {
        let putting: Vec<_> = hosts
            .iter()
            .zip(parts)
            .enumerate()
            .map(|(index, (host, part))| {
                scope.spawn(move || {
                    let begun = Instant::now();
                    let path = part.to_str().context("a path that is not UTF-8")?;
                    let name = part_name(index);
                    let put = [
                        "put", path, "--name", "registry", "--split", "files", "--part", &name,
                    ];
                    Ok((host.json(&put)?, begun.elapsed()))
                })
            })
            .collect();
        let ended = putting
            .into_iter()
            .map(|put| put.join().expect("a put does not panic"));
        ended.collect()
    });
    let mut table = Table::new(["part", "dataset afterwards", "time", "rate"]);
    let mut before = 0;
    let mut done: Vec<_> = put.into_iter().collect::<Result<_>>()?;
    done.sort_by_key(|(put, _)| put["bytes"].as_u64());
    for (put, took) in done {
        let all = put["bytes"].as_u64().context("the bytes of a dataset")?;
        table.row([
            bytes(all - before),
            format!("v{}, {}", put["version"], bytes(all)),
            time(took),
            rate(all - before, took),
        ]);
        before = all;
    }
    until("the gateway knows all parts", || {
        let described = gateway.json(&["describe", "dataset/registry"])?;
        Ok(described["meta"]["parts"].as_array().map_or(0, Vec::len) == hosts.len())
    })?;
    Ok(table)
}

fn hosting(gateway: &Node) -> Result<usize> {
    let nodes = gateway.json(&["ls", "nodes"])?;
    let nodes = nodes["nodes"].as_array().context("a list of nodes")?;
    Ok(nodes.iter().filter(|node| node["hosting"] == true).count())
}

fn is_replicated(gateway: &Node) -> Result<bool> {
    let described = gateway.json(&["describe", "dataset/registry"])?;
    let replicas = &described["replicas"];
    Ok(replicas["least"].as_u64() >= replicas["wanted"].as_u64())
}

/// How many of the listed shards each host holds.
fn held(gateway: &Node, hosts: &[Node]) -> Result<Table> {
    let described = gateway.json(&["describe", "dataset/registry", "--shards"])?;
    let shards = described["shards"].as_array().context("shards")?;
    let mut table = Table::new(["host", "", "holds"]);
    let nodes = gateway.json(&["ls", "nodes"])?;
    let nodes = nodes["nodes"].as_array().context("a list of nodes")?;
    let ids = nodes.iter().filter(|node| node["hosting"] == true);
    for (index, id) in ids.filter_map(|node| node["id"].as_str()).enumerate() {
        let holds = |shard: &&Value| {
            let holders = shard["holders"].as_array();
            holders.is_some_and(|holders| holders.iter().any(|holder| *holder == id[..10]))
        };
        table.row([
            format!("{} of {}", index + 1, hosts.len()),
            id[..10].to_owned(),
            format!(
                "{} of {} shards",
                count(shards.iter().filter(holds).count() as u64),
                shards.len()
            ),
        ]);
    }
    Ok(table)
}

/// Starts a job, kills a host when it is well under way, and waits for its end.
fn with_a_kill(gateway: &Node, victim: &Node) -> Result<(Value, f64)> {
    let started = gateway.json(&[
        "run",
        "wordcount",
        "--over",
        "registry",
        "--args",
        "{\"top\": 3}",
        "--detach",
    ])?;
    let job = started["job"].as_str().context("the job's id")?;
    let mut at = 0.0;
    until("the job is well under way", || {
        let jobs = gateway.json(&["jobs"])?;
        let of_job = |record: &&Value| record["id"] == job;
        let record = jobs["jobs"].as_array().and_then(|jobs| jobs.iter().find(of_job));
        let record = record.context("the job that was started")?;
        ensure!(
            record["state"]["state"] == "running",
            "the job was faster than us"
        );
        let progress = &record["progress"];
        let (done, all) = (progress["done"].as_f64(), progress["shards"].as_f64());
        at = done.unwrap_or(0.0) / all.unwrap_or(1.0).max(1.0);
        Ok(at >= KILLED_AT)
    })?;
    victim.kill()?;
    Ok((gateway.json(&["wait", job])?, at))
}

fn row(table: &mut Table, what: &str, ran: &Value) {
    let number = |field: &str| ran[field].as_u64().unwrap_or_default();
    table.row([
        what.to_owned(),
        count(number("shards")),
        number("hosts").to_string(),
        count(number("fuel")),
        bytes(number("shard_bytes_moved")),
        bytes(number("partial_bytes_moved")),
        time(Duration::from_secs_f64(
            ran["seconds"].as_f64().unwrap_or_default(),
        )),
    ]);
}

/// A file of each part, read through the gateway, which has none of them.
fn same_file(gateway: &Node, parts: &[PathBuf]) -> Result<()> {
    for (index, part) in parts.iter().enumerate() {
        let files = walkdir::WalkDir::new(part).sort_by_file_name();
        let file = files
            .into_iter()
            .filter_map(Result::ok)
            .find(|entry| entry.file_type().is_file() && entry.file_name() == "Cargo.toml")
            .context("a crate without a Cargo.toml")?;
        let path = file.path().strip_prefix(part)?;
        let path = path.to_str().context("a path that is not UTF-8")?;
        let target = format!("registry/{}/{path}", part_name(index));
        let got = gateway.nearfield().args(["get", &target]).output()?;
        ensure!(
            got.status.success() && got.stdout == fs::read(file.path())?,
            "{path} reads differently: {}",
            String::from_utf8_lossy(&got.stderr)
        );
    }
    Ok(())
}

/// What a host's part is called. Its files stand below that name.
fn part_name(index: usize) -> String {
    format!("host-{index}")
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(begun.elapsed())
}
