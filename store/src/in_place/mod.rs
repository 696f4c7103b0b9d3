//! Data that stays where it is: shards as ranges of files and objects that belong to somebody else.
//!
//! `source` opens what may be opened, `identity` tells its states apart, `objects` is what lies on servers; `groups` is what
//! bytes are checked with; `table` knows files and shards; `index` cuts and hashes, and reads only what is new; `read`
//! gives bytes, checked each time. No file is ever written to or locked.

pub(crate) mod groups;
mod identity;
mod index;
mod objects;
mod read;
mod source;
mod table;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nearfield_protocol::Digest;
use parking_lot::Mutex;

use self::objects::Reader;
use self::source::{Allowed, Source};
use self::table::Table;
use crate::error::StoreError;

pub use self::objects::{FoundObjects, Object, ObjectError, Objects};
pub use self::read::InPlaceShard;
pub use self::source::SourceError;

/// Files held open at once.
const MAX_OPEN_FILES: u64 = 256;
/// How long a file that nobody reads stays open: deleted meanwhile, it keeps its room on the disk.
const OPEN_IDLE: Duration = Duration::from_secs(30);
/// Bytes of groups held of shards that were read lately.
const MAX_OPEN_BYTES: u64 = 64 << 20;

/// The files and objects of others that this store knows.
pub(crate) struct InPlace {
    table: Table,
    allowed: Allowed,
    /// None: this node reads no objects in place.
    objects: Option<Reader>,
    /// By path. A file that was replaced meanwhile is still the one that was opened.
    open: moka::sync::Cache<PathBuf, Arc<Source>>,
    shards: moka::sync::Cache<Digest, Arc<InPlaceShard>>,
    /// Shards of puts that are under way, each as often as they are. The lock is held for one look-up.
    staged: Mutex<HashMap<Digest, usize>>,
    /// The node is about to end: a file of a terabyte is not read to its end first.
    stopping: AtomicBool,
}

impl InPlace {
    pub fn open(
        dir: &Path,
        allow_paths: &[PathBuf],
        objects: Option<Arc<dyn Objects>>,
    ) -> Result<Self, StoreError> {
        Ok(InPlace {
            table: Table::open(&dir.join("in-place.redb"))?,
            allowed: Allowed::open(allow_paths, dir)?,
            objects: objects.map(Reader::new),
            open: moka::sync::Cache::builder()
                .max_capacity(MAX_OPEN_FILES)
                .time_to_idle(OPEN_IDLE)
                .build(),
            shards: moka::sync::Cache::builder()
                .max_capacity(MAX_OPEN_BYTES)
                .weigher(|_, shard: &Arc<InPlaceShard>| shard.held_bytes())
                .build(),
            staged: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Ends the puts that are under way.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Closes the files that were read lately.
    pub fn close(&self) {
        self.shards.invalidate_all();
        self.open.invalidate_all();
        self.shards.run_pending_tasks();
        self.open.run_pending_tasks();
    }

    /// An error once the node is about to end.
    fn going_on(&self) -> io::Result<()> {
        match self.stopping.load(Ordering::Relaxed) {
            true => Err(io::Error::other(
                "the node is stopping: put it again when it is up",
            )),
            false => Ok(()),
        }
    }

    fn objects(&self) -> Result<&Reader, SourceError> {
        self.objects.as_ref().ok_or(SourceError::NoObjects)
    }

    pub fn size_of(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        self.table.size_of(digest)
    }

    pub fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        self.table.digests()
    }

    /// Forgets shards that nothing refers to, but for those of puts under way.
    pub fn forget(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let known: Vec<_> = {
            let staged = self.staged.lock();
            digests
                .iter()
                .filter(|digest| !staged.contains_key(digest))
                .copied()
                .collect()
        };
        for digest in &known {
            self.shards.invalidate(digest);
        }
        match known.is_empty() {
            true => Ok(()),
            false => self.table.forget(&known),
        }
    }
}

/// Keeps shards in the table while a put that found or hashed them is under way.
pub(crate) struct StagedInPlace {
    in_place: Arc<InPlace>,
    digests: Vec<Digest>,
}

impl StagedInPlace {
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    fn add(&mut self, digest: Digest) {
        let mut staged = self.in_place.staged.lock();
        *staged.entry(digest).or_default() += 1;
        self.digests.push(digest);
    }
}

impl Drop for StagedInPlace {
    fn drop(&mut self) {
        let mut staged = self.in_place.staged.lock();
        for digest in &self.digests {
            if let Some(times) = staged.get_mut(digest) {
                *times -= 1;
                if *times == 0 {
                    staged.remove(digest);
                }
            }
        }
    }
}
