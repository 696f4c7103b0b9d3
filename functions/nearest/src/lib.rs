//! The rows of an embeddings dataset that are nearest to query vectors, by the cosine between them.
//!
//! `nearfield put vectors.f32 --name embeddings --split fixed:1536` puts rows of 384 numbers, `f32` little-endian, one after the
//! other. `POST /fn/nearest` with `{"queries": [[…]], "k": 10}` asks for the ten nearest rows of each query, and
//! `nearfield run nearest --over embeddings --args …` does the same as a job, on all hosts at once. Rows are counted from 0
//! over the whole dataset. The dataset's shards stay in GPU memory: a second call uploads its queries alone.

mod rows;
mod top;

use nearfield::gpu::{Batch, Buffer, Kernel};
use nearfield::{Dataset, Digest, Error, IntoResponse, Json, Request, RequestExt, Result, Shard};

use rows::Rows;
use top::Tops;

/// Invocations of a workgroup, as the shader says.
const WORKGROUP: u32 = 64;
/// Queries at once: the second size of a dispatch.
const QUERIES: usize = 1_024;
/// Rows that are asked for.
const MOST_NEAR: usize = 1_000;
/// Bytes of scores that are read back at once.
const SCORES_BYTES: usize = 8 << 20;
/// Bytes that are bound at once: what the smallest adapters take.
const PART_BYTES: u64 = 64 << 20;

#[derive(serde::Deserialize)]
struct Asked {
    queries: Vec<Vec<f32>>,
    /// How many rows of each query.
    #[serde(default = "ten")]
    k: usize,
}

fn ten() -> usize {
    10
}

/// A row of the dataset, and how near it is: 1 is the same direction, -1 the opposite one.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
struct Found {
    row: u64,
    score: f32,
}

/// Answers with the nearest rows of each query.
#[nearfield::http]
fn call(mut request: Request) -> Result<impl IntoResponse> {
    let asked: Asked = request.json()?;
    let vectors = Dataset::open("vectors")?;
    let mut tops = Tops::new(asked.queries.len(), asked.k);
    let mut seen = std::collections::HashSet::new();
    for shard in vectors.shards() {
        let shard = shard?;
        // Equal shards have equal rows, which are found again in all of their places.
        if seen.insert(shard.digest()) {
            tops.merge(near(&shard, &asked)?);
        }
    }
    let rows = Rows::of(&vectors, asked.dim()?)?;
    Ok(Json(rows.found(tops)))
}

/// The nearest rows of one shard. A job's map does not know where in the dataset its shard is, so rows are named by their shard.
#[nearfield::map]
fn nearest(shard: Shard, asked: Asked) -> Result<Tops> {
    near(&shard, &asked)
}

#[nearfield::reduce]
fn nearer(mut tops: Tops, more: Tops) -> Tops {
    tops.merge(more);
    tops
}

/// Rows as they are counted over the whole dataset.
#[nearfield::finish]
fn rows(tops: Tops, asked: Asked) -> Result<Vec<Vec<Found>>> {
    Ok(Rows::of(&Dataset::open("vectors")?, asked.dim()?)?.found(tops))
}

impl Asked {
    /// Numbers of a vector, the same of all.
    fn dim(&self) -> Result<u64> {
        let dim = self.queries.first().map_or(0, Vec::len);
        if dim == 0 || self.queries.iter().any(|query| query.len() != dim) {
            return Err(Error::bad_request(
                "queries are vectors of one length, at least one",
            ));
        }
        if self.queries.len() > QUERIES || !(1..=MOST_NEAR).contains(&self.k) {
            return Err(Error::bad_request(format!(
                "at most {QUERIES} queries at once, and k from 1 to {MOST_NEAR}"
            )));
        }
        Ok(dim as u64)
    }
}

fn near(shard: &Shard, asked: &Asked) -> Result<Tops> {
    let dim = asked.dim()?;
    let row_bytes = dim * 4;
    if shard.format() != format!("fixed:{row_bytes}") {
        return Err(Error::bad_request(format!(
            "the dataset was put with `--split {}`, and queries of {dim} numbers need `--split fixed:{row_bytes}`",
            shard.format()
        )));
    }
    let kernel = Kernel::with_constants(include_str!("nearest.wgsl"), "nearest", &[("dim", dim as f64)])?;
    let numbers: Vec<f32> = asked.queries.concat();
    let queries = Buffer::zeroed(numbers.len())?;
    let mut tops = Tops::new(asked.queries.len(), asked.k);
    let digest = shard.digest();
    let part_rows = (PART_BYTES / row_bytes)
        .min((SCORES_BYTES / 4 / asked.queries.len()) as u64)
        .max(1);
    let (all, mut first) = (shard.size() / row_bytes, 0);
    let mut is_written = false;
    while first < all {
        let count = part_rows.min(all - first);
        let bytes = first * row_bytes..(first + count) * row_bytes;
        let rows = Buffer::<f32>::from_shard_bytes(shard, bytes)?;
        let scores = Buffer::<f32>::zeroed(count as usize * asked.queries.len())?;
        let mut batch = Batch::new();
        if !std::mem::replace(&mut is_written, true) {
            batch.write(&queries, 0, &numbers);
        }
        let workgroups = [(count as u32).div_ceil(WORKGROUP), asked.queries.len() as u32, 1];
        batch.dispatch(&kernel, workgroups, &[rows.all(), queries.all(), scores.all()]);
        let read = batch.read(&scores, 0..scores.len());
        let scores = batch.submit()?.read(read)?;
        for (query, scores) in scores.chunks(count as usize).enumerate() {
            tops.take(query, digest, first, scores);
        }
        first += count;
    }
    Ok(tops)
}

/// Names a shard in what travels between a job's runs.
fn name(digest: Digest) -> String {
    digest.to_string()
}

#[cfg(test)]
mod on_a_gpu;
