//! Enough hosts keep each blob: one loop, the same after a put, a loss, a corruption and a drain.
//!
//! One gateway does it at a time, the one with the lowest id of those that are there. What is missing is a pure function
//! of the records, the lists of shards and the table of hosts (`wanted`); hosts are then asked to fetch and keep.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use nearfield_net::control::{MAX_ASKED, Question, Reply};
use nearfield_protocol::node::Label;
use nearfield_protocol::{Digest, NodeId, Problem};
use tokio::time::{MissedTickBehavior, interval};

use super::Cluster;
use crate::place::holders::Slot;
use crate::place::table::HostTable;
use crate::place::{Ask, best};
use crate::reply::store_problem;

/// How often it is looked whether enough hosts keep everything.
const ROUND: Duration = Duration::from_secs(2);
/// Hosts that keep a blob, where there are so many and nothing else is asked for.
pub const REPLICAS: u32 = 2;
/// How long a host may take to fetch what it is asked to keep.
const KEEPING: Duration = Duration::from_secs(600);
/// Blobs that one host is asked to keep in one question: few enough that a question ends soon.
const BATCH: usize = 64;

/// One dataset's, or one component's, blobs, and who is to keep them.
struct Kept<'a> {
    dataset: Option<Digest>,
    digests: &'a [Digest],
    replicas: u32,
    only: &'a [Label],
}

/// Blobs that one host is to keep, of a dataset.
type Order = (Option<Digest>, Vec<Digest>);
/// What a host is to keep, of which dataset.
type Orders = BTreeMap<(NodeId, Option<Digest>), Vec<Digest>>;

impl Cluster {
    /// Sees to it until `stop`.
    pub async fn repair(self) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.next(async { Some(round.tick().await) }).await.is_some() {
            let Some(Err(problem)) = self.next(async { Some(self.repair_once().await) }).await else {
                continue;
            };
            tracing::warn!(%problem, "not everything could be looked at for how many hosts keep it");
        }
    }

    async fn repair_once(&self) -> Result<(), Problem> {
        let catalog = &self.gateway.catalog;
        if self.gateway.hosts.alone().is_some() {
            return Ok(());
        }
        let records = catalog.node.records();
        let mut orders = Orders::new();
        let mut safe = Vec::new();
        let mut look = |kept: Kept<'_>| {
            for some in kept.digests.chunks(1_024) {
                let table = self.gateway.hosts.table();
                for digest in some.iter().filter(|digest| **digest != Digest::EMPTY) {
                    let more = wanted(&table, digest, &kept);
                    if more.is_empty() {
                        safe.push(*digest);
                    }
                    for host in more {
                        orders.entry((host, kept.dataset)).or_default().push(*digest);
                    }
                }
            }
        };
        for version in records.all_dataset_versions() {
            // A list that nobody gives now says nothing of its shards.
            let Ok(dataset) = catalog.store.dataset(&version.digest).await else {
                tracing::debug!(name = %version.name, version = version.version, "its list of shards cannot be had");
                continue;
            };
            let heads: Vec<Digest> = dataset.heads().collect();
            for digests in [&heads, &dataset.shards] {
                look(Kept {
                    dataset: Some(version.digest),
                    digests,
                    replicas: version.replicas.unwrap_or(REPLICAS),
                    only: &version.only,
                });
            }
        }
        for version in records.all_function_versions() {
            look(Kept {
                dataset: None,
                digests: &[version.component],
                replicas: REPLICAS,
                only: &[],
            });
        }
        if catalog.node.leader().is_none() {
            self.order(orders).await;
        }
        // A gateway without a host keeps bytes only until hosts do.
        if self.gateway.hosts.table().find(&catalog.node.id()).is_none() {
            let stored = safe
                .into_iter()
                .filter(|digest| catalog.store.has(digest))
                .collect::<Vec<_>>();
            catalog.store.spare(&stored).await.map_err(store_problem)?;
        }
        Ok(())
    }

    /// Asks hosts to keep blobs, each a batch at a time, all hosts at once.
    async fn order(&self, orders: Orders) {
        let node = &self.gateway.catalog.node;
        let mut by_host: HashMap<NodeId, Vec<Order>> = HashMap::new();
        for ((host, dataset), mut digests) in orders {
            digests.sort_unstable();
            digests.dedup();
            by_host.entry(host).or_default().push((dataset, digests));
        }
        let asked = by_host.into_iter().map(|(host, orders)| async move {
            for (dataset, digests) in orders {
                for some in digests.chunks(BATCH.min(MAX_ASKED)) {
                    if host == node.id() {
                        if let Err(problem) = self.keep(dataset, some).await {
                            tracing::warn!(%problem, "blobs that are to be kept here cannot be had");
                            return;
                        }
                        continue;
                    }
                    let question = Question::Keep {
                        dataset,
                        digests: some.to_vec(),
                        from: node.peers().book(),
                    };
                    match node.ask(host, question, KEEPING).await {
                        Ok(Reply::Kept(kept)) => {
                            tracing::info!(host = host.short(), kept, of = some.len(), "a host keeps more blobs");
                        }
                        Ok(Reply::Failed(problem)) => {
                            tracing::warn!(host = host.short(), %problem, "a host cannot keep what it was asked to");
                            return;
                        }
                        Ok(_) => return,
                        Err(error) => {
                            tracing::warn!(host = host.short(), %error, "a host was not reached");
                            return;
                        }
                    }
                }
            }
        });
        futures_util::future::join_all(asked).await;
    }
}

/// The hosts that are to keep a blob in addition to those that do.
fn wanted(table: &HostTable, digest: &Digest, kept: &Kept<'_>) -> Vec<NodeId> {
    let may = |slot: &Slot| {
        let host = table.get(*slot);
        host.is_some_and(|host| {
            host.there && !host.draining && kept.only.iter().all(|label| label.holds(&host.labels))
        })
    };
    let holders: Vec<Slot> = table.holders.of(digest).filter(may).collect();
    let missing = (kept.replicas as usize).saturating_sub(holders.len());
    if missing == 0 {
        return Vec::new();
    }
    let ask = Ask {
        key: *digest,
        component: *digest,
        component_bytes: 0,
        located: None,
        needs: &[],
        only: kept.only,
    };
    let ids = best(&ask, table, missing, |slot| !holders.contains(&slot));
    ids.into_iter()
        .filter_map(|slot| Some(table.get(slot)?.id))
        .collect()
}
