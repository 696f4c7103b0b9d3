//! Jobs in Wasm on a real node, and the same jobs natively on the mock host: same bytes.
//!
//! `NEARFIELD_SEEDS` says how many random jobs run; `cargo xtask soak differential` runs 10,000.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield::job::Job;
use nearfield::mock;
use nearfield_testkit::noise_bytes;
use serde_json::{Value, json};

use crate::harness::{Node, until};

/// Random jobs in an ordinary run of the tests.
const SEEDS: u64 = 120;
/// Jobs at once: a node runs one while another is asked for.
const AT_ONCE: usize = 4;

fn seeds() -> u64 {
    let given = std::env::var("NEARFIELD_SEEDS");
    given.map_or(SEEDS, |seeds| seeds.parse().expect("NEARFIELD_SEEDS is a number"))
}

/// The first of them: the soak takes others each time.
fn first_seed() -> u64 {
    let given = std::env::var("NEARFIELD_FIRST_SEED");
    given.map_or(0, |seed| seed.parse().expect("NEARFIELD_FIRST_SEED is a number"))
}

/// Files of a dataset: what a real node is given, and the mock host.
struct Files {
    name: String,
    split: &'static str,
    files: Vec<(String, Vec<u8>)>,
}

impl Files {
    /// Each file as a part, so that each is a shard of its own; a folder as it is.
    fn put(&self, node: &Node) {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in &self.files {
            std::fs::write(folder.path().join(path), bytes).unwrap();
        }
        let put = |path: &Path, more: &[&str]| {
            let put = ["put", path.to_str().unwrap(), "--name", &self.name];
            node.json(&[&put[..], more, &["--split", self.split]].concat());
        };
        match self.split {
            "files" => put(folder.path(), &[]),
            _ => {
                for (path, _) in &self.files {
                    put(&folder.path().join(path), &["--part", path]);
                }
            }
        }
    }

    fn mock(&self) -> mock::Host {
        let dataset = self
            .files
            .iter()
            .fold(mock::Dataset::new(self.split), |dataset, (path, bytes)| {
                dataset.file(path, bytes.clone())
            });
        mock::Host::new().dataset("data", dataset)
    }

    /// Runs the job on both hosts and compares.
    fn compare<J: Job>(&self, node: &Node, function: &str, args: &Value, into: Option<&str>) {
        let done = run(node, function, &self.name, args, into);
        let native = self.mock().job::<J>("data", args.clone()).unwrap();
        let output = node.admin(
            "GET",
            &format!("/v1/jobs/{}/output", done["id"].as_str().unwrap()),
            b"",
        );
        let result: Value = serde_json::from_slice(&output.body).unwrap();
        assert!(
            result == native.result,
            "`{function}` with {args} over {}: a node says {result:.300}, the mock host {:.300}",
            self.name,
            native.result
        );
        if let Some(into) = into {
            let written = done["state"]["into"]["files"].as_u64().unwrap();
            assert_eq!(written, native.files.len() as u64, "{function} {args}");
            let folder = tempfile::tempdir().unwrap();
            let to = folder.path().join("files");
            node.ok(&["get", into, "-o", to.to_str().unwrap()]);
            for (path, bytes) in &native.files {
                assert!(std::fs::read(to.join(path)).unwrap() == *bytes, "{into}/{path}");
            }
        }
    }
}

/// A job's record when it is done.
fn run(node: &Node, function: &str, over: &str, args: &Value, into: Option<&str>) -> Value {
    let asked = json!({ "function": function, "over": over, "args": args, "into": into });
    let started = node.admin("POST", "/v1/jobs", asked.to_string().as_bytes());
    assert_eq!(started.status, 202, "{}", started.text());
    let path = format!("/v1/jobs/{}", started.json()["id"].as_str().unwrap());
    let mut record = Value::Null;
    until("the job ends", || {
        record = node.admin("GET", &path, b"").json();
        record["state"]["state"] != "running"
    });
    assert_eq!(
        record["state"]["state"], "done",
        "`{function}` with {args} over {over}: {record:#}"
    );
    record
}

/// A component that overwrites its results in its post-return: they are read before.
#[test]
fn a_result_is_read_before_its_guest_frees_it() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let component = dir.path().join("freed.wasm");
    std::fs::write(
        &component,
        wat::parse_str(include_str!("post_return.wat")).unwrap(),
    )
    .unwrap();
    node.json(&["deploy", component.to_str().unwrap(), "--name", "freed"]);
    let files = Files {
        name: "parts".to_owned(),
        split: "bytes",
        files: (0..5)
            .map(|part| (format!("{part}"), noise_bytes(part, 100)))
            .collect(),
    };
    files.put(&node);
    let output = node.ok(&["run", "freed", "--over", "parts"]);
    assert!(
        output.iter().filter(|byte| **byte == 3).count() >= 32_768,
        "{:?}",
        &output[..16]
    );
    assert!(output.iter().all(|byte| *byte == 3 || *byte == b'\n'));
}

/// Random allocations, results and files.
#[test]
fn random_jobs_come_to_the_same_in_wasm_and_natively() {
    let node = Node::start();
    node.deploy(
        "churn",
        "churn",
        "limits = { fuel = 100_000_000_000, memory = \"512MiB\" }",
    );
    let datasets: Vec<Files> = (0..6)
        .map(|number: u64| Files {
            name: format!("data{number}"),
            split: "bytes",
            files: (0..=number)
                .map(|part| {
                    let seed = number * 10 + part;
                    (
                        format!("part{part}"),
                        noise_bytes(seed, 1 + (seed as usize * 7_919) % 60_000),
                    )
                })
                .collect(),
        })
        .collect();
    datasets.iter().for_each(|data| data.put(&node));
    let (next, end) = (AtomicU64::new(first_seed()), first_seed() + seeds());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    let data = &datasets[(seed % 6) as usize];
                    // Large ones are rare: they take as long as a hundred small ones.
                    let most = match seed % 40 {
                        39 => 4 << 20,
                        other => 1_u64 << (other % 18),
                    };
                    let into = (seed % 16 == 0).then(|| format!("written{seed}"));
                    let args = json!({ "seed": seed, "most": most });
                    data.compare::<churn::churn>(&node, "churn", &args, into.as_deref());
                }
            });
        }
    });
}

/// Text of words and numbers that follow from a seed.
struct Words(std::vec::IntoIter<u8>, u64);

impl Words {
    fn new(seed: u64) -> Self {
        Words(noise_bytes(seed, 1 << 16).into_iter(), seed)
    }

    fn next(&mut self) -> usize {
        let byte = self.0.next().unwrap_or_else(|| {
            *self = Words::new(self.1 + 1_000_000);
            self.0.next().unwrap()
        });
        usize::from(byte)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() << 8 | self.next()) % end
    }

    fn word(&mut self) -> String {
        const SYLLABLES: [&str; 12] = [
            "ro", "me", "ber", "lin", "ham", "burg", "at", "lan", "tis", "A", "ü", "_1",
        ];
        (0..=self.below(3)).map(|_| SYLLABLES[self.below(12)]).collect()
    }

    fn lines(&mut self, count: usize) -> String {
        let mut text = String::new();
        for _ in 0..count {
            let words: Vec<_> = (0..self.below(12)).map(|_| self.word()).collect();
            text.push_str(&words.join([" ", ", ", "\t", "unsafe {"][self.below(4)]));
            text.push('\n');
        }
        text
    }

    /// Numbers are quarters, so that their sums are exact however they are grouped.
    fn table(&mut self, rows: usize) -> String {
        let mut text = "city,people,area\n".to_owned();
        for _ in 0..rows {
            let quoted = format!("\"{}, {}\"", self.word(), self.word());
            let city = if self.below(5) == 0 { quoted } else { self.word() };
            let people = self.below(40_000);
            let area = match self.below(6) {
                0 => String::new(),
                1 => "n/a".to_owned(),
                _ => format!("{}.{}", self.below(900), ["0", "25", "5", "75"][self.below(4)]),
            };
            text.push_str(&format!("{city},{people},{area}\n"));
        }
        text
    }
}

/// A PNG of one grey.
fn png(side: u32, grey: u8) -> Vec<u8> {
    let chunk = |kind: &[u8; 4], data: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(kind);
        crc.update(data);
        [
            &(data.len() as u32).to_be_bytes()[..],
            kind,
            data,
            &crc.sum().to_be_bytes(),
        ]
        .concat()
    };
    let head = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let row = [&[0][..], &vec![grey; side as usize]].concat();
    let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    deflate.write_all(&row.repeat(side as usize)).unwrap();
    [
        b"\x89PNG\r\n\x1a\n".to_vec(),
        chunk(b"IHDR", &head),
        chunk(b"IDAT", &deflate.finish().unwrap()),
        chunk(b"IEND", b""),
    ]
    .concat()
}

/// Every example that is a job, the ones for GPUs aside: their floats differ between adapters.
#[test]
fn the_examples_come_to_the_same_in_wasm_and_natively() {
    let node = Node::start();
    for (name, component) in [
        ("audit", "audit"),
        ("distinct", "distinct"),
        ("grep", "grep"),
        ("stats", "stats"),
        ("thumbnail", "thumbnail"),
        ("wordcount", "wordcount"),
    ] {
        let inputs = match name {
            "grep" | "stats" => "inputs = {}",
            _ => "",
        };
        node.deploy(name, component, inputs);
    }
    // The job that a stranger wrote first had one city.
    let cities = ["Rome", "Berlin", "Hamburg", "Atlantis", "A"];
    for round in first_seed()..first_seed() + (seeds() / 20).max(2) {
        let mut words = Words::new(round);
        let named = |name: &str| format!("{name}{round}");
        let files = |count: usize, mut of: Box<dyn FnMut(usize) -> (String, Vec<u8>) + '_>| {
            (0..count).map(&mut of).collect::<Vec<_>>()
        };

        let text = Files {
            name: named("text"),
            split: "lines",
            files: files(
                1 + words.below(5),
                Box::new(|number| (format!("{number}.txt"), words.lines(1 + number * 90).into_bytes())),
            ),
        };
        text.put(&node);
        text.compare::<wordcount::wordcount>(&node, "wordcount", &json!({ "top": round }), None);
        text.compare::<distinct::distinct>(&node, "distinct", &Value::Null, None);

        let mut words = Words::new(round + 500);
        // Two shards are grouped alike by everybody: a variance depends on it in its last bits.
        let mut tables = files(
            1,
            Box::new(|number| {
                let rows = 1 + words.below(150);
                (format!("{number}.csv"), words.table(rows).into_bytes())
            }),
        );
        let city = cities[round as usize % cities.len()];
        tables.push((
            "one.csv".to_owned(),
            format!("city,people,area\n{city},1,0.5\n").into_bytes(),
        ));
        let table = Files {
            name: named("table"),
            split: "csv",
            files: tables,
        };
        table.put(&node);
        table.compare::<stats::stats_by>(&node, "stats", &json!({ "by": "city" }), None);
        table.compare::<stats::stats_by>(&node, "stats", &json!({ "columns": ["area"] }), None);
        table.compare::<distinct::distinct>(&node, "distinct", &json!({ "column": "city" }), None);

        let mut words = Words::new(round + 900);
        let mut folder = files(
            2 + words.below(4),
            Box::new(|number| {
                let text = words.lines(30 + number).into_bytes();
                (format!("c{number}.rs"), text)
            }),
        );
        folder.push((
            "grey.png".to_owned(),
            png(1 + words.below(400) as u32, words.next() as u8),
        ));
        folder.push(("torn.png".to_owned(), noise_bytes(round, 300)));
        let folder = Files {
            name: named("folder"),
            split: "files",
            files: folder,
        };
        folder.put(&node);
        folder.compare::<grep::grep_all>(&node, "grep", &json!({ "q": "unsafe {" }), None);
        folder.compare::<audit::audit>(&node, "audit", &json!({ "top": 3 }), None);
        let into = named("thumbnails");
        folder.compare::<thumbnail::thumbnail>(&node, "thumbnail", &Value::Null, Some(&into));
    }
}

/// Shards are grouped by their digests: a field that a job ignores changes no sum of floats, and neither do other data's results.
#[test]
fn arguments_that_are_ignored_change_no_result() {
    let node = Node::start();
    node.deploy("stats", "stats", "inputs = {}");
    let mut words = Words::new(77);
    let mut text = "n\n".to_owned();
    while text.len() < 2 << 20 {
        text.push_str(&format!("{}\n", 1.0 / (1 + words.below(60_000)) as f64));
    }
    let put = [
        "put",
        "-",
        "--name",
        "table",
        "--split",
        "csv",
        "--shard-size",
        "64KiB",
    ];
    let put = node.cli_with_input(&put, text.as_bytes());
    assert!(put.status.success(), "{put:?}");
    let digest = |args: Value| run(&node, "stats", "table", &args, None)["state"]["digest"].clone();
    let none = digest(Value::Null);
    assert_eq!(none, digest(json!({})));
    for ignored in 0..3 {
        assert_eq!(none, digest(json!({ "x": ignored })), "{ignored}");
    }
}
