//! How many of something each of many may have at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts by who has them: none has more than `most`.
pub struct Shares<K: Eq + Hash> {
    /// The lock is held for one count.
    counts: Mutex<HashMap<K, usize>>,
    most: usize,
}

/// One of somebody's share, until it is dropped.
pub struct Share<K: Eq + Hash> {
    shares: Arc<Shares<K>>,
    who: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Shares {
            counts: Mutex::default(),
            most,
        })
    }

    /// One more for `who`, unless they have as many as they may.
    pub fn enter(self: &Arc<Self>, who: K) -> Option<Share<K>> {
        let mut counts = self.counts.lock();
        let count = counts.entry(who.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share {
            shares: self.clone(),
            who,
        })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut counts = self.shares.counts.lock();
        if let Some(count) = counts.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_more_than_a_share() {
        let shares = Shares::new(5);
        let held: Vec<_> = (0..9).filter_map(|_| shares.enter("one")).collect();
        assert_eq!(held.len(), 5);
        assert!(shares.enter("another").is_some());
        drop(held);
        assert!(shares.enter("one").is_some());
        assert!(shares.counts.lock().is_empty());
    }
}
