//! The cost table: what host calls add to the fuel that a guest's own instructions burn.
//!
//! All of it is deterministic: bytes and counts, never time. One unit is one WebAssembly operator.
//! The weights are estimates of what each costs beside a WebAssembly operator; they have not been
//! measured yet.

/// The version of the table; it is part of what a remembered result depends on.
pub const VERSION: u16 = 3;

/// Fuel per 4 bytes copied between host and guest by a host call (request and response bodies,
/// shard reads, what is printed). wasmtime charges 1 a byte for the guest's own `memory.copy`; a host copy is a
/// plain memcpy.
const BYTES_PER_UNIT: u64 = 4;

/// Fuel per 64 KiB page of linear memory grown beyond what the component starts with.
pub const PAGE_GROWN: u64 = 3_000;

/// Fuel per outgoing request, beside its bytes.
pub const OUTGOING_REQUEST: u64 = 100_000;

/// Fuel per call of a function of WASI, beside its bytes: about 0.1 ms for a thousand of them.
pub const WASI_CALL: u64 = 250;

/// Fuel per random byte: WASI's host takes one step of its generator for each.
pub const RANDOM_BYTE: u64 = 16;

/// Fuel per call of `nearfield:data`, beside its bytes: of what is named, and of what is given.
pub const DATA_CALL: u64 = 500;

/// Fuel per call of `nearfield:gpu`, and per step of a submission, beside its bytes. Time on the GPU is counted by itself.
pub const GPU_CALL: u64 = 2_000;

/// Fuel per buffer that a step of a submission names.
pub const GPU_BINDING: u64 = 200;

/// Fuel for copying `bytes` across the host's boundary.
pub const fn bytes(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_UNIT)
}
