//! Durable, verified blobs: the wrapper around iroh-blobs' `FsStore`.
//!
//! The order that makes an acknowledgement true: the bytes are imported under a temp tag (so that a
//! sweep leaves them alone), data and outboard are fsynced, their folder is fsynced, the `FsStore`'s
//! own database is synced, our row is committed, and only then is anybody told. A blob without a
//! row is served to nobody and swept away; importing it again rewrites its files.
//!
//! Blob files belong to this module: nothing else opens them.

mod aside;
mod leftovers;
mod staging;
mod sweep;
mod verify;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use iroh_blobs::Hash;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::{BatchOptions, InlineOptions, Options, PathOptions};
use nearfield_protocol::Digest;
use parking_lot::Mutex;

use self::leftovers::Leftovers;
use self::staging::FREE_FLOOR_BYTES;
use self::sweep::{SweepGuard, Sweeper};
use crate::elsewhere::{Change, Outside};
use crate::error::StoreError;
use crate::in_place::{InPlace, InPlaceShard, Objects};
use crate::state::{Standing, State};

pub use self::staging::{SealReport, Staged};
pub use self::verify::Blob;

/// How often what is evictable is collected: removed bytes need not be free at once.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// What other nodes' blobs may take by default.
pub const MAX_CACHED_BYTES: u64 = 8 << 30;
/// Maps held open at once: far below the kernel's 65,530 a process.
const MAX_MAPS: u64 = 8_192;

/// How a [`Store`] is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// Bytes that sealed blobs may take; `None` leaves it to the disk.
    pub max_bytes: Option<u64>,
    /// How often what is evictable is collected.
    pub sweep_interval: Duration,
    /// Folders whose files may be read in place.
    pub allow_paths: Vec<PathBuf>,
    /// The objects that may be read in place, if any may.
    pub objects: Option<Arc<dyn Objects>>,
    /// Bytes of other nodes' blobs that may stay here after they were fetched.
    pub max_cached_bytes: u64,
}

/// How long the underlying store may take to open, whatever the size of its database.
const LOADING: Duration = Duration::from_secs(120);
/// How fast it reads a database that it mends after a crash: slower than any disk.
const MENDED_BYTES_PER_SECOND: u64 = 4 << 20;

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            max_bytes: None,
            sweep_interval: SWEEP_INTERVAL,
            allow_paths: Vec::new(),
            objects: None,
            max_cached_bytes: MAX_CACHED_BYTES,
        }
    }
}

/// Opens the state, unless it or the underlying store's database is lost: begun anew, both would take the data that is there
/// for nobody's, and a sweep would remove it.
fn open_state(dir: &Path, root: &Path, data: &Path) -> Result<State, StoreError> {
    let lost = |path: &Path| StoreError::Lost {
        path: path.to_owned(),
        blobs: root.to_owned(),
    };
    let (path, database) = (dir.join("state.redb"), root.join("blobs.db"));
    let is_new = is_nothing(&path)?;
    if is_new && fs::read_dir(data)?.next().is_some() {
        return Err(lost(&path));
    }
    let state = State::open(&path)?;
    if is_new {
        // Its name is on disk before any blob is.
        fs::File::open(dir)?.sync_all()?;
    }
    match is_nothing(&database)? && state.sealed_blobs()? > 0 {
        true => Err(lost(&database)),
        false => Ok(state),
    }
}

/// Whether there is no file at `path`, or nothing in it.
fn is_nothing(path: &Path) -> Result<bool, StoreError> {
    match fs::metadata(path) {
        Ok(found) => Ok(found.len() == 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error.into()),
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
    spill_dir: PathBuf,
    /// Verified, mapped blobs. moka owns the locking.
    maps: moka::sync::Cache<Digest, Arc<Blob>>,
    /// Blobs whose bytes were checked in this process. The lock is held for one look-up.
    verified: Mutex<HashSet<Digest>>,
    pub(crate) datasets: moka::sync::Cache<Digest, Arc<crate::dataset::Dataset>>,
    sweeper: Arc<Sweeper>,
    /// Set when the blob store's own database has failed: it ends with its first failed write, and
    /// only a restart opens it again.
    stopped: OnceLock<StoreError>,
    leftovers: Leftovers,
    in_place: Arc<InPlace>,
    outside: Outside,
    /// Bytes of blobs that are staged: they count against the quota before they are sealed.
    staged_bytes: Arc<AtomicU64>,
    options: StoreOptions,
    /// The last field: whoever can open the state's file finds what else was open here closed.
    state: Arc<State>,
}

impl Store {
    /// Opens the store in `dir`, making it if it is not there.
    pub async fn open(dir: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        fs::create_dir_all(dir)?;
        let root = dir.join("blobs");
        let paths = PathOptions::new(&root);
        fs::create_dir_all(&paths.data_path)?;
        let state = Arc::new(open_state(dir, &root, &paths.data_path)?);
        clear_folder(&paths.temp_path)?;
        let spill_dir = paths.temp_path.join("spill");
        fs::create_dir(&spill_dir)?;
        let outside = Outside::open(&state, options.max_cached_bytes)?;
        let in_place = InPlace::open(dir, &options.allow_paths, options.objects.clone())?;

        // Last of all that can fail: only a shutdown closes its database, and to open that twice never ends.
        let sweeper = Arc::new(Sweeper::new());
        let loading = FsStore::load_with_opts(
            root.join("blobs.db"),
            Options {
                path: paths.clone(),
                // Inlined blobs would have no file to map.
                inline: InlineOptions::NO_INLINE,
                batch: BatchOptions::default(),
                gc: Some(sweep::config(options.sweep_interval, &state, &sweeper)),
            },
        );
        let broken = |cause: String| StoreError::Broken {
            path: root.join("blobs.db"),
            cause,
        };
        // The underlying store waits for its own runtime, for ever, when it cannot open its database.
        let size_bytes = fs::metadata(root.join("blobs.db")).map_or(0, |found| found.len());
        let patience = LOADING + Duration::from_secs(size_bytes / MENDED_BYTES_PER_SECOND);
        let fs = tokio::time::timeout(patience, loading)
            .await
            .map_err(|_| broken(format!("it is not open after {} s", patience.as_secs())))?
            .map_err(|error| broken(error.to_string()))?;

        let inner = Inner {
            fs,
            paths,
            spill_dir,
            maps: moka::sync::Cache::new(MAX_MAPS),
            verified: Mutex::default(),
            datasets: moka::sync::Cache::new(crate::dataset::MAX_OPEN_DATASETS),
            sweeper,
            stopped: OnceLock::new(),
            leftovers: Leftovers::default(),
            in_place: Arc::new(in_place),
            outside,
            staged_bytes: Arc::default(),
            options,
            state,
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
        &self.inner.spill_dir
    }

    pub(crate) fn datasets(&self) -> &moka::sync::Cache<Digest, Arc<crate::dataset::Dataset>> {
        &self.inner.datasets
    }

    pub(crate) fn in_place(&self) -> &Arc<InPlace> {
        &self.inner.in_place
    }

    pub(crate) fn outside(&self) -> &Outside {
        &self.inner.outside
    }

    pub(crate) fn state(&self) -> &Arc<State> {
        &self.inner.state
    }

    /// When the latest of a network's records was written that were here, in milliseconds since 1970; 0 if none was noted. By this a
    /// node tells records that are older than its blobs.
    pub async fn records_unix_ms(&self, network: &str) -> Result<u64, StoreError> {
        let (state, network) = (self.inner.state.clone(), network.to_owned());
        blocking_store(move || state.records_unix_ms(&network)).await
    }

    /// Notes when the latest of a network's records was written. Durable when this returns.
    pub async fn note_records(&self, network: &str, unix_ms: u64) -> Result<(), StoreError> {
        let (state, network) = (self.inner.state.clone(), network.to_owned());
        blocking_store(move || state.note_records(&network, unix_ms)).await
    }

    pub(crate) async fn in_place_shard(
        &self,
        digest: &Digest,
    ) -> Result<Option<Arc<InPlaceShard>>, StoreError> {
        let (in_place, digest) = (self.inner.in_place.clone(), *digest);
        blocking_store(move || in_place.shard(&digest)).await
    }

    /// The size of a sealed blob that may be served, or of a shard in place, in bytes.
    pub fn size_of(&self, digest: &Digest) -> Result<u64, StoreError> {
        if let Some(blob) = self.inner.maps.get(digest) {
            return Ok(blob.len() as u64);
        }
        let stored = match self.inner.state.get(digest)? {
            None => Err(StoreError::Missing(*digest)),
            Some(sealed) if sealed.standing == Standing::Quarantined => Err(StoreError::Corrupt(*digest)),
            Some(sealed) => return Ok(sealed.size_bytes),
        };
        match self.inner.in_place.size_of(digest)? {
            Some(size_bytes) => Ok(size_bytes),
            None => stored,
        }
    }

    /// The bytes that a blob takes in this store: none where it lies in somebody else's file alone.
    pub fn stored_bytes(&self, digest: &Digest) -> Result<u64, StoreError> {
        let sealed = self.inner.state.get(digest)?;
        Ok(sealed.map_or(0, |sealed| sealed.size_bytes))
    }

    /// Whether there is a place, outside the store, with these bytes.
    pub fn lies_in_place(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.in_place().size_of(digest)?.is_some())
    }

    /// Whether the blob is sealed and may be served.
    pub fn has(&self, digest: &Digest) -> bool {
        self.size_of(digest).is_ok()
    }

    /// Marks blobs that nothing refers to any more, so that the next sweep collects them.
    pub async fn release(&self, digests: Vec<Digest>) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || {
            inner.state.set_standing(&digests, Standing::Evictable)?;
            inner.in_place.forget(&digests)?;
            inner.outside.forget(&digests);
            inner.forget_open(&digests);
            inner.outside.tell(Change::Removed(digests.into()));
            Ok(())
        })
        .await
    }

    /// Lets go of what is here of these, which may not rest here; the next sweep removes their files. Returns those that
    /// were kept until now.
    pub async fn erase(&self, digests: Vec<Digest>) -> Result<usize, StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || {
            let mut lying = Vec::new();
            for digest in &digests {
                if inner.in_place.size_of(digest)?.is_some() {
                    lying.push(*digest);
                }
            }
            inner.in_place.forget(&lying)?;
            let kept = [Standing::Live, Standing::Cached, Standing::Quarantined];
            let mut gone = inner.state.change(&digests, &kept, Standing::Evictable)?;
            gone.append(&mut lying);
            inner.outside.forget(&gone);
            inner.forget_open(&gone);
            let count = gone.len();
            inner.outside.tell(Change::Removed(gone.into()));
            Ok(count)
        })
        .await
    }

    /// Keeps these from being swept until it is dropped.
    pub(crate) fn hold(&self, digests: &[Digest]) -> Vec<SweepGuard> {
        let hold = |digest: &Digest| SweepGuard::new(&self.inner.sweeper, *digest);
        digests.iter().map(hold).collect()
    }

    pub(crate) fn forget_open(&self, digests: &[Digest]) {
        self.inner.forget_open(digests);
    }

    /// Takes the mark of [`Store::release`] away. Refused if one of the blobs is not here any more.
    pub async fn revive(&self, digests: Vec<Digest>) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || {
            let mut stored = Vec::with_capacity(digests.len());
            for digest in digests {
                // The empty blob belongs to everybody.
                if digest != Digest::EMPTY && inner.in_place.size_of(&digest)?.is_none() {
                    stored.push(digest);
                }
            }
            inner.state.revive(&stored)
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

    /// Every sealed blob that is not marked for collection, and every shard in place.
    pub fn live(&self) -> Result<Vec<Digest>, StoreError> {
        let mut live = self.inner.state.live()?;
        live.extend(self.inner.in_place.digests()?);
        Ok(live)
    }

    /// Bytes and number of sealed blobs.
    pub fn usage(&self) -> Result<(u64, u64), StoreError> {
        Ok((self.inner.state.sealed_bytes()?, self.inner.state.sealed_blobs()?))
    }

    /// Bytes that it can still take, by its own limit and by the disk.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let disk = rustix::fs::statvfs(&self.inner.paths.data_path).map_err(std::io::Error::from)?;
        let on_disk = disk
            .f_bavail
            .saturating_mul(disk.f_frsize)
            .saturating_sub(FREE_FLOOR_BYTES);
        let Some(max_bytes) = self.inner.options.max_bytes else {
            return Ok(on_disk);
        };
        Ok(on_disk.min(max_bytes.saturating_sub(self.lasting_bytes()?)))
    }

    /// Bytes of blobs that are kept, without those that are only cached.
    pub fn lasting_bytes(&self) -> Result<u64, StoreError> {
        let cached_bytes = self.inner.outside.cached_bytes();
        Ok(self.inner.state.kept_bytes()?.saturating_sub(cached_bytes))
    }

    /// Why the store cannot do its work, if it cannot, and what helps.
    pub fn unhealthy(&self) -> Option<String> {
        let inner = &self.inner;
        let stopped = inner.stopped.get().or_else(|| inner.state.stopped());
        stopped
            .map(StoreError::to_string)
            .or_else(|| inner.sweeper.late(inner.options.sweep_interval))
    }

    /// Ends the puts in place that are under way, with an error.
    pub fn stop(&self) {
        self.inner.in_place.stop();
    }

    /// Waits until all is written; the folder may be opened again afterwards.
    pub async fn shutdown(&self) {
        self.inner.in_place.stop();
        if let Err(error) = self.inner.fs.shutdown().await {
            tracing::warn!(%error, "the blob store did not shut down cleanly");
        }
        self.inner.in_place.close();
    }
}

impl Inner {
    fn forget_open(&self, digests: &[Digest]) {
        let mut verified = self.verified.lock();
        for digest in digests {
            self.maps.invalidate(digest);
            self.datasets.invalidate(digest);
            verified.remove(digest);
        }
    }

    fn data_file(&self, digest: Digest) -> PathBuf {
        self.paths.data_path(&Hash::from_bytes(*digest.as_bytes()))
    }
}

/// Empties `dir`, making it if it is not there.
fn clear_folder(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(dir),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_open_that_fails_leaves_nothing_open() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Store::open(folder.path(), StoreOptions::default());
        open().await.unwrap().shutdown().await;
        for name in ["state.redb", "in-place.redb"] {
            let other = crate::database::open(&folder.path().join(name)).unwrap();
            let error = open().await.err().expect("another has its file");
            assert!(matches!(error, StoreError::InUse(_)), "{name}: {error}");
            drop(other);
            open().await.expect(name).shutdown().await;
        }
    }
}
