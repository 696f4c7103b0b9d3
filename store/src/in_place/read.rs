//! Reading shards where they lie: each range is read into memory of ours, then checked, then given away. A map would change
//! under its reader.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nearfield_protocol::Digest;

use super::InPlace;
use super::groups::Groups;
use super::source::{Source, SourceError};
use super::table::Place;
use crate::error::StoreError;

/// A shard in a file that belongs to somebody else.
pub struct InPlaceShard {
    digest: Digest,
    groups: Groups,
    place: Place,
    in_place: Arc<InPlace>,
}

impl InPlaceShard {
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn size_bytes(&self) -> u64 {
        self.groups.size_bytes()
    }

    /// What it takes in memory, roughly.
    pub fn held_bytes(&self) -> u32 {
        u32::try_from(self.groups.values().len() + self.place.path.len() + 256).unwrap_or(u32::MAX)
    }

    /// The bytes `range`, which must lie within: those that were put, or an error that names the file.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let around = self.groups.around(&range);
        let path = Path::new(&self.place.path);
        // A file that was opened before it was replaced is opened once more.
        for fresh in [false, true] {
            if fresh {
                self.in_place.open.invalidate(path);
            }
            let source = match self.in_place.source(path) {
                Ok(source) => source,
                // It is not the file that has changed.
                Err(StoreError::Source(error @ SourceError::NotAllowed { .. })) => return Err(error.into()),
                Err(_) => continue,
            };
            if let Some(bytes) = self.checked(&source, &around) {
                let start = (range.start - around.start) as usize;
                let len = (range.end - range.start) as usize;
                return Ok(bytes.slice(start..start + len));
            }
        }
        self.in_place.shards.invalidate(&self.digest);
        self.in_place.table.distrust(&self.place.path)?;
        Err(StoreError::SourceChanged {
            path: self.place.path.clone(),
            digest: self.digest,
        })
    }

    fn checked(&self, source: &Source, around: &Range<u64>) -> Option<Bytes> {
        let at = |within| self.place.offset + within;
        let bytes = source.read(at(around.start), at(around.end)).ok()??;
        self.groups.check(around.start, &bytes).then(|| bytes.into())
    }
}

impl InPlace {
    /// The shard, in the first of its places that seems to hold it still.
    pub fn shard(self: &Arc<Self>, digest: &Digest) -> Result<Option<Arc<InPlaceShard>>, StoreError> {
        if let Some(open) = self.opened(digest) {
            return Ok(Some(open));
        }
        let Some((groups, places)) = self.table.shard(digest)? else {
            return Ok(None);
        };
        let mut shards = places.into_iter().map(|place| InPlaceShard {
            digest: *digest,
            groups: groups.clone(),
            place,
            in_place: self.clone(),
        });
        let Some(first) = shards.next() else {
            return Ok(None);
        };
        let size = groups.size_bytes();
        // Its ends, which an edit before them or a truncation would move.
        let holds = |shard: &InPlaceShard| {
            shard.read(0..size.min(1)).is_ok() && shard.read(size.saturating_sub(1)..size).is_ok()
        };
        let found = match holds(&first) {
            true => first,
            false => match shards.find(holds) {
                Some(found) => found,
                // None has it: reading it from where it was first tells which file changed.
                None => return Ok(Some(Arc::new(first))),
            },
        };
        let found = Arc::new(found);
        self.shards.insert(*digest, found.clone());
        Ok(Some(found))
    }

    /// The shard if it was read lately.
    pub fn opened(&self, digest: &Digest) -> Option<Arc<InPlaceShard>> {
        self.shards.get(digest)
    }

    fn source(&self, path: &Path) -> Result<Arc<Source>, StoreError> {
        if let Some(source) = self.open.get(path) {
            return Ok(source);
        }
        let source = Arc::new(self.allowed.source(path)?);
        self.open.insert(path.to_owned(), source.clone());
        Ok(source)
    }
}
