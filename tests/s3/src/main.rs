//! `s3-server FOLDER FILE PERCENT`: serves FILE as `s3://soak/object`, and lets so many of a hundred requests fail.
//! Says on stdout where it is; when stdin ends, what it counted; then ends.

use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nearfield_s3_server::{S3Server, Script};
use serde_json::json;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, file, percent] = arguments.as_slice() else {
        bail!("usage: s3-server FOLDER FILE PERCENT");
    };
    let script = Script {
        fault_percent: percent.parse().context("PERCENT")?,
        ..Script::default()
    };
    let server = S3Server::start(Path::new(folder), script)?;
    server.put_file("soak", "object", Path::new(file))?;
    let variables: serde_json::Map<_, _> = server
        .variables()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    println!("{}", json!({ "variables": variables }));
    io::stdin().read_to_end(&mut Vec::new())?;
    let counts = server.counts();
    println!(
        "{}",
        json!({ "requests": counts.requests, "faults": counts.faults })
    );
    Ok(())
}
