//! Counts the 32-bit integers of a dataset by their highest eight bits, on the GPU that has them already.
//!
//! `nearfield put numbers/ --name numbers --split fixed:4`, then `GET /fn/histogram/FILE` counts those of one file, and
//! `nearfield run histogram --over numbers` those of all. Counts are exact, so equal on every GPU.

use nearfield::gpu::{Batch, Buffer, Job, Kernel, Read};
use nearfield::{Dataset, Error, IntoResponse, Json, Request, RequestExt, Result, Shard};

/// Counters: one for each value of the highest eight bits.
const BINS: usize = 256;
/// Invocations of a workgroup, as the shader says.
const WORKGROUP: u32 = 256;
/// Workgroups at most: beyond, each invocation counts more.
const WORKGROUPS: u32 = 1_024;
/// Bytes that are bound at once: what the smallest adapters take. A multiple of the size of a number.
const PART_BYTES: u64 = 64 << 20;

/// Counts one file of the dataset.
#[nearfield::http]
fn file(request: Request) -> Result<impl IntoResponse> {
    let path = request.path()?;
    let numbers = Dataset::open("numbers")?;
    let missing = || Error::not_found(format!("no file {path}"));
    let place = numbers.by_path(&path)?.ok_or_else(missing)?;
    let (mut counts, mut left, mut offset) = (vec![0; BINS], place.length, place.offset);
    for index in place.shard.. {
        if left == 0 {
            break;
        }
        let shard = numbers.shard(index)?;
        let end = shard.size().min(offset + left);
        add(&mut counts, &count(&shard, offset..end)?);
        left -= end - offset;
        offset = 0;
    }
    Ok(Json(counts))
}

/// Counts a shard.
#[nearfield::map]
fn histogram(shard: Shard) -> Result<Vec<u64>> {
    let size = shard.size();
    count(&shard, 0..size)
}

#[nearfield::reduce]
fn both(mut counts: Vec<u64>, more: Vec<u64>) -> Vec<u64> {
    add(&mut counts, &more);
    counts
}

fn add(counts: &mut [u64], more: &[u64]) {
    counts
        .iter_mut()
        .zip(more)
        .for_each(|(count, more)| *count += more);
}

fn count(shard: &Shard, bytes: std::ops::Range<u64>) -> Result<Vec<u64>> {
    let mut counts = vec![0; BINS];
    let mut start = bytes.start;
    while bytes.end - start >= 4 {
        let end = bytes.end.min(start + PART_BYTES);
        let numbers = Buffer::<u32>::from_shard_bytes(shard, start..end)?;
        let (mut job, read) = submit(&numbers)?;
        let more: Vec<u64> = job.read(read)?.into_iter().map(u64::from).collect();
        add(&mut counts, &more);
        start = end;
    }
    Ok(counts)
}

fn submit(numbers: &Buffer<u32>) -> Result<(Job, Read<u32>)> {
    let workgroups = (numbers.len() as u32).div_ceil(WORKGROUP).min(WORKGROUPS);
    let kernel = Kernel::new(include_str!("histogram.wgsl"), "histogram")?;
    let counts = Buffer::<u32>::zeroed(BINS)?;
    let mut batch = Batch::new();
    batch.dispatch(
        &kernel,
        [workgroups, 1, 1],
        &[numbers.part(0..numbers.len()), counts.all()],
    );
    let read = batch.read(&counts, 0..BINS);
    Ok((batch.submit()?, read))
}

#[cfg(test)]
mod on_a_gpu {
    use super::*;
    use nearfield::mock;

    #[test]
    fn every_number_is_counted_once() {
        if std::env::var("NEARFIELD_TEST_GPU").is_ok_and(|value| value == "none") {
            return;
        }
        let mut seed = 1_u32;
        let mut random = |count: usize| -> Vec<u32> {
            let mut next = || {
                seed = seed.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
                seed ^ (seed >> 13)
            };
            (0..count).map(|_| next()).collect()
        };
        let files = [("a", random(1)), ("b/c", random(100_003)), ("d", random(700))];
        let expected = |numbers: &[u32]| {
            let mut counts = vec![0_u64; BINS];
            numbers
                .iter()
                .for_each(|number| counts[(number >> 24) as usize] += 1);
            counts
        };
        let dataset = || {
            let dataset = mock::Dataset::new("fixed:4").shard_bytes(40_000);
            files.iter().fold(dataset, |dataset, (path, numbers)| {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                dataset.file(path, bytes)
            })
        };
        let host = mock::Host::new().dataset("numbers", dataset()).gpu();
        host.run(|| {
            for (path, numbers) in &files {
                let answer = mock::call(file, mock::get(&format!("/{path}")));
                let counts: Vec<u64> = serde_json::from_str(answer.body()).unwrap();
                assert_eq!(counts, expected(numbers), "{path}");
            }
            assert_eq!(mock::call(file, mock::get("/e")).status(), 404);
        });
        let host = mock::Host::new().dataset("numbers", dataset()).gpu();
        let done = host.job::<histogram>("numbers", serde_json::Value::Null).unwrap();
        let all: Vec<u32> = files.iter().flat_map(|(_, numbers)| numbers.clone()).collect();
        assert_eq!(done.result, serde_json::json!(expected(&all)));
    }
}
