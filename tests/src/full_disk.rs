//! What happens when there is no room: under the store's own quota, and when the kernel refuses writes.

use std::path::PathBuf;

use tempfile::TempDir;

use crate::harness::{Node, fails, lines};

/// Larger than any database of a small node.
const FILE_LIMIT_BYTES: u64 = 12 << 20;

/// A file to put, and its folder.
fn file(seed: u64, len: usize) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.txt");
    std::fs::write(&path, lines(seed, len)).unwrap();
    (dir, path)
}

fn put(node: &Node, name: &str, seed: u64, len: usize) -> std::process::Output {
    let (_dir, path) = file(seed, len);
    node.cli(&["put", path.to_str().unwrap(), "--name", name, "--split", "none"])
}

fn must_put(node: &Node, name: &str, seed: u64, len: usize) {
    let output = put(node, name, seed, len);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(node.ok(&["get", name]) == lines(seed, len), "{name}");
}

/// Files of imports and of shards on their way.
fn temporary_files(node: &Node) -> Vec<PathBuf> {
    let temp = node.data.path().join("blobs/temp");
    [temp.clone(), temp.join("spill")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .collect()
}

#[test]
fn a_full_store_refuses_and_keeps_what_it_has() {
    let node = Node::start_in(tempfile::tempdir().unwrap(), &["--max-bytes", "3MiB"]);
    node.deploy("hello", "hello", "public = true");
    must_put(&node, "small", 1, 1 << 20);
    let (_dir, large) = file(2, 8 << 20);
    let refused = node.cli(&["put", large.to_str().unwrap(), "--name", "large"]);
    fails(&refused, 7, "the store is full");
    fails(&refused, 7, "remove datasets or raise --max-bytes");
    assert!(node.ok(&["get", "small"]) == lines(1, 1 << 20));
    assert_eq!(node.get("/fn/hello").status, 200);
    let used = node.admin("GET", "/v1/status", &[]).json()["store"]["bytes"]
        .as_u64()
        .unwrap();
    assert!(used <= 3 << 20, "{used} bytes are kept of what was refused");

    // What was removed makes room at once, not only when it is swept.
    let more = 5 << 19;
    fails(&put(&node, "more", 3, more), 7, "the store is full");
    node.ok(&["rm", "dataset/small"]);
    must_put(&node, "more", 3, more);
}

#[test]
fn a_file_that_the_disk_refuses_fails_its_put_alone() {
    let node = Node::start_on_fragile_disk(tempfile::tempdir().unwrap());
    node.deploy("hello", "hello", "public = true");
    must_put(&node, "small", 1, 1 << 20);
    node.limit_files(Some(FILE_LIMIT_BYTES));
    // The smaller one is refused as it is imported, the larger one already as it is spilled.
    for len in [14 << 20, 20 << 20] {
        fails(&put(&node, "large", 2, len), 7, "takes no file of this size");
        fails(&node.cli(&["get", "large"]), 4, "large");
        assert_eq!(
            temporary_files(&node),
            Vec::<PathBuf>::new(),
            "left of {len} bytes"
        );
        assert!(node.ok(&["get", "small"]) == lines(1, 1 << 20));
        assert_eq!(node.get("/fn/hello").status, 200);
        assert_eq!(node.ready().status, 200, "{}", node.ready().text());
        must_put(&node, &format!("fits-{len}"), 3, 2 << 20);
    }
    node.limit_files(None);
    must_put(&node, "large", 2, 20 << 20);
}

#[test]
fn a_blob_database_that_could_not_be_written_is_told_until_a_restart() {
    let node = Node::start_on_fragile_disk(tempfile::tempdir().unwrap());
    node.deploy("hello", "hello", "public = true");
    must_put(&node, "small", 1, 1 << 20);
    assert_eq!(node.ready().status, 200);
    // The data fits, the database does not.
    node.limit_files(Some(4 << 10));
    fails(&put(&node, "tiny", 2, 100), 1, "restart the node");
    node.limit_files(None);

    let told = node.ready();
    assert_eq!(told.status, 503);
    assert!(told.text().contains("blob database"), "{}", told.text());
    assert!(told.text().contains("free disk space"), "{}", told.text());
    assert!(told.text().contains("restart the node"), "{}", told.text());
    fails(&put(&node, "tiny", 2, 100), 1, "restart the node");
    assert!(
        node.ok(&["get", "small"]) == lines(1, 1 << 20),
        "what is there is served"
    );
    assert_eq!(node.get("/fn/hello").status, 200);

    let node = node.crash_and_restart();
    assert_eq!(node.ready().status, 200);
    assert!(node.ok(&["get", "small"]) == lines(1, 1 << 20));
    assert_eq!(node.get("/fn/hello").status, 200);
    fails(&node.cli(&["get", "tiny"]), 4, "tiny");
    must_put(&node, "tiny", 2, 100);
}

#[test]
fn a_state_database_that_could_not_be_written_is_told_until_a_restart() {
    let node = Node::start_on_fragile_disk(tempfile::tempdir().unwrap());
    must_put(&node, "small", 1, 1 << 20);
    let digest = node.json(&["describe", "dataset/small"])["versions"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    node.limit_files(Some(4 << 10));
    fails(&node.cli(&["pin", &digest]), 1, "restart the node");
    node.limit_files(None);
    let told = node.ready();
    assert_eq!(told.status, 503);
    assert!(told.text().contains("state database"), "{}", told.text());
    assert!(
        node.ok(&["get", "small"]) == lines(1, 1 << 20),
        "what is there is served"
    );

    let node = node.crash_and_restart();
    assert_eq!(node.ready().status, 200);
    node.ok(&["pin", &digest]);
    assert!(node.ok(&["get", "small"]) == lines(1, 1 << 20));
}
