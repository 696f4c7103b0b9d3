//! Sorts records by key in bounded memory: sorted runs in temporary files, then a merge.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use rayon::slice::ParallelSliceMut;

use crate::cut::CutError;

/// Keys, records and their entries that are sorted at once, in memory.
const RUN_BYTES: usize = 64 << 20;
/// Runs that are merged at once: 8 GiB in one pass, 1 TiB in two.
const FAN_IN: usize = 128;
/// Read ahead of each run in a merge; all together take 32 MiB.
const READ_BYTES: usize = 256 << 10;

pub(super) struct Sorter {
    spill_dir: PathBuf,
    run_bytes: usize,
    fan_in: usize,
    /// Each record, its key before it.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Runs by how often they were merged; within a level in the order of what they hold.
    levels: Vec<Vec<File>>,
}

/// Where a record lies in `Sorter::bytes`.
#[derive(Clone, Copy)]
struct Entry {
    /// The key's first bytes, which tell most keys apart.
    prefix: u64,
    at: usize,
    key_bytes: u32,
    record_bytes: u32,
}

impl Sorter {
    pub fn new(spill_dir: &Path) -> Self {
        Self::with_sizes(spill_dir, RUN_BYTES, FAN_IN)
    }

    fn with_sizes(spill_dir: &Path, run_bytes: usize, fan_in: usize) -> Self {
        Sorter {
            spill_dir: spill_dir.to_owned(),
            run_bytes,
            fan_in,
            bytes: Vec::new(),
            entries: Vec::new(),
            levels: Vec::new(),
        }
    }

    pub fn push(&mut self, key: &[u8], record: &[u8]) -> io::Result<()> {
        let held = self.bytes.len() + self.entries.len() * size_of::<Entry>();
        if held + key.len() + record.len() + size_of::<Entry>() > self.run_bytes && !self.entries.is_empty() {
            self.spill()?;
        }
        self.entries.push(Entry {
            prefix: prefix(key),
            at: self.bytes.len(),
            key_bytes: key.len() as u32,
            record_bytes: record.len() as u32,
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(record);
        Ok(())
    }

    /// Gives every record with its key, in the order of keys; those of the same key in the order they came.
    pub fn finish(
        mut self,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), CutError>,
    ) -> Result<(), CutError> {
        if self.levels.is_empty() {
            self.sort();
            let Sorter { bytes, entries, .. } = self;
            return entries
                .iter()
                .try_for_each(|entry| each(entry.key(&bytes), entry.record(&bytes)));
        }
        self.spill().map_err(CutError::Io)?;
        (self.bytes, self.entries) = Default::default();
        // What was merged most often came first.
        let mut runs: Vec<File> = self.levels.into_iter().rev().flatten().collect();
        while runs.len() > self.fan_in {
            let rest = runs.split_off(self.fan_in);
            let first = merged(&self.spill_dir, runs).map_err(CutError::Io)?;
            runs = [first].into_iter().chain(rest).collect();
        }
        merge(runs, each)
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        // Places ascend with time, so equal keys keep their order.
        self.entries.par_sort_unstable_by(|one, other| {
            one.prefix
                .cmp(&other.prefix)
                .then_with(|| one.key(bytes).cmp(other.key(bytes)))
                .then_with(|| one.at.cmp(&other.at))
        });
    }

    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let mut run = RunWriter::new(&self.spill_dir)?;
        for entry in &self.entries {
            run.push(entry.key(&self.bytes), entry.record(&self.bytes))?;
        }
        self.bytes.clear();
        self.entries.clear();
        let mut run = run.finish()?;
        for level in 0.. {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            self.levels[level].push(run);
            if self.levels[level].len() < self.fan_in {
                break;
            }
            run = merged(&self.spill_dir, std::mem::take(&mut self.levels[level]))?;
        }
        Ok(())
    }
}

impl Entry {
    fn key<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.at..][..self.key_bytes as usize]
    }

    fn record<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.at + self.key_bytes as usize..][..self.record_bytes as usize]
    }
}

fn prefix(key: &[u8]) -> u64 {
    let mut first = [0; 8];
    let len = key.len().min(8);
    first[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(first)
}

/// A run without a name: it is gone with its handle, or with the process.
struct RunWriter(BufWriter<File>);

impl RunWriter {
    fn new(spill_dir: &Path) -> io::Result<Self> {
        let file = tempfile::tempfile_in(spill_dir)?;
        Ok(RunWriter(BufWriter::with_capacity(READ_BYTES, file)))
    }

    fn push(&mut self, key: &[u8], record: &[u8]) -> io::Result<()> {
        self.0.write_all(&(key.len() as u32).to_le_bytes())?;
        self.0.write_all(&(record.len() as u32).to_le_bytes())?;
        self.0.write_all(key)?;
        self.0.write_all(record)
    }

    fn finish(self) -> io::Result<File> {
        let mut file = self.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

/// A run that is being read: the next record's key is here, the record itself still in the file.
struct Head {
    key: Vec<u8>,
    record_bytes: usize,
    /// The run's place among the others.
    order: usize,
    run: BufReader<File>,
}

impl Head {
    fn next(&mut self) -> io::Result<bool> {
        if self.run.fill_buf()?.is_empty() {
            return Ok(false);
        }
        let mut lens = [0; 8];
        self.run.read_exact(&mut lens)?;
        let [key, record] =
            [0, 4].map(|at| u32::from_le_bytes([lens[at], lens[at + 1], lens[at + 2], lens[at + 3]]));
        self.key.resize(key as usize, 0);
        self.record_bytes = record as usize;
        self.run.read_exact(&mut self.key)?;
        Ok(true)
    }
}

impl Ord for Head {
    /// The greatest is the one to be read first.
    fn cmp(&self, other: &Self) -> Ordering {
        (&other.key, other.order).cmp(&(&self.key, self.order))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

fn merge(
    runs: Vec<File>,
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), CutError>,
) -> Result<(), CutError> {
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for (order, run) in runs.into_iter().enumerate() {
        let mut head = Head {
            key: Vec::new(),
            record_bytes: 0,
            order,
            run: BufReader::with_capacity(READ_BYTES, run),
        };
        if head.next().map_err(CutError::Io)? {
            heads.push(head);
        }
    }
    let mut record = Vec::new();
    while let Some(mut head) = heads.peek_mut() {
        record.resize(head.record_bytes, 0);
        head.run.read_exact(&mut record).map_err(CutError::Io)?;
        each(&head.key, &record)?;
        if !head.next().map_err(CutError::Io)? {
            PeekMut::pop(head);
        }
    }
    Ok(())
}

fn merged(spill_dir: &Path, runs: Vec<File>) -> io::Result<File> {
    let mut all = RunWriter::new(spill_dir)?;
    let merged = merge(runs, |key, record| all.push(key, record).map_err(CutError::Io));
    match merged {
        Ok(()) => all.finish(),
        Err(CutError::Io(error)) => Err(error),
        Err(other) => Err(io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn as_a_stable_sort_would(
            keys in prop::collection::vec("[ab\\x00]{0,9}", 0..200),
            run_bytes in 64usize..2_000,
            fan_in in 2usize..5,
        ) {
            let spill = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::with_sizes(spill.path(), run_bytes, fan_in);
            let mut expected: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            for (number, key) in keys.iter().enumerate() {
                let record = format!("record {number}").into_bytes();
                sorter.push(key.as_bytes(), &record).unwrap();
                expected.push((key.as_bytes().to_vec(), record));
            }
            expected.sort_by(|one, other| one.0.cmp(&other.0));
            let mut sorted = Vec::new();
            sorter.finish(|key, record| {
                sorted.push((key.to_vec(), record.to_vec()));
                Ok(())
            }).unwrap();
            prop_assert_eq!(sorted, expected);
        }
    }
}
