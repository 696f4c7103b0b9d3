//! Reading shards where they lie: each range is read into memory of ours, then checked, then given away. A map would change
//! under its reader.
//!
//! The same bytes may lie in many places, and a place may be stale. A read tries one after the other; those that no
//! longer hold the shard are forgotten, and the file is read again at the next put.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use nearfield_protocol::Digest;
use parking_lot::RwLock;

use super::InPlace;
use super::groups::Groups;
use super::objects::{ObjectError, is_url, site};
use super::source::{Source, SourceError};
use super::table::FilePlace;
use crate::error::StoreError;

/// A shard in files that belong to somebody else.
pub struct InPlaceShard {
    digest: Digest,
    groups: Groups,
    /// Where it may lie, what is tried first in front; never empty. The lock is held to copy the pointer.
    places: RwLock<Arc<[FilePlace]>>,
    in_place: Arc<InPlace>,
}

/// What came of reading in one place.
enum Outcome {
    Read(Bytes),
    /// Other bytes are there, or none.
    Changed,
    /// Nothing can be said of the bytes.
    Failed(StoreError),
}

impl InPlaceShard {
    /// What its bytes are checked with.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn size_bytes(&self) -> u64 {
        self.groups.size_bytes()
    }

    /// What it takes in memory, roughly.
    pub fn held_bytes(&self) -> u32 {
        let places: usize = self.places().iter().map(|place| place.path.len() + 64).sum();
        u32::try_from(self.groups.values().len() + places + 256).unwrap_or(u32::MAX)
    }

    /// The bytes `range`, which must lie within: those that were put, or an error that names the file.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let around = self.groups.around(&range);
        let (mut tried, mut changed, mut failed) = (Vec::new(), Vec::new(), None);
        let mut failed_sites = Vec::new();
        loop {
            let places = self.places();
            for place in places.iter() {
                if tried.contains(place) {
                    continue;
                }
                tried.push(place.clone());
                // A server that does not answer is waited for once.
                if is_url(&place.path) && failed_sites.contains(&site(&place.path).to_owned()) {
                    continue;
                }
                match self.read_at(place, &around) {
                    Outcome::Read(bytes) => {
                        if !changed.is_empty() {
                            self.in_place.table.drop_places(&self.digest, &changed)?;
                            self.put_first(place, &changed);
                        }
                        let start = (range.start - around.start) as usize;
                        let len = (range.end - range.start) as usize;
                        return Ok(bytes.slice(start..start + len));
                    }
                    Outcome::Changed => changed.push(place.clone()),
                    Outcome::Failed(error) => {
                        failed_sites.push(site(&place.path).to_owned());
                        failed = Some(error);
                    }
                }
            }
            // A put since this was opened may have found it elsewhere.
            self.in_place.table.drop_places(&self.digest, &changed)?;
            let known = self.in_place.table.shard(&self.digest)?.map(|(_, places)| places);
            match known {
                Some(known) if known.iter().any(|place| !tried.contains(place)) => self.set_places(known),
                _ => break,
            }
        }
        self.in_place.shards.invalidate(&self.digest);
        if let Some(error) = failed {
            return Err(error);
        }
        let path = tried.into_iter().next().map_or(String::new(), |place| place.path);
        tracing::warn!(%path, digest = %self.digest.short(), "a file that was put in place has changed");
        Err(StoreError::SourceChanged {
            path,
            digest: self.digest,
        })
    }

    fn read_at(&self, place: &FilePlace, around: &Range<u64>) -> Outcome {
        if is_url(&place.path) {
            return self.read_object(place, around);
        }
        let path = Path::new(&place.path);
        // A file that was opened before it was replaced is opened once more.
        for fresh in [false, true] {
            if fresh {
                self.in_place.open.invalidate(path);
            }
            let source = match self.in_place.source(path) {
                Ok(source) => source,
                Err(error) if is_gone(&error) => return Outcome::Changed,
                Err(error) => return Outcome::Failed(error.into()),
            };
            match source.read(place.offset + around.start, place.offset + around.end) {
                Ok(Some(bytes)) if self.groups.check(around.start, &bytes) => {
                    return Outcome::Read(bytes.into());
                }
                Ok(_) => {}
                Err(error) => {
                    let path = path.to_owned();
                    return Outcome::Failed(SourceError::Io { path, error }.into());
                }
            }
        }
        Outcome::Changed
    }

    fn read_object(&self, place: &FilePlace, around: &Range<u64>) -> Outcome {
        let reader = match self.in_place.objects() {
            Ok(reader) => reader,
            Err(error) => return Outcome::Failed(error.into()),
        };
        let at = (place.path.as_str(), place.offset);
        match reader.read((&self.digest, &self.groups), at, around) {
            Ok(bytes) => Outcome::Read(bytes),
            Err(ObjectError::Changed(_)) => Outcome::Changed,
            Err(failed) => Outcome::Failed(SourceError::from(failed).into()),
        }
    }

    fn places(&self) -> Arc<[FilePlace]> {
        self.places.read().clone()
    }

    fn set_places(&self, places: Vec<FilePlace>) {
        *self.places.write() = places.into();
    }

    fn put_first(&self, first: &FilePlace, changed: &[FilePlace]) {
        let all = self.places();
        let others = all
            .iter()
            .filter(|place| *place != first && !changed.contains(place));
        self.set_places([first].into_iter().chain(others).cloned().collect());
    }
}

/// Whether something else, or nothing, stands where the file was.
fn is_gone(error: &SourceError) -> bool {
    match error {
        SourceError::Io { error, .. } => {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
            )
        }
        SourceError::Leads(_) | SourceError::NotAFile { .. } | SourceError::Shrank(_) => true,
        SourceError::NotAllowed { .. }
        | SourceError::UntoldSize(_)
        | SourceError::Own(_)
        | SourceError::LongList(_)
        | SourceError::Rule(_)
        | SourceError::Name(_)
        | SourceError::NoObjects
        | SourceError::Object(_) => false,
    }
}

impl InPlace {
    /// The shard, if it is known. Whether a place holds it still is seen when it is read.
    pub fn shard(self: &Arc<Self>, digest: &Digest) -> Result<Option<Arc<InPlaceShard>>, StoreError> {
        if let Some(open) = self.opened(digest) {
            return Ok(Some(open));
        }
        let Some((groups, places)) = self.table.shard(digest)? else {
            return Ok(None);
        };
        if places.is_empty() {
            return Ok(None);
        }
        let shard = Arc::new(InPlaceShard {
            digest: *digest,
            groups,
            places: RwLock::new(places.into()),
            in_place: self.clone(),
        });
        self.shards.insert(*digest, shard.clone());
        Ok(Some(shard))
    }

    /// The shard if it was read lately.
    pub fn opened(&self, digest: &Digest) -> Option<Arc<InPlaceShard>> {
        self.shards.get(digest)
    }

    fn source(&self, path: &Path) -> Result<Arc<Source>, SourceError> {
        if let Some(source) = self.open.get(path) {
            return Ok(source);
        }
        let source = Arc::new(self.allowed.source(path)?);
        self.open.insert(path.to_owned(), source.clone());
        Ok(source)
    }
}
