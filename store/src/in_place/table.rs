//! What is known of files that are read in place, in one redb file.
//!
//! A shard's row says where its bytes were when they were hashed. They are checked at each read, so a row can be
//! wrong, but never be believed wrongly.

use std::collections::HashSet;
use std::path::Path;

use nearfield_protocol::{Digest, Split};
use redb::{
    Database, MultimapTable, MultimapTableDefinition, ReadableDatabase, ReadableMultimapTable, ReadableTable,
    TableDefinition,
};
use serde::{Deserialize, Serialize};

use super::groups::Groups;
use super::identity::Identity;
use crate::database;
use crate::error::StoreError;

/// Digest → size in bytes, chaining values of the shard's groups.
const SHARDS: TableDefinition<[u8; 32], (u64, &[u8])> = TableDefinition::new("shards");
/// Digest → places: a file and an offset in it.
const PLACES: MultimapTableDefinition<[u8; 32], (&str, u64)> = MultimapTableDefinition::new("places");
/// Path and cut → [`FileRow`], postcard.
const FILES: TableDefinition<(&str, &[u8]), &[u8]> = TableDefinition::new("files");
/// Device, inode → paths by which a file was read.
const INODES: MultimapTableDefinition<(u64, u64), &str> = MultimapTableDefinition::new("inodes");

/// Places of one shard, and names of one inode, that are looked at in one go: the same bytes may lie in many files.
const MAX_PLACES: usize = 64;

/// What decides where a file is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    pub split: Split,
    pub version: u16,
    pub shard_size_bytes: u32,
}

/// A file as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRow {
    pub path: String,
    pub identity: Identity,
    /// Digest and size of each shard, in order.
    pub shards: Vec<(Digest, u64)>,
    /// The header record of a CSV file.
    pub header: Option<Vec<u8>>,
}

/// Where a shard's bytes were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlace {
    pub path: String,
    pub offset: u64,
}

pub struct Table {
    db: Database,
}

impl Table {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = database::open(path)?;
        let tx = db.begin_write()?;
        tx.open_table(SHARDS)?;
        tx.open_multimap_table(PLACES)?;
        tx.open_table(FILES)?;
        tx.open_multimap_table(INODES)?;
        tx.commit()?;
        Ok(Table { db })
    }

    pub fn size_of(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let shards = self.db.begin_read()?.open_table(SHARDS)?;
        let row = shards.get(digest.as_bytes())?;
        Ok(row.map(|row| row.value().0))
    }

    /// A shard's groups and the places where it may be found.
    pub fn shard(&self, digest: &Digest) -> Result<Option<(Groups, Vec<FilePlace>)>, StoreError> {
        let tx = self.db.begin_read()?;
        let shards = tx.open_table(SHARDS)?;
        let Some(row) = shards.get(digest.as_bytes())? else {
            return Ok(None);
        };
        let (size_bytes, values) = row.value();
        let groups =
            Groups::parse(*digest, size_bytes, values.to_vec()).ok_or(StoreError::Corrupt(*digest))?;
        let mut places = Vec::new();
        for place in tx
            .open_multimap_table(PLACES)?
            .get(digest.as_bytes())?
            .take(MAX_PLACES)
        {
            let place = place?;
            let (path, offset) = place.value();
            places.push(FilePlace {
                path: path.to_owned(),
                offset,
            });
        }
        Ok(Some((groups, places)))
    }

    /// What is known of a file: by its path, else by its inode under another name.
    pub fn file(&self, path: &str, cut: Cut, identity: &Identity) -> Result<Option<FileRow>, StoreError> {
        let tx = self.db.begin_read()?;
        let files = tx.open_table(FILES)?;
        let cut = cut.encode();
        let row = |path: &str| -> Result<Option<FileRow>, StoreError> {
            let row = files.get((path, cut.as_slice()))?;
            Ok(row.and_then(|row| postcard::from_bytes::<FileRow>(row.value()).ok()))
        };
        let inode = identity.inode();
        let same = |row: &FileRow| row.identity.inode() == inode;
        if let Some(row) = row(path)?.filter(same) {
            return Ok(Some(row));
        }
        let Some(inode) = inode else {
            return Ok(None);
        };
        let names = tx.open_multimap_table(INODES)?.get(inode)?;
        for name in names.take(MAX_PLACES) {
            if let Some(row) = row(name?.value())?.filter(same) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Whether all shards are known still.
    pub fn has_all(&self, shards: &[(Digest, u64)]) -> Result<bool, StoreError> {
        let known = self.db.begin_read()?.open_table(SHARDS)?;
        for (digest, _) in shards {
            if known.get(digest.as_bytes())?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes files with their shards, and the groups of shards that were hashed now. Durable when it returns.
    pub fn note(&self, cut: Cut, files: &[FileRow], new: &[Groups]) -> Result<(), StoreError> {
        let tx = self.db.begin_write()?;
        {
            let mut shards = tx.open_table(SHARDS)?;
            for groups in new {
                shards.insert(groups.digest().as_bytes(), (groups.size_bytes(), groups.values()))?;
            }
            let mut places = tx.open_multimap_table(PLACES)?;
            let (mut rows, mut inodes) = (tx.open_table(FILES)?, tx.open_multimap_table(INODES)?);
            let mut replaced = Vec::new();
            for file in files {
                let path = file.path.as_str();
                for (digest, offset) in file.places() {
                    places.insert(digest.as_bytes(), (path, offset))?;
                }
                if let Some(inode) = file.identity.inode() {
                    inodes.insert(inode, path)?;
                }
                let bytes = postcard::to_allocvec(file).expect("a row holds nothing that postcard refuses");
                let old = rows.insert((path, cut.encode().as_slice()), bytes.as_slice())?;
                let old = old.and_then(|old| postcard::from_bytes::<FileRow>(old.value()).ok());
                replaced.extend(old.map(|old| (old, file)));
            }
            // When all new places are there: what a name held before may be found under another one now.
            for (old, new) in replaced {
                let inode = old.identity.inode();
                if let Some(inode) = inode.filter(|_| inode != new.identity.inode()) {
                    inodes.remove(inode, old.path.as_str())?;
                }
                let kept: HashSet<_> = new.places().collect();
                for (digest, offset) in old.places().filter(|place| !kept.contains(place)) {
                    remove_place(&mut places, &digest, &old.path, offset)?;
                }
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// Forgets places that do not hold a shard any more, and what was noted of the files that claim it there, so that
    /// they are read again. The shard's last place stays: it names the file.
    pub fn drop_places(&self, digest: &Digest, stale: &[FilePlace]) -> Result<(), StoreError> {
        if !self.has_any(digest, stale)? {
            return Ok(());
        }
        let tx = self.db.begin_write()?;
        {
            let mut places = tx.open_multimap_table(PLACES)?;
            let mut rows = tx.open_table(FILES)?;
            for place in stale {
                remove_place(&mut places, digest, &place.path, place.offset)?;
                rows.retain_in(every_cut(&place.path), |_, row| {
                    !claims(row, digest, place.offset)
                })?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// Whether there is anything to forget: reading a changed file over and over must not write.
    fn has_any(&self, digest: &Digest, stale: &[FilePlace]) -> Result<bool, StoreError> {
        let tx = self.db.begin_read()?;
        let (places, rows) = (tx.open_multimap_table(PLACES)?, tx.open_table(FILES)?);
        let more_than_one = places.get(digest.as_bytes())?.len() > 1;
        for place in stale {
            if more_than_one {
                for known in places.get(digest.as_bytes())? {
                    if known?.value() == (place.path.as_str(), place.offset) {
                        return Ok(true);
                    }
                }
            }
            for row in rows.range(every_cut(&place.path))? {
                if claims(row?.1.value(), digest, place.offset) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Forgets shards, where they were, and the files that were cut into them.
    pub fn forget(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let tx = self.db.begin_write()?;
        {
            let mut shards = tx.open_table(SHARDS)?;
            let mut places = tx.open_multimap_table(PLACES)?;
            let mut any = false;
            for digest in digests {
                any |= shards.remove(digest.as_bytes())?.is_some();
                places.remove_all(digest.as_bytes())?;
            }
            if any {
                let gone: HashSet<_> = digests.iter().collect();
                let mut names = Vec::new();
                tx.open_table(FILES)?.retain(|(path, _), row| {
                    let row = postcard::from_bytes::<FileRow>(row);
                    let keep = row
                        .as_ref()
                        .is_ok_and(|row| !row.shards.iter().any(|(digest, _)| gone.contains(digest)));
                    let inode = row.ok().and_then(|row| row.identity.inode());
                    names.extend(inode.filter(|_| !keep).map(|inode| (inode, path.to_owned())));
                    keep
                })?;
                let mut inodes = tx.open_multimap_table(INODES)?;
                for (inode, path) in &names {
                    inodes.remove(inode, path.as_str())?;
                }
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// Every shard that is known.
    pub fn digests(&self) -> Result<Vec<Digest>, StoreError> {
        let shards = self.db.begin_read()?.open_table(SHARDS)?;
        let mut digests = Vec::new();
        for row in shards.iter()? {
            digests.push(Digest::from_bytes(row?.0.value()));
        }
        Ok(digests)
    }
}

impl FileRow {
    /// Each shard and its offset.
    fn places(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.shards.iter().scan(0, |end, (digest, size_bytes)| {
            let offset = *end;
            *end += size_bytes;
            Some((*digest, offset))
        })
    }
}

/// All rows of a path.
fn every_cut(path: &str) -> std::ops::RangeInclusive<(&str, &[u8])> {
    (path, &[][..])..=(path, &[0xff; 32][..])
}

/// Whether a file was noted with this shard at this offset.
fn claims(row: &[u8], digest: &Digest, offset: u64) -> bool {
    let row = postcard::from_bytes::<FileRow>(row);
    row.is_ok_and(|row| row.places().any(|place| place == (*digest, offset)))
}

fn remove_place(
    places: &mut MultimapTable<'_, [u8; 32], (&'static str, u64)>,
    digest: &Digest,
    path: &str,
    offset: u64,
) -> Result<(), StoreError> {
    if places.get(digest.as_bytes())?.len() > 1 {
        places.remove(digest.as_bytes(), (path, offset))?;
    }
    Ok(())
}

impl Cut {
    fn encode(self) -> Vec<u8> {
        postcard::to_allocvec(&self).expect("a cut holds nothing that postcard refuses")
    }
}
