//! Remembered results: what pure runs came to, by the key that names everything they could depend on.
//!
//! A database of its own beside the blobs', because it is a cache: losing it costs time, never data.
//! Small outputs are in its rows; larger ones are sealed blobs that the row keeps alive. A result is
//! visible once it is on disk. Writers queue, and one of them commits for all that wait.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nearfield_protocol::job::{Made, PureReport, ResultKey, Signature};
use nearfield_protocol::{Digest, NodeId};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use crate::blobs::{Store, blocking_store};
use crate::database;
use crate::error::StoreError;

/// Outputs up to this size are kept in the row: a file of its own would cost more than it holds.
const INLINE_BYTES: usize = 1 << 20;
/// The same for what was written: of all runs of a job it is looked at together, and what is inline then is in memory.
const INLINE_WRITTEN_BYTES: usize = 16 << 10;
/// When a result was last used is kept to this precision, so that using one seldom writes.
const USED_STEP_S: u64 = 3_600;
/// What a row takes beside its outputs, roughly.
const ROW_BYTES: u64 = 256;

/// Key → [`Row`].
const ROWS: TableDefinition<[u8; 32], Row> = TableDefinition::new("rows");
/// Fuel, total fuel, data bytes, written files, written bytes, output bytes, output digest, last use,
/// bytes held.
type Row = (u64, u64, u64, u64, u64, u64, [u8; 32], u64, u64);
/// Key → a [`Payload`]: the output, and what was written with `output.write`.
const OUTPUTS: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("outputs");
const WRITTEN: TableDefinition<[u8; 32], &[u8]> = TableDefinition::new("written");
/// Results by last use, for eviction.
const BY_USE: TableDefinition<(u64, [u8; 32]), ()> = TableDefinition::new("by-use");
/// The names of datasets with the results that were computed for them, for `rm --purge`.
const ORIGINS: TableDefinition<(&str, [u8; 32]), ()> = TableDefinition::new("origins");
/// Blobs with the results that keep them alive.
const HOLDS: TableDefinition<([u8; 32], [u8; 32]), ()> = TableDefinition::new("holds");
/// Results that were given, with the node that made them and its signature.
const GIVEN: TableDefinition<[u8; 32], ([u8; 32], [u8; 64])> = TableDefinition::new("given");
const TOTALS: TableDefinition<&str, u64> = TableDefinition::new("totals");
const HELD_BYTES: &str = "held-bytes";

/// The remembered results of one node. Cheap to clone.
#[derive(Clone)]
pub struct Remembered {
    inner: Arc<Inner>,
}

struct Inner {
    db: Database,
    store: Store,
    /// Beyond this the least recently used results go.
    max_bytes: u64,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// Somebody commits; it takes what comes meanwhile along.
    committing: bool,
}

struct Waiting {
    change: Change,
    done: oneshot::Sender<Result<(), String>>,
}

enum Change {
    Keep(Box<NewRow>),
    Use { key: ResultKey, origins: Vec<String> },
}

struct NewRow {
    report: PureReport,
    origins: Vec<String>,
    output: Payload,
    written: Option<Payload>,
}

/// Bytes in a row, or a blob that the row keeps alive.
enum Payload {
    Inline(Bytes),
    Blob(Digest),
}

impl Payload {
    const INLINE: u8 = 0;
    const BLOB: u8 = 1;

    fn encode(&self) -> Vec<u8> {
        match self {
            Payload::Inline(bytes) => [&[Self::INLINE], &bytes[..]].concat(),
            Payload::Blob(digest) => [&[Self::BLOB], &digest.as_bytes()[..]].concat(),
        }
    }

    /// `None` if a newer build wrote it.
    fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&Self::INLINE, rest) => Some(Payload::Inline(Bytes::copy_from_slice(rest))),
            (&Self::BLOB, rest) => Some(Payload::Blob(Digest::from_bytes(rest.try_into().ok()?))),
            _ => None,
        }
    }

    fn blob(&self) -> Option<Digest> {
        match self {
            Payload::Inline(_) => None,
            Payload::Blob(digest) => Some(*digest),
        }
    }
}

impl Remembered {
    /// Opens `remembered.redb` in `dir`, empty if it is not there.
    pub fn open(dir: &Path, store: Store, max_bytes: u64) -> Result<Self, StoreError> {
        let path = dir.join("remembered.redb");
        let db = database::open(&path)?;
        let tx = db.begin_write()?;
        tx.open_table(ROWS)?;
        tx.open_table(OUTPUTS)?;
        tx.open_table(WRITTEN)?;
        tx.open_table(BY_USE)?;
        tx.open_table(ORIGINS)?;
        tx.open_table(HOLDS)?;
        tx.open_table(GIVEN)?;
        tx.open_table(TOTALS)?;
        tx.commit()?;
        let inner = Inner {
            db,
            store,
            max_bytes,
            queue: Mutex::default(),
        };
        Ok(Remembered {
            inner: Arc::new(inner),
        })
    }

    /// The result named `key`, if it is remembered.
    pub fn get(&self, key: &ResultKey) -> Result<Option<PureReport>, StoreError> {
        let tx = self.inner.db.begin_read()?;
        let rows = tx.open_table(ROWS)?;
        let Some(row) = rows.get(key.0.as_bytes())? else {
            return Ok(None);
        };
        let given = tx.open_table(GIVEN)?.get(key.0.as_bytes())?;
        let made = given.map(|given| {
            let (by, signature) = given.value();
            Made {
                by: NodeId::from_bytes(by),
                signature: Signature(signature),
            }
        });
        Ok(Some(PureReport {
            made,
            ..report(key, row.value())
        }))
    }

    /// Notes that the result was used for the datasets `origins`.
    pub async fn used(&self, key: &ResultKey, origins: &[String]) -> Result<(), StoreError> {
        let (inner, asked, names) = (self.inner.clone(), *key, origins.to_owned());
        if blocking_store(move || inner.is_noted(&asked, &names)).await? {
            return Ok(());
        }
        self.queue(Change::Use {
            key: *key,
            origins: origins.to_owned(),
        })
        .await
    }

    /// The output of a remembered result: from its row, or mapped.
    pub async fn output(&self, key: &ResultKey) -> Result<Option<Bytes>, StoreError> {
        self.payload(OUTPUTS, key).await
    }

    /// What a remembered run wrote, as its host encoded it.
    pub async fn written(&self, key: &ResultKey) -> Result<Option<Bytes>, StoreError> {
        self.payload(WRITTEN, key).await
    }

    async fn payload(
        &self,
        table: TableDefinition<'static, [u8; 32], &'static [u8]>,
        key: &ResultKey,
    ) -> Result<Option<Bytes>, StoreError> {
        let (inner, key) = (self.inner.clone(), *key);
        let payload = blocking_store(move || {
            let table = inner.db.begin_read()?.open_table(table)?;
            let bytes = table.get(key.0.as_bytes())?;
            Ok(bytes.and_then(|bytes| Payload::decode(bytes.value())))
        })
        .await?;
        match payload {
            None => Ok(None),
            Some(Payload::Inline(bytes)) => Ok(Some(bytes)),
            Some(Payload::Blob(digest)) => match self.inner.store.stored(&digest).await {
                Ok(blob) => Ok(Some(blob.slice(0..blob.len()))),
                // It can be made again; a result without its bytes would never be.
                Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => {
                    let inner = self.inner.clone();
                    blocking_store(move || inner.forget(&[*key.0.as_bytes()])).await?;
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Keeps a result, computed for the datasets `origins`; one that was given says who made it. When this returns `Ok`, it is on disk.
    pub async fn keep(
        &self,
        report: PureReport,
        origins: &[String],
        output: Bytes,
        written: Option<Bytes>,
    ) -> Result<(), StoreError> {
        let output = self.payload_of(output, INLINE_BYTES).await?;
        let written = match written {
            Some(bytes) => Some(self.payload_of(bytes, INLINE_WRITTEN_BYTES).await?),
            None => None,
        };
        self.queue(Change::Keep(Box::new(NewRow {
            report,
            origins: origins.to_owned(),
            output,
            written,
        })))
        .await
    }

    async fn payload_of(&self, bytes: Bytes, inline_bytes: usize) -> Result<Payload, StoreError> {
        Ok(match bytes.len() <= inline_bytes {
            true => Payload::Inline(bytes),
            false => Payload::Blob(self.inner.store.add_sealed(bytes).await?),
        })
    }

    /// Every blob that a remembered result keeps alive.
    pub fn blobs(&self) -> Result<HashSet<Digest>, StoreError> {
        let holds = self.inner.db.begin_read()?.open_table(HOLDS)?;
        let blobs: Result<_, redb::StorageError> = holds
            .iter()?
            .map(|row| Ok(Digest::from_bytes(row?.0.value().0)))
            .collect();
        Ok(blobs?)
    }

    /// Forgets all that was computed for the dataset `origin`. Returns how many results, and the blobs
    /// that no result holds any more.
    pub async fn purge(&self, origin: &str) -> Result<(u64, Vec<Digest>), StoreError> {
        let (inner, origin) = (self.inner.clone(), origin.to_owned());
        blocking_store(move || inner.purge(&origin)).await
    }

    /// Forgets what `maker` made, and what was made of other results: any of those may stem from it. Returns as
    /// [`Remembered::purge`].
    pub async fn distrust(&self, maker: NodeId) -> Result<(u64, Vec<Digest>), StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || inner.distrust(&maker)).await
    }

    /// Forgets everything. Returns as [`Remembered::purge`].
    pub async fn forget_all(&self) -> Result<(u64, Vec<Digest>), StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || {
            let keys = inner.keys(|_, _| true)?;
            inner.forget(&keys)
        })
        .await
    }

    /// Forgets the least recently used results that are too much. Returns as [`Remembered::purge`].
    pub async fn evict(&self) -> Result<(u64, Vec<Digest>), StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || inner.evict()).await
    }

    /// How many results are remembered, and the bytes that they take.
    pub fn usage(&self) -> Result<(u64, u64), StoreError> {
        use redb::ReadableTableMetadata;
        let tx = self.inner.db.begin_read()?;
        let held = tx
            .open_table(TOTALS)?
            .get(HELD_BYTES)?
            .map_or(0, |held| held.value());
        Ok((tx.open_table(ROWS)?.len()?, held))
    }

    async fn queue(&self, change: Change) -> Result<(), StoreError> {
        let (done, committed) = oneshot::channel();
        let leads = {
            let mut queue = self.inner.queue.lock().expect("no panic under this lock");
            queue.waiting.push(Waiting { change, done });
            !std::mem::replace(&mut queue.committing, true)
        };
        if leads {
            let inner = self.inner.clone();
            tokio::task::spawn_blocking(move || inner.commit_waiting());
        }
        match committed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(StoreError::Io(std::io::Error::other(error))),
            Err(_) => Err(StoreError::Io(std::io::Error::other("the commit was given up"))),
        }
    }
}

fn report(key: &ResultKey, row: Row) -> PureReport {
    let (fuel, total_fuel, data_bytes, written_files, written_bytes, output_bytes, output, _, _) = row;
    PureReport {
        key: *key,
        remembered: true,
        output_bytes,
        output: Digest::from_bytes(output),
        fuel,
        total_fuel,
        data_bytes,
        moved_bytes: 0,
        written_files,
        written_bytes,
        run_us: 0,
        made: None,
    }
}

impl Inner {
    /// Commits until nobody waits any more.
    fn commit_waiting(&self) {
        loop {
            let batch = {
                let mut queue = self.queue.lock().expect("no panic under this lock");
                if queue.waiting.is_empty() {
                    queue.committing = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let committed = self
                .commit(batch.iter().map(|waiting| &waiting.change))
                .map_err(|error| error.to_string());
            for waiting in batch {
                // Who asked may be gone.
                let _ = waiting.done.send(committed.clone());
            }
        }
    }

    fn commit<'a>(&self, changes: impl Iterator<Item = &'a Change>) -> Result<(), StoreError> {
        let used = used_now();
        let tx = self.db.begin_write()?;
        {
            let mut rows = tx.open_table(ROWS)?;
            let mut by_use = tx.open_table(BY_USE)?;
            let mut origins = tx.open_table(ORIGINS)?;
            let mut holds = tx.open_table(HOLDS)?;
            let mut outputs = tx.open_table(OUTPUTS)?;
            let mut written = tx.open_table(WRITTEN)?;
            let mut given = tx.open_table(GIVEN)?;
            let mut totals = tx.open_table(TOTALS)?;
            let mut held = totals.get(HELD_BYTES)?.map_or(0, |held| held.value());
            for change in changes {
                match change {
                    Change::Keep(new) => {
                        let report = &new.report;
                        let key = report.key.0.as_bytes();
                        let bytes = ROW_BYTES + report.output_bytes + report.written_bytes;
                        let row = (
                            report.fuel,
                            report.total_fuel,
                            report.data_bytes,
                            report.written_files,
                            report.written_bytes,
                            report.output_bytes,
                            *report.output.as_bytes(),
                            used,
                            bytes,
                        );
                        let before = rows.insert(key, row)?.map(|row| row.value());
                        if let Some((.., used, bytes)) = before {
                            by_use.remove((used, *key))?;
                            held -= bytes;
                        }
                        held += bytes;
                        by_use.insert((used, *key), ())?;
                        match &report.made {
                            Some(made) => given.insert(key, (*made.by.as_bytes(), made.signature.0))?,
                            None => given.remove(key)?,
                        };
                        outputs.insert(key, &new.output.encode()[..])?;
                        if let Some(payload) = &new.written {
                            written.insert(key, &payload.encode()[..])?;
                        }
                        let payloads = [Some(&new.output), new.written.as_ref()];
                        for blob in payloads.into_iter().flatten().filter_map(Payload::blob) {
                            holds.insert((*blob.as_bytes(), *key), ())?;
                        }
                        for origin in &new.origins {
                            origins.insert((origin.as_str(), *key), ())?;
                        }
                    }
                    Change::Use { key, origins: names } => {
                        let key = key.0.as_bytes();
                        let row = rows.get(key)?.map(|row| row.value());
                        // It may have been evicted meanwhile.
                        if let Some((fuel, total, data, files, wrote, size, output, before, bytes)) = row {
                            by_use.remove((before, *key))?;
                            by_use.insert((used, *key), ())?;
                            rows.insert(key, (fuel, total, data, files, wrote, size, output, used, bytes))?;
                            for origin in names {
                                origins.insert((origin.as_str(), *key), ())?;
                            }
                        }
                    }
                }
            }
            totals.insert(HELD_BYTES, held)?;
        }
        tx.commit()?;
        Ok(())
    }

    fn is_noted(&self, key: &ResultKey, names: &[String]) -> Result<bool, StoreError> {
        let tx = self.db.begin_read()?;
        let row = tx.open_table(ROWS)?.get(key.0.as_bytes())?.map(|row| row.value());
        let Some((.., used, _)) = row else {
            return Ok(true);
        };
        if used_now().saturating_sub(used) >= USED_STEP_S {
            return Ok(false);
        }
        let origins = tx.open_table(ORIGINS)?;
        for origin in names {
            if origins.get((origin.as_str(), *key.0.as_bytes()))?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn purge(&self, origin: &str) -> Result<(u64, Vec<Digest>), StoreError> {
        let keys = {
            let origins = self.db.begin_read()?.open_table(ORIGINS)?;
            let of_origin = origins.range((origin, [0; 32])..=(origin, [0xff; 32]))?;
            let keys: Result<Vec<_>, redb::StorageError> =
                of_origin.map(|row| Ok(row?.0.value().1)).collect();
            keys?
        };
        self.forget(&keys)
    }

    fn distrust(&self, maker: &NodeId) -> Result<(u64, Vec<Digest>), StoreError> {
        let given: HashSet<[u8; 32]> = {
            let given = self.db.begin_read()?.open_table(GIVEN)?;
            let of_maker = given.iter()?.filter_map(|row| match row {
                Ok((key, by)) => (by.value().0 == *maker.as_bytes()).then(|| Ok(key.value())),
                Err(error) => Some(Err(error)),
            });
            of_maker.collect::<Result<_, redb::StorageError>>()?
        };
        // What others' results went into took their fuel along.
        let keys = self.keys(|key, (fuel, total_fuel, ..)| fuel != total_fuel || given.contains(key))?;
        self.forget(&keys)
    }

    fn keys(&self, of: impl Fn(&[u8; 32], Row) -> bool) -> Result<Vec<[u8; 32]>, StoreError> {
        let rows = self.db.begin_read()?.open_table(ROWS)?;
        let mut keys = Vec::new();
        for row in rows.iter()? {
            let (key, row) = row?;
            if of(&key.value(), row.value()) {
                keys.push(key.value());
            }
        }
        Ok(keys)
    }

    fn evict(&self) -> Result<(u64, Vec<Digest>), StoreError> {
        let mut keys = Vec::new();
        {
            let tx = self.db.begin_read()?;
            let mut held = tx
                .open_table(TOTALS)?
                .get(HELD_BYTES)?
                .map_or(0, |held| held.value());
            let rows = tx.open_table(ROWS)?;
            for row in tx.open_table(BY_USE)?.iter()? {
                if held <= self.max_bytes {
                    break;
                }
                let (_, key) = row?.0.value();
                held -= rows.get(key)?.map_or(0, |row| row.value().8);
                keys.push(key);
            }
        }
        self.forget(&keys)
    }

    fn forget(&self, keys: &[[u8; 32]]) -> Result<(u64, Vec<Digest>), StoreError> {
        if keys.is_empty() {
            return Ok((0, Vec::new()));
        }
        let (mut gone, mut freed) = (0, Vec::new());
        let tx = self.db.begin_write()?;
        {
            let mut rows = tx.open_table(ROWS)?;
            let mut by_use = tx.open_table(BY_USE)?;
            let mut holds = tx.open_table(HOLDS)?;
            let mut totals = tx.open_table(TOTALS)?;
            let mut given = tx.open_table(GIVEN)?;
            let mut tables = [tx.open_table(OUTPUTS)?, tx.open_table(WRITTEN)?];
            let mut held = totals.get(HELD_BYTES)?.map_or(0, |held| held.value());
            for key in keys {
                let Some((.., used, bytes)) = rows.remove(key)?.map(|row| row.value()) else {
                    continue;
                };
                gone += 1;
                held -= bytes;
                by_use.remove((used, *key))?;
                given.remove(key)?;
                for table in &mut tables {
                    let payload = table.remove(key)?;
                    let blob = payload.and_then(|payload| Payload::decode(payload.value())?.blob());
                    if let Some(blob) = blob {
                        holds.remove((*blob.as_bytes(), *key))?;
                        let others = ([0; 32], [0xff; 32]);
                        let of_blob = (*blob.as_bytes(), others.0)..=(*blob.as_bytes(), others.1);
                        if holds.range(of_blob)?.next().is_none() {
                            freed.push(blob);
                        }
                    }
                }
            }
            tx.open_table(ORIGINS)?
                .retain(|(_, key), ()| rows.get(key).is_ok_and(|row| row.is_some()))?;
            totals.insert(HELD_BYTES, held)?;
        }
        tx.commit()?;
        Ok((gone, freed))
    }
}

/// Now, to the precision in which uses are kept.
fn used_now() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    now - now % USED_STEP_S
}

#[cfg(test)]
mod tests;
