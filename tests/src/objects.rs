//! Objects that stay where they are: as a copy would be, never another byte, and only what the owner allowed.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nearfield_s3_server::{Change, S3Server, Script};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Node, fails, lines};
use crate::web::{Answering, Web};

/// A node that may read `s3://bucket/logs/` in place, and its S3 server.
struct Two {
    node: Node,
    s3: S3Server,
    _objects: TempDir,
}

fn start(script: Script) -> Two {
    let objects = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(objects.path(), script).unwrap();
    Two {
        node: Node::start_with(&s3.variables(), &["--allow-source", "s3://bucket/logs/"]),
        s3,
        _objects: objects,
    }
}

impl Two {
    fn put(&self, url: &str, name: &str) -> Value {
        self.node
            .json(&["put", url, "--name", name, "--in-place", "--split", "lines"])
    }

    fn refused(&self, url: &str, says: &str) {
        let put = ["put", url, "--name", "data", "--in-place"];
        fails(&self.node.cli(&put), 1, says);
        let names = self.node.json(&["ls", "datasets"]);
        assert!(!names.to_string().contains("\"data\""), "{names}");
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        self.node.ok(&["get", name])
    }
}

fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut text = lines(seed, len);
    text.push(b'\n');
    text
}

#[test]
fn an_object_in_place_is_what_a_copy_would_be() {
    let two = start(Script::default());
    let content = text(1, 20_000_000);
    two.s3.put("bucket", "logs/app.log", content.clone()).unwrap();
    let used = |node: &Node| node.json(&["du"])["store"]["used_bytes"].as_u64().unwrap();
    let before = used(&two.node);
    let there = two.put("s3://bucket/logs/app.log", "there");
    assert_eq!(there["new_bytes"], content.len());
    assert!(used(&two.node) - before < 5_000, "no copy is stored");
    assert!(two.bytes("there") == content);
    two.node.deploy("wordcount", "wordcount", "");
    let job = ["run", "wordcount", "--over"];
    let over_there = two.node.json(&[&job[..], &["there"]].concat());

    let copy = two.node.cli_with_input(
        &["put", "-", "--name", "copy", "--split", "lines", "--json"],
        &content,
    );
    assert!(copy.status.success());
    let over_copy = two.node.json(&[&job[..], &["copy"]].concat());
    assert_eq!(over_there["output"], over_copy["output"]);
    assert_eq!(over_copy["fuel_spent"], 0, "equal shards are one shard");

    let asked = two.s3.counts().requests;
    assert_eq!(two.put("s3://bucket/logs/app.log", "there")["new_bytes"], 0);
    assert_eq!(
        two.s3.counts().requests,
        asked + 1,
        "its ETag says that it is as it was"
    );
}

#[test]
fn a_folder_of_objects_is_read_by_its_paths_and_only_what_is_new_is_read_again() {
    let two = start(Script::default());
    for number in 0..5 {
        let key = format!("logs/{number}.log");
        two.s3.put("bucket", &key, text(number, 300_000)).unwrap();
    }
    two.put("s3://bucket/logs/", "logs");
    assert!(two.bytes("logs/3.log") == text(3, 300_000));
    two.s3.put("bucket", "logs/9.log", text(9, 300_000)).unwrap();
    let grown = [text(4, 300_000), text(5, 5_000_000)].concat();
    two.s3.put("bucket", "logs/4.log", grown.clone()).unwrap();
    let again = two.put("s3://bucket/logs/", "logs");
    let new = again["new_bytes"].as_u64().unwrap();
    assert!(new < 6_000_000 && new > 5_300_000, "{again}");
    assert!(two.bytes("logs/4.log") == grown);
    assert!(two.bytes("logs/0.log") == text(0, 300_000));
}

#[test]
fn what_its_server_encodes_does_not_stay_in_place() {
    let two = start(Script {
        brotli: Some(".csv"),
        ..Script::default()
    });
    two.s3.put("bucket", "logs/a.csv", text(1, 1_000)).unwrap();
    for url in ["s3://bucket/logs/a.csv", "s3://bucket/logs/"] {
        two.refused(url, "a.csv is encoded as its server says (content-encoding: br)");
    }
}

#[test]
fn another_object_in_its_place_is_an_error_that_names_it_until_it_is_put_again() {
    let url = "s3://bucket/logs/x";
    for (what, other) in [
        ("as large", text(2, 9_000_000)),
        ("shorter", text(3, 1_000_000)),
        ("empty", Vec::new()),
    ] {
        let two = start(Script::default());
        two.s3.put("bucket", "logs/x", text(1, 9_000_000)).unwrap();
        two.put(url, "x");
        two.s3.put("bucket", "logs/x", other.clone()).unwrap();
        let get = two.node.cli(&["get", "x"]);
        fails(&get, 1, "s3://bucket/logs/x is no longer what was put");
        assert!(get.stdout.is_empty(), "{what}");
        two.put(url, "x");
        assert!(two.bytes("x") == other, "{what}");
    }
}

#[test]
fn a_change_while_it_is_indexed_makes_nothing_and_faults_are_got_over() {
    let change = Change {
        at_request: 3,
        bucket: "bucket".to_owned(),
        key: "logs/x".to_owned(),
        content: text(4, 40_000_000).into(),
    };
    let changing = start(Script {
        change: Some(change),
        ..Script::default()
    });
    changing.s3.put("bucket", "logs/x", text(3, 40_000_000)).unwrap();
    changing.refused(
        "s3://bucket/logs/x",
        "s3://bucket/logs/x changed while it was read",
    );

    let failing = start(Script {
        fault_percent: 30,
        seed: 5,
        ..Script::default()
    });
    let content = text(5, 30_000_000);
    failing.s3.put("bucket", "logs/x", content.clone()).unwrap();
    failing.put("s3://bucket/logs/x", "x");
    assert!(failing.bytes("x") == content);
    assert!(failing.s3.counts().faults > 2);
}

/// Passes bytes on to a server until it is stopped; then whatever comes is held, and nothing answers.
struct Door {
    address: SocketAddr,
    shut: Arc<AtomicBool>,
}

impl Door {
    fn before(server: SocketAddr) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shut = Arc::new(AtomicBool::new(false));
        let held = shut.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), TcpStream::connect(server).unwrap());
                let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let held = held.clone();
                std::thread::spawn(move || pass(client, to_server, &held));
                std::thread::spawn(move || pass(server, to_client, &AtomicBool::new(false)));
            }
        });
        Door { address, shut }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, held: &AtomicBool) {
    let mut buffer = [0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        while held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_server_that_hangs_holds_nobody_else_and_its_own_callers_not_for_long() {
    let objects = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(objects.path(), Script::default()).unwrap();
    let mut variables = s3.variables();
    let behind = variables[0].1.strip_prefix("http://").unwrap().parse().unwrap();
    let door = Door::before(behind);
    variables[0].1 = format!("http://{}", door.address);
    let node = Node::start_with(&variables, &["--allow-source", "s3://bucket/"]);
    for number in 0..2 {
        s3.put("bucket", &format!("p/{number}"), text(number, 100_000))
            .unwrap();
    }
    node.json(&[
        "put",
        "s3://bucket/p/",
        "--name",
        "files",
        "--in-place",
        "--split",
        "lines",
    ]);
    node.deploy("cat", "cat", "public = true\ninputs = { data = \"files\" }");
    node.deploy("plain", "plain_p2", "public = true");
    assert!(node.get("/fn/cat/0").body == text(0, 100_000));
    assert_eq!(node.get("/fn/plain").status, 200);

    door.shut.store(true, Ordering::Relaxed);
    std::thread::scope(|scope| {
        // More than any runtime here has threads, all for the same bytes.
        let call = || node.cli(&["call", "cat", "/1"]);
        let waiting: Vec<_> = (0..12).map(|_| scope.spawn(call)).collect();
        std::thread::sleep(Duration::from_secs(1));
        let begun = Instant::now();
        assert_eq!(node.get("/fn/plain").status, 200);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert!(
            waiting.iter().all(|call| !call.is_finished()),
            "nothing was waited for"
        );
        for call in waiting {
            assert!(!call.join().unwrap().status.success());
        }
        assert!(begun.elapsed() < Duration::from_secs(55), "{:?}", begun.elapsed());
    });
    door.shut.store(false, Ordering::Relaxed);
    assert!(node.get("/fn/cat/1").body == text(1, 100_000));
}

#[test]
fn equal_bytes_in_a_file_that_may_not_be_read_any_more_are_read_from_the_object() {
    let objects = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(objects.path(), Script::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().canonicalize().unwrap().join("x");
    let content = text(1, 500_000);
    std::fs::write(&file, &content).unwrap();
    s3.put("bucket", "x", content.clone()).unwrap();
    let allowed = file.parent().unwrap().to_str().unwrap();
    let source = ["--allow-source", "s3://bucket/"];
    let node = Node::start_with(
        &s3.variables(),
        &[&source[..], &["--allow-path", allowed]].concat(),
    );
    for place in [file.to_str().unwrap(), "s3://bucket/x"] {
        node.json(&["put", place, "--name", "x", "--in-place", "--split", "lines"]);
    }
    let node = node.restart_with(&s3.variables(), &source);
    assert!(node.ok(&["get", "x"]) == content);
}

#[test]
fn a_long_put_tells_how_far_it_is() {
    // Each failure is a pause of a tenth of a second or more.
    let two = start(Script {
        fault_percent: 60,
        seed: 1,
        ..Script::default()
    });
    let content = text(7, 20_000_000);
    two.s3.put("bucket", "logs/x", content.clone()).unwrap();
    let put = |url: &str| {
        let path = format!("/v1/datasets/x?in-place={url}");
        let bearer = format!("Bearer {}", two.node.token);
        let headers = [
            ("authorization", bearer.as_str()),
            ("accept", "text/event-stream"),
        ];
        two.node
            .request("POST", &format!("{}{path}", two.node.admin_url), &headers, &[])
    };
    let told = put("s3://bucket/logs/x");
    assert_eq!(told.header("content-type"), Some("text/event-stream"));
    let events: Vec<(String, Value)> = told
        .text()
        .split_terminator("\n\n")
        .map(|event| {
            let (name, data) = event.split_once('\n').unwrap();
            let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            (name.strip_prefix("event: ").unwrap().to_owned(), data)
        })
        .collect();
    let ((last, stored), progress) = events.split_last().unwrap();
    assert_eq!(
        (last.as_str(), &stored["put_bytes"]),
        ("end", &content.len().into())
    );
    assert!(progress.len() > 1 && progress.iter().all(|(name, _)| name == "progress"));
    let done: Vec<_> = progress
        .iter()
        .map(|(_, told)| told["bytes_done"].as_u64().unwrap())
        .collect();
    assert!(
        done.is_sorted() && done.iter().all(|&done| done <= content.len() as u64),
        "{done:?}"
    );
    assert!(progress.iter().any(|(_, told)| told["bytes"] == content.len()));

    let refused = put("s3://elsewhere/x");
    assert_eq!((refused.status, refused.problem().as_str()), (400, "bad-request"));
}

#[test]
fn only_what_the_owner_allowed_is_asked_for() {
    let two = start(Script::default());
    two.s3.put("bucket", "other/x", "x\n").unwrap();
    two.s3.put("elsewhere", "logs/x", "x\n").unwrap();
    for url in [
        "s3://bucket/other/x",
        "s3://bucket/logs",
        "s3://bucket/",
        "s3://elsewhere/logs/x",
        "http://127.0.0.1:1/logs/x",
    ] {
        two.refused(url, "--allow-source");
    }
    assert_eq!(two.s3.counts().requests, 0);
    two.refused("s3://bucket/logs/none", "there is no s3://bucket/logs/none");

    let closed = Node::start();
    let put = ["put", "s3://bucket/logs/x", "--name", "data", "--in-place"];
    fails(&closed.cli(&put), 1, "start it with `--allow-source URL`");
}

#[test]
fn a_web_server_serves_in_place_if_it_pins_what_it_gives() {
    let content = text(6, 10_000_000);
    let put = |web: &Web| {
        let allowed = format!("http://{}/dir/", web.address);
        let node = Node::start_with(&[], &["--allow-source", &allowed]);
        let url = format!("{allowed}x.log");
        let output = node.cli(&["put", &url, "--name", "x", "--in-place"]);
        (node, output)
    };
    let (node, output) = put(&Web::start(content.clone(), Answering::Ranges));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(node.ok(&["get", "x"]) == content);
    for unpinned in [Answering::RangesWithoutEtag, Answering::Whole] {
        let (_, output) = put(&Web::start(content.clone(), unpinned));
        fails(&output, 1, "cannot stay where it is");
    }
    let (_, output) = put(&Web::start(
        content.clone(),
        Answering::Redirect("http://127.0.0.1:1/"),
    ));
    fails(&output, 1, "leads elsewhere");

    let secret = "http://ada:secret@127.0.0.1:1/x?token=secret";
    let output = node.cli(&["put", secret, "--name", "y", "--in-place"]);
    fails(&output, 2, "holds a password or a query");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("token=secret"));
}
