//! Remembered results: what pure runs came to, by the key that names everything they could depend on.
//!
//! A database of its own beside the blobs', because it is a cache: losing it costs time, never data.
//! Small outputs are in its rows; larger ones are sealed blobs that the row keeps alive. A result is
//! visible once it is on disk. Writers queue, and one of them commits for all that wait.

mod forgetting;
mod payload;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nearfield_protocol::job::{Made, PureReport, ResultKey, Signature};
use nearfield_protocol::records::RecordClock;
use nearfield_protocol::{Digest, NodeId};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use self::payload::Payload;
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
/// Results that were made of others, with the digest of those ([`nearfield_protocol::job::digest_of_parts`]).
const PARTS: TableDefinition<[u8; 32], [u8; 32]> = TableDefinition::new("parts");
/// Under [`FORGOTTEN`] the encoded clock of the record for which everything was forgotten last.
const UNTIL: TableDefinition<&str, [u8; RecordClock::BYTES]> = TableDefinition::new("until");
const FORGOTTEN: &str = "forgotten";
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

/// When everything was forgotten last, by the record that said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AsOf(Option<[u8; RecordClock::BYTES]>);

/// What was forgotten.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    pub results: u64,
    /// The blobs that no result holds any more.
    pub blobs: Vec<Digest>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<WaitingChange>,
    /// Somebody commits; it takes what comes meanwhile along.
    committing: bool,
}

struct WaitingChange {
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
    as_of: AsOf,
}

impl Remembered {
    /// Opens `remembered.redb` in `dir`, empty if it is not there. A broken one is put aside: all that it held can be made again.
    pub fn open(dir: &Path, store: Store, max_bytes: u64) -> Result<Self, StoreError> {
        let path = dir.join("remembered.redb");
        let db = match database::open(&path) {
            Err(StoreError::Broken { cause, .. }) => {
                let aside = dir.join("remembered.redb.broken");
                std::fs::rename(&path, &aside)?;
                tracing::error!(
                    aside = %aside.display(),
                    cause,
                    "the remembered results cannot be read and are put aside: they are computed again when they are asked for"
                );
                database::open(&path)?
            }
            opened => opened?,
        };
        let tx = db.begin_write()?;
        tx.open_table(ROWS)?;
        tx.open_table(OUTPUTS)?;
        tx.open_table(WRITTEN)?;
        tx.open_table(BY_USE)?;
        tx.open_table(ORIGINS)?;
        tx.open_table(HOLDS)?;
        tx.open_table(GIVEN)?;
        tx.open_table(PARTS)?;
        tx.open_table(UNTIL)?;
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
        let parts = tx.open_table(PARTS)?.get(key.0.as_bytes())?;
        let parts = parts.map_or(Digest::EMPTY, |parts| Digest::from_bytes(parts.value()));
        let report = report(key, row.value());
        let written = match report.written_files {
            0 => report.written,
            _ => {
                let payload = tx.open_table(WRITTEN)?.get(key.0.as_bytes())?;
                match payload.and_then(|payload| Payload::decode(payload.value())) {
                    Some(payload) => payload.digest(),
                    // An older build did not keep it: it can be made again.
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(PureReport {
            made,
            parts,
            written,
            ..report
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
            let payload = bytes.as_ref().and_then(|bytes| Payload::decode(bytes.value()));
            if bytes.is_some() && payload.is_none() {
                // A newer build wrote it. It can be made again; a result without its bytes would never be.
                drop(bytes);
                inner.forget(key.0.as_bytes())?;
            }
            Ok(payload)
        })
        .await?;
        match payload {
            None | Some(Payload::Elsewhere(_)) => Ok(None),
            Some(Payload::Inline(bytes)) => Ok(Some(bytes)),
            Some(Payload::Blob(digest)) => match self.inner.store.stored(&digest).await {
                Ok(blob) => Ok(Some(blob.slice(0..blob.len()))),
                // It can be made again; a result without its bytes would never be.
                Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => {
                    let inner = self.inner.clone();
                    blocking_store(move || inner.forget(key.0.as_bytes())).await?;
                    Ok(None)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Whether the files that a remembered run wrote are here, if it wrote some. One that another node made has none.
    pub fn has_written(&self, report: &PureReport) -> Result<bool, StoreError> {
        if report.written_files == 0 {
            return Ok(true);
        }
        let written = self.inner.db.begin_read()?.open_table(WRITTEN)?;
        let payload = written.get(report.key.0.as_bytes())?;
        let payload = payload.and_then(|payload| Payload::decode(payload.value()));
        Ok(matches!(payload, Some(Payload::Inline(_) | Payload::Blob(_))))
    }

    /// To be asked before a run begins.
    pub fn as_of(&self) -> Result<AsOf, StoreError> {
        let until = self.inner.db.begin_read()?.open_table(UNTIL)?;
        let last = until.get(FORGOTTEN)?;
        Ok(AsOf(last.map(|last| last.value())))
    }

    /// Keeps a result, computed for the datasets `origins`; one that was given says who made it. When this returns `Ok`, it is
    /// on disk, unless everything was forgotten since `as_of`: then it is, too.
    pub async fn keep(
        &self,
        report: PureReport,
        origins: &[String],
        output: Bytes,
        written: Option<Bytes>,
        as_of: AsOf,
    ) -> Result<(), StoreError> {
        let output = self.payload_of(output, INLINE_BYTES).await?;
        let written = match written {
            Some(bytes) => Some(self.payload_of(bytes, INLINE_WRITTEN_BYTES).await?),
            None if report.written_files > 0 => Some(Payload::Elsewhere(report.written)),
            None => None,
        };
        self.queue(Change::Keep(Box::new(NewRow {
            report,
            origins: origins.to_owned(),
            output,
            written,
            as_of,
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

    /// Forgets all that was computed for the dataset `origin`.
    pub async fn purge(&self, origin: &str) -> Result<Forgotten, StoreError> {
        let (inner, origin) = (self.inner.clone(), origin.to_owned());
        blocking_store(move || inner.purge(&origin)).await
    }

    /// Forgets everything, for a record of `until` that says so. Does nothing if that was done before.
    pub async fn forget_all(&self, until: RecordClock) -> Result<Forgotten, StoreError> {
        let inner = self.inner.clone();
        blocking_store(move || inner.forget_all(until)).await
    }

    /// Forgets the least recently used results that are too much.
    pub async fn evict(&self) -> Result<Forgotten, StoreError> {
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
            let mut queue = self.inner.queue.lock();
            queue.waiting.push(WaitingChange { change, done });
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
        parts: Digest::EMPTY,
        fuel,
        total_fuel,
        data_bytes,
        moved_bytes: 0,
        written_files,
        written_bytes,
        run_us: 0,
        written: Digest::of(b""),
        made: None,
    }
}

impl Inner {
    /// Commits until nobody waits any more.
    fn commit_waiting(&self) {
        loop {
            let batch = {
                let mut queue = self.queue.lock();
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
            let mut parts = tx.open_table(PARTS)?;
            let mut totals = tx.open_table(TOTALS)?;
            let mut held = totals.get(HELD_BYTES)?.map_or(0, |held| held.value());
            let now = AsOf(tx.open_table(UNTIL)?.get(FORGOTTEN)?.map(|last| last.value()));
            for change in changes {
                match change {
                    Change::Keep(new) if new.as_of != now => {}
                    Change::Keep(new) => {
                        let report = &new.report;
                        let key = report.key.0.as_bytes();
                        let written_bytes = new.written.as_ref();
                        let written_bytes =
                            written_bytes.map_or(0, |payload| payload.held_bytes(report.written_bytes));
                        let bytes = ROW_BYTES + report.output_bytes + written_bytes;
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
                        match report.parts {
                            Digest::EMPTY => parts.remove(key)?,
                            digest => parts.insert(key, digest.as_bytes())?,
                        };
                        let before = [
                            outputs.insert(key, &new.output.encode()[..])?,
                            match &new.written {
                                Some(payload) => written.insert(key, &payload.encode()[..])?,
                                None => written.remove(key)?,
                            },
                        ];
                        // What it held before is collected, if nothing else holds it.
                        for payload in before.into_iter().flatten() {
                            if let Some(blob) =
                                Payload::decode(payload.value()).and_then(|payload| payload.blob())
                            {
                                holds.remove((*blob.as_bytes(), *key))?;
                            }
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
