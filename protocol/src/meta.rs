//! The meta of a dataset: child 0 of its HashSeq. Child 1 is the path index or the empty blob, then
//! the shards in order.

use serde::{Deserialize, Serialize};

use crate::Split;

/// The version of the encoding, first in the blob. An older reader refuses a newer meta.
const VERSION: u8 = 1;

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
        postcard::to_extend(self, vec![VERSION]).expect("a meta holds nothing that postcard refuses")
    }

    /// Decodes and checks what readers rely on: indexes in range and sizes that add up.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let malformed = |text: &str| MetaError::Malformed(text.to_owned());
        let (&version, body) = bytes.split_first().ok_or_else(|| malformed("empty"))?;
        if version != VERSION {
            return Err(MetaError::Version(version));
        }
        let meta: DatasetMeta =
            postcard::from_bytes(body).map_err(|error| MetaError::Malformed(error.to_string()))?;
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
        }
    }

    #[test]
    fn comes_back() {
        assert_eq!(DatasetMeta::decode(&meta().encode()).unwrap(), meta());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(DatasetMeta::decode(b"").is_err());
        assert!(matches!(DatasetMeta::decode(&[9, 0]), Err(MetaError::Version(9))));
        let bytes = meta().encode();
        for end in 1..bytes.len() {
            assert!(DatasetMeta::decode(&bytes[..end]).is_err());
        }
        let mut wrong = meta();
        wrong.size_bytes = 8;
        assert!(DatasetMeta::decode(&wrong.encode()).is_err());
        let mut wrong = meta();
        wrong.shards[0].header = Some(1);
        assert!(DatasetMeta::decode(&wrong.encode()).is_err());
    }
}
