//! How far draining hosts are. Each round of repair counts it beside what it looks for anyway.

use std::collections::{HashMap, HashSet};

use nearfield_protocol::{Digest, NodeId};

use crate::place::holders::Slot;
use crate::place::table::HostTable;

/// How far one draining host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Blobs that it holds.
    pub held: u64,
    /// Those of them that too few others keep.
    pub left: u64,
}

/// The count of one round: a blob of several versions counts once.
#[derive(Debug)]
pub struct Drains {
    hosts: HashMap<Slot, Counted>,
}

#[derive(Debug)]
struct Counted {
    id: NodeId,
    held: HashSet<Digest>,
    left: HashSet<Digest>,
}

impl Drains {
    /// Begins to count what the hosts hold that drain now.
    pub fn begin(table: &HostTable) -> Self {
        let draining = table.iter().filter(|(_, host)| host.draining);
        let counted = |id| Counted {
            id,
            held: HashSet::new(),
            left: HashSet::new(),
        };
        Drains {
            hosts: draining.map(|(slot, host)| (slot, counted(host.id))).collect(),
        }
    }

    /// Counts a blob, which enough others keep or not.
    pub fn count(&mut self, table: &HostTable, digest: &Digest, enough: bool) {
        if self.hosts.is_empty() {
            return;
        }
        for slot in table.holders.of(digest) {
            let Some(counted) = self.hosts.get_mut(&slot) else {
                continue;
            };
            counted.held.insert(*digest);
            if !enough {
                counted.left.insert(*digest);
            }
        }
    }

    pub fn end(self) -> HashMap<NodeId, Drain> {
        let drain = |counted: Counted| {
            let (held, left) = (counted.held.len() as u64, counted.left.len() as u64);
            (counted.id, Drain { held, left })
        };
        self.hosts.into_values().map(drain).collect()
    }
}
