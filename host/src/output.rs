//! `nearfield:data/output` for guests: files that a job's run writes.

use std::collections::BTreeMap;

use bytes::Bytes;
use nearfield_protocol::cost;
use nearfield_store::written;
use wasmtime::component::{Linker, WasmList};

use crate::data::{Answer, Context, DataError};
use crate::guest::Guest;
use crate::meter::charge;

const INTERFACE: &str = "nearfield:data/output@0.1.0";

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
    fn admit(&self, path: &str, size: usize) -> Answer<()> {
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

    fn keep(&mut self, path: String, content: Bytes) {
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

/// Adds the interface to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.instance(INTERFACE)?.func_wrap(
        "write",
        |mut store: Context<'_>, (path, bytes): (String, WasmList<u8>)| {
            let size = path.len() + bytes.len();
            charge(&mut store, cost::DATA_CALL + cost::bytes(size as u64))?;
            // Looked at before anything is copied.
            if let Err(error) = store.data().output.admit(&path, size) {
                return Ok((Err(error),));
            }
            let content = Bytes::copy_from_slice(bytes.as_le_slice(&store));
            store.data_mut().output.keep(path, content);
            Ok((Ok(()),))
        },
    )
}
