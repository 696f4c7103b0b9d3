//! Every verb where its output goes nowhere: a reader that has left, a device that is full, variables that are empty. None
//! panics, and each says what is wrong by its exit code and one error.

use std::fs::OpenOptions;
use std::io::Read;
use std::process::{Command, Stdio};

use crate::harness::{Node, binary};

/// A node with something of everything, and a line for each verb that prints.
fn verbs(node: &Node) -> Vec<Vec<String>> {
    node.deploy("hello", "hello", "public = true");
    node.deploy("words", "wordcount", "");
    let put = ["put", "-", "--name", "text", "--split", "lines"];
    assert!(
        node.cli_with_input(&put, b"to be or not to be\n")
            .status
            .success()
    );
    node.json(&["pin", "text"]);
    let job = node.json(&["run", "words", "--over", "text"])["job"]
        .as_str()
        .unwrap()
        .to_owned();
    let id = node.get("/fn/hello").header("nearfield-id").unwrap().to_owned();
    let token = String::from_utf8(node.ok(&["token", "create", "--function", "hello"])).unwrap();
    let lines = [
        "status",
        "ls functions",
        "ls datasets",
        "ls nodes",
        "ls jobs",
        "ls tokens",
        "ls pins",
        "jobs",
        "du",
        "doctor",
        "describe function/hello",
        "describe dataset/text",
        &format!("describe job/{job}"),
        &format!("describe node/{}", node.id()),
        "logs hello",
        &format!("logs {job}"),
        "get text",
        "call hello",
        &format!("explain {id}"),
        &format!("explain {}", &id[24..]),
        &format!("wait {job}"),
        &format!("replay {job} --shard 0"),
        "run words --over text",
        "prune text --keep 3",
        "invite",
        "token create --function hello",
        &format!("token narrow {} --method GET", token.trim()),
        "token ls",
        "completions bash",
        "--help",
        "put --help",
        "--version",
    ];
    lines
        .iter()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect()
}

/// Runs a verb with its output going to `stdout`; its exit code and what it said on standard error.
fn run(node: &Node, verb: &[String], json: bool, stdout: Stdio) -> (Option<i32>, String) {
    let mut command = node.command(&verb.iter().map(String::as_str).collect::<Vec<_>>());
    if json {
        command.arg("--json");
    }
    let output = command.stdout(stdout).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{verb:?}: {said}");
    (output.status.code(), said)
}

#[test]
fn a_reader_that_left_and_a_full_device_are_no_panic() {
    let node = Node::start();
    for verb in verbs(&node) {
        for json in [false, true] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let (code, said) = run(&node, &verb, json, writer.into());
            assert_eq!(code, Some(0), "{verb:?} without a reader: {said}");

            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let (code, said) = run(&node, &verb, json, full.into());
            // The first two are the library's own; a log may be empty.
            let other = ["--help", "--version", "logs"];
            if !verb.iter().any(|word| other.contains(&word.as_str())) {
                assert_eq!(code, Some(1), "{verb:?} on a full device: {said}");
                assert!(said.contains("No space left on device"), "{verb:?}: {said}");
            }
        }
    }
}

#[test]
fn empty_variables_are_as_good_as_none() {
    let node = Node::start();
    let home = tempfile::tempdir().unwrap();
    let empty = [
        "NEARFIELD_URL",
        "NEARFIELD_TOKEN",
        "NEARFIELD_DATA",
        "XDG_DATA_HOME",
    ];
    let mut command = Command::new(binary());
    command
        .env("HOME", home.path())
        .args(["status", "--url", &node.admin_url, "--token", &node.token]);
    empty.iter().for_each(|name| {
        command.env(name, "");
    });
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let mut command = Command::new(binary());
    command
        .env("HOME", home.path())
        .args(["status", "--token", "none"]);
    empty.iter().for_each(|name| {
        command.env(name, "");
    });
    let said = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(said.contains("127.0.0.1:8081"), "the usual node is asked: {said}");
}

#[test]
fn a_put_reads_and_a_get_writes_what_is_no_plain_file() {
    let node = Node::start();
    let home = tempfile::tempdir().unwrap();
    let fifo = home.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || std::fs::write(fifo, "from a pipe\n").unwrap()
    });
    node.json(&[
        "put",
        fifo.to_str().unwrap(),
        "--name",
        "piped",
        "--split",
        "lines",
    ]);
    writer.join().unwrap();

    let reader = std::thread::spawn({
        let fifo = fifo.clone();
        move || {
            let mut text = String::new();
            std::fs::File::open(fifo)
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            text
        }
    });
    node.ok(&["get", "piped", "-o", fifo.to_str().unwrap()]);
    assert_eq!(reader.join().unwrap(), "from a pipe\n");

    let full = node.cli(&["get", "piped", "-o", "/dev/full"]);
    assert_eq!(full.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&full.stderr).contains("No space left on device"));
}
