//! What is set aside for as long as somebody needs it.

use std::sync::Arc;

use nearfield_protocol::{DatasetName, Digest, NodeId};
use parking_lot::Mutex;

/// What running jobs work on, each as often as jobs do.
#[derive(Default, Clone)]
pub(super) struct HeldDigests {
    pub datasets: Vec<Digest>,
    pub blobs: Vec<Digest>,
}

/// Digests that a running job needs.
pub struct DataHold {
    pub(super) digests: HeldDigests,
    pub(super) held: Arc<Mutex<HeldDigests>>,
}

impl Drop for DataHold {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        let HeldDigests { datasets, blobs } = &mut *held;
        for (all, mine) in [(datasets, &self.digests.datasets), (blobs, &self.digests.blobs)] {
            for digest in mine {
                if let Some(at) = all.iter().position(|other| other == digest) {
                    all.swap_remove(at);
                }
            }
        }
    }
}

/// A put that another node may take, until this is dropped.
pub struct Granted {
    pub(super) all: Grants,
    pub(super) granted: (NodeId, DatasetName),
}

/// Who may put what.
pub(super) type Grants = Arc<Mutex<Vec<(NodeId, DatasetName)>>>;

impl Drop for Granted {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(at) = all.iter().position(|granted| *granted == self.granted) {
            all.swap_remove(at);
        }
    }
}
