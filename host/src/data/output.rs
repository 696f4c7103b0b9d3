//! `nearfield:data/output` for guests: files that a job's run writes.

use bytes::Bytes;
use nearfield_protocol::cost;
use wasmtime::component::{Linker, WasmList};

use super::Context;
use crate::guest::Guest;
use crate::pay::charge;

const INTERFACE: &str = "nearfield:data/output@0.1.0";

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
