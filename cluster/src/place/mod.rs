//! Which host runs a call. A pure function of a table; nothing here waits, reads or counts.
//!
//! Candidates are the holders of the call's data and four hosts by rendezvous hashing. A host's cost is the time until
//! the call could be done there: missing bytes over the measured link, code to load, and what is queued before it. Equal
//! costs are settled by rendezvous hashing, so that every gateway settles them alike.

pub mod holders;
pub mod table;

use std::fmt;

use nearfield_protocol::gpu::GpuKind;
use nearfield_protocol::node::Label;
use nearfield_protocol::{Digest, NodeId};

use self::holders::Slot;
use self::table::{HostEntry, HostTable};

/// Component bytes that a host without the code compiles in a millisecond: an estimate, not yet measured.
const COMPILE_BYTES_PER_MS: u64 = 1_000;
/// Bytes that come into a GPU's memory in a millisecond: about what one core copies; not yet measured by each host.
const UPLOAD_BYTES_PER_MS: u64 = 2_000_000;
/// Hosts that are looked at although they hold nothing of the data.
const RENDEZVOUS: usize = 4;
/// How long a holder of what was looked for may be busy before the call goes elsewhere.
const LOCATED_PATIENCE_MS: u64 = 1_000;
/// Holders of one blob that are looked at: beyond, one more makes no call faster.
const MAX_HOLDERS: usize = 16;

/// Data that a call will read.
#[derive(Debug, Clone, Copy)]
pub enum Need<'a> {
    /// This blob.
    Blob { digest: Digest, size_bytes: u64 },
    /// Something of a dataset, of which hosts hold so many bytes.
    Spread {
        size_bytes: u64,
        held: &'a [(Slot, u64)],
        /// And so many are in the memory of their GPUs; only looked at where a GPU is required.
        resident: &'a [(Slot, u64)],
    },
}

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// What the call is for: its located shard, or the function's component.
    pub key: Digest,
    pub component: Digest,
    pub component_bytes: u64,
    /// What was looked for: the call runs where that is, if one of its holders can take it soon.
    pub located: Option<Digest>,
    pub needs: &'a [Need<'a>],
    /// Labels that the host must have: the data may not leave such hosts.
    pub only: &'a [Label],
    /// The GPU that the host must have.
    pub gpu: Option<GpuKind>,
}

/// A host with its cost, or why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub host: NodeId,
    pub standing: Standing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Costs {
        ms: u64,
        missing_bytes: u64,
        /// Bytes of the data that are not in its GPU's memory; `None` where no GPU is required.
        upload_bytes: Option<u64>,
    },
    Draining,
    /// It has not been heard of since a call did not reach it.
    Silent,
    /// It lacks this label.
    Label(Label),
    /// It has no such GPU.
    Gpu(GpuKind),
    /// It holds nothing of the data and is none of the four by hash.
    NotConsidered,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Costs {
                missing_bytes: 0,
                upload_bytes,
                ..
            } => match upload_bytes {
                None => f.write_str("holds all of the call's data"),
                Some(0) => f.write_str("has all of the call's data in its GPU's memory"),
                Some(bytes) => write!(
                    f,
                    "holds all of the call's data; {bytes} bytes are not in its GPU's memory"
                ),
            },
            Standing::Costs { missing_bytes, .. } => {
                write!(f, "lacks {missing_bytes} bytes of the call's data")
            }
            Standing::Draining => f.write_str("takes no new calls"),
            Standing::Silent => f.write_str("has not been heard of since a call did not reach it"),
            Standing::Label(label) => write!(f, "has no label {label}, which the data asks for"),
            Standing::Gpu(GpuKind::Any) => f.write_str("has no GPU, which the function requires"),
            Standing::Gpu(GpuKind::Hardware) => {
                f.write_str("has no GPU that is hardware, which the function requires")
            }
            Standing::NotConsidered => {
                f.write_str("holds nothing of the data, and others come first by hash")
            }
        }
    }
}

impl Need<'_> {
    /// What of it a host lacks.
    pub fn missing_bytes(&self, table: &HostTable, slot: Slot) -> u64 {
        match self {
            Need::Blob { digest, size_bytes } => match table.holders.holds(slot, digest) {
                true => 0,
                false => *size_bytes,
            },
            Need::Spread { size_bytes, held, .. } => lacking(*size_bytes, held, slot),
        }
    }

    /// What of it is not in the memory of a host's GPU.
    fn upload_bytes(&self, table: &HostTable, slot: Slot) -> u64 {
        match self {
            Need::Blob { digest, size_bytes } => match table.residents.holds(slot, digest) {
                true => 0,
                false => *size_bytes,
            },
            Need::Spread {
                size_bytes, resident, ..
            } => lacking(*size_bytes, resident, slot),
        }
    }
}

fn lacking(size_bytes: u64, held: &[(Slot, u64)], slot: Slot) -> u64 {
    let held = held.iter().find(|(holder, _)| *holder == slot);
    size_bytes.saturating_sub(held.map_or(0, |(_, bytes)| *bytes))
}

/// The hosts that may run the call, best first; those of the candidates that cannot come last.
pub fn place(ask: &Ask<'_>, table: &HostTable) -> Vec<Candidate> {
    let mut slots: Vec<Slot> = Vec::with_capacity(RENDEZVOUS + 8);
    let mut take = |slot| {
        if !slots.contains(&slot) {
            slots.push(slot);
        }
    };
    for need in ask.needs {
        match need {
            Need::Blob { digest, .. } => table.holders.of(digest).take(MAX_HOLDERS).for_each(&mut take),
            Need::Spread { held, .. } => held.iter().take(MAX_HOLDERS).for_each(|(slot, _)| take(*slot)),
        }
        match need {
            _ if ask.gpu.is_none() => {}
            Need::Blob { digest, .. } => table.residents.of(digest).take(MAX_HOLDERS).for_each(&mut take),
            Need::Spread { resident, .. } => {
                resident
                    .iter()
                    .take(MAX_HOLDERS)
                    .for_each(|(slot, _)| take(*slot));
            }
        }
    }
    best(ask, table, RENDEZVOUS, |_| true)
        .into_iter()
        .for_each(&mut take);
    let key = key(&ask.key);
    let mut ranked: Vec<_> = slots
        .into_iter()
        .filter_map(|slot| Some((slot, table.get(slot)?)))
        .map(|(slot, host)| {
            let candidate = Candidate {
                host: host.id,
                standing: standing(ask, table, slot, host),
            };
            let rank = match candidate.standing {
                Standing::Costs { ms, upload_bytes, .. } => {
                    // Of hosts that cost the same the one whose GPU has most of it.
                    let elsewhere = u8::from(!holds_located(ask, table, slot, host));
                    (elsewhere, ms, upload_bytes.unwrap_or_default())
                }
                _ => (2, 0, 0),
            };
            (rank, weight(key, host.seed), candidate)
        })
        .collect();
    ranked.sort_unstable_by_key(|(rank, weight, _)| (*rank, *weight));
    ranked.into_iter().map(|(_, _, candidate)| candidate).collect()
}

/// Whether a call that was located belongs here.
fn holds_located(ask: &Ask<'_>, table: &HostTable, slot: Slot, host: &HostEntry) -> bool {
    ask.located.is_none_or(|located| {
        table.holders.holds(slot, &located) && host.waiting_ms(table.fuel_per_call) < LOCATED_PATIENCE_MS
    })
}

/// Why each host that is not among `considered` is none.
pub fn others(considered: &[Candidate], table: &HostTable) -> Vec<Candidate> {
    let known = |host: &HostEntry| considered.iter().any(|candidate| candidate.host == host.id);
    let other = |host: &HostEntry| Candidate {
        host: host.id,
        standing: match host {
            HostEntry { there: false, .. } => Standing::Silent,
            HostEntry { draining: true, .. } => Standing::Draining,
            _ => Standing::NotConsidered,
        },
    };
    table
        .iter()
        .map(|(_, host)| host)
        .filter(|host| !known(host))
        .map(other)
        .collect()
}

/// The first `count` by hash of the hosts that may take the call, and that `among` lets in.
pub fn best(ask: &Ask<'_>, table: &HostTable, count: usize, among: impl Fn(Slot) -> bool) -> Vec<Slot> {
    let (key, count) = (key(&ask.key), count.min(table.len()));
    let mut best: Vec<(u64, Slot)> = Vec::with_capacity(count + 1);
    for (slot, host) in table.iter() {
        let weight = weight(key, host.seed);
        let late = best.len() == count && best.last().is_none_or(|(last, _)| weight >= *last);
        if late || refusal(ask, host).is_some() || !among(slot) {
            continue;
        }
        let at = best.partition_point(|(other, _)| *other < weight);
        best.insert(at, (weight, slot));
        best.truncate(count);
    }
    best.into_iter().map(|(_, slot)| slot).collect()
}

/// Why a host cannot take the call, whatever it would cost.
fn refusal(ask: &Ask<'_>, host: &HostEntry) -> Option<Standing> {
    if !host.there {
        return Some(Standing::Silent);
    }
    if host.draining {
        return Some(Standing::Draining);
    }
    let lacking = ask.only.iter().find(|label| !label.holds(&host.labels));
    if let Some(label) = lacking {
        return Some(Standing::Label(label.clone()));
    }
    let has = |kind: &GpuKind| host.load.gpu.as_ref().is_some_and(|gpu| kind.takes(gpu.kind));
    ask.gpu.filter(|kind| !has(kind)).map(Standing::Gpu)
}

fn standing(ask: &Ask<'_>, table: &HostTable, slot: Slot, host: &HostEntry) -> Standing {
    if let Some(refusal) = refusal(ask, host) {
        return refusal;
    }
    let missing_bytes = ask
        .needs
        .iter()
        .map(|need| need.missing_bytes(table, slot))
        .sum::<u64>();
    let moving = missing_bytes / host.link_bytes_per_ms();
    let loading = match table.holders.holds(slot, &ask.component) {
        true => 0,
        false => ask.component_bytes / COMPILE_BYTES_PER_MS + ask.component_bytes / host.link_bytes_per_ms(),
    };
    let upload_bytes = ask.gpu.map(|_| {
        let needs = ask.needs.iter();
        needs.map(|need| need.upload_bytes(table, slot)).sum::<u64>()
    });
    let uploading = upload_bytes.unwrap_or_default() / UPLOAD_BYTES_PER_MS;
    Standing::Costs {
        ms: moving + loading + uploading + host.waiting_ms(table.fuel_per_call),
        missing_bytes,
        upload_bytes,
    }
}

fn key(digest: &Digest) -> u64 {
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

/// Highest random weight, as a number that sorts ascending: both halves are hashes already, so mixing them is enough.
/// The mixer is the finalizer of SplitMix64.
fn weight(key: u64, seed: u64) -> u64 {
    let mut mixed = key ^ seed.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests;
