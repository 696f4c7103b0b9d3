//! The lists of shards, kept between the rounds of repair. To read a list and to check it against its digest takes far longer
//! than to look up who holds the blobs that it names.

use std::collections::HashMap;
use std::sync::Arc;

use nearfield_net::Records;
use nearfield_protocol::Digest;
use nearfield_store::{Store, StoreError};

/// Digests that are kept of all lists together: 32 MiB. Lists beyond are read each time.
const MAX_DIGESTS: usize = 1 << 20;

/// The blobs of one version.
pub struct VersionBlobs {
    /// The blobs that describe the dataset: list, meta, index.
    pub heads: Vec<Digest>,
    pub shards: Vec<Digest>,
}

impl VersionBlobs {
    fn digests(&self) -> usize {
        self.heads.len() + self.shards.len()
    }
}

/// Lists of shards by the digest of their dataset.
#[derive(Default)]
pub struct Lists {
    known: HashMap<Digest, Arc<VersionBlobs>>,
    digests: usize,
}

impl Lists {
    /// The blobs of a version that `records` name.
    pub async fn of(&mut self, store: &Store, version: &Digest) -> Result<Arc<VersionBlobs>, StoreError> {
        if let Some(listed) = self.known.get(version) {
            return Ok(listed.clone());
        }
        let dataset = store.dataset(version).await?;
        let listed = Arc::new(VersionBlobs {
            heads: dataset.heads().collect(),
            shards: dataset.shards.clone(),
        });
        if self.digests + listed.digests() <= MAX_DIGESTS {
            self.digests += listed.digests();
            self.known.insert(*version, listed.clone());
        }
        Ok(listed)
    }

    /// Forgets the lists of versions that are no more.
    pub fn keep_those_of(&mut self, records: &Records) {
        let pinned = records.pinned_inputs();
        self.known
            .retain(|version, _| records.has_version_of(version) || pinned.contains(version));
        self.digests = self.known.values().map(|listed| listed.digests()).sum();
    }
}
