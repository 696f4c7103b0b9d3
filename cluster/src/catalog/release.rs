//! Letting go of blobs that nothing refers to any more.

use std::collections::HashSet;

use nearfield_net::Records;
use nearfield_protocol::{Digest, Problem, ProblemKind};
use nearfield_store::StoreError;

use super::state::Catalog;
use crate::problem::store_problem;

/// Releases that wait until it is known again what is still needed. Beyond that they wait for the next start.
const MAX_HELD_BACK: usize = 1_024;

impl Catalog {
    /// Releases what could not be released before, if it is known again what is still needed.
    pub async fn release_held_back(&self) -> Result<u64, Problem> {
        if self.held_back.lock().is_empty() || self.node.lacks_records() {
            return Ok(0);
        }
        let _recording = self.recording.write().await;
        let held_back = std::mem::take(&mut *self.held_back.lock());
        let (mut datasets, mut blobs) = (Vec::new(), Vec::new());
        for (more_datasets, more_blobs) in held_back {
            datasets.extend(more_datasets);
            blobs.extend(more_blobs);
        }
        self.release_unreferenced(datasets, blobs).await
    }

    /// Forgets remembered results beyond their limit. Returns how many.
    pub async fn evict_remembered(&self) -> Result<u64, Problem> {
        let forgotten = self.remembered.evict().await.map_err(store_problem)?;
        if !forgotten.blobs.is_empty() {
            let _recording = self.recording.write().await;
            self.release_unreferenced(Vec::new(), forgotten.blobs).await?;
        }
        Ok(forgotten.results)
    }

    /// Lets go of sealed blobs that nothing refers to: a crash between seal and record leaves such,
    /// and components that were uploaded and never deployed are such. `sealed` was listed before
    /// anybody could write.
    pub async fn release_orphans(&self, sealed: Vec<Digest>) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        let kept = self.referenced().await?;
        self.release(
            sealed
                .into_iter()
                .filter(|digest| !kept.contains(digest))
                .collect(),
        )
        .await
    }

    /// Lets go of versions that are no more by another node's word.
    pub async fn let_go(&self, datasets: Vec<Digest>) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        {
            let mut recorded = self.recorded.lock();
            recorded.retain(|digest| !datasets.contains(digest));
        }
        let here = datasets
            .into_iter()
            .filter(|digest| self.store.has(digest))
            .collect();
        self.release_unreferenced(here, Vec::new()).await
    }

    /// Releases what of `datasets` and of plain `blobs` nothing refers to any more.
    pub(crate) async fn release_unreferenced(
        &self,
        datasets: Vec<Digest>,
        blobs: Vec<Digest>,
    ) -> Result<u64, Problem> {
        let kept = match self.referenced().await {
            Ok(kept) => kept,
            Err(problem) => {
                tracing::warn!(%problem, "nothing is released: cannot tell what is still needed");
                // If nothing changes, the next start looks for orphans again.
                let mut held_back = self.held_back.lock();
                if held_back.len() < MAX_HELD_BACK {
                    held_back.push((datasets, blobs));
                }
                return Ok(0);
            }
        };
        let mut released: HashSet<Digest> = blobs.into_iter().collect();
        for digest in datasets {
            // No record says any more where it may rest.
            match self.store.dataset_in_passing(&digest).await {
                Ok(dataset) => released.extend(dataset.blobs()),
                // A version that is quarantined or gone in part: nothing can be said of its shards.
                Err(error) => tracing::warn!(%digest, %error, "cannot tell what to release"),
            }
        }
        self.release(
            released
                .into_iter()
                .filter(|digest| !kept.contains(digest))
                .collect(),
        )
        .await
    }

    /// Every blob that a version, a pin, a function, a record or a remembered result needs.
    async fn referenced(&self) -> Result<HashSet<Digest>, Problem> {
        if self.node.lacks_records() {
            let text = "some records cannot be read, so nobody knows what they refer to";
            return Err(Problem::new(ProblemKind::Internal, text));
        }
        let records = self.node.records();
        let mut kept = self.node.record_blobs();
        // The empty blob belongs to everybody.
        kept.insert(Digest::EMPTY);
        kept.extend(self.remembered.blobs().map_err(store_problem)?);
        kept.extend(records.all_function_versions().map(|version| version.component));
        let held = self.held.lock().clone();
        kept.extend(&held.blobs);
        let versions = records.all_dataset_versions().map(|version| version.digest);
        let pins = self.store.pins().map_err(store_problem)?;
        let recorded = {
            let mut recorded = self.recorded.lock();
            forget_named(&mut recorded, &records);
            recorded.clone()
        };
        let pinned = records.pinned_inputs();
        let datasets = versions.chain(pins).chain(held.datasets).chain(recorded);
        for digest in datasets.chain(pinned.iter().copied()) {
            // Whoever keeps a shard has its dataset's list, so nothing here belongs to one whose list is elsewhere.
            if matches!(self.store.stored(&digest).await, Err(StoreError::Missing(_))) {
                continue;
            }
            // One whose shards cannot be named: nothing may be released until it is mended or removed.
            match self.store.dataset(&digest).await {
                Ok(dataset) => kept.extend(dataset.blobs()),
                // A function may name any blob.
                Err(StoreError::NotADataset { .. }) if pinned.contains(&digest) => drop(kept.insert(digest)),
                Err(error) => return Err(store_problem(error)),
            }
        }
        Ok(kept)
    }

    async fn release(&self, digests: Vec<Digest>) -> Result<u64, Problem> {
        let bytes = digests
            .iter()
            .filter_map(|digest| self.store.stored_bytes(digest).ok())
            .sum();
        if !digests.is_empty() {
            self.store.release(digests).await.map_err(store_problem)?;
        }
        Ok(bytes)
    }
}

/// Takes out of `recorded` what the records name by now.
pub(super) fn forget_named(recorded: &mut Vec<Digest>, records: &Records) {
    recorded.retain(|digest| !records.has_version_of(digest));
}
