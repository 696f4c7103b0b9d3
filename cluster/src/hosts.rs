//! The hosts that this gateway knows: the table that placement looks at, and what changes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use nearfield_net::control::{Hello, Load, MemberEvent};
use nearfield_net::{Records, Seldom};
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::Dataset;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::drains::Drain;
use crate::place::holders::{Holders, Slot};
use crate::place::table::{HostTable, MAX_HELD};

/// How long it is not asked again how much of a dataset each host holds.
const SPREAD_AGE: Duration = Duration::from_secs(2);
/// Datasets of which that is known.
const MAX_SPREADS: u64 = 1_024;
/// Blobs that a report changes under one lock, so that no placement waits long.
const STEP: usize = 1_024;
/// Of the mean fuel of a call, how much the last one counts: one part in so many.
const FUEL_MEMORY: u64 = 32;

/// How many bytes of a dataset each host holds, the most first.
pub type Spread = Arc<Vec<(Slot, u64)>>;

/// What is known of the hosts.
pub struct Hosts {
    local: NodeId,
    /// `nearfield-host` of this node, made once.
    header: HeaderValue,
    /// The lock is held for one placement, or for [`STEP`] changes.
    table: RwLock<HostTable>,
    spreads: moka::sync::Cache<(Digest, u64), Spread>,
    /// The same of what is in the memory of GPUs.
    resident: moka::sync::Cache<(Digest, u64, u64), Spread>,
    fuel_per_call: AtomicU64,
    /// What is said of hosts that claim what cannot be.
    claimed_fuel: Seldom,
    claimed_blobs: Seldom,
    /// Of the last round of repair. The lock is held for one look-up.
    drains: Mutex<HashMap<NodeId, Drain>>,
}

impl Hosts {
    pub fn new(local: NodeId) -> Self {
        let header = HeaderValue::from_str(&local.short()).unwrap_or(HeaderValue::from_static("local"));
        Hosts {
            local,
            header,
            table: RwLock::default(),
            spreads: moka::sync::Cache::builder()
                .max_capacity(MAX_SPREADS)
                .time_to_live(SPREAD_AGE)
                .build(),
            resident: moka::sync::Cache::builder()
                .max_capacity(MAX_SPREADS)
                .time_to_live(SPREAD_AGE)
                .build(),
            fuel_per_call: AtomicU64::new(HostTable::default().fuel_per_call),
            claimed_fuel: Seldom::default(),
            claimed_blobs: Seldom::default(),
            drains: Mutex::default(),
        }
    }

    pub fn table(&self) -> RwLockReadGuard<'_, HostTable> {
        self.table.read()
    }

    fn change(&self) -> RwLockWriteGuard<'_, HostTable> {
        self.table.write()
    }

    /// Takes in what a member reported.
    pub fn take(&self, event: MemberEvent, records: &Records) {
        match event {
            MemberEvent::Up(id, hello) => self.change().up(id, &hello, records),
            MemberEvent::Gone(id) => self.change().gone(&id),
            MemberEvent::Beat(id, load) => {
                let mut table = self.change();
                table.fuel_per_call = self.fuel_per_call.load(Ordering::Relaxed);
                table.beat(&id, load);
            }
            MemberEvent::Holds { node, added, removed } => self.holds(&node, &added, &removed),
            MemberEvent::Residents { node, added, removed } => {
                for some in removed.chunks(STEP) {
                    self.change().residents(&node, &[], some);
                }
                let mut beyond = 0;
                for some in added.chunks(STEP) {
                    beyond += self.change().residents(&node, some, &[]);
                }
                self.say_beyond(&node, beyond);
            }
        }
    }

    /// Takes in that a host begins to hold some blobs and ceases to hold others.
    pub fn holds(&self, node: &NodeId, added: &[Digest], removed: &[Digest]) {
        for some in removed.chunks(STEP) {
            self.change().holds(node, &[], some);
        }
        let mut beyond = 0;
        for some in added.chunks(STEP) {
            beyond += self.change().holds(node, some, &[]);
        }
        self.say_beyond(node, beyond);
    }

    /// Says that a host reports more blobs than are taken down of one.
    fn say_beyond(&self, node: &NodeId, beyond: usize) {
        if beyond > 0
            && let Some(reports) = self.claimed_blobs.say(Instant::now())
        {
            tracing::warn!(
                host = node.short(),
                beyond,
                most = MAX_HELD,
                reports,
                "a host reports more blobs than a table of one host has room for: the others are not found there"
            );
        }
    }

    /// What counts of the fuel that `host` says a call burned: a call is never given more than `limit`. This node's own host
    /// is believed, also for what is settled beyond the limit as a call ends.
    pub fn believed(&self, host: &NodeId, fuel: u64, limit: u64) -> u64 {
        if fuel <= limit || *host == self.local {
            return fuel;
        }
        if let Some(calls) = self.claimed_fuel.say(Instant::now()) {
            tracing::warn!(
                host = host.short(),
                fuel,
                limit,
                calls,
                "a host says that a call burned more than it was given: the limit is booked"
            );
        }
        limit
    }

    /// Takes from the records what they say of hosts.
    pub fn refresh(&self, records: &Records) {
        self.change().refresh(records);
    }

    /// This node's own host, which is there from the start.
    pub fn enter_local(&self, load: Load, records: &Records) {
        let hello = Hello {
            addresses: Vec::new(),
            hosting: true,
            version: String::new(),
        };
        let mut table = self.change();
        table.up(self.local, &hello, records);
        table.beat(&self.local, load);
    }

    /// The only host, if there is but one and it is this node: then there is nothing to choose.
    pub fn alone(&self) -> Option<NodeId> {
        let table = self.table();
        (table.len() == 1 && table.find(&self.local).is_some_and(|host| !host.draining)).then_some(self.local)
    }

    /// How many hosts are known, there or not.
    pub fn count(&self) -> usize {
        self.table().len()
    }

    pub fn local(&self) -> NodeId {
        self.local
    }

    /// A call did not reach a host.
    pub fn missed(&self, host: &NodeId) {
        if *host != self.local {
            self.change().missed(host);
        }
    }

    /// Counts a call as under way on `host` until it is dropped.
    pub fn enter(self: &Arc<Self>, host: NodeId) -> UnderWay {
        if let Some(host) = self.change().get_mut(&host) {
            host.in_flight += 1;
        }
        UnderWay {
            hosts: self.clone(),
            host,
        }
    }

    /// How far a draining host was in the last round of repair; `None` if none looked at it yet.
    pub fn drain(&self, id: &NodeId) -> Option<Drain> {
        self.drains.lock().get(id).copied()
    }

    pub fn set_drains(&self, drains: HashMap<NodeId, Drain>) {
        *self.drains.lock() = drains;
    }

    /// What a call came to.
    pub fn burned(&self, fuel: u64) {
        // Two at once may lose one of them: it is a mean.
        let mean = self.fuel_per_call.load(Ordering::Relaxed);
        let next = mean - mean / FUEL_MEMORY + fuel / FUEL_MEMORY;
        self.fuel_per_call.store(next, Ordering::Relaxed);
    }

    /// How much of a dataset each host holds, as of a moment ago.
    pub fn spread(&self, dataset: &Dataset) -> Spread {
        let generation = self.table().generation;
        self.spreads.get_with((dataset.digest, generation), || {
            Arc::new(self.sum(dataset, |table| &table.holders))
        })
    }

    /// How much of a dataset is in the memory of each host's GPU.
    pub fn resident(&self, dataset: &Dataset) -> Spread {
        let key = {
            let table = self.table();
            if table.residents.is_empty() {
                return Spread::default();
            }
            (dataset.digest, table.generation, table.resident_generation)
        };
        self.resident
            .get_with(key, || Arc::new(self.sum(dataset, |table| &table.residents)))
    }

    fn sum(&self, dataset: &Dataset, of: impl Fn(&HostTable) -> &Holders) -> Vec<(Slot, u64)> {
        let mut held = Vec::new();
        let shards = dataset.shards.iter().zip(&dataset.meta.shards);
        for some in shards.collect::<Vec<_>>().chunks(STEP) {
            let table = self.table();
            for (digest, meta) in some {
                for slot in of(&table).of(digest) {
                    if held.len() <= slot as usize {
                        held.resize(slot as usize + 1, 0);
                    }
                    held[slot as usize] += meta.size_bytes;
                }
            }
        }
        let with = held
            .into_iter()
            .enumerate()
            .map(|(slot, bytes)| (slot as Slot, bytes));
        let mut spread: Vec<_> = with.filter(|(_, bytes)| *bytes > 0).collect();
        spread.sort_unstable_by_key(|(slot, bytes)| (std::cmp::Reverse(*bytes), *slot));
        spread
    }

    /// How a host is named in responses.
    pub fn header(&self, host: &NodeId) -> HeaderValue {
        if *host == self.local {
            return self.header.clone();
        }
        HeaderValue::from_str(&host.short()).unwrap_or(HeaderValue::from_static("unknown"))
    }
}

/// A call that a host has, as far as this gateway knows.
pub struct UnderWay {
    hosts: Arc<Hosts>,
    host: NodeId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(host) = self.hosts.change().get_mut(&self.host) {
            host.in_flight = host.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_costs_no_more_than_it_was_given_whatever_its_host_says() {
        let (local, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let hosts = Hosts::new(local);
        assert_eq!(hosts.believed(&other, 90, 100), 90);
        for claimed in [101, u64::MAX] {
            assert_eq!(hosts.believed(&other, claimed, 100), 100);
        }
        assert_eq!(hosts.believed(&local, 120, 100), 120, "settled as the call ended");
    }
}
