//! Versions and names that are removed.

use std::num::NonZeroUsize;

use nearfield_net::control::Forget;
use nearfield_protocol::{DatasetName, Digest, FunctionName, Problem, ProblemKind};
use serde::Serialize;

use super::remaining::Remaining;
use super::state::Catalog;
use crate::problem::{net_problem, store_problem, unknown_dataset, unknown_function};

/// What removing a dataset came to.
#[derive(Serialize)]
pub struct Removed {
    /// The next sweep frees them.
    pub released_bytes: u64,
    pub forgotten_results: u64,
    /// What a purge could not remove.
    pub remaining: Vec<Remaining>,
}

impl Catalog {
    /// Forgets all versions of a dataset but the newest `keep`. Returns how many went, and how many bytes the next
    /// sweep frees.
    pub async fn prune_dataset(&self, name: &DatasetName, keep: NonZeroUsize) -> Result<(u64, u64), Problem> {
        let _recording = self.recording.write().await;
        let records = self.node.records();
        let versions = records.dataset_versions(name);
        if versions.is_empty() {
            return Err(unknown_dataset(name.as_str()));
        }
        let (gone, kept) = versions.split_at(versions.len().saturating_sub(keep.get()));
        if gone.is_empty() {
            return Ok((0, 0));
        }
        let gone = digests(gone, |version| version.digest);
        self.node
            .prune_dataset(name, kept[0].version)
            .await
            .map_err(net_problem)?;
        let pruned = gone.len() as u64;
        Ok((pruned, self.release_unreferenced(gone, Vec::new()).await?))
    }

    /// Removes a dataset name with all its versions, and lets go of what nothing else refers to; with
    /// `purge` also of all results that were computed from it.
    pub async fn remove_dataset(&self, name: &DatasetName, purge: bool) -> Result<Removed, Problem> {
        let recording = self.recording.write().await;
        let removed: Vec<Digest> = digests(self.node.records().dataset_versions(name), |version| {
            version.digest
        });
        if removed.is_empty() {
            return Err(unknown_dataset(name.as_str()));
        }
        let held = self.held.lock().clone();
        if purge && removed.iter().any(|digest| held.datasets.contains(digest)) {
            return Err(Problem::new(
                ProblemKind::Conflict,
                format!(
                    "a job, or the replay of one, works on `{name}`: `nearfield ls jobs` lists jobs; wait for it or cancel it, \
                     then purge"
                ),
            ));
        }
        let leaving = match purge {
            true => Some(self.leaving(&removed).await?),
            false => None,
        };
        self.node.remove_dataset(name).await.map_err(net_problem)?;
        let mut forgotten_results = 0;
        let (mut results, mut origins) = (Vec::new(), Vec::new());
        let mut remaining = Ok(Vec::new());
        let (mut purged, mut not_asked) = (Ok(()), Vec::new());
        if let Some(leaving) = leaving {
            remaining = self.remaining(&leaving).await;
            origins.push(name.to_string());
            // A version may have been gone over by its digest alone.
            origins.extend(removed.iter().map(Digest::to_string));
            for origin in &origins {
                match self.remembered.purge(origin).await {
                    Ok(forgotten) => {
                        forgotten_results += forgotten.results;
                        results.extend(forgotten.blobs);
                    }
                    Err(error) => purged = Err(store_problem(error)),
                }
            }
        }
        // The name is gone: what nothing refers to goes, whatever failed since.
        let released_bytes = self.release_unreferenced(removed, results).await?;
        // Others may be slow to answer: nobody who writes waits for them.
        drop(recording);
        if !origins.is_empty() {
            let asked = origins.into_iter().map(Forget::For).collect();
            let (count, away) = self.forget_elsewhere(asked).await;
            forgotten_results += count;
            not_asked = away;
        }
        purged?;
        let mut remaining = remaining?;
        remaining.extend(not_asked);
        Ok(Removed {
            released_bytes,
            forgotten_results,
            remaining,
        })
    }

    /// Removes a function. Its components go too, if nothing else uses them.
    pub async fn remove_function(&self, name: &FunctionName) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        let removed = digests(self.node.records().function_versions(name), |version| {
            version.component
        });
        if removed.is_empty() {
            return Err(unknown_function(name.as_str()));
        }
        self.node.remove_function(name).await.map_err(net_problem)?;
        self.release_unreferenced(Vec::new(), removed).await
    }
}

fn digests<T>(versions: &[T], digest: impl Fn(&T) -> Digest) -> Vec<Digest> {
    versions.iter().map(digest).collect()
}
