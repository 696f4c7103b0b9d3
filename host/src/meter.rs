//! What the host did for a guest, and what of that is paid.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use wasmtime::Store;

use crate::engine::TICKS;
use crate::shared::Shared;

/// Fuel between two yields to the runtime: about 0.2 ms, so that a busy guest delays others no longer.
pub(crate) const YIELD_FUEL: u64 = 500_000;

/// A guest's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest's time is up")]
pub(crate) struct OutOfTime;

/// What the host did for a guest in one call or run, and what of it is paid.
pub(crate) struct Meter {
    pub deadline: Instant,
    pub wasi_calls: u64,
    /// Fuel for calls of our own interfaces.
    pub charged: u64,
    pub paid: u64,
    /// Fuel that is left when the guest has to yield.
    pub yields_at: u64,
    /// Host calls since what the host holds was counted.
    pub uncounted: u32,
    pub random_bytes: Arc<AtomicU64>,
    /// Where the bytes of the call's bodies are counted.
    pub bodies: Arc<Shared>,
}

impl Meter {
    pub fn new(deadline: Instant, fuel: u64, bodies: Arc<Shared>) -> Self {
        Meter {
            deadline,
            wasi_calls: 0,
            charged: 0,
            paid: 0,
            yields_at: fuel.saturating_sub(YIELD_FUEL),
            uncounted: 0,
            random_bytes: Arc::default(),
            bodies,
        }
    }

    /// Begins anew for the next call of a guest that is reused, which keeps its random numbers' generator.
    pub fn renew(&mut self, deadline: Instant, fuel: u64, bodies: Arc<Shared>) {
        let random_bytes = self.random_bytes.clone();
        random_bytes.store(0, Ordering::Relaxed);
        *self = Meter {
            random_bytes,
            ..Meter::new(deadline, fuel, bodies)
        };
    }

    pub fn wasi_called(&mut self) {
        self.wasi_calls += 1;
    }

    /// Where a generator counts what it gave.
    pub fn random_bytes(&self) -> Arc<AtomicU64> {
        self.random_bytes.clone()
    }
}

/// Gives the guest of a call its fuel, and says when it gives way to others.
pub(crate) fn begin<T: 'static>(store: &mut Store<T>, fuel: u64) -> wasmtime::Result<()> {
    store.fuel_async_yield_interval(Some(YIELD_FUEL))?;
    store.set_epoch_deadline(TICKS);
    store.set_fuel(fuel)
}
