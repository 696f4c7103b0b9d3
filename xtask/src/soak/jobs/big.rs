//! Ten thousand shards, a million files: memory is flat, progress is right, nothing is missing.

use std::fs;
use std::io::{BufReader, Read};

use anyhow::{Context, Result, ensure};

use super::rig::{Memory, Rig, number, put, run};
use crate::report::{bytes, count};
use crate::soak::inputs::write_text;
use crate::soak::{Finding, Setting};

/// What the node's own memory may grow by over [`MORE_JOBS`], once [`WARM_UP_JOBS`] have filled its caches. Measured over
/// jobs of 8,572 shards: with the system's allocator (a debug build) it stands still at 230 MiB after 20 of them; with mimalloc
/// (release) it still grew at the 16th, 14 MiB a job between the 10th and the 14th. A leak of 3 KiB a shard is more.
const MOST_AFTERWARDS: u64 = 128 << 20;
const WARM_UP_JOBS: u64 = 10;
const MORE_JOBS: u64 = 4;
/// Files that one run writes.
const FILES_A_SHARD: u64 = 10_000;
const BLOCK: usize = 512;

pub fn shards(setting: &Setting) -> Result<Vec<Finding>> {
    let wanted: u64 = if setting.quick { 300 } else { 10_000 };
    let place = Rig::new(setting)?;
    let text = place.folder.path().join("text");
    // Shards have 64 KiB to 128 KiB.
    write_text(&text, wanted * (100 << 10))?;
    let lines = count_lines(&text)?;
    let stored = put(&place.node, &text, "text", "lines", "64KiB")?;
    let (shards, size) = (number(&stored, "shards")?, number(&stored, "bytes")?);
    ensure!(shards >= wanted, "only {shards} shards");
    place.deploy("hostile-job", "")?;

    let job = ["hostile-job", "--over", "text"];
    let (ended, memory) = Memory::watch(&place.node, || run(&place.node, &job)?.done())?;
    ensure!(ended.number("shards")? == shards && ended.number("remembered")? == 0);
    let output: serde_json::Value = serde_json::from_slice(&ended.output(&place.node)?)?;
    ensure!(
        number(&output, "lines")? == lines,
        "{output} instead of {lines} lines"
    );
    let mut last = (0, 0);
    for progress in &ended.progress {
        let now = (number(progress, "done")?, number(progress, "bytes_done")?);
        ensure!(
            now.0 >= last.0 && now.1 >= last.1 && now.0 <= shards && number(progress, "shards")? == shards,
            "after {last:?} came {progress}"
        );
        last = now;
    }
    // A quick job may be over before anybody asks for its events.
    ensure!(
        last == (shards, size) || setting.quick && ended.progress.is_empty(),
        "the last progress is {last:?} of {shards}, {size}"
    );
    // As many results each time, since the arguments are others.
    let own = || place.node.memory("RssAnon");
    let more_jobs = |numbers: std::ops::Range<u64>| -> Result<u64> {
        for number in numbers {
            let args = format!(r#"{{"number":{number}}}"#);
            let other = run(&place.node, &[&job[..], &["--args", &args]].concat())?.done()?;
            ensure!(other.number("remembered")? == 0);
        }
        own()
    };
    let warm = more_jobs(1..WARM_UP_JOBS)?;
    let more = more_jobs(WARM_UP_JOBS..WARM_UP_JOBS + MORE_JOBS)?.saturating_sub(warm);
    ensure!(
        more <= MOST_AFTERWARDS,
        "memory grew by {} with {MORE_JOBS} jobs more",
        bytes(more)
    );
    let seconds = ended.seconds()?;
    place.node.stop()?;
    Ok(vec![(
        format!("{} shards, {}", count(shards), bytes(size)),
        format!(
            "right in {seconds:.1} s; {} progress events to the end; {} more memory at most, {} after \
             {WARM_UP_JOBS} jobs, and {} more after {MORE_JOBS} more",
            ended.progress.len(),
            bytes(memory.extra()),
            bytes(warm.saturating_sub(memory.before)),
            bytes(more)
        ),
    )])
}

fn count_lines(path: &std::path::Path) -> Result<u64> {
    let (mut file, mut buffer) = (fs::File::open(path)?, vec![0; 1 << 20]);
    let (mut lines, mut last) = (0, b'\n');
    loop {
        let read = file.read(&mut buffer)?;
        let Some(end) = buffer[..read].last() else {
            return Ok(lines + u64::from(last != b'\n'));
        };
        last = *end;
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count() as u64;
    }
}

pub fn files(setting: &Setting) -> Result<Vec<Finding>> {
    let shards: u64 = if setting.quick { 2 } else { 100 };
    let place = Rig::new(setting)?;
    let folder = place.folder.path().join("text");
    fs::create_dir_all(&folder)?;
    // A file that is cut by lines is a shard.
    for shard in 0..shards {
        fs::write(folder.join(format!("{shard:03}")), format!("shard {shard}\n"))?;
    }
    let stored = put(&place.node, &folder, "text", "lines", "64KiB")?;
    ensure!(stored["shards"] == shards, "{stored}");
    place.deploy("hostile-job", "")?;
    let args = format!(r#"{{"write":"out","files":{FILES_A_SHARD}}}"#);
    let job = [
        "hostile-job",
        "--over",
        "text",
        "--into",
        "files",
        "--args",
        &args,
    ];
    let (ended, memory) = Memory::watch(&place.node, || run(&place.node, &job)?.done())?;
    let files = shards * FILES_A_SHARD;
    let into = &ended.report["into"];
    ensure!(number(into, "files")? == files, "{into} instead of {files} files");

    // All of them, as they come; and one by its path.
    let (read, fetching) = Memory::watch(&place.node, || {
        check_archive(place.node.stream("/v1/content?of=files")?)
    })?;
    ensure!(read.files == files, "{} of {files} files came back", read.files);
    let one = format!("/v1/content?of=files&path={}", read.last);
    let mut content = String::new();
    place.node.stream(&one)?.read_to_string(&mut content)?;
    ensure!(
        content == format!("{}\n", read.last),
        "{content} is in {}",
        read.last
    );

    let again = run(&place.node, &job)?.done()?;
    ensure!(
        again.report["into"]["digest"] == into["digest"] && again.ran()? == 0,
        "the same job made another dataset"
    );
    for (what, memory) in [("writing", &memory), ("fetching", &fetching)] {
        ensure!(
            memory.extra() <= most_for(files),
            "{what} {files} files took {} of memory",
            bytes(memory.extra())
        );
    }
    let (seconds, put_again) = (ended.seconds()?, again.seconds()?);
    place.node.stop()?;
    Ok(vec![(
        format!(
            "{} files by --into, {}",
            count(files),
            bytes(number(into, "bytes")?)
        ),
        format!(
            "all read back right; {seconds:.1} s, again {put_again:.1} s; {} more memory at most, to fetch them {}",
            bytes(memory.extra()),
            bytes(fetching.extra())
        ),
    )])
}

/// The index of all paths takes some 30 bytes each before it is a blob, and twice that as it grows; shards on their way
/// to the disk take a bounded rest.
fn most_for(files: u64) -> u64 {
    (96 << 20) + 64 * files
}

struct Archive {
    files: u64,
    last: String,
}

/// Reads a tar archive whose files hold their own paths, in order.
fn check_archive(stream: impl Read) -> Result<Archive> {
    let mut stream = BufReader::with_capacity(1 << 20, stream);
    let (mut files, mut last) = (0, String::new());
    let mut block = [0; BLOCK];
    loop {
        stream
            .read_exact(&mut block)
            .context("the archive is cut short")?;
        let text = |range: std::ops::Range<usize>| {
            let field = block[range].split(|byte| *byte == 0).next().unwrap_or_default();
            String::from_utf8_lossy(field).trim().to_owned()
        };
        let path = text(0..100);
        if path.is_empty() {
            return Ok(Archive { files, last });
        }
        let size = usize::from_str_radix(&text(124..136), 8)?;
        ensure!(path > last, "{path} comes after {last}");
        let mut content = vec![0; size.next_multiple_of(BLOCK)];
        stream.read_exact(&mut content)?;
        ensure!(
            content[..size] == *format!("{path}\n").as_bytes(),
            "{path} holds something else"
        );
        files += 1;
        last = path;
    }
}
