use std::io::{self, BufRead, Read, Seek, SeekFrom};

use super::{Dataset, Location, Shard, target};
use crate::Lines;

/// A file of a dataset, readable from any place, over as many shards as it spans.
pub struct File {
    pub(super) dataset: Dataset,
    pub(super) location: Location,
    pub(super) position: u64,
    /// Where each of the file's segments ends, as far as their shards' sizes are known.
    pub(super) ends: Vec<u64>,
    pub(super) shard: Shard,
    /// Which segment `shard` is.
    pub(super) segment: usize,
}

impl File {
    /// Bytes.
    pub fn len(&self) -> u64 {
        self.location.length
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rest as lines without their ends.
    pub fn lines(self) -> Lines<Self> {
        Lines::new(self)
    }

    /// Opens the shard that holds `position`, and says where its segment ends.
    fn enter(&mut self, position: u64) -> io::Result<u64> {
        let mut segment = self.ends.partition_point(|&end| end <= position);
        while segment == self.ends.len() {
            self.open(segment)?;
            let start = self.ends.last().copied().unwrap_or_default();
            self.ends
                .push(start + self.shard.size().saturating_sub(self.offset(segment)));
            segment = self.ends.partition_point(|&end| end <= position);
        }
        self.open(segment)?;
        let start = segment.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.shard
            .seek(SeekFrom::Start(self.offset(segment) + position - start))?;
        Ok(self.ends[segment].min(self.location.length))
    }

    fn open(&mut self, segment: usize) -> io::Result<()> {
        if segment != self.segment {
            self.shard = self.dataset.shard(self.location.shard + segment as u32)?;
            self.segment = segment;
        }
        Ok(())
    }

    /// Where a segment starts in its shard.
    fn offset(&self, segment: usize) -> u64 {
        if segment == 0 { self.location.offset } else { 0 }
    }
}

impl BufRead for File {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position >= self.location.length {
            return Ok(&[]);
        }
        let end = self.enter(self.position)?;
        let bytes = self.shard.fill_buf()?;
        let rest = usize::try_from(end - self.position).unwrap_or(usize::MAX);
        Ok(&bytes[..bytes.len().min(rest)])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount as u64;
    }
}

impl Read for File {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl Seek for File {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = target(to, self.position, self.location.length)?;
        Ok(self.position)
    }
}
