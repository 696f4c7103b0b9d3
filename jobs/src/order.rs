//! What of a job's tree runs next. Pure: what is done goes in, what can run comes out.

use std::sync::Arc;

use crate::plan::PlanNode;

/// Which leaves and nodes, by level, need not run: they are remembered, or stand below one that is.
#[derive(Debug, Clone)]
pub struct Known {
    pub leaves: Vec<bool>,
    pub nodes: Vec<Vec<bool>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TreeStep {
    Map(usize),
    Reduce { level: usize, index: usize },
}

/// Runs each leaf, and each node once all of its parts are done.
pub struct Order {
    levels: Arc<[Vec<PlanNode>]>,
    leaves: std::vec::IntoIter<usize>,
    /// Parts of each node that are not done.
    waiting: Vec<Vec<usize>>,
    ready: Vec<TreeStep>,
}

impl Order {
    pub fn new(levels: Arc<[Vec<PlanNode>]>, known: &Known) -> Self {
        let unknown = |known: &[bool]| known.iter().map(|known| !known).collect::<Vec<_>>();
        let mut open_below = unknown(&known.leaves);
        let leaves: Vec<_> = (0..open_below.len()).filter(|&leaf| open_below[leaf]).collect();
        let mut order = Order {
            leaves: leaves.into_iter(),
            waiting: Vec::with_capacity(levels.len()),
            levels: levels.clone(),
            ready: Vec::new(),
        };
        let mut settled = Vec::new();
        for (level, (nodes, known)) in levels.iter().zip(&known.nodes).enumerate() {
            let open = |node: &PlanNode| {
                open_below[node.parts.clone()]
                    .iter()
                    .filter(|&&open| open)
                    .count()
            };
            let waiting: Vec<_> = nodes.iter().map(open).collect();
            let done = (0..nodes.len()).filter(|&index| !known[index] && waiting[index] == 0);
            settled.extend(done.map(|index| (level, index)));
            order.waiting.push(waiting);
            open_below = unknown(known);
        }
        for (level, index) in settled {
            order.settle(level, index);
        }
        order
    }

    /// What can run now. Reductions go first: their parts are fresh, and what is left of them at the end has fewer cores.
    pub fn next(&mut self) -> Option<TreeStep> {
        self.ready.pop().or_else(|| self.leaves.next().map(TreeStep::Map))
    }

    pub fn done(&mut self, step: TreeStep) {
        match step {
            TreeStep::Map(leaf) => self.part_done(0, leaf),
            TreeStep::Reduce { level, index } => self.part_done(level + 1, index),
        }
    }

    /// A part of `level` has come: the node that it belongs to may have all of them.
    fn part_done(&mut self, level: usize, part: usize) {
        let Some(nodes) = self.levels.get(level) else {
            return;
        };
        let index = nodes.partition_point(|node| node.parts.end <= part);
        let waiting = &mut self.waiting[level][index];
        *waiting -= 1;
        if *waiting == 0 {
            self.settle(level, index);
        }
    }

    /// All parts of a node are there. One that stands alone moves up as it is.
    fn settle(&mut self, level: usize, index: usize) {
        match self.levels[level][index].parts.len() {
            1 => self.part_done(level + 1, index),
            _ => self.ready.push(TreeStep::Reduce { level, index }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use nearfield_protocol::Digest;
    use nearfield_protocol::job::ResultKey;
    use proptest::prelude::*;

    use super::*;

    /// A tree over `leaves`, whose groups have the sizes that `sizes` goes on saying.
    fn tree(leaves: usize, sizes: &[usize]) -> Vec<Vec<PlanNode>> {
        let mut sizes = sizes.iter().cycle();
        let (mut levels, mut below) = (
            Vec::new(),
            (0..leaves).map(|leaf| leaf..leaf + 1).collect::<Vec<_>>(),
        );
        while below.len() > 1 {
            let (mut level, mut at) = (Vec::new(), 0);
            while at < below.len() {
                // A level of groups of one would never end.
                let least = if level.is_empty() { 2 } else { 1 };
                let end = below.len().min(at + *sizes.next().unwrap().max(&least));
                level.push(PlanNode {
                    key: ResultKey(Digest::EMPTY),
                    leaves: below[at].start..below[end - 1].end,
                    parts: at..end,
                });
                at = end;
            }
            below = level.iter().map(|node| node.leaves.clone()).collect();
            levels.push(level);
        }
        levels
    }

    proptest! {
        #[test]
        fn all_that_is_not_known_runs_once_and_after_its_parts(
            leaves in 0usize..80,
            sizes in prop::collection::vec(1usize..6, 1..20),
            remembered in prop::collection::vec(0u8..8, 200),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 200),
        ) {
            let levels = tree(leaves, &sizes);
            let mut remembered = remembered.iter().cycle();
            // From the root down, as a job looks for what is remembered.
            let mut known = Known {
                leaves: vec![false; leaves],
                nodes: levels.iter().map(|level| vec![false; level.len()]).collect(),
            };
            for level in (0..levels.len()).rev() {
                for (index, node) in levels[level].iter().enumerate() {
                    let above = levels.get(level + 1).is_some_and(|above| {
                        let parent = above.partition_point(|parent| parent.parts.end <= index);
                        known.nodes[level + 1][parent]
                    });
                    let itself = node.parts.len() > 1 && *remembered.next().unwrap() == 0;
                    known.nodes[level][index] = above || itself;
                    if itself {
                        known.leaves[node.leaves.clone()].fill(true);
                    }
                }
            }

            let levels: Arc<[Vec<PlanNode>]> = levels.into();
            let mut order = Order::new(levels.clone(), &known);
            let (mut running, mut ran) = (Vec::new(), HashSet::new());
            let mut picks = picks.iter().cycle();
            loop {
                while running.len() < 4 && let Some(step) = order.next() {
                    if let TreeStep::Reduce { level, index } = step {
                        for leaf in levels[level][index].leaves.clone() {
                            prop_assert!(known.leaves[leaf] || ran.contains(&TreeStep::Map(leaf)));
                        }
                    }
                    running.push(step);
                }
                if running.is_empty() {
                    break;
                }
                let step = running.swap_remove(picks.next().unwrap().index(running.len()));
                prop_assert!(ran.insert(step), "{step:?} ran twice");
                order.done(step);
            }
            let maps = (0..leaves).filter(|&leaf| !known.leaves[leaf]).map(TreeStep::Map);
            let reductions = levels.iter().enumerate().flat_map(|(level, nodes)| {
                let known = &known.nodes[level];
                let open = (0..nodes.len()).filter(move |&index| !known[index] && nodes[index].parts.len() > 1);
                open.map(move |index| TreeStep::Reduce { level, index })
            });
            prop_assert_eq!(maps.chain(reductions).collect::<HashSet<_>>(), ran);
        }
    }
}
