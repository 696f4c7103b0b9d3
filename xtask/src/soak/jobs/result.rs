//! A result of 200 MB: what its guest takes is its own limit; the node itself holds none of it.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};

use anyhow::{Result, ensure};

use super::rig::{self, Memory, Rig, put, settles};
use crate::report::bytes;
use crate::soak::{Finding, Setting};

const SHARDS: u64 = 4;
/// What a guest may take: it has the parts, the total and its encoding side by side.
const GUEST_BYTES: u64 = 1 << 30;
/// What the node may take for itself.
const MOST: u64 = 32 << 20;
/// A digest in hexadecimal digits, of which the result is made.
const UNIT: usize = 64;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let size: u64 = if setting.quick { 64 << 20 } else { 200 << 20 };
    let place = Rig::new(setting)?;
    let node = &place.node;
    let folder = place.folder.path().join("text");
    fs::create_dir_all(&folder)?;
    for shard in 0..SHARDS {
        fs::write(folder.join(format!("{shard}")), format!("shard {shard}\n"))?;
    }
    put(node, &folder, "text", "lines", "64KiB")?;
    let limit = format!("limits = {{ memory = \"{}MiB\" }}", GUEST_BYTES >> 20);
    place.deploy("hostile-job", &limit)?;
    let pad = size / SHARDS;

    // Compiled before anything is measured.
    rig::run(node, &["hostile-job", "--over", "text"])?.done()?;
    let args = format!(r#"{{"pad":{pad}}}"#);
    let job = ["hostile-job", "--over", "text", "--args", &args];
    let (ended, running) = Memory::watch(node, || rig::run(node, &job)?.done())?;
    let output_bytes = ended.number("output_bytes")?;
    ensure!(output_bytes > size, "the result has {output_bytes} bytes");
    let kept = settles(node, running.before, MOST)?;

    let file = place.folder.path().join("result");
    let ((), fetching) = Memory::watch(node, || {
        let mut out = BufWriter::new(File::create(&file)?);
        let path = format!("/v1/jobs/{}/output", ended.id);
        std::io::copy(&mut node.stream(&path)?, &mut out)?;
        Ok(out.flush()?)
    })?;
    ensure!(
        fs::metadata(&file)?.len() == output_bytes,
        "it came back cut short"
    );
    check(File::open(&file)?, pad)?;
    ensure!(
        fetching.extra() <= MOST,
        "to send it took {} of memory",
        bytes(fetching.extra())
    );
    // The last reduction runs alone.
    ensure!(
        running.extra() <= GUEST_BYTES + MOST,
        "with its guest the job took {}",
        bytes(running.extra())
    );
    ensure!(kept <= MOST, "{} are still held afterwards", bytes(kept));
    let again = rig::run(node, &job)?.done()?;
    ensure!(again.number("fuel_spent")? == 0 && again.report["digest"] == ended.report["digest"]);
    let seconds = ended.seconds()?;
    place.node.stop()?;
    Ok(vec![(
        format!("a result of {}", bytes(output_bytes)),
        format!(
            "right, in {seconds:.1} s; {} more memory while a guest made it (it may have {}), {} afterwards, {} to send it",
            bytes(running.extra()),
            bytes(GUEST_BYTES),
            bytes(kept),
            bytes(fetching.extra())
        ),
    )])
}

/// The result holds each shard's digest over and over, one shard after the other.
fn check(result: impl Read, pad: u64) -> Result<()> {
    let mut result = BufReader::with_capacity(1 << 20, result);
    let mut head = Vec::new();
    let start = b"\"pad\":\"";
    while !head.ends_with(start) {
        let mut byte = [0];
        result.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let mut seen = Vec::new();
    for _ in 0..SHARDS {
        let mut first = [0; UNIT];
        result.read_exact(&mut first)?;
        ensure!(!seen.contains(&first), "a shard is there twice");
        for _ in 1..pad / UNIT as u64 {
            let mut unit = [0; UNIT];
            result.read_exact(&mut unit)?;
            ensure!(unit == first, "the result is torn");
        }
        seen.push(first);
    }
    let mut end = String::new();
    result.read_to_string(&mut end)?;
    ensure!(end == "\"}", "the result ends in {end}");
    Ok(())
}
