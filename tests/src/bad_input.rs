use std::process::Output;

use crate::harness::{Node, component_file, lines};

fn fails(output: &Output, code: i32, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "does not say `{says}`: {text}");
}

#[test]
fn unknown_things_are_named() {
    let node = Node::start();
    fails(&node.cli(&["get", "nothing"]), 4, "nothing");
    fails(&node.cli(&["call", "nothing"]), 4, "nothing");
    fails(&node.cli(&["rm", "function/nothing"]), 4, "nothing");
    fails(&node.cli(&["describe", "dataset/nothing"]), 4, "nothing");
    fails(
        &node.cli(&["explain", "00000000000000000000000000000000"]),
        4,
        "no call",
    );
    fails(&node.cli(&["frobnicate"]), 2, "frobnicate");
}

#[test]
fn no_node_is_said_so() {
    let node = Node::start();
    let url = node.admin_url.clone();
    let (data, _) = node.stop();
    let output = std::process::Command::new(crate::harness::binary())
        .args(["ls", "functions"])
        .env("NEARFIELD_URL", url)
        .env("NEARFIELD_DATA", data.path())
        .output()
        .unwrap();
    fails(&output, 5, "nearfield up");
}

#[test]
fn what_is_no_component_is_refused_by_what_it_is() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let deploy = |name: &str, bytes: &[u8]| {
        let file = dir.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        node.cli(&["deploy", file.to_str().unwrap(), "--name", "f"])
    };
    fails(
        &deploy("module.wasm", b"\0asm\x01\0\0\0"),
        1,
        "core WebAssembly module",
    );
    fails(&deploy("empty.wasm", b"\0asm\x0d\0\x01\0"), 1, "exports nothing");
    fails(&deploy("script.wasm", b"#!/bin/sh\n"), 1, "no valid WebAssembly");
    let whole = std::fs::read(component_file("hello")).unwrap();
    fails(
        &deploy("torn.wasm", &whole[..whole.len() / 2]),
        1,
        "no valid WebAssembly",
    );
    assert_eq!(
        node.get("/fn/f").problem(),
        "unknown-function",
        "nothing was deployed"
    );
}

#[test]
fn a_broken_manifest_is_shown_with_line_and_column() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let deploy = |text: &str| {
        std::fs::write(dir.path().join("nearfield.toml"), text).unwrap();
        node.cli(&["deploy", dir.path().to_str().unwrap()])
    };
    fails(&deploy("[function.f]\npubic = true\n"), 1, "pubic");
    fails(&deploy("[function.f]\npubic = true\n"), 1, "2:1");
    fails(&deploy("[function.f]\nroute = \"/v1/x\"\n"), 1, "reserved");
    fails(
        &deploy("[function.f]\nlimits = { fuel = 0 }\n"),
        1,
        "stop every call",
    );
    fails(&deploy("[function"), 1, "nearfield.toml");
}

#[test]
fn a_taken_route_is_a_conflict() {
    let node = Node::start();
    node.deploy("one", "hello", "public = true\nroute = \"/same\"");
    let dir = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[function.two]\ncomponent = \"{}\"\nroute = \"/same\"\n",
        component_file("hello").display()
    );
    std::fs::write(dir.path().join("nearfield.toml"), manifest).unwrap();
    fails(&node.cli(&["deploy", dir.path().to_str().unwrap()]), 1, "`one`");
}

#[test]
fn a_version_that_moved_on_is_a_conflict() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.txt");
    let path = file.to_str().unwrap();
    std::fs::write(&file, lines(1, 1_000)).unwrap();
    node.json(&["put", path, "--name", "data"]);
    std::fs::write(&file, lines(2, 1_000)).unwrap();
    node.json(&["put", path, "--name", "data", "--if-version", "1"]);
    fails(
        &node.cli(&["put", path, "--name", "data", "--if-version", "1"]),
        1,
        "version 2",
    );
}

#[test]
fn a_record_too_long_is_named_by_its_offset() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.txt");
    let mut text = b"short\n".to_vec();
    text.resize(6 + (65 << 20), b'x');
    std::fs::write(&file, &text).unwrap();
    let output = node.cli(&[
        "put",
        file.to_str().unwrap(),
        "--name",
        "data",
        "--split",
        "lines",
    ]);
    assert!(!output.status.success());
    let says = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(says.contains("byte 6") && says.contains("64 MiB"), "{says}");
    fails(&node.cli(&["get", "data"]), 4, "data");
}

#[test]
fn a_full_store_refuses_and_keeps_what_it_has() {
    let node = Node::start_in(tempfile::tempdir().unwrap(), &["--max-bytes", "3MiB"]);
    let dir = tempfile::tempdir().unwrap();
    let (small, large) = (dir.path().join("small.txt"), dir.path().join("large.txt"));
    std::fs::write(&small, lines(1, 1 << 20)).unwrap();
    std::fs::write(&large, lines(2, 8 << 20)).unwrap();
    node.json(&["put", small.to_str().unwrap(), "--name", "small"]);
    fails(
        &node.cli(&["put", large.to_str().unwrap(), "--name", "large"]),
        7,
        "the store is full",
    );
    assert!(node.ok(&["get", "small"]) == lines(1, 1 << 20));
    let used = node.admin("GET", "/v1/status", &[]).json()["store"]["bytes"]
        .as_u64()
        .unwrap();
    assert!(used <= 3 << 20, "{used} bytes are kept of what was refused");
    node.ok(&["rm", "dataset/small"]);
}

#[test]
fn bad_requests_are_answered_and_the_node_lives() {
    let node = Node::start();
    node.deploy("echo", "echo", "public = true");
    let status = |bytes: &[u8]| {
        String::from_utf8_lossy(&node.raw(bytes))
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(status(b"nonsense\r\n\r\n").contains("400"));
    let mut huge = b"GET /fn/echo HTTP/1.1\r\nhost: x\r\n".to_vec();
    for number in 0..100_000 {
        huge.extend_from_slice(format!("x-filler-{number}: {}\r\n", "y".repeat(100)).as_bytes());
    }
    huge.extend_from_slice(b"\r\n");
    let refused = status(&huge);
    assert!(refused.is_empty() || refused.contains("431"), "{refused}");
    assert!(
        status(b"GET /fn/echo HTTP/1.1\r\nconnection: close\r\n\r\n").contains("400"),
        "no host"
    );
    let large =
        b"POST /fn/echo HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\nconnection: close\r\n\r\n";
    assert!(status(large).contains("413"));
    assert_eq!(node.post("/fn/echo", b"still here").text(), "still here");
}
