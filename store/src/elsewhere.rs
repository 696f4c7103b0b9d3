//! Blobs that are not here: fetched from other nodes, kept as long as there is room.
//!
//! The store knows no network: the composition root gives it one. What comes from there is imported like anything else,
//! so nobody sees a byte before its digest is known to be right. A fetched blob is *cached*: the least used go first once
//! they exceed their limit, and nothing else keeps them.
//!
//! A blob that may not rest on this node comes *in passing*: it stays in memory for those who asked, never touches the disk,
//! and is given to no other node.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use nearfield_protocol::Digest;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::blobs::{Blob, Store};
use crate::error::StoreError;
use crate::shard::Shard;
use crate::state::{Standing, State};

/// Changes that wait for a slow listener; one that misses some reads all again.
const CHANGES: usize = 1_024;
/// What one row weighs at least, so that a limit in bytes bounds their number as well.
const MIN_WEIGHT_BYTES: u64 = 4 << 10;

/// Bytes of blobs in passing that are remembered, so that a list is not fetched for each look at it, nor a shard for each
/// range of it: some shards of those that stream through a gateway at once.
const IN_PASSING_BYTES: u64 = 64 << 20;

/// Where blobs come from that are not here.
pub trait Elsewhere: Send + Sync + 'static {
    /// All bytes of a blob, checked; or why they cannot be had.
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<Fetched, String>>;
}

/// A blob of another node.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub bytes: Bytes,
    /// Whether its bytes may rest on this node. Otherwise they stay in memory.
    pub may_rest: bool,
}

/// What a fetch came to.
#[derive(Clone)]
struct Came {
    moved_bytes: u64,
    /// The blob, if it may not rest here; otherwise it is in the store.
    in_passing: Option<Arc<Blob>>,
}

/// What a store began or ceased to keep. What is cached is no part of it: it may be gone the next moment.
#[derive(Debug, Clone)]
pub enum Change {
    Added(Arc<[Digest]>),
    Removed(Arc<[Digest]>),
}

/// A shard, and what it took to open it.
pub struct Opened {
    pub shard: Shard,
    /// Bytes that came from another node for it.
    pub moved_bytes: u64,
}

/// The part of a store that looks outside.
pub(crate) struct Outside {
    elsewhere: OnceLock<Arc<dyn Elsewhere>>,
    /// One fetch of a blob at a time; whoever else wants it waits for that. Nothing stays in it.
    fetching: moka::future::Cache<Digest, Came>,
    /// Blobs that may not rest here, the least used of which go first.
    in_passing: moka::sync::Cache<Digest, Arc<Blob>>,
    /// Cached blobs by their size, the least used of which go first.
    cached: moka::sync::Cache<Digest, u64>,
    /// What fell out of it, to be released. The lock is held for one push.
    dropped: Arc<Mutex<Vec<Digest>>>,
    changes: broadcast::Sender<Change>,
}

impl Outside {
    pub fn open(state: &State, max_cached_bytes: u64) -> Result<Self, StoreError> {
        let dropped = Arc::<Mutex<Vec<Digest>>>::default();
        let falls = dropped.clone();
        let cached = moka::sync::Cache::builder()
            // In KiB, since a weight has 32 bits.
            .max_capacity(max_cached_bytes >> 10)
            // What was just fetched is wanted, however often that was.
            .eviction_policy(moka::policy::EvictionPolicy::lru())
            .weigher(|_, size: &u64| u32::try_from((*size).max(MIN_WEIGHT_BYTES) >> 10).unwrap_or(u32::MAX))
            .eviction_listener(move |digest: Arc<Digest>, _, cause| {
                if cause == moka::notification::RemovalCause::Size {
                    falls.lock().push(*digest);
                }
            })
            .build();
        for (digest, size) in state.cached()? {
            cached.insert(digest, size);
        }
        Ok(Outside {
            elsewhere: OnceLock::new(),
            fetching: moka::future::Cache::new(0),
            in_passing: moka::sync::Cache::builder()
                .max_capacity(IN_PASSING_BYTES)
                .weigher(|_, blob: &Arc<Blob>| {
                    u32::try_from((blob.len() as u64).max(MIN_WEIGHT_BYTES)).unwrap_or(u32::MAX)
                })
                .build(),
            cached,
            dropped,
            changes: broadcast::Sender::new(CHANGES),
        })
    }

    /// Tells whoever listens.
    pub fn tell(&self, change: Change) {
        // Nobody listens while no gateway is reached.
        let _ = self.changes.send(change);
    }

    /// Bytes of cached blobs, to a KiB each.
    pub fn cached_bytes(&self) -> u64 {
        self.cached.weighted_size() << 10
    }

    /// These count as cached no more.
    pub fn forget(&self, digests: &[Digest]) {
        digests.iter().for_each(|digest| self.cached.invalidate(digest));
    }

    /// A cached blob was used.
    pub fn touch(&self, digest: &Digest) {
        self.cached.get(digest);
    }
}

impl Store {
    /// Gives the store its network, once.
    pub fn connect(&self, elsewhere: Arc<dyn Elsewhere>) {
        let _ = self.outside().elsewhere.set(elsewhere);
    }

    /// What this store begins and ceases to hold from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.outside().changes.subscribe()
    }

    /// The bytes of a blob, from another node if they are not here.
    pub async fn blob(&self, digest: &Digest) -> Result<Arc<Blob>, StoreError> {
        match self.stored(digest).await {
            Err(absent @ (StoreError::Missing(_) | StoreError::Corrupt(_))) => {
                match self.fetch(digest, absent).await?.in_passing {
                    Some(blob) => Ok(blob),
                    None => self.stored(digest).await,
                }
            }
            stored => stored,
        }
    }

    /// The bytes of a blob that is not to stay here, not even in memory: its rules may be news.
    pub(crate) async fn blob_in_passing(&self, digest: &Digest) -> Result<Arc<Blob>, StoreError> {
        match self.stored(digest).await {
            Err(absent @ (StoreError::Missing(_) | StoreError::Corrupt(_))) => {
                if let Some(blob) = self.outside().in_passing.get(digest) {
                    return Ok(blob);
                }
                let elsewhere = self.outside().elsewhere.get().cloned().ok_or(absent)?;
                let fetched = elsewhere.fetch(*digest).await;
                let fetched = fetched.map_err(|cause| StoreError::Elsewhere {
                    digest: *digest,
                    cause,
                })?;
                Ok(Arc::new(Blob::in_passing(*digest, fetched.bytes)))
            }
            stored => stored,
        }
    }

    /// Opens a shard: its stored copy if there is one, else where it lies, else another node's.
    pub async fn open_shard(&self, digest: &Digest) -> Result<Opened, StoreError> {
        let (shard, moved_bytes) = match self.local_shard(digest).await {
            Err(absent @ (StoreError::Missing(_) | StoreError::Corrupt(_))) => {
                let came = self.fetch(digest, absent).await?;
                let shard = match came.in_passing {
                    Some(blob) => Shard::Stored(blob),
                    None => self.local_shard(digest).await?,
                };
                (shard, came.moved_bytes)
            }
            shard => (shard?, 0),
        };
        Ok(Opened { shard, moved_bytes })
    }

    pub async fn shard(&self, digest: &Digest) -> Result<Shard, StoreError> {
        Ok(self.open_shard(digest).await?.shard)
    }

    /// Fetches a blob and caches it, if it may rest here. Of those who wait for it at once all but one moved no bytes.
    async fn fetch(&self, digest: &Digest, absent: StoreError) -> Result<Came, StoreError> {
        if let Some(blob) = self.outside().in_passing.get(digest) {
            return Ok(Came {
                moved_bytes: 0,
                in_passing: Some(blob),
            });
        }
        let Some(elsewhere) = self.outside().elsewhere.get().cloned() else {
            return Err(absent);
        };
        let mut first = false;
        let fetching = async {
            first = true;
            self.fetch_now(digest, elsewhere.as_ref()).await
        };
        let fetched = self.outside().fetching.try_get_with(*digest, fetching).await;
        match fetched {
            Ok(came) if first => Ok(came),
            Ok(came) => Ok(Came {
                moved_bytes: 0,
                ..came
            }),
            Err(error) => match (&*error, absent) {
                // The blob was stored here and is lost: that says more than the fetch that failed.
                (StoreError::Elsewhere { .. }, corrupt @ StoreError::Corrupt(_)) => Err(corrupt),
                (StoreError::Elsewhere { digest, cause }, _) => Err(StoreError::Elsewhere {
                    digest: *digest,
                    cause: cause.clone(),
                }),
                (other, _) => Err(StoreError::Elsewhere {
                    digest: *digest,
                    cause: other.to_string(),
                }),
            },
        }
    }

    async fn fetch_now(&self, digest: &Digest, elsewhere: &dyn Elsewhere) -> Result<Came, StoreError> {
        let here = |moved_bytes| Came {
            moved_bytes,
            in_passing: None,
        };
        let refused = |cause: String| StoreError::Elsewhere {
            digest: *digest,
            cause,
        };
        // Whoever came too late for the last fetch finds what it brought.
        if self.local_shard(digest).await.is_ok() {
            return Ok(here(0));
        }
        let Fetched { bytes, may_rest } = elsewhere.fetch(*digest).await.map_err(refused)?;
        if !may_rest {
            let moved_bytes = bytes.len() as u64;
            let blob = Arc::new(Blob::in_passing(*digest, bytes));
            self.outside().in_passing.insert(*digest, blob.clone());
            return Ok(Came {
                moved_bytes,
                in_passing: Some(blob),
            });
        }
        let size_bytes = bytes.len() as u64;
        let staged = self.add(bytes).await?;
        if staged.digest != *digest {
            return Err(refused(format!(
                "what came has the digest {}",
                staged.digest.short()
            )));
        }
        self.seal_as(vec![staged], Standing::Cached).await?;
        let sealed = self.state().get(digest)?;
        if sealed.is_some_and(|sealed| sealed.standing == Standing::Live) {
            // It was kept here before its bytes rotted, and is again.
            self.outside().tell(Change::Added([*digest].into()));
            return Ok(here(size_bytes));
        }
        self.outside().cached.insert(*digest, size_bytes);
        self.drop_least_used().await?;
        Ok(here(size_bytes))
    }

    /// Fetches what of `digests` is not here, and keeps all of them from now on. Returns how many are kept.
    pub async fn keep(&self, digests: &[Digest]) -> Result<u64, StoreError> {
        // Fetching takes minutes: a blob that is here stays until it is kept.
        let _held = self.hold(digests);
        let mut here = Vec::new();
        for digest in digests {
            // It may have come in passing, and be kept now.
            self.outside().in_passing.invalidate(digest);
            if self.state().get(digest)?.is_none() {
                // Its map outlives a blob that was swept.
                self.forget_open(&[*digest]);
            }
            match self.open_shard(digest).await {
                Ok(_) if self.has(digest) => here.push(*digest),
                Ok(_) => tracing::warn!(%digest, "a blob that is to be kept here may not rest here"),
                Err(error) => tracing::warn!(%digest, %error, "a blob that is to be kept here cannot be had"),
            }
        }
        let (state, in_place) = (self.state().clone(), self.in_place().clone());
        let kept = crate::blobs::blocking_store(move || {
            let stored = [Standing::Live, Standing::Cached, Standing::Evictable];
            let stored: HashSet<_> = state
                .change(&here, &stored, Standing::Live)?
                .into_iter()
                .collect();
            let mut kept = Vec::with_capacity(here.len());
            for digest in here {
                if stored.contains(&digest) || in_place.size_of(&digest)?.is_some() {
                    kept.push(digest);
                }
            }
            Ok(kept)
        })
        .await?;
        for digest in &kept {
            self.outside().cached.invalidate(digest);
        }
        // Whoever asks does not know of those either that were kept before.
        let count = kept.len() as u64;
        self.outside().tell(Change::Added(kept.into()));
        Ok(count)
    }

    /// Keeps these no longer than there is room: enough others do.
    pub async fn spare(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let (state, spared) = (self.state().clone(), digests.to_vec());
        let change = move || state.change(&spared, &[Standing::Live], Standing::Cached);
        let spared = crate::blobs::blocking_store(change).await?;
        if spared.is_empty() {
            return Ok(());
        }
        for digest in &spared {
            if let Ok(size) = self.size_of(digest) {
                self.outside().cached.insert(*digest, size);
            }
        }
        self.outside().tell(Change::Removed(spared.into()));
        self.drop_least_used().await
    }

    /// Lets go of those of these that are only cached.
    pub async fn drop_cached(&self, digests: Vec<Digest>) -> Result<(), StoreError> {
        let state = self.state().clone();
        let change = move || state.change(&digests, &[Standing::Cached], Standing::Evictable);
        let gone = crate::blobs::blocking_store(change).await?;
        self.outside().forget(&gone);
        self.forget_open(&gone);
        Ok(())
    }

    async fn drop_least_used(&self) -> Result<(), StoreError> {
        self.outside().cached.run_pending_tasks();
        let dropped = std::mem::take(&mut *self.outside().dropped.lock());
        if dropped.is_empty() {
            return Ok(());
        }
        let state = self.state().clone();
        let change = move || state.change(&dropped, &[Standing::Cached], Standing::Evictable);
        let gone = crate::blobs::blocking_store(change).await?;
        self.forget_open(&gone);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::StoreOptions;

    /// Another node that has everything.
    struct Other {
        bytes: Bytes,
        may_rest: bool,
    }

    impl Elsewhere for Other {
        fn fetch(&self, _digest: Digest) -> BoxFuture<'static, Result<Fetched, String>> {
            let fetched = Fetched {
                bytes: self.bytes.clone(),
                may_rest: self.may_rest,
            };
            Box::pin(std::future::ready(Ok(fetched)))
        }
    }

    fn files(dir: &std::path::Path) -> usize {
        std::fs::read_dir(dir.join("blobs/data")).unwrap().count()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_comes_in_passing_is_read_and_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        let bytes = Bytes::from(vec![7; 100_000]);
        let digest = Digest::of(&bytes);
        store.connect(Arc::new(Other {
            bytes: bytes.clone(),
            may_rest: false,
        }));
        let before = files(dir.path());
        assert_eq!(store.blob(&digest).await.unwrap().to_vec(), bytes);
        let opened = store.open_shard(&digest).await.unwrap();
        assert_eq!(opened.shard.read(10..20).unwrap(), bytes.slice(10..20));
        // A GPU's worker gets a copy in memory.
        let (copy, at) = opened.shard.descriptor(5..9).unwrap();
        let mut read = [0; 4];
        std::os::unix::fs::FileExt::read_exact_at(&copy, &mut read, at).unwrap();
        assert_eq!((read, copy.metadata().unwrap().len()), ([7; 4], 4));
        assert!(!store.has(&digest), "nobody is told that it is here");
        assert!(store.local_shard(&digest).await.is_err(), "nobody is given it");
        assert_eq!(store.keep(&[digest]).await.unwrap(), 0, "it is not kept");
        assert_eq!(files(dir.path()), before);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_cached_goes_when_it_may_not_rest_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        let bytes = Bytes::from_static(b"cached");
        let digest = Digest::of(&bytes);
        store.connect(Arc::new(Other {
            bytes: bytes.clone(),
            may_rest: true,
        }));
        let kept = store.add_sealed(Bytes::from_static(b"kept")).await.unwrap();
        store.blob(&digest).await.unwrap();
        store.drop_cached(vec![digest, kept]).await.unwrap();
        let standing = |digest| store.state().get(&digest).unwrap().unwrap().standing;
        assert_eq!(standing(digest), Standing::Evictable);
        assert_eq!(standing(kept), Standing::Live, "others may lack it");
        store.outside().cached.run_pending_tasks();
        assert_eq!(store.outside().cached_bytes(), 0);
    }

    fn added(changes: &mut broadcast::Receiver<Change>) -> Option<Digest> {
        match changes.try_recv().ok()? {
            Change::Added(digests) => digests.first().copied(),
            Change::Removed(_) => None,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_kept_again_is_told_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        let bytes = Bytes::from_static(b"bytes that rot");
        store.connect(Arc::new(Other {
            bytes: bytes.clone(),
            may_rest: true,
        }));
        let mut changes = store.changes();
        let staged = store.add(bytes.clone()).await.unwrap();
        let digest = staged.digest;
        store.seal(vec![staged]).await.unwrap();
        assert_eq!(added(&mut changes), Some(digest));

        // What is only read is no news; what rotted and was kept here is.
        store
            .state()
            .set_standing(&[digest], Standing::Quarantined)
            .unwrap();
        assert!(store.local_shard(&digest).await.is_err());
        assert_eq!(store.blob(&digest).await.unwrap().to_vec(), bytes);
        assert_eq!(added(&mut changes), Some(digest));
        assert_eq!(
            store.state().get(&digest).unwrap().unwrap().standing,
            Standing::Live
        );

        // A gateway that asks does not know that it is kept already.
        assert_eq!(store.keep(&[digest]).await.unwrap(), 1);
        assert_eq!(added(&mut changes), Some(digest));
        store.spare(&[digest]).await.unwrap();
        assert_eq!(added(&mut changes), None);
        assert_eq!(store.keep(&[digest]).await.unwrap(), 1);
        assert_eq!(added(&mut changes), Some(digest));
    }

    /// Another node, which takes its time.
    struct Slow {
        bytes: Bytes,
        release: Arc<tokio::sync::Semaphore>,
    }

    impl Elsewhere for Slow {
        fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<Fetched, String>> {
            let (bytes, release) = (self.bytes.clone(), self.release.clone());
            Box::pin(async move {
                let _come = release.acquire().await.unwrap();
                match Digest::of(&bytes) == digest {
                    true => Ok(Fetched {
                        bytes,
                        may_rest: true,
                    }),
                    false => Err("nobody has it".to_owned()),
                }
            })
        }
    }

    async fn swept_at_once(dir: &std::path::Path) -> Store {
        let options = StoreOptions {
            sweep_interval: std::time::Duration::ZERO,
            ..StoreOptions::default()
        };
        Store::open(dir, options).await.unwrap()
    }

    async fn until(is_so: impl Fn() -> bool) {
        while !is_so() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_to_be_kept_outlives_the_sweeps_that_come_while_the_rest_is_fetched() {
        let dir = tempfile::tempdir().unwrap();
        let store = swept_at_once(dir.path()).await;
        let here = store.add_sealed(Bytes::from_static(b"evictable")).await.unwrap();
        let until_it_is_kept = store.hold(&[here]);
        store.release(vec![here]).await.unwrap();
        let (bytes, release) = (
            Bytes::from_static(b"far"),
            Arc::new(tokio::sync::Semaphore::new(0)),
        );
        let far = Digest::of(&bytes);
        store.connect(Arc::new(Slow {
            bytes,
            release: release.clone(),
        }));
        let keeping = tokio::spawn({
            let store = store.clone();
            async move { store.keep(&[here, far]).await.unwrap() }
        });
        until(|| store.mapped(&here).is_some()).await;
        drop(until_it_is_kept);
        store.until_swept().await;
        release.add_permits(1);
        assert_eq!(keeping.await.unwrap(), 2);
        let standing = store.state().get(&here).unwrap().unwrap().standing;
        assert_eq!(standing, Standing::Live);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_open_map_of_a_swept_blob_is_no_blob_that_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = swept_at_once(dir.path()).await;
        let digest = store.add_sealed(Bytes::from_static(b"swept")).await.unwrap();
        let open = store.stored(&digest).await.unwrap();
        store
            .state()
            .set_standing(&[digest], Standing::Evictable)
            .unwrap();
        until(|| store.state().get(&digest).unwrap().is_none()).await;
        assert!(store.mapped(&digest).is_some());
        let mut changes = store.changes();
        assert_eq!(store.keep(&[digest]).await.unwrap(), 0);
        assert_eq!(added(&mut changes), None);
        assert!(matches!(
            store.revive(vec![digest]).await,
            Err(StoreError::Missing(_))
        ));
        assert_eq!(&**open, b"swept");
    }
}
