//! Jobs, as gateway and host speak of them: one run of the pure lane, and what its result depends on. `args` are a job's
//! arguments as bytes, `shape` is which results are reduced together.

mod args;
mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use self::args::{InexactInteger, canonical_args, canonical_json, check_integers};
pub use self::shape::{Shape, groups};
use crate::gpu::GpuGrant;
use crate::records::RecordClock;
use crate::{Digest, NodeId, Problem, cost};

/// Rises when the golden suite (fuel and output of fixed guests) changes, and with it every key: what
/// older semantics computed is never taken for what these would. Epoch 1 may have remembered results whose first
/// bytes the guest's allocator had overwritten.
pub const SEMANTICS_EPOCH: u32 = 2;

/// What a component exports that is a job.
pub const MAPPER: &str = "nearfield:compute/mapper@0.1.0";

/// One run of the pure lane: a guest that sees nothing but what is named here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PureSpec {
    pub setting: Arc<PureSetting>,
    pub work: Work,
}

/// What all runs of a job share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PureSetting {
    /// Whose log the guest's lines go to.
    pub function: crate::FunctionName,
    pub component: Digest,
    /// The job's arguments as canonical JSON.
    pub args: Vec<u8>,
    /// Datasets that the guest may open beside its shard, each one version.
    pub inputs: BTreeMap<String, Digest>,
    pub limits: PureLimits,
    /// Whether `output.write` is granted.
    pub may_write: bool,
    /// The dataset that the job goes over, by name if it has one, and the digests of those that it may
    /// open: a purge of one takes the results along.
    pub origins: Vec<String>,
    /// The hosts that were ever quarantined, and when last: what another host was given of theirs is not used, and what was
    /// made of results under other such terms has other keys.
    #[serde(default)]
    pub distrusted: BTreeMap<NodeId, RecordClock>,
    /// What it may use of a GPU, if its function requires one.
    #[serde(default)]
    pub gpu: Option<GpuGrant>,
}

/// Bounds on one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PureLimits {
    pub fuel: u64,
    pub memory_bytes: u64,
    pub timeout: Duration,
}

/// What one run does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// `mapper.map` over one shard of a dataset.
    Map {
        dataset: Digest,
        index: u32,
        subject: MapSubject,
    },
    /// `reducer.reduce` over the results with these keys, in this order.
    Reduce { parts: Vec<ResultKey> },
    /// `finisher.finish` over the result with this key.
    Finish { total: ResultKey },
}

/// What a guest can see of the shard it maps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapSubject {
    pub shard: Digest,
    /// The dataset's split, as `shard.format()` gives it.
    pub format: String,
    /// Shared by all shards of a source.
    pub header: Arc<[u8]>,
}

/// The name of a pure run's result: a hash of everything that the result can depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ResultKey(pub Digest);

impl PureSpec {
    /// Names the result. A map's does not depend on who is distrusted, since nobody else's results go into it. The fuel limit is no part of it: a success within the limit is the same
    /// success under a higher one, and one beyond the limit is not used.
    pub fn key(&self) -> ResultKey {
        let mut hasher = Fields::new("nearfield 2026-11 result of a pure run");
        hasher.field(&SEMANTICS_EPOCH.to_le_bytes());
        hasher.field(&cost::VERSION.to_le_bytes());
        let PureSetting {
            function: _,
            origins: _,
            component,
            args,
            inputs,
            limits,
            may_write,
            distrusted,
            gpu,
        } = &*self.setting;
        hasher.field(component.as_bytes());
        hasher.field(args);
        hasher.field(&limits.memory_bytes.to_le_bytes());
        hasher.field(&[u8::from(*may_write)]);
        hasher.field(&(inputs.len() as u64).to_le_bytes());
        for (name, digest) in inputs {
            hasher.field(name.as_bytes());
            hasher.field(digest.as_bytes());
        }
        if let Some(GpuGrant { job, .. }) = gpu {
            hasher.field(b"gpu");
            hasher.field(job.as_bytes());
        }
        if !matches!(self.work, Work::Map { .. }) {
            for (maker, until) in distrusted {
                hasher.field(maker.as_bytes());
                hasher.field(&until.encode());
            }
        }
        match &self.work {
            Work::Map { subject, .. } => {
                hasher.field(b"map");
                hasher.field(subject.shard.as_bytes());
                hasher.field(subject.format.as_bytes());
                hasher.field(&subject.header);
            }
            Work::Reduce { parts } => {
                hasher.field(b"reduce");
                for part in parts {
                    hasher.field(part.0.as_bytes());
                }
            }
            Work::Finish { total } => {
                hasher.field(b"finish");
                hasher.field(total.0.as_bytes());
            }
        }
        ResultKey(hasher.finish())
    }
}

impl Work {
    /// The results that it is over.
    pub fn parts(&self) -> &[ResultKey] {
        match self {
            Work::Map { .. } => &[],
            Work::Reduce { parts } => parts,
            Work::Finish { total } => std::slice::from_ref(total),
        }
    }
}

/// A hash of fields, each with its length before it, so that no two lists of fields are alike.
struct Fields(blake3::Hasher);

impl Fields {
    fn new(context: &str) -> Self {
        Fields(blake3::Hasher::new_derive_key(context))
    }

    fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(self) -> Digest {
        Digest::from_bytes(*self.0.finalize().as_bytes())
    }
}

/// What a pure run came to, remembered or fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PureReport {
    pub key: ResultKey,
    /// It was there; no guest ran.
    pub remembered: bool,
    pub output_bytes: u64,
    /// BLAKE3 of the output.
    pub output: Digest,
    /// What it was made of, as [`digest_of_parts`] says it; of no parts for a map.
    pub parts: Digest,
    /// This run alone. For a remembered one, what it once took.
    pub fuel: u64,
    /// This run and all whose results it was given.
    pub total_fuel: u64,
    /// Bytes of shards that it read.
    pub data_bytes: u64,
    /// Bytes that came from another node for it; 0 if remembered.
    #[serde(default)]
    pub moved_bytes: u64,
    /// Files that it wrote, their bytes, and BLAKE3 of all of them as its host encodes them; of nothing, if there are none.
    pub written_files: u64,
    pub written_bytes: u64,
    pub written: Digest,
    /// Time in the guest, in microseconds; 0 if remembered.
    pub run_us: u64,
    /// Who made it, if it is not who says so.
    #[serde(default)]
    pub made: Option<Made>,
}

/// A host's word for a result that it made, to be shown to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub by: NodeId,
    pub signature: Signature,
}

/// An ed25519 signature of [`PureReport::claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.split_at(32).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (head, tail) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&head);
        signature[32..].copy_from_slice(&tail);
        Ok(Signature(signature))
    }
}

impl PureReport {
    /// What its maker vouches for.
    pub fn claim(&self) -> Digest {
        let mut hasher = Fields::new("nearfield 2026-11 claim of a result");
        hasher.field(self.key.0.as_bytes());
        hasher.field(self.output.as_bytes());
        hasher.field(self.written.as_bytes());
        for number in [
            self.output_bytes,
            self.fuel,
            self.total_fuel,
            self.data_bytes,
            self.written_files,
            self.written_bytes,
        ] {
            hasher.field(&number.to_le_bytes());
        }
        if self.parts != Digest::EMPTY {
            hasher.field(self.parts.as_bytes());
        }
        hasher.finish()
    }

    /// Whether it wrote files, or has the digest of none.
    pub fn files_are_consistent(&self) -> bool {
        self.written_files > 0 || self.written == Digest::EMPTY
    }

    /// Whether another run of the same came to the same, of the same parts.
    pub fn agrees(&self, other: &PureReport) -> bool {
        let said = |report: &PureReport| {
            let PureReport {
                output,
                output_bytes,
                parts,
                fuel,
                total_fuel,
                written_files,
                written_bytes,
                written,
                ..
            } = *report;
            (
                output,
                output_bytes,
                parts,
                fuel,
                total_fuel,
                written_files,
                written_bytes,
                written,
            )
        };
        said(self) == said(other)
    }
}

/// Names what a reduction is made of, by what its parts came to and what that took: a result key alone does not tell a part
/// from what a lying host made of it. [`Digest::EMPTY`] if there are none.
pub fn digest_of_parts<'a>(parts: impl IntoIterator<Item = &'a PureReport>) -> Digest {
    let mut parts = parts.into_iter().peekable();
    if parts.peek().is_none() {
        return Digest::EMPTY;
    }
    let mut hasher = Fields::new("nearfield 2026-12 parts of a result");
    for part in parts {
        hasher.field(part.output.as_bytes());
        hasher.field(&part.total_fuel.to_le_bytes());
    }
    hasher.finish()
}

/// Why a pure run gave no result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PureFailure {
    pub problem: Problem,
    /// What it used before it failed.
    pub fuel: u64,
    /// What it was given, as [`PureReport::parts`]; of no parts if no guest ran.
    pub parts: Digest,
}

/// A failure before any guest ran.
impl From<Problem> for PureFailure {
    fn from(problem: Problem) -> Self {
        PureFailure {
            problem,
            fuel: 0,
            parts: Digest::EMPTY,
        }
    }
}

#[cfg(test)]
mod tests;
