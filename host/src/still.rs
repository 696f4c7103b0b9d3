//! WASI for the pure lane: clocks stand still, and randomness comes from the key of the result.

use std::time::Duration;

use nearfield_protocol::job::ResultKey;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};

use crate::logs::CallLog;
use crate::meter::Meter;
use crate::random::{Counted, MAX_RANDOM_BYTES, Seeded};

/// WASI without anything that differs between runs.
pub(crate) fn wasi(key: &ResultKey, log: CallLog, meter: &Meter) -> WasiCtx {
    let mut seed = [0; 16];
    Seeded::new(key, "seed").fill(&mut seed);
    WasiCtx::builder()
        .stdout(log.clone())
        .stderr(log)
        .wall_clock(StoppedClock)
        .monotonic_clock(StoppedClock)
        .secure_random(Counted::new(Seeded::new(key, "secure"), meter))
        .insecure_random(Counted::new(Seeded::new(key, "insecure"), meter))
        .insecure_random_seed(u128::from_le_bytes(seed))
        .max_random_size(MAX_RANDOM_BYTES)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

/// Always 1970-01-01T00:00:00Z, and no time since the start.
struct StoppedClock;

impl HostWallClock for StoppedClock {
    fn resolution(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StoppedClock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        0
    }
}
