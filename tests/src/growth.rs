//! Datasets that grow: appends, parts, many writers, and what pruning leaves.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Node, fails, lines};

fn append(node: &Node, more: &[&str], input: &[u8]) -> Value {
    let output = node.cli_with_input(&[&["--json", "put", "-", "--append"], more].concat(), input);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn shards(node: &Node, name: &str) -> usize {
    let described = node.json(&["describe", &format!("dataset/{name}"), "--shards"]);
    described["shards"].as_array().unwrap().len()
}

#[test]
fn little_appends_make_few_shards_and_lose_nothing() {
    let node = Node::start();
    let mut all = Vec::new();
    for n in 0..60 {
        let mut piece = lines(n, 2_000);
        piece.push(b'\n');
        let stored = append(&node, &["--name", "log", "--split", "lines"], &piece);
        assert_eq!(stored["version"], n + 1);
        assert_eq!(stored["put_bytes"], piece.len());
        all.extend(piece);
    }
    assert!(node.ok(&["get", "log"]) == all);
    let shards = shards(&node, "log");
    assert!(shards < 10, "{shards} shards of {} bytes", all.len());
    // What is there already stays where it is.
    let before = node.json(&["describe", "dataset/log", "--shards"]);
    append(&node, &["--name", "log"], b"one more line\n");
    let after = node.json(&["describe", "dataset/log", "--shards"]);
    assert_eq!(before["shards"][0], after["shards"][0]);
}

#[test]
fn a_line_that_was_not_ended_does_not_swallow_the_next() {
    let node = Node::start();
    append(&node, &["--name", "log", "--split", "lines"], b"one\ntwo");
    append(&node, &["--name", "log"], b"three\n");
    assert_eq!(shards(&node, "log"), 2);
}

#[test]
fn a_table_has_its_header_once_in_each_shard_it_begins() {
    let node = Node::start();
    append(&node, &["--name", "t", "--split", "csv"], b"a,b\n1,2\n");
    append(&node, &["--name", "t"], b"a,b\n3,4\n");
    assert_eq!(node.ok(&["get", "t"]), b"a,b\n1,2\n3,4\n");
    // Much larger than what follows, so that they are not joined.
    let rows = "5,6\n".repeat(1000);
    append(&node, &["--name", "t"], format!("a,b\n{rows}").as_bytes());
    append(&node, &["--name", "t"], b"a,b\n7,8\n");
    assert_eq!(
        node.ok(&["get", "t"]),
        format!("a,b\n1,2\n3,4\n{rows}7,8\n").as_bytes()
    );
    assert_eq!(shards(&node, "t"), 2);
    // An open quote must not swallow what follows.
    append(&node, &["--name", "q", "--split", "csv"], b"a,b\n7,\"first\n");
    append(&node, &["--name", "q"], b"a,b\n8,ok\n");
    assert_eq!(shards(&node, "q"), 2);
    // Another header is another table: it begins a shard of its own.
    append(&node, &["--name", "t"], b"b,a\n6,5\n");
    assert_eq!(shards(&node, "t"), 3);
}

#[test]
fn a_part_is_replaced_alone_and_order_is_by_name() {
    let node = Node::start();
    let put = |part: &str, input: &str| {
        let output = node.cli_with_input(
            &["put", "-", "--name", "log", "--split", "lines", "--part", part],
            input.as_bytes(),
        );
        assert!(output.status.success());
    };
    put("web-2", "two\n");
    put("web-1", "one\n");
    put("db", "zero\n");
    assert_eq!(node.ok(&["get", "log"]), b"zero\none\ntwo\n");
    put("web-1", "one, anew\n");
    assert_eq!(node.ok(&["get", "log"]), b"zero\none, anew\ntwo\n");
    append(&node, &["--name", "log", "--part", "db"], b"and more\n");
    assert_eq!(node.ok(&["get", "log"]), b"zero\nand more\none, anew\ntwo\n");
    let described = node.json(&["describe", "dataset/log"]);
    assert_eq!(described["meta"]["parts"][2]["name"], "web-2");
    let refused = node.cli_with_input(
        &["put", "-", "--name", "log", "--split", "bytes", "--part", "x"],
        b"x",
    );
    fails(&refused, 1, "cut as `lines`");
}

#[test]
fn folders_stand_in_one_dataset_side_by_side() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, content: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    };
    let put = |part: &str, folder: &Path| {
        let folder = folder.to_str().unwrap();
        node.ok(&["put", folder, "--name", "sites", "--part", part])
    };
    write("a/index.html", "first");
    write("a/deep/x", "x");
    write("b/index.html", "second");
    put("b", &folder.path().join("b"));
    put("a", &folder.path().join("a"));
    assert_eq!(node.ok(&["get", "sites/a/index.html"]), b"first");
    assert_eq!(node.ok(&["get", "sites/b/index.html"]), b"second");
    write("a/index.html", "first, anew");
    put("a", &folder.path().join("a"));
    assert_eq!(node.ok(&["get", "sites/a/index.html"]), b"first, anew");
    assert_eq!(node.ok(&["get", "sites/a/deep/x"]), b"x");
    assert_eq!(node.ok(&["get", "sites/b/index.html"]), b"second");
    let a = folder.path().join("a");
    let appended = node.cli(&["put", a.to_str().unwrap(), "--name", "sites", "--append"]);
    fails(&appended, 1, "--part NAME");
}

#[test]
fn eight_writers_lose_nothing_of_each_other() {
    const APPENDS: usize = 12;
    let node = Node::start();
    std::thread::scope(|scope| {
        for writer in 0..8 {
            let node = &node;
            scope.spawn(move || {
                for n in 0..APPENDS {
                    let line = format!("{writer} {n}\n");
                    let part = format!("p{writer}");
                    let to: &[&str] = match writer % 2 {
                        0 => &["--name", "all", "--split", "lines"],
                        _ => &["--name", "all", "--split", "lines", "--part", &part],
                    };
                    append(node, to, line.as_bytes());
                }
            });
        }
    });
    let mut seen = BTreeMap::new();
    for line in String::from_utf8(node.ok(&["get", "all"])).unwrap().lines() {
        *seen.entry(line.to_owned()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 8 * APPENDS);
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    assert_eq!(
        node.json(&["ls", "datasets"])["datasets"][0]["version"],
        8 * APPENDS
    );
}

#[test]
fn pruned_versions_are_gone_with_what_only_they_held() {
    let node = Node::start();
    let put = |seed| {
        let content = lines(seed, 400_000);
        let output = node.cli_with_input(&["put", "-", "--name", "log"], &content);
        assert!(output.status.success());
    };
    (1..=5).for_each(put);
    let used = || node.json(&["du"])["datasets"][0]["held_bytes"].as_u64().unwrap();
    assert!(used() > 5 * 400_000);
    let pruned = node.json(&["prune", "log", "--keep", "2"]);
    assert_eq!(pruned["pruned"], 3);
    assert!(pruned["released_bytes"].as_u64().unwrap() > 3 * 400_000);
    assert!(used() < 3 * 400_000);
    let listed = |node: &Node| node.json(&["ls", "datasets"])["datasets"][0].clone();
    assert_eq!(listed(&node)["versions"], 2);
    let node = node.crash_and_restart();
    assert_eq!(listed(&node)["versions"], 2);
    assert!(node.ok(&["get", "log"]) == lines(5, 400_000));
    append(&node, &["--name", "log"], b"still growing\n");
    assert_eq!(listed(&node)["version"], 6);
}

#[test]
fn what_is_needed_still_survives_a_prune() {
    let node = Node::start();
    let put = |seed| {
        let content = lines(seed, 300_000);
        let output = node.cli_with_input(&["--json", "put", "-", "--name", "log"], &content);
        let stored: Value = serde_json::from_slice(&output.stdout).unwrap();
        stored["digest"].as_str().unwrap().to_owned()
    };
    let digests: Vec<_> = (1..=4).map(put).collect();
    // One version is an input of a function, one is pinned before, one after.
    let manifest = format!("public = true\ninputs = {{ data = \"{}\" }}", digests[0]);
    node.deploy("stats", "stats", &manifest);
    node.ok(&["pin", &digests[1]]);
    node.ok(&["prune", "log", "--keep", "1"]);
    node.ok(&["pin", &digests[2]]);
    let node = node.crash_and_restart();
    for (seed, digest) in (1..).zip(&digests) {
        assert!(
            node.ok(&["get", digest]) == lines(seed, 300_000),
            "version {seed}"
        );
    }
    node.ok(&["pin", &digests[2], "--remove"]);
    let pruned = node.json(&["du"]);
    assert_eq!(pruned["datasets"][0]["versions"], 1);
}
