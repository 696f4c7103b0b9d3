//! What a guest pays for.
//!
//! A guest's own instructions burn fuel in the engine. What the host does for it is counted where it happens and paid when
//! the guest goes on: wasmtime calls [`look`] after each host call, which also ends a guest whose time is up and lets
//! others have the thread that a slow host call held. So whatever a guest calls: it pays, it ends, and it takes turns.

use std::sync::atomic::Ordering;
use std::time::Instant;

use nearfield_protocol::cost;
use wasmtime::{CallHook, StoreContextMut, Trap};

use crate::guest::Guest;
use crate::meter::{OutOfTime, YIELD_FUEL};
use crate::turns;

/// The least of it that a guest who pays shortly before its yield is left with: a yield costs about a microsecond.
const MIN_YIELD_FUEL: u64 = YIELD_FUEL / 10;
/// Host calls after which what the host holds for the guest is counted: each makes one handle at most, of 128 KiB.
const COUNTED_CALLS: u32 = 64;

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
    turns::share_thread(now);
    Ok(())
}
