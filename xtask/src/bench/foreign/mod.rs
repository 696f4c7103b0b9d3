//! `cargo xtask bench foreign`: components from other languages' toolchains, on our node and under `wasmtime serve`.

mod toolchains;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Answer, Node, Start, until_ready};
use serde_json::{Value, json};
use ureq::http::Request;

use self::toolchains::{Toolchain, Wasi};
use super::peers::{self, Peer};
use super::wrk;
use crate::report::{Table, bytes, count, median, time};
use crate::soak::inputs;
use crate::workspace::{self, Profile, given, root, step};

/// As many as an interpreter's instances of 50 MiB each leave room for.
const CONNECTIONS: u32 = 8;
/// Calls one after the other, of which the middle one counts.
const CALLS: usize = 21;
const ECHO_BYTES: usize = 1_000_000;
const LOAD_SECONDS: u32 = 4;

/// The folders of `benches/foreign`.
const COMPONENTS: &[(&str, Toolchain, Wasi)] = &[
    ("python", Toolchain::Python, Wasi::P2),
    ("python-p3", Toolchain::Python, Wasi::P3),
    ("javascript", Toolchain::Node, Wasi::P2),
    ("quickjs", Toolchain::Node, Wasi::P3),
    ("c", Toolchain::C, Wasi::P2),
];

/// What was seen of one component.
struct Seen {
    name: &'static str,
    component_bytes: u64,
    deploy: Duration,
    cold: Duration,
    warm: Duration,
    fuel: u64,
    fresh: Rate,
    reused: Rate,
    serve: Option<Rate>,
    serve_reused: Option<Rate>,
}

/// A server under load.
struct Rate {
    per_second: f64,
    memory_bytes: u64,
}

pub fn run(as_json: bool) -> Result<()> {
    wrk::set_up()?;
    let nearfield = workspace::nearfield(Profile::Release)?;
    let wasmtime = peers::wasmtime();
    if wasmtime.is_none() {
        eprintln!("no wasmtime binary on the path and none by pip: its columns are left out");
    }
    let folder = Folder::new("foreign")?;
    let mut all = Vec::new();
    for &(name, toolchain, wasi) in COMPONENTS {
        let component = component(name, toolchain, wasi)?;
        step(&format!("{name}: on a node of ours"));
        let mut seen = ours(name, &component, &nearfield, folder.path())
            .with_context(|| format!("the component of {name}"))?;
        if let Some(wasmtime) = &wasmtime {
            step(&format!("{name}: under wasmtime serve"));
            let rate = |arguments: &[&str]| theirs(wasmtime, arguments, &component);
            seen.serve = Some(rate(&["--max-instance-reuse-count", "1"])?);
            seen.serve_reused = Some(rate(&["--max-instance-reuse-count", "128"])?);
        }
        all.push(seen);
    }
    if as_json {
        println!("{}", Value::from_iter(all.iter().map(to_json)));
    } else {
        print_all(&all);
    }
    Ok(())
}

/// Builds a component, or takes the one that `NEARFIELD_FOREIGN` has.
fn component(name: &str, toolchain: Toolchain, wasi: Wasi) -> Result<PathBuf> {
    let file = format!("{name}.wasm");
    if let Some(folder) = given("NEARFIELD_FOREIGN") {
        let path = folder.join(file);
        ensure!(path.is_file(), "there is no {}", path.display());
        return Ok(path.canonicalize()?);
    }
    let path = root().join("target/foreign").join(file);
    toolchains::build(name, toolchain, wasi, &path)?;
    Ok(path)
}

fn ours(name: &'static str, component: &Path, nearfield: &Path, folder: &Path) -> Result<Seen> {
    let data = folder.join(format!("{name}-data"));
    let source = folder.join(name);
    fs::create_dir_all(&source)?;
    let functions = ["fresh", "reuse"].map(|instances| {
        format!(
            "[function.{instances}]\nbuild = {{ component = {component:?} }}\npublic = true\ninstances = {instances:?}\n"
        )
    });
    fs::write(source.join("nearfield.toml"), functions.concat())?;
    let node = Node::start(nearfield, &data)?;
    let begun = Instant::now();
    node.json(&["deploy", source.to_str().context("a path that is not UTF-8")?])?;
    let deploy = begun.elapsed();
    node.stop()?;

    let node = Node::start(nearfield, &data)?;
    let cold = hello(&node, "fresh", name)?.took;
    let mut warm = Vec::new();
    let mut fuel = Vec::new();
    for _ in 0..CALLS {
        let answer = hello(&node, "fresh", name)?;
        warm.push(answer.took.as_secs_f64());
        let burned = answer.header("nearfield-fuel").context("no nearfield-fuel")?;
        fuel.push(burned.parse::<u64>()?);
    }
    ensure!(
        fuel.iter().all(|burned| *burned == fuel[0]),
        "equal calls burned different fuel: {fuel:?}"
    );
    for instances in ["fresh", "reuse"] {
        behaves(&node, instances, name)?;
    }
    node.stop()?;
    let load = |instances: &str| -> Result<Rate> {
        let node = Start::new(nearfield, &data).on_core(peers::CORE).run()?;
        let url = format!("{}/fn/{instances}/", node.functions_url);
        let per_second = loaded(&url)?;
        let memory_bytes = node.memory("VmRSS")?;
        node.stop()?;
        Ok(Rate {
            per_second,
            memory_bytes,
        })
    };
    Ok(Seen {
        name,
        component_bytes: component.metadata()?.len(),
        deploy,
        cold,
        warm: Duration::from_secs_f64(median(warm)),
        fuel: fuel[0],
        fresh: load("fresh")?,
        reused: load("reuse")?,
        serve: None,
        serve_reused: None,
    })
}

fn theirs(wasmtime: &Path, arguments: &[&str], component: &Path) -> Result<Rate> {
    let peer: Peer = peers::wasmtime_serve(wasmtime, arguments, component)?;
    Ok(Rate {
        per_second: loaded(&peer.url)?,
        memory_bytes: peer.memory("VmRSS")?,
    })
}

fn loaded(url: &str) -> Result<f64> {
    until_ready(url)?;
    let measure = |seconds| {
        let run = wrk::Run {
            connections: CONNECTIONS,
            ..wrk::Run::new(url, seconds)
        };
        run.measure()
    };
    measure(1)?;
    Ok(measure(LOAD_SECONDS)?.requests_per_second)
}

fn hello(node: &Node, function: &str, name: &str) -> Result<Answer> {
    let answer = node.get(&format!("/fn/{function}/"))?;
    let said = answer.text();
    ensure!(
        answer.status == 200 && said == format!("Hello from {name}\n"),
        "it answered {} {said:?}",
        answer.status
    );
    Ok(answer)
}

/// What each component does beside its hello: a body streamed back, an error, a status and a header.
fn behaves(node: &Node, function: &str, name: &str) -> Result<()> {
    let url = |path: &str| format!("{}/fn/{function}/{path}", node.functions_url);
    let body = inputs::noise_bytes(0, ECHO_BYTES);
    let echo = node.send(Request::post(url("echo")).body(body.clone())?)?;
    ensure!(
        echo.status == 200,
        "/echo answered {} {}",
        echo.status,
        echo.text()
    );
    ensure!(echo.body == body, "/echo gave other bytes back");
    let boom = node.send(Request::get(url("boom")).body(Vec::new())?)?;
    ensure!(
        boom.status >= 500,
        "/boom answered {} {}",
        boom.status,
        boom.text()
    );
    let other = node.send(Request::get(url("other")).body(Vec::new())?)?;
    let tool = other.header("x-tool");
    ensure!(
        other.status == 404 && tool == Some(name) && other.text().contains("other"),
        "/other answered {} {tool:?} {}",
        other.status,
        other.text()
    );
    hello(node, function, name)?;
    Ok(())
}

fn print_all(all: &[Seen]) {
    println!(
        "\nComponents of other toolchains: hello, 1 MB echoed, an error, a 404; {CONNECTIONS} connections, server and \
         wrk on a core each, {LOAD_SECONDS} s\n"
    );
    let mut table = Table::new([
        "component",
        "size",
        "deploy",
        "cold",
        "warm",
        "fuel, equal",
        "fresh/s",
        "serve",
        "reused/s",
        "serve",
        "memory",
        "serve",
    ]);
    for seen in all {
        let per_second =
            |rate: Option<&Rate>| rate.map_or_else(|| "-".to_owned(), |rate| count(rate.per_second as u64));
        let memory =
            |rate: Option<&Rate>| rate.map_or_else(|| "-".to_owned(), |rate| bytes(rate.memory_bytes));
        table.row([
            seen.name.to_owned(),
            bytes(seen.component_bytes),
            time(seen.deploy),
            time(seen.cold),
            time(seen.warm),
            count(seen.fuel),
            per_second(Some(&seen.fresh)),
            per_second(seen.serve.as_ref()),
            per_second(Some(&seen.reused)),
            per_second(seen.serve_reused.as_ref()),
            memory(Some(&seen.reused)),
            memory(seen.serve_reused.as_ref()),
        ]);
    }
    println!("{table}");
}

fn to_json(seen: &Seen) -> Value {
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let rate =
        |rate: &Rate| json!({ "requests_per_second": rate.per_second, "memory_bytes": rate.memory_bytes });
    json!({
        "component": seen.name,
        "component_bytes": seen.component_bytes,
        "deploy_ms": ms(seen.deploy),
        "cold_ms": ms(seen.cold),
        "warm_ms": ms(seen.warm),
        "fuel": seen.fuel,
        "fresh": rate(&seen.fresh),
        "reused": rate(&seen.reused),
        "serve": seen.serve.as_ref().map(rate),
        "serve_reused": seen.serve_reused.as_ref().map(rate),
    })
}

pub fn parse(arguments: &[&str]) -> Result<bool> {
    match arguments {
        [] => Ok(false),
        ["--json"] => Ok(true),
        other => bail!("bench foreign knows --json, not {}", other.join(" ")),
    }
}
