//! GPUs, as functions, hosts and gateways speak of them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which GPU a function requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuKind {
    /// A software adapter will do.
    Any,
    Hardware,
}

/// What a run of a job may use of a GPU. Results of such runs are not remembered beyond their job: another GPU's may differ in
/// their last bits, and no key could name all that they depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuGrant {
    pub kind: GpuKind,
    pub time: Duration,
    pub memory_bytes: u64,
    /// The one job whose results these are.
    pub job: String,
}

/// What a host says of its GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuAdvert {
    pub name: Arc<str>,
    pub kind: AdapterKind,
    /// Bytes of GPU memory that shards and calls take there now.
    pub resident_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    Hardware,
    Software,
}

impl GpuKind {
    /// Whether such an adapter will do.
    pub fn takes(self, adapter: AdapterKind) -> bool {
        self == GpuKind::Any || adapter == AdapterKind::Hardware
    }
}

/// What a call took of a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuUsage {
    /// Time on the GPU, from each submission's first dispatch to its last one's end.
    pub gpu_ns: u64,
    /// Time that pipelines took to compile; 0 where they were there.
    pub compile_us: u64,
    pub dispatches: u64,
    /// Bytes of shards and writes that went into GPU memory.
    pub uploaded_bytes: u64,
    /// Bytes that were read back.
    pub downloaded_bytes: u64,
    /// Parts of shards that were in GPU memory already, and that were not.
    pub resident_hits: u64,
    pub resident_misses: u64,
}

impl GpuUsage {
    /// A worker may say any number, and no sum of them ends its host.
    pub fn add(&mut self, other: &GpuUsage) {
        self.gpu_ns = self.gpu_ns.saturating_add(other.gpu_ns);
        self.compile_us = self.compile_us.saturating_add(other.compile_us);
        self.dispatches = self.dispatches.saturating_add(other.dispatches);
        self.uploaded_bytes = self.uploaded_bytes.saturating_add(other.uploaded_bytes);
        self.downloaded_bytes = self.downloaded_bytes.saturating_add(other.downloaded_bytes);
        self.resident_hits = self.resident_hits.saturating_add(other.resident_hits);
        self.resident_misses = self.resident_misses.saturating_add(other.resident_misses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_numbers_have_a_sum() {
        let most = GpuUsage {
            gpu_ns: u64::MAX,
            dispatches: 5,
            ..GpuUsage::default()
        };
        let mut sum = most;
        sum.add(&most);
        assert_eq!((sum.gpu_ns, sum.dispatches), (u64::MAX, 10));
    }
}
