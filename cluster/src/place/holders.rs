//! Which hosts hold a blob: the inverse of what each host reports. Plain data, no IO.
//!
//! Blobs are interned: an id is a place in a list of digests, found through a table of four bytes an entry. The first two
//! holders of a blob stand beside it, more in a map of their own. Of each host the ids are a compressed bitmap, so that
//! one that is gone is taken out without looking at all others' blobs.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use nearfield_protocol::Digest;
use roaring::RoaringBitmap;

/// A host's number in the table of hosts. Numbers of hosts that are gone are given again.
pub type Slot = u16;

/// No holder.
pub(super) const NOBODY: Slot = Slot::MAX;

/// The blobs of all hosts.
#[derive(Default)]
pub struct Holders {
    /// Keyed: whoever names blobs must not choose where they lie in the table.
    hasher: RandomState,
    ids: HashTable<u32>,
    digests: Vec<Digest>,
    first: Vec<[Slot; 2]>,
    /// The third and later holders.
    more: HashMap<u32, Vec<Slot>>,
    /// Ids that nobody holds any more, to be given again.
    free: Vec<u32>,
    by_host: Vec<RoaringBitmap>,
}

impl Holders {
    /// The hosts that hold `digest`.
    pub fn of(&self, digest: &Digest) -> impl Iterator<Item = Slot> + '_ {
        let id = self.id(digest);
        let first = id.map_or([NOBODY; 2], |id| self.first[id as usize]);
        let more = id.and_then(|id| self.more.get(&id)).into_iter().flatten();
        first
            .into_iter()
            .chain(more.copied())
            .filter(|slot| *slot != NOBODY)
    }

    pub fn holds(&self, slot: Slot, digest: &Digest) -> bool {
        self.of(digest).any(|holder| holder == slot)
    }

    /// Whether a host holds something.
    pub fn has_any(&self, slot: Slot) -> bool {
        let of_host = self.by_host.get(slot as usize);
        of_host.is_some_and(|held| held.iter().next().is_some())
    }

    /// How many blobs nobody but `slot` holds.
    pub fn only_at(&self, slot: Slot) -> usize {
        let of_host = self.by_host.get(slot as usize).into_iter().flatten();
        let alone = |id: &u32| {
            let first = self.first[*id as usize];
            first.contains(&NOBODY) && !self.more.contains_key(id)
        };
        of_host.filter(alone).count()
    }

    /// All blobs that somebody holds.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        self.ids.iter().map(|id| self.digests[*id as usize])
    }

    /// How many blobs somebody holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn add(&mut self, slot: Slot, digest: Digest) {
        let id = match self.id(&digest) {
            Some(id) => id,
            None => self.intern(digest),
        };
        while self.by_host.len() <= slot as usize {
            self.by_host.push(RoaringBitmap::new());
        }
        if !self.by_host[slot as usize].insert(id) {
            return;
        }
        match self.first[id as usize]
            .iter_mut()
            .find(|holder| **holder == NOBODY)
        {
            Some(place) => *place = slot,
            None => self.more.entry(id).or_default().push(slot),
        }
    }

    /// Takes down what a host ceased and began to hold, up to `most` blobs of it. Returns how many of `added` are beyond that.
    pub fn change(&mut self, slot: Slot, added: &[Digest], removed: &[Digest], most: usize) -> usize {
        removed.iter().for_each(|digest| self.remove(slot, digest));
        let held = self
            .by_host
            .get(slot as usize)
            .map_or(0, |ids| ids.len() as usize);
        let (mut left, mut beyond) = (most.saturating_sub(held), 0);
        for digest in added {
            if self.holds(slot, digest) {
                continue;
            }
            match left {
                0 => beyond += 1,
                _ => {
                    left -= 1;
                    self.add(slot, *digest);
                }
            }
        }
        beyond
    }

    pub fn remove(&mut self, slot: Slot, digest: &Digest) {
        let Some(id) = self.id(digest) else { return };
        let of_host = self.by_host.get_mut(slot as usize);
        if of_host.is_some_and(|ids| ids.remove(id)) {
            self.let_go(slot, id);
        }
    }

    /// Forgets all that a host holds.
    pub fn remove_host(&mut self, slot: Slot) {
        let Some(of_host) = self.by_host.get_mut(slot as usize) else {
            return;
        };
        for id in std::mem::take(of_host) {
            self.let_go(slot, id);
        }
    }

    fn id(&self, digest: &Digest) -> Option<u32> {
        let hash = self.hasher.hash_one(digest);
        let same = |id: &u32| self.digests[*id as usize] == *digest;
        self.ids.find(hash, same).copied()
    }

    fn intern(&mut self, digest: Digest) -> u32 {
        let id = match self.free.pop() {
            Some(id) => {
                self.digests[id as usize] = digest;
                id
            }
            None => {
                self.digests.push(digest);
                self.first.push([NOBODY; 2]);
                self.digests.len() as u32 - 1
            }
        };
        let hash = self.hasher.hash_one(digest);
        let (hasher, digests) = (&self.hasher, &self.digests);
        self.ids
            .insert_unique(hash, id, |id| hasher.hash_one(digests[*id as usize]));
        id
    }

    /// Takes a holder from a blob, and the blob out if it was the last.
    fn let_go(&mut self, slot: Slot, id: u32) {
        let first = &mut self.first[id as usize];
        match first.iter_mut().find(|holder| **holder == slot) {
            Some(place) => {
                *place = NOBODY;
                if let Some(more) = self.more.get_mut(&id) {
                    *place = more.pop().unwrap_or(NOBODY);
                    if more.is_empty() {
                        self.more.remove(&id);
                    }
                }
            }
            None => {
                if let Some(more) = self.more.get_mut(&id) {
                    more.retain(|holder| *holder != slot);
                    if more.is_empty() {
                        self.more.remove(&id);
                    }
                }
            }
        }
        if self.first[id as usize] == [NOBODY; 2] {
            let hash = self.hasher.hash_one(self.digests[id as usize]);
            if let Ok(entry) = self.ids.find_entry(hash, |other| *other == id) {
                entry.remove();
            }
            self.free.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Debug, Clone)]
    enum Step {
        Add(Slot, u8),
        Remove(Slot, u8),
        RemoveHost(Slot),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..6u16, 0..20u8).prop_map(|(slot, blob)| Step::Add(slot, blob)),
            3 => (0..6u16, 0..20u8).prop_map(|(slot, blob)| Step::Remove(slot, blob)),
            1 => (0..6u16).prop_map(Step::RemoveHost),
        ]
    }

    #[test]
    fn of_one_host_so_many_blobs_are_taken_down_and_no_more() {
        let blobs: Vec<Digest> = (0..10_u8).map(|blob| Digest::of(&[blob])).collect();
        let mut holders = Holders::default();
        assert_eq!(holders.change(0, &blobs[..4], &[], 6), 0);
        assert_eq!(
            holders.change(0, &blobs, &[], 6),
            4,
            "four of ten were there already"
        );
        assert_eq!(
            holders.change(0, &blobs, &[], 6),
            4,
            "told again, nothing changes"
        );
        assert_eq!(holders.len(), 6);
        assert_eq!(holders.change(1, &blobs, &[], 6), 4, "each host has as much");
        // What goes makes room.
        assert_eq!(holders.change(0, &blobs[8..], &blobs[..2], 6), 0);
        assert!(holders.holds(0, &blobs[9]) && !holders.holds(0, &blobs[0]));
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_pairs_that_were_told(steps in prop::collection::vec(step(), 0..200)) {
            let (mut holders, mut model) = (Holders::default(), BTreeMap::<u8, BTreeSet<Slot>>::new());
            let digest = |blob: u8| Digest::of(&[blob]);
            for step in steps {
                match step {
                    Step::Add(slot, blob) => {
                        holders.add(slot, digest(blob));
                        model.entry(blob).or_default().insert(slot);
                    }
                    Step::Remove(slot, blob) => {
                        holders.remove(slot, &digest(blob));
                        model.entry(blob).or_default().remove(&slot);
                    }
                    Step::RemoveHost(slot) => {
                        holders.remove_host(slot);
                        model.values_mut().for_each(|slots| { slots.remove(&slot); });
                    }
                }
                model.retain(|_, slots| !slots.is_empty());
                prop_assert_eq!(holders.len(), model.len());
                for blob in 0..20 {
                    let told: Vec<Slot> = holders.of(&digest(blob)).collect();
                    let set: BTreeSet<Slot> = told.iter().copied().collect();
                    prop_assert_eq!(told.len(), set.len());
                    prop_assert_eq!(set, model.get(&blob).cloned().unwrap_or_default());
                }
            }
        }
    }
}
