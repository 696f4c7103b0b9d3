//! `cargo xtask bench data`: what putting and getting real data reaches.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use serde_json::json;

use crate::report::{Table, bytes, rate, time};
use crate::workspace::{self, Profile, step};
use crate::{sources, text};

/// How much text is put, and how much in many files.
const TEXT_BYTES: u64 = 300 << 20;
const SOURCES_BYTES: u64 = 300 << 20;

pub fn parse(arguments: &[&str]) -> Result<bool> {
    match arguments {
        [] => Ok(false),
        ["--json"] => Ok(true),
        _ => bail!("bench data knows --json only"),
    }
}

pub fn run(as_json: bool) -> Result<()> {
    let binary = workspace::nearfield(Profile::Release)?;
    let folder = Folder::new("bench")?;
    step("making text and sources");
    let (text, sources) = (folder.path().join("text.txt"), folder.path().join("sources"));
    text::write(&text, TEXT_BYTES)?;
    sources::write(&sources, SOURCES_BYTES)?;
    let node = Node::start(&binary, &folder.path().join("data"))?;

    let mut rows = Vec::new();
    for (what, path, name, split) in [
        ("put text, lines", text.as_path(), "lines", "lines"),
        ("put the same again", &text, "lines", "lines"),
        ("put text, bytes", &text, "bytes", "bytes"),
        ("put a folder, files", &sources, "files", "files"),
    ] {
        step(what);
        let start = Instant::now();
        let stored = node.put(path, name, split)?;
        rows.push((
            what,
            stored["bytes"].as_u64().context("the bytes that were put")?,
            start.elapsed(),
        ));
    }
    step("get text");
    let start = Instant::now();
    let status = node
        .nearfield()
        .args(["get", "lines"])
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("get ended with {status}");
    }
    rows.push(("get text", fs::metadata(&text)?.len(), start.elapsed()));
    node.stop()?;
    show(&rows, as_json);
    Ok(())
}

fn show(rows: &[(&str, u64, Duration)], as_json: bool) {
    if as_json {
        let rows = rows.iter().map(
            |(what, bytes, took)| json!({ "what": what, "bytes": bytes, "seconds": took.as_secs_f64() }),
        );
        println!("{}", json!(rows.collect::<Vec<_>>()));
        return;
    }
    let mut table = Table::new(["what", "bytes", "time", "rate"]);
    for &(what, count, took) in rows {
        table.row([what.to_owned(), bytes(count), time(took), rate(count, took)]);
    }
    println!("\n{table}");
}
