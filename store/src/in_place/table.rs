//! What is known of files that are read in place, in one redb file.
//!
//! A shard's row says where its bytes were when they were hashed. They are checked at each read, so a row can be
//! wrong, but never be believed wrongly.

use std::path::Path;

use nearfield_protocol::{Digest, Split};
use redb::{Database, MultimapTableDefinition, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};

use super::groups::Groups;
use super::source::Identity;
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

/// Places of one shard that are tried: the same bytes may lie in many files.
const MAX_PLACES: usize = 8;

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
pub struct Place {
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
    pub fn shard(&self, digest: &Digest) -> Result<Option<(Groups, Vec<Place>)>, StoreError> {
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
            places.push(Place {
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
        let same =
            |row: &FileRow| (row.identity.device, row.identity.inode) == (identity.device, identity.inode);
        if let Some(row) = row(path)?.filter(same) {
            return Ok(Some(row));
        }
        let names = tx
            .open_multimap_table(INODES)?
            .get((identity.device, identity.inode))?;
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
            for file in files {
                let path = file.path.as_str();
                let mut offset = 0;
                for (digest, size_bytes) in &file.shards {
                    places.insert(digest.as_bytes(), (path, offset))?;
                    offset += size_bytes;
                }
                let bytes = postcard::to_allocvec(file).expect("a row holds nothing that postcard refuses");
                rows.insert((path, cut.encode().as_slice()), bytes.as_slice())?;
                inodes.insert((file.identity.device, file.identity.inode), path)?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// Forgets what was noted of the file at `path`, so that it is read again. Its shards stay: they may be somewhere else.
    pub fn distrust(&self, path: &str) -> Result<(), StoreError> {
        let tx = self.db.begin_write()?;
        {
            let mut rows = tx.open_table(FILES)?;
            rows.retain_in((path, &[][..])..=(path, &[0xff; 32][..]), |_, _| false)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// Forgets shards and where they were.
    pub fn forget(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let tx = self.db.begin_write()?;
        {
            let mut shards = tx.open_table(SHARDS)?;
            let mut places = tx.open_multimap_table(PLACES)?;
            for digest in digests {
                shards.remove(digest.as_bytes())?;
                places.remove_all(digest.as_bytes())?;
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

impl Cut {
    fn encode(self) -> Vec<u8> {
        postcard::to_allocvec(&self).expect("a cut holds nothing that postcard refuses")
    }
}
