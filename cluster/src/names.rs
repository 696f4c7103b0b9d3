//! Datasets and blobs by what somebody typed: a name, a digest, or the beginning of one. A digest may name another blob than a
//! dataset, or nothing.
//!
//! Any 64 bytes may be read as two digests, so a blob that is no dataset looks like one whose meta is missing. Whether
//! it is one is known by the records and by who holds it, not by what could not be fetched.

use std::sync::Arc;

use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, Problem, ProblemKind};
use nearfield_store::{Dataset, StoreError};

use crate::cluster::Cluster;
use crate::problem::{store_problem, unknown_dataset};

/// Fewest digits of a digest that are taken for its beginning.
const LEAST_DIGITS: usize = 4;

impl Cluster {
    /// The newest version of the dataset `name`.
    pub fn newest(&self, name: &DatasetName) -> Result<DatasetVersion, Problem> {
        let records = self.catalog.node.records();
        let newest = records.dataset(name).cloned();
        newest.ok_or_else(|| unknown_dataset(name.as_str()))
    }

    /// The digest that `text` is, or that alone begins so among those that records and pins name, or else among all blobs
    /// that hosts hold.
    pub fn digest(&self, text: &str) -> Result<Digest, Problem> {
        let whole = text.parse().or_else(|_| Digest::from_hex(text));
        let not_whole = match whole {
            Ok(digest) => return Ok(digest),
            Err(error) => error,
        };
        let digits = text.strip_prefix("b3:").unwrap_or(text);
        let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !hex || !(LEAST_DIGITS..64).contains(&digits.len()) {
            return Err(Problem::new(ProblemKind::BadRequest, not_whole.to_string()));
        }
        let digits = digits.to_ascii_lowercase();
        let records = self.catalog.node.records();
        let datasets = records.all_dataset_versions().map(|version| version.digest);
        let components = records.all_function_versions().map(|version| version.component);
        let pins = self.catalog.store.pins().map_err(store_problem)?;
        let named = beginning(&digits, datasets.chain(components).chain(pins));
        let found = named.or_else(|| beginning(&digits, self.hosts.table().holders.digests()));
        found.unwrap_or_else(|| {
            Err(Problem::new(
                ProblemKind::UnknownBlob,
                format!("no digest that this network knows begins with b3:{digits}"),
            ))
        })
    }

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

    /// Whether a record or a pin says that it is a dataset. Looked at only where one could not be opened.
    fn recorded(&self, digest: &Digest) -> bool {
        let named = self.catalog.node.records().has_version_of(digest);
        named || self.catalog.store.pins().is_ok_and(|pins| pins.contains(digest))
    }

    fn held(&self, digest: &Digest) -> bool {
        self.catalog.store.size_of(digest).is_ok() || self.hosts.table().holders_of(digest).next().is_some()
    }
}

/// The digest that begins with `digits`, or what is wrong where several do; `None` where none does.
fn beginning(digits: &str, of: impl Iterator<Item = Digest>) -> Option<Result<Digest, Problem>> {
    let mut found: Option<Digest> = None;
    for digest in of.filter(|digest| digest.to_hex().starts_with(digits)) {
        match found {
            Some(other) if other != digest => {
                return Some(Err(Problem::new(
                    ProblemKind::BadRequest,
                    format!(
                        "several digests begin with b3:{digits}, {other} and {digest} among them: give more digits"
                    ),
                )));
            }
            _ => found = Some(digest),
        }
    }
    found.map(Ok)
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
    fn the_beginning_of_a_digest_is_that_of_one_or_an_error() {
        let [one, two] = [0xab, 0xac].map(|first| Digest::from_bytes([first; 32]));
        let all = || [one, two, one].into_iter();
        assert_eq!(beginning("abab", all()), Some(Ok(one)), "twice the same is one");
        assert_eq!(beginning("ad", all()), None);
        let several = beginning("a", all()).unwrap().unwrap_err();
        assert!(several.detail.contains(&two.to_string()), "{several}");
    }

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
