//! Bytes on their way to becoming a shard: in memory while they are few, in a temporary file after that.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::{NamedTempFile, TempPath};

/// What a shard may hold in memory: four times the largest shard size, so only the exceptional spills.
const MEMORY_BYTES: usize = 16 << 20;

/// The bytes of one shard, never empty.
#[derive(Debug)]
pub enum ShardData {
    Memory(Bytes),
    Spilled(SpooledFile),
}

impl ShardData {
    pub fn len(&self) -> u64 {
        match self {
            ShardData::Memory(bytes) => bytes.len() as u64,
            ShardData::Spilled(file) => file.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What of it is in memory: all or nothing.
    pub fn memory_bytes(&self) -> u64 {
        match self {
            ShardData::Memory(bytes) => bytes.len() as u64,
            ShardData::Spilled(_) => 0,
        }
    }
}

/// A temporary file with the bytes of one shard, deleted on drop. It is not synced.
#[derive(Debug)]
pub struct SpooledFile {
    path: TempPath,
    size_bytes: u64,
}

impl SpooledFile {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len(&self) -> u64 {
        self.size_bytes
    }

    pub fn is_empty(&self) -> bool {
        self.size_bytes == 0
    }
}

/// Collects one shard after another.
pub(crate) struct Spool {
    spill_dir: PathBuf,
    memory: Vec<u8>,
    /// Once there is one, it holds everything and `memory` is empty.
    file: Option<NamedTempFile>,
    size_bytes: u64,
}

impl Spool {
    pub(crate) fn new(spill_dir: &Path) -> Self {
        Spool {
            spill_dir: spill_dir.to_owned(),
            memory: Vec::new(),
            file: None,
            size_bytes: 0,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.size_bytes
    }

    /// Hands over what was written since the last time.
    pub(crate) fn take(&mut self) -> ShardData {
        let size_bytes = std::mem::take(&mut self.size_bytes);
        match self.file.take() {
            Some(file) => ShardData::Spilled(SpooledFile {
                path: file.into_temp_path(),
                size_bytes,
            }),
            None => ShardData::Memory(Bytes::from(std::mem::take(&mut self.memory))),
        }
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() && self.memory.len() + bytes.len() > MEMORY_BYTES {
            let mut file = NamedTempFile::new_in(&self.spill_dir)?;
            file.write_all(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        match &mut self.file {
            Some(file) => file.write_all(bytes)?,
            None => self.memory.extend_from_slice(bytes),
        }
        self.size_bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
