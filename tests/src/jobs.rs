//! Jobs: right, deterministic, remembered, and exact about what fails.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nearfield_testkit::noise_bytes;
use serde_json::{Value, json};

use crate::harness::{Node, fails, lines};

/// Text of `len` bytes with `extra` lines spread over it.
fn text_with(seed: u64, len: usize, extra: &[&str]) -> Vec<u8> {
    let mut text = Vec::new();
    let plain = lines(seed, len);
    let step = plain.len() / (extra.len() + 1);
    let mut rest = &plain[..];
    for line in extra {
        let cut = rest[..step].iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        text.extend_from_slice(&rest[..cut]);
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
        rest = &rest[cut..];
    }
    text.extend_from_slice(rest);
    text
}

/// Puts `text` in shards of about 64 KiB.
fn put(node: &Node, name: &str, text: &[u8]) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    node.json(&[
        "put",
        path,
        "--name",
        name,
        "--split",
        "lines",
        "--shard-size",
        "64KiB",
    ])
}

/// Lines of words that come again and again, as those of real texts do.
fn prose(seed: u64, len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len + 16);
    for (number, pair) in noise_bytes(seed, len).chunks_exact(2).enumerate() {
        if text.len() >= len {
            break;
        }
        let word = u16::from_le_bytes([pair[0], pair[1]]) % 500;
        let end = if number % 9 == 8 { '\n' } else { ' ' };
        text.extend_from_slice(format!("word{word}{end}").as_bytes());
    }
    text.push(b'\n');
    text
}

fn run(node: &Node, arguments: &[&str]) -> Value {
    node.json(&[&["run"], arguments].concat())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// Words as the function counts them.
fn words(text: &[u8]) -> BTreeMap<&[u8], u64> {
    let mut words = BTreeMap::new();
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    for word in text.split(|byte| !is_word(byte)).filter(|word| !word.is_empty()) {
        *words.entry(word).or_default() += 1;
    }
    words
}

#[test]
fn a_word_count_is_right_and_remembered() {
    let node = Node::start();
    let text = lines(7, 2 << 20);
    let shards = number(&put(&node, "text", &text)["shards"]);
    assert!(shards > 16, "enough for a tree");
    node.deploy("wordcount", "wordcount", "");
    let first = run(&node, &["wordcount", "--over", "text", "--args", r#"{"top": 3}"#]);
    let expected = words(&text);
    assert_eq!(number(&first["output"]["words"]), expected.values().sum::<u64>());
    assert_eq!(number(&first["output"]["distinct"]), expected.len() as u64);
    assert_eq!(first["output"]["top"].as_array().unwrap().len(), 3);
    for top in first["output"]["top"].as_array().unwrap() {
        assert_eq!(
            number(&top["count"]),
            expected[top["word"].as_str().unwrap().as_bytes()]
        );
    }
    assert_eq!(number(&first["shards"]), shards);
    assert_eq!(number(&first["remembered"]), 0);
    assert_eq!(number(&first["fuel"]), number(&first["fuel_spent"]));
    assert!(number(&first["bytes_read"]) >= text.len() as u64);

    let again = run(
        &node,
        &["wordcount", "--over", "text", "--args", r#"{ "top":3 }"#],
    );
    assert_eq!(again["digest"], first["digest"]);
    assert_eq!(
        again["fuel"], first["fuel"],
        "fuel counts what it took, whenever that was"
    );
    assert_eq!(number(&again["fuel_spent"]), 0);
    assert_eq!(number(&again["remembered"]), shards);
    assert_eq!(number(&again["bytes_read"]), 0);
}

#[test]
fn results_outlive_a_kill_and_a_job_goes_on() {
    let node = Node::start();
    let text = lines(8, 12 << 20);
    let shards = number(&put(&node, "text", &text)["shards"]);
    node.deploy("wordcount", "wordcount", "");
    let started = node.json(&["run", "wordcount", "--over", "text", "--detach"]);
    let id = started["job"].as_str().unwrap().to_owned();
    let progress = |node: &Node| node.admin("GET", &format!("/v1/jobs/{id}"), &[]).json();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let job = progress(&node);
        if job["progress"]["done"]
            .as_u64()
            .is_some_and(|done| done > shards / 8)
        {
            break;
        }
        assert!(
            Instant::now() < deadline && job["state"]["state"] == "running",
            "{job}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let node = node.crash_and_restart();
    let done = node.json(&["wait", &id]);
    assert_eq!(
        number(&done["output"]["words"]),
        words(&text).values().sum::<u64>()
    );
    assert!(number(&done["remembered"]) >= shards / 8, "{done}");

    // The same on a node of its own, never interrupted, with one worker.
    let other = Node::start_in(tempfile::tempdir().unwrap(), &["--job-workers", "1"]);
    put(&other, "text", &text);
    other.deploy("wordcount", "wordcount", "");
    let whole = run(&other, &["wordcount", "--over", "text"]);
    assert_eq!(
        (&whole["digest"], &whole["fuel"]),
        (&done["digest"], &done["fuel"])
    );
}

/// The order in which shards run, and with what beside them, leaves no trace.
#[test]
fn the_order_of_shards_does_not_matter() {
    let text = prose(21, 1_200_000);
    let outcome = |workers: &str, first: &[u64]| {
        let flags = ["--job-workers", workers];
        let node = Node::start_in(tempfile::tempdir().unwrap(), &flags);
        let shards = number(&put(&node, "text", &text)["shards"]);
        node.deploy("wordcount", "wordcount", "");
        for step in first {
            // A number without a common divisor with the shards' goes through all of them.
            let shard = (step * 7) % shards;
            run(
                &node,
                &["wordcount", "--over", "text", "--only", &shard.to_string()],
            );
        }
        let done = run(&node, &["wordcount", "--over", "text"]);
        (done["digest"].clone(), done["fuel"].clone())
    };
    let forwards = outcome("1", &[]);
    let all: Vec<u64> = (0..20).collect();
    assert_eq!(outcome("1", &all), forwards);
    assert_eq!(outcome("2", &all[5..12]), forwards);
    assert_eq!(outcome("7", &[]), forwards);
}

#[test]
fn an_edit_costs_what_it_touched() {
    let node = Node::start();
    let mut text = prose(9, 6 << 20);
    put(&node, "text", &text);
    node.deploy("wordcount", "wordcount", "");
    let first = run(&node, &["wordcount", "--over", "text"]);
    let middle = text.len() / 2;
    let at = middle + text[middle..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    text.splice(at..at, *b"one line more\n");
    let second = put(&node, "text", &text);
    let again = run(&node, &["wordcount", "--over", "text"]);
    assert_eq!(
        number(&again["output"]["words"]),
        number(&first["output"]["words"]) + 3
    );
    let ran = number(&again["shards"]) - number(&again["remembered"]);
    assert!(ran <= number(&second["new_shards"]), "{ran} shards ran");
    assert!(ran <= 3, "{ran} shards ran");
    assert!(number(&again["fuel_spent"]) * 5 < number(&again["fuel"]));
}

#[test]
fn what_could_matter_is_in_the_key() {
    let node = Node::start();
    put(&node, "text", &lines(10, 300_000));
    put(&node, "side", &lines(11, 100_000));
    let manifest = |inputs: &str, memory: &str| {
        format!("inputs = {{ side = \"{inputs}\" }}\nlimits = {{ memory = \"{memory}\" }}")
    };
    node.deploy("job", "hostile_job", &manifest("side", "64MiB"));
    let spent = |arguments: &[&str]| {
        let done = run(&node, &[&["job", "--over", "text"], arguments].concat());
        number(&done["fuel_spent"]) > 0
    };
    let open = ["--args", r#"{"open": "side"}"#];
    assert!(spent(&open) && !spent(&open));
    assert!(spent(&["--args", r#"{"open": "side", "x": 1}"#]), "arguments");
    put(&node, "side", &lines(12, 200_000));
    assert!(spent(&open), "another version of an opened dataset");
    node.deploy("job", "hostile_job", &manifest("side", "65MiB"));
    assert!(spent(&open), "the memory limit");
    node.deploy("job", "wordcount", &manifest("side", "65MiB"));
    assert!(spent(&open), "the component");
    node.deploy("job", "hostile_job", &manifest("side", "65MiB"));
    assert!(!spent(&open), "what was so before is remembered still");
    node.deploy("renamed", "hostile_job", &manifest("side", "65MiB"));
    let renamed = run(&node, &["renamed", "--over", "text", open[0], open[1]]);
    assert_eq!(number(&renamed["fuel_spent"]), 0, "the name cannot matter");

    // The header is not in the shard, and matters all the same.
    let csv = |header: &str| {
        let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        std::fs::write(file.path(), format!("{header}\n1,2\n3,4\n")).unwrap();
        node.json(&["put", file.path().to_str().unwrap(), "--name", "table"]);
        let done = run(&node, &["job", "--over", "table"]);
        number(&done["fuel_spent"]) > 0
    };
    assert!(csv("a,b") && !csv("a,b") && csv("a,c"));
}

#[test]
fn a_guest_sees_the_same_world_in_every_run() {
    let text = text_with(13, 200_000, &["look"]);
    let looks: Vec<Value> = [1, 2]
        .map(|_| {
            let node = Node::start();
            put(&node, "text", &text);
            node.deploy("job", "hostile_job", "env = { SECRET = \"x\" }");
            run(&node, &["job", "--over", "text"])["output"]["looks"].clone()
        })
        .into();
    assert_eq!(looks[0], looks[1]);
    let look = &looks[0];
    assert_eq!(look["slept"], "0ns");
    assert_eq!(look["time"], "Ok(0ns)");
    assert_eq!(look["environment"], "[]");
    assert_eq!(
        (&look["files"], &look["network"]),
        (&json!("false"), &json!("false"))
    );
    assert!(look["source"].as_str().unwrap().starts_with("b3:"), "{look}");
}

#[test]
fn failing_shards_are_named_and_others_go_on() {
    let node = Node::start();
    let poison = ["poison trap", "poison err", "poison memory"];
    let text = text_with(14, 2 << 20, &poison);
    put(&node, "text", &text);
    node.deploy("job", "hostile_job", "limits = { memory = \"64MiB\" }");
    let failed = node.cli(&["run", "job", "--over", "text"]);
    fails(&failed, 3, "failed");
    let done = run(&node, &["job", "--over", "text", "--on-error", "skip:3"]);
    assert_eq!(number(&done["skipped"]), 3);
    let job = node.admin("GET", &format!("/v1/jobs/{}", done["job"].as_str().unwrap()), &[]);
    let failures = job.json()["state"]["failures"].as_array().unwrap().clone();
    let kinds: Vec<_> = failures
        .iter()
        .map(|failure| {
            failure["problem"]["type"]
                .as_str()
                .unwrap()
                .rsplit(':')
                .next()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert_eq!(kinds, ["trap", "function-failed", "out-of-memory"]);
    assert!(
        failures[1]["problem"]["detail"]
            .as_str()
            .unwrap()
            .contains("the data is bad")
    );
    fails(
        &node.cli(&["run", "job", "--over", "text", "--on-error", "skip:2"]),
        3,
        "3 shards failed",
    );
    let only = failures[1]["shard"].to_string();
    fails(
        &node.cli(&["run", "job", "--over", "text", "--only", &only]),
        3,
        "the data is bad",
    );
    // What a loop burns is bounded, too.
    put(&node, "loop", &text_with(15, 100_000, &["poison loop"]));
    node.deploy("job", "hostile_job", "limits = { fuel = 100_000_000 }");
    fails(
        &node.cli(&["run", "job", "--over", "loop"]),
        3,
        "used up its fuel",
    );
    let over = node.cli(&["run", "job", "--over", "text", "--only", "0", "--max-fuel", "1"]);
    fails(&over, 3, "max-fuel = 1");
}

#[test]
fn a_cancelled_job_stops_at_once_and_keeps_what_it_had() {
    let node = Node::start();
    put(&node, "text", &text_with(16, 1 << 20, &["poison loop"]));
    node.deploy("job", "hostile_job", "limits = { fuel = 10_000_000_000_000 }");
    let id = node.json(&["run", "job", "--over", "text", "--detach"])["job"]
        .as_str()
        .unwrap()
        .to_owned();
    let state = |node: &Node| node.admin("GET", &format!("/v1/jobs/{id}"), &[]).json();
    let deadline = Instant::now() + Duration::from_secs(30);
    // All but the one that loops are done.
    while state(&node)["progress"]["done"]
        .as_u64()
        .is_none_or(|done| done + 1 < state(&node)["progress"]["shards"].as_u64().unwrap_or(u64::MAX))
    {
        assert!(Instant::now() < deadline, "{}", state(&node));
        std::thread::sleep(Duration::from_millis(20));
    }
    let asked = Instant::now();
    node.json(&["cancel", &id]);
    while state(&node)["state"]["state"] == "running" {
        assert!(asked.elapsed() < Duration::from_secs(1), "{}", state(&node));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(state(&node)["state"]["state"], "cancelled");
    let ticks = node.cpu_ticks();
    std::thread::sleep(Duration::from_millis(500));
    assert!(node.cpu_ticks() - ticks < 10, "the guest still runs");
    fails(&node.cli(&["wait", &id]), 1, "was cancelled");
}

#[test]
fn what_is_written_becomes_a_dataset() {
    let node = Node::start();
    let text = lines(17, 1 << 20);
    let shards = number(&put(&node, "text", &text)["shards"]);
    node.deploy("job", "hostile_job", "");
    let args = ["--args", r#"{"write": "counts"}"#];
    fails(
        &node.cli(&[&["run", "job", "--over", "text"], &args[..]].concat()),
        3,
        "--into",
    );
    let into = [&["job", "--over", "text", "--into", "counts"], &args[..]].concat();
    let done = run(&node, &into);
    assert_eq!(number(&done["into"]["files"]), shards);
    let again = run(&node, &into);
    assert_eq!(
        again["into"]["digest"], done["into"]["digest"],
        "the same files, the same dataset"
    );
    assert_eq!(number(&again["remembered"]), shards);
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("counts");
    node.ok(&["get", "counts", "-o", folder.to_str().unwrap()]);
    let total: u64 = std::fs::read_dir(folder.join("counts"))
        .unwrap()
        .map(|file| {
            std::fs::read_to_string(file.unwrap().path())
                .unwrap()
                .parse::<u64>()
                .unwrap()
        })
        .sum();
    assert_eq!(total, text.split_inclusive(|byte| *byte == b'\n').count() as u64);
    // A job over what a job wrote.
    node.deploy("wordcount", "wordcount", "");
    let words = run(&node, &["wordcount", "--over", "counts"]);
    assert_eq!(number(&words["output"]["words"]), shards);
}

#[test]
fn a_purge_forgets_what_was_computed() {
    let node = Node::start();
    let text = lines(18, 300_000);
    put(&node, "text", &text);
    node.deploy("wordcount", "wordcount", "");
    run(&node, &["wordcount", "--over", "text"]);
    put(&node, "copy", &text[..text.len() / 2]);
    let removed = node.json(&["rm", "dataset/text", "--purge"]);
    assert!(number(&removed["forgotten_results"]) > 0);
    let remaining = removed["remaining"].as_array().unwrap();
    assert_eq!(
        (remaining.len(), &remaining[0]["held_by"]),
        (1, &json!("dataset/copy"))
    );
    assert!(number(&remaining[0]["shards"]) > 0 && number(&remaining[0]["bytes"]) > 0);
    put(&node, "text", &text);
    let again = run(&node, &["wordcount", "--over", "text"]);
    assert_eq!(number(&again["remembered"]), 0);
}

#[test]
fn parts_of_a_job() {
    let node = Node::start();
    put(&node, "text", &lines(19, 3 << 20));
    node.deploy("wordcount", "wordcount", "");
    let dry = run(&node, &["wordcount", "--over", "text", "--dry-run"]);
    let whole = run(&node, &["wordcount", "--over", "text"]);
    let (predicted, spent) = (number(&dry["predicted"]["fuel"]), number(&whole["fuel"]));
    assert!(
        predicted > spent / 2 && predicted < spent * 2,
        "{predicted} for {spent}"
    );
    let sample = run(&node, &["wordcount", "--over", "text", "--sample", "10%"]);
    assert!(number(&sample["shards"]) * 8 < number(&whole["shards"]) * 2);
    assert_eq!(number(&sample["remembered"]), number(&sample["shards"]));
    let only = run(&node, &["wordcount", "--over", "text", "--only", "2"]);
    assert_eq!(number(&only["shards"]), 1);
    fails(
        &node.cli(&["run", "wordcount", "--over", "text", "--only", "9999"]),
        1,
        "no shard 9999",
    );
    fails(
        &node.cli(&["run", "wordcount", "--over", "nothing"]),
        4,
        "nothing",
    );
    fails(&node.cli(&["run", "nobody", "--over", "text"]), 4, "nobody");
    fails(&node.cli(&["wait", &"0".repeat(32)]), 4, "no job");
    node.deploy("hello", "hello", "");
    fails(
        &node.cli(&["run", "hello", "--over", "text"]),
        1,
        "nearfield:compute/mapper",
    );
}

/// What the pure lane means. If this fails, remembered results of before are not what the same runs would
/// give now: raise `SEMANTICS_EPOCH` in protocol/src/job.rs and write the new figures here.
#[test]
fn the_semantics_are_those_of_their_versions() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let component = dir.path().join("golden.wasm");
    std::fs::write(&component, wat::parse_str(include_str!("golden.wat")).unwrap()).unwrap();
    node.json(&["deploy", component.to_str().unwrap(), "--name", "golden"]);
    put(&node, "text", b"one shard\n");
    let done = run(&node, &["golden", "--over", "text", "--args", "[1]"]);
    let told = (number(&done["fuel"]), done["digest"].as_str().unwrap());
    let versions = (
        nearfield_protocol::job::SEMANTICS_EPOCH,
        nearfield_protocol::cost::VERSION,
    );
    assert_eq!(versions, (2, 3));
    let digest = "b3:111d3575d971876d9fbc1ad4e4f8facf6847e3abee2aa954742cf438d2f9808f";
    assert_eq!(told, (1_530_637, digest));
}

#[test]
fn a_job_over_nothing_is_an_error_by_name() {
    let node = Node::start();
    node.deploy("wordcount", "wordcount", "");
    node.deploy("hello", "hello", "");
    put(&node, "empty", b"");
    fails(
        &node.cli(&["run", "wordcount", "--over", "empty"]),
        1,
        "`empty` has no shards",
    );
    fails(
        &node.cli(&["run", "hello", "--over", "empty"]),
        1,
        "nearfield:compute/mapper",
    );
    put(&node, "text", b"some words\n");
    fails(
        &node.cli(&["run", "wordcount", "--over", "text", "--into", "text"]),
        1,
        "the job reads `text`",
    );
}
