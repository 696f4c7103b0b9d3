//! `nearfield:data/output` for guests: files that a job's run writes.

use std::collections::BTreeMap;

use bytes::Bytes;
use nearfield_protocol::cost;
use nearfield_store::written;
use wasmtime::component::Linker;

use crate::data::{Answer, Context, DataError, charge};
use crate::guest::Guest;

const INTERFACE: &str = "nearfield:data/output@0.1.0";

/// Bytes of files that one run may write: they are held until it has succeeded.
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

    fn write(&mut self, path: String, bytes: Bytes) -> Answer<()> {
        if !self.granted {
            return Err(DataError::Denied(
                "files can only be written by a job that is run with --into".to_owned(),
            ));
        }
        nearfield_store::path_index::check_path(&path)
            .map_err(|reason| DataError::Invalid(format!("`{path}` cannot be written: {reason}")))?;
        if self.files.len() == MAX_FILES || self.bytes + bytes.len() > MAX_BYTES {
            return Err(DataError::Invalid(format!(
                "one run writes at most {MAX_FILES} files and {MAX_BYTES} bytes"
            )));
        }
        if self.files.contains_key(&path) {
            return Err(DataError::Invalid(format!("`{path}` was written before")));
        }
        self.bytes += bytes.len();
        self.files.insert(path, bytes);
        Ok(())
    }

    /// How many files there are, and their bytes.
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
        |mut store: Context<'_>, (path, bytes): (String, Vec<u8>)| {
            charge(
                &mut store,
                cost::DATA_CALL + cost::bytes((path.len() + bytes.len()) as u64),
            )?;
            Ok((store.data_mut().output.write(path, bytes.into()),))
        },
    )
}
