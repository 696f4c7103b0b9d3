//! What the records say, taken together. Pure: records in, answers out.

use std::collections::BTreeMap;

use nearfield_protocol::records::{
    DatasetRecord, DatasetVersion, FunctionRecord, FunctionVersion, RecordClock, RecordKey, RecordKind,
    TokenRecord, TokenVersion,
};
use nearfield_protocol::{DatasetName, FunctionName};

/// The state that a set of records adds up to. Applying them in key order gives it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    functions: BTreeMap<FunctionName, Vec<FunctionVersion>>,
    datasets: BTreeMap<DatasetName, Vec<DatasetVersion>>,
    tokens: BTreeMap<String, TokenVersion>,
    /// The latest clock seen, of any record.
    pub(crate) last: Option<RecordClock>,
    /// Rises with every record applied, so that what is derived from the records can tell that it is old.
    pub generation: u64,
}

impl Records {
    /// The newest version of `name`.
    pub fn function(&self, name: &FunctionName) -> Option<&FunctionVersion> {
        self.functions.get(name)?.last()
    }

    /// The newest version of every function.
    pub fn functions(&self) -> impl Iterator<Item = &FunctionVersion> {
        self.functions.values().filter_map(|versions| versions.last())
    }

    /// All versions of `name`, oldest first; empty if there is none.
    pub fn function_versions(&self, name: &FunctionName) -> &[FunctionVersion] {
        self.functions.get(name).map_or(&[], Vec::as_slice)
    }

    /// The newest version of `name`.
    pub fn dataset(&self, name: &DatasetName) -> Option<&DatasetVersion> {
        self.datasets.get(name)?.last()
    }

    /// The newest version of every dataset.
    pub fn datasets(&self) -> impl Iterator<Item = &DatasetVersion> {
        self.datasets.values().filter_map(|versions| versions.last())
    }

    /// All versions of `name`, oldest first; empty if there is none.
    pub fn dataset_versions(&self, name: &DatasetName) -> &[DatasetVersion] {
        self.datasets.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every version of every dataset.
    pub fn all_dataset_versions(&self) -> impl Iterator<Item = &DatasetVersion> {
        self.datasets.values().flatten()
    }

    /// Every version of every function.
    pub fn all_function_versions(&self) -> impl Iterator<Item = &FunctionVersion> {
        self.functions.values().flatten()
    }

    /// A token that was issued and not revoked.
    pub fn token(&self, id: &str) -> Option<&TokenVersion> {
        self.tokens.get(id)
    }

    /// Every token that was issued and not revoked.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenVersion> {
        self.tokens.values()
    }

    /// Takes one record in. Records of one name must come in the order of their clocks.
    /// A value that cannot be read is skipped by name: one bad record must not hide the others.
    pub(crate) fn apply(&mut self, key: &RecordKey, value: &[u8]) -> Result<(), String> {
        self.last = self.last.max(Some(key.clock));
        self.generation += 1;
        let unreadable = |error: &dyn std::fmt::Display| {
            format!(
                "the record of {:?} `{}` cannot be read: {error}",
                key.kind, key.name
            )
        };
        match key.kind {
            RecordKind::Function => {
                let name = key.name.parse().map_err(|error| unreadable(&error))?;
                match serde_json::from_slice(value).map_err(|error| unreadable(&error))? {
                    FunctionRecord::Deployed(version) => {
                        self.functions.entry(name).or_default().push(*version);
                    }
                    FunctionRecord::Removed => {
                        self.functions.remove(&name);
                    }
                }
            }
            RecordKind::Dataset => {
                let name = key.name.parse().map_err(|error| unreadable(&error))?;
                match serde_json::from_slice(value).map_err(|error| unreadable(&error))? {
                    DatasetRecord::Put(version) => self.datasets.entry(name).or_default().push(version),
                    DatasetRecord::Pruned { before } => {
                        if let Some(versions) = self.datasets.get_mut(&name) {
                            versions.retain(|version| version.version >= before);
                        }
                    }
                    DatasetRecord::Removed => {
                        self.datasets.remove(&name);
                    }
                }
            }
            RecordKind::Token => match serde_json::from_slice(value).map_err(|error| unreadable(&error))? {
                TokenRecord::Issued(token) => {
                    self.tokens.insert(key.name.clone(), token);
                }
                TokenRecord::Revoked => {
                    self.tokens.remove(&key.name);
                }
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_protocol::Digest;

    fn key(kind: RecordKind, name: &str, unix_ms: u64) -> RecordKey {
        let clock = RecordClock {
            unix_ms,
            counter: 0,
            writer: *b"node",
        };
        RecordKey {
            kind,
            name: name.into(),
            clock,
        }
    }

    fn put(name: &str, version: u64) -> Vec<u8> {
        let record = DatasetRecord::Put(DatasetVersion {
            name: name.parse().unwrap(),
            version,
            digest: Digest::of(&version.to_le_bytes()),
            size_bytes: 1,
            shards: 1,
            put_unix_ms: 0,
        });
        serde_json::to_vec(&record).unwrap()
    }

    #[test]
    fn the_newest_version_counts_until_removal() {
        let mut records = Records::default();
        let name: DatasetName = "logs".parse().unwrap();
        records
            .apply(&key(RecordKind::Dataset, "logs", 1), &put("logs", 1))
            .unwrap();
        records
            .apply(&key(RecordKind::Dataset, "logs", 2), &put("logs", 2))
            .unwrap();
        assert_eq!(records.dataset(&name).unwrap().version, 2);
        assert_eq!(records.dataset_versions(&name).len(), 2);
        let pruned = serde_json::to_vec(&DatasetRecord::Pruned { before: 2 }).unwrap();
        records
            .apply(&key(RecordKind::Dataset, "logs", 3), &pruned)
            .unwrap();
        assert_eq!(records.dataset_versions(&name).len(), 1);
        assert_eq!(records.dataset(&name).unwrap().version, 2);
        let removed = serde_json::to_vec(&DatasetRecord::Removed).unwrap();
        records
            .apply(&key(RecordKind::Dataset, "logs", 4), &removed)
            .unwrap();
        assert!(records.dataset(&name).is_none());
    }

    #[test]
    fn a_bad_value_is_named_and_hides_nothing() {
        let mut records = Records::default();
        records
            .apply(&key(RecordKind::Dataset, "a", 1), &put("a", 1))
            .unwrap();
        let error = records
            .apply(&key(RecordKind::Dataset, "b", 2), b"nonsense")
            .unwrap_err();
        assert!(error.contains("`b`"), "{error}");
        assert_eq!(records.datasets().count(), 1);
    }
}
