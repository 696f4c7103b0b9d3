//! Datasets by a digest that somebody typed: it may name another blob, or nothing.
//!
//! Any 64 bytes may be read as two digests, so a blob that is no dataset looks like one whose meta is missing. Whether
//! it is one is known by the records and by who holds it, not by what could not be fetched.

use std::sync::Arc;

use nearfield_protocol::{Digest, Problem, ProblemKind};
use nearfield_store::{Dataset, StoreError};

use crate::reply::store_problem;
use crate::server::Gateway;

impl Gateway {
    /// The dataset that `digest` names, or `None` where it names another blob.
    pub async fn dataset_or_blob(&self, digest: &Digest) -> Result<Option<Arc<Dataset>>, Problem> {
        match self.catalog.store.dataset(digest).await {
            Ok(dataset) => Ok(Some(dataset)),
            Err(error) => match no_dataset(&error, digest, || self.recorded(digest), || self.held(digest)) {
                Some(NoDataset::Blob) => Ok(None),
                Some(NoDataset::Nothing) => Err(Problem::new(
                    ProblemKind::UnknownBlob,
                    format!("no node of this network has {digest}"),
                )),
                None => Err(store_problem(error)),
            },
        }
    }

    /// The dataset that `digest` names.
    pub async fn dataset(&self, digest: &Digest) -> Result<Arc<Dataset>, Problem> {
        self.dataset_or_blob(digest).await?.ok_or_else(|| {
            Problem::new(
                ProblemKind::UnknownDataset,
                format!("{digest} is a blob, not a dataset"),
            )
        })
    }

    /// Whether a record or a pin says that it is a dataset. Looked through only where one could not be opened.
    fn recorded(&self, digest: &Digest) -> bool {
        let records = self.catalog.node.records();
        let named = records
            .all_dataset_versions()
            .any(|version| version.digest == *digest);
        named || self.catalog.store.pins().is_ok_and(|pins| pins.contains(digest))
    }

    fn held(&self, digest: &Digest) -> bool {
        self.catalog.store.size_of(digest).is_ok() || self.hosts.table().holders_of(digest).next().is_some()
    }
}

/// What a digest names that could not be opened as a dataset.
#[derive(Debug, PartialEq, Eq)]
enum NoDataset {
    Blob,
    Nothing,
}

/// `None` where it is a dataset all the same, or may be, and its opening failed.
fn no_dataset(
    error: &StoreError,
    digest: &Digest,
    recorded: impl FnOnce() -> bool,
    held: impl FnOnce() -> bool,
) -> Option<NoDataset> {
    match error {
        StoreError::NotADataset { .. } => Some(NoDataset::Blob),
        StoreError::Missing(missing) | StoreError::Elsewhere { digest: missing, .. } => {
            match missing == digest {
                // Its own first bytes are no digest of anything.
                false => (!recorded()).then_some(NoDataset::Blob),
                true => (!recorded() && !held()).then_some(NoDataset::Nothing),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_opened_is_a_dataset_only_if_somebody_says_so() {
        let (asked, other) = (Digest::of(b"asked"), Digest::of(b"other"));
        let missing = StoreError::Missing;
        let elsewhere = |digest| StoreError::Elsewhere {
            digest,
            cause: "nobody has it".to_owned(),
        };
        let is = |error: StoreError, recorded, held| no_dataset(&error, &asked, || recorded, || held);
        for absent in [missing as fn(Digest) -> StoreError, elsewhere] {
            assert_eq!(is(absent(other), false, true), Some(NoDataset::Blob));
            assert_eq!(is(absent(other), true, true), None, "its meta is not reached now");
            assert_eq!(is(absent(asked), false, false), Some(NoDataset::Nothing));
            assert_eq!(
                is(absent(asked), false, true),
                None,
                "its holder is not reached now"
            );
            assert_eq!(is(absent(asked), true, false), None);
        }
        let refused = StoreError::NotADataset {
            digest: asked,
            reason: String::new(),
        };
        assert_eq!(is(refused, false, true), Some(NoDataset::Blob));
        assert_eq!(is(StoreError::Corrupt(other), false, true), None);
        assert_eq!(is(StoreError::DiskFull, false, true), None);
    }
}
