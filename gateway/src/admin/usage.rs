//! What takes the store's bytes: `nearfield du`.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Response, StatusCode};
use nearfield_cluster::store_problem;
use nearfield_protocol::{DatasetName, Digest, Problem, ProblemKind};
use serde_json::json;

use crate::body::Body;
use crate::reply;
use crate::state::Gateway;

pub async fn usage(gateway: &Arc<Gateway>) -> Result<Response<Body>, Problem> {
    let catalog = &gateway.cluster.catalog;
    let (used_bytes, blobs) = catalog.store.usage().map_err(store_problem)?;
    let (results, remembered_bytes) = catalog.remembered.usage().map_err(store_problem)?;
    let records = catalog.node.records();
    let mut names: Vec<(DatasetName, Vec<Digest>)> = Vec::new();
    for newest in records.datasets() {
        let versions = records.dataset_versions(&newest.name);
        names.push((
            newest.name.clone(),
            versions.iter().map(|version| version.digest).collect(),
        ));
    }
    let mut blobs_of = Vec::new();
    for (index, (name, versions)) in names.iter().enumerate() {
        for digest in versions {
            match catalog.store.dataset(digest).await {
                Ok(dataset) => blobs_of.push((index, dataset)),
                // The others are told all the same.
                Err(error) => tracing::warn!(%name, %error, "a version is not counted"),
            }
        }
    }
    let (store, datasets) = (catalog.store.clone(), names.len());
    let sums = tokio::task::spawn_blocking(move || {
        let mut held = HeldVersions::default();
        for (index, dataset) in blobs_of {
            for digest in dataset.blobs() {
                held.note(index, digest, |digest| store.stored_bytes(digest).unwrap_or(0));
            }
        }
        held.by_dataset(datasets)
    });
    let sums = sums
        .await
        .map_err(|error| Problem::new(ProblemKind::Internal, format!("counting: {error}")))?;
    let datasets: Vec<_> = names
        .iter()
        .zip(sums)
        .map(|((name, versions), (held_bytes, own_bytes))| {
            json!({
                "name": name,
                "versions": versions.len(),
                "size_bytes": records.dataset(name).map(|newest| newest.size_bytes),
                "held_bytes": held_bytes,
                "own_bytes": own_bytes,
            })
        })
        .collect();
    Ok(reply::json(
        StatusCode::OK,
        &json!({
            "store": { "used_bytes": used_bytes, "blobs": blobs, "max_bytes": gateway.max_store_bytes },
            "datasets": datasets,
            "remembered": { "results": results, "bytes": remembered_bytes },
        }),
    ))
}

/// Blobs with their sizes and the datasets that hold them, each once.
#[derive(Default)]
struct HeldVersions(HashMap<Digest, (u64, Vec<usize>)>);

impl HeldVersions {
    fn note(&mut self, dataset: usize, digest: Digest, size: impl FnOnce(&Digest) -> u64) {
        let known = self.0.entry(digest);
        let (_, holders) = known.or_insert_with_key(|digest| (size(digest), Vec::new()));
        if !holders.contains(&dataset) {
            holders.push(dataset);
        }
    }

    /// For each dataset the bytes of all its blobs, and of those that no other has.
    fn by_dataset(&self, datasets: usize) -> Vec<(u64, u64)> {
        let mut sums = vec![(0, 0); datasets];
        for (bytes, holders) in self.0.values() {
            for holder in holders {
                sums[*holder].0 += bytes;
            }
            if let [only] = holders.as_slice() {
                sums[*only].1 += bytes;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_blobs_are_held_by_all_and_owned_by_none() {
        let mut held = HeldVersions::default();
        for (dataset, blob) in [(0, "a"), (0, "b"), (0, "b"), (1, "b"), (1, "c")] {
            held.note(dataset, Digest::of(blob.as_bytes()), |_| 10);
        }
        assert_eq!(held.by_dataset(3), [(20, 10), (20, 10), (0, 0)]);
    }
}
