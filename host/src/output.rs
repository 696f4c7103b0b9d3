//! The files that a job's run writes.

use std::collections::BTreeMap;

use bytes::Bytes;
use nearfield_store::written;

use crate::data::error::{Answer, DataError};

/// Bytes of files and their paths that one run may write: they are held until it has succeeded.
const MAX_BYTES: usize = 64 << 20;
/// Files that one run may write.
const MAX_FILES: usize = 100_000;

/// The files of one run.
#[derive(Default)]
pub(crate) struct Output {
    granted: bool,
    files: BTreeMap<String, Bytes>,
    bytes: usize,
}

impl Output {
    pub fn new(granted: bool) -> Self {
        Output {
            granted,
            ..Output::default()
        }
    }

    /// Whether a file of this path may be written; `size` is that of path and content.
    pub fn admit(&self, path: &str, size: usize) -> Answer<()> {
        if !self.granted {
            return Err(DataError::Denied(
                "files can only be written by a job that is run with --into".to_owned(),
            ));
        }
        nearfield_store::path_index::check_path(path)
            .map_err(|reason| DataError::Invalid(format!("`{path}` cannot be written: {reason}")))?;
        if self.files.len() == MAX_FILES || self.bytes + size > MAX_BYTES {
            return Err(DataError::Invalid(format!(
                "one run writes at most {MAX_FILES} files, and {MAX_BYTES} bytes with their paths"
            )));
        }
        if self.files.contains_key(path) {
            return Err(DataError::Invalid(format!("`{path}` was written before")));
        }
        Ok(())
    }

    pub fn keep(&mut self, path: String, content: Bytes) {
        self.bytes += path.len() + content.len();
        self.files.insert(path, content);
    }

    /// How many files there are, and their bytes, paths included.
    pub fn size(&self) -> (u64, u64) {
        (self.files.len() as u64, self.bytes as u64)
    }

    /// All files in path order, as one blob. `None` if there are none.
    pub fn encode(&self) -> Option<Bytes> {
        if self.files.is_empty() {
            return None;
        }
        Some(written::encode(
            self.files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])),
        ))
    }
}
