//! What running jobs work on: removing its name frees nothing of it.

use nearfield_protocol::Digest;

use super::guards::{DataHold, HeldDigests};
use super::state::Catalog;

impl Catalog {
    /// Keeps what is still here of datasets and blobs from being let go of until the guard is dropped. What is gone is
    /// missed by who opens it.
    pub async fn hold(&self, datasets: Vec<Digest>, blobs: Vec<Digest>) -> DataHold {
        let _recording = self.recording.read().await;
        let mut guard = DataHold {
            digests: HeldDigests::default(),
            held: self.held.clone(),
        };
        for digest in datasets {
            let Ok(dataset) = self.store.dataset(&digest).await else {
                continue;
            };
            // Other nodes hold what is not here.
            let here = dataset.blobs().filter(|blob| self.store.has(blob)).collect();
            if self.store.revive(here).await.is_ok() {
                guard.digests.datasets.push(digest);
            }
        }
        for digest in blobs {
            if self.store.revive(vec![digest]).await.is_ok() {
                guard.digests.blobs.push(digest);
            }
        }
        let mut held = self.held.lock();
        held.datasets.extend(&guard.digests.datasets);
        held.blobs.extend(&guard.digests.blobs);
        drop(held);
        guard
    }
}
