//! The hosts as one gateway knows them: who is there, how busy, what they hold. Plain data; time is told to it.

use std::collections::HashMap;

use nearfield_net::Records;
use nearfield_net::control::{Hello, Load};
use nearfield_protocol::node::Labels;
use nearfield_protocol::{Digest, NodeId};

use super::holders::{Holders, NOBODY, Slot};

/// Fuel that one core burns in a millisecond, until a host has measured its own.
const FUEL_PER_MS: u64 = 3_000_000;
/// Bytes a millisecond that reach a host, until it has measured that: a verified transfer over loopback.
const LINK_BYTES_PER_MS: u64 = 240_000;
/// A host with less room than this is asked to keep nothing more: its report may be a second old.
const ROOM_BYTES: u64 = 16 << 20;
/// Fuel of a call, until some have been seen.
const FUEL_PER_CALL: u64 = 1_000_000;

/// One host.
#[derive(Debug, Clone)]
pub struct HostEntry {
    pub id: NodeId,
    /// What it is mixed with in rendezvous hashing.
    pub(super) seed: u64,
    pub labels: Labels,
    /// It takes nothing new and hands over what it holds.
    pub draining: bool,
    /// It reports, and its last call reached it.
    pub there: bool,
    pub load: Load,
    /// Calls that this gateway has under way there.
    pub in_flight: u32,
}

impl HostEntry {
    /// Whether it has room for more blobs.
    pub fn has_room(&self) -> bool {
        self.load.free_bytes.is_none_or(|free| free >= ROOM_BYTES)
    }

    pub fn fuel_per_ms(&self) -> u64 {
        match self.load.fuel_per_ms {
            0 => FUEL_PER_MS,
            measured => measured,
        }
    }

    pub fn link_bytes_per_ms(&self) -> u64 {
        match self.load.link_bytes_per_ms {
            0 => LINK_BYTES_PER_MS,
            measured => measured,
        }
    }

    /// Milliseconds until what it has is done.
    pub(super) fn waiting_ms(&self, fuel_per_call: u64) -> u64 {
        let calls = u64::from(self.load.calls.max(self.in_flight));
        let cores = u64::from(self.load.cores.max(1));
        // What a member says of itself is bounded by nothing else.
        calls.saturating_mul(fuel_per_call) / self.fuel_per_ms().saturating_mul(cores).max(1)
    }
}

/// Blobs that are taken down of one host: 16 TB of shards as large as they usually are, and 200 MB of memory here.
pub const MAX_HELD: usize = 4 << 20;

/// All hosts, and what they hold.
pub struct HostTable {
    /// By slot; `None` where a host is gone.
    hosts: Vec<Option<HostEntry>>,
    slots: HashMap<NodeId, Slot>,
    pub holders: Holders,
    /// Of which blobs something is in the memory of whose GPU.
    pub residents: Holders,
    /// Fuel of a call, averaged over those that ended lately.
    pub fuel_per_call: u64,
    /// Rises with every change of who is there.
    pub generation: u64,
    /// Rises with every change of who is there, is reached, or holds what.
    pub changes: u64,
    /// Rises with every change of what is in the memory of GPUs.
    pub resident_generation: u64,
}

impl Default for HostTable {
    fn default() -> Self {
        HostTable {
            hosts: Vec::new(),
            slots: HashMap::new(),
            holders: Holders::default(),
            residents: Holders::default(),
            fuel_per_call: FUEL_PER_CALL,
            generation: 0,
            changes: 0,
            resident_generation: 0,
        }
    }
}

impl HostTable {
    /// A host came up: it holds nothing that it has not told since. Nodes that run no functions are left out.
    pub fn up(&mut self, id: NodeId, hello: &Hello, records: &Records) {
        self.gone(&id);
        if !hello.hosting {
            return;
        }
        let free = self.hosts.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            self.hosts.push(None);
            self.hosts.len() - 1
        });
        let Some(slot) = Slot::try_from(slot).ok().filter(|slot| *slot != NOBODY) else {
            return;
        };
        self.hosts[slot as usize] = Some(HostEntry {
            id,
            seed: seed(&id),
            labels: Labels::new(),
            draining: false,
            there: true,
            load: Load::default(),
            in_flight: 0,
        });
        self.slots.insert(id, slot);
        self.generation += 1;
        self.changes += 1;
        self.refresh(records);
    }

    pub fn gone(&mut self, id: &NodeId) {
        if let Some(slot) = self.slots.remove(id) {
            self.hosts[slot as usize] = None;
            self.holders.remove_host(slot);
            self.residents.remove_host(slot);
            self.generation += 1;
            self.changes += 1;
        }
    }

    /// It said how busy it is, so it is there.
    pub fn beat(&mut self, id: &NodeId, load: Load) {
        let Some(host) = self.get_mut(id) else { return };
        host.load = load;
        if !std::mem::replace(&mut host.there, true) {
            self.changes += 1;
        }
    }

    /// A call did not reach it: nothing is sent there before it is heard of again.
    pub fn missed(&mut self, id: &NodeId) {
        let Some(host) = self.get_mut(id) else { return };
        if std::mem::replace(&mut host.there, false) {
            self.changes += 1;
        }
    }

    /// Returns how many of `added` are not taken down: of a host so many are ([`MAX_HELD`]).
    pub fn holds(&mut self, id: &NodeId, added: &[Digest], removed: &[Digest]) -> usize {
        match self.slots.get(id) {
            Some(slot) => {
                self.changes += u64::from(!added.is_empty() || !removed.is_empty());
                self.holders.change(*slot, added, removed, MAX_HELD)
            }
            None => 0,
        }
    }

    /// The same of what is in the memory of its GPU.
    pub fn residents(&mut self, id: &NodeId, added: &[Digest], removed: &[Digest]) -> usize {
        match self.slots.get(id) {
            Some(slot) => {
                self.resident_generation += 1;
                self.residents.change(*slot, added, removed, MAX_HELD)
            }
            None => 0,
        }
    }

    /// Takes from the records what they say of hosts.
    pub fn refresh(&mut self, records: &Records) {
        let gone: Vec<NodeId> = self
            .slots
            .keys()
            .filter(|id| records.node(id).is_none())
            .copied()
            .collect();
        gone.iter().for_each(|id| self.gone(id));
        for host in self.hosts.iter_mut().flatten() {
            if let Some(member) = records.node(&host.id)
                && (host.draining, &host.labels) != (member.draining, &member.node.labels)
            {
                host.draining = member.draining;
                host.labels.clone_from(&member.node.labels);
                self.generation += 1;
                self.changes += 1;
            }
        }
    }

    pub fn get(&self, slot: Slot) -> Option<&HostEntry> {
        self.hosts.get(slot as usize)?.as_ref()
    }

    pub fn find(&self, id: &NodeId) -> Option<&HostEntry> {
        self.get(*self.slots.get(id)?)
    }

    pub fn slot(&self, id: &NodeId) -> Option<Slot> {
        self.slots.get(id).copied()
    }

    pub fn get_mut(&mut self, id: &NodeId) -> Option<&mut HostEntry> {
        let slot = *self.slots.get(id)?;
        self.hosts[slot as usize].as_mut()
    }

    /// All hosts with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Slot, &HostEntry)> {
        let hosts = self.hosts.iter().enumerate();
        hosts.filter_map(|(slot, host)| Some((slot as Slot, host.as_ref()?)))
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Who holds `digest`, of those that are there.
    pub fn holders_of(&self, digest: &Digest) -> impl Iterator<Item = &HostEntry> {
        self.holders
            .of(digest)
            .filter_map(|slot| self.get(slot))
            .filter(|host| host.there)
    }
}

/// Node ids are public keys, whose bytes an owner may choose by trying: hashed, the trying has to be of hashes.
fn seed(id: &NodeId) -> u64 {
    let hash = blake3::hash(id.as_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}
