//! Cuts sorted records into shards: where the content says, moved to where the key next changes.

use std::io::Write;

use bytes::Bytes;
use nearfield_protocol::Split;
use nearfield_protocol::limits::KEY_RECORDS_BYTES;
use nearfield_protocol::meta::KeyRange;

use super::index::KeyIndexBuilder;
use crate::cut::stream::Sizes;
use crate::cut::{CutError, CutOptions, CutShard, Emit};
use crate::spool::Spool;

/// A block of the index ends at the first key behind so many bytes.
pub(super) const BLOCK_BYTES: usize = 16 << 10;

pub(super) struct KeyedCutter<'a> {
    source: &'a str,
    header: Option<Bytes>,
    options: &'a CutOptions,
    sizes: Sizes,
    /// What is not yet in a shard; the first begins with the header.
    window: Vec<u8>,
    /// Where a key's first record begins in `window`, in order.
    marks: Vec<Mark>,
    /// The keys of `marks`, one after another.
    keys: Vec<u8>,
    /// The key of the last record.
    last_key: Vec<u8>,
    ranges: Vec<KeyRange>,
    index: KeyIndexBuilder,
}

#[derive(Clone, Copy)]
struct Mark {
    at: usize,
    /// Where its key ends in `keys`; it begins where the one before ends.
    key_end: usize,
    begins_shard: bool,
}

impl<'a> KeyedCutter<'a> {
    /// `begin` is what stands before the records: the header of a CSV file.
    pub fn new(source: &'a str, begin: Bytes, options: &'a CutOptions) -> Self {
        KeyedCutter {
            source,
            window: begin.to_vec(),
            header: Some(begin).filter(|_| options.split == Split::Csv),
            options,
            sizes: Sizes::new(options.shard_size_bytes),
            marks: Vec::new(),
            keys: Vec::new(),
            last_key: Vec::new(),
            ranges: Vec::new(),
            index: KeyIndexBuilder::default(),
        }
    }

    pub fn push(&mut self, key: &[u8], record: &[u8], emit: &mut Emit<'_>) -> Result<(), CutError> {
        let first = self.marks.is_empty();
        if first || key != self.last_key {
            self.keys.extend_from_slice(key);
            self.marks.push(Mark {
                at: self.window.len(),
                key_end: self.keys.len(),
                // A shard that begins with a copy of the header would be taken for a file's first.
                begins_shard: self.header.as_ref().is_none_or(|header| record != header),
            });
            self.last_key.clear();
            self.last_key.extend_from_slice(key);
            while self.window.len() >= self.sizes.max && self.cut(emit)? {}
        }
        let begin = self.marks.last().map_or(0, |mark| mark.at);
        if (self.window.len() - begin + record.len()) as u64 > KEY_RECORDS_BYTES {
            return Err(CutError::KeyTooCommon {
                name: self.source.to_owned(),
                key: String::from_utf8_lossy(key).into_owned(),
            });
        }
        self.window.extend_from_slice(record);
        Ok(())
    }

    /// Cuts what is left. Returns the shards' ranges and the index.
    pub fn finish(mut self, emit: &mut Emit<'_>) -> Result<(Vec<KeyRange>, Vec<u8>), CutError> {
        while self.window.len() > self.sizes.min && !self.marks.is_empty() && self.cut(emit)? {}
        if !self.window.is_empty() {
            self.emit(self.window.len(), self.marks.len(), emit)?;
        }
        Ok((self.ranges, self.index.build()))
    }

    /// Gives a shard away, if a key begins behind the place where the content says to cut.
    fn cut(&mut self, emit: &mut Emit<'_>) -> Result<bool, CutError> {
        let searched = self.window.len().min(self.sizes.max);
        let cut = self.sizes.cut(&self.window[..searched]);
        // The first mark is where the shard itself begins.
        let behind = self.marks.partition_point(|mark| mark.at < cut).max(1);
        let ends = self.marks[behind..].iter().position(|mark| mark.begins_shard);
        let Some(marks) = ends.map(|index| behind + index) else {
            return Ok(false);
        };
        self.emit(self.marks[marks].at, marks, emit)?;
        Ok(true)
    }

    /// Makes a shard of the window up to `end`, which has the first `marks` marks.
    fn emit(&mut self, end: usize, marks: usize, emit: &mut Emit<'_>) -> Result<(), CutError> {
        let shard = self.ranges.len() as u32;
        let (mut key_start, mut block_end) = (0, 0);
        let mut range: Option<KeyRange> = None;
        for mark in &self.marks[..marks] {
            let key = &self.keys[key_start..mark.key_end];
            if mark.at >= block_end {
                self.index.push(key, shard, mark.at as u64);
                block_end = mark.at + BLOCK_BYTES;
            }
            let range = range.get_or_insert_with(|| KeyRange {
                min: key.to_vec(),
                max: Vec::new(),
            });
            range.max.clear();
            range.max.extend_from_slice(key);
            key_start = mark.key_end;
        }
        // Without a record it is a header alone, in which no key is found.
        self.ranges.push(range.unwrap_or(KeyRange {
            min: Vec::new(),
            max: Vec::new(),
        }));
        let mut spool = Spool::new(&self.options.spill_dir);
        spool.write_all(&self.window[..end]).map_err(CutError::Io)?;
        let shard = CutShard {
            data: spool.take(),
            source: Some(self.source.to_owned()),
            header: self.header.clone(),
        };
        self.window.drain(..end);
        self.keys.drain(..key_start);
        self.marks.drain(..marks);
        for mark in &mut self.marks {
            mark.at -= end;
            mark.key_end -= key_start;
        }
        emit(shard).map_err(CutError::Emit)
    }
}
