//! Datasets as they are read: a HashSeq blob, its meta, its index, its shards.

use std::sync::Arc;

use bytes::Bytes;
use nearfield_protocol::Digest;
use nearfield_protocol::meta::{DatasetMeta, ShardMeta};

use crate::blobs::{Blob, Store};
use crate::error::StoreError;
use crate::keyed::{self, Extract, KeyIndex};
use crate::layout::{Layout, Placement};
use crate::path_index::{Entry, EntryKind, NotFollowed, PathIndex};

/// Open datasets kept: a meta of 10,000 shards takes about half a megabyte.
pub(crate) const MAX_OPEN_DATASETS: u64 = 256;

/// One version of a dataset, open for reading.
pub struct Dataset {
    pub digest: Digest,
    pub meta: DatasetMeta,
    /// The shards' digests, in order.
    pub shards: Vec<Digest>,
    /// Where the files of a folder lie.
    pub paths: Option<PathIndex<BlobBytes>>,
    /// Of what is sorted.
    keys: Option<Keys>,
    /// The meta's and the index's own digests.
    parts: [Digest; 2],
}

/// Where keys lie in a dataset that is sorted, and how records tell theirs.
struct Keys {
    index: KeyIndex<BlobBytes>,
    extract: Extract,
}

/// A blob as the bytes of an index.
pub struct BlobBytes(Arc<Blob>);

impl AsRef<[u8]> for BlobBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Where a file lies in a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The first shard that holds it.
    pub shard: u32,
    /// Where it starts in that shard, in bytes.
    pub offset: u64,
    pub size_bytes: u64,
}

/// A piece of one shard: the unit in which content is streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub shard: u32,
    pub offset: u64,
    pub size_bytes: u64,
}

impl Dataset {
    /// The header of the CSV file that an append as `placement` says would follow.
    pub fn header_of(self: &Arc<Self>, placement: &Placement) -> Option<Bytes> {
        Layout::of(self).header_of(placement)
    }

    /// Whether something can be added to it.
    pub fn check_grows(&self) -> Result<(), StoreError> {
        match &self.meta.key {
            None => Ok(()),
            Some(key) => Err(StoreError::Unlike(format!(
                "its records are sorted by `{0}`: put all of them again with `--key {0}`",
                key.name
            ))),
        }
    }

    /// Every blob that this version needs, its own included.
    pub fn blobs(&self) -> impl Iterator<Item = Digest> + '_ {
        [self.digest]
            .into_iter()
            .chain(self.parts)
            .chain(self.shards.iter().copied())
    }

    /// The blobs that say what the dataset is: its list, its meta, its index.
    pub fn heads(&self) -> impl Iterator<Item = Digest> + '_ {
        [self.digest].into_iter().chain(self.parts)
    }

    /// The meta and digest of shard `index`.
    pub fn shard(&self, index: u32) -> Option<(&ShardMeta, Digest)> {
        let at = index as usize;
        Some((self.meta.shards.get(at)?, self.shards[at]))
    }

    /// Where the regular file `path` lies. `None` if there is none, or the dataset was no folder.
    pub fn locate(&self, path: &str) -> Option<Location> {
        location(&self.paths.as_ref()?.get(path)?)
    }

    /// Where the records of `key` lie, if there are any and the dataset is sorted: a whole number of records in a shard.
    pub fn key_block(&self, key: &[u8]) -> Option<Extent> {
        let shard = self.meta.key.as_ref()?.shard_of(key)?;
        let block = self.keys.as_ref()?.index.block_of(key)?;
        let size_bytes = self.meta.shards[shard as usize].size_bytes;
        let end = block.end.unwrap_or(size_bytes).min(size_bytes);
        // An index that was made elsewhere may say anything.
        let size_bytes = end.checked_sub(block.offset).filter(|_| block.shard == shard)?;
        Some(Extent {
            shard,
            offset: block.offset,
            size_bytes,
        })
    }

    /// Where in a [`Dataset::key_block`] the records of `key` lie.
    pub fn find_key(&self, block: &[u8], key: &[u8]) -> Result<Option<std::ops::Range<usize>>, String> {
        let keys = self.keys.as_ref().ok_or("the dataset was put without a key")?;
        keyed::find(keys.extract.clone(), self.meta.split, block, key)
    }

    /// Where the file lies that `path` leads to, through links if there are any.
    pub fn follow(&self, path: &str) -> Result<Location, NotFollowed> {
        let entry = self.paths.as_ref().ok_or(NotFollowed::Missing)?.follow(path)?;
        location(&entry).ok_or(NotFollowed::Missing)
    }

    /// Whether the file that `path` leads to may be run.
    pub fn is_executable(&self, path: &str) -> bool {
        let entry = self.paths.as_ref().and_then(|paths| paths.follow(path).ok());
        entry.is_some_and(|entry| matches!(entry.kind, EntryKind::File { executable: true, .. }))
    }

    /// The entries of the folder, in path order; none if the dataset was no folder.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.paths.iter().flat_map(|paths| paths.iter())
    }

    /// The entries of the folder behind `key`, in path order.
    pub fn entries_behind<'a>(&'a self, key: &'a str) -> impl Iterator<Item = Entry> + 'a {
        self.paths.iter().flat_map(move |paths| paths.behind(key))
    }

    /// The pieces of shards that hold the bytes `range` of the file at `location`.
    pub fn extents(&self, location: Location, range: std::ops::Range<u64>) -> Vec<Extent> {
        let end = range.end.min(location.size_bytes);
        let mut extents = Vec::new();
        let (mut shard, mut offset) = (location.shard, location.offset.saturating_add(range.start));
        let mut left = end.saturating_sub(range.start);
        while left > 0 {
            let Some(meta) = self.meta.shards.get(shard as usize) else {
                break;
            };
            if offset < meta.size_bytes {
                let size_bytes = left.min(meta.size_bytes - offset);
                extents.push(Extent {
                    shard,
                    offset,
                    size_bytes,
                });
                left -= size_bytes;
                offset = 0;
            } else {
                offset -= meta.size_bytes;
            }
            shard += 1;
        }
        extents
    }

    /// All bytes of a dataset that was one stream, as a location.
    pub fn whole(&self) -> Location {
        Location {
            shard: 0,
            offset: 0,
            size_bytes: self.meta.size_bytes,
        }
    }
}

/// Where a regular file lies.
fn location(entry: &Entry) -> Option<Location> {
    match entry.kind {
        EntryKind::File {
            shard, offset, len, ..
        } => Some(Location {
            shard,
            offset,
            size_bytes: len,
        }),
        _ => None,
    }
}

impl Store {
    /// Opens a dataset; kept open, so that calls share it.
    pub async fn dataset(&self, digest: &Digest) -> Result<Arc<Dataset>, StoreError> {
        if let Some(dataset) = self.datasets().get(digest) {
            return Ok(dataset);
        }
        let dataset = self.read_dataset(digest, false).await?;
        self.datasets().insert(*digest, dataset.clone());
        Ok(dataset)
    }

    /// The same, and nothing that is fetched for it stays here.
    pub async fn dataset_in_passing(&self, digest: &Digest) -> Result<Arc<Dataset>, StoreError> {
        match self.datasets().get(digest) {
            Some(dataset) => Ok(dataset),
            None => self.read_dataset(digest, true).await,
        }
    }

    async fn read_dataset(&self, digest: &Digest, in_passing: bool) -> Result<Arc<Dataset>, StoreError> {
        let refused = |reason: &str| StoreError::NotADataset {
            digest: *digest,
            reason: reason.to_owned(),
        };
        let sequence = self.part(digest, in_passing).await?;
        let (hashes, rest) = sequence.as_chunks::<32>();
        let [meta_digest, index_digest, shards @ ..] = hashes else {
            return Err(refused("it is shorter than two digests"));
        };
        if !rest.is_empty() {
            return Err(refused("its length is no multiple of 32"));
        }
        let meta_digest = Digest::from_bytes(*meta_digest);
        let index_digest = Digest::from_bytes(*index_digest);
        let meta = DatasetMeta::decode(&self.part(&meta_digest, in_passing).await?)
            .map_err(|error| StoreError::not_a_dataset(*digest, error))?;
        if meta.shards.len() != shards.len() {
            return Err(refused("its meta speaks of another number of shards"));
        }
        let index = self.part(&index_digest, in_passing).await?;
        let (mut paths, mut keys) = (None, None);
        match &meta.key {
            // Without a record there is no header to find the key by.
            Some(_) if meta.shards.is_empty() => {}
            Some(key) => {
                keys = Some(Keys {
                    index: KeyIndex::parse(BlobBytes(index)).map_err(|error| refused(&error.to_string()))?,
                    extract: Extract::of(&meta, key).map_err(|error| refused(&error.to_string()))?,
                });
            }
            None if index.is_empty() => {}
            None => {
                let index = PathIndex::parse(BlobBytes(index));
                paths = Some(index.map_err(|error| refused(&error.to_string()))?);
            }
        }
        Ok(Arc::new(Dataset {
            digest: *digest,
            meta,
            shards: shards.iter().map(|bytes| Digest::from_bytes(*bytes)).collect(),
            paths,
            keys,
            parts: [meta_digest, index_digest],
        }))
    }

    /// One of the blobs that say what a dataset is.
    async fn part(&self, digest: &Digest, in_passing: bool) -> Result<Arc<Blob>, StoreError> {
        match in_passing {
            true => self.blob_in_passing(digest).await,
            false => self.blob(digest).await,
        }
    }
}
