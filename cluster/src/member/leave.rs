//! What would be lost if a node left.

use std::collections::HashSet;
use std::time::Duration;

use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};

use super::lists::Lists;
use super::repair::{KeptBlobs, look_at_all};
use crate::cluster::Cluster;
use crate::problem::net_problem;

/// How long all lists may take. Whoever asks to leave waits longer, so that nobody is let go who was told otherwise.
const LOOKING: Duration = Duration::from_secs(60);
/// Blobs that are looked up before others may use the table.
const LOOKED_AT_ONCE: usize = 1_024;

impl Cluster {
    /// Writes down that a node leaves, unless it alone keeps something that records name.
    pub async fn let_go(&self, node: &NodeId) -> Result<(), Problem> {
        // One leave at a time at this gateway: of two nodes that keep the same, one stays.
        let _leaving = self.leaving.lock().await;
        match self.kept_alone(node).await {
            0 => self.catalog.node.let_go(node).await.map_err(net_problem),
            alone => Err(Problem::new(
                ProblemKind::Conflict,
                format!(
                    "{alone} blobs are kept by this node alone: `nearfield drain {}` at a gateway has others copy them, then leave",
                    node.short()
                ),
            )),
        }
    }

    /// How many blobs would be lost: records name them, and no other node that is there keeps them.
    async fn kept_alone(&self, node: &NodeId) -> usize {
        let (records, is_here) = (self.catalog.node.records(), *node == self.catalog.node.id());
        // Of a node that has yet to report what it holds nothing is known: what nobody else has may be there.
        let is_silent = {
            let table = self.hosts.table();
            !is_here && table.slot(node).is_some_and(|slot| !table.holders.has_any(slot))
        };
        let mut alone = HashSet::new();
        let look = |kept: KeptBlobs<'_>| {
            for some in kept.digests.chunks(LOOKED_AT_ONCE) {
                let table = self.hosts.table();
                for digest in some.iter().filter(|digest| **digest != Digest::EMPTY) {
                    let mut is_kept = is_silent || is_here && self.catalog.store.has(digest);
                    let mut others = false;
                    for host in table.holders.of(digest).filter_map(|slot| table.get(slot)) {
                        is_kept |= host.id == *node;
                        // One that left a moment ago may still be in the table.
                        others |= host.id != *node && host.there && records.node(&host.id).is_some();
                    }
                    if is_kept && !others {
                        alone.insert(*digest);
                    }
                }
            }
        };
        let mut lists = Lists::default();
        let looking = look_at_all(self, &records, &mut lists, look);
        if let Ok(true) = tokio::time::timeout(LOOKING, looking).await {
            return alone.len();
        }
        // Some lists cannot be read, so any blob that this node alone holds may be among their shards.
        let table = self.hosts.table();
        let held = table.slot(node).map_or(0, |slot| table.holders.only_at(slot));
        alone.len().max(held)
    }
}
