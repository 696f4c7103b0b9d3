//! Which results go, and what goes with them.

use nearfield_protocol::records::RecordClock;
use redb::{ReadableTable, WriteTransaction};

use super::payload::Payload;
use super::{
    BY_USE, FORGOTTEN, Forgotten, GIVEN, HELD_BYTES, HOLDS, Inner, ORIGINS, OUTPUTS, PARTS, ROWS, TOTALS,
    UNTIL, WRITTEN,
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

    pub fn forget_all(&self, until: RecordClock) -> Result<Forgotten, StoreError> {
        let tx = self.db.begin_write()?;
        let keys = {
            let (mut noted, until) = (tx.open_table(UNTIL)?, until.encode());
            let last = noted.get(FORGOTTEN)?.map(|last| last.value());
            if last.is_some_and(|last| last >= until) {
                return Ok(Forgotten::default());
            }
            noted.insert(FORGOTTEN, until)?;
            let rows = tx.open_table(ROWS)?;
            let keys: Result<Vec<_>, redb::StorageError> =
                rows.iter()?.map(|row| Ok(row?.0.value())).collect();
            keys?
        };
        forget(tx, &keys)
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

fn forget(tx: WriteTransaction, keys: &[[u8; 32]]) -> Result<Forgotten, StoreError> {
    let mut forgotten = Forgotten::default();
    if !keys.is_empty() {
        let mut rows = tx.open_table(ROWS)?;
        let mut by_use = tx.open_table(BY_USE)?;
        let mut holds = tx.open_table(HOLDS)?;
        let mut totals = tx.open_table(TOTALS)?;
        let mut given = tx.open_table(GIVEN)?;
        let mut parts = tx.open_table(PARTS)?;
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
            parts.remove(key)?;
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
