use std::io::{Read, Seek, SeekFrom, Write};

use crate::harness::{Node, lines};

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let mut node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.txt");
    for round in 0..5u64 {
        let text = lines(round, 700_000);
        std::fs::write(&file, &text).unwrap();
        let put = node.json(&["put", file.to_str().unwrap(), "--name", &format!("data-{round}")]);
        node.deploy(&format!("f{round}"), "hello", "public = true");
        // No pause between the acknowledgement and the kill.
        node = node.crash_and_restart();
        assert_eq!(put["version"], 1);
        for earlier in 0..=round {
            let got = node.ok(&["get", &format!("data-{earlier}")]);
            assert!(
                got == lines(earlier, 700_000),
                "data-{earlier} after round {round}"
            );
            assert_eq!(node.get(&format!("/fn/f{earlier}")).text(), "Hello, world!");
        }
    }
}

#[test]
fn a_kill_in_the_middle_of_a_put_leaves_the_old_version() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (dir.path().join("old.txt"), dir.path().join("new.txt"));
    std::fs::write(&old, lines(1, 500_000)).unwrap();
    std::fs::write(&new, lines(2, 40 << 20)).unwrap();
    node.json(&["put", old.to_str().unwrap(), "--name", "data"]);
    let mut putting = std::process::Command::new(crate::harness::binary())
        .args(["put", new.to_str().unwrap(), "--name", "data"])
        .env("NEARFIELD_URL", &node.admin_url)
        .env("NEARFIELD_DATA", node.data.path())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // Some of the new data has arrived, not all of it.
    let blobs = node.data.path().join("blobs/data");
    let before = std::fs::read_dir(&blobs).unwrap().count();
    while std::fs::read_dir(&blobs).unwrap().count() < before + 2 {
        std::thread::yield_now();
    }
    let node = node.crash_and_restart();
    assert!(!putting.wait().unwrap().success(), "nobody acknowledged it");
    assert!(node.ok(&["get", "data"]) == lines(1, 500_000));
    // And the same put works afterwards.
    node.json(&["put", new.to_str().unwrap(), "--name", "data"]);
    assert!(node.ok(&["get", "data"]) == lines(2, 40 << 20));
}

#[test]
fn a_flipped_bit_is_noticed_and_mended_by_putting_again() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.txt");
    std::fs::write(&file, lines(4, 500_000)).unwrap();
    node.json(&["put", file.to_str().unwrap(), "--name", "data"]);
    let shard = node.admin("GET", "/v1/datasets/data?shards=true", &[]).json()["shards"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let (data, _) = node.stop();
    let blob = data
        .path()
        .join(format!("blobs/data/{}.data", shard.strip_prefix("b3:").unwrap()));
    let mut opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&blob)
        .unwrap();
    let mut byte = [0];
    opened.seek(SeekFrom::Start(1234)).unwrap();
    opened.read_exact(&mut byte).unwrap();
    opened.seek(SeekFrom::Start(1234)).unwrap();
    opened.write_all(&[byte[0] ^ 1]).unwrap();
    drop(opened);

    let node = Node::start_in(data, &[]);
    let output = node.cli(&["get", "data"]);
    assert!(!output.status.success(), "a wrong byte was served");
    assert!(output.stdout.is_empty() || output.stdout != lines(4, 500_000));
    node.json(&["put", file.to_str().unwrap(), "--name", "data"]);
    assert!(node.ok(&["get", "data"]) == lines(4, 500_000));
}

#[test]
fn a_node_stops_when_asked_and_keeps_its_identity() {
    let node = Node::start();
    let id = |node: &Node| node.admin("GET", "/v1/status", &[]).json()["node"].clone();
    let first = id(&node);
    let (data, code) = node.stop();
    assert_eq!(code, Some(0));
    let node = Node::start_in(data, &[]);
    assert_eq!(id(&node), first);
}

#[test]
fn two_nodes_cannot_share_a_folder() {
    let node = Node::start();
    let output = node.cli(&["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("in use by another nearfield process"), "{text}");
}
