//! `cargo xtask bench http`: one hello on every server, in turn and in rounds, so that a slow minute hits all alike.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start, until_ready};
use serde_json::{Value, json};

use super::peers::{self, Peer};
use super::wrk::{self, Load};
use crate::guests;
use crate::report::{Table, count, median, time};
use crate::workspace::{self, Profile, step};

/// The middle of three is not the lucky one.
const ROUNDS: usize = 3;

pub struct Options {
    seconds: u32,
    json: bool,
}

impl Options {
    pub fn parse(arguments: &[&str]) -> Result<Options> {
        let mut options = Options {
            seconds: 5,
            json: false,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--json" => options.json = true,
                "--seconds" => {
                    let seconds = arguments.next().context("--seconds needs a number")?;
                    options.seconds = seconds.parse().context("--seconds")?;
                }
                other => bail!("bench http knows --seconds and --json, not {other}"),
            }
        }
        Ok(options)
    }
}

pub fn run(options: &Options) -> Result<()> {
    wrk::set_up()?;
    let components = guests::build()?;
    let setting = Setting {
        nearfield: workspace::nearfield(Profile::Release)?,
        bare: workspace::bare_server()?,
        wasmtime: peers::wasmtime(),
        component: |name| guests::component(&components, name),
    };
    if setting.wasmtime.is_none() {
        eprintln!("no wasmtime binary on the path and none by pip: its rows are left out");
    }
    let folder = Folder::new("bench")?;
    // Deployed once: each round starts the node over the same folder, as a restart would.
    let first_200 = deploy(&setting, folder.path())?;
    let contestants: Vec<_> = CONTESTANTS
        .iter()
        .filter(|contestant| {
            setting.wasmtime.is_some() || !matches!(contestant.server, Server::Wasmtime { .. })
        })
        .collect();
    let mut loads: Vec<Vec<Load>> = vec![Vec::new(); contestants.len()];
    for round in 1..=ROUNDS {
        for (contestant, loads) in contestants.iter().zip(&mut loads) {
            step(&format!("round {round} of {ROUNDS}: {}", contestant.name));
            let running = setting.start(&contestant.server, folder.path())?;
            // Compiled code is loaded, memory touched, connections' paths warm.
            wrk::Run::new(running.url(), 1).measure()?;
            loads.push(wrk::Run::new(running.url(), options.seconds).measure()?);
        }
    }
    let results: Vec<_> = contestants
        .iter()
        .zip(loads)
        .map(|(contestant, loads)| (contestant.name, middle(&loads)))
        .collect();
    if options.json {
        println!("{}", as_json(&results, first_200));
    } else {
        print_all(&results, first_200, options.seconds);
    }
    Ok(())
}

/// A row of the table.
struct Contestant {
    name: &'static str,
    server: Server,
}

enum Server {
    Bare(&'static str),
    Wasmtime {
        component: &'static str,
        arguments: &'static [&'static str],
    },
    /// A function of ours.
    Nearfield(&'static str),
}

const fn row(name: &'static str, server: Server) -> Contestant {
    Contestant { name, server }
}

const fn serve(component: &'static str, arguments: &'static [&'static str]) -> Server {
    Server::Wasmtime { component, arguments }
}

const REUSE: &[&str] = &["--max-instance-reuse-count", "128"];
const SERVE_P2: &str = "wasmtime serve p2, default";
const SERVE_P2_REUSE: &str = "wasmtime serve p2, reuse 128";
const SERVE_P3: &str = "wasmtime serve p3, default";
const OURS: &str = "nearfield hello (SDK), fresh";
const OURS_REUSE: &str = "nearfield hello (SDK), reuse";
const OURS_P2: &str = "nearfield plain-p2, fresh";
const OURS_P2_REUSE: &str = "nearfield plain-p2, reuse";
const OURS_P3: &str = "nearfield plain-p3, fresh";
const OURS_P3_REUSE: &str = "nearfield plain-p3, reuse";
const BARE: &str = "bare wasmtime p2, fuel, fresh";
const BARE_REUSE: &str = "bare wasmtime p2, fuel, reuse";

const CONTESTANTS: &[Contestant] = &[
    row("bare hyper, no Wasm", Server::Bare("hyper")),
    row(BARE, Server::Bare("fresh")),
    row(BARE_REUSE, Server::Bare("reuse")),
    row(SERVE_P2, serve("plain-p2", &[])),
    row(SERVE_P2_REUSE, serve("plain-p2", REUSE)),
    row(SERVE_P3, serve("plain-p3", &[])),
    row(OURS, Server::Nearfield("hello")),
    row(OURS_REUSE, Server::Nearfield("hello-reuse")),
    row(OURS_P2, Server::Nearfield("plain-p2")),
    row(OURS_P2_REUSE, Server::Nearfield("plain-p2-reuse")),
    row(OURS_P3, Server::Nearfield("plain-p3")),
    row(OURS_P3_REUSE, Server::Nearfield("plain-p3-reuse")),
];

/// One result over another, with what DESIGN §13 asks of it first and then.
const RATIOS: &[(&str, &str, &str, &str, &str)] = &[
    ("whole path, fresh", OURS_P2, SERVE_P2, "≥ 1.7", "3"),
    ("whole path, reuse", OURS_P2_REUSE, SERVE_P2_REUSE, "≥ 1.0", "1.5"),
    ("SDK over raw p2, fresh", OURS, OURS_P2, "≥ 0.9", "-"),
    ("SDK over raw p2, reuse", OURS_REUSE, OURS_P2_REUSE, "≥ 0.9", "-"),
    ("p3 over wasmtime's p3", OURS_P3, SERVE_P3, "-", "-"),
    (
        "p3 reused over wasmtime's p3",
        OURS_P3_REUSE,
        SERVE_P3,
        "-",
        "1.0",
    ),
    ("our own price, fresh", OURS_P2, BARE, "-", "-"),
    ("our own price, reuse", OURS_P2_REUSE, BARE_REUSE, "-", "-"),
];

/// What the servers are started with.
struct Setting<F: Fn(&str) -> PathBuf> {
    nearfield: PathBuf,
    bare: PathBuf,
    wasmtime: Option<PathBuf>,
    component: F,
}

enum Running {
    Peer(Peer),
    /// The node lives as long as its URL is loaded.
    Ours {
        url: String,
        _node: Box<Node>,
    },
}

impl Running {
    fn url(&self) -> &str {
        match self {
            Running::Peer(peer) => &peer.url,
            Running::Ours { url, .. } => url,
        }
    }
}

impl<F: Fn(&str) -> PathBuf> Setting<F> {
    fn start(&self, server: &Server, folder: &Path) -> Result<Running> {
        let hello = (self.component)("plain-p2");
        let hello = hello.to_str().context("a path that is not UTF-8")?;
        Ok(match *server {
            Server::Bare("hyper") => Running::Peer(peers::bare(&self.bare, &["hyper"])?),
            Server::Bare(mode) => Running::Peer(peers::bare(&self.bare, &[mode, hello])?),
            Server::Wasmtime { component, arguments } => {
                let wasmtime = self.wasmtime.as_ref().context("no wasmtime")?;
                Running::Peer(peers::wasmtime_serve(
                    wasmtime,
                    arguments,
                    &(self.component)(component),
                )?)
            }
            Server::Nearfield(function) => {
                let node = Start::new(&self.nearfield, &folder.join("data"))
                    .on_core(peers::CORE)
                    .run()?;
                let url = format!("{}/fn/{function}", node.functions_url);
                until_ready(&url)?;
                Running::Ours {
                    url,
                    _node: Box::new(node),
                }
            }
        })
    }
}

/// Deploys our functions; gives the time from a restart's exec to its first 200.
fn deploy<F: Fn(&str) -> PathBuf>(setting: &Setting<F>, folder: &Path) -> Result<Duration> {
    let mut manifest = String::new();
    for (name, component, instances) in [
        ("hello", "hello", "fresh"),
        ("hello-reuse", "hello", "reuse"),
        ("plain-p2", "plain-p2", "fresh"),
        ("plain-p2-reuse", "plain-p2", "reuse"),
        ("plain-p3", "plain-p3", "fresh"),
        ("plain-p3-reuse", "plain-p3", "reuse"),
    ] {
        let component = (setting.component)(component).canonicalize()?;
        manifest.push_str(&format!(
            "[function.{name}]\nbuild = {{ component = {component:?} }}\npublic = true\ninstances = {instances:?}\n"
        ));
    }
    fs::write(folder.join("nearfield.toml"), manifest)?;
    let data = folder.join("data");
    let node = Node::start(&setting.nearfield, &data)?;
    node.json(&["deploy", folder.to_str().context("a path that is not UTF-8")?])?;
    node.stop()?;
    let start = Instant::now();
    let node = Node::start(&setting.nearfield, &data)?;
    until_ready(&format!("{}/fn/hello", node.functions_url))?;
    let took = start.elapsed();
    node.stop()?;
    Ok(took)
}

fn middle(loads: &[Load]) -> Load {
    let of = |value: fn(&Load) -> f64| median(loads.iter().map(value).collect());
    Load {
        requests_per_second: of(|load| load.requests_per_second),
        p50_ms: of(|load| load.p50_ms),
        p99_ms: of(|load| load.p99_ms),
    }
}

/// The ratios of which both sides ran.
fn ratios(results: &[(&str, Load)]) -> Vec<(&'static str, f64, &'static str, &'static str)> {
    let rate = |name| {
        let found = results.iter().find(|(result, _)| *result == name);
        found.map(|(_, load)| load.requests_per_second)
    };
    RATIOS
        .iter()
        .filter_map(|&(what, ours, theirs, first, then)| {
            Some((what, rate(ours)? / rate(theirs)?, first, then))
        })
        .collect()
}

fn print_all(results: &[(&str, Load)], first_200: Duration, seconds: u32) {
    println!(
        "\nOne hello, {} connections, server and wrk on a core each, medians of {ROUNDS} rounds of {seconds} s\n",
        wrk::CONNECTIONS
    );
    let mut table = Table::new(["server", "requests/s", "p50", "p99"]);
    for (name, load) in results {
        let ms = |value: f64| format!("{value:.2} ms");
        let rate = count(load.requests_per_second as u64);
        table.row([(*name).to_owned(), rate, ms(load.p50_ms), ms(load.p99_ms)]);
    }
    println!("{table}");
    let mut table = Table::new(["ratio", "measured", "first goal", "then"]);
    for (what, ratio, first, then) in ratios(results) {
        table.row([
            what.to_owned(),
            format!("{ratio:.2}"),
            first.to_owned(),
            then.to_owned(),
        ]);
    }
    println!("{table}");
    println!(
        "Our node, exec to the first 200 of a function: {}",
        time(first_200)
    );
}

fn as_json(results: &[(&str, Load)], first_200: Duration) -> Value {
    let servers = results.iter().map(|(name, load)| {
        json!({
            "server": name,
            "requests_per_second": load.requests_per_second,
            "p50_ms": load.p50_ms,
            "p99_ms": load.p99_ms,
        })
    });
    let ratios = ratios(results)
        .into_iter()
        .map(|(what, ratio, first, _)| json!({ "ratio": what, "measured": ratio, "goal": first }));
    json!({
        "servers": servers.collect::<Vec<_>>(),
        "ratios": ratios.collect::<Vec<_>>(),
        "first_200_ms": first_200.as_secs_f64() * 1000.0,
    })
}
