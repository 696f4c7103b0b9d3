//! Datasets made in a test, cut as the test likes.

use std::ops::RangeInclusive;

use crate::{Digest, Location};

/// A dataset of a test.
///
/// Each file starts a new shard, and is cut every [`shard_bytes`](Self::shard_bytes), wherever that falls: a real
/// host cuts between records, so a test of records chooses a size that does, too. With the split `files` all
/// files are in one shard, an archive.
pub struct Dataset {
    format: String,
    shard_bytes: usize,
    pub(crate) shards: Vec<Shard>,
    pub(crate) paths: Vec<(String, Location)>,
    pub(crate) keys: Vec<RangeInclusive<String>>,
}

pub(crate) struct Shard {
    pub(crate) format: String,
    pub(crate) header: Vec<u8>,
    pub(crate) source: String,
    pub(crate) bytes: Vec<u8>,
}

impl Dataset {
    /// An empty dataset of a split: `lines`, `csv`, `ndjson`, `fixed:N`, `files`, `bytes` or `none`.
    pub fn new(format: &str) -> Self {
        let (shards, paths, keys) = Default::default();
        Self {
            format: format.to_owned(),
            shard_bytes: usize::MAX,
            shards,
            paths,
            keys,
        }
    }

    /// Cuts the files that are added from now on after so many bytes.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        self
    }

    /// Adds a file.
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        if self.format == "files" {
            self.pack(path, &bytes);
            return self;
        }
        let header = match self.format.as_str() {
            "csv" => bytes
                .split_inclusive(|&byte| byte == b'\n')
                .next()
                .unwrap_or_default()
                .to_vec(),
            _ => Vec::new(),
        };
        let location = Location {
            shard: self.shards.len() as u32,
            offset: 0,
            length: bytes.len() as u64,
        };
        self.paths.push((path.to_owned(), location));
        let pieces = if bytes.is_empty() {
            vec![&bytes[..]]
        } else {
            bytes.chunks(self.shard_bytes).collect()
        };
        self.shards.extend(pieces.into_iter().map(|piece| Shard {
            format: self.format.clone(),
            header: header.clone(),
            source: path.to_owned(),
            bytes: piece.to_vec(),
        }));
        self
    }

    /// Says which keys each shard holds, from its first to its last, in the shards' order.
    pub fn keys<'a>(mut self, ranges: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.keys = ranges
            .into_iter()
            .map(|(first, last)| first.to_owned()..=last.to_owned())
            .collect();
        self
    }

    pub(crate) fn digest(&self) -> Digest {
        let all: Vec<u8> = self.shards.iter().flat_map(|shard| shard.digest().0).collect();
        stand_in(&all)
    }

    /// Adds a file to the one archive.
    fn pack(&mut self, path: &str, bytes: &[u8]) {
        // An archive ends with two empty blocks, which the next file replaces.
        const END_BYTES: usize = 1024;
        if self.shards.is_empty() {
            let (header, source) = Default::default();
            self.shards.push(Shard {
                format: self.format.clone(),
                header,
                source,
                bytes: vec![0; END_BYTES],
            });
        }
        let archive = &mut self.shards[0].bytes;
        archive.truncate(archive.len() - END_BYTES);
        let mut builder = tar::Builder::new(std::mem::take(archive));
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        builder
            .append_data(&mut header, path, bytes)
            .expect("a path for an archive");
        *archive = builder.into_inner().expect("memory takes everything");
        let padded = bytes.len().next_multiple_of(512);
        let offset = (archive.len() - END_BYTES - padded) as u64;
        self.paths.push((
            path.to_owned(),
            Location {
                shard: 0,
                offset,
                length: bytes.len() as u64,
            },
        ));
    }
}

impl Shard {
    pub(crate) fn digest(&self) -> Digest {
        stand_in(&self.bytes)
    }
}

/// Stable and different for different bytes, which is all a test needs; not BLAKE3, which authors' tests would
/// have to build.
fn stand_in(bytes: &[u8]) -> Digest {
    use std::hash::{DefaultHasher, Hash, Hasher};

    let mut digest = [0; 32];
    for (seed, part) in digest.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        (seed, bytes).hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    Digest(digest)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::mock::Host;

    #[test]
    fn packed_files_are_found_by_path() {
        let data = Dataset::new("files")
            .file("a", vec![1; 600])
            .file("b/c", "two")
            .file("d", "");
        Host::new().dataset("data", data).run(|| {
            let data = crate::Dataset::open("data").unwrap();
            assert_eq!(data.len(), 1);
            for (path, expected) in [("a", &[1; 600][..]), ("b/c", b"two"), ("d", b"")] {
                let mut bytes = Vec::new();
                data.file(path).unwrap().unwrap().read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, expected, "{path}");
            }
        });
    }

    #[test]
    fn keys_lead_to_their_shard() {
        let data = Dataset::new("lines")
            .file("t", "a\nm\n")
            .keys([("a", "l"), ("m", "z")]);
        Host::new().dataset("data", data).run(|| {
            let data = crate::Dataset::open("data").unwrap();
            assert_eq!(data.by_key("mango").unwrap(), Some(1));
            assert_eq!(data.by_key("0").unwrap(), None);
        });
    }
}
