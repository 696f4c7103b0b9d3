//! A shard packed up for a native run of its map: a tar with all that the map can see.
//!
//! `replay.json` says what is what. `args.json` has the arguments as the guest gets them. `blobs/HEX` are shards: the
//! one to map, and those of the datasets that the job may open. `inputs/N/paths-M` has paths of input `N`, one JSON
//! array (path, shard, offset, length) a line. `nearfield::mock` reads it.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;

use nearfield_cluster::store_problem;
use nearfield_protocol::job::PureReport;
use nearfield_protocol::units::{exact_bytes, format_bytes};
use nearfield_protocol::{Digest, Problem, ProblemKind};
use nearfield_store::path_index::EntryKind;
use nearfield_store::{Dataset, Store};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::replay::JobShard;

/// Paths in one file, which is in memory as it is made.
const PATHS_PER_FILE: usize = 10_000;

/// What goes into the tar.
pub struct Parcel {
    shard: JobShard,
    inputs: Vec<(String, Arc<Dataset>)>,
    remembered: Option<PureReport>,
}

impl Parcel {
    /// Opens what the job may open. Refused if that has more than `max_input_bytes`.
    pub async fn new(
        store: &Store,
        shard: JobShard,
        remembered: Option<PureReport>,
        max_input_bytes: u64,
    ) -> Result<Self, Problem> {
        let mut inputs = Vec::with_capacity(shard.record.inputs.len());
        for (name, digest) in &shard.record.inputs {
            inputs.push((name.clone(), store.dataset(digest).await.map_err(store_problem)?));
        }
        let bytes: u64 = inputs.iter().map(|(_, input)| input.meta.size_bytes).sum();
        if bytes > max_input_bytes {
            let problem = Problem::new(
                ProblemKind::BadRequest,
                format!(
                    "a native run needs the datasets that job {} may open, {} in all; allow as much with --max-inputs, \
                     or leave --native out",
                    shard.record.id,
                    format_bytes(bytes)
                ),
            );
            return Err(problem.with_limit(format!("max-inputs = {}", exact_bytes(max_input_bytes))));
        }
        Ok(Parcel {
            shard,
            inputs,
            remembered,
        })
    }

    /// Writes the tar. For a thread that may block.
    pub fn write(&self, store: &Store, runtime: &Handle, out: &mut dyn Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        append(&mut tar, "replay.json", &serde_json::to_vec(&self.describe())?)?;
        append(&mut tar, "args.json", &self.shard.leaf.spec.setting.args)?;
        for (number, (_, input)) in self.inputs.iter().enumerate() {
            write_paths(&mut tar, number, input)?;
        }
        let inputs = self.inputs.iter().flat_map(|(_, input)| &input.shards);
        let blobs: BTreeSet<&Digest> = inputs.chain([&self.shard.leaf.shard]).collect();
        for digest in blobs {
            let shard = runtime.block_on(store.shard(digest)).map_err(io::Error::other)?;
            let path = format!("blobs/{}", digest.to_hex());
            append_from(&mut tar, &path, shard.size_bytes(), shard.reader())?;
        }
        tar.finish()
    }

    fn describe(&self) -> Value {
        let JobShard {
            record,
            dataset,
            leaf,
            ..
        } = &self.shard;
        let all = 0..u32::MAX;
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .map(|(name, input)| json!({ "name": name, "data": describe(input, all.clone()) }))
            .collect();
        json!({
            "job": record.id,
            "function": record.function,
            "shard": leaf.index,
            "may_write": leaf.spec.setting.may_write,
            "over": describe(dataset, leaf.index..leaf.index + 1),
            "inputs": inputs,
            "remembered": self.remembered.map(|report| json!({
                "output": report.output,
                "output_bytes": report.output_bytes,
                "fuel": report.fuel,
            })),
        })
    }
}

/// What a guest can see of a dataset, and of these of its shards.
fn describe(dataset: &Dataset, shards: std::ops::Range<u32>) -> Value {
    let shards: Vec<_> = shards
        .map_while(|index| dataset.shard(index))
        .map(|(shard, digest)| json!({ "digest": digest, "header": shard.header }))
        .collect();
    json!({
        "digest": dataset.digest,
        "format": dataset.meta.split.to_string(),
        "headers": dataset.meta.headers,
        "key": dataset.meta.key.as_ref().map(|key| &key.name),
        "shards": shards,
    })
}

fn write_paths(tar: &mut tar::Builder<&mut dyn Write>, number: usize, input: &Dataset) -> io::Result<()> {
    let files = input.entries().filter_map(|entry| match entry.kind {
        EntryKind::File {
            shard, offset, len, ..
        } => Some((entry.path, shard, offset, len)),
        _ => None,
    });
    let mut files = files.peekable();
    for part in 0.. {
        if files.peek().is_none() {
            break;
        }
        let mut lines = Vec::new();
        for file in files.by_ref().take(PATHS_PER_FILE) {
            serde_json::to_writer(&mut lines, &file)?;
            lines.push(b'\n');
        }
        append(tar, &format!("inputs/{number}/paths-{part}"), &lines)?;
    }
    Ok(())
}

fn append(tar: &mut tar::Builder<&mut dyn Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    append_from(tar, path, bytes.len() as u64, bytes)
}

fn append_from(
    tar: &mut tar::Builder<&mut dyn Write>,
    path: &str,
    size_bytes: u64,
    bytes: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(size_bytes);
    tar.append_data(&mut header, path, bytes)
}
