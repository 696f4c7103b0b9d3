//! Taking in what other nodes write: entries come by themselves, their values are fetched.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use iroh_docs::engine::LiveEvent;
use nearfield_protocol::NodeId;
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::document::{Absent, RECORD_BYTES};
use crate::error::NetError;
use crate::node::Node;
use crate::peers::node_id;

/// Entries that come together are taken in together.
const GATHER: Duration = Duration::from_millis(2);
/// Most entries that are taken in at once.
const BATCH: usize = 1_024;
/// How long one value may take: nothing else is taken in meanwhile.
const VALUE: Duration = Duration::from_secs(10);
/// How often values that nobody gave are asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How many nodes are asked for what a gateway that is gone may have written last.
const ASKED_AFTER_LOSS: usize = 8;
/// How often everything is compared with some other node, in case that something was missed.
const COMPARE: Duration = Duration::from_secs(60);

impl Node {
    /// Takes in what others write, until `stop`.
    pub async fn follow_records(&self, stop: CancellationToken) -> Result<(), NetError> {
        let events = self.document().events().await?.fuse();
        pin_mut!(events);
        // What came before anybody listened.
        self.document().reread().await?;
        let (mut again, mut compare) = (interval(AGAIN), interval(COMPARE));
        let mut failed = HashSet::new();
        let (mut present, mut were_there) = (self.comings_and_goings(), HashSet::new());
        self.sync(&self.gateways()).await?;
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = again.tick() => {
                    self.fetch_values(self.document().wanted(), None).await;
                    // Two that begin with each other at once may both give way.
                    let failed: Vec<NodeId> = std::mem::take(&mut failed).into_iter().collect();
                    if !failed.is_empty() && let Err(error) = self.sync(&failed).await {
                        tracing::warn!(%error, "the records cannot be compared");
                    }
                    continue;
                }
                Ok(()) = present.changed() => {
                    let are_there: HashSet<NodeId> = present.borrow_and_update().keys().copied().collect();
                    let records = self.records();
                    let lost = |node: &NodeId| records.is_gateway(node);
                    // What it wrote last may be with some others only.
                    if were_there.difference(&are_there).any(lost) {
                        let some: Vec<NodeId> = are_there.iter().take(ASKED_AFTER_LOSS).copied().collect();
                        if let Err(error) = self.sync(&some).await {
                            tracing::warn!(%error, "the records cannot be compared");
                        }
                    }
                    were_there = are_there;
                    continue;
                }
                _ = compare.tick() => {
                    if let Err(error) = self.sync(&self.gateways()).await {
                        tracing::warn!(%error, "the records cannot be compared");
                    }
                    continue;
                }
                event = events.next() => match event {
                    Some(event) => event,
                    None => return Err(NetError::Records("the document has no more events".to_owned())),
                },
            };
            let (mut batch, mut from, mut compared) = (Vec::new(), None, false);
            let mut note = |event| match event {
                LiveEvent::InsertRemote {
                    entry, from: sender, ..
                } => {
                    from = Some(node_id(&sender));
                    batch.extend(Absent::of(&entry, entry.author()));
                }
                LiveEvent::SyncFinished(ended) if ended.result.is_ok() => compared = true,
                LiveEvent::SyncFinished(ended) => {
                    let peer = node_id(&ended.peer);
                    if self.document().admits(&peer) {
                        failed.insert(peer);
                    }
                }
                _ => {}
            };
            note(first);
            let gathered = sleep(GATHER);
            pin_mut!(gathered);
            let mut taken = 1;
            while taken < BATCH {
                tokio::select! {
                    () = &mut gathered => break,
                    Some(event) = events.next() => note(event),
                    else => break,
                }
                taken += 1;
            }
            self.fetch_values(batch, from).await;
            if compared && self.document().wanted().is_empty() {
                self.hear();
            }
        }
    }

    /// Fetches the values of entries and takes in those that came.
    async fn fetch_values(&self, absent: Vec<Absent>, from: Option<NodeId>) {
        if absent.is_empty() {
            return;
        }
        let gateways = self.gateways();
        let fetched = futures_util::stream::iter(absent)
            .map(|absent| self.fetch_value(absent, from, &gateways))
            .buffer_unordered(16)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if let Err(error) = self.document().take(fetched).await {
            tracing::error!(%error, "records that came cannot be taken in");
        }
    }

    async fn fetch_value(
        &self,
        absent: Absent,
        from: Option<NodeId>,
        gateways: &[NodeId],
    ) -> Option<crate::view::Entry> {
        let digest = absent.digest;
        if let Ok(value) = self.store().stored(&digest).await {
            let len = value.len();
            return Some(absent.with(value.slice(0..len)));
        }
        // Who sent the entry likely has the value; its author has it if it is there at all.
        let mut holders: Vec<NodeId> = from.into_iter().chain([absent.author]).collect();
        holders.extend(gateways);
        holders.retain(|holder| *holder != self.id());
        let mut seen = HashSet::new();
        holders.retain(|holder| seen.insert(*holder));
        if absent.size_bytes > RECORD_BYTES {
            tracing::warn!(
                name = absent.key.name,
                size_bytes = absent.size_bytes,
                "a record is too large to take"
            );
            return None;
        }
        let fetching = tokio::time::timeout(VALUE, self.peers().fetch(digest, holders));
        let fetched = match fetching
            .await
            .unwrap_or_else(|_| Err("it did not come in time".to_owned()))
        {
            Ok(value) => {
                self.document().expect_value(digest);
                let sealed = self.store().add_record(value.clone()).await;
                sealed.map(|_| value).map_err(|error| error.to_string())
            }
            Err(cause) => Err(cause),
        };
        match fetched {
            Ok(value) => Some(absent.with(value)),
            Err(cause) => {
                tracing::debug!(name = absent.key.name, cause, "a record's value is not here yet");
                self.document().miss(absent);
                None
            }
        }
    }
}
