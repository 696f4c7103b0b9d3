//! The path index of a folder: child 1 of its dataset. It is searched where it lies, mapped or not.
//!
//! Format, version 1, all integers little-endian:
//! - A header of 24 bytes: `NFPI`, the version (u32), the number of entries (u64), the position of the block
//!   table (u64).
//! - The entries, in strictly rising byte order of their keys. An entry's key is its path; an empty folder's has
//!   a `/` behind it, as in a tar archive. An entry is: how many bytes its key shares with the key before it, how
//!   many follow, those bytes, a kind byte, and then for a file (kind 0) or an executable file (kind 1) its shard,
//!   offset and length, for a symlink (kind 2) the target's length and bytes, for an empty folder (kind 3) nothing.
//!   Numbers in entries are LEB128.
//! - The block table, to the end: the position (u64) of every 16th entry. Such an entry shares nothing, so a
//!   search bisects the table and then reads 16 entries at most.

mod build;
mod follow;
mod read;
#[cfg(test)]
mod tests;

pub use build::PathIndexBuilder;
pub use follow::{MAX_LINKS, NotFollowed};
pub use read::{Entries, PathIndex};

/// Longest path and longest symlink target, in bytes: Linux takes no longer ones.
pub const PATH_BYTES: usize = 4096;

const MAGIC: [u8; 4] = *b"NFPI";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
/// Entries per block: more make the index smaller and the search longer.
const BLOCK_ENTRIES: u64 = 16;

const FILE: u8 = 0;
const EXECUTABLE: u8 = 1;
const SYMLINK: u8 = 2;
const EMPTY_DIR: u8 = 3;

/// One path of a folder and what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub kind: EntryKind,
}

impl Entry {
    /// What entries are sorted by: the path, with a `/` behind that of an empty folder.
    pub fn key(&self) -> String {
        let slash = if self.kind == EntryKind::EmptyDir { "/" } else { "" };
        format!("{}{slash}", self.path)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File {
        /// The number of the shard that its content begins in.
        shard: u32,
        /// Where in that shard, in bytes. The content may go on at the start of the next shard.
        offset: u64,
        len: u64,
        executable: bool,
    },
    /// The target is as it was: it may be absolute, lead out of the folder or nowhere.
    Symlink {
        target: String,
    },
    EmptyDir,
}

/// Why bytes are not a path index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathIndexError {
    #[error("the path index is of version {0}; this build reads version {VERSION}: upgrade nearfield")]
    Version(u32),
    #[error("the path index is malformed: {0}")]
    Malformed(&'static str),
}

/// Why `path` may not stand in a folder, if so. What passes is relative and stays inside it.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if path.len() > PATH_BYTES {
        return Err("is longer than 4096 bytes");
    }
    if path.contains('\0') {
        return Err("contains a NUL");
    }
    if path.starts_with('/') {
        return Err("is absolute");
    }
    for component in path.split('/') {
        match component {
            "" => return Err("has an empty component"),
            "." | ".." => return Err("has a `.` or `..` component"),
            _ => {}
        }
    }
    Ok(())
}
