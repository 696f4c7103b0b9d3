//! What a guest pays for, and how long it may hold its thread.
//!
//! A guest's own instructions burn fuel in the engine. What the host does for it is counted where it happens and paid when
//! the guest goes on: wasmtime calls [`look`] after each host call, which also ends a guest whose time is up and lets
//! others have the thread that a slow host call held. So whatever a guest calls: it pays, it ends, and it takes turns.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use nearfield_protocol::cost;
use wasmtime::{CallHook, StoreContextMut, Trap};

use crate::guest::Guest;
use crate::invoke::Shared;

/// Fuel between two yields to the runtime: about 0.2 ms, so that a busy guest delays others no longer.
pub(crate) const YIELD_FUEL: u64 = 500_000;
/// The least of it that a guest who pays shortly before its yield is left with: a yield costs about a microsecond.
const MIN_YIELD_FUEL: u64 = YIELD_FUEL / 10;
/// How long a guest's turn may last before another thread takes over what else waits for this one. Fuel ends most turns
/// sooner; this ends those that host calls make long.
const TURN: Duration = Duration::from_millis(2);
/// Host calls after which what the host holds for the guest is counted: each makes one handle at most, of 128 KiB.
const COUNTED_CALLS: u32 = 64;

thread_local! {
    /// When the turn began that this thread is in.
    static TURN_BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// A guest's time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest's time is up")]
pub(crate) struct OutOfTime;

/// What the host did for a guest in one call or run, and what of it is paid.
pub(crate) struct Meter {
    deadline: Instant,
    wasi_calls: u64,
    /// Fuel for calls of our own interfaces.
    charged: u64,
    paid: u64,
    /// Fuel that is left when the guest has to yield.
    yields_at: u64,
    /// Host calls since what the host holds was counted.
    uncounted: u32,
    random_bytes: Arc<AtomicU64>,
    /// Where the bytes of the call's bodies are counted.
    bodies: Arc<Shared>,
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

impl Guest {
    /// Fuel that the call has cost so far, when `left` of `limit` is left: all but its bodies, which may still be on their way.
    pub fn fuel(&self, limit: u64, left: u64) -> u64 {
        limit.saturating_sub(left).saturating_sub(self.meter.paid) + self.due()
    }

    /// What host calls cost so far, beside the bytes of bodies. Counts of bytes are rounded once, so that it
    /// does not matter in which pieces they came.
    fn due(&self) -> u64 {
        let meter = &self.meter;
        meter.charged
            + meter.wasi_calls * cost::WASI_CALL
            + meter.random_bytes.load(Ordering::Relaxed) * cost::RANDOM_BYTE
            + cost::bytes(self.log.printed_bytes())
            + self.limiter.pages_grown * cost::PAGE_GROWN
            + u64::from(self.outgoing.sent()) * cost::OUTGOING_REQUEST
            + cost::bytes(self.outgoing.bytes())
    }
}

/// Takes `fuel` from the guest before the host works for it, or stops it.
pub(crate) fn charge(store: &mut StoreContextMut<'_, Guest>, fuel: u64) -> wasmtime::Result<()> {
    store.data_mut().meter.charged += fuel;
    pay(store)
}

fn pay(store: &mut StoreContextMut<'_, Guest>) -> wasmtime::Result<()> {
    let guest = store.data();
    let due = guest.due() + guest.meter.bodies.fuel();
    let more = due - guest.meter.paid;
    if more == 0 {
        return Ok(());
    }
    let Some(left) = store.get_fuel()?.checked_sub(more) else {
        return Err(Trap::OutOfFuel.into());
    };
    let meter = &mut store.data_mut().meter;
    meter.paid = due;
    // To set the fuel begins the interval to the next yield anew: who pays often would never yield.
    if left <= meter.yields_at {
        meter.yields_at = left.saturating_sub(YIELD_FUEL);
    }
    let interval = (left - meter.yields_at).max(MIN_YIELD_FUEL);
    store.fuel_async_yield_interval(Some(interval))?;
    store.set_fuel(left)
}

/// After each host call, before the guest goes on.
pub(crate) fn look(mut store: StoreContextMut<'_, Guest>, transition: CallHook) -> wasmtime::Result<()> {
    if !matches!(transition, CallHook::ReturningFromHost) {
        return Ok(());
    }
    pay(&mut store)?;
    let guest = store.data_mut();
    guest.meter.uncounted += 1;
    if guest.meter.uncounted == COUNTED_CALLS {
        guest.meter.uncounted = 0;
        guest.count_held()?;
    }
    let now = Instant::now();
    if now >= store.data().meter.deadline {
        return Err(OutOfTime.into());
    }
    if TURN_BEGAN.get().is_some_and(|began| now - began > TURN) {
        TURN_BEGAN.set(Some(now));
        // Not to wait for anything: the runtime gives the tasks that wait for this thread to another one.
        tokio::task::block_in_place(|| ());
    }
    Ok(())
}

/// Runs a guest in turns, until its time is up at the latest.
pub(crate) async fn in_turns<G: Future>(
    deadline: Instant,
    mut guest: Pin<&mut G>,
) -> Result<G::Output, OutOfTime> {
    let mut rest = pin!(tokio::time::sleep_until(deadline.into()));
    poll_fn(|cx| {
        let now = Instant::now();
        // A busy runtime looks at its timers late.
        if now >= deadline {
            return Poll::Ready(Err(OutOfTime));
        }
        TURN_BEGAN.set(Some(now));
        let polled = guest.as_mut().poll(cx);
        TURN_BEGAN.set(None);
        match polled {
            Poll::Ready(ended) => Poll::Ready(Ok(ended)),
            Poll::Pending => rest.as_mut().poll(cx).map(|()| Err(OutOfTime)),
        }
    })
    .await
}
