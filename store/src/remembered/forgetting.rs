//! Which results go, and what goes with them.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use nearfield_protocol::NodeId;
use nearfield_protocol::records::RecordClock;
use redb::{ReadableDatabase, ReadableTable, WriteTransaction};

use super::payload::Payload;
use super::{
    BY_USE, DISTRUSTED, Forgotten, GIVEN, HELD_BYTES, HOLDS, Inner, ORIGINS, OUTPUTS, ROWS, Row, TOTALS,
    WRITTEN,
};
use crate::error::StoreError;

impl Inner {
    pub fn purge(&self, origin: &str) -> Result<Forgotten, StoreError> {
        let tx = self.db.begin_write()?;
        let keys = {
            let origins = tx.open_table(ORIGINS)?;
            let of_origin = origins.range((origin, [0; 32])..=(origin, [0xff; 32]))?;
            let keys: Result<Vec<_>, redb::StorageError> =
                of_origin.map(|row| Ok(row?.0.value().1)).collect();
            keys?
        };
        forget(tx, &keys)
    }

    pub fn distrust(&self, maker: &NodeId, own: bool, until: RecordClock) -> Result<Forgotten, StoreError> {
        let until = until.encode();
        if self.has_distrusted(maker, &until)? {
            return Ok(Forgotten::default());
        }
        let tx = self.db.begin_write()?;
        // From here on nothing is kept that was begun before: it may be made of what goes now.
        self.generation.fetch_add(1, Ordering::Relaxed);
        let keys = {
            tx.open_table(DISTRUSTED)?.insert(maker.as_bytes(), until)?;
            let mut given = HashSet::new();
            for row in tx.open_table(GIVEN)?.iter()? {
                let (key, by) = row?;
                if by.value().0 == *maker.as_bytes() {
                    given.insert(key.value());
                }
            }
            let mut keys = Vec::new();
            for row in tx.open_table(ROWS)?.iter()? {
                let (key, row) = row?;
                if own || is_composed(&row.value()) || given.contains(&key.value()) {
                    keys.push(key.value());
                }
            }
            keys
        };
        forget(tx, &keys)
    }

    fn has_distrusted(&self, maker: &NodeId, until: &[u8; RecordClock::BYTES]) -> Result<bool, StoreError> {
        let distrusted = self.db.begin_read()?.open_table(DISTRUSTED)?;
        let last = distrusted.get(maker.as_bytes())?;
        Ok(last.is_some_and(|last| last.value() >= *until))
    }

    pub fn evict(&self) -> Result<Forgotten, StoreError> {
        let tx = self.db.begin_write()?;
        let mut keys = Vec::new();
        {
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
        forget(tx, &keys)
    }

    /// Forgets a result whose bytes are gone.
    pub fn forget(&self, key: &[u8; 32]) -> Result<Forgotten, StoreError> {
        forget(self.db.begin_write()?, &[*key])
    }
}

/// Whether it is made of other results: they took their fuel along, and no guest runs without.
fn is_composed((fuel, total_fuel, ..): &Row) -> bool {
    fuel != total_fuel
}

fn forget(tx: WriteTransaction, keys: &[[u8; 32]]) -> Result<Forgotten, StoreError> {
    let mut forgotten = Forgotten::default();
    if !keys.is_empty() {
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
            forgotten.results += 1;
            held -= bytes;
            by_use.remove((used, *key))?;
            given.remove(key)?;
            for table in &mut tables {
                let payload = table.remove(key)?;
                let blob = payload.and_then(|payload| Payload::decode(payload.value())?.blob());
                if let Some(blob) = blob {
                    holds.remove((*blob.as_bytes(), *key))?;
                    let of_blob = (*blob.as_bytes(), [0; 32])..=(*blob.as_bytes(), [0xff; 32]);
                    if holds.range(of_blob)?.next().is_none() {
                        forgotten.blobs.push(blob);
                    }
                }
            }
        }
        tx.open_table(ORIGINS)?
            .retain(|(_, key), ()| rows.get(key).is_ok_and(|row| row.is_some()))?;
        totals.insert(HELD_BYTES, held)?;
    }
    tx.commit()?;
    Ok(forgotten)
}
