use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nearfield_testkit::noise_bytes;

use crate::harness::{Node, fails, lines};

fn put_and_get(node: &Node, name: &str, bytes: &[u8], split: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    node.json(&["put", file.to_str().unwrap(), "--name", "data", "--split", split]);
    node.ok(&["get", "data"])
}

#[test]
fn every_size_comes_back_identical() {
    let node = Node::start();
    for len in [
        0,
        1,
        1_023,
        16 << 10,
        (16 << 10) - 1,
        (16 << 10) + 1,
        1 << 20,
        9 << 20,
    ] {
        for split in ["bytes", "none"] {
            let bytes = noise_bytes(len as u64, len);
            assert!(
                put_and_get(&node, "x.bin", &bytes, split) == bytes,
                "{len} bytes, {split}"
            );
        }
    }
    for split in ["lines", "ndjson", "fixed:100", "auto"] {
        let text = lines(7, 6 << 20);
        assert!(put_and_get(&node, "x.txt", &text, split) == text, "{split}");
    }
}

#[test]
fn compressed_input_is_cut_like_the_plain_one() {
    let node = Node::start();
    let text = lines(3, 6 << 20);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&text[..], 1).unwrap();
    assert!(put_and_get(&node, "x.txt", &text, "auto") == text);
    let shards =
        |node: &Node| node.admin("GET", "/v1/datasets/data?shards=true", &[]).json()["shards"].clone();
    let digests = |shards: serde_json::Value| -> Vec<String> {
        shards
            .as_array()
            .unwrap()
            .iter()
            .map(|shard| shard["digest"].as_str().unwrap().to_owned())
            .collect()
    };
    let plain = digests(shards(&node));
    assert!(plain.len() > 1);
    for (name, bytes) in [("x.txt.gz", &gzip), ("x.txt.zst", &zstd)] {
        assert!(put_and_get(&node, name, bytes, "auto") == text, "{name}");
        assert_eq!(digests(shards(&node)), plain, "{name}");
    }
    assert!(
        put_and_get(&node, "x.gz", &gzip, "none") == gzip,
        "uncut means untouched"
    );
}

#[test]
fn a_pipe_is_put_too() {
    let node = Node::start();
    let text = lines(9, 100_000);
    let output = node.cli_with_input(
        &["put", "-", "--name", "piped", "--split", "lines", "--json"],
        &text,
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(node.ok(&["get", "piped"]) == text);
}

#[test]
fn a_folder_comes_back_whole() {
    let node = Node::start();
    let source = tempfile::tempdir().unwrap();
    make_folder(source.path());
    for (name, split) in [("packed", "files"), ("cut", "lines")] {
        node.json(&[
            "put",
            source.path().to_str().unwrap(),
            "--name",
            name,
            "--split",
            split,
        ]);
        let target = tempfile::tempdir().unwrap();
        let out = target.path().join("out");
        node.ok(&["get", name, "-o", out.to_str().unwrap()]);
        assert_eq!(listing(&out), listing(source.path()), "{split}");
    }
    // A single file of it, by digest and by name.
    let path = "data/many/file-0007.txt";
    let expected = std::fs::read(source.path().join("many/file-0007.txt")).unwrap();
    let got = node.ok(&["get", "packed/many/file-0007.txt"]);
    assert!(got == expected, "{path}");
}

#[test]
fn a_link_s_path_gives_what_it_leads_to() {
    let node = Node::start();
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(source.path().join("folder")).unwrap();
    std::fs::write(source.path().join("folder/file.txt"), b"content").unwrap();
    for (link, target) in [
        ("link", "folder/file.txt"),
        ("short", "folder"),
        ("away", "../../etc/hostname"),
        ("dangling", "folder/nothing"),
    ] {
        symlink(target, source.path().join(link)).unwrap();
    }
    node.json(&["put", source.path().to_str().unwrap(), "--name", "linked"]);
    for path in ["linked/link", "linked/short/file.txt"] {
        assert_eq!(node.ok(&["get", path]), b"content", "{path}");
    }
    fails(
        &node.cli(&["get", "linked/away"]),
        4,
        "`away` is a link to `../../etc/hostname`, which leads out",
    );
    fails(
        &node.cli(&["get", "linked/dangling"]),
        4,
        "`dangling` is a link to `folder/nothing`, and there is no file",
    );
    fails(&node.cli(&["get", "linked/nothing"]), 4, "no file `nothing`");
}

#[test]
fn one_added_file_changes_few_packs() {
    let node = Node::start();
    let source = tempfile::tempdir().unwrap();
    for number in 0..200 {
        std::fs::write(
            source.path().join(format!("{number:04}.bin")),
            noise_bytes(number, 40_000),
        )
        .unwrap();
    }
    let put = || {
        let path = source.path().to_str().unwrap();
        node.json(&["put", path, "--name", "folder", "--shard-size", "512KiB"])
    };
    let first = put();
    assert!(first["shards"].as_u64().unwrap() > 8, "{first}");
    let again = put();
    assert_eq!(
        (&again["digest"], &again["new_shards"]),
        (&first["digest"], &0.into())
    );
    std::fs::write(source.path().join("0100-new.bin"), noise_bytes(999, 40_000)).unwrap();
    let third = put();
    assert!(
        (1..=3).contains(&third["new_shards"].as_u64().unwrap()),
        "{third}"
    );
}

fn make_folder(root: &Path) {
    std::fs::create_dir_all(root.join("many/deep/er")).unwrap();
    std::fs::create_dir_all(root.join("empty/inner")).unwrap();
    for number in 0..300 {
        std::fs::write(
            root.join(format!("many/file-{number:04}.txt")),
            lines(number, number as usize * 37),
        )
        .unwrap();
    }
    std::fs::write(root.join("many.txt"), b"sorts between the folder and its files").unwrap();
    std::fs::write(root.join("big.bin"), noise_bytes(1, 5 << 20)).unwrap();
    std::fs::write(root.join("run.sh"), b"#!/bin/sh\n").unwrap();
    std::fs::set_permissions(root.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(root.join(format!("many/deep/{}", "long-name-".repeat(20))), b"x").unwrap();
    std::fs::write(root.join("many/deep/er/gr\u{fc}n \u{1f343}.txt"), b"leaf").unwrap();
    symlink("many.txt", root.join("link")).unwrap();
    symlink("../nowhere/at/all", root.join("many/dangling")).unwrap();
}

/// Everything that must come back: kind, content or target, executable bit.
fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let what = if meta.is_symlink() {
                format!("-> {}", std::fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                folders.push(path.clone());
                "folder".to_owned()
            } else {
                let executable = meta.permissions().mode() & 0o111 != 0;
                format!("{executable} {}", blake3::hash(&std::fs::read(&path).unwrap()))
            };
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), what);
        }
    }
    found
}
