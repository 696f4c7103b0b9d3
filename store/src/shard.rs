//! A shard's bytes, wherever they are.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use nearfield_protocol::Digest;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::blobs::{Blob, Store};
use crate::error::StoreError;
use crate::in_place::InPlaceShard;

/// What a [`ShardReader`] reads at once.
const READ_BYTES: u64 = 1 << 20;

/// One shard, open for reading. Cheap to clone.
#[derive(Clone)]
pub enum Shard {
    /// In the store's own files: verified once, then mapped.
    Stored(Arc<Blob>),
    /// In a file that belongs to somebody else: checked at each read.
    InPlace(Arc<InPlaceShard>),
}

impl Shard {
    pub fn digest(&self) -> Digest {
        match self {
            Shard::Stored(blob) => blob.digest(),
            Shard::InPlace(shard) => shard.digest(),
        }
    }

    pub fn size_bytes(&self) -> u64 {
        match self {
            Shard::Stored(blob) => blob.len() as u64,
            Shard::InPlace(shard) => shard.size_bytes(),
        }
    }

    /// The bytes `range`, which must lie within. Of a stored shard it copies nothing and cannot fail.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        match self {
            Shard::Stored(blob) => Ok(blob.slice(range.start as usize..range.end as usize)),
            Shard::InPlace(shard) => shard.read(range),
        }
    }
}

impl Shard {
    /// A file with the bytes `range`, which must lie within, and where in it they begin, for another process to read and
    /// not to write: the store's own, or of a shard in place a checked copy in memory.
    pub fn descriptor(&self, range: Range<u64>) -> Result<(File, u64), StoreError> {
        if let Shard::Stored(blob) = self
            && let Some(file) = blob.file()?
        {
            return Ok((file, range.start));
        }
        let mut copy = File::from(
            memfd_create("nearfield-shard", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
                .map_err(io::Error::from)?,
        );
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + READ_BYTES);
            copy.write_all(&self.read(at..end)?)?;
            at = end;
        }
        let sealed = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&copy, sealed).map_err(io::Error::from)?;
        Ok((copy, 0))
    }
}

/// Reads a shard from its start, a MiB at a time.
pub struct ShardReader<'a> {
    shard: &'a Shard,
    at: u64,
    piece: Bytes,
}

impl Shard {
    pub fn reader(&self) -> ShardReader<'_> {
        ShardReader {
            shard: self,
            at: 0,
            piece: Bytes::new(),
        }
    }
}

impl Read for ShardReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            let end = self.shard.size_bytes().min(self.at + READ_BYTES);
            self.piece = self.shard.read(self.at..end).map_err(io::Error::other)?;
            self.at = end;
        }
        let taken = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

impl Store {
    /// Opens a shard that is here: its stored copy if there is one, else where it lies.
    pub async fn local_shard(&self, digest: &Digest) -> Result<Shard, StoreError> {
        match self.stored(digest).await {
            Ok(blob) => Ok(Shard::Stored(blob)),
            Err(stored @ (StoreError::Missing(_) | StoreError::Corrupt(_))) => {
                match self.in_place_shard(digest).await? {
                    Some(shard) => Ok(Shard::InPlace(shard)),
                    None => Err(stored),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The shard if it is open already: never waits.
    pub fn opened(&self, digest: &Digest) -> Option<Shard> {
        let stored = self.mapped(digest).map(Shard::Stored);
        stored.or_else(|| self.in_place().opened(digest).map(Shard::InPlace))
    }
}
