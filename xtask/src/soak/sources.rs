//! A large object from an S3 server that fails now and then: the same bytes, in little memory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::inputs::{digest, write_noise};
use super::{Finding, Setting};
use crate::cleanup::{Folder, Process};
use crate::node::{Node, memory_of};
use crate::report::{bytes, count, rate, time};
use crate::workspace;

/// Of a hundred requests.
const FAULTS: [u64; 2] = [0, 5];

/// How large a range is; `cli/src/source/ahead.rs`.
const PIECE_BYTES: u64 = 8 << 20;

/// What a put of a file takes, pages of the program included, and what ranges may hold beside it.
const MOST_MEMORY: u64 = 128 << 20;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let size: u64 = if setting.quick { 64 << 20 } else { 1 << 30 };
    let server = workspace::s3_server(setting.profile)?;
    let folder = Folder::new("sources")?;
    let object = folder.path().join("object");
    write_noise(&object, 1, size)?;
    let expected = digest(&object)?;
    FAULTS
        .into_iter()
        .map(|percent| {
            let folder = Folder::new("sources")?;
            let trip = trip(setting, &server, &object, folder.path(), percent)?;
            ensure!(digest(&trip.back)? == expected, "the object came back different");
            ensure!(
                trip.peak <= MOST_MEMORY,
                "the command line took {} at its peak, more than {}",
                bytes(trip.peak),
                bytes(MOST_MEMORY)
            );
            let retries = trip.requests - size.div_ceil(PIECE_BYTES);
            ensure!(
                retries >= trip.faults,
                "{retries} retries after {} faults",
                trip.faults
            );
            let what = format!("s3, {} by ranges, {percent} % of requests fail", bytes(size));
            let told = format!(
                "identical; {} in {}, {} resident at the peak, {} requests, {} faults, {retries} retries",
                rate(size, trip.took),
                time(trip.took),
                bytes(trip.peak),
                count(trip.requests),
                trip.faults
            );
            Ok((what, told))
        })
        .collect()
}

struct Trip {
    took: Duration,
    /// Of the command line's resident memory.
    peak: u64,
    requests: u64,
    faults: u64,
    back: std::path::PathBuf,
}

fn trip(setting: &Setting, server: &Path, object: &Path, folder: &Path, percent: u64) -> Result<Trip> {
    let objects = folder.join("objects");
    std::fs::create_dir(&objects)?;
    let mut command = Command::new(server);
    command.arg(&objects).arg(object).arg(percent.to_string());
    let mut server = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut said = BufReader::new(server.child().stdout.take().context("the server's stdout")?);
    let started = line(&mut said)?;
    let variables = started["variables"]
        .as_object()
        .context("the server's variables")?;

    let node = Node::start(&setting.nearfield, &folder.join("data"))?;
    let mut put = node.nearfield();
    put.args(["put", "s3://soak/object", "--name", "object"])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    for (name, value) in variables {
        put.env(name, value.as_str().context("a variable")?);
    }
    let start = Instant::now();
    let mut put = Process::start(&mut put)?;
    let mut peak = 0;
    let status = loop {
        // The peak itself only rises: the last look is at most a moment old.
        peak = memory_of(put.id(), "VmHWM").unwrap_or(0).max(peak);
        match put.child().try_wait()? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let took = start.elapsed();
    ensure!(status.success(), "the put ended with {status}");

    drop(server.child().stdin.take());
    let counted = line(&mut said)?;
    let number = |name: &str| counted[name].as_u64().context("the server's counts");
    let back = folder.join("back");
    let target = back.to_str().context("a path that is not UTF-8")?;
    workspace::output(node.nearfield().args(["get", "object", "-o", target]))?;
    node.stop()?;
    Ok(Trip {
        took,
        peak,
        requests: number("requests")?,
        faults: number("faults")?,
        back,
    })
}

fn line(said: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut line = String::new();
    said.read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("the S3 server said {line:?}"))
}
