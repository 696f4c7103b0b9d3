//! A large table is sorted by its key in little memory, and its records are found fast.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;

use super::inputs::draw;
use super::jobs::rig::{deploy, path};
use super::{Finding, Setting};
use crate::bench::wrk;
use crate::report::{bytes, time};

const HEADER: &str = "user_id,name,city,balance";
/// Calls at once.
const CONNECTIONS: u32 = 100;
/// Look-ups compared with what they must find.
const COMPARED: u64 = 1_000;
/// What the node may take above what it holds at rest.
const MOST_MEMORY: u64 = 256 << 20;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let (records, seconds) = if setting.quick {
        (2_000_000, 3)
    } else {
        (62_000_000, 15)
    };
    wrk::set_up()?;
    let folder = Folder::new("keyed")?;
    let node = Node::start(&setting.nearfield, &folder.path().join("data"))?;
    let table = folder.path().join("users.csv");
    let sum = write_table(&table, records)?;
    let size = fs::metadata(&table)?.len();

    let before = node.memory("VmRSS")?;
    node.reset_peak()?;
    let start = Instant::now();
    let put = node.json(&["put", path(&table)?, "--name", "users", "--key", "user_id"])?;
    let took = start.elapsed();
    let extra = node.memory("VmHWM")?.saturating_sub(before);
    ensure!(extra < MOST_MEMORY, "sorting took {} of memory", bytes(extra));
    fs::remove_file(&table)?;
    let mut findings = vec![(
        format!("{records} records, {}, sorted by a key", bytes(size)),
        format!(
            "{}, {} more memory at its peak, {} shards",
            time(took),
            bytes(extra),
            put["shards"]
        ),
    )];
    check_order(&node, records, sum)?;
    findings.push(("got back".to_owned(), "in order, every record once".to_owned()));

    let manifest = "public = true\ninstances = \"reuse\"\ninputs = { data = \"users\" }\nlocate = { input = \"data\", key = \"{rest}\" }";
    deploy(setting, &node, folder.path(), "lookup", manifest)?;
    for round in 0..COMPARED {
        let id = draw(round) % records;
        let answer = node.get(&format!("/fn/lookup/{id:012}"))?;
        let found = String::from_utf8(answer.body)?;
        ensure!(
            answer.status == 200 && found == as_json(&record(id)),
            "{id:012} was found as {found}"
        );
    }
    let script = folder.path().join("keys.lua");
    fs::write(
        &script,
        format!(
            "request = function() return wrk.format(\"GET\", string.format(\"/fn/lookup/%012d\", math.random(0, {}))) end\n",
            records - 1
        ),
    )?;
    let load = wrk::Run {
        connections: CONNECTIONS,
        script: Some(&script),
        ..wrk::Run::new(&node.functions_url, seconds)
    };
    let load = load.measure()?;
    findings.push((
        format!("look-ups of random keys, {CONNECTIONS} at once"),
        format!(
            "{COMPARED} right; {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
            load.requests_per_second, load.p50_ms, load.p99_ms
        ),
    ));
    node.stop()?;
    Ok(findings)
}

/// The record of a user, without its line end.
fn record(id: u64) -> String {
    let noise = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{id:012},\"User {:x}, {}\",{:040x},{}.{:02}",
        noise >> 32,
        id % 1_000,
        noise,
        noise % 10_000,
        noise % 97
    )
}

fn as_json(record: &str) -> String {
    let (id, rest) = record.split_once(",\"").unwrap_or_default();
    let (name, rest) = rest.split_once("\",").unwrap_or_default();
    let (city, balance) = rest.split_once(',').unwrap_or_default();
    format!("{{\"user_id\":\"{id}\",\"name\":\"{name}\",\"city\":\"{city}\",\"balance\":\"{balance}\"}}\n")
}

/// Writes every record once, far from where it belongs. Returns a sum over them that their order does not change.
fn write_table(path: &Path, records: u64) -> Result<u64> {
    // A prime that does not divide the number of records: its multiples are all of them.
    const STEP: u64 = 7_368_787;
    ensure!(
        !records.is_multiple_of(STEP),
        "the step divides the number of records"
    );
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    writeln!(file, "{HEADER}")?;
    let mut sum = 0u64;
    for number in 0..records {
        let line = record(number * STEP % records);
        sum = sum.wrapping_add(hash(&line));
        writeln!(file, "{line}")?;
    }
    file.flush()
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(sum)
}

fn check_order(node: &Node, records: u64, expected: u64) -> Result<()> {
    let mut get = node.nearfield();
    get.args(["get", "users"]).stdout(Stdio::piped());
    let mut get = nearfield_testkit::cleanup::Process::start(&mut get)?;
    let stdout = get.child().stdout.take().context("what is got")?;
    let mut lines = BufReader::with_capacity(1 << 20, stdout).lines();
    ensure!(
        lines.next().transpose()?.as_deref() == Some(HEADER),
        "the header is gone"
    );
    let (mut count, mut sum, mut last) = (0, 0u64, String::new());
    for line in lines {
        let line = line?;
        let key = line.get(..12).context("a record without a key")?;
        ensure!(last.as_str() < key, "{key} comes behind {last}");
        sum = sum.wrapping_add(hash(&line));
        count += 1;
        last.clear();
        last.push_str(key);
    }
    ensure!(
        count == records && sum == expected,
        "{count} records came back of {records}"
    );
    Ok(())
}

fn hash(line: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}
