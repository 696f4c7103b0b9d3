//! Taking in what other nodes write: entries come by themselves, their values are fetched.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use iroh_docs::engine::LiveEvent;
use nearfield_protocol::NodeId;
use nearfield_protocol::records::RecordKey;
use nearfield_store::Fetched;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::document::{Absent, RECORD_BYTES};
use crate::endpoint::node_id;
use crate::error::NetError;
use crate::node::Node;

/// Entries that come together are taken in together.
const GATHER: Duration = Duration::from_millis(2);
/// Most entries that are taken in at once.
const BATCH: usize = 1_024;
/// How long one value may take.
const VALUE: Duration = Duration::from_secs(10);
/// How often values that nobody gave are asked for again.
const AGAIN: Duration = Duration::from_secs(1);
/// How many members that are there are asked for what a gateway that is gone may have written last.
const ASKED: usize = 8;
/// How often everything is compared with some other node, in case that something was missed.
const COMPARE: Duration = Duration::from_secs(60);

/// What has come since it was looked at last, each record once.
#[derive(Default)]
struct Arrived {
    entries: BTreeMap<RecordKey, Absent>,
    /// Some comparison ended well, and one with a gateway.
    compared: bool,
    compared_with_gateway: bool,
    /// Those with which one did not.
    failed: HashSet<NodeId>,
}

impl Arrived {
    fn note(&mut self, event: LiveEvent, is_gateway: impl Fn(&NodeId) -> bool) {
        match event {
            LiveEvent::InsertRemote { entry, from, .. } => {
                let absent = Absent::of(&entry, entry.author(), Some(node_id(&from)));
                self.entries
                    .extend(absent.map(|absent| (absent.key.clone(), absent)));
            }
            LiveEvent::SyncFinished(ended) if ended.result.is_ok() => {
                self.compared = true;
                self.compared_with_gateway |= is_gateway(&node_id(&ended.peer));
            }
            LiveEvent::SyncFinished(ended) => {
                self.failed.insert(node_id(&ended.peer));
            }
            _ => {}
        }
    }

    /// At most [`BATCH`] entries.
    fn some(&mut self) -> Vec<Absent> {
        let later = self.entries.keys().nth(BATCH).cloned();
        let later = later.map(|key| self.entries.split_off(&key)).unwrap_or_default();
        std::mem::replace(&mut self.entries, later)
            .into_values()
            .collect()
    }
}

impl Node {
    /// Takes in what others write, until `stop`.
    pub async fn follow_records(&self, stop: CancellationToken) -> Result<(), NetError> {
        let events = self.document().events().await?;
        let (arrived, more) = (Mutex::<Arrived>::default(), Notify::new());
        // Whatever the document is asked waits for its events to be taken, so nobody who takes them asks it anything.
        let listening = async {
            pin_mut!(events);
            while let Some(event) = events.next().await {
                if matches!(event, LiveEvent::InsertRemote { .. }) {
                    self.document().entry_came();
                }
                let records = self.records();
                arrived.lock().note(event, |node| records.is_gateway(node));
                more.notify_one();
            }
            Err(NetError::Records("the document has no more events".to_owned()))
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = listening => ended,
            ended = self.take_in(&arrived, &more) => ended,
            () = self.ask_again() => Ok(()),
            () = self.compare(&arrived) => Ok(()),
        }
    }

    async fn take_in(&self, arrived: &Mutex<Arrived>, more: &Notify) -> Result<(), NetError> {
        // What came before anybody listened.
        self.document().reread().await?;
        // Also with nobody: from now on others may compare with this node.
        self.sync(&self.gateways()).await?;
        loop {
            more.notified().await;
            sleep(GATHER).await;
            loop {
                let (some, compared, with_gateway) = {
                    let mut arrived = arrived.lock();
                    let some = arrived.some();
                    // What a comparison brought is taken in once the last of it is.
                    match some.len() < BATCH {
                        true => (
                            some,
                            std::mem::take(&mut arrived.compared),
                            std::mem::take(&mut arrived.compared_with_gateway),
                        ),
                        false => (some, false, false),
                    }
                };
                let last = some.len() < BATCH;
                self.fetch_values(some).await;
                if compared && self.document().wanted().is_empty() {
                    if with_gateway {
                        self.document().caught_up().await?;
                    }
                    self.hear();
                }
                if last {
                    break;
                }
            }
        }
    }

    /// Asks for values that nobody gave.
    async fn ask_again(&self) {
        loop {
            sleep(AGAIN).await;
            self.fetch_values(self.document().wanted()).await;
        }
    }

    /// Compares everything now and then, and when somebody is gone that may have written what only others have.
    async fn compare(&self, arrived: &Mutex<Arrived>) {
        let mut present = self.comings_and_goings();
        let mut were_there: HashSet<NodeId> = present.borrow_and_update().keys().copied().collect();
        // The first comparison is that of `take_in`.
        let (mut again, mut all) = (interval(AGAIN), interval_at(Instant::now() + COMPARE, COMPARE));
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        all.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Ok(()) = present.changed() => {
                    let are_there: HashSet<NodeId> = present.borrow_and_update().keys().copied().collect();
                    let records = self.records();
                    if were_there.difference(&are_there).any(|node| records.is_gateway(node)) {
                        self.compare_with(&self.some_present()).await;
                    }
                    were_there = are_there;
                }
                _ = again.tick() => {
                    // Two that begin with each other at once may both give way.
                    let failed = std::mem::take(&mut arrived.lock().failed);
                    let failed: Vec<NodeId> =
                        failed.into_iter().filter(|node| self.document().admits(node)).collect();
                    self.compare_with(&failed).await;
                }
                _ = all.tick() => {
                    self.compare_with(&[self.gateways(), self.some_present()].concat()).await;
                }
            }
        }
    }

    async fn compare_with(&self, nodes: &[NodeId]) {
        if nodes.is_empty() {
            return;
        }
        if let Err(error) = self.sync(nodes).await {
            tracing::warn!(%error, "the records cannot be compared");
        }
    }

    /// Some of the members that are there.
    fn some_present(&self) -> Vec<NodeId> {
        let mut some = self.present();
        some.truncate(ASKED);
        some
    }

    /// Fetches the values of entries and takes in those that came.
    async fn fetch_values(&self, absent: Vec<Absent>) {
        if absent.is_empty() {
            return;
        }
        let gateways = self.gateways();
        let fetched = futures_util::stream::iter(absent)
            .map(|absent| self.fetch_value(absent, &gateways))
            .buffer_unordered(16)
            .filter_map(std::future::ready)
            .collect()
            .await;
        if let Err(error) = self.document().take(fetched).await {
            tracing::error!(%error, "records that came cannot be taken in");
        }
    }

    async fn fetch_value(&self, absent: Absent, gateways: &[NodeId]) -> Option<crate::view::Entry> {
        let digest = absent.digest;
        if let Ok(value) = self.store().stored(&digest).await {
            let len = value.len();
            return Some(absent.with(value.slice(0..len)));
        }
        // Who sent the entry likely has the value; its author has it if it is there at all.
        let mut holders: Vec<NodeId> = absent.sender.into_iter().chain([absent.author]).collect();
        holders.extend(gateways);
        holders.extend(self.some_present());
        // Whoever is there first: others only take time.
        let present = self.present();
        holders.sort_by_key(|holder| !present.contains(holder));
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
        let fetching = tokio::time::timeout(VALUE, self.peers().fetch(digest, holders, RECORD_BYTES));
        let fetched = match fetching
            .await
            .unwrap_or_else(|_| Err("it did not come in time".to_owned()))
        {
            Ok(Fetched { bytes: value, .. }) => {
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
