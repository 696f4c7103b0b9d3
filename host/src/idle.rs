//! Instances that lie idle between the calls of functions that reuse them: bounded for the host as a whole, by places, memory
//! and age. The one that has lain longest leaves first.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

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
pub(crate) struct Idle<T = Instance> {
    /// Pools that may hold something.
    pools: Mutex<Vec<Weak<InstancePool<T>>>>,
    held: Mutex<IdleUsage>,
}

impl<T> Default for Idle<T> {
    fn default() -> Self {
        Idle {
            pools: Mutex::default(),
            held: Mutex::default(),
        }
    }
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
pub(crate) struct InstancePool<T = Instance> {
    idle: Arc<Idle<T>>,
    /// Places that one of its instances takes.
    places: u32,
    /// The last one to be given back is taken first: it is the warmest. The lock is held for one push or pop.
    resting: Mutex<VecDeque<Resting<T>>>,
}

struct Resting<T> {
    instance: T,
    bytes: u64,
    since: Instant,
}

impl<T> Idle<T> {
    /// A pool of instances that take `places` each.
    pub fn pool(self: &Arc<Self>, places: u32) -> Arc<InstancePool<T>> {
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
    fn longest(&self, at_least: Option<Duration>) -> Option<Arc<InstancePool<T>>> {
        let pools: Vec<_> = self.pools.lock().iter().filter_map(Weak::upgrade).collect();
        let since = |pool: &Arc<InstancePool<T>>| Some(pool.resting.lock().front()?.since);
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

impl<T> InstancePool<T> {
    /// Whether a call would find one. Another may take it first.
    pub fn has_idle(&self) -> bool {
        !self.resting.lock().is_empty()
    }

    pub fn take(&self) -> Option<T> {
        let rested = self.resting.lock().pop_back()?;
        Some(self.leaves(rested))
    }

    /// Keeps an instance of so many bytes, unless there is no room for it.
    pub fn give_back(&self, instance: T, bytes: u64) {
        if self.resting.lock().len() as u32 * self.places >= IDLE_PLACES_PER_VERSION {
            return;
        }
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

    fn leaves(&self, rested: Resting<T>) -> T {
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

impl<T> Drop for InstancePool<T> {
    fn drop(&mut self) {
        while let Some(rested) = self.resting.lock().pop_front() {
            self.leaves(rested);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stands for an instance: its strong count says whether it still lies there.
    fn kept(pool: &InstancePool<Arc<()>>, bytes: u64) -> Weak<()> {
        let instance = Arc::new(());
        let kept = Arc::downgrade(&instance);
        pool.give_back(instance, bytes);
        kept
    }

    fn lies(instance: &Weak<()>) -> bool {
        instance.strong_count() > 0
    }

    #[tokio::test(start_paused = true)]
    async fn what_lay_too_long_leaves() {
        let idle = Arc::new(Idle::default());
        tokio::spawn(Idle::sweep(Arc::downgrade(&idle)));
        let pool = idle.pool(1);
        let first = kept(&pool, 1 << 20);
        tokio::time::sleep(IDLE_TIME / 2).await;
        let second = kept(&pool, 1 << 20);
        tokio::time::sleep(IDLE_TIME / 2 + SWEEP).await;
        assert!(!lies(&first) && lies(&second));
        // One that is used in between begins anew.
        let used = pool.take().unwrap();
        pool.give_back(used, 1 << 20);
        tokio::time::sleep(IDLE_TIME / 2 + SWEEP).await;
        assert!(lies(&second));
        tokio::time::sleep(IDLE_TIME).await;
        assert!(!lies(&second) && !pool.has_idle());
        assert_eq!(*idle.held.lock(), IdleUsage::default());
    }

    #[test]
    fn memory_of_all_is_bounded_and_the_longest_idle_leaves_first() {
        let idle = Arc::new(Idle::default());
        let pools: Vec<_> = (0..4).map(|_| idle.pool(1)).collect();
        let quarter = IDLE_BYTES / 4;
        let kept_by: Vec<_> = pools.iter().map(|pool| kept(pool, quarter)).collect();
        assert!(kept_by.iter().all(lies));
        let fifth = kept(&pools[3], quarter);
        assert!(!lies(&kept_by[0]) && kept_by[1..].iter().all(lies) && lies(&fifth));
        // Alone too much: it is not kept, and nothing leaves for it.
        let huge = kept(&pools[0], IDLE_BYTES + 1);
        assert!(!lies(&huge) && kept_by[1..].iter().all(lies));
        let whole = kept(&pools[0], IDLE_BYTES);
        assert!(lies(&whole) && !lies(&fifth));
        drop(pools);
        assert!(!lies(&whole));
        assert_eq!(*idle.held.lock(), IdleUsage::default());
    }

    #[test]
    fn places_are_bounded_by_version_and_together() {
        let idle = Arc::new(Idle::default());
        let pools: Vec<_> = (0..5).map(|_| idle.pool(1)).collect();
        let all: Vec<Vec<_>> = pools
            .iter()
            .map(|pool| (0..IDLE_PLACES).map(|_| kept(pool, 0)).collect())
            .collect();
        let lie = |pool: &Vec<Weak<()>>| pool.iter().filter(|instance| lies(instance)).count() as u32;
        assert_eq!(lie(&all[4]), IDLE_PLACES_PER_VERSION);
        assert_eq!(all.iter().map(lie).sum::<u32>(), IDLE_PLACES);
        assert_eq!(lie(&all[0]), 0, "its instances lay the longest");
        // A component of several modules takes as many places.
        let large = idle.pool(IDLE_PLACES_PER_VERSION / 2);
        let three: Vec<_> = (0..3).map(|_| kept(&large, 0)).collect();
        assert_eq!(lie(&three), 2);
    }
}
