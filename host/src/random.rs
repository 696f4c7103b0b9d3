//! Random numbers for guests, counted.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nearfield_protocol::job::ResultKey;
use rand::Rng;
use rand_core::TryRng;

use crate::meter::Meter;

/// Random bytes a guest may ask for at once: WASI's host makes them one by one, 256 KiB in some milliseconds.
pub(crate) const MAX_RANDOM_BYTES: u64 = 256 << 10;

/// A generator that counts what it gives: a step is at least a byte, and a guest that asks for bytes gets one a step.
pub(crate) struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R> Counted<R> {
    pub fn new(inner: R, meter: &Meter) -> Self {
        Counted {
            inner,
            bytes: meter.random_bytes(),
        }
    }

    fn count(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl<R: TryRng<Error = Infallible>> TryRng for Counted<R> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.count(1);
        self.inner.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.count(1);
        self.inner.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.count(bytes.len() as u64);
        self.inner.try_fill_bytes(bytes)
    }
}

/// Numbers that nobody foretells, from the generator of the thread that asks.
pub(crate) struct Machine;

impl TryRng for Machine {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(rand::rng().next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(rand::rng().next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        rand::rng().fill_bytes(bytes);
        Ok(())
    }
}

/// Bytes of BLAKE3's output stream that are made at once.
const BLOCK: usize = 64;

/// BLAKE3's output stream as random numbers: the same on every processor and in every version.
pub(crate) struct Seeded {
    stream: blake3::OutputReader,
    block: [u8; BLOCK],
    used: usize,
}

impl Seeded {
    pub fn new(key: &ResultKey, purpose: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("nearfield 2026-11 randomness of a pure run");
        hasher.update(key.0.as_bytes());
        hasher.update(purpose.as_bytes());
        Seeded {
            stream: hasher.finalize_xof(),
            block: [0; BLOCK],
            used: BLOCK,
        }
    }

    /// The stream's next bytes.
    pub fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.used == BLOCK {
                self.stream.fill(&mut self.block);
                self.used = 0;
            }
            let taken = bytes.len().min(BLOCK - self.used);
            let (now, later) = bytes.split_at_mut(taken);
            now.copy_from_slice(&self.block[self.used..][..taken]);
            self.used += taken;
            bytes = later;
        }
    }
}

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_protocol::Digest;

    /// Results that are remembered depend on these numbers.
    #[test]
    fn numbers_are_the_streams_bytes_however_they_are_asked_for() {
        let key = ResultKey(Digest::of(b"key"));
        let mut whole = [0; 1_000];
        Seeded::new(&key, "secure").stream.fill(&mut whole);
        let mut pieces = Vec::new();
        let mut random = Seeded::new(&key, "secure");
        for size in (0..200).cycle() {
            if pieces.len() + size.max(12) > whole.len() {
                break;
            }
            pieces.extend(random.try_next_u32().unwrap().to_le_bytes());
            pieces.extend(random.try_next_u64().unwrap().to_le_bytes());
            let mut bytes = vec![0; size];
            random.try_fill_bytes(&mut bytes).unwrap();
            pieces.extend(bytes);
        }
        assert!(pieces.len() > 500);
        assert_eq!(pieces[..], whole[..pieces.len()]);
    }
}
