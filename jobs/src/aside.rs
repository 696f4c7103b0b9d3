//! What runs wrote, on this node until all of it is there to be put.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use nearfield_cluster::store_problem;
use nearfield_protocol::job::ResultKey;
use nearfield_protocol::{Digest, Problem, ProblemKind, units};
use nearfield_store::Store;

/// What may stay in memory of all runs together.
const IN_MEMORY_BYTES: u64 = 256 << 20;
/// What one run wrote goes to a file of its own from here on.
const SMALL_BYTES: usize = 64 << 10;

/// What runs wrote.
#[derive(Default)]
pub struct Aside {
    blobs: HashMap<ResultKey, Bytes>,
    room: Arc<Room>,
    /// Why something of it could not be kept until it is put.
    problem: Option<Problem>,
}

/// How much is in memory.
#[derive(Default)]
pub struct Room(AtomicU64);

impl Room {
    fn take(&self, bytes: u64) -> bool {
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= IN_MEMORY_BYTES);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }
}

impl Aside {
    pub fn room(&self) -> Arc<Room> {
        self.room.clone()
    }

    pub fn insert(&mut self, key: ResultKey, kept: Result<Bytes, Problem>) {
        match kept {
            Ok(bytes) => drop(self.blobs.insert(key, bytes)),
            Err(problem) => self.problem = Some(problem),
        }
    }

    /// What the runs with these keys wrote.
    pub fn take(&mut self, keys: &[ResultKey]) -> Result<Vec<Bytes>, Problem> {
        match self.problem.take() {
            Some(problem) => Err(problem),
            None => Ok(keys.iter().filter_map(|key| self.blobs.remove(key)).collect()),
        }
    }
}

/// The digest of what a run wrote, and its bytes where they may stay: in memory if they are few, else in a file of the store
/// without a name. What may not rest on this node gets no file.
pub async fn set_aside(
    store: Store,
    room: Arc<Room>,
    may_rest: bool,
    bytes: Bytes,
) -> (Digest, Result<Bytes, Problem>) {
    let is_small = bytes.len() < SMALL_BYTES || !may_rest;
    if is_small && room.take(bytes.len() as u64) {
        return (Digest::of(&bytes), Ok(bytes));
    }
    let digest_and_keep = move || {
        let kept = match may_rest {
            true => store.set_aside(&bytes).map_err(store_problem),
            false => Err(Problem::new(
                ProblemKind::NotPermitted,
                "the job's data may not rest on this node, and its runs wrote more than fits its memory until it is put: start the \
                 job at a node that may keep the data",
            )
            .with_limit(format!(
                "files in memory = {}",
                units::exact_bytes(IN_MEMORY_BYTES)
            ))),
        };
        (Digest::of(&bytes), kept)
    };
    // It hashes and writes up to a gigabyte.
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

    #[tokio::test]
    async fn what_is_more_than_memory_has_room_for_goes_to_files_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        let room = Arc::new(Room::default());
        let keep = |may_rest, bytes: &Bytes| set_aside(store.clone(), room.clone(), may_rest, bytes.clone());
        let (small, large) = (Bytes::from_static(b"small"), Bytes::from(vec![7; SMALL_BYTES]));
        assert_eq!(keep(true, &small).await, (Digest::of(&small), Ok(small.clone())));
        assert_eq!(room.0.load(Ordering::Relaxed), 5);
        assert_eq!(keep(true, &large).await, (Digest::of(&large), Ok(large.clone())));
        assert_eq!(room.0.load(Ordering::Relaxed), 5, "it is in a file");
        assert_eq!(keep(false, &large).await.1, Ok(large.clone()));
        assert_eq!(room.0.load(Ordering::Relaxed), 5 + SMALL_BYTES as u64);
        assert!(room.take(IN_MEMORY_BYTES - 5 - SMALL_BYTES as u64));
        assert_eq!(keep(true, &small).await.1, Ok(small.clone()), "in a file, too");
        let (digest, refused) = keep(false, &small).await;
        assert_eq!(digest, Digest::of(&small));
        assert_eq!(refused.unwrap_err().kind, ProblemKind::NotPermitted);
        store.shutdown().await;
    }
}
