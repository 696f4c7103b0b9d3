//! Data that stays where it is: never a wrong byte, never a second read for nothing, never a way out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Node, fails, lines, until};

/// A node that may read `folder`, and the folder.
fn start() -> (Node, TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().canonicalize().unwrap().join("data");
    fs::create_dir(&folder).unwrap();
    let flags = ["--allow-path", folder.to_str().unwrap()];
    (Node::start_in(tempfile::tempdir().unwrap(), &flags), dir, folder)
}

fn put(node: &Node, path: &Path, name: &str) -> Value {
    node.json(&[
        "put",
        path.to_str().unwrap(),
        "--name",
        name,
        "--in-place",
        "--split",
        "lines",
    ])
}

fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut text = lines(seed, len);
    text.push(b'\n');
    text
}

/// So long ago that its time tells every later change.
fn settled(path: &Path) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600))
        .unwrap();
}

fn bytes(node: &Node, name: &str) -> Vec<u8> {
    node.ok(&["get", name])
}

#[test]
fn what_lies_there_is_what_a_copy_would_be() {
    let (node, _dir, folder) = start();
    let file = folder.join("log");
    let content = text(1, 9_000_000);
    fs::write(&file, &content).unwrap();
    let stored_before = node.json(&["du"])["store"]["used_bytes"].as_u64().unwrap();
    put(&node, &file, "there");
    let stored = node.json(&["du"])["store"]["used_bytes"].as_u64().unwrap() - stored_before;
    assert!(stored < 5_000, "{stored} bytes stored");
    assert!(bytes(&node, "there") == content);
    node.ok(&[
        "put",
        file.to_str().unwrap(),
        "--name",
        "copy",
        "--split",
        "lines",
    ]);
    let described =
        |name: &str| node.json(&["describe", &format!("dataset/{name}"), "--shards"])["shards"].clone();
    assert_eq!(described("there"), described("copy"));
    node.deploy("wordcount", "wordcount", "");
    let there = node.json(&["run", "wordcount", "--over", "there"]);
    let copy = node.json(&["run", "wordcount", "--over", "copy"]);
    assert_eq!(there["output"], copy["output"]);
    assert_eq!(copy["fuel_spent"], 0, "equal shards are one shard");
}

#[test]
fn a_change_is_an_error_that_names_the_file_until_it_is_put_again() {
    let (node, _dir, folder) = start();
    let file = folder.join("log");
    let content = text(2, 3_000_000);
    let changes: [(&str, &dyn Fn()); 6] = [
        ("truncated", &|| {
            fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_len(1_000_000)
                .unwrap()
        }),
        ("rewritten with its old time", &|| {
            let time = fs::metadata(&file).unwrap().modified().unwrap();
            fs::write(&file, text(3, 3_000_000)).unwrap();
            fs::File::options()
                .append(true)
                .open(&file)
                .unwrap()
                .set_modified(time)
                .unwrap();
        }),
        ("replaced by rename", &|| {
            fs::write(folder.join("new"), text(4, 3_000_000)).unwrap();
            fs::rename(folder.join("new"), &file).unwrap();
        }),
        ("one bit flipped", &|| {
            let mut flipped = fs::read(&file).unwrap();
            flipped[1_500_000] ^= 1;
            fs::write(&file, flipped).unwrap();
        }),
        ("deleted", &|| fs::remove_file(&file).unwrap()),
        ("a link to another file", &|| {
            fs::write(folder.join("other"), &content).unwrap();
            fs::remove_file(&file).unwrap();
            std::os::unix::fs::symlink(folder.join("other"), &file).unwrap();
        }),
    ];
    for (what, change) in changes {
        let _ = fs::remove_file(&file);
        fs::write(&file, &content).unwrap();
        settled(&file);
        put(&node, &file, "log");
        assert!(bytes(&node, "log") == content, "{what}");
        // A handle that is open still must not hide it.
        let node_sees = || node.cli(&["get", "log"]);
        change();
        let got = node_sees();
        match got.status.success() {
            // The file that was opened is still the one that was put.
            true => assert!(got.stdout == content, "{what}: wrong bytes"),
            false => assert!(content.starts_with(&got.stdout), "{what}: wrong bytes"),
        }
        if matches!(what, "deleted" | "a link to another file") {
            continue;
        }
        put(&node, &file, "log");
        assert!(
            bytes(&node, "log") == fs::read(&file).unwrap(),
            "{what}: put again"
        );
    }
}

#[test]
fn a_job_over_what_has_changed_names_the_file() {
    let (node, _dir, folder) = start();
    let file = folder.join("log");
    fs::write(&file, text(5, 2_000_000)).unwrap();
    put(&node, &file, "log");
    node.deploy("wordcount", "wordcount", "");
    let mut changed = fs::read(&file).unwrap();
    changed[1_000_000] ^= 1;
    fs::write(&file, changed).unwrap();
    let run = node.cli(&["run", "wordcount", "--over", "log"]);
    assert!(!run.status.success());
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(
        told.contains(file.to_str().unwrap()) && told.contains("put it again"),
        "{told}"
    );
    put(&node, &file, "log");
    node.ok(&["run", "wordcount", "--over", "log"]);
}

#[test]
fn only_what_is_new_is_read() {
    let (node, _dir, folder) = start();
    for n in 0..6 {
        let file = folder.join(format!("log.{n}"));
        fs::write(&file, text(10 + n, 2_000_000)).unwrap();
        settled(&file);
    }
    let read = |stored: Value| stored["new_bytes"].as_u64().unwrap();
    let size = |stored: &Value| stored["put_bytes"].as_u64().unwrap();
    let first = put(&node, &folder, "logs");
    assert_eq!(read(first.clone()), size(&first));
    assert_eq!(read(put(&node, &folder, "logs")), 0, "nothing changed");
    // One grows: what is read is its last shard and what was added.
    let mut log = fs::read(folder.join("log.0")).unwrap();
    log.extend(text(99, 100_000));
    fs::write(folder.join("log.0"), &log).unwrap();
    let grown = read(put(&node, &folder, "logs"));
    assert!((100_000..5_000_000).contains(&grown), "{grown} bytes read");
    settled(&folder.join("log.0"));
    put(&node, &folder, "logs");
    // They are rotated, and a new one begins.
    for n in (0..6).rev() {
        fs::rename(
            folder.join(format!("log.{n}")),
            folder.join(format!("log.{}", n + 1)),
        )
        .unwrap();
    }
    let new = text(77, 50_000);
    fs::write(folder.join("log.0"), &new).unwrap();
    assert_eq!(read(put(&node, &folder, "logs")), new.len() as u64);
    assert!(bytes_of(&node, "logs/log.1") == log);
    assert!(bytes_of(&node, "logs/log.0") == new);
    // All of it survives a crash.
    let node = node.crash_and_restart();
    assert!(bytes_of(&node, "logs/log.1") == log);
    assert_eq!(
        read(put(&node, &folder, "logs")),
        new.len() as u64,
        "written a moment ago: read again"
    );
}

fn bytes_of(node: &Node, path: &str) -> Vec<u8> {
    node.ok(&["get", path])
}

#[test]
fn nothing_outside_the_allowed_folders_is_read() {
    let (node, dir, folder) = start();
    let outside = dir.path().join("secret");
    fs::write(&outside, "secret\n").unwrap();
    std::os::unix::fs::symlink(dir.path(), folder.join("up")).unwrap();
    let put = |path: &str| {
        let path = path.replace('/', "%2F");
        let reply = node.admin(
            "POST",
            &format!("/v1/datasets/x?split=lines&in-place={path}"),
            &[],
        );
        (reply.status, reply.text())
    };
    let inside = |path: &str| folder.join(path).to_str().unwrap().to_owned();
    for path in [
        inside("../secret"),
        inside("up/secret"),
        inside("up"),
        "/etc/passwd".into(),
        "secret".into(),
    ] {
        let (status, told) = put(&path);
        assert_eq!(status, 400, "{path}: {told}");
    }
    let (_, told) = put("/etc/passwd");
    assert!(told.contains("--allow-path"), "{told}");
    let pipe = inside("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let (status, told) = put(&pipe);
    assert!(status == 400 && told.contains("pipe"), "{told}");
    let missing = node.cli(&["put", "/nowhere", "--name", "x", "--in-place"]);
    fails(&missing, 1, "/nowhere");
}

#[test]
fn what_nothing_refers_to_is_forgotten() {
    let (node, _dir, folder) = start();
    let file = folder.join("log");
    let content = text(6, 1_000_000);
    fs::write(&file, &content).unwrap();
    put(&node, &file, "log");
    node.ok(&["rm", "dataset/log"]);
    settled(&file);
    put(&node, &file, "log");
    assert!(bytes(&node, "log") == content);
    assert!(
        fs::read(&file).unwrap() == content,
        "the file itself is never touched"
    );
}

#[test]
fn bytes_that_lie_in_two_places_are_read_where_they_are_right() {
    let (node, _dir, folder) = start();
    let content = text(31, 2_000_000);
    for name in ["a", "b"] {
        fs::write(folder.join(name), &content).unwrap();
        settled(&folder.join(name));
    }
    put(&node, &folder, "twins");
    assert!(bytes_of(&node, "twins/a") == content);
    let mut flipped = content.clone();
    flipped[1_000_000] ^= 1;
    fs::write(folder.join("a"), &flipped).unwrap();
    for _ in 0..2 {
        assert!(bytes_of(&node, "twins/a") == content, "the other file has it");
        assert!(bytes_of(&node, "twins/b") == content);
    }
    put(&node, &folder, "twins");
    assert!(bytes_of(&node, "twins/a") == flipped);
    assert!(bytes_of(&node, "twins/b") == content);
}

#[test]
fn a_log_may_be_rotated_often() {
    let (node, _dir, folder) = start();
    let name = |age: usize| match age {
        0 => folder.join("log"),
        age => folder.join(format!("log.{age}")),
    };
    let mut logs: Vec<Vec<u8>> = Vec::new();
    for round in 0..12 {
        for age in (0..logs.len()).rev() {
            fs::rename(name(age), name(age + 1)).unwrap();
        }
        logs.insert(0, text(200 + round, 150_000));
        fs::write(name(0), &logs[0]).unwrap();
        settled(&name(0));
        let read = put(&node, &folder, "logs")["new_bytes"].as_u64().unwrap();
        assert_eq!(
            read,
            logs[0].len() as u64,
            "round {round}: only the new file is read"
        );
        for (age, log) in logs.iter().enumerate() {
            let file = name(age);
            let path = format!("logs/{}", file.file_name().unwrap().to_str().unwrap());
            assert!(bytes_of(&node, &path) == *log, "round {round}, age {age}");
        }
    }
}

#[test]
fn a_get_that_breaks_off_says_which_file_has_changed() {
    let (node, dir, folder) = start();
    let file = folder.join("log");
    let content = text(51, 6_000_000);
    fs::write(&file, &content).unwrap();
    settled(&file);
    node.json(&[
        "put",
        folder.to_str().unwrap(),
        "--name",
        "logs",
        "--in-place",
        "--shard-size",
        "64KiB",
    ]);
    let mut flipped = content.clone();
    flipped[5_000_000] ^= 1;
    fs::write(&file, flipped).unwrap();
    let says = format!("{} is no longer what was put", file.display());

    let streamed = node.cli(&["get", "logs/log"]);
    fails(&streamed, 1, &says);
    assert!(content.starts_with(&streamed.stdout) && !streamed.stdout.is_empty());
    let output = dir.path().join("out");
    fails(
        &node.cli(&["get", "logs/log", "-o", output.to_str().unwrap()]),
        1,
        &says,
    );
    fails(
        &node.cli(&["get", "logs", "-o", output.to_str().unwrap()]),
        1,
        &says,
    );
    assert!(!output.exists());
}

#[test]
fn whoever_asks_for_what_has_changed_is_told() {
    let (node, _dir, folder) = start();
    let file = folder.join("log");
    fs::write(&file, text(41, 300_000)).unwrap();
    settled(&file);
    let stored = put(&node, &file, "log");
    fs::write(&file, text(42, 300_000)).unwrap();
    let got = node.cli(&["get", "log"]);
    fails(&got, 1, file.to_str().unwrap());
    fails(&got, 1, "put it again");
    let digest = stored["digest"].as_str().unwrap();
    let folder_put = put(&node, &folder, "folder");
    fs::write(&file, text(43, 300_000)).unwrap();
    fails(&node.cli(&["get", "folder"]), 1, file.to_str().unwrap());
    let path = format!(
        "/b3/{}/log",
        folder_put["digest"].as_str().unwrap().trim_start_matches("b3:")
    );
    let reply = node.get_as_admin(&path);
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (409, "source-changed"),
        "{digest}"
    );
}

#[test]
fn a_node_stops_though_a_put_has_much_to_read() {
    let (node, _dir, folder) = start();
    let file = folder.join("sparse");
    fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
    let before = node.cpu_ticks();
    let mut put = node
        .command(&[
            "put",
            file.to_str().unwrap(),
            "--name",
            "x",
            "--in-place",
            "--split",
            "none",
        ])
        .spawn()
        .unwrap();
    until("the node reads", || node.cpu_ticks() > before + 30);
    put.kill().unwrap();
    put.wait().unwrap();
    let begun = Instant::now();
    assert_eq!(node.stop().1, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn what_is_removed_takes_no_room_and_frees_none() {
    let (node, _dir, folder) = start();
    let file = folder.join("log");
    let content = text(51, 3_000_000);
    fs::write(&file, &content).unwrap();
    settled(&file);
    put(&node, &file, "log");
    let held = node.json(&["du"])["datasets"][0]["held_bytes"].as_u64().unwrap();
    assert!(held < 10_000, "{held} bytes are the meta and the sequence alone");
    let released = node.json(&["rm", "dataset/log"])["released_bytes"]
        .as_u64()
        .unwrap();
    assert!(released < 10_000, "{released}");
    assert_eq!(
        put(&node, &file, "log")["new_bytes"],
        content.len(),
        "nothing is known of it any more"
    );
}

#[test]
fn what_is_left_out_stays_out_in_place_too() {
    let (node, _dir, folder) = start();
    fs::create_dir(folder.join("target")).unwrap();
    for file in ["a.txt", "b.tmp", "c.log", "target/d.txt"] {
        fs::write(folder.join(file), file).unwrap();
    }
    fs::write(folder.join(".nearfieldignore"), "target/\n*.tmp\n").unwrap();
    let put = [
        "put",
        folder.to_str().unwrap(),
        "--name",
        "files",
        "--in-place",
        "--exclude",
    ];
    let stored = node.json(&[&put[..], &["*.log"]].concat());
    assert_eq!(
        stored["notices"][0], "left out: b.tmp, c.log, target/",
        "{stored}"
    );
    let listed = node.json(&["ls", "dataset/files"]);
    let files = listed["files"].as_array().unwrap();
    let paths: Vec<_> = files.iter().map(|file| &file["path"]).collect();
    assert_eq!(paths, [".nearfieldignore", "a.txt"]);
    fails(&node.cli(&[&put[..], &["{a"]].concat()), 1, "`{a` of --exclude");
}
