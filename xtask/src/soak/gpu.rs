//! Functions on a GPU, whichever this machine has: right results, whatever is thrown at it, under a small budget of memory, while
//! its worker is killed, and on the host that has the data there.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Answer, Node, Start};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use ureq::http::Request;

use super::inputs::{draw, noise_bytes};
use super::{Finding, Setting};
use crate::report::{count, median, time};
use crate::{gpu, guests};

/// Longest that any hostile shader may keep its caller, a killed worker and its restart included.
const BOUND: Duration = Duration::from_secs(15);

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let adapter = match gpu::adapter(&setting.nearfield)? {
        Ok(adapter) => adapter,
        Err(lacks) => return Ok(vec![("left out".to_owned(), lacks)]),
    };
    let mut findings = vec![("adapter".to_owned(), adapter)];
    findings.extend(results(setting)?);
    findings.push(budget(setting)?);
    findings.extend(kills(setting)?);
    findings.push(hostile(setting)?);
    findings.push(placement(setting)?);
    Ok(findings)
}

/// Integers exactly, and f32 against f64, over random inputs of random sizes.
fn results(setting: &Setting) -> Result<Vec<Finding>> {
    let folder = Folder::new("gpu-results")?;
    let node = Node::start(&setting.nearfield, &folder.path().join("data"))?;
    let files: Vec<Vec<u8>> = (0..rounds(setting, 6, 40))
        .map(|seed| noise_bytes(seed, 4 * (1 + draw(seed) as usize % 400_000)))
        .collect();
    put_numbers(&node, folder.path(), &files)?;
    deploy(&node, setting, folder.path(), "histogram", OVER_NUMBERS)?;
    deploy(&node, setting, folder.path(), "matmul", "")?;
    gpu::wait(&node)?;
    for (at, bytes) in files.iter().enumerate() {
        let answer = node.get(&format!("/fn/histogram/{at:03}"))?;
        ensure!(
            json_of(&answer)? == counted(bytes),
            "histogram of file {at} is wrong"
        );
    }
    let ran = node.json(&["run", "histogram", "--over", "numbers"])?;
    ensure!(
        ran["output"] == counted(&files.concat()),
        "the job's histogram is wrong"
    );

    let mut worst: f64 = 0.0;
    let products = rounds(setting, 5, 40);
    for seed in 0..products {
        let side = |of: u64| 1 + (draw(seed * 3 + of) % 300) as usize;
        let (m, k, n) = (side(0), side(1), side(2));
        let numbers: Vec<f32> = noise_bytes(seed, 4 * (m * k + k * n))
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| i32::from_le_bytes(*bytes) as f32 / i32::MAX as f32)
            .collect();
        let body: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let url = format!("{}/fn/matmul?m={m}&k={k}&n={n}", node.functions_url);
        let answer = node.send(Request::post(url).body(body)?)?;
        ensure!(answer.status == 200, "matmul {m} {k} {n}: {}", answer.text());
        let (a, b) = numbers.split_at(m * k);
        let (mut difference, mut norm) = (0.0, 0.0);
        for (index, found) in answer.body.as_chunks::<4>().0.iter().enumerate() {
            let (row, column) = (index / n, index % n);
            let term = |i: usize| f64::from(a[row * k + i]) * f64::from(b[i * n + column]);
            let expected: f64 = (0..k).map(term).sum();
            difference += (f64::from(f32::from_le_bytes(*found)) - expected).powi(2);
            norm += expected * expected;
        }
        worst = worst.max((difference / norm).sqrt());
    }
    ensure!(worst < 1e-5, "a product is {worst} off");
    Ok(vec![
        (
            format!(
                "histograms of {} files of random sizes, and of all as a job",
                files.len()
            ),
            "exact".to_owned(),
        ),
        (
            format!("{products} products of random matrices, against f64"),
            format!("‖Δ‖/‖ref‖ ≤ {worst:.1e} (goal < 1e-5)"),
        ),
    ])
}

/// Three times as many shards as fit, in random order.
fn budget(setting: &Setting) -> Result<Finding> {
    const BUDGET: u64 = 16 << 20;
    let folder = Folder::new("gpu-budget")?;
    let data = folder.path().join("data");
    let node = Start::new(&setting.nearfield, &data)
        .flags(&["--gpu-memory", "16MiB"])
        .run()?;
    let files: Vec<Vec<u8>> = (0..48).map(|seed| noise_bytes(seed, 1 << 20)).collect();
    put_numbers(&node, folder.path(), &files)?;
    deploy(&node, setting, folder.path(), "histogram", OVER_NUMBERS)?;
    gpu::wait(&node)?;
    let calls = rounds(setting, 100, 3_000);
    let (mut uploads, mut most) = (0, 0);
    for call in 0..calls {
        let at = draw(call) as usize % files.len();
        let answer = node.get(&format!("/fn/histogram/{at:03}"))?;
        ensure!(json_of(&answer)? == counted(&files[at]), "call {call} is wrong");
        uploads += figure(&node, &answer, "resident_misses")?;
        let resident = resident_bytes(&node)?;
        ensure!(
            resident <= BUDGET,
            "{resident} bytes are in GPU memory, of {BUDGET}"
        );
        most = most.max(resident);
    }
    Ok((
        format!(
            "{} calls over 48 MiB of shards, with 16 MiB of GPU memory",
            count(calls)
        ),
        format!(
            "all right, {} uploads, never more than {} KiB there",
            count(uploads),
            most >> 10
        ),
    ))
}

/// The worker is killed under load, again and again.
fn kills(setting: &Setting) -> Result<Vec<Finding>> {
    let folder = Folder::new("gpu-kills")?;
    let data = folder.path().join("data");
    let node = Node::start(&setting.nearfield, &data)?;
    let bytes = noise_bytes(1, 1 << 20);
    put_numbers(&node, folder.path(), std::slice::from_ref(&bytes))?;
    deploy(&node, setting, folder.path(), "histogram", OVER_NUMBERS)?;
    gpu::wait(&node)?;
    let path = "/fn/histogram/000";
    let expected = counted(&bytes);
    let node_id = node.pid();
    let rounds = rounds(setting, 5, 50);
    let (stop, mut recoveries) = (AtomicBool::new(false), Vec::new());
    let (mut right, mut lost) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<(u64, u64)> {
            let (mut right, mut lost) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let answer = node.get(path)?;
                match answer.status {
                    200 if json_of(&answer)? == expected => right += 1,
                    200 => bail!("a wrong answer: {}", answer.text()),
                    _ => lost += 1,
                }
            }
            Ok((right, lost))
        });
        let killed = (|| -> Result<()> {
            for _ in 0..rounds {
                let answer = node.get(path)?;
                ensure!(answer.status == 200, "the call after a kill: {}", answer.text());
                let worker = worker_of(node_id)?.context("no worker")?;
                kill_process(Pid::from_raw(worker as i32).context("its id")?, Signal::KILL)?;
                let begun = Instant::now();
                // The load or this call notices; a call that was under way may be lost with it.
                while node.get(path)?.status != 200 {}
                recoveries.push(begun.elapsed().as_secs_f64());
                ensure!(node.pid() == node_id, "the node is another one");
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let loaded = load.join().expect("the load does not panic");
        killed?;
        (right, lost) = loaded?;
        Ok::<_, anyhow::Error>(())
    })?;
    let slowest = recoveries.iter().copied().fold(0.0, f64::max);
    let middle = median(recoveries);
    let seconds = Duration::from_secs_f64;
    Ok(vec![
        (
            format!("the worker killed {rounds} times under load: from the kill to an answer"),
            format!(
                "{} (middle), {} (slowest)",
                time(seconds(middle)),
                time(seconds(slowest))
            ),
        ),
        (
            "answers meanwhile".to_owned(),
            format!(
                "{} right, {lost} told that the device was lost, none wrong",
                count(right)
            ),
        ),
    ])
}

/// Shaders that mean no good, and shaders made of random pieces, while others are answered.
fn hostile(setting: &Setting) -> Result<Finding> {
    let folder = Folder::new("gpu-hostile")?;
    let node = Node::start(&setting.nearfield, &folder.path().join("data"))?;
    let bytes = noise_bytes(1, 1 << 20);
    put_numbers(&node, folder.path(), std::slice::from_ref(&bytes))?;
    deploy(&node, setting, folder.path(), "histogram", OVER_NUMBERS)?;
    let limits = "limits = { memory = \"64MiB\" }\ninputs = { data = \"numbers\" }";
    // One alone would be refused after it cost the worker three times.
    let (rounds, functions) = (rounds(setting, 40, 2_000), rounds(setting, 8, 150));
    for number in 0..functions {
        let name = format!("shader-{number}");
        deploy_as(&node, setting, folder.path(), &name, "shader", limits)?;
    }
    gpu::wait(&node)?;
    let expected = counted(&bytes);
    let mut ends = std::collections::BTreeMap::<String, u64>::new();
    let mut slowest = Duration::ZERO;
    for seed in 0..rounds {
        let wgsl = random_shader(seed);
        let workgroups = [1, 7, 1_000, 60_000][draw(seed ^ 1) as usize % 4];
        let query = format!("buffers=256,1024&workgroups={workgroups},1,1&read=64&timeout_ms=500");
        let url = format!("{}/fn/shader-{}?{query}", node.functions_url, seed % functions);
        let begun = Instant::now();
        let answer = node.send(Request::post(url).body(wgsl.clone().into_bytes())?)?;
        slowest = slowest.max(begun.elapsed());
        ensure!(
            begun.elapsed() < BOUND,
            "a shader kept its caller for {:?}:\n{wgsl}",
            begun.elapsed()
        );
        ensure!(answer.status == 200, "{}:\n{wgsl}", answer.text());
        let said = json_of(&answer)?;
        let end = said["error"].as_str().unwrap_or("ran");
        *ends.entry(end.to_owned()).or_default() += 1;
        let other = node.get("/fn/histogram/000")?;
        ensure!(
            other.status == 200 && json_of(&other)? == expected,
            "another's answer after a shader: {}\n{wgsl}",
            other.text()
        );
    }
    let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
    Ok((
        format!("{} random shaders, another's call after each", count(rounds)),
        format!("{}; slowest {}; all others right", ends.join(", "), time(slowest)),
    ))
}

/// With two hosts, calls go where the shard is in GPU memory.
fn placement(setting: &Setting) -> Result<Finding> {
    let folder = Folder::new("gpu-placement")?;
    let binary = &setting.nearfield;
    let gateway = Start::new(binary, &folder.path().join("gateway"))
        .flags(&["--no-host"])
        .run()?;
    let first = Start::new(binary, &folder.path().join("first")).join(&gateway, &[])?;
    let second = Start::new(binary, &folder.path().join("second")).join(&gateway, &[])?;
    let files: Vec<Vec<u8>> = (0..20).map(|seed| noise_bytes(seed, 512 << 10)).collect();
    until("both hosts are there", || {
        let nodes = gateway.json(&["ls", "nodes"])?;
        let nodes = nodes["nodes"].as_array().context("nodes")?;
        Ok(nodes.iter().filter(|node| !node["load"]["gpu"].is_null()).count() == 2)
    })?;
    put_numbers(&gateway, folder.path(), &files)?;
    until("both keep each shard", || {
        let described = gateway.json(&["describe", "dataset/numbers"])?;
        Ok(described["replicas"]["least"] == 2)
    })?;
    deploy(&gateway, setting, folder.path(), "histogram", OVER_NUMBERS)?;
    let mut homes = Vec::new();
    for (at, bytes) in files.iter().enumerate() {
        let answer = gateway.get(&format!("/fn/histogram/{at:03}"))?;
        ensure!(json_of(&answer)? == counted(bytes), "call {at} is wrong");
        homes.push(answer.header("nearfield-host").context("its host")?.to_owned());
    }
    // What is in which memory is told within a beat.
    std::thread::sleep(Duration::from_secs(1));
    let calls = rounds(setting, 100, 1_000);
    for call in 0..calls {
        let at = draw(call) as usize % files.len();
        let answer = gateway.get(&format!("/fn/histogram/{at:03}"))?;
        let host = answer.header("nearfield-host").context("its host")?;
        ensure!(
            host == homes[at],
            "call {call} went to {host}, and {} has the shard",
            homes[at]
        );
        ensure!(
            figure(&gateway, &answer, "uploaded_bytes")? == 0,
            "call {call} uploaded something"
        );
    }
    let on_first = homes.iter().filter(|home| **home == homes[0]).count();
    first.stop()?;
    second.stop()?;
    Ok((
        format!(
            "{} calls of two hosts with GPUs, {on_first} and {} shards in their memory",
            count(calls),
            20 - on_first
        ),
        "each where its shard is, 0 B uploaded".to_owned(),
    ))
}

/// A shader of random statements. Some are no shader, some never end, some reach for what is not theirs.
fn random_shader(seed: u64) -> String {
    const STATEMENTS: [&str; 24] = [
        "a[i] = b[i * 7u];",
        "b[i + 1u] ^= a[i] + 3u;",
        "a[4294967295u - i] = 1u;",
        "x = b[i * 2654435761u];",
        "loop { a[i] += 1u; }",
        "while a[0] != 12345u { x++; a[i] = x; }",
        "loop { workgroupBarrier(); x++; if x == 4000000000u { break; } }",
        "for (var j = 0u; j < 1000u; j++) { x += b[j]; }",
        "for (var j = i; j >= 0u; j--) { b[j % 64u] = j; }",
        "workgroupBarrier();",
        "storageBarrier();",
        "x = x / (i - i);",
        "x = x % b[i];",
        "y = f32(x) / 0.0;",
        "x = u32(y);",
        "x = bitcast<u32>(sqrt(-y));",
        "shared_values[x] = i;",
        "x = shared_values[i * 99u];",
        "switch x { case 1u: { a[1] = 1u; } default: { b[2] = x; } }",
        "if i > 3u { return; }",
        "x = x << (i + 40u);",
        "if a[i] > b[i] { continue; }",
        "undefined(x);",
        "x = recursive(x);",
    ];
    let picks = noise_bytes(seed ^ 0x6c0d, 12);
    let mut statements = String::new();
    let mut open = 0;
    for pick in &picks[..2 + picks[11] as usize % 9] {
        match pick % 32 {
            at @ 0..24 => statements.push_str(STATEMENTS[at as usize]),
            24..28 => {
                statements.push_str("for (var k = 0u; k < 100000u; k++) {");
                open += 1;
            }
            _ if open > 0 => {
                statements.push('}');
                open -= 1;
            }
            _ => statements.push_str("x += 1u;"),
        }
    }
    let close = "}".repeat(open);
    format!(
        "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> b: array<u32>;
        var<workgroup> shared_values: array<u32, 64>;
        fn recursive(n: u32) -> u32 {{ return n * 3u; }}
        @compute @workgroup_size(64)
        fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            let i = id.x; var x = i; var y = 1.0;
            {statements} {close}
            a[i % 16u] = x; b[i % 16u] = u32(y);
        }}"
    )
}

const OVER_NUMBERS: &str =
    "inputs = { numbers = \"numbers\" }\nlocate = { input = \"numbers\", path = \"{rest}\" }";

fn deploy(node: &Node, setting: &Setting, folder: &Path, name: &str, more: &str) -> Result<()> {
    deploy_as(node, setting, folder, name, name, more)
}

fn deploy_as(
    node: &Node,
    setting: &Setting,
    folder: &Path,
    name: &str,
    component: &str,
    more: &str,
) -> Result<()> {
    let component = guests::component(&setting.components, component);
    let manifest = format!(
        "[function.{name}]\nbuild = {{ component = \"{}\" }}\npublic = true\nrequire = {{ gpu = \"any\" }}\n{more}\n",
        component.display()
    );
    fs::write(folder.join("nearfield.toml"), manifest)?;
    node.json(&["deploy", folder.to_str().context("a path that is not UTF-8")?])?;
    Ok(())
}

/// Each file is a shard.
fn put_numbers(node: &Node, folder: &Path, files: &[Vec<u8>]) -> Result<()> {
    let numbers = folder.join("numbers");
    fs::create_dir_all(&numbers)?;
    for (at, bytes) in files.iter().enumerate() {
        fs::write(numbers.join(format!("{at:03}")), bytes)?;
    }
    node.put(&numbers, "numbers", "fixed:4")?;
    Ok(())
}

fn counted(bytes: &[u8]) -> Value {
    let mut counts = vec![0_u64; 256];
    for word in bytes.as_chunks::<4>().0 {
        counts[word[3] as usize] += 1;
    }
    json!(counts)
}

fn json_of(answer: &Answer) -> Result<Value> {
    serde_json::from_slice(&answer.body).with_context(|| format!("{}: {}", answer.status, answer.text()))
}

/// One of the figures of a call's record. Its headers say them only if the answer came at once.
fn figure(node: &Node, answer: &Answer, name: &str) -> Result<u64> {
    let record = node.record(answer.call()?)?;
    record["report"]["gpu"][name]
        .as_u64()
        .with_context(|| record.to_string())
}

fn resident_bytes(node: &Node) -> Result<u64> {
    let nodes = node.json(&["ls", "nodes"])?;
    nodes["nodes"][0]["load"]["gpu"]["resident_bytes"]
        .as_u64()
        .context("bytes in GPU memory")
}

/// The process that drives a node's GPU.
fn worker_of(node: u32) -> Result<Option<u32>> {
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let stat = read("stat");
        let mut after_name = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        let (state, parent) = (after_name.next(), after_name.next());
        let is_child = parent.and_then(|parent| parent.parse().ok()) == Some(node) && state != Some("Z");
        if is_child && read("cmdline").contains("gpu-worker") {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is_so()? {
        ensure!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn rounds(setting: &Setting, quick: u64, whole: u64) -> u64 {
    if setting.quick { quick } else { whole }
}
