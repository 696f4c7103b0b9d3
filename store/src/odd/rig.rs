//! A store for many cases, and what they do with it.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use nearfield_protocol::{Digest, Split};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{Dataset, Location, Placement, PutRequest, StagedInput, Store, StoreError, StoreOptions};

/// Cases of one store: what they leave there is gone with it.
const CASES: u32 = 500;
/// The smallest that shards may be cut towards, so that small files have several.
const SHARD_BYTES: u32 = 64 << 10;

/// A store, and a folder that it may read in place.
pub struct Rig {
    store: Store,
    folder: PathBuf,
    _dir: TempDir,
    used: u32,
}

/// Runs a case on a store that other cases used before.
pub fn with_rig<T>(case: impl FnOnce(&Rig) -> T) -> T {
    static RIG: Mutex<Option<Rig>> = Mutex::new(None);
    let mut rig = RIG.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if rig.as_ref().is_some_and(|rig| rig.used >= CASES)
        && let Some(old) = rig.take()
    {
        runtime().block_on(old.store.shutdown());
    }
    let rig = rig.get_or_insert_with(Rig::open);
    rig.used += 1;
    case(rig)
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().unwrap())
}

pub fn request(name: &str, split: Option<Split>) -> PutRequest {
    PutRequest {
        source: name.to_owned(),
        split,
        shard_size_bytes: Some(SHARD_BYTES),
        header: None,
        folder: false,
        placement: Placement::Whole,
        key: None,
        exclude: Vec::new(),
    }
}

impl Rig {
    fn open() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap().join("lies-here");
        std::fs::create_dir(&folder).unwrap();
        let options = StoreOptions {
            allow_paths: vec![folder.clone()],
            ..StoreOptions::default()
        };
        let store = runtime()
            .block_on(Store::open(&dir.path().join("store"), options))
            .unwrap();
        Rig {
            store,
            folder,
            _dir: dir,
            used: 0,
        }
    }

    /// A folder of this case alone, which may be put in place.
    pub fn folder(&self) -> TempDir {
        TempDir::new_in(&self.folder).unwrap()
    }

    pub fn put(&self, sent: &[u8], request: PutRequest) -> Result<Arc<Dataset>, StoreError> {
        let input = Cursor::new(sent.to_vec());
        let staged = runtime().block_on(self.store.stage_input(Box::new(input), request, Arc::default()))?;
        self.seal(staged, None)
    }

    /// As a gateway appends: cut as what is there, without the header that is there.
    pub fn append(&self, base: &Arc<Dataset>, sent: &[u8], name: &str) -> Result<Arc<Dataset>, StoreError> {
        base.check_grows()?;
        let mut request = request(name, Some(base.meta.split));
        request.placement = Placement::Append(None);
        request.header = base.header_of(&request.placement);
        let input = Cursor::new(sent.to_vec());
        let staged = runtime().block_on(self.store.stage_input(Box::new(input), request, Arc::default()))?;
        self.seal(staged, Some(base.clone()))
    }

    pub fn put_in_place(&self, path: &Path, split: Option<Split>) -> Result<Arc<Dataset>, StoreError> {
        let name = path.file_name().unwrap().to_str().unwrap();
        let place = path.to_str().unwrap().to_owned();
        let staged = self
            .store
            .stage_in_place(place, request(name, split), Arc::default());
        let staged = runtime().block_on(staged)?;
        self.seal(staged, None)
    }

    fn seal(&self, staged: StagedInput, base: Option<Arc<Dataset>>) -> Result<Arc<Dataset>, StoreError> {
        runtime().block_on(async {
            let staged = self.store.stage_dataset(staged, base).await?;
            let report = self.store.seal_dataset(staged).await?;
            self.store.dataset(&report.digest).await
        })
    }

    /// All bytes of a dataset that was one stream.
    pub fn whole(&self, dataset: &Dataset) -> Result<Vec<u8>, StoreError> {
        self.read(dataset, dataset.whole())
    }

    pub fn file(&self, dataset: &Dataset, path: &str) -> Option<Result<Vec<u8>, StoreError>> {
        Some(self.read(dataset, dataset.locate(path)?))
    }

    fn read(&self, dataset: &Dataset, location: Location) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        for extent in dataset.extents(location, 0..location.size_bytes) {
            let digest = dataset.shards[extent.shard as usize];
            bytes.extend(self.part(&digest, extent.offset..extent.offset + extent.size_bytes)?);
        }
        Ok(bytes)
    }

    fn part(&self, digest: &Digest, range: std::ops::Range<u64>) -> Result<Bytes, StoreError> {
        runtime().block_on(self.store.shard(digest))?.read(range)
    }

    /// Each shard's bytes, with its header before it where it has one that is not in it.
    pub fn tables(&self, dataset: &Dataset) -> Vec<Vec<u8>> {
        let table = |index: u32| {
            let (shard, digest) = dataset.shard(index)?;
            let bytes = self.part(&digest, 0..shard.size_bytes).unwrap();
            let header = shard
                .header
                .map(|header| &dataset.meta.headers[header as usize][..]);
            let header = header
                .filter(|header| !bytes.starts_with(header))
                .unwrap_or_default();
            Some([header, &bytes].concat())
        };
        (0..).map_while(table).collect()
    }

    /// The records of a key, as a guest finds them.
    pub fn look_up(&self, dataset: &Dataset, key: &[u8]) -> Option<Vec<u8>> {
        let block = dataset.key_block(key)?;
        let digest = dataset.shards[block.shard as usize];
        let bytes = self
            .part(&digest, block.offset..block.offset + block.size_bytes)
            .unwrap();
        let found = dataset.find_key(&bytes, key).unwrap()?;
        Some(bytes[found].to_vec())
    }
}
