//! The catalog itself, and what is recorded of functions and pins.

use std::collections::HashMap;
use std::sync::Arc;

use nearfield_net::Node;
use nearfield_protocol::records::{FunctionVersion, RecordClock};
use nearfield_protocol::{Digest, FunctionName, NodeId, Problem};
use nearfield_store::{Remembered, Store};
use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::guards::{Grants, HeldDigests};
use crate::problem::{net_problem, store_problem};

/// Writes data and the records that name it.
pub struct Catalog {
    pub store: Store,
    pub node: Node,
    pub remembered: Remembered,
    /// The lock is held for one look-up.
    pub(super) held: Arc<Mutex<HeldDigests>>,
    /// Datasets that another node has written down and that this one's records do not name yet. The lock is held for one
    /// look-up.
    pub(super) recorded: Mutex<Vec<Digest>>,
    /// For which quarantine hosts are known to have forgotten everything. The lock is held for one look-up.
    pub(super) settled: Mutex<HashMap<NodeId, RecordClock>>,
    /// A put shares it from its seal to its record. A release of blobs that no record names holds it alone.
    pub(crate) recording: RwLock<()>,
    /// What is to be released once it is known again what is still needed: datasets and plain blobs. The lock is held for one
    /// look-up.
    pub(super) held_back: Mutex<Vec<(Vec<Digest>, Vec<Digest>)>>,
    /// Puts that other nodes take for this one, by node and name. The lock is held for one look-up.
    pub(super) granted: Grants,
}

impl Catalog {
    pub fn new(store: Store, node: Node, remembered: Remembered) -> Self {
        Catalog {
            store,
            node,
            remembered,
            held: Arc::default(),
            recorded: Mutex::default(),
            settled: Mutex::default(),
            recording: RwLock::new(()),
            held_back: Mutex::default(),
            granted: Grants::default(),
        }
    }
    /// Writes the next version of a function, if its component is still here and `check` agrees.
    /// Nothing else is recorded between the check and the writing.
    pub async fn deploy(
        &self,
        name: &FunctionName,
        component: Digest,
        check: impl FnOnce() -> Result<(), Problem>,
        make: impl FnOnce(u64) -> FunctionVersion,
    ) -> Result<FunctionVersion, Problem> {
        let _recording = self.recording.write().await;
        self.store.size_of(&component).map_err(store_problem)?;
        check()?;
        self.node.write_function(name, make).await.map_err(net_problem)
    }

    /// Keeps a dataset's bytes whatever happens to its name.
    pub async fn pin(&self, digest: Digest, pinned: bool) -> Result<(), Problem> {
        let _recording = self.recording.write().await;
        if pinned {
            let dataset = self.store.dataset(&digest).await.map_err(store_problem)?;
            // The dataset may be marked for the sweep already.
            let blobs = dataset.blobs().collect();
            self.store.revive(blobs).await.map_err(store_problem)?;
            return self.store.pin(digest).map_err(store_problem);
        }
        self.store.unpin(digest).map_err(store_problem)?;
        self.release_unreferenced(vec![digest], Vec::new())
            .await
            .map(drop)
    }
}
