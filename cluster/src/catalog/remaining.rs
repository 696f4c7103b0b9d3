//! What a purge leaves behind, and why.

use std::collections::{BTreeMap, HashSet};

use nearfield_protocol::manifest::Input;
use nearfield_protocol::{Digest, Problem};
use serde::Serialize;

use super::state::Catalog;
use crate::problem::store_problem;

/// Bytes of a dataset that stay when it is purged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remaining {
    /// What needs them: another dataset, a pin, a function, or the files that were never ours.
    pub held_by: String,
    pub shards: u64,
    pub bytes: u64,
}

/// The shards of versions that are about to go.
pub struct Leaving {
    shards: HashSet<Digest>,
    in_place: HashSet<Digest>,
}

impl Catalog {
    /// The shards of `versions` that are here.
    pub async fn leaving(&self, versions: &[Digest]) -> Result<Leaving, Problem> {
        let mut leaving = Leaving {
            shards: HashSet::new(),
            in_place: HashSet::new(),
        };
        for digest in versions {
            // Nothing can be said of the shards of one that is quarantined or gone in part.
            if let Ok(dataset) = self.store.dataset(digest).await {
                leaving.shards.extend(&dataset.shards);
            }
        }
        for digest in &leaving.shards {
            if self.store.lies_in_place(digest).map_err(store_problem)? {
                leaving.in_place.insert(*digest);
            }
        }
        Ok(leaving)
    }

    /// What of `leaving` stays. To be asked once its names are gone.
    pub async fn remaining(&self, leaving: &Leaving) -> Result<Vec<Remaining>, Problem> {
        let records = self.node.records();
        let mut holders: BTreeMap<String, HashSet<Digest>> = BTreeMap::new();
        let mut note = async |holder: String, digest: &Digest| {
            if let Ok(dataset) = self.store.dataset(digest).await {
                let shards = dataset
                    .shards
                    .iter()
                    .filter(|shard| leaving.shards.contains(shard));
                holders.entry(holder).or_default().extend(shards);
            }
        };
        for version in records.all_dataset_versions() {
            note(format!("dataset/{}", version.name), &version.digest).await;
        }
        for digest in self.store.pins().map_err(store_problem)? {
            note(format!("pin {digest}"), &digest).await;
        }
        for version in records.all_function_versions() {
            for input in version.manifest.inputs.values() {
                if let Input::Pinned(digest) = input {
                    note(format!("function/{}", version.name), digest).await;
                }
            }
        }
        holders.insert("files in place".to_owned(), leaving.in_place.clone());
        let size = |digest: &Digest| self.store.size_of(digest).unwrap_or_default();
        let remaining = holders.into_iter().map(|(held_by, shards)| Remaining {
            held_by,
            shards: shards.len() as u64,
            bytes: shards.iter().map(size).sum(),
        });
        Ok(remaining.filter(|remaining| remaining.shards > 0).collect())
    }
}
