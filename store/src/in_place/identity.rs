//! What tells one state of a file or an object from another, without reading it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;
use serde::{Deserialize, Serialize};

/// What tells one state of a source from another, without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Identity {
    File(FileIdentity),
    Object { size_bytes: u64, etag: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIdentity {
    pub device: u64,
    pub inode: u64,
    pub size_bytes: u64,
    pub modified_ns: i128,
    /// When the file or its name changed.
    pub changed_ns: i128,
}

impl Identity {
    pub fn size_bytes(&self) -> u64 {
        match self {
            Identity::File(file) => file.size_bytes,
            Identity::Object { size_bytes, .. } => *size_bytes,
        }
    }

    /// Device and inode of a file.
    pub fn inode(&self) -> Option<(u64, u64)> {
        match self {
            Identity::File(file) => Some((file.device, file.inode)),
            Identity::Object { .. } => None,
        }
    }

    /// Whether a source of this identity holds what it held when it was `before`.
    pub fn is_unchanged(&self, before: &Identity, same_name: bool) -> bool {
        match (self, before) {
            (Identity::File(now), Identity::File(before)) => now.is_unchanged(before, same_name),
            (now, before) => now == before,
        }
    }
}

impl FileIdentity {
    pub fn of(stat: &Stat) -> Self {
        FileIdentity {
            device: stat.st_dev,
            inode: stat.st_ino,
            size_bytes: stat.st_size as u64,
            modified_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            changed_ns: i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec),
        }
    }

    /// Known again by its time only if it has not changed in the last moments: it may change again without its time telling.
    pub fn settled(self, after: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        match self.modified_ns + after.as_nanos() as i128 <= now.as_nanos() as i128 {
            true => self,
            false => FileIdentity {
                modified_ns: 0,
                ..self
            },
        }
    }

    /// A new name changes the time of the change, so under a new name that is not looked at.
    fn is_unchanged(&self, before: &FileIdentity, same_name: bool) -> bool {
        let as_before = FileIdentity {
            changed_ns: if same_name {
                before.changed_ns
            } else {
                self.changed_ns
            },
            ..*before
        };
        *self == as_before
    }
}
