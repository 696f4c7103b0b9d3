//! Data from elsewhere: all of it, as it was at one moment, or an error that names it and nothing made.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Output;

use nearfield_s3_server::{Change, S3Server, Script};
use nearfield_testkit::noise_bytes;
use tempfile::TempDir;

use crate::harness::{Node, fails, lines};
use crate::web::{Answering, Web};

/// A node, and an S3 server with a script.
struct Two {
    node: Node,
    s3: S3Server,
    _objects: TempDir,
}

fn start(script: Script) -> Two {
    let objects = tempfile::tempdir().unwrap();
    Two {
        node: Node::start(),
        s3: S3Server::start(objects.path(), script).unwrap(),
        _objects: objects,
    }
}

impl Two {
    fn put(&self, arguments: &[&str]) -> Output {
        self.put_as(arguments, &[])
    }

    /// With these variables instead of the server's.
    fn put_as(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = self.node.command(&[&["put", "--json"], arguments].concat());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.envs(self.s3.variables());
        command.envs(variables.iter().copied());
        command.output().unwrap()
    }

    /// A put that must succeed; what it says.
    fn stored(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.put(arguments);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn nothing_was_made(&self) {
        let names = self.node.json(&["ls", "datasets"]);
        assert!(!names.to_string().contains("\"data\""), "{names}");
    }
}

#[test]
fn an_object_comes_as_it_is_by_ranges() {
    let two = start(Script::default());
    let content = noise_bytes(1, 20_000_000);
    two.s3.put("bucket", "a b/ü+%.bin", content.clone()).unwrap();
    two.s3.put("bucket", "empty", "").unwrap();
    two.stored(&["s3://bucket/a b/ü+%.bin", "--name", "data"]);
    assert!(two.node.ok(&["get", "data"]) == content);
    assert_eq!(two.s3.counts().requests, 3, "8 MiB each");
    let described = two.node.json(&["describe", "dataset/data"]).to_string();
    assert!(described.contains("\"ü+%.bin\""), "{described}");
    two.stored(&["s3://bucket/empty", "--name", "empty"]);
    assert!(two.node.ok(&["get", "empty"]).is_empty());
}

#[test]
fn faults_on_the_way_are_got_over() {
    let script = Script {
        fault_percent: 30,
        seed: 3,
        ..Script::default()
    };
    let two = start(script);
    let content = noise_bytes(2, 30_000_000);
    two.s3.put("bucket", "x", content.clone()).unwrap();
    for number in 0..10u64 {
        two.s3
            .put("bucket", &format!("p/{number}"), noise_bytes(number, 3_000_000))
            .unwrap();
    }
    two.stored(&["s3://bucket/x", "--name", "data"]);
    assert!(two.node.ok(&["get", "data"]) == content);
    two.stored(&["s3://bucket/p/", "--name", "folder"]);
    for number in 0..10 {
        assert!(two.node.ok(&["get", &format!("folder/{number}")]) == noise_bytes(number, 3_000_000));
    }
    let counts = two.s3.counts();
    assert!(counts.faults > 2 && counts.requests > 15, "{counts:?}");
}

#[test]
fn what_changes_while_it_is_read_is_refused() {
    // Same size or another, and with an object in a folder: by its ETag all the same.
    for (url, length) in [
        ("s3://bucket/x", 40_000_000),
        ("s3://bucket/x", 50_000_000),
        ("s3://bucket/", 40_000_000),
    ] {
        let change = Change {
            at_request: 4,
            bucket: "bucket".to_owned(),
            key: "x".to_owned(),
            content: noise_bytes(4, length).into(),
        };
        let two = start(Script {
            change: Some(change),
            ..Script::default()
        });
        two.s3.put("bucket", "x", noise_bytes(3, 40_000_000)).unwrap();
        let put = two.put(&[url, "--name", "data"]);
        fails(&put, 1, "s3://bucket/x changed while it was read");
        fails(&put, 1, "\"next\":\"put it again");
        two.nothing_was_made();
    }
}

#[test]
fn what_is_not_there_or_not_allowed_is_named() {
    let two = start(Script::default());
    two.s3.put("bucket", "x", "x\n").unwrap();
    let put = |url: &str, variables: &[(&str, &str)]| two.put_as(&[url, "--name", "data"], variables);
    fails(&put("s3://bucket/y", &[]), 4, "there is no s3://bucket/y");
    fails(&put("s3://nowhere/x", &[]), 4, "s3://nowhere/x");
    fails(&put("s3://nowhere/", &[]), 4, "there is no bucket `nowhere`");
    fails(&put("s3://bucket/y/", &[]), 4, "nothing below s3://bucket/y/");
    let wrong = put("s3://bucket/x", &[("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")]);
    fails(&wrong, 6, "SignatureDoesNotMatch");
    fails(&wrong, 6, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
    assert!(!String::from_utf8_lossy(&wrong.stderr).contains("a-wrong-secret"));
    fails(
        &put("s3://bucket/", &[("AWS_ACCESS_KEY_ID", "stranger")]),
        6,
        "s3://bucket/",
    );
    fails(
        &put("s3://bucket/x", &[("AWS_SKIP_SIGNATURE", "true")]),
        6,
        "AccessDenied",
    );
    fails(
        &put("s3://bucket/x", &[("AWS_ACCESS_KEY_ID", "")]),
        6,
        "no credentials",
    );
    let closed = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    fails(
        &put("s3://bucket/x", &[closed]),
        5,
        "nothing answers at 127.0.0.1:1",
    );
    let plain = ("AWS_ENDPOINT_URL", "http://192.0.2.1");
    fails(&put("s3://bucket/x", &[plain]), 2, "--insecure-source");
    fails(&put("http://192.0.2.1/x", &[]), 2, "--insecure-source");
    fails(&put("s3://bucket", &[]), 2, "s3://BUCKET/KEY");
    fails(&put("gs://bucket/x", &[]), 2, "gs://");
    two.nothing_was_made();
}

#[test]
fn a_prefix_is_a_folder() {
    let two = start(Script::default());
    let mut files = BTreeMap::new();
    for number in 0..50u64 {
        let path = match number % 3 {
            0 => format!("{number}.txt"),
            1 => format!("a/{number}.txt"),
            _ => format!("a/b c/ü/{number}.txt"),
        };
        let content = match number {
            7 => noise_bytes(number, 9 << 20),
            number if number.is_multiple_of(10) => Vec::new(),
            number => noise_bytes(number, number as usize * 1000),
        };
        two.s3
            .put("bucket", &format!("p/{path}"), content.clone())
            .unwrap();
        files.insert(path, content);
    }
    two.s3.put("bucket", "pp", "not below").unwrap();
    let put = two.stored(&["s3://bucket/p/", "--name", "folder"]);

    // As the same files on a disk.
    let disk = tempfile::tempdir().unwrap();
    for (path, content) in &files {
        let file = disk.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
    }
    let twin = two
        .node
        .json(&["put", disk.path().to_str().unwrap(), "--name", "twin"]);
    assert_eq!(put["new_shards"], put["shards"]);
    assert_eq!(twin["new_shards"], 0, "{twin}");
    let back = tempfile::tempdir().unwrap();
    two.node
        .ok(&["get", "folder", "-o", back.path().to_str().unwrap()]);
    assert!(below(back.path()) == files);
}

#[test]
fn what_a_server_encodes_is_said_or_refused() {
    let script = Script {
        brotli: Some(".csv"),
        ..Script::default()
    };
    let two = start(script);
    for key in ["p/a.csv", "p/b.txt"] {
        two.s3.put("bucket", key, &b"\x0b\x02\x80hello\x03"[..]).unwrap();
    }
    let folder = two.put(&["s3://bucket/p/", "--name", "folder", "--split", "files"]);
    let told = String::from_utf8_lossy(&folder.stderr).into_owned();
    assert!(
        folder.status.success() && told.contains("s3://bucket/p/a.csv: kept as the server"),
        "{told}"
    );
    let one = two.stored(&["s3://bucket/p/a.csv", "--name", "one"]);
    assert!(one["notices"][0].as_str().unwrap().contains("brotli"), "{one}");
}

fn below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read(path).unwrap());
        }
    }
    files
}

#[test]
fn the_name_tells_the_split() {
    let two = start(Script::default());
    let mut csv = b"number,text\n".to_vec();
    for line in lines(5, 3_000_000).split(|&byte| byte == b'\n') {
        csv.extend_from_slice(b"1,");
        csv.extend_from_slice(line);
        csv.push(b'\n');
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&csv).unwrap();
    two.s3
        .put("bucket", "2024/x.csv.gz", gzip.finish().unwrap())
        .unwrap();
    let put = two.stored(&[
        "s3://bucket/2024/x.csv.gz",
        "--name",
        "table",
        "--shard-size",
        "256KiB",
    ]);
    assert_eq!(put["split"], "csv");
    assert!(put["shards"].as_u64().unwrap() > 3, "{put}");
    assert!(two.node.ok(&["get", "table"]) == csv);
}

#[test]
fn a_web_server_with_ranges_without_them_and_one_that_breaks_off() {
    let node = Node::start();
    let put = |web: &Web, name: &str| {
        let url = format!("http://ada:hunter2@{}/dir/x.bin?token=hunter2", web.address);
        let output = node
            .command(&["put", "--json", &url, "--name", name])
            .output()
            .unwrap();
        for said in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(said).contains("hunter2"));
        }
        output
    };
    let content = noise_bytes(6, 20_000_000);
    for (name, answering, requests) in [
        ("ranges", Answering::Ranges, 3),
        ("unnamed", Answering::RangesWithoutEtag, 2),
        ("whole", Answering::Whole, 1),
        ("chunked", Answering::Chunked, 1),
    ] {
        let web = Web::start(content.clone(), answering);
        let output = put(&web, name);
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(node.ok(&["get", name]) == content, "{name}");
        assert_eq!(web.requests(), requests, "{name}");
        let described = node.json(&["describe", &format!("dataset/{name}")]).to_string();
        assert!(
            described.contains("\"x.bin\"") && !described.contains("hunter2"),
            "{described}"
        );
    }
    for (name, answering) in [("cut", Answering::Cut), ("cut-chunks", Answering::CutChunks)] {
        let output = put(&Web::start(content.clone(), answering), name);
        fails(&output, 5, "/dir/x.bin?… broke off after");
        fails(&output, 5, "\"next\":\"put it again");
    }
    let changing = put(&Web::start(content.clone(), Answering::OtherEtags), "changing");
    fails(&changing, 1, "/dir/x.bin?… changed while it was read");
    let missing = put(&Web::start(content, Answering::NotFound), "missing");
    fails(&missing, 4, "/dir/x.bin?… (404)");
    let names = node.json(&["ls", "datasets"]).to_string();
    for name in ["cut", "cut-chunks", "changing", "missing"] {
        assert!(!names.contains(&format!("\"{name}\"")), "{names}");
    }
}

#[test]
fn a_redirect_to_plain_http_elsewhere_is_not_followed() {
    let node = Node::start();
    let web = Web::start(Vec::new(), Answering::Redirect("http://192.0.2.1/x"));
    let url = format!("http://{}/x", web.address);
    let output = node.command(&["put", &url, "--name", "data"]).output().unwrap();
    fails(&output, 1, "redirects to plain http");
    let target = Web::start(b"there\n".to_vec(), Answering::Ranges);
    let web = Web::start(
        Vec::new(),
        Answering::Redirect(format!("http://{}/y", target.address).leak()),
    );
    node.ok(&["put", &format!("http://{}/x", web.address), "--name", "data"]);
    assert_eq!(node.ok(&["get", "data"]), b"there\n");
}

#[test]
fn tls_needs_a_certificate_that_is_trusted() {
    let node = Node::start();
    let content = noise_bytes(7, 20_000_000);
    let (web, certificate) = Web::start_tls(content.clone(), Answering::Ranges);
    let trusted = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(trusted.path(), certificate).unwrap();
    let url = format!("https://localhost:{}/x.bin", web.address.port());
    let mut put = node.command(&["put", &url, "--name", "data"]);
    put.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    fails(&put.output().unwrap(), 5, "invalid peer certificate");
    put.env("SSL_CERT_FILE", trusted.path());
    let output = put.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(node.ok(&["get", "data"]) == content);
}
