use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nearfield_protocol::units::format_bytes;
use serde::Deserialize;
use serde_json::Value;

use super::Session;
use crate::archive::Folder;
use crate::args::PutArgs;
use crate::client::segment;
use crate::failure::{Exit, Failure};
use crate::output::counted;

#[derive(Deserialize)]
struct Stored {
    name: String,
    version: u64,
    digest: String,
    split: String,
    put_bytes: u64,
    shards: u64,
    new_shards: u64,
    new_bytes: u64,
}

pub fn run(session: &Session, args: PutArgs) -> Result<()> {
    let started = Instant::now();
    let mut path = format!(
        "/v1/datasets/{}?source={}&split={}",
        segment(args.name.as_str()),
        segment(&source(&args.path)?),
        segment(&args.split),
    );
    if let Some(bytes) = args.shard_size {
        path.push_str(&format!("&shard-size={bytes}"));
    }
    if args.append {
        path.push_str("&append=true");
    }
    if let Some(part) = &args.part {
        path.push_str(&format!("&part={}", segment(part.as_str())));
    }
    if let Some(version) = args.if_version {
        path.push_str(&format!("&if-version={version}"));
    }
    let stored = match args.in_place {
        true => in_place(session, &args.path, path),
        false => upload(session, &args.path, path),
    };
    let stored = stored.with_context(|| format!("putting {} as `{}`", args.path.display(), args.name))?;
    session.out.show(&stored, |stored: Stored| {
        let seconds = started.elapsed().as_secs_f64();
        session.out.notice(&format!(
            "{} in {seconds:.1} s; {} of {} new, {} stored",
            format_bytes(stored.put_bytes),
            stored.new_shards,
            counted(stored.shards, "shard"),
            format_bytes(stored.new_bytes),
        ));
        format!(
            "{} v{} {} ({}, {})",
            stored.name,
            stored.version,
            stored.digest,
            stored.split,
            counted(stored.shards, "shard")
        )
    })
}

fn upload(session: &Session, input: &Path, mut path: String) -> Result<Value> {
    let input = open(input)?;
    path.push_str(&format!("&folder={}", input.folder));
    let bar = session.out.bytes_bar(input.bytes);
    let stored = session.client.upload(path, bar.wrap_read(input.read));
    bar.finish_and_clear();
    stored
}

/// Only the path goes to the node, which reads the files itself.
fn in_place(session: &Session, input: &Path, mut path: String) -> Result<Value> {
    let full = input
        .canonicalize()
        .with_context(|| format!("finding {}", input.display()))?;
    let Some(full) = full.to_str() else {
        bail!("the path of {} is not UTF-8: rename it", full.display());
    };
    path.push_str(&format!("&in-place={}", segment(full)));
    let spinner = session.out.spinner();
    let stored = session.client.change("POST", path, &Value::Null);
    spinner.finish_and_clear();
    stored
}

struct Input {
    read: Box<dyn Read>,
    /// Unknown for pipes.
    bytes: Option<u64>,
    folder: bool,
}

fn open(path: &Path) -> Result<Input> {
    if path == Path::new("-") {
        return Ok(Input {
            read: Box::new(io::stdin()),
            bytes: None,
            folder: false,
        });
    }
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Exit::NotFound, format!("there is no {}", path.display())).into()
        }
        _ => anyhow::Error::new(error).context(format!("reading {}", path.display())),
    })?;
    if metadata.is_dir() {
        let folder = Folder::read(path)?;
        let bytes = Some(folder.tar_bytes());
        return Ok(Input {
            read: Box::new(folder.pack()?),
            bytes,
            folder: true,
        });
    }
    let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
    let bytes = metadata.is_file().then_some(metadata.len());
    Ok(Input {
        read: Box::new(file),
        bytes,
        folder: false,
    })
}

/// The file's own name: what the node guesses the split from, and what it tells functions.
fn source(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return Ok("-".to_owned());
    }
    // `.` and `photos/..` have no name of their own.
    let named = if path.file_name().is_some() {
        path.to_owned()
    } else {
        path.canonicalize()?
    };
    match named.file_name().map(|name| name.to_str()) {
        Some(Some(name)) => Ok(name.to_owned()),
        Some(None) => bail!(
            "the name of {} is not UTF-8; rename it, or put it from standard input",
            path.display()
        ),
        None => Ok("/".to_owned()),
    }
}
