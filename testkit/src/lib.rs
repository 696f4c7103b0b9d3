//! Starts nodes and drives them as a user would: by their command line and their HTTP. The behaviour tests, the soaks, the
//! benchmarks and the demo all stand on this.
//!
//! A [`Start`] says how a node starts, a [`Node`] is one that runs. Everything fails with an error; the tests' own harness
//! makes panics of that.

pub mod cleanup;
mod http;
mod node;
mod programs;
mod start;

use std::io::Read;

pub use http::{Answer, Patience, until_ready};
pub use node::Node;
pub use programs::{memory_of, output, root, tail};
pub use start::{Log, Place, Start};

/// A stream of bytes without structure: nothing in it repeats or compresses. The same for the same seed.
pub fn noise(seed: u64) -> impl Read {
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof()
}

/// The first bytes of [`noise`].
pub fn noise_bytes(seed: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    noise(seed).read_exact(&mut bytes).expect("noise has no end");
    bytes
}
