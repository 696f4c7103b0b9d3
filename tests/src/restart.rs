use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Node, fails, lines, until};

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

/// Whatever file of a node's folder is lost or emptied: the node says which and does not start, or it has all its data.
#[test]
fn no_lost_file_takes_data_with_it() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.txt");
    std::fs::write(&file, lines(1, 300_000)).unwrap();
    let put = node.json(&["put", file.to_str().unwrap(), "--name", "data"]);
    let digest = put["digest"].as_str().unwrap().to_owned();
    node.deploy("wordcount", "wordcount", "");
    node.json(&["run", "wordcount", "--over", "data"]);
    node.deploy("hello", "hello", "public = true");
    assert_eq!(node.get("/fn/hello").status, 200);
    node.json(&["invite"]);
    let (data, code) = node.stop();
    assert_eq!(code, Some(0));

    let mut files = Vec::new();
    files_below(data.path(), data.path(), &mut files);
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        for emptied in [false, true] {
            let harmed = copy(data.path());
            match emptied {
                true => std::fs::write(harmed.path().join(&file), []).unwrap(),
                false => std::fs::remove_file(harmed.path().join(&file)).unwrap(),
            }
            let what = format!("{} {}", file.display(), if emptied { "emptied" } else { "lost" });
            match Node::try_start_in(harmed) {
                Ok(node) => {
                    let got = node.cli(&["get", &digest]);
                    assert!(
                        got.stdout == lines(1, 300_000),
                        "{what}: {}",
                        String::from_utf8_lossy(&got.stderr)
                    );
                    node.stop();
                }
                Err(said) => {
                    let name = file.file_name().unwrap().to_str().unwrap();
                    let is_named = said.contains(name) || said.contains(file.to_str().unwrap());
                    assert!(is_named, "{what}: {said}");
                }
            }
        }
    }
}

/// A record whose value is broken on the disk may have been the end of something: it lets nobody in, and nothing go.
#[test]
fn a_broken_record_lets_nobody_in_and_nothing_go() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.txt");
    std::fs::write(&file, lines(1, 300_000)).unwrap();
    let put = node.json(&["put", file.to_str().unwrap(), "--name", "data"]);
    let digest = put["digest"].as_str().unwrap().to_owned();
    node.deploy("hello", "hello", "");
    let made = node.json(&["token", "create", "--function", "hello"]);
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let status = |node: &Node| {
        let url = format!("{}/fn/hello", node.functions_url);
        node.request("GET", &url, &[("authorization", &bearer)], &[])
            .status
    };
    assert_eq!(status(&node), 200);
    node.ok(&["token", "revoke", made["id"].as_str().unwrap()]);
    assert_eq!(status(&node), 401);
    let (data, _) = node.stop();

    // What was public is private now, what was there is removed, what was put is put again.
    let node = Node::start_in(data, &[]);
    for name in ["open", "gone"] {
        node.deploy(name, "hello", "public = true");
    }
    node.deploy("open", "hello", "");
    node.ok(&["rm", "function/gone"]);
    std::fs::write(&file, lines(2, 1_000)).unwrap();
    node.ok(&["put", file.to_str().unwrap(), "--name", "twice"]);
    std::fs::write(&file, lines(3, 1_000)).unwrap();
    node.ok(&["put", file.to_str().unwrap(), "--name", "twice"]);
    let (data, _) = node.stop();
    let broken = copy(data.path());
    let mut values = 0;
    for blob in std::fs::read_dir(broken.path().join("blobs/data")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let is_newest = text.contains("\"version\":2") || text.contains("removed");
        if bytes.len() < 4_096 && is_newest {
            bytes[1] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            values += 1;
        }
    }
    assert!(values >= 3, "{values} values were broken");
    let node = Node::start_in(broken, &[]);
    for name in ["open", "gone"] {
        assert_eq!(node.get(&format!("/fn/{name}")).status, 404, "{name}");
    }
    fails(&node.cli(&["get", "twice"]), 4, "twice");
    let again = node.cli(&["put", file.to_str().unwrap(), "--name", "twice"]);
    fails(&again, 1, "a record of `twice` cannot be read");
    let ready = node.ready();
    assert!(
        ready.status == 200 && ready.text().contains("cannot be read"),
        "{}",
        ready.text()
    );
    drop(node);

    let log = folder.path().join("log");
    for (what, part) in [("revoked", "\"revoked\""), ("the dataset", &digest)] {
        let broken = copy(data.path());
        let blobs = std::fs::read_dir(broken.path().join("blobs/data")).unwrap();
        let names = |path: &PathBuf| {
            let bytes = std::fs::read(path).unwrap();
            bytes.len() < 4_096 && String::from_utf8_lossy(&bytes).contains(part)
        };
        let value = blobs.map(|blob| blob.unwrap().path()).find(names).expect(what);
        let mut bytes = std::fs::read(&value).unwrap();
        bytes[1] ^= 1;
        std::fs::write(&value, bytes).unwrap();
        let node = Node::start_in_logging_to(broken, &log);
        until("nothing is let go of", || {
            std::fs::read_to_string(&log)
                .unwrap()
                .contains("some records cannot be read")
        });
        assert_eq!(status(&node), 401, "{what}");
        assert!(node.ok(&["get", &digest]) == lines(1, 300_000), "{what}");
    }
}

/// A folder made of two backups lacks what one of them does not know: the node says so and removes nothing.
#[test]
fn a_mix_of_two_backups_is_refused() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.txt");
    std::fs::write(&file, lines(1, 100_000)).unwrap();
    node.json(&["put", file.to_str().unwrap(), "--name", "one"]);
    let (data, _) = node.stop();
    let before = copy(data.path());
    let node = Node::start_in(data, &[]);
    node.json(&["put", file.to_str().unwrap(), "--name", "two"]);
    let (after, _) = node.stop();
    for old in ["state.redb", "records/docs.redb", "network.json records"] {
        let mixed = copy(after.path());
        for part in old.split(' ') {
            let (from, to) = (before.path().join(part), mixed.path().join(part));
            match old.contains(' ') {
                // Both are lost together.
                true if to.is_dir() => std::fs::remove_dir_all(&to).unwrap(),
                true => std::fs::remove_file(&to).unwrap(),
                false => drop(std::fs::copy(from, to).unwrap()),
            }
        }
        let said = Node::try_start_in(mixed)
            .err()
            .unwrap_or_else(|| panic!("it starts with an old {old}"));
        assert!(said.contains("backup"), "{old}: {said}");
    }
    assert!(Node::start_in(after, &[]).ok(&["get", "two"]) == lines(1, 100_000));
}

fn copy(data: &Path) -> tempfile::TempDir {
    let copied = tempfile::tempdir().unwrap();
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(data.join(".")).arg(copied.path());
    assert!(cp.status().unwrap().success());
    copied
}

/// The files of a data folder but those that are the data itself, each relative to `root`.
fn files_below(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root).unwrap().to_owned();
        if path.is_file() {
            files.push(relative);
        } else if relative != Path::new("blobs/data") {
            files_below(root, &path, files);
        }
    }
}
