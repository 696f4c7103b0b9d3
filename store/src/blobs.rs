//! Durable, verified blobs: the wrapper around iroh-blobs' `FsStore`.
//!
//! The order that makes an acknowledgement true: the bytes are imported under a temp tag (so that a
//! sweep leaves them alone), data and outboard are fsynced, their folder is fsynced, the `FsStore`'s
//! own database is synced, our row is committed, and only then is anybody told. A blob without a
//! row is served to nobody and swept away; importing it again rewrites its files.
//!
//! Blob files belong to this module: nothing else opens them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iroh_blobs::api::TempTag;
use iroh_blobs::api::blobs::{AddPathOptions, ImportMode};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::{BatchOptions, InlineOptions, Options, PathOptions};
use iroh_blobs::store::{GcConfig, ProtectCb, ProtectOutcome};
use iroh_blobs::{BlobFormat, Hash};
use memmap2::Mmap;
use nearfield_protocol::Digest;

use crate::error::StoreError;
use crate::state::{Standing, State};

/// How often what is evictable is collected: removed bytes need not be free at once.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Maps held open at once: far below the kernel's 65,530 a process.
const MAX_MAPS: u64 = 8_192;
/// Free bytes that the disk must keep: a database that meets a full disk does not recover by itself.
const FREE_FLOOR_BYTES: u64 = 64 << 20;
/// Blobs at least this large are hashed on all cores: below it threads cost more than they save.
const PARALLEL_HASH_BYTES: usize = 512 << 10;

/// How a [`Store`] is opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Bytes that sealed blobs may take; `None` leaves it to the disk.
    pub max_bytes: Option<u64>,
    /// How often what is evictable is collected.
    pub sweep_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            max_bytes: None,
            sweep_interval: SWEEP_INTERVAL,
        }
    }
}

/// The blobs of one node. Cheap to clone; one process owns a folder at a time.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    fs: FsStore,
    paths: PathOptions,
    state: Arc<State>,
    /// Verified, mapped blobs. moka owns the locking.
    maps: moka::sync::Cache<Digest, Arc<Blob>>,
    /// Blobs whose bytes were checked in this process. The lock is held for one look-up.
    verified: Mutex<HashSet<Digest>>,
    pub(crate) datasets: moka::sync::Cache<Digest, Arc<crate::dataset::Dataset>>,
    sweeper: Arc<Sweeper>,
    /// Bytes of blobs that are staged: they count against the quota before they are sealed.
    staged_bytes: Arc<AtomicU64>,
    options: StoreOptions,
}

/// What the sweep callback and the health check share.
struct Sweeper {
    /// Digests of writers under way: sealed or not, they stay.
    held: Mutex<std::collections::HashMap<Digest, usize>>,
    /// Milliseconds from `started` to the last sweep's beginning.
    last_sweep_ms: AtomicU64,
    started: Instant,
}

/// A blob that is imported but not yet durable. Dropping it without sealing lets it go.
pub struct Staged {
    pub digest: Digest,
    pub size_bytes: u64,
    _tag: TempTag,
    _held: Held,
    _room: Room,
}

/// Bytes of the quota, taken until the blob is sealed or dropped.
struct Room {
    staged_bytes: Arc<AtomicU64>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.staged_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Keeps one digest from being swept.
struct Held {
    sweeper: Arc<Sweeper>,
    digest: Digest,
}

impl Held {
    fn new(sweeper: &Arc<Sweeper>, digest: Digest) -> Self {
        *sweeper
            .held
            .lock()
            .expect("no panic under this lock")
            .entry(digest)
            .or_default() += 1;
        Held {
            sweeper: sweeper.clone(),
            digest,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.sweeper.held.lock().expect("no panic under this lock");
        if let Some(count) = held.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.digest);
            }
        }
    }
}

/// How much a seal added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SealReport {
    pub new_blobs: u64,
    pub new_bytes: u64,
}

/// The verified bytes of one blob, mapped. Derefs to `[u8]`.
pub struct Blob {
    digest: Digest,
    /// `None` for the empty blob, which cannot be mapped.
    map: Option<Mmap>,
}

impl Blob {
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bytes `range`, sharing the map.
    pub fn slice(self: &Arc<Self>, range: std::ops::Range<usize>) -> Bytes {
        Bytes::from_owner(Shared(self.clone())).slice(range)
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

struct Shared(Arc<Blob>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there.
    pub async fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        fs::create_dir_all(dir)?;
        let state = Arc::new(State::open(&dir.join("state.redb"))?);
        let root = dir.join("blobs");
        let paths = PathOptions::new(&root);
        fs::create_dir_all(&paths.data_path)?;
        clear_folder(&paths.temp_path)?;

        let sweeper = Arc::new(Sweeper {
            held: Mutex::default(),
            last_sweep_ms: AtomicU64::new(0),
            started: Instant::now(),
        });
        let fs = FsStore::load_with_opts(
            root.join("blobs.db"),
            Options {
                path: paths.clone(),
                // Inlined blobs would have no file to map.
                inline: InlineOptions::NO_INLINE,
                batch: BatchOptions::default(),
                gc: Some(GcConfig {
                    interval: options.sweep_interval,
                    add_protected: Some(protect(state.clone(), sweeper.clone())),
                }),
            },
        )
        .await
        .map_err(|error| StoreError::Blobs(error.to_string()))?;

        let inner = Inner {
            fs,
            paths,
            state,
            maps: moka::sync::Cache::new(MAX_MAPS),
            verified: Mutex::default(),
            datasets: moka::sync::Cache::new(crate::dataset::MAX_OPEN_DATASETS),
            sweeper,
            staged_bytes: Arc::default(),
            options,
        };
        Ok(Store {
            inner: Arc::new(inner),
        })
    }

    /// The `iroh-blobs` store, for the record document and transfer between nodes.
    pub fn blobs(&self) -> &iroh_blobs::api::Store {
        &self.inner.fs
    }

    /// A folder on the same disk for files that are still growing; emptied when the store opens.
    pub(crate) fn spill_dir(&self) -> &Path {
        &self.inner.paths.temp_path
    }

    pub(crate) fn datasets(&self) -> &moka::sync::Cache<Digest, Arc<crate::dataset::Dataset>> {
        &self.inner.datasets
    }

    /// Imports `bytes`. Not durable before [`Store::seal`].
    pub async fn add(&self, bytes: Bytes) -> Result<Staged, StoreError> {
        let size_bytes = bytes.len() as u64;
        let room = self.room(size_bytes)?;
        self.add_in(bytes, room).await
    }

    async fn add_in(&self, bytes: Bytes, room: Room) -> Result<Staged, StoreError> {
        let size_bytes = bytes.len() as u64;
        let tag = self
            .inner
            .fs
            .blobs()
            .add_bytes(bytes)
            .temp_tag()
            .await
            .map_err(import_error)?;
        self.staged(tag, size_bytes, room).await
    }

    /// Imports a copy of the file at `path`. Not durable before [`Store::seal`].
    pub async fn add_file(&self, path: &Path, size_bytes: u64) -> Result<Staged, StoreError> {
        let room = self.room(size_bytes)?;
        let tag = self
            .inner
            .fs
            .blobs()
            .add_path_with_opts(AddPathOptions {
                path: path.to_owned(),
                format: BlobFormat::Raw,
                mode: ImportMode::Copy,
            })
            .temp_tag()
            .await
            .map_err(import_error)?;
        self.staged(tag, size_bytes, room).await
    }

    /// Makes `staged` durable, all or none. When this returns `Ok` they survive a power cut.
    pub async fn seal(&self, staged: Vec<Staged>) -> Result<SealReport, StoreError> {
        let data_path = self.inner.paths.data_path.clone();
        blocking(move || File::open(data_path)?.sync_all()).await?;
        self.inner
            .fs
            .sync_db()
            .await
            .map_err(|error| StoreError::Blobs(error.to_string()))?;
        let inner = self.inner.clone();
        blocking_store(move || {
            let rows: Vec<_> = staged.iter().map(|blob| (blob.digest, blob.size_bytes)).collect();
            let (new_blobs, new_bytes) = inner.state.seal(&rows)?;
            Ok(SealReport { new_blobs, new_bytes })
        })
        .await
    }

    /// Adds and seals one blob.
    pub async fn add_sealed(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let staged = self.add(bytes).await?;
        let digest = staged.digest;
        self.seal(vec![staged]).await?;
        Ok(digest)
    }

    /// Adds and seals a record's value. Records are small and among them are removals, so a full
    /// quota does not stop them.
    pub async fn add_record(&self, bytes: Bytes) -> Result<Digest, StoreError> {
        let room = Room {
            staged_bytes: self.inner.staged_bytes.clone(),
            bytes: 0,
        };
        let staged = self.add_in(bytes, room).await?;
        let digest = staged.digest;
        self.seal(vec![staged]).await?;
        Ok(digest)
    }

    /// The size of a sealed blob that may be served, in bytes.
    pub fn size_of(&self, digest: &Digest) -> Result<u64, StoreError> {
        if let Some(blob) = self.inner.maps.get(digest) {
            return Ok(blob.len() as u64);
        }
        match self.inner.state.get(digest)? {
            None => Err(StoreError::Missing(*digest)),
            Some(sealed) if sealed.standing == Standing::Quarantined => Err(StoreError::Corrupt(*digest)),
            Some(sealed) => Ok(sealed.size_bytes),
        }
    }

    /// Whether the blob is sealed and may be served.
    pub fn has(&self, digest: &Digest) -> bool {
        self.size_of(digest).is_ok()
    }

    /// The bytes of a sealed blob, verified once per process, then mapped.
    pub async fn blob(&self, digest: &Digest) -> Result<Arc<Blob>, StoreError> {
        if let Some(blob) = self.inner.maps.get(digest) {
            return Ok(blob);
        }
        let (store, digest) = (self.clone(), *digest);
        blocking_store(move || store.map(digest)).await
    }

    /// The map if it is open already: never waits, never touches the disk.
    pub fn mapped(&self, digest: &Digest) -> Option<Arc<Blob>> {
        self.inner.maps.get(digest)
    }

    /// Marks blobs that nothing refers to any more, so that the next sweep collects them.
    pub async fn release(&self, digests: Vec<Digest>) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || {
            inner.state.set_standing(&digests, Standing::Evictable)?;
            let mut verified = inner.verified.lock().expect("no panic under this lock");
            for digest in &digests {
                inner.maps.invalidate(digest);
                inner.datasets.invalidate(digest);
                verified.remove(digest);
            }
            Ok(())
        })
        .await
    }

    /// Marks a dataset to be kept whatever happens to its name.
    pub fn pin(&self, digest: Digest) -> Result<(), StoreError> {
        self.inner.state.set_pinned(&digest, true)
    }

    pub fn unpin(&self, digest: Digest) -> Result<(), StoreError> {
        self.inner.state.set_pinned(&digest, false)
    }

    /// The pinned datasets, in digest order.
    pub fn pins(&self) -> Result<Vec<Digest>, StoreError> {
        self.inner.state.pins()
    }

    /// Every sealed blob that is not marked for collection, in digest order.
    pub fn live(&self) -> Result<Vec<Digest>, StoreError> {
        self.inner.state.live()
    }

    /// Hashes one blob of the scrubber's round again and returns where to go on, or `None` at the
    /// round's end. A blob that fails is quarantined.
    pub async fn scrub_next(&self, after: Digest) -> Result<Option<Digest>, StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || {
            let Some(digest) = inner.state.next_live(&after)? else {
                return Ok(None);
            };
            match inner.read_verified(digest) {
                Err(StoreError::Corrupt(digest)) => inner.quarantine(digest)?,
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            Ok(Some(digest))
        })
        .await
    }

    /// Bytes and number of sealed blobs.
    pub fn usage(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.inner.state.sealed_bytes()?, self.inner.state.sealed_blobs()?))
    }

    /// Why the store cannot do its work, if it cannot: the sweep loop stops for good after an error
    /// of the underlying store, and nothing else would show that.
    pub fn unhealthy(&self) -> Option<String> {
        let sweeper = &self.inner.sweeper;
        let last = Duration::from_millis(sweeper.last_sweep_ms.load(Ordering::Relaxed));
        let late = sweeper.started.elapsed().saturating_sub(last);
        // A sweep of many blobs takes time of its own, so allow several intervals.
        (late > self.inner.options.sweep_interval * 10)
            .then(|| format!("no sweep of evictable blobs for {} s", late.as_secs()))
    }

    /// Waits until all is written; the folder may be opened again afterwards.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.fs.shutdown().await {
            tracing::warn!(%error, "the blob store did not shut down cleanly");
        }
    }

    async fn staged(&self, tag: TempTag, size_bytes: u64, room: Room) -> Result<Staged, StoreError> {
        let digest = Digest::from_bytes(*tag.hash().as_bytes());
        let held = Held::new(&self.inner.sweeper, digest);
        let live = self
            .inner
            .state
            .get(&digest)?
            .is_some_and(|sealed| sealed.standing == Standing::Live);
        // The import renamed fresh files over whatever was there, so they need an fsync even if the
        // same bytes were sealed before: the old inode's durability says nothing of the new one.
        let inner = self.inner.clone();
        blocking(move || inner.sync_files(digest, size_bytes)).await?;
        if !live {
            self.inner
                .verified
                .lock()
                .expect("no panic under this lock")
                .remove(&digest);
        }
        Ok(Staged {
            digest,
            size_bytes,
            _tag: tag,
            _held: held,
            _room: room,
        })
    }

    /// Takes room for `bytes` more, from the quota and on the disk.
    fn room(&self, bytes: u64) -> Result<Room, StoreError> {
        let disk = rustix::fs::statvfs(&self.inner.paths.data_path).map_err(io::Error::from)?;
        if disk.f_bavail.saturating_mul(disk.f_frsize) < bytes.saturating_add(FREE_FLOOR_BYTES) {
            return Err(StoreError::DiskFull);
        }
        let staged = self.inner.staged_bytes.fetch_add(bytes, Ordering::Relaxed);
        let room = Room {
            staged_bytes: self.inner.staged_bytes.clone(),
            bytes,
        };
        if let Some(max_bytes) = self.inner.options.max_bytes {
            let used_bytes = self.inner.state.sealed_bytes()? + staged;
            if used_bytes.saturating_add(bytes) > max_bytes {
                return Err(StoreError::Full {
                    used_bytes,
                    max_bytes,
                });
            }
        }
        Ok(room)
    }

    fn map(&self, digest: Digest) -> Result<Arc<Blob>, StoreError> {
        let inner = &self.inner;
        match inner.state.get(&digest)? {
            None => return Err(StoreError::Missing(digest)),
            Some(sealed) if sealed.standing == Standing::Quarantined => {
                return Err(StoreError::Corrupt(digest));
            }
            Some(_) => {}
        }
        let known = inner
            .verified
            .lock()
            .expect("no panic under this lock")
            .contains(&digest);
        let blob = if known {
            inner.read(digest)
        } else {
            inner.read_verified(digest)
        };
        let blob = match blob {
            Ok(blob) => Arc::new(blob),
            Err(StoreError::Corrupt(digest)) => {
                inner.quarantine(digest)?;
                return Err(StoreError::Corrupt(digest));
            }
            Err(error) => return Err(error),
        };
        inner
            .verified
            .lock()
            .expect("no panic under this lock")
            .insert(digest);
        inner.maps.insert(digest, blob.clone());
        Ok(blob)
    }
}

impl Inner {
    fn data_file(&self, digest: Digest) -> PathBuf {
        self.paths.data_path(&Hash::from_bytes(*digest.as_bytes()))
    }

    /// Fsyncs data and outboard and checks that they are there: a rename that failed is only logged
    /// by the underlying store.
    fn sync_files(&self, digest: Digest, size_bytes: u64) -> io::Result<()> {
        if digest == Digest::EMPTY {
            return Ok(());
        }
        let file = File::open(self.data_file(digest))?;
        if file.metadata()?.len() != size_bytes {
            return Err(io::Error::other(format!(
                "{digest} has another size than was imported"
            )));
        }
        file.sync_all()?;
        match File::open(self.paths.outboard_path(&Hash::from_bytes(*digest.as_bytes()))) {
            Ok(outboard) => outboard.sync_all(),
            // Blobs of up to one chunk group have none.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn read(&self, digest: Digest) -> Result<Blob, StoreError> {
        if digest == Digest::EMPTY {
            return Ok(Blob { digest, map: None });
        }
        let file = File::open(self.data_file(digest)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Corrupt(digest),
            _ => error.into(),
        })?;
        // SAFETY: a map is undefined behaviour if the file changes under it. Files in the data folder
        // are written once under a temporary name and renamed; only this process opens them (redb's
        // lock), and nothing in it writes to or truncates one. A sweep unlinks, which leaves maps whole.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Blob {
            digest,
            map: Some(map),
        })
    }

    fn read_verified(&self, digest: Digest) -> Result<Blob, StoreError> {
        let blob = self.read(digest)?;
        let mut hasher = blake3::Hasher::new();
        if blob.len() >= PARALLEL_HASH_BYTES {
            hasher.update_rayon(&blob);
        } else {
            hasher.update(&blob);
        }
        if hasher.finalize() == blake3::Hash::from_bytes(*digest.as_bytes()) {
            Ok(blob)
        } else {
            Err(StoreError::Corrupt(digest))
        }
    }

    fn quarantine(&self, digest: Digest) -> Result<(), StoreError> {
        tracing::error!(%digest, "a blob no longer matches its digest; it is quarantined");
        self.maps.invalidate(&digest);
        self.datasets.invalidate(&digest);
        self.verified
            .lock()
            .expect("no panic under this lock")
            .remove(&digest);
        self.state.set_standing(&[digest], Standing::Quarantined)
    }
}

/// The sweep's callback: names what must stay, and aborts the sweep when that cannot be known.
fn protect(state: Arc<State>, sweeper: Arc<Sweeper>) -> ProtectCb {
    Arc::new(move |live: &mut HashSet<Hash>| {
        let elapsed = sweeper.started.elapsed().as_millis() as u64;
        sweeper.last_sweep_ms.store(elapsed, Ordering::Relaxed);
        let outcome = match state.sweep(|digest| {
            sweeper
                .held
                .lock()
                .expect("no panic under this lock")
                .contains_key(digest)
        }) {
            Ok(protected) => {
                live.extend(
                    protected
                        .iter()
                        .map(|digest| Hash::from_bytes(*digest.as_bytes())),
                );
                let held = sweeper.held.lock().expect("no panic under this lock");
                live.extend(held.keys().map(|digest| Hash::from_bytes(*digest.as_bytes())));
                ProtectOutcome::Continue
            }
            Err(error) => {
                tracing::error!(%error, "cannot tell which blobs to keep; nothing is swept");
                ProtectOutcome::Abort
            }
        };
        Box::pin(std::future::ready(outcome))
    })
}

/// Empties `dir`, making it if it is not there.
fn clear_folder(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(dir),
    }
}

fn import_error(error: iroh_blobs::api::RequestError) -> StoreError {
    let text = error.to_string();
    // The error crosses the store's message channel as text; this is the only trace of the cause.
    if text.contains("No space left") || text.contains("StorageFull") {
        StoreError::DiskFull
    } else {
        StoreError::Blobs(text)
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    blocking_store(move || work().map_err(StoreError::from)).await
}

pub(crate) async fn blocking_store<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(StoreError::Io(io::Error::other(error))))
}
