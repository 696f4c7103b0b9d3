//! Which results of the tree hosts remember, so that what stands below them is not run.

use std::time::Duration;

use nearfield_protocol::job::PureReport;

use super::sites::View;
use super::state::{Engine, Phase};
use crate::order::{Known, Order};

impl Engine {
    /// Asks what is remembered: a node that is has all below it done. From the root down, so nothing below a remembered node
    /// is looked at.
    pub(super) fn look(&mut self, view: View<'_>) {
        let mut known = Known {
            leaves: vec![false; self.leaves.len()],
            nodes: self.levels.iter().map(|level| vec![true; level.len()]).collect(),
        };
        match self.levels.len().checked_sub(1) {
            // Files that a shard wrote are its own result's, so each leaf is needed.
            _ if self.setting.may_write => {
                known.nodes.iter_mut().for_each(|level| level.fill(false));
                self.look_at_leaves((0..self.leaves.len()).collect(), known, view);
            }
            None => self.look_at_leaves((0..self.leaves.len()).collect(), known, view),
            Some(top) => self.look_at(top, vec![0], known, view),
        }
    }

    fn look_at(&mut self, level: usize, open: Vec<usize>, known: Known, view: View<'_>) {
        let keys = open.iter().map(|&index| self.levels[level][index].key).collect();
        self.phase = Phase::Nodes { level, open, known };
        self.recall(keys, view);
    }

    /// What hosts remember of one level is known.
    pub(super) fn looked_at(
        &mut self,
        level: usize,
        open: &[usize],
        mut known: Known,
        found: &[Option<PureReport>],
        view: View<'_>,
    ) {
        let mut below = Vec::new();
        for (&index, found) in open.iter().zip(found) {
            let node = &self.levels[level][index];
            if node.parts.len() > 1 && found.is_some() {
                known.leaves[node.leaves.clone()].fill(true);
                continue;
            }
            known.nodes[level][index] = false;
            below.extend(node.parts.clone());
        }
        match level.checked_sub(1) {
            Some(next) => self.look_at(next, below, known, view),
            None => self.look_at_leaves(below, known, view),
        }
    }

    /// Among several hosts a map goes to the one that remembers it.
    fn look_at_leaves(&mut self, open: Vec<usize>, known: Known, view: View<'_>) {
        // Of a tree without shards that failed `looked` asks itself.
        if view.table.len() < 2 || !self.failures.is_empty() {
            return self.looked(known, view);
        }
        let keys = open.iter().map(|&leaf| self.leaves[leaf].key).collect();
        self.phase = Phase::Leaves { known };
        self.recall(keys, view);
    }

    /// What is remembered is known.
    pub(super) fn looked(&mut self, known: Known, view: View<'_>) {
        if self.failures.is_empty() {
            for leaf in 0..self.leaves.len() {
                if known.leaves[leaf] {
                    self.advance(leaf, true, Duration::from_secs_f64(self.progress.seconds));
                }
            }
            self.phase = Phase::Compute(Order::new(self.levels.clone(), &known));
            return;
        }
        // In another tree than the one that was run other leaves are needed: those that are remembered need not run.
        let open = self.leaves.iter().zip(&known.leaves);
        let open = open.filter(|(leaf, known)| !**known && self.sites.claims.first(&leaf.key).is_none());
        let keys = open.map(|(leaf, _)| leaf.key).collect();
        self.phase = Phase::OtherLeaves { known };
        self.recall(keys, view);
    }

    /// What is remembered of another tree's leaves is known.
    pub(super) fn looked_again(&mut self, mut known: Known) {
        for (leaf, known) in self.leaves.iter().zip(&mut known.leaves) {
            *known |= self.sites.claims.first(&leaf.key).is_some();
            if !*known {
                // It counted as done: it ran on a host that was lost since, or stood below a result that was remembered.
                self.progress.done -= 1;
                self.remembered.remove(&leaf.index);
                self.progress.bytes_done -= leaf.size_bytes;
            }
        }
        self.progress.remembered = self.remembered.len() as u64;
        self.phase = Phase::Compute(Order::new(self.levels.clone(), &known));
    }
}
