//! What would be lost if a node left.

use std::collections::HashSet;

use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};

use super::lists::Lists;
use super::repair::{Kept, look_at_all};
use crate::cluster::Cluster;
use crate::problem::net_problem;

impl Cluster {
    /// Writes down that a node leaves, unless it alone keeps something that records name.
    pub async fn let_go(&self, node: &NodeId) -> Result<(), Problem> {
        // One after the other: of two that keep the same, one stays.
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

    /// How many blobs that records name no other member keeps that is there.
    async fn kept_alone(&self, node: &NodeId) -> usize {
        let (records, is_here) = (self.catalog.node.records(), *node == self.catalog.node.id());
        let mut alone = HashSet::new();
        let look = |kept: Kept<'_>| {
            let table = self.hosts.table();
            for digest in kept.digests.iter().filter(|digest| **digest != Digest::EMPTY) {
                let mut is_kept = is_here && self.catalog.store.has(digest);
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
        };
        if look_at_all(self, &records, &mut Lists::default(), look).await {
            return alone.len();
        }
        // What the lists name that nobody gives now is not known: it may be anything.
        let table = self.hosts.table();
        let held = table.slot(node).map_or(0, |slot| table.holders.only_at(slot));
        alone.len().max(held)
    }
}
