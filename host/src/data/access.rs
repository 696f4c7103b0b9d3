//! What a guest may open of datasets, and what it has read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::Digest;
use nearfield_store::Store as BlobStore;

/// What a guest may open, and what it has read.
pub(crate) struct DataAccess {
    pub blobs: BlobStore,
    pub inputs: Arc<BTreeMap<String, Digest>>,
    pub sources: Sources,
    /// Bytes of shards read.
    pub bytes: u64,
    /// Bytes that came from another node for it.
    pub moved_bytes: u64,
    /// How long the guest waited for what lies in place, or on another node.
    pub waited: Duration,
}

/// Whether a guest sees where a shard came from. A pure one must not: two datasets share a shard, and
/// with it the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sources {
    Shown,
    Hidden,
}

impl DataAccess {
    pub fn new(blobs: BlobStore, inputs: Arc<BTreeMap<String, Digest>>, sources: Sources) -> Self {
        DataAccess {
            blobs,
            inputs,
            sources,
            bytes: 0,
            moved_bytes: 0,
            waited: Duration::ZERO,
        }
    }

    pub fn renew(&mut self, inputs: Arc<BTreeMap<String, Digest>>) {
        self.inputs = inputs;
        self.bytes = 0;
        self.moved_bytes = 0;
        self.waited = Duration::ZERO;
    }

    /// Bytes of shards that were given to something else than the guest's memory.
    pub fn add_bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}
