//! Every function that a host offers to guests, in an endless loop: each pays, ends in time, and keeps nobody waiting.

mod handles;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Function, Resolve};

use self::handles::{Handles, Probed};
use crate::harness::Node;

/// How long a probe may run.
const TIME: Duration = Duration::from_secs(1);
/// What it may burn: some 40,000 of the cheapest host calls.
const FUEL: u64 = 10_000_000;
/// How a probe may end.
const ENDS: [&str; 5] = [
    "out-of-fuel",
    "trap",
    "timeout",
    "too-many-handles",
    "out-of-memory",
];

/// A version of WASI: where its interfaces are described, and what a function that is called exports.
struct Wasi {
    name: &'static str,
    /// In the engine's package of `wasi:http`.
    folder: &'static str,
    handler: &'static str,
    /// The core functions behind it: `$loop` stands for the loop.
    exports: &'static str,
}

/// One function in a loop, with one number for all of its parameters.
struct Probe {
    /// Of the function that is deployed.
    name: String,
    /// What it calls, with which number.
    what: String,
    component: Vec<u8>,
}

/// How a call of a probe ended.
#[derive(Debug)]
struct Ended {
    problem: String,
    detail: String,
    took: Duration,
}

const P2: Wasi = Wasi {
    name: "p2",
    folder: "wit",
    handler: "wasi:http/incoming-handler@0.2.12",
    exports: r#"(func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32) $loop)"#,
};

const P3: Wasi = Wasi {
    name: "p3",
    folder: "src/p3/wit",
    handler: "wasi:http/handler@0.3.0",
    exports: r#"
        (func (export "[async-lift]wasi:http/handler@0.3.0#handle") (param i32) (result i32) $loop (i32.const 0))
        (func (export "[callback][async-lift]wasi:http/handler@0.3.0#handle") (param i32 i32 i32) (result i32)
          (i32.const 0))"#,
};

/// Where the source of a package lies that the host is built of.
fn package_folder(name: &str) -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == name).unwrap();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().to_owned()
}

/// All functions of all interfaces, those with parameters twice: with zeros, and with numbers that are pointers, lengths or times of
/// some size. Handles are ones that the host knows, where a guest can have any.
fn interfaces(wasi: &Wasi) -> Vec<Vec<Probe>> {
    let mut resolve = Resolve::default();
    resolve
        .push_dir(package_folder("wasmtime-wasi-http").join(wasi.folder))
        .unwrap();
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit");
    for package in ["data", "gpu", "compute"] {
        resolve.push_dir(ours.join(package)).unwrap();
    }
    let names = resolve.interfaces.iter().filter_map(|(id, interface)| {
        let functions = interface.functions.values().cloned().collect::<Vec<_>>();
        Some((resolve.id_of(id)?, functions))
    });
    let interfaces: BTreeMap<String, Vec<Function>> = names.collect();
    let handler = interfaces[wasi.handler]
        .iter()
        .find(|function| function.name == "handle");
    let handles = Handles::new(&resolve, &interfaces, handler.unwrap());
    let mut all = Vec::new();
    for (at, (interface, functions)) in interfaces.iter().enumerate() {
        let mut probes = Vec::new();
        for function in functions {
            // Numbers change nothing where all that it takes are handles.
            let numbers: &[u32] = match function.params.iter().all(|param| handles.can_give(&param.ty)) {
                true => &[0],
                false => &[0, 1 << 16],
            };
            for &number in numbers {
                let probed = handles.endless(interface, function, number, wasi.exports);
                let name = format!("{}-{at}-{}", wasi.name, probes.len());
                probes.push(Probe {
                    what: format!("{interface} {} {number}", function.name),
                    component: component(resolve.clone(), &probed, wasi.handler),
                    name,
                });
            }
        }
        all.push(probes);
    }
    all
}

/// The component of a probe's module.
fn component(mut resolve: Resolve, probed: &Probed, handler: &str) -> Vec<u8> {
    let imports: Vec<_> = probed
        .interfaces
        .iter()
        .map(|name| format!("import {name};"))
        .collect();
    let text = format!(
        "package probe:probe; world probe {{ {} export {handler}; }}",
        imports.join(" ")
    );
    let package = resolve.push_str("probe.wit", &text).unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    let mut module = wat::parse_str(&probed.text).unwrap_or_else(|error| panic!("{error}: {}", probed.text));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut encoder = ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .unwrap();
    encoder
        .encode()
        .unwrap_or_else(|error| panic!("{error:#}: {}", probed.text))
}

/// Deploys probes, and tells why not if the host has not all that they import.
fn deploy(node: &Node, probes: &[&Probe]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = String::new();
    for Probe { name, component, .. } in probes {
        std::fs::write(folder.path().join(format!("{name}.wasm")), component).unwrap();
        manifest += &format!(
            "[function.{name}]\nbuild = {{ component = \"{name}.wasm\" }}\npublic = true\ninputs = {{ x = \"x\" }}\n\
             limits = {{ timeout = \"{}s\", fuel = {FUEL} }}\n",
            TIME.as_secs()
        );
    }
    std::fs::write(folder.path().join("nearfield.toml"), manifest).unwrap();
    let deployed = node.cli(&["deploy", folder.path().to_str().unwrap()]);
    match deployed.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&deployed.stderr).into_owned()),
    }
}

/// Deploys the probes of an interface and calls each.
fn call<'a>(node: &Node, probes: &'a [Probe]) -> Vec<(&'a Probe, Ended)> {
    let mut deployed: Vec<_> = probes.iter().collect();
    if deploy(node, &deployed).is_err() {
        // Some of them are for what is described and not offered.
        deployed.retain(|probe| match deploy(node, &[probe]) {
            Ok(()) => true,
            Err(why) => {
                assert!(why.contains("a host offers"), "{}: {why}", probe.what);
                false
            }
        });
    }
    let call = |probe: &'a Probe| {
        let begun = Instant::now();
        let reply = node.get(&format!("/fn/{}", probe.name));
        let took = begun.elapsed();
        let (problem, detail) = (reply.problem(), reply.json()["detail"].to_string());
        (
            probe,
            Ended {
                problem,
                detail,
                took,
            },
        )
    };
    deployed.into_iter().map(call).collect()
}

#[test]
fn every_import_of_wasi_0_2_pays_and_ends_in_time() {
    each_pays_and_ends_in_time(&P2);
}

#[test]
fn every_import_of_wasi_0_3_pays_and_ends_in_time() {
    each_pays_and_ends_in_time(&P3);
}

fn each_pays_and_ends_in_time(wasi: &Wasi) {
    let node = Node::start();
    node.deploy("hello", "hello", "public = true");
    // What text of a probe names.
    let put = node.cli_with_input(&["put", "-", "--name", "x"], b"some bytes\n");
    assert!(put.status.success(), "{put:?}");
    let interfaces = interfaces(wasi);
    let next = Mutex::new(interfaces.iter());
    let (ended, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let mut neighbour = Vec::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let Some(probes) = next.lock().unwrap().next() else {
                            return;
                        };
                        let called = call(&node, probes);
                        ended.lock().unwrap().extend(called);
                    }
                })
            })
            .collect();
        let beside = scope.spawn(|| {
            let mut took = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(node.get("/fn/hello").status, 200);
                took.push(begun.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
            took
        });
        let done: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        over.store(true, Ordering::Relaxed);
        neighbour = beside.join().unwrap();
        assert!(done.iter().all(Result::is_ok), "a probe was not as it should be");
    });
    let ended = ended.into_inner().unwrap();
    let mut by_problem: BTreeMap<&str, usize> = BTreeMap::new();
    for (Probe { what, .. }, how) in &ended {
        *by_problem.entry(&how.problem).or_default() += 1;
        assert!(ENDS.contains(&how.problem.as_str()), "{what}: {how:?}");
        assert!(how.took < TIME + Duration::from_millis(500), "{what}: {how:?}");
        let is_limit = how.detail.contains("limit exceeded");
        assert!(
            how.problem != "trap" || !is_limit,
            "a limit has a name: {what}: {how:?}"
        );
    }
    neighbour.sort();
    let p99 = neighbour[neighbour.len() * 99 / 100];
    let probes: usize = interfaces.iter().map(Vec::len).sum();
    println!(
        "{} of {probes} probes, {by_problem:?}, neighbour's p99 {p99:?}",
        ended.len()
    );
    for (Probe { what, .. }, how) in ended.iter().filter(|(_, how)| how.took > TIME / 4) {
        println!("{what}: {how:?}");
    }
    // WASI describes some functions that no host offers yet.
    assert!(ended.len() * 10 >= probes * 9, "only {} of {probes}", ended.len());
    // Whoever held the threads would hold them for as long as it may run.
    assert!(p99 < TIME / 2, "{p99:?}");
}
