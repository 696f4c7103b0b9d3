//! The meta of a dataset: child 0 of its HashSeq. Child 1 is the path index of a folder, the key index of a dataset
//! that is sorted, or the empty blob; then the shards in order.

use serde::{Deserialize, Serialize};

use crate::{PartName, Split};

/// The version of the encoding, first in the blob. An older reader refuses a newer meta. A meta is written in the
/// oldest version that can say it, so that a dataset without parts or key keeps its digest.
const VERSION: u8 = WITH_EXACT_KEY;
const PLAIN: u8 = 1;
const WITH_PARTS: u8 = 2;
const WITH_KEY: u8 = 3;
/// As the one before, but keys that are numbers are their own text.
const WITH_EXACT_KEY: u8 = 4;

/// What a dataset says of itself. Two puts of the same input give the same meta, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetMeta {
    pub split: Split,
    /// [`Split::VERSION`] of the cutter that made it.
    pub split_version: u16,
    /// The size that shards were cut towards, in bytes.
    pub shard_size_bytes: u32,
    /// It was put as a folder, so it is read back as one.
    pub folder: bool,
    /// Bytes of all shards.
    pub size_bytes: u64,
    /// Files and parts that shards were cut from, in order. Empty for packs, whose files are in the path index.
    pub sources: Vec<String>,
    /// Distinct CSV header records, line ends included.
    pub headers: Vec<Vec<u8>>,
    pub shards: Vec<ShardMeta>,
    /// What the dataset was put together from, in the order of its shards; none if it was put whole.
    #[serde(skip)]
    pub parts: Vec<PartMeta>,
    /// What its records are sorted by; such a dataset was put whole, and is one stream.
    #[serde(skip)]
    pub key: Option<KeyMeta>,
}

/// What the records of a dataset are sorted by, bytewise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyMeta {
    /// A column of the CSV header, or a JSON pointer into each value.
    pub name: String,
    /// Of each shard. They ascend and do not touch: all records of a key are in one shard.
    pub ranges: Vec<KeyRange>,
    /// A key that is a JSON number is the text of it. Otherwise it is what the nearest double is written as, as in datasets
    /// of older builds, and in those in which that makes no difference.
    #[serde(skip)]
    pub exact_numbers: bool,
}

/// The keys of a shard's first and last record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    pub min: Vec<u8>,
    pub max: Vec<u8>,
}

impl KeyMeta {
    /// The only shard that may hold `key`.
    pub fn shard_of(&self, key: &[u8]) -> Option<u32> {
        let behind = self.ranges.partition_point(|range| range.min[..] <= *key);
        let shard = behind.checked_sub(1)?;
        (*key <= self.ranges[shard].max[..]).then_some(shard as u32)
    }

    fn is_sorted(&self) -> bool {
        self.ranges.iter().all(|range| range.min <= range.max)
            && self.ranges.is_sorted_by(|one, next| one.max < next.min)
    }
}

/// What was put by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartMeta {
    /// None for what was put without naming a part.
    pub name: Option<PartName>,
    pub shards: u32,
}

/// What a dataset says of one of its shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMeta {
    pub size_bytes: u64,
    /// Index into [`DatasetMeta::sources`].
    pub source: Option<u32>,
    /// Index into [`DatasetMeta::headers`]. A file's first shard begins with its header; no other
    /// shard begins with the same bytes.
    pub header: Option<u32>,
}

/// Why bytes are not a meta.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    #[error("the meta is of version {0}; this build reads version {VERSION}: upgrade nearfield")]
    Version(u8),
    #[error("the meta is malformed: {0}")]
    Malformed(String),
}

impl DatasetMeta {
    pub fn encode(&self) -> Vec<u8> {
        let known = "a meta holds nothing that postcard refuses";
        let begin = |version| postcard::to_extend(self, vec![version]).expect(known);
        match &self.key {
            Some(key) if key.exact_numbers => postcard::to_extend(key, begin(WITH_EXACT_KEY)).expect(known),
            Some(key) => postcard::to_extend(key, begin(WITH_KEY)).expect(known),
            None if self.parts.is_empty() => begin(PLAIN),
            None => postcard::to_extend(&self.parts, begin(WITH_PARTS)).expect(known),
        }
    }

    /// Decodes and checks what readers rely on: indexes in range, sizes and parts that add up.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let malformed = |text: &str| MetaError::Malformed(text.to_owned());
        let told = |error: postcard::Error| MetaError::Malformed(error.to_string());
        let (&version, body) = bytes.split_first().ok_or_else(|| malformed("empty"))?;
        if !(PLAIN..=VERSION).contains(&version) {
            return Err(MetaError::Version(version));
        }
        let (mut meta, mut rest): (DatasetMeta, _) = postcard::take_from_bytes(body).map_err(told)?;
        if matches!(version, WITH_KEY | WITH_EXACT_KEY) {
            let mut key: KeyMeta;
            (key, rest) = postcard::take_from_bytes(rest).map_err(told)?;
            key.exact_numbers = version == WITH_EXACT_KEY;
            if key.ranges.len() != meta.shards.len() || !key.is_sorted() || meta.folder {
                return Err(malformed("its keys do not fit its shards"));
            }
            meta.key = Some(key);
        }
        if version == WITH_PARTS {
            (meta.parts, rest) = postcard::take_from_bytes(rest).map_err(told)?;
            let shards: u64 = meta.parts.iter().map(|part| u64::from(part.shards)).sum();
            let key = |part: &PartMeta| part.name.as_ref().map(|name| format!("{name}/"));
            if !meta.parts.is_sorted_by(|a, b| key(a) < key(b)) {
                return Err(malformed("its parts are out of order"));
            }
            if shards != meta.shards.len() as u64 {
                return Err(malformed("its parts do not add up"));
            }
        }
        if !rest.is_empty() {
            return Err(malformed("something stands behind it"));
        }
        let mut sum = 0u64;
        for shard in &meta.shards {
            sum = sum
                .checked_add(shard.size_bytes)
                .ok_or_else(|| malformed("sizes overflow"))?;
            let within = |index: Option<u32>, len: usize| index.is_none_or(|i| (i as usize) < len);
            if !within(shard.source, meta.sources.len()) || !within(shard.header, meta.headers.len()) {
                return Err(malformed("a shard points outside its tables"));
            }
        }
        if sum != meta.size_bytes {
            return Err(malformed("shard sizes do not add up"));
        }
        Ok(meta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> DatasetMeta {
        DatasetMeta {
            split: Split::Csv,
            split_version: Split::VERSION,
            shard_size_bytes: 4 << 20,
            folder: false,
            size_bytes: 7,
            sources: vec!["a.csv".into()],
            headers: vec![b"a,b\n".to_vec()],
            shards: vec![ShardMeta {
                size_bytes: 7,
                source: Some(0),
                header: Some(0),
            }],
            parts: Vec::new(),
            key: None,
        }
    }

    fn keyed() -> DatasetMeta {
        let range = |min: &str, max: &str| KeyRange {
            min: min.into(),
            max: max.into(),
        };
        let shard = meta().shards[0];
        DatasetMeta {
            size_bytes: 14,
            shards: vec![shard, shard],
            key: Some(KeyMeta {
                name: "id".into(),
                ranges: vec![range("a", "b"), range("d", "f")],
                exact_numbers: false,
            }),
            ..meta()
        }
    }

    #[test]
    fn a_key_leads_to_its_shard() {
        let key = keyed().key.unwrap();
        let shards = ["", "a", "ab", "b", "c", "d", "f", "fa"].map(|text| key.shard_of(text.as_bytes()));
        assert_eq!(
            shards,
            [None, Some(0), Some(0), Some(0), None, Some(1), Some(1), None]
        );
    }

    fn in_parts() -> DatasetMeta {
        let part = |name: Option<&str>, shards| PartMeta {
            name: name.map(|name| name.parse().unwrap()),
            shards,
        };
        DatasetMeta {
            parts: vec![part(None, 0), part(Some("host-1"), 1)],
            ..meta()
        }
    }

    #[test]
    fn comes_back() {
        let mut exact = keyed();
        exact.key.as_mut().unwrap().exact_numbers = true;
        for (version, meta) in [(1, meta()), (2, in_parts()), (3, keyed()), (4, exact)] {
            assert_eq!(DatasetMeta::decode(&meta.encode()).unwrap(), meta);
            assert_eq!(meta.encode()[0], version);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(DatasetMeta::decode(b"").is_err());
        assert!(matches!(DatasetMeta::decode(&[9, 0]), Err(MetaError::Version(9))));
        for bytes in [meta().encode(), in_parts().encode(), keyed().encode()] {
            for end in 1..bytes.len() {
                assert!(DatasetMeta::decode(&bytes[..end]).is_err());
            }
            assert!(DatasetMeta::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        let mut wrong = in_parts();
        wrong.parts[1].shards = 2;
        assert!(DatasetMeta::decode(&wrong.encode()).is_err());
        let mut wrong = keyed();
        wrong.key.as_mut().unwrap().ranges.swap(0, 1);
        assert!(DatasetMeta::decode(&wrong.encode()).is_err());
        let mut wrong = keyed();
        wrong.key.as_mut().unwrap().ranges.pop();
        assert!(DatasetMeta::decode(&wrong.encode()).is_err());
        let mut wrong = meta();
        wrong.size_bytes = 8;
        assert!(DatasetMeta::decode(&wrong.encode()).is_err());
        let mut wrong = meta();
        wrong.shards[0].header = Some(1);
        assert!(DatasetMeta::decode(&wrong.encode()).is_err());
    }
}
