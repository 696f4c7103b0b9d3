//! Instances that lie idle between the calls of functions that reuse them: bounded for the host as a whole, by places, memory
//! and age. The one that has lain longest leaves first.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::engine::IDLE_PLACES;
use crate::instances::Instance;

/// Of the idle places, those that one version of a function may take.
const IDLE_PLACES_PER_VERSION: u32 = IDLE_PLACES / 4;
/// Memory of all idle instances together.
const IDLE_BYTES: u64 = 1 << 30;
/// How long an instance may lie idle.
const IDLE_TIME: Duration = Duration::from_secs(60);
/// How often those that lay too long are looked for.
const SWEEP: Duration = Duration::from_secs(10);

/// All that lies idle on a host.
#[derive(Default)]
pub(crate) struct Idle {
    /// Pools that may hold something.
    pools: Mutex<Vec<Weak<InstancePool>>>,
    held: Mutex<IdleUsage>,
}

/// What idle instances hold.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct IdleUsage {
    places: u32,
    bytes: u64,
}

impl IdleUsage {
    fn fits(self, more: IdleUsage) -> bool {
        self.places + more.places <= IDLE_PLACES && self.bytes + more.bytes <= IDLE_BYTES
    }
}

/// Idle instances of one function's version.
pub(crate) struct InstancePool {
    idle: Arc<Idle>,
    /// Places that one of its instances takes.
    places: u32,
    /// The last one to be given back is taken first: it is the warmest. The lock is held for one push or pop.
    resting: Mutex<VecDeque<Resting>>,
}

struct Resting {
    instance: Instance,
    bytes: u64,
    since: Instant,
}

impl Idle {
    /// A pool of instances that take `places` each.
    pub fn pool(self: &Arc<Self>, places: u32) -> Arc<InstancePool> {
        let pool = Arc::new(InstancePool {
            idle: self.clone(),
            places,
            resting: Mutex::default(),
        });
        let mut pools = self.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// Drops what lay too long, now and then, for as long as the host is there.
    pub async fn sweep(this: Weak<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let Some(idle) = this.upgrade() else { return };
            while let Some(pool) = idle.longest(Some(IDLE_TIME)) {
                pool.drop_longest();
            }
        }
    }

    /// Takes room for `more`, from the longest idle if there is none.
    fn make_room(&self, more: IdleUsage) -> bool {
        if !IdleUsage::default().fits(more) {
            return false;
        }
        loop {
            {
                let mut held = self.held.lock();
                if held.fits(more) {
                    held.places += more.places;
                    held.bytes += more.bytes;
                    return true;
                }
            }
            if !self.drop_longest() {
                return false;
            }
        }
    }

    /// Drops the instance that lies idle the longest. Whether there was one.
    pub fn drop_longest(&self) -> bool {
        self.longest(None).map(|pool| pool.drop_longest()).is_some()
    }

    /// Whose instance lies idle the longest, if it does so for `at_least`.
    fn longest(&self, at_least: Option<Duration>) -> Option<Arc<InstancePool>> {
        let pools: Vec<_> = self.pools.lock().iter().filter_map(Weak::upgrade).collect();
        let since = |pool: &Arc<InstancePool>| Some(pool.resting.lock().front()?.since);
        let (since, pool) = pools
            .into_iter()
            .filter_map(|pool| Some((since(&pool)?, pool)))
            .min_by_key(|(since, _)| *since)?;
        match at_least {
            Some(at_least) if since.elapsed() < at_least => None,
            _ => Some(pool),
        }
    }

    fn let_go(&self, less: IdleUsage) {
        let mut held = self.held.lock();
        held.places -= less.places;
        held.bytes -= less.bytes;
    }
}

impl InstancePool {
    /// Whether a call would find one. Another may take it first.
    pub fn has_idle(&self) -> bool {
        !self.resting.lock().is_empty()
    }

    pub fn take(&self) -> Option<Instance> {
        let rested = self.resting.lock().pop_back()?;
        Some(self.leaves(rested))
    }

    /// Keeps an instance whose call ended well, unless it is used up.
    pub fn give_back(&self, mut instance: Instance) {
        if !instance.is_reusable() {
            return;
        }
        if self.resting.lock().len() as u32 * self.places >= IDLE_PLACES_PER_VERSION {
            return;
        }
        let bytes = instance.memory_bytes();
        if self.idle.make_room(self.held(bytes)) {
            self.resting.lock().push_back(Resting {
                instance,
                bytes,
                since: Instant::now(),
            });
        }
    }

    fn drop_longest(&self) {
        let rested = self.resting.lock().pop_front();
        // Unmaps memory: not under the lock, and before its place comes free.
        if let Some(Resting { instance, bytes, .. }) = rested {
            drop(instance);
            self.idle.let_go(self.held(bytes));
        }
    }

    fn leaves(&self, rested: Resting) -> Instance {
        self.idle.let_go(self.held(rested.bytes));
        rested.instance
    }

    fn held(&self, bytes: u64) -> IdleUsage {
        IdleUsage {
            places: self.places,
            bytes,
        }
    }
}

impl Drop for InstancePool {
    fn drop(&mut self) {
        while let Some(rested) = self.resting.lock().pop_front() {
            self.leaves(rested);
        }
    }
}
