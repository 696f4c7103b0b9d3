//! A large object from an S3 server that fails now and then: the same bytes, in little memory of the command line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::{Folder, Process};
use nearfield_testkit::{Start, memory_of};
use serde_json::Value;

use super::inputs::{digest, write_noise};
use super::{Finding, Setting};
use crate::report::{bytes, count, rate, time};
use crate::workspace;

/// The ways, and how many of a hundred requests fail.
const TRIPS: [(Way, u64); 3] = [(Way::Copy, 0), (Way::Copy, 5), (Way::InPlace, 5)];

/// What a put of a file takes, pages of the program included, and what ranges may hold beside it.
const MOST_MEMORY: u64 = 128 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The command line reads it, and the node stores it.
    Copy,
    /// The node reads it, each time.
    InPlace,
}

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let size: u64 = if setting.quick { 64 << 20 } else { 1 << 30 };
    let server = workspace::s3_server(setting.profile)?;
    let folder = Folder::new("sources")?;
    let object = folder.path().join("object");
    write_noise(&object, 1, size)?;
    let expected = digest(&object)?;
    let mut findings = Vec::new();
    for (way, percent) in TRIPS {
        let folder = Folder::new("sources")?;
        let trip = trip(setting, &server, &object, folder.path(), (way, percent))?;
        ensure!(digest(&trip.back)? == expected, "the object came back different");
        ensure!(
            trip.peak <= MOST_MEMORY,
            "the command line took {} at its peak, more than {}",
            bytes(trip.peak),
            bytes(MOST_MEMORY)
        );
        ensure!(
            (trip.faults > 0) == (percent > 0),
            "{} faults at {percent} %",
            trip.faults
        );
        let how = match way {
            Way::Copy => "by ranges".to_owned(),
            Way::InPlace => {
                ensure!(
                    trip.stored * 100 < size,
                    "{} of {} were stored of an object in place",
                    bytes(trip.stored),
                    bytes(size)
                );
                "in place".to_owned()
            }
        };
        findings.push((
            format!("s3, {} {how}, {percent} % of requests fail", bytes(size)),
            format!(
                "identical; {} in {}, {} resident at the peak, {} requests, {} faults; {} stored; read back in {}",
                rate(size, trip.took),
                time(trip.took),
                bytes(trip.peak),
                count(trip.requests),
                trip.faults,
                bytes(trip.stored),
                time(trip.back_took)
            ),
        ));
    }
    Ok(findings)
}

struct Trip {
    took: Duration,
    /// Of the command line's resident memory.
    peak: u64,
    /// What the node stored.
    stored: u64,
    requests: u64,
    faults: u64,
    back: PathBuf,
    back_took: Duration,
}

fn trip(
    setting: &Setting,
    server: &Path,
    object: &Path,
    folder: &Path,
    (way, percent): (Way, u64),
) -> Result<Trip> {
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
    let variables = variables
        .iter()
        .map(|(name, value)| Ok((name.clone(), value.as_str().context("a variable")?.to_owned())))
        .collect::<Result<Vec<_>>>()?;

    let data = folder.join("data");
    let (of_node, flags, how): (&[_], &[_], &[_]) = match way {
        Way::Copy => (&[], &[], &[]),
        Way::InPlace => (&variables, &["--allow-source", "s3://soak/"], &["--in-place"]),
    };
    let node = Start::new(&setting.nearfield, &data)
        .variables(of_node)
        .flags(flags)
        .run()?;
    let mut put = node.nearfield();
    put.args(["put", "s3://soak/object", "--name", "object"])
        .args(how)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null());
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
    let used = node.json(&["du"])?;
    let stored = used["store"]["used_bytes"].as_u64().context("what is stored")?;

    let back = folder.join("back");
    let start = Instant::now();
    let target = back.to_str().context("a path that is not UTF-8")?;
    workspace::output(node.nearfield().args(["get", "object", "-o", target]))?;
    let back_took = start.elapsed();
    drop(server.child().stdin.take());
    let counted = line(&mut said)?;
    let number = |name: &str| counted[name].as_u64().context("the server's counts");
    node.stop()?;
    Ok(Trip {
        took,
        peak,
        stored,
        requests: number("requests")?,
        faults: number("faults")?,
        back,
        back_took,
    })
}

fn line(said: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut line = String::new();
    said.read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("the S3 server said {line:?}"))
}
