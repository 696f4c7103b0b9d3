//! What runs wrote, on this node until all of it is there to be put.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nearfield_cluster::store_problem;
use nearfield_protocol::job::ResultKey;
use nearfield_protocol::{Digest, Problem, ProblemKind, units};
use nearfield_store::Store;

/// Bytes that the runs of all jobs may keep in memory together.
const IN_MEMORY_BYTES: u64 = 256 << 20;
/// From this size on, what a run wrote goes to a file of its own.
const SMALL_BYTES: usize = 64 << 10;

/// What the memory of this process has room for, of the runs of all jobs.
static ROOM: Room = Room(AtomicU64::new(0));

/// What one job's runs wrote, or why it could not be kept.
#[derive(Default)]
pub struct Aside(HashMap<ResultKey, Result<KeptOutput, Problem>>);

impl Aside {
    pub fn insert(&mut self, key: ResultKey, kept: Result<KeptOutput, Problem>) {
        self.0.insert(key, kept);
    }

    /// What the runs with these keys wrote.
    pub fn take(&mut self, keys: &[ResultKey]) -> Result<Vec<Bytes>, Problem> {
        let taken = keys.iter().filter_map(|key| self.0.remove(key));
        taken.map(|kept| Ok(Bytes::from_owner(kept?))).collect()
    }
}

/// What one run wrote.
#[derive(Debug)]
pub struct KeptOutput {
    bytes: Bytes,
    /// None if it is in a file.
    _room: Option<RoomTaken>,
}

impl AsRef<[u8]> for KeptOutput {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// How much is in memory.
#[derive(Debug)]
struct Room(AtomicU64);

/// A part of it, until it is dropped.
#[derive(Debug)]
struct RoomTaken {
    of: &'static Room,
    bytes: u64,
}

impl Room {
    fn take(&'static self, bytes: u64) -> Option<RoomTaken> {
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= IN_MEMORY_BYTES);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        taken.is_ok().then(|| RoomTaken { of: self, bytes })
    }
}

impl Drop for RoomTaken {
    fn drop(&mut self) {
        self.of.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The digest of what a run wrote, and its bytes where they may stay: in memory if they are few, else in a file of the store
/// without a name. What may not rest on this node gets no file.
pub async fn set_aside(store: Store, may_rest: bool, bytes: Bytes) -> (Digest, Result<KeptOutput, Problem>) {
    set_aside_in(&ROOM, store, may_rest, bytes).await
}

async fn set_aside_in(
    room: &'static Room,
    store: Store,
    may_rest: bool,
    bytes: Bytes,
) -> (Digest, Result<KeptOutput, Problem>) {
    let is_small = bytes.len() < SMALL_BYTES || !may_rest;
    let taken = room.take(bytes.len() as u64).filter(|_| is_small);
    let digest_and_keep = move || {
        let digest = Digest::of(&bytes);
        let kept = match (taken, may_rest) {
            (Some(room), _) => Ok(KeptOutput {
                bytes,
                _room: Some(room),
            }),
            (None, true) => {
                let set_aside = store.set_aside(&bytes).map_err(store_problem);
                set_aside.map(|bytes| KeptOutput { bytes, _room: None })
            }
            (None, false) => Err(Problem::new(
                ProblemKind::NotPermitted,
                "the job's data may not rest on this node, and its runs wrote more than fits its memory until it is put: start the \
                 job at a node that may keep the data",
            )
            .with_limit(format!(
                "files of jobs in memory = {}",
                units::exact_bytes(IN_MEMORY_BYTES)
            ))),
        };
        (digest, kept)
    };
    // It hashes and writes up to what a peer may send, a gigabyte.
    match tokio::task::spawn_blocking(digest_and_keep).await {
        Ok(kept) => kept,
        Err(error) => {
            let text = format!("what a run wrote could not be set aside: {error}");
            (Digest::EMPTY, Err(Problem::new(ProblemKind::Internal, text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use nearfield_store::StoreOptions;

    use super::*;

    fn taken(room: &Room) -> u64 {
        room.0.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_is_more_than_memory_has_room_for_goes_to_files_or_is_refused() {
        static ROOM: Room = Room(AtomicU64::new(0));
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        let keep = |may_rest, bytes: &Bytes| set_aside_in(&ROOM, store.clone(), may_rest, bytes.clone());
        let (small, large) = (Bytes::from_static(b"small"), Bytes::from(vec![7; SMALL_BYTES]));
        let (digest, in_memory) = keep(true, &small).await;
        assert_eq!(digest, Digest::of(&small));
        assert_eq!(
            (in_memory.as_ref().unwrap().as_ref(), taken(&ROOM)),
            (&small[..], 5)
        );
        let (digest, in_file) = keep(true, &large).await;
        assert_eq!(digest, Digest::of(&large));
        assert_eq!((in_file.unwrap().as_ref(), taken(&ROOM)), (&large[..], 5));
        let restricted = keep(false, &large).await.1.unwrap();
        assert_eq!(taken(&ROOM), 5 + SMALL_BYTES as u64);
        let rest = ROOM.take(IN_MEMORY_BYTES - taken(&ROOM)).unwrap();
        assert_eq!(
            keep(true, &small).await.1.unwrap().as_ref(),
            &small[..],
            "in a file, too"
        );
        let (digest, refused) = keep(false, &small).await;
        assert_eq!(digest, Digest::of(&small));
        assert_eq!(refused.unwrap_err().kind, ProblemKind::NotPermitted);
        drop((in_memory, restricted, rest));
        assert_eq!(taken(&ROOM), 0);
        store.shutdown().await;
    }

    #[test]
    fn what_counts_is_what_came_last_for_a_key() {
        let key = |byte| ResultKey(Digest::from_bytes([byte; 32]));
        let kept = |text: &'static str| KeptOutput {
            bytes: Bytes::from_static(text.as_bytes()),
            _room: None,
        };
        let mut aside = Aside::default();
        aside.insert(key(1), Err(Problem::new(ProblemKind::StoreFull, "full")));
        aside.insert(key(1), Ok(kept("one")));
        aside.insert(key(2), Ok(kept("two")));
        assert_eq!(aside.take(&[key(1), key(2)]).unwrap(), ["one", "two"]);
        aside.insert(key(1), Err(Problem::new(ProblemKind::StoreFull, "full")));
        assert_eq!(aside.take(&[key(1)]).unwrap_err().kind, ProblemKind::StoreFull);
    }
}
