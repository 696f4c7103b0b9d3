//! What of a data folder is broken, or of another moment than the rest: found before anything is let go of.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, pin_mut};
use iroh_docs::store::Query;
use nearfield_protocol::node::Role;
use nearfield_protocol::records::RecordKind;
use nearfield_store::StoreError;

use super::{Absent, Document};
use crate::error::NetError;

/// What helps where a part of the folder is lost.
pub(super) const RESTORE: &str = "restore the whole folder from a backup, or have the node join anew with `nearfield join TICKET --forget`";

impl Document {
    /// Notes which of its own records this node cannot read any more: what it wrote was here. Whether there are some.
    pub(super) fn note_lost(&self) -> bool {
        let mut lost = BTreeSet::new();
        for absent in self.wanted() {
            let (kind, name) = (absent.key.kind, &absent.key.name);
            if absent.author != self.id {
                tracing::info!(?kind, name, "the value of a record is not here yet");
                continue;
            }
            tracing::error!(
                ?kind,
                name,
                blob = %absent.digest,
                "a record of this node cannot be read: its value is lost or broken. Nothing is let go of, and what has this name counts \
                 as ended, until the data folder is restored from a backup or another gateway gives the value"
            );
            // Its own it can write anew.
            let is_own = kind == RecordKind::Node && *name == self.id.to_string();
            if !is_own {
                lost.insert((kind, name.clone()));
            }
        }
        let some = !lost.is_empty();
        *self.lost.lock() = Arc::new(lost);
        some
    }

    /// What came back from another gateway is lost no more.
    pub(super) fn found_again(&self) {
        let mut lost = self.lost.lock();
        if lost.is_empty() {
            return;
        }
        let missing = self.missing.lock();
        let still = |(kind, name): &&(RecordKind, String)| {
            let mut keys = missing.values().filter(|absent| absent.author == self.id);
            keys.any(|absent| absent.key.kind == *kind && absent.key.name == *name)
        };
        *lost = Arc::new(lost.iter().filter(still).cloned().collect());
    }

    /// A record that this node wrote itself is written after its value is sealed. Where the store knows no such value, its files
    /// are of another moment than the records, and it would remove what came between.
    pub(super) async fn check_own_values(&self) -> Result<(), NetError> {
        let query = Query::author(self.author);
        let entries = self.doc.get_many(query).await.map_err(NetError::records)?;
        pin_mut!(entries);
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(NetError::records)?;
            let Some(own) = Absent::of(&entry, entry.author(), None) else {
                continue;
            };
            if let Err(StoreError::Missing(digest)) = self.store.size_of(&own.digest) {
                return Err(NetError::Records(format!(
                    "no blob {digest} in this store, though a record of `{}` names it: state.redb and blobs/ are of another moment \
                     than records/: restore the whole data folder from one backup",
                    own.key.name
                )));
            }
        }
        Ok(())
    }

    /// The store knows of what time the records were: older ones name less than the store has, and the rest would be let go of.
    pub(super) async fn check_not_older(&self) -> Result<(), NetError> {
        let network = self.doc.id().to_string();
        let (noted, latest) = (self.store.records_unix_ms(&network).await?, self.latest_unix_ms());
        // Records that cannot be read may have been the latest.
        if latest >= noted || self.lacks_values() {
            return self.note_latest().await;
        }
        let records = self.records();
        let mut others = records.nodes().map(|member| &member.node);
        if !others.any(|node| node.role == Role::Gateway && node.id != self.id) {
            return Err(NetError::Records(format!(
                "records/ is of an earlier moment ({latest} ms) than state.redb ({noted} ms): restore the whole data folder from one \
                 backup"
            )));
        }
        // It may be no damage: what a gateway wrote last counts no more once it is expelled.
        tracing::warn!(
            latest,
            noted,
            "records/ is of an earlier moment than state.redb: nothing is let go of until the records were compared with a gateway's"
        );
        self.is_behind.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// All that a gateway has was compared and is here now.
    pub async fn caught_up(&self) -> Result<(), NetError> {
        if self.is_behind.load(Ordering::Relaxed) {
            self.note_again().await?;
            self.is_behind.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Tells the store of what time the records are, also if that is earlier than before.
    pub(super) async fn note_again(&self) -> Result<(), NetError> {
        let network = self.doc.id().to_string();
        Ok(self.store.note_records(&network, self.latest_unix_ms()).await?)
    }

    pub(super) fn latest_unix_ms(&self) -> u64 {
        self.records().last.map_or(0, |clock| clock.unix_ms)
    }

    /// Tells the store of what time the records are. As a node starts and stops: each note is a write of its own.
    pub async fn note_latest(&self) -> Result<(), NetError> {
        let (latest, network) = (self.latest_unix_ms(), self.doc.id().to_string());
        let is_later = self.store.records_unix_ms(&network).await? < latest;
        match is_later && !self.is_behind.load(Ordering::Relaxed) {
            true => Ok(self.store.note_records(&network, latest).await?),
            false => Ok(()),
        }
    }

    /// Whether the values of some records are not here, or there may be records that are not: what these say is not known.
    pub fn lacks_values(&self) -> bool {
        !self.missing.lock().is_empty() || self.is_behind.load(Ordering::Relaxed)
    }
}
