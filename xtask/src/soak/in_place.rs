//! Files that stay where they are: no second copy, jobs as fast as over one, and only what is new is read.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start};
use serde_json::Value;
use walkdir::WalkDir;

use super::jobs::rig::{self, deploy, number, path};
use super::{Finding, Setting};
use crate::report::{bytes, time};

const FILES: usize = 20;
/// Jobs over each of the two, in turn; the middle one counts.
const ROUNDS: u64 = 5;
/// What indexing may take, in hundredths of the data.
const MOST_EXTRA_PERCENT: u64 = 1;
/// Read again of a file that grew: its last shard.
const MOST_OF_A_TAIL: u64 = 20 << 20;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let size = if setting.quick { 8 << 20 } else { 100 << 20 };
    let folder = Folder::new("in-place")?;
    let logs = folder.path().canonicalize()?.join("logs");
    fs::create_dir(&logs)?;
    for file in 0..FILES {
        write_log(&name(&logs, file), file as u64, size)?;
    }
    let allowed = ["--allow-path", path(&logs)?];
    let data = folder.path().join("there");
    let there = Start::new(&setting.nearfield, &data).flags(&allowed).run()?;
    let stored = Node::start(&setting.nearfield, &folder.path().join("stored"))?;

    let before = taken(&data)?;
    let put = |node: &Node, more: &[&str]| -> Result<Value> {
        let put = ["put", path(&logs)?, "--name", "logs", "--split", "lines"];
        node.json(&[&put[..], more].concat())
    };
    let begun = std::time::Instant::now();
    let first = put(&there, &["--in-place"])?;
    let took = begun.elapsed();
    let (all, extra) = (number(&first, "put_bytes")?, taken(&data)?.saturating_sub(before));
    ensure!(
        extra * 100 < all * MOST_EXTRA_PERCENT,
        "{} of {} more on the disk",
        bytes(extra),
        bytes(all)
    );
    ensure!(
        put(&stored, &[])?["digest"] == first["digest"],
        "a copy is another dataset"
    );
    let mut findings = vec![(
        format!("{FILES} files, {}, put in place", bytes(all)),
        format!(
            "{}; {} more on the disk ({:.2} %); a copy has the same digest",
            time(took),
            bytes(extra),
            extra as f64 * 100.0 / all as f64
        ),
    )];
    findings.push(compare(setting, &there, &stored, folder.path())?);
    stored.stop()?;

    ensure!(
        number(&put(&there, &["--in-place"])?, "new_bytes")? == 0,
        "what had not changed was read"
    );
    let tail = 100_000;
    append(&name(&logs, 7), tail)?;
    let grown = number(&put(&there, &["--in-place"])?, "new_bytes")?;
    ensure!(
        (tail..MOST_OF_A_TAIL).contains(&grown),
        "{} were read of one that grew",
        bytes(grown)
    );
    for file in (0..FILES).rev() {
        fs::rename(name(&logs, file), name(&logs, file + 1))?;
    }
    write_log(&name(&logs, 0), 99, 1_000_000)?;
    let rotated = number(&put(&there, &["--in-place"])?, "new_bytes")?;
    let new = fs::metadata(name(&logs, 0))?.len();
    // The one that grew a moment ago is not trusted by its time yet.
    let unsettled = fs::metadata(name(&logs, 8))?.len();
    ensure!(
        rotated == new || rotated <= new + unsettled,
        "{} were read after a rotation",
        bytes(rotated)
    );
    findings.push((
        "put again; one file grew by 100 kB; all rotated and one new".to_owned(),
        format!("0 B, {}, {} read", bytes(grown), bytes(rotated)),
    ));
    there.stop()?;
    Ok(findings)
}

/// Word count over the files where they are, and over the copy.
fn compare(setting: &Setting, there: &Node, stored: &Node, folder: &Path) -> Result<Finding> {
    for node in [there, stored] {
        deploy(
            setting,
            node,
            folder,
            "wordcount",
            "limits = { fuel = 50_000_000_000 }",
        )?;
    }
    let mut seconds = [Vec::new(), Vec::new()];
    // The first compiles, and warms the disk's cache.
    for round in 0..=ROUNDS {
        let args = format!(r#"{{"top":{}}}"#, round + 10);
        let job = ["wordcount", "--over", "logs", "--args", &args];
        let mut outputs = Vec::new();
        for (node, seconds) in [there, stored].into_iter().zip(&mut seconds) {
            let ended = rig::run(node, &job)?.done()?;
            ensure!(
                ended.number("remembered")? == 0,
                "arguments are a part of the key"
            );
            outputs.push(ended.report["digest"].clone());
            if round > 0 {
                seconds.push(ended.seconds()?);
            }
        }
        ensure!(outputs[0] == outputs[1], "the outputs differ");
    }
    let [there, stored] = seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    });
    Ok((
        "word count over them, against the copy".to_owned(),
        format!(
            "{there:.2} s and {stored:.2} s: {:.2} × its speed; the same output",
            stored / there
        ),
    ))
}

fn name(logs: &Path, age: usize) -> PathBuf {
    match age {
        0 => logs.join("app.log"),
        age => logs.join(format!("app.log.{age}")),
    }
}

fn write_log(path: &Path, seed: u64, size: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut written = 0;
    for number in 0u64.. {
        let noise = (number ^ seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let line = format!(
            "{:02}:{:02}:{:02} user{} asked for page{} and got {}\n",
            number / 3_600 % 24,
            number / 60 % 60,
            number % 60,
            noise >> 52,
            (noise >> 30) % 5_000,
            200 + noise % 5
        );
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
        if written >= size {
            break;
        }
    }
    file.flush()
        .with_context(|| format!("writing {}", path.display()))?;
    // Long ago, so that its time tells every later change.
    let hour = std::time::Duration::from_secs(3600);
    let old = std::time::SystemTime::now() - hour;
    Ok(File::options().append(true).open(path)?.set_modified(old)?)
}

fn append(path: &Path, count: u64) -> Result<()> {
    let mut file = File::options().append(true).open(path)?;
    Ok(file.write_all(
        "one more line of text\n"
            .repeat(count.div_ceil(22) as usize)
            .as_bytes(),
    )?)
}

/// Bytes of all files below.
fn taken(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in WalkDir::new(folder) {
        // Some come and go.
        if let Ok(metadata) = entry.and_then(|entry| entry.metadata())
            && metadata.is_file()
        {
            sum += metadata.len();
        }
    }
    Ok(sum)
}
