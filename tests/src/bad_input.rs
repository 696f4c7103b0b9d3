use wasm_encoder::{
    Component, ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentInstanceSection,
    ComponentTypeRef, ComponentTypeSection, InstanceType,
};

use crate::harness::{Node, component_file, fails, lines};

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
fn an_import_that_nobody_offers_is_named() {
    let node = Node::start();
    let component = importing("acme:db/store@1.0.0");
    let uploaded = node.admin("POST", "/v1/blobs", &component).json();
    let deployment = serde_json::json!({ "component": uploaded["digest"] }).to_string();
    let refused = node.admin("PUT", "/v1/functions/f", deployment.as_bytes());
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (422, "refused-component")
    );
    assert!(
        refused.text().contains("acme:db/store@1.0.0"),
        "{}",
        refused.text()
    );

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.wasm");
    std::fs::write(&file, component).unwrap();
    fails(
        &node.cli(&["deploy", file.to_str().unwrap()]),
        1,
        "acme:db/store@1.0.0",
    );
    assert_eq!(node.get("/fn/f").problem(), "unknown-function");
}

/// A component that looks like a function and imports `interface`, with one function in it.
fn importing(interface: &str) -> Vec<u8> {
    let mut offered = InstanceType::new();
    offered
        .ty()
        .function()
        .params::<[(&str, wasm_encoder::ComponentValType); 0], _>([])
        .result(None);
    offered.export("get", ComponentTypeRef::Func(0));
    let mut types = ComponentTypeSection::new();
    types.instance(&offered);
    let mut imports = ComponentImportSection::new();
    imports.import(interface, ComponentTypeRef::Instance(0));
    let mut instances = ComponentInstanceSection::new();
    instances.export_items::<&str, _>([]);
    let mut exports = ComponentExportSection::new();
    exports.export(
        "wasi:http/incoming-handler@0.2.0",
        ComponentExportKind::Instance,
        1,
        None,
    );
    let mut component = Component::new();
    component
        .section(&types)
        .section(&imports)
        .section(&instances)
        .section(&exports);
    component.finish()
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
    let negative = deploy("[function.f]\nlimits = { fuel = -1 }\n");
    fails(&negative, 1, "`-1` is not a count");
    fails(&negative, 1, "2:19");
}

#[test]
fn a_taken_route_is_a_conflict() {
    let node = Node::start();
    node.deploy("one", "hello", "public = true\nroute = \"/same\"");
    let dir = tempfile::tempdir().unwrap();
    let manifest = format!(
        "[function.two]\nbuild = {{ component = \"{}\" }}\nroute = \"/same\"\n",
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

#[test]
fn a_body_that_breaks_off_is_the_client_s_fault() {
    let node = Node::start();
    node.deploy("echo", "echo", "public = true");
    let head = "POST /fn/echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let refusals = |broken: &str| {
        let answers =
            (0..10).map(|_| String::from_utf8(node.raw(format!("{head}{broken}").as_bytes())).unwrap());
        answers.filter(|answer| refuses(answer)).count()
    };
    assert!(refusals("zz\r\nhello\r\n") > 0, "nothing of it was whole");
    // Here some was, and an answer may have begun before the fault came.
    refusals("5\r\nhello\r\nzz\r\n");
    refusals("5\r\nhelloooo\r\n0\r\n\r\n");
    let put =
        "POST /v1/datasets/torn HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n";
    let put = format!("{put}authorization: Bearer {}\r\n\r\nzz\r\n", node.token);
    let answer = String::from_utf8(node.raw_admin(put.as_bytes())).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    fails(&node.cli(&["get", "torn"]), 4, "torn");
    assert_eq!(node.post("/fn/echo", b"whole").text(), "whole");
}

/// Whether the answer refuses the request's body. It may also have begun before that was broken; then it is cut off.
fn refuses(answer: &str) -> bool {
    if answer.starts_with("HTTP/1.1 200 ") {
        assert!(!answer.ends_with("\r\n0\r\n\r\n"), "a whole answer: {answer}");
        assert!(answer.contains("transfer-encoding: chunked"), "{answer}");
        return false;
    }
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    assert!(answer.contains("urn:nearfield:problem:bad-request"), "{answer}");
    assert!(answer.contains("broke off"), "{answer}");
    true
}
