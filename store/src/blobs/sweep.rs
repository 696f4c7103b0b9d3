//! What the sweep of evictable blobs leaves alone, and whether it still runs.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use iroh_blobs::Hash;
use iroh_blobs::api::TempTag;
use iroh_blobs::store::{GcConfig, ProtectCb, ProtectOutcome};
use nearfield_protocol::Digest;
use parking_lot::Mutex;

use crate::state::State;

/// What the sweep callback and the health check share.
pub(super) struct Sweeper {
    /// Digests of writers under way: sealed or not, they stay.
    held: Mutex<HashMap<Digest, usize>>,
    /// Tags of blobs that were sealed since the last sweep began. That sweep asked the state before it looked for tags: a blob
    /// that was imported and sealed between the two is in neither answer, unless its tag stays until the next sweep begins.
    sealed: Mutex<Vec<TempTag>>,
    /// Milliseconds from `started` to the last sweep's beginning.
    last_sweep_ms: AtomicU64,
    started: Instant,
}

impl Sweeper {
    pub(super) fn new() -> Self {
        Sweeper {
            held: Mutex::default(),
            sealed: Mutex::default(),
            last_sweep_ms: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// Keeps what was just sealed from a sweep that has begun.
    pub(super) fn keep(&self, tags: impl IntoIterator<Item = TempTag>) {
        self.sealed.lock().extend(tags);
    }

    fn protect(&self, state: &State, live: &mut HashSet<Hash>) -> ProtectOutcome {
        // The state knows all of them, and the sweep before this one has ended.
        let _sealed_before = std::mem::take(&mut *self.sealed.lock());
        let elapsed = self.started.elapsed().as_millis() as u64;
        self.last_sweep_ms.store(elapsed, Ordering::Relaxed);
        let held = || self.held.lock();
        match state.sweep(|digest| held().contains_key(digest)) {
            Ok(protected) => {
                let hash = |digest: &Digest| Hash::from_bytes(*digest.as_bytes());
                live.extend(protected.iter().map(hash));
                live.extend(held().keys().map(hash));
                ProtectOutcome::Continue
            }
            Err(error) => {
                tracing::error!(%error, "cannot tell which blobs to keep; nothing is swept");
                ProtectOutcome::Abort
            }
        }
    }

    /// Whether the sweep has stopped: its loop ends for good after an error of the underlying store,
    /// and nothing else would show that.
    pub(super) fn late(&self, interval: Duration) -> Option<String> {
        let last = Duration::from_millis(self.last_sweep_ms.load(Ordering::Relaxed));
        let late = self.started.elapsed().saturating_sub(last);
        // A sweep of many blobs takes time of its own, so allow several intervals.
        (late > interval * 10).then(|| {
            format!(
                "no sweep of evictable blobs for {} s: restart the node",
                late.as_secs()
            )
        })
    }
}

/// Keeps one digest from being swept.
pub(crate) struct SweepGuard {
    sweeper: Arc<Sweeper>,
    digest: Digest,
}

impl SweepGuard {
    pub(super) fn new(sweeper: &Arc<Sweeper>, digest: Digest) -> Self {
        *sweeper.held.lock().entry(digest).or_default() += 1;
        SweepGuard {
            sweeper: sweeper.clone(),
            digest,
        }
    }
}

impl Drop for SweepGuard {
    fn drop(&mut self) {
        let mut held = self.sweeper.held.lock();
        if let Some(count) = held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.digest);
            }
        }
    }
}

/// How the underlying store is to sweep. Its loop outlives the store for a while, so it keeps the
/// state's file open for nobody.
pub(super) fn config(interval: Duration, state: &Arc<State>, sweeper: &Arc<Sweeper>) -> GcConfig {
    GcConfig {
        interval,
        add_protected: Some(protect(Arc::downgrade(state), sweeper.clone())),
    }
}

/// The sweep's callback: names what must stay, and aborts the sweep when that cannot be known.
fn protect(state: Weak<State>, sweeper: Arc<Sweeper>) -> ProtectCb {
    Arc::new(move |live: &mut HashSet<Hash>| {
        let outcome = match state.upgrade() {
            Some(state) => sweeper.protect(&state, live),
            None => ProtectOutcome::Abort,
        };
        Box::pin(std::future::ready(outcome))
    })
}

#[cfg(test)]
impl super::Store {
    /// Waits until every sweep has ended that began before this call.
    pub(crate) async fn until_swept(&self) {
        let begun = || self.inner.sweeper.last_sweep_ms.load(Ordering::Relaxed);
        for _ in 0..2 {
            let before = begun();
            while begun() == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::blobs::{Store, StoreOptions};

    /// Sweeps that follow on each other at once, beside writers: what was sealed stays.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_sweep_takes_what_was_just_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            sweep_interval: Duration::ZERO,
            ..StoreOptions::default()
        };
        let store = Store::open(folder.path(), options).await.unwrap();
        let writers = (0..8_u32).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut sealed = Vec::new();
                for number in 0..200_u32 {
                    let bytes = [writer.to_le_bytes(), number.to_le_bytes()].concat();
                    sealed.push(store.add_sealed(Bytes::from(bytes)).await.unwrap());
                }
                sealed
            })
        });
        let mut sealed = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            sealed.extend(writer.await.unwrap());
        }
        store.until_swept().await;
        let lost = sealed
            .iter()
            .filter(|digest| !store.inner.data_file(**digest).exists());
        assert_eq!(lost.count(), 0, "of {}", sealed.len());
        store.shutdown().await;
    }
}
