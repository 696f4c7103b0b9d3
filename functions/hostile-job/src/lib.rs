//! A job that does what its data tells it to, for tests: a line `poison WHAT` makes the shard's run fail in that way,
//! a line `look` makes it tell all that it can see of the world, a line `say` makes it log. Arguments make it write
//! many files, return much, and take long.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant, SystemTime};

use nearfield::{Dataset, Error, Result, Shard};

/// Lines that were counted, and what was seen.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Seen {
    lines: u64,
    looks: BTreeMap<String, String>,
    /// The digest of each shard over and over, where the arguments ask for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pad: String,
}

#[derive(serde::Deserialize)]
struct Args {
    /// An input to open and count the shards of.
    open: Option<String>,
    /// A file to write for each shard, into this folder.
    write: Option<String>,
    /// So many files instead, in a folder of the shard's.
    files: Option<u64>,
    /// Bytes to return for each shard.
    pad: Option<usize>,
    /// Rounds of a loop to go for each shard, so that a job takes a while.
    spin: Option<u64>,
}

#[nearfield::map]
fn hostile_job(shard: Shard, args: Args) -> Result<Seen> {
    let mut seen = Seen::default();
    let digest = shard.digest().to_string();
    let source = shard.source();
    let mut lines = shard.lines();
    while let Some(line) = lines.next_line()? {
        seen.lines += 1;
        if line.starts_with(b"poison ") {
            // Whoever counts these knows how often it ran.
            eprintln!("poisoned");
        }
        match line.trim_ascii_end() {
            b"poison trap" => panic!("the data said so"),
            b"poison err" => return Err(Error::new(nearfield::StatusCode::BAD_REQUEST, "the data is bad")),
            b"poison loop" => loop {
                std::hint::black_box(());
            },
            b"poison memory" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1_u8; 1 << 20]);
                }
            }
            b"say" => nearfield::info!("the data said so"),
            b"look" => look(&mut seen.looks, &source),
            _ => {}
        }
    }
    if let Some(input) = &args.open {
        let shards = Dataset::open(input)?.len();
        seen.looks
            .insert("shards of the input".to_owned(), shards.to_string());
    }
    let name = digest.trim_start_matches("b3:");
    match (&args.write, args.files) {
        (Some(folder), None) => {
            let path = format!("{folder}/{name}.txt");
            nearfield::output::write(&path, seen.lines.to_string().as_bytes())?;
        }
        (Some(folder), Some(files)) => {
            for number in 0..files {
                // A file says what it is called, so that it can be told from every other.
                let path = format!("{folder}/{name}/{number:06}.txt");
                nearfield::output::write(&path, format!("{path}\n"))?;
            }
        }
        (None, _) => {}
    }
    for round in 0..args.spin.unwrap_or_default() {
        std::hint::black_box(round);
    }
    if let Some(bytes) = args.pad {
        seen.pad = name.repeat(bytes / name.len());
    }
    Ok(seen)
}

/// Everything that could differ from one run to the next.
fn look(looks: &mut BTreeMap<String, String>, source: &str) {
    let started = Instant::now();
    std::thread::sleep(Duration::from_secs(3_600));
    let mut add = |what: &str, value: String| looks.insert(what.to_owned(), value);
    add("slept", format!("{:?}", started.elapsed()));
    add(
        "time",
        format!("{:?}", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)),
    );
    add("random", format!("{:016x}", RandomState::new().hash_one("x")));
    add(
        "environment",
        format!("{:?}", std::env::vars().collect::<Vec<_>>()),
    );
    add("arguments", format!("{:?}", std::env::args().collect::<Vec<_>>()));
    add("files", format!("{:?}", std::fs::read_dir("/").is_ok()));
    add(
        "network",
        format!("{:?}", std::net::TcpStream::connect("127.0.0.1:80").is_ok()),
    );
    add("source", source.to_owned());
}

#[nearfield::reduce]
fn add(mut all: Seen, more: Seen) -> Seen {
    all.lines += more.lines;
    all.looks.extend(more.looks);
    all.pad.push_str(&more.pad);
    all
}
