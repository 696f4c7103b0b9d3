//! A dataset that is kept to some nodes lies nowhere else. What says so is a search for its bytes in every file of every node.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nearfield_testkit::noise_bytes;

use crate::harness::{Node, fails, until};

/// Longest until what a node let go of is off its disk: rounds of repair, and the next sweep, which comes each minute.
const SWEPT: Duration = Duration::from_secs(90);

/// A word that no other test's data has, nor a node's own files.
fn marker(seed: u64) -> String {
    let word: String = noise_bytes(seed, 12)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("marker{word}")
}

/// Lines, each of which has the marker.
fn marked(marker: &str, number: u32, lines: u32) -> Vec<u8> {
    let line = |line| format!("{number} {line} {marker} {marker}\n");
    (0..lines).map(line).collect::<String>().into_bytes()
}

/// The files of a node that have `marker` in them.
fn files_with(node: &Node, marker: &str) -> Vec<PathBuf> {
    fn look(dir: &Path, marker: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => look(&entry.path(), marker, found),
                // It may have been a temporary one.
                kind if kind.is_file() => {
                    if let Ok(bytes) = std::fs::read(entry.path())
                        && String::from_utf8_lossy(&bytes).contains(marker)
                    {
                        found.push(entry.path());
                    }
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    look(node.data.path(), marker, &mut found);
    found
}

/// Two gateways without a host and without labels, and two hosts, one of which is in the EU.
struct Europe {
    first: Node,
    second: Node,
    eu: Node,
    us: Node,
}

impl Europe {
    fn start() -> Europe {
        let first = Node::start_in(tempfile::tempdir().unwrap(), &["--no-host"]);
        let second = Node::join(&first, &["--role", "gateway"], &["--no-host"]);
        let europe = Europe {
            eu: Node::join(&first, &["--label", "region=eu"], &[]),
            us: Node::join(&first, &["--label", "region=us"], &[]),
            first,
            second,
        };
        for gateway in [&europe.first, &europe.second] {
            until("the hosts are there", || {
                let nodes = gateway.json(&["ls", "nodes"]);
                let nodes = nodes["nodes"].as_array().unwrap();
                nodes.iter().filter(|node| node["hosting"] == true).count() == 2
            });
        }
        europe
    }

    /// The marker lies on the host that may keep it, and nowhere else.
    fn assert_only_in_the_eu(&self, marker: &str, after: &str) {
        for (name, node) in [("first", &self.first), ("second", &self.second), ("us", &self.us)] {
            let found = files_with(node, marker);
            assert!(
                found.is_empty(),
                "after {after}, {name} has it at rest: {found:?}"
            );
        }
        assert!(!files_with(&self.eu, marker).is_empty(), "after {after}");
    }

    fn assert_holders(&self, dataset: &str) {
        let described = self
            .first
            .json(&["describe", &format!("dataset/{dataset}"), "--shards"]);
        assert_eq!(described["only"], serde_json::json!(["region=eu"]), "{described}");
        let eu = &self.eu.id()[..10];
        for shard in described["shards"].as_array().unwrap() {
            assert_eq!(shard["holders"], serde_json::json!([eu]), "{shard}");
        }
    }
}

fn put(node: &Node, bytes: &[u8], arguments: &[&str]) -> serde_json::Value {
    let arguments = [&["put", "-"], arguments, &["--json"]].concat();
    let output = node.cli_with_input(&arguments, bytes);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

const LINES: [&str; 6] = ["--name", "lines", "--split", "lines", "--shard-size", "64KiB"];
const EU: [&str; 2] = ["--only", "region=eu"];

#[test]
fn what_is_put_through_a_gateway_rests_only_where_it_may() {
    let europe = Europe::start();
    let Europe {
        first, second, us, ..
    } = &europe;
    let marker = marker(1);

    // A file, and what it grows by, through either gateway.
    let mut text = marked(&marker, 1, 20_000);
    put(first, &text, &[&LINES[..], &EU[..]].concat());
    europe.assert_only_in_the_eu(&marker, "a put");
    for (number, gateway) in [(2, second), (3, first)] {
        let more = marked(&marker, number, 50);
        let grown = put(gateway, &more, &["--name", "lines", "--append"]);
        assert_eq!(grown["version"], number, "{grown}");
        text.extend(more);
    }
    europe.assert_only_in_the_eu(&marker, "appends");
    for gateway in [first, second] {
        until("the newest version is known", || {
            gateway.json(&["ls", "datasets"])["datasets"][0]["version"] == 3
        });
        assert!(
            gateway.ok(&["get", "lines"]) == text,
            "it is read through a gateway"
        );
    }
    europe.assert_only_in_the_eu(&marker, "get");

    // Parts, whose names are data as well.
    let part = format!("{marker}-part");
    for name in [&*part, "other"] {
        let arguments = ["--name", "parts", "--split", "lines", "--part", name];
        put(
            second,
            &marked(&marker, 4, 100),
            &[&arguments[..], &EU[..]].concat(),
        );
    }

    // A folder, one of whose files is larger than what is cut in memory.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join(format!("{marker}.txt")),
        marked(&marker, 5, 10),
    )
    .unwrap();
    std::fs::write(folder.path().join("large.txt"), marked(&marker, 6, 300_000)).unwrap();
    let path = folder.path().to_str().unwrap();
    first.json(&[&["put", path, "--name", "folder"], &EU[..]].concat());
    europe.assert_only_in_the_eu(&marker, "a folder");
    let file = format!("folder/{marker}.txt");
    assert!(second.ok(&["get", &file]) == marked(&marker, 5, 10));
    let tar = first.admin("GET", "/v1/content?of=folder", &[]);
    assert!(tar.status == 200 && tar.body.len() > 15 << 20, "{}", tar.status);

    // A table, sorted by a key.
    let row = |row: u32| format!("{marker}{:05},{marker}\n", row.wrapping_mul(7919) % 10_000);
    let table = format!("{marker}key,value\n{}", (0..10_000).map(row).collect::<String>());
    let key = format!("{marker}key");
    let arguments = ["--name", "table", "--split", "csv", "--key", &key];
    put(first, table.as_bytes(), &[&arguments[..], &EU[..]].concat());
    europe.assert_only_in_the_eu(&marker, "a table");

    // Calls that look into it from a gateway run where it is.
    first.deploy(
        "cat",
        "cat",
        "public = true\ninputs = { data = \"folder\" }\nlocate = { input = \"data\", path = \"{rest}\" }",
    );
    first.deploy(
        "lookup",
        "lookup",
        "public = true\ninputs = { data = \"table\" }\nlocate = { input = \"data\", key = \"{rest}\" }",
    );
    for gateway in [first, second] {
        for path in [
            format!("/fn/cat/{marker}.txt"),
            format!("/fn/lookup/{marker}00007"),
        ] {
            until("the function is there", || gateway.get(&path).status != 404);
            let reply = gateway.get(&path);
            assert!(
                reply.status == 200 && reply.text().contains(&marker),
                "{}",
                reply.text()
            );
            assert_eq!(reply.header("nearfield-host"), Some(&europe.eu.id()[..10]));
        }
    }
    europe.assert_only_in_the_eu(&marker, "calls");

    for dataset in ["lines", "parts", "folder", "table"] {
        europe.assert_holders(dataset);
    }
    // A host without the label is refused, and so is whoever asks there by digest.
    let described = first.json(&["describe", "dataset/lines", "--shards"]);
    let shard = described["shards"][0]["digest"].as_str().unwrap();
    assert!(!us.cli(&["get", shard]).status.success());
    assert!(first.ok(&["get", shard]).starts_with(b"1 0 marker"));
    europe.assert_only_in_the_eu(&marker, "all of it");
}

#[test]
fn what_jobs_make_of_it_rests_where_it_does() {
    let europe = Europe::start();
    let Europe { first, second, .. } = &europe;
    let marker = marker(2);
    let text = marked(&marker, 1, 30_000);
    put(first, &text, &[&LINES[..], &EU[..]].concat());
    first.deploy("wordcount", "wordcount", "");
    for gateway in [first, second] {
        until("the function is there", || {
            !gateway.json(&["ls", "functions"])["functions"]
                .as_array()
                .unwrap()
                .is_empty()
        });
        let ran = gateway.json(&["run", "wordcount", "--over", "lines", "--args", r#"{"top": 3}"#]);
        assert!(ran["output"].to_string().contains(&marker), "{ran}");
        assert_eq!(
            (&ran["hosts"], &ran["shard_bytes_moved"]),
            (&1.into(), &0.into()),
            "{ran}"
        );
    }
    europe.assert_only_in_the_eu(&marker, "a job");

    // The dataset that a job writes is as its input is.
    first.deploy("job", "hostile_job", "");
    let ran = first.json(&[
        "run",
        "job",
        "--over",
        "lines",
        "--args",
        r#"{"write": "counts"}"#,
        "--into",
        "counts",
    ]);
    assert!(ran["into"]["files"].as_u64().unwrap() > 5, "{ran}");
    europe.assert_holders("counts");
    let again = second.json(&[
        "run",
        "job",
        "--over",
        "lines",
        "--args",
        r#"{"write": "counts"}"#,
        "--into",
        "again",
    ]);
    assert_eq!(again["into"]["digest"], ran["into"]["digest"]);

    // What a run says as it fails is data: its source is the file's name.
    let source = format!("{marker}.txt");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(&source), "poison err\n").unwrap();
    let path = dir.path().join(&source);
    first.json(
        &[
            &[
                "put",
                path.to_str().unwrap(),
                "--name",
                "poison",
                "--split",
                "lines",
            ],
            &EU[..],
        ]
        .concat(),
    );
    let failed = first.cli(&["run", "job", "--over", "poison"]);
    assert!(!failed.status.success());
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(said.contains("nearfield replay"), "{said}");
    europe.assert_only_in_the_eu(&marker, "jobs");
}

#[test]
fn a_put_that_nobody_may_keep_is_refused_with_what_helps() {
    let europe = Europe::start();
    let Europe { first, us, .. } = &europe;
    let text = marked(&marker(3), 1, 100);
    let refused = first.cli_with_input(&["put", "-", "--name", "mars", "--only", "region=mars"], &text);
    fails(&refused, 6, "nearfield invite --label region=mars");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    let path = file.path().to_str().unwrap();
    let in_place = first.cli(&[&["put", path, "--name", "lies", "--in-place"], &EU[..]].concat());
    fails(&in_place, 6, "stays on this machine");

    // A host that may put some dataset may still not keep what is for others.
    let host = Node::join(first, &["--may-put", "logs"], &[]);
    let refused = host.cli_with_input(&[&["put", "-", "--name", "logs"], &EU[..]].concat(), &text);
    fails(&refused, 6, "may not rest on this one");
    assert!(files_with(&host, &marker(3)).is_empty() && files_with(us, &marker(3)).is_empty());

    let Europe { first, mut eu, .. } = europe;
    let id = eu.id();
    eu.kill();
    until("it is missed", || {
        let refused = first.cli_with_input(&[&["put", "-", "--name", "late"], &EU[..]].concat(), &text);
        assert!(!refused.status.success());
        String::from_utf8_lossy(&refused.stderr).contains(&format!("{} (host, away)", &id[..10]))
    });
    assert!(files_with(&first, &marker(3)).is_empty());
}

#[test]
fn a_rule_that_comes_later_moves_what_is_there_and_erases_the_rest() {
    let europe = Europe::start();
    let Europe {
        first,
        second,
        eu,
        us,
    } = &europe;
    let marker = marker(4);
    let text = marked(&marker, 1, 20_000);
    // One host keeps it, and it is not the one that may later.
    put(first, &text, &[&LINES[..], &["--only", "region=us"]].concat());
    assert!(files_with(eu, &marker).is_empty() && !files_with(us, &marker).is_empty());
    first.ok(&["rm", "dataset/lines"]);
    put(first, &text, &LINES);
    until("both hosts keep it", || {
        let described = first.json(&["describe", "dataset/lines"]);
        described["replicas"]["least"] == 2
    });
    assert!(second.ok(&["get", "lines"]) == text);
    assert!(
        !files_with(first, &marker).is_empty(),
        "a gateway may cache what has no rule"
    );

    put(first, &text, &[&LINES[..], &EU[..]].concat());
    let started = Instant::now();
    while [first, second, us]
        .iter()
        .any(|node| !files_with(node, &marker).is_empty())
    {
        let left = |node| files_with(node, &marker);
        assert!(
            started.elapsed() < SWEPT,
            "never erased: {:?}",
            (left(first), left(second), left(us))
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    europe.assert_only_in_the_eu(&marker, "the rule");
    europe.assert_holders("lines");
    assert!(second.ok(&["get", "lines"]) == text, "nothing is lost");
}
