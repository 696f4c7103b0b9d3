//! What takes the store's bytes: `nearfield du`.

use std::collections::HashMap;
use std::sync::Arc;

use http::{Response, StatusCode};
use nearfield_protocol::{DatasetName, Digest, Problem};
use serde_json::json;

use crate::body::Body;
use crate::reply::{self, store_problem};
use crate::server::Gateway;

pub async fn usage(gateway: &Arc<Gateway>) -> Result<Response<Body>, Problem> {
    let catalog = &gateway.catalog;
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
    let mut held = Held::default();
    for (index, (_, versions)) in names.iter().enumerate() {
        for digest in versions {
            let dataset = catalog.store.dataset(digest).await.map_err(store_problem)?;
            let size = |digest: &Digest| catalog.store.size_of(digest);
            for digest in dataset.blobs() {
                held.note(index, digest, size).map_err(store_problem)?;
            }
        }
    }
    let datasets: Vec<_> = names
        .iter()
        .zip(held.by_dataset(names.len()))
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
struct Held(HashMap<Digest, (u64, Vec<usize>)>);

impl Held {
    fn note<E>(
        &mut self,
        dataset: usize,
        digest: Digest,
        size: impl FnOnce(&Digest) -> Result<u64, E>,
    ) -> Result<(), E> {
        let known = match self.0.entry(digest) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                let bytes = size(new.key())?;
                new.insert((bytes, Vec::new()))
            }
        };
        if !known.1.contains(&dataset) {
            known.1.push(dataset);
        }
        Ok(())
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
        let mut held = Held::default();
        for (dataset, blob) in [(0, "a"), (0, "b"), (0, "b"), (1, "b"), (1, "c")] {
            let size = |_: &Digest| Ok::<_, ()>(10);
            held.note(dataset, Digest::of(blob.as_bytes()), size).unwrap();
        }
        assert_eq!(held.by_dataset(3), [(20, 10), (20, 10), (0, 0)]);
    }
}
