//! `cargo xtask bench jobs`: word count over a text that is the same everywhere, by us and by others, in turn.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use serde_json::{Value, json};

use super::peers;
use crate::guests;
use crate::report::{Table, bytes, count, median, rate, time};
use crate::text;
use crate::workspace::{self, Profile, root, step};

/// The middle of three is not the lucky one.
const ROUNDS: usize = 3;
/// As much text as the sources of our dependencies once had.
const TEXT_BYTES: u64 = 480_000_000;
/// Shards of the dataset that shows what a shard costs by itself.
const NOOP_SHARDS: u64 = 2_000;

pub fn run(json: bool) -> Result<()> {
    let components = guests::build()?;
    let binary = workspace::nearfield(Profile::Release)?;
    let native = workspace::native_wordcount()?;
    let folder = Folder::new("bench-jobs")?;
    step("writing the text");
    let text = folder.path().join("text.txt");
    let text_bytes = text::write(&text, TEXT_BYTES)?;
    let python = peers::python(&["duckdb", "pyspark"]);
    if python.is_none() {
        eprintln!("no DuckDB and Spark by pip: their rows are left out");
    }

    let mut rows: Vec<Row> = Vec::new();
    let mut extra = Vec::new();
    for round in 0..ROUNDS {
        step(&format!("round {} of {ROUNDS}", round + 1));
        let data = folder.path().join(format!("data-{round}"));
        let node = Node::start(&binary, &data)?;
        node.put(&text, "text", "lines")?;
        deploy(&node, &components, "wordcount")?;
        // Compiled and read once before anything is timed, by a job with another key.
        node.json(&[
            "run",
            "wordcount",
            "--over",
            "text",
            "--args",
            r#"{"top":1}"#,
            "--only",
            "0",
        ])?;
        let (first, took) = timed(|| node.json(&["run", "wordcount", "--over", "text"]))?;
        note(&mut rows, "nearfield, first run", took);
        let words = first["output"]["words"].as_u64().context("words")?;
        let (again, took) = timed(|| node.json(&["run", "wordcount", "--over", "text"]))?;
        ensure!(
            again["digest"] == first["digest"],
            "the second run came to something else"
        );
        note(&mut rows, "nearfield, again", took);
        if round == 0 {
            extra.push((
                "fuel a byte".to_owned(),
                format!("{:.1}", fuel(&first) / text_bytes as f64),
            ));
            extra.extend(edited(&node, &text)?);
            extra.push(noop(&node, &components, folder.path())?);
        }
        node.stop()?;

        let (told, took) = timed(|| workspace::output(Command::new(&native).arg(&text)))?;
        let told: u64 = String::from_utf8(told)?.trim().parse()?;
        ensure!(told == words, "native counted {told} words, nearfield {words}");
        note(&mut rows, "native, rayon", took);
        if let Some(python) = &python {
            for (name, script) in [
                ("DuckDB", "wordcount_duckdb.py"),
                ("Spark SQL, local[2]", "wordcount_spark.py"),
            ] {
                let script = root().join("benches/jobs").join(script);
                let mut peer = Command::new("python3");
                peer.arg(&script).arg(&text).env("PYTHONPATH", python);
                let told = workspace::output(&mut peer)?;
                let told: Value = serde_json::from_slice(&told)?;
                ensure!(
                    told["words"].as_u64() == Some(words),
                    "{name} counted {told}, not {words}"
                );
                let seconds = told["seconds"].as_f64().context("seconds")?;
                note(&mut rows, name, Duration::from_secs_f64(seconds));
            }
        }
    }
    report(&rows, &extra, text_bytes, json)
}

struct Row {
    name: &'static str,
    times: Vec<f64>,
}

fn note(rows: &mut Vec<Row>, name: &'static str, took: Duration) {
    let seconds = took.as_secs_f64();
    match rows.iter_mut().find(|row| row.name == name) {
        Some(row) => row.times.push(seconds),
        None => rows.push(Row {
            name,
            times: vec![seconds],
        }),
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, start.elapsed()))
}

fn fuel(run: &Value) -> f64 {
    run["fuel"].as_f64().unwrap_or(0.0)
}

fn deploy(node: &Node, components: &Path, name: &str) -> Result<()> {
    let component = guests::component(components, name).canonicalize()?;
    let path = component.to_str().context("a path that is not UTF-8")?;
    node.json(&["deploy", path, "--name", name])?;
    Ok(())
}

/// One contiguous change of 1 %, put and run again.
fn edited(node: &Node, text: &Path) -> Result<Vec<(String, String)>> {
    let mut content = std::fs::read(text)?;
    let part = content.len() / 100;
    let start = content.len() / 2;
    for byte in &mut content[start..start + part] {
        if *byte == b'e' {
            *byte = b'a';
        }
    }
    let changed = text.with_extension("changed.txt");
    std::fs::write(&changed, &content)?;
    let (stored, put) = timed(|| node.put(&changed, "text", "lines"))?;
    let (run, took) = timed(|| node.json(&["run", "wordcount", "--over", "text"]))?;
    std::fs::remove_file(&changed)?;
    Ok(vec![(
        "after a change of 1 %".to_owned(),
        format!(
            "{} ({} of {} shards ran; put {}, {} new shards)",
            time(took),
            run["shards"].as_u64().unwrap_or(0) - run["remembered"].as_u64().unwrap_or(0),
            run["shards"],
            time(put),
            stored["new_shards"]
        ),
    )])
}

/// What a shard costs whose function does nothing.
fn noop(node: &Node, components: &Path, folder: &Path) -> Result<(String, String)> {
    deploy(node, components, "noop")?;
    let file = folder.join("noop.bin");
    let content: Vec<u8> = (0..NOOP_SHARDS * (64 << 10) / 4)
        .flat_map(|n| (n as u32).wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    std::fs::write(&file, content)?;
    let path = file.to_str().context("a path that is not UTF-8")?;
    node.json(&[
        "put",
        path,
        "--name",
        "noop",
        "--split",
        "bytes",
        "--shard-size",
        "64KiB",
    ])?;
    node.json(&["run", "noop", "--over", "noop", "--only", "0"])?;
    let (run, took) = timed(|| node.json(&["run", "noop", "--over", "noop"]))?;
    let shards = run["shards"].as_u64().context("shards")?;
    Ok((
        "a shard of a job that does nothing".to_owned(),
        format!(
            "{:.3} ms ({} shards)",
            took.as_secs_f64() * 1e3 / shards as f64,
            count(shards)
        ),
    ))
}

fn report(rows: &[Row], extra: &[(String, String)], text_bytes: u64, json: bool) -> Result<()> {
    let middle = |name: &str| {
        let row = rows.iter().find(|row| row.name == name)?;
        Some(median(row.times.clone()))
    };
    let first = middle("nearfield, first run").context("no run")?;
    let native = middle("native, rayon").context("no native run")?;
    let again = middle("nearfield, again").context("no second run")?;
    if json {
        let times: Value = rows
            .iter()
            .map(|row| (row.name.to_owned(), json!(median(row.times.clone()))))
            .collect();
        println!(
            "{}",
            json!({ "bytes": text_bytes, "seconds": times, "native_over_ours": native / first })
        );
        return Ok(());
    }
    let mut table = Table::new(["word count", "time", "rate", "native ÷ it"]);
    for row in rows.iter() {
        let took = Duration::from_secs_f64(median(row.times.clone()));
        table.row([
            row.name.to_owned(),
            time(took),
            rate(text_bytes, took),
            format!("{:.2}", native / took.as_secs_f64()),
        ]);
    }
    println!("\n{} of text\n\n{table}", bytes(text_bytes));
    println!("again: {:.2} % of the first run", again / first * 100.0);
    for (what, figure) in extra {
        println!("{what}: {figure}");
    }
    Ok(())
}
