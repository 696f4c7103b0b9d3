//! Looking into a job: one shard run again, on the node and natively, and what its runs printed.

use std::path::PathBuf;

use nearfield_protocol::Digest;
use serde_json::Value;

use crate::harness::{Node, fails, lines, until};

/// Puts lines in shards of about 64 KiB, with `extra` after every 8,000th.
fn put(node: &Node, seed: u64, extra: &str) -> u64 {
    let mut text = Vec::new();
    for (number, line) in lines(seed, 300_000)
        .split_inclusive(|byte| *byte == b'\n')
        .enumerate()
    {
        text.extend_from_slice(line);
        if number % 8_000 == 2_000 {
            text.extend_from_slice(extra.as_bytes());
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = file.path().to_str().unwrap();
    let put = node.json(&[
        "put",
        path,
        "--name",
        "text",
        "--split",
        "lines",
        "--shard-size",
        "64KiB",
    ]);
    put["shards"].as_u64().unwrap()
}

fn job(node: &Node, arguments: &[&str]) -> String {
    let done = node.json(&[&["run"], arguments].concat());
    done["job"].as_str().unwrap().to_owned()
}

/// The newest job, which may have failed.
fn newest(node: &Node) -> Value {
    node.json(&["ls", "jobs"])["jobs"][0].clone()
}

#[test]
fn a_shard_that_runs_again_comes_to_what_is_remembered() {
    let node = Node::start();
    put(&node, 1, "");
    node.deploy("wordcount", "wordcount", "");
    let id = job(&node, &["wordcount", "--over", "text"]);
    let again = node.json(&["replay", &id, "--shard", "2"]);
    assert_eq!(
        (&again["ok"], &again["same"]),
        (&true.into(), &true.into()),
        "{again}"
    );
    assert_eq!(again["fuel"], again["remembered"]["fuel"]);
    assert!(again["fuel"].as_u64().unwrap() > 0 && again["run_us"].as_u64().unwrap() > 0);
    assert!(again["data_bytes"].as_u64() >= again["size_bytes"].as_u64());

    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let text = node.ok(&["replay", &id, "--shard", "2", "-o", path]);
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("the same as what is remembered"), "{text}");
    let output = Digest::of(&std::fs::read(file.path()).unwrap());
    assert_eq!(again["output"], output.to_string());
}

#[test]
fn running_again_remembers_nothing() {
    let node = Node::start();
    put(&node, 2, "");
    node.deploy("wordcount", "wordcount", "");
    let id = job(&node, &["wordcount", "--over", "text", "--only", "0"]);
    let other = node.json(&["replay", &id, "--shard", "1"]);
    assert_eq!(
        (&other["remembered"], &other["same"]),
        (&Value::Null, &Value::Null)
    );
    let only = node.json(&["run", "wordcount", "--over", "text", "--only", "1"]);
    assert_eq!(only["remembered"], 0, "the job itself had to run it");
}

#[test]
fn a_failed_shard_says_how_to_look_into_it() {
    let node = Node::start();
    put(&node, 3, "say\npoison err\n");
    node.deploy("job", "hostile_job", "");
    let failed = node.cli(&["run", "job", "--over", "text"]);
    let record = newest(&node);
    let (id, shard) = (
        record["id"].as_str().unwrap().to_owned(),
        record["state"]["failures"][0]["shard"].to_string(),
    );
    let told = format!("nearfield replay {id} --shard {shard}");
    fails(&failed, 3, &told);
    let detail = record["state"]["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains(&told), "{detail}");

    let again = node.cli(&["replay", &id, "--shard", &shard]);
    fails(&again, 3, "the data is bad");
    let text = String::from_utf8(again.stdout).unwrap();
    assert!(text.contains("the data said so"), "{text}");
    let again = node.cli(&["replay", &id, "--shard", &shard, "--json"]);
    let value: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!((&value["ok"], again.status.code()), (&false.into(), Some(3)));
    let failure = &record["state"]["failures"][0];
    assert_eq!(value["problem"], failure["problem"], "the same text");
    assert!(
        value["log"][0].as_str().unwrap().contains("the data said so"),
        "{value}"
    );
}

#[test]
fn what_is_not_there_is_told() {
    let node = Node::start();
    put(&node, 4, "");
    node.deploy("wordcount", "wordcount", "");
    let id = job(&node, &["wordcount", "--over", "text"]);
    fails(&node.cli(&["replay", &id, "--shard", "999"]), 1, "no shard 999");
    let nobody = "0".repeat(32);
    fails(&node.cli(&["replay", &nobody, "--shard", "0"]), 4, "no job");
    fails(&node.cli(&["logs", &nobody]), 4, "no job");
    fails(&node.cli(&["describe", &format!("job/{nobody}")]), 4, "no job");
    fails(
        &node.cli(&["logs", "wordcount", "--shard", "1"]),
        2,
        "goes with a job's id",
    );
    fails(
        &node.cli(&["replay", &id, "--shard", "0", "--debugger", "gdb"]),
        2,
        "--native",
    );
    fails(
        &node.cli(&["replay", "17", "--shard", "0"]),
        2,
        "nearfield ls jobs",
    );
}

#[test]
fn jobs_are_listed_and_described() {
    let node = Node::start();
    put(&node, 5, "");
    node.deploy("wordcount", "wordcount", "");
    let id = job(&node, &["wordcount", "--over", "text"]);
    assert_eq!(node.json(&["ls", "jobs"]), node.json(&["jobs"]));
    let table = String::from_utf8(node.ok(&["ls", "jobs"])).unwrap();
    assert!(table.contains(&id), "{table}");
    let thing = format!("job/{id}");
    assert_eq!(node.json(&["describe", &thing])["state"]["state"], "done");
    let page = String::from_utf8(node.ok(&["describe", &thing])).unwrap();
    assert!(page.contains("function: wordcount"), "{page}");
    fails(&node.cli(&["rm", &thing]), 2, "nearfield cancel");
}

/// The runs that a job's log names, in order and once each.
fn runs(log: &Value) -> Vec<String> {
    let lines = log.as_array().unwrap();
    let mut runs: Vec<String> = lines
        .iter()
        .map(|line| line["run"].as_str().unwrap().to_owned())
        .collect();
    runs.sort();
    runs.dedup();
    runs
}

#[test]
fn a_jobs_log_is_that_of_its_runs() {
    let node = Node::start();
    put(&node, 6, "say\n");
    node.deploy("job", "hostile_job", "");
    // Another job of the same function, over other data.
    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(other.path(), "say\nsay\nsay\n").unwrap();
    node.json(&["put", other.path().to_str().unwrap(), "--name", "other"]);
    let id = job(&node, &["job", "--over", "text"]);
    let apart = job(&node, &["job", "--over", "other"]);
    let again = job(&node, &["job", "--over", "text"]);
    let log = |arguments: &[&str]| node.json(&[&["logs"], arguments].concat());
    until("the lines are written", || {
        log(&["job"]).as_array().unwrap().len() > 4 && log(&[&apart]).as_array().unwrap().len() == 3
    });
    let whole = log(&[&id]);
    let names = runs(&whole);
    assert!(
        names.len() > 1 && names.iter().all(|name| name.starts_with("shard ")),
        "{names:?}"
    );
    assert_eq!(log(&[&again]), whole, "a remembered run printed when it was made");
    assert_eq!(runs(&log(&[&apart])), ["shard 0"]);
    assert_eq!(log(&[&id, "-n", "1"]).as_array().unwrap().len(), 1);
    let shard = names[0].strip_prefix("shard ").unwrap();
    assert_eq!(runs(&log(&[&id, "--shard", shard])), [names[0].clone()]);
    let before = log(&[&id, "--shard", shard]);
    node.ok(&["replay", &id, "--shard", shard]);
    assert_eq!(log(&[&id, "--shard", shard]), before, "a replay is nobody's run");
    // The job has ended, so there is nothing to follow.
    assert_eq!(node.ok(&["logs", &id, "-f"]), node.ok(&["logs", &id]));
}

#[test]
fn a_log_is_followed_until_the_job_ends() {
    let node = Node::start();
    put(&node, 7, "say\npoison loop\n");
    node.deploy("job", "hostile_job", "limits = { fuel = 10_000_000_000_000 }");
    let started = node.json(&["run", "job", "--over", "text", "--detach"]);
    let id = started["job"].as_str().unwrap().to_owned();
    std::thread::scope(|scope| {
        let follower = scope.spawn(|| node.cli(&["logs", &id, "-f"]));
        until("the guest has printed", || {
            node.json(&["logs", &id])
                .as_array()
                .is_some_and(|lines| !lines.is_empty())
        });
        assert!(!follower.is_finished());
        node.json(&["cancel", &id]);
        let output = follower.join().unwrap();
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains(" shard ") && text.contains("the data said so"),
            "{text}"
        );
    });
}

/// The crate whose component the tests run.
fn crate_dir() -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("../functions/hostile-job").to_str().unwrap().to_owned()
}

#[test]
fn a_native_run_comes_to_the_same() {
    let node = Node::start();
    put(&node, 8, "say\n");
    let side = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(side.path(), lines(9, 200_000)).unwrap();
    let side = side.path().to_str().unwrap();
    node.json(&["put", side, "--name", "side", "--shard-size", "64KiB"]);
    node.deploy("job", "hostile_job", "inputs = { side = \"side\" }");
    let args = r#"{"open": "side", "write": "told"}"#;
    let id = job(&node, &["job", "--over", "text", "--args", args, "--into", "out"]);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("shard");
    let dir = crate_dir();
    let native = ["--native", "--manifest-path", &dir];
    let kept = ["--folder", folder.to_str().unwrap()];
    let replay = [&["replay", &id, "--shard", "1"], &native[..]].concat();
    let replayed = node.json(&[&replay[..], &kept].concat());
    assert_eq!(replayed["same"], true, "{replayed}");
    let on_node = node.json(&["replay", &id, "--shard", "1"]);
    assert_eq!(replayed["output"], on_node["output"]);
    assert_eq!(on_node["written_files"], 1);
    assert_eq!(std::fs::read_dir(folder.join("files/told")).unwrap().count(), 1);

    fails(&node.cli(&[&replay[..], &kept].concat()), 1, "is not empty");
    fails(
        &node.cli(&[&replay[..], &["--max-inputs", "1KiB"]].concat()),
        7,
        "--max-inputs",
    );
    // What the function prints is on stderr; under `true` nothing runs.
    let output = node.cli(&replay);
    assert!(String::from_utf8_lossy(&output.stderr).contains("a part of"));
    fails(
        &node.cli(&[&replay[..], &["--debugger", "true"]].concat()),
        3,
        "did not come to its end",
    );
    fails(
        &node.cli(&[&replay[..], &["--debugger", "no-such-debugger"]].concat()),
        1,
        "no-such-debugger",
    );
}

#[test]
fn a_native_run_fails_as_the_shard_did() {
    let node = Node::start();
    put(&node, 10, "poison err\n");
    node.deploy("job", "hostile_job", "");
    node.cli(&["run", "job", "--over", "text"]);
    let record = newest(&node);
    let shard = record["state"]["failures"][0]["shard"].to_string();
    let id = record["id"].as_str().unwrap();
    let dir = crate_dir();
    let replay = [
        "replay",
        id,
        "--shard",
        &shard,
        "--native",
        "--manifest-path",
        &dir,
    ];
    fails(&node.cli(&replay), 3, "the data is bad");
    // A crate without a map.
    let hello = PathBuf::from(&dir).with_file_name("hello");
    let hello = hello.to_str().unwrap();
    fails(
        &node.cli(&[&replay[..6], &[hello]].concat()),
        4,
        "no function with #[nearfield::map]",
    );
}
