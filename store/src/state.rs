//! What this node knows of its blobs, in one redb file.
//!
//! A blob is *sealed* when its bytes, its outboard and their folder entries are on disk. Only sealed
//! blobs are served, and only what is marked evictable may be collected. The row is written last,
//! so a crash at any moment leaves a blob sealed and whole, or not sealed at all.

use std::path::Path;
use std::sync::OnceLock;

use nearfield_protocol::Digest;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::database;
use crate::error::StoreError;

/// Rises when the layout of the file changes.
const FORMAT: u32 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
const SEALED_BYTES_KEY: &str = "sealed-bytes";
/// Of the sealed bytes, those of evictable blobs; absent means none.
const EVICTABLE_BYTES_KEY: &str = "evictable-bytes";
/// Before the id of a network's records: milliseconds of the latest one that was here.
const RECORDS_KEY: &str = "records-unix-ms/";
/// Digest → (size in bytes, [`Standing`]).
const BLOBS: TableDefinition<[u8; 32], (u64, u8)> = TableDefinition::new("blobs");

/// Datasets that stay whatever happens to their names.
const PINS: TableDefinition<[u8; 32], ()> = TableDefinition::new("pins");

/// How a sealed blob stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Served and protected.
    Live = 0,
    /// Belongs to nothing any more; collected at the next sweep.
    Evictable = 1,
    /// Failed verification: never served again, until the same bytes are put once more.
    Quarantined = 2,
    /// Fetched from another node: served, and let go of when room is needed.
    Cached = 3,
}

impl Standing {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Standing::Live,
            1 => Standing::Evictable,
            3 => Standing::Cached,
            _ => Standing::Quarantined,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sealed {
    pub size_bytes: u64,
    pub standing: Standing,
}

pub(crate) struct State {
    db: Database,
    /// Set by the first write that failed: redb takes none after it until the file is opened again.
    stopped: OnceLock<StoreError>,
}

type MetaTable<'tx> = redb::Table<'tx, &'static str, u64>;

impl State {
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let db = database::open(path)?;
        let tx = db.begin_write()?;
        {
            let mut meta = tx.open_table(META)?;
            let found = meta.get(FORMAT_KEY)?.map(|value| value.value());
            match found {
                None => {
                    meta.insert(FORMAT_KEY, u64::from(FORMAT))?;
                }
                Some(found) if found == u64::from(FORMAT) => {}
                Some(found) => {
                    return Err(StoreError::Format {
                        path: path.to_owned(),
                        found: found as u32,
                        known: FORMAT,
                    });
                }
            }
            tx.open_table(BLOBS)?;
            tx.open_table(PINS)?;
        }
        tx.commit()?;
        Ok(State {
            db,
            stopped: OnceLock::new(),
        })
    }

    /// The error that every write ends in by now, if so.
    pub fn stopped(&self) -> Option<&StoreError> {
        self.stopped.get()
    }

    /// One durable transaction.
    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let committed = || {
            let tx = self.db.begin_write()?;
            let done = work(&tx)?;
            tx.commit()?;
            Ok(done)
        };
        committed().map_err(|error: StoreError| match &error {
            StoreError::State(cause) if matches!(**cause, redb::Error::Io(_) | redb::Error::PreviousIo) => {
                tracing::error!(%error, "the state database takes no more writes");
                let _ = self.stopped.set(StoreError::Stopped("state"));
                StoreError::Stopped("state")
            }
            _ => error,
        })
    }

    pub fn get(&self, digest: &Digest) -> Result<Option<Sealed>, StoreError> {
        let table = self.db.begin_read()?.open_table(BLOBS)?;
        let row = table.get(digest.as_bytes())?;
        Ok(row.map(|row| {
            let (size_bytes, standing) = row.value();
            Sealed {
                size_bytes,
                standing: Standing::from_byte(standing),
            }
        }))
    }

    /// Seals `blobs` in one durable transaction. Returns how many, and how many bytes, were not
    /// sealed and live before. A live blob stays so, and one that is mended is live again.
    pub fn seal(&self, blobs: &[(Digest, u64)], standing: Standing) -> Result<(u64, u64), StoreError> {
        self.write(|tx| {
            let (mut new_blobs, mut new_bytes, mut added, mut revived) = (0, 0, 0, 0);
            let mut table = tx.open_table(BLOBS)?;
            for (digest, size_bytes) in blobs {
                let before = table.get(digest.as_bytes())?;
                let before = before.map(|row| Standing::from_byte(row.value().1));
                let standing = match before {
                    Some(Standing::Live | Standing::Quarantined) => Standing::Live,
                    _ => standing,
                };
                table.insert(digest.as_bytes(), (*size_bytes, standing as u8))?;
                match before {
                    None => added += size_bytes,
                    Some(Standing::Evictable) => revived += size_bytes,
                    Some(_) => {}
                }
                if before != Some(Standing::Live) {
                    new_blobs += 1;
                    new_bytes += size_bytes;
                }
            }
            let mut meta = tx.open_table(META)?;
            count(&mut meta, SEALED_BYTES_KEY, |sum| sum + added)?;
            count(&mut meta, EVICTABLE_BYTES_KEY, |sum| sum.saturating_sub(revived))?;
            Ok((new_blobs, new_bytes))
        })
    }

    /// Keeps blobs that were marked for collection and are not collected yet. Refused if one is not here or quarantined.
    pub fn revive(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let mut all_live = true;
        for digest in digests {
            all_live &= self
                .get(digest)?
                .is_some_and(|sealed| sealed.standing == Standing::Live);
        }
        if all_live {
            return Ok(());
        }
        // Judged in the transaction that changes them: a sweep may come between two.
        let evictable = |digest: &Digest, before| match before {
            None => Err(StoreError::Missing(*digest)),
            Some(Standing::Live) => Ok(false),
            Some(Standing::Evictable | Standing::Cached) => Ok(true),
            Some(Standing::Quarantined) => Err(StoreError::Corrupt(*digest)),
        };
        self.write(|tx| restand(tx, digests, Standing::Live, evictable).map(drop))
    }

    pub fn set_standing(&self, digests: &[Digest], standing: Standing) -> Result<(), StoreError> {
        self.write(|tx| restand(tx, digests, standing, |_, before| Ok(before.is_some())).map(drop))
    }

    /// Of `digests` those that stand as one of `from` stand as `to` afterwards; they are returned.
    pub fn change(
        &self,
        digests: &[Digest],
        from: &[Standing],
        to: Standing,
    ) -> Result<Vec<Digest>, StoreError> {
        let is_from = |before: Option<Standing>| before.is_some_and(|before| from.contains(&before));
        self.write(|tx| restand(tx, digests, to, |_, before| Ok(is_from(before))))
    }

    /// Every cached blob and its size in bytes.
    pub fn cached(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let table = self.db.begin_read()?.open_table(BLOBS)?;
        let mut cached = Vec::new();
        for row in table.iter()? {
            let (digest, value) = row?;
            let (size, standing) = value.value();
            if Standing::from_byte(standing) == Standing::Cached {
                cached.push((Digest::from_bytes(digest.value()), size));
            }
        }
        Ok(cached)
    }

    /// Forgets every evictable blob that `keep` does not hold, and returns all digests that must
    /// not be collected.
    pub fn sweep(&self, keep: impl Fn(&Digest) -> bool) -> Result<Vec<Digest>, StoreError> {
        self.write(|tx| {
            let mut protected = Vec::new();
            let mut table = tx.open_table(BLOBS)?;
            let (mut gone, mut freed, mut held) = (Vec::new(), 0, 0);
            for row in table.iter()? {
                let (digest, value) = row?;
                let digest = Digest::from_bytes(digest.value());
                let (size, standing) = value.value();
                let evictable = Standing::from_byte(standing) == Standing::Evictable;
                if evictable && !keep(&digest) {
                    gone.push(digest);
                    freed += size;
                } else {
                    protected.push(digest);
                    held += if evictable { size } else { 0 };
                }
            }
            for digest in &gone {
                table.remove(digest.as_bytes())?;
            }
            let mut meta = tx.open_table(META)?;
            count(&mut meta, SEALED_BYTES_KEY, |sum| sum.saturating_sub(freed))?;
            count(&mut meta, EVICTABLE_BYTES_KEY, |_| held)?;
            Ok(protected)
        })
    }

    /// When the latest of a network's records was written that were here, in milliseconds since 1970; 0 if none was noted.
    pub fn records_unix_ms(&self, network: &str) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(META)?;
        let noted = table.get(format!("{RECORDS_KEY}{network}").as_str())?;
        Ok(noted.map_or(0, |value| value.value()))
    }

    /// Notes when the latest of a network's records was written. Durable when this returns.
    pub fn note_records(&self, network: &str, unix_ms: u64) -> Result<(), StoreError> {
        self.write(|tx| {
            let key = format!("{RECORDS_KEY}{network}");
            tx.open_table(META)?.insert(key.as_str(), unix_ms)?;
            Ok(())
        })
    }

    /// Every live blob, in digest order.
    pub fn live(&self) -> Result<Vec<Digest>, StoreError> {
        let table = self.db.begin_read()?.open_table(BLOBS)?;
        let mut live = Vec::new();
        for row in table.iter()? {
            let (digest, value) = row?;
            if Standing::from_byte(value.value().1) == Standing::Live {
                live.push(Digest::from_bytes(digest.value()));
            }
        }
        Ok(live)
    }

    /// The next blob after `after` in digest order that is served, for the scrubber's round.
    pub fn next_live(&self, after: &Digest) -> Result<Option<Digest>, StoreError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let table = self.db.begin_read()?.open_table(BLOBS)?;
        for row in table.range::<[u8; 32]>((Excluded(*after.as_bytes()), Unbounded))? {
            let (digest, value) = row?;
            let standing = Standing::from_byte(value.value().1);
            if matches!(standing, Standing::Live | Standing::Cached) {
                return Ok(Some(Digest::from_bytes(digest.value())));
            }
        }
        Ok(None)
    }

    pub fn set_pinned(&self, digest: &Digest, pinned: bool) -> Result<(), StoreError> {
        self.write(|tx| {
            let mut table = tx.open_table(PINS)?;
            if pinned {
                table.insert(digest.as_bytes(), ())?;
            } else {
                table.remove(digest.as_bytes())?;
            }
            Ok(())
        })
    }

    pub fn pins(&self) -> Result<Vec<Digest>, StoreError> {
        let table = self.db.begin_read()?.open_table(PINS)?;
        let pins: Result<_, redb::StorageError> = table
            .iter()?
            .map(|row| Ok(Digest::from_bytes(row?.0.value())))
            .collect();
        Ok(pins?)
    }

    /// Bytes of all sealed blobs.
    pub fn sealed_bytes(&self) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(META)?;
        Ok(table.get(SEALED_BYTES_KEY)?.map_or(0, |value| value.value()))
    }

    /// Bytes of all sealed blobs that no sweep is about to take away.
    pub fn kept_bytes(&self) -> Result<u64, StoreError> {
        let table = self.db.begin_read()?.open_table(META)?;
        let value = |key| Ok::<_, redb::StorageError>(table.get(key)?.map_or(0, |value| value.value()));
        Ok(value(SEALED_BYTES_KEY)?.saturating_sub(value(EVICTABLE_BYTES_KEY)?))
    }

    /// The number of sealed blobs.
    pub fn sealed_blobs(&self) -> Result<u64, StoreError> {
        use redb::ReadableTableMetadata;
        Ok(self.db.begin_read()?.open_table(BLOBS)?.len()?)
    }
}

/// Lets those of `digests` stand as `to` that `changes` chooses by how they stood, if they are here. Returns them.
fn restand(
    tx: &WriteTransaction,
    digests: &[Digest],
    to: Standing,
    changes: impl Fn(&Digest, Option<Standing>) -> Result<bool, StoreError>,
) -> Result<Vec<Digest>, StoreError> {
    let (mut evictable, mut no_longer, mut changed) = (0, 0, Vec::new());
    let mut table = tx.open_table(BLOBS)?;
    for digest in digests {
        let row = table.get(digest.as_bytes())?.map(|row| row.value());
        let before = row.map(|(_, before)| Standing::from_byte(before));
        let is_chosen = changes(digest, before)?;
        let Some((size, _)) = row.filter(|_| is_chosen) else {
            continue;
        };
        table.insert(digest.as_bytes(), (size, to as u8))?;
        if before == Some(Standing::Evictable) {
            no_longer += size;
        }
        if to == Standing::Evictable {
            evictable += size;
        }
        changed.push(*digest);
    }
    let mut meta = tx.open_table(META)?;
    count(&mut meta, EVICTABLE_BYTES_KEY, |sum| {
        (sum + evictable).saturating_sub(no_longer)
    })?;
    Ok(changed)
}

fn count(
    meta: &mut MetaTable<'_>,
    key: &'static str,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), StoreError> {
    let before = meta.get(key)?.map_or(0, |value| value.value());
    meta.insert(key, change(before))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_new_and_forgets_what_is_evictable() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.redb")).unwrap();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(state.seal(&[(a, 10), (b, 20)], Standing::Live).unwrap(), (2, 30));
        assert_eq!(state.seal(&[(a, 10)], Standing::Live).unwrap(), (0, 0));
        assert_eq!(state.sealed_bytes().unwrap(), 30);

        state.set_standing(&[a], Standing::Evictable).unwrap();
        assert_eq!(
            state.seal(&[(a, 10)], Standing::Live).unwrap(),
            (1, 10),
            "sealing again makes it live again"
        );
        assert_eq!(state.sealed_bytes().unwrap(), 30);

        assert_eq!(state.kept_bytes().unwrap(), 30);

        state.set_standing(&[a, b], Standing::Evictable).unwrap();
        state.set_standing(&[a, b], Standing::Evictable).unwrap();
        assert_eq!(
            state.kept_bytes().unwrap(),
            0,
            "what the next sweep takes is as good as gone"
        );
        assert_eq!(state.sweep(|digest| *digest == a).unwrap(), vec![a]);
        assert_eq!(state.sealed_bytes().unwrap(), 10);
        assert_eq!(state.kept_bytes().unwrap(), 0);
        assert!(state.get(&b).unwrap().is_none());
    }

    #[test]
    fn only_what_stands_so_is_changed() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.redb")).unwrap();
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        state.seal(&[(a, 10)], Standing::Cached).unwrap();
        state.seal(&[(b, 20)], Standing::Live).unwrap();
        let evicted = state
            .change(&[a, b, c], &[Standing::Cached], Standing::Evictable)
            .unwrap();
        assert_eq!((evicted, state.kept_bytes().unwrap()), (vec![a], 20));
        let kept = [Standing::Cached, Standing::Evictable];
        assert_eq!(state.change(&[a, c], &kept, Standing::Live).unwrap(), vec![a]);
        assert_eq!(state.kept_bytes().unwrap(), 30);
        state.seal(&[(a, 10)], Standing::Cached).unwrap();
        assert_eq!(
            state.get(&a).unwrap().unwrap().standing,
            Standing::Live,
            "fetched again, it is kept all the same"
        );
    }

    #[test]
    fn a_second_process_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let _first = State::open(&path).unwrap();
        assert!(matches!(State::open(&path), Err(StoreError::InUse(_))));
    }
}
