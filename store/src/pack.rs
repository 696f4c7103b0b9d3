//! Packs: the shards of a folder with the split `files`. A pack is a plain tar archive of whole files.
//!
//! Where a pack ends depends on the entry before the end, so that a new or changed file changes the pack it
//! is in and leaves the others alone.

use std::io::{self, Read, Write};
use std::path::Path;

use blake3::Hasher;
use tar::{EntryType, Header};

use crate::cut::CutError;
use crate::path_index::{EntryKind, PathIndex};
use crate::spool::{ShardData, Spool};

const BLOCK_BYTES: u64 = 512;
/// Two zero blocks end an archive.
pub(crate) static END: [u8; 1024] = [0; 1024];
/// What an entry is taken to cost besides its content: header and padding, about.
const ENTRY_BYTES: u64 = 1024;

/// Read of a shard at once.
const READ_BYTES: u64 = 1 << 20;

/// Streams a folder back as one tar archive in path order, with normalised headers. `read` gives a shard's bytes from an
/// offset on, at most as many as asked for, none only after its end. When this fails, `out` holds an archive without an
/// end.
pub fn write_folder_tar<B: AsRef<[u8]>, S: AsRef<[u8]>>(
    index: &PathIndex<B>,
    read: &mut dyn FnMut(u32, u64, u64) -> io::Result<S>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut entries = 0;
    for entry in index.iter() {
        entries += 1;
        out.write_all(&tar_header(&entry.path, &entry.kind))?;
        let EntryKind::File {
            mut shard,
            mut offset,
            len,
            ..
        } = entry.kind
        else {
            continue;
        };
        let (mut left, mut begun) = (len, false);
        while left > 0 {
            let bytes = read(shard, offset, left.min(READ_BYTES))?;
            let bytes = bytes.as_ref();
            if bytes.is_empty() && !begun {
                return Err(malformed(format!(
                    "`{}` is said to go on where shard {shard} ends",
                    entry.path
                )));
            }
            out.write_all(bytes)?;
            (left, offset) = (left - bytes.len() as u64, offset + bytes.len() as u64);
            begun = !bytes.is_empty();
            if !begun {
                shard = shard
                    .checked_add(1)
                    .ok_or_else(|| malformed("shard numbers overflow".into()))?;
                offset = 0;
            }
        }
        out.write_all(padding(len))?;
    }
    if entries != index.len() {
        return Err(malformed(format!(
            "entry {entries} of the path index is malformed"
        )));
    }
    out.write_all(&END)
}

/// Writes packs one after another.
pub(crate) struct Packer {
    shard_size_bytes: u64,
    spool: Spool,
}

impl Packer {
    pub(crate) fn new(shard_size_bytes: u32, spill_dir: &Path) -> Self {
        Packer {
            shard_size_bytes: u64::from(shard_size_bytes),
            spool: Spool::new(spill_dir),
        }
    }

    /// Adds an entry to the pack. For a file it fills in the offset, and `content` is read to its end. Gives
    /// the pack if it ends here.
    pub(crate) fn append(
        &mut self,
        path: &str,
        kind: &mut EntryKind,
        content: &mut dyn Read,
    ) -> Result<Option<ShardData>, CutError> {
        self.spool
            .write_all(&tar_header(path, kind))
            .map_err(CutError::Io)?;
        let mut len = 0;
        let mut hasher = Hasher::new();
        match kind {
            EntryKind::File {
                offset,
                len: expected,
                ..
            } => {
                *offset = self.spool.len();
                let mut hashed = Hashed {
                    content,
                    hasher: &mut hasher,
                };
                len = crate::cut::copy(&mut hashed, path, &mut self.spool)?;
                if len != *expected {
                    return Err(CutError::Tar(format!("it ends within `{path}`")));
                }
                self.spool.write_all(padding(len)).map_err(CutError::Io)?;
            }
            EntryKind::Symlink { target } => {
                hasher.update(target.as_bytes());
            }
            EntryKind::EmptyDir => {}
        }
        let full = self.spool.len() >= 2 * self.shard_size_bytes;
        if full || self.ends_behind(path, &hasher.finalize(), len) {
            return self.finish();
        }
        Ok(None)
    }

    /// The last pack, unless the one before was.
    pub(crate) fn finish(&mut self) -> Result<Option<ShardData>, CutError> {
        if self.spool.len() == 0 {
            return Ok(None);
        }
        self.spool.write_all(&END).map_err(CutError::Io)?;
        Ok(Some(self.spool.take()))
    }

    /// Ends one in 2^k packs behind an entry of this size, with k such that packs have half of the shard
    /// size on average: the other half is room up to the hard end at twice the shard size.
    fn ends_behind(&self, path: &str, content: &blake3::Hash, len: u64) -> bool {
        let entries = (self.shard_size_bytes / 2) / len.saturating_add(ENTRY_BYTES);
        let zero_bits = entries.checked_ilog2().unwrap_or(0);
        let mut hasher = Hasher::new();
        hasher.update(path.as_bytes()).update(content.as_bytes());
        let bits = u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes"));
        bits.trailing_zeros() >= zero_bits
    }
}

/// Hashes what is read through it.
struct Hashed<'a> {
    content: &'a mut dyn Read,
    hasher: &'a mut Hasher,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// Everything of an entry that stands before its content. Paths and targets of over 100 bytes go into GNU long
/// name entries. The `tar` crate's builder would rewrite targets and ends an archive even after an error.
pub(crate) fn tar_header(path: &str, kind: &EntryKind) -> Vec<u8> {
    let (entry_type, mode, len, slash, target) = match kind {
        EntryKind::File {
            len,
            executable: true,
            ..
        } => (EntryType::Regular, 0o755, *len, "", ""),
        EntryKind::File {
            len,
            executable: false,
            ..
        } => (EntryType::Regular, 0o644, *len, "", ""),
        EntryKind::Symlink { target } => (EntryType::Symlink, 0o777, 0, "", target.as_str()),
        EntryKind::EmptyDir => (EntryType::Directory, 0o755, 0, "/", ""),
    };
    let path = format!("{path}{slash}");
    let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
    push_long_name(&mut bytes, EntryType::GNULongName, &path);
    push_long_name(&mut bytes, EntryType::GNULongLink, target);
    push_header(&mut bytes, entry_type, mode, len, &path, target);
    bytes
}

fn push_long_name(bytes: &mut Vec<u8>, entry_type: EntryType, name: &str) {
    if name.len() <= Header::new_gnu().as_old().name.len() {
        return;
    }
    let len = name.len() as u64 + 1;
    push_header(bytes, entry_type, 0o644, len, "././@LongLink", "");
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(padding(len));
}

fn push_header(bytes: &mut Vec<u8>, entry_type: EntryType, mode: u32, len: u64, path: &str, target: &str) {
    let mut header = Header::new_gnu();
    header.set_entry_type(entry_type);
    header.set_mode(mode);
    header.set_size(len);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    let names = header.as_old_mut();
    for (field, name) in [(&mut names.name, path), (&mut names.linkname, target)] {
        let fits = name.len().min(field.len());
        field[..fits].copy_from_slice(&name.as_bytes()[..fits]);
    }
    header.set_cksum();
    bytes.extend_from_slice(header.as_bytes());
}

/// What fills the last block of `len` bytes.
pub(crate) fn padding(len: u64) -> &'static [u8] {
    &END[..(len.wrapping_neg() % BLOCK_BYTES) as usize]
}

fn malformed(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path_index::PathIndexBuilder;

    #[test]
    fn an_index_that_lies_is_refused() {
        let file = |shard, offset, len| EntryKind::File {
            shard,
            offset,
            len,
            executable: false,
        };
        for kind in [
            file(0, 9, 1),
            file(0, 0, 9),
            file(0, u64::MAX, 1),
            file(u32::MAX, 0, 9),
        ] {
            let mut builder = PathIndexBuilder::new();
            builder.push("a", &kind);
            let index = PathIndex::parse(builder.build()).unwrap();
            let mut shards = |shard, offset: u64, most: u64| match shard {
                0 | u32::MAX => {
                    Ok(&b"1234"[offset.min(4) as usize..offset.saturating_add(most).min(4) as usize])
                }
                _ => Err(io::ErrorKind::NotFound.into()),
            };
            assert!(
                write_folder_tar(&index, &mut shards, &mut io::sink()).is_err(),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_index_with_a_malformed_entry_is_refused() {
        let mut builder = PathIndexBuilder::new();
        builder.push("a", &EntryKind::EmptyDir);
        builder.push("b", &EntryKind::EmptyDir);
        let mut bytes = builder.build();
        let kind = bytes.len() - 8 - 1;
        bytes[kind] = 9;
        let index = PathIndex::parse(bytes).unwrap();
        let mut none = |_, _, _| Ok::<Vec<u8>, _>(Vec::new());
        assert!(write_folder_tar(&index, &mut none, &mut io::sink()).is_err());
    }
}
