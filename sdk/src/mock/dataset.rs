//! Datasets made in a test, cut as the test likes.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::keys;
use crate::{DataError, Digest, Location};

/// A dataset of a test.
///
/// Each file starts a new shard and is cut every [`shard_bytes`](Self::shard_bytes), like on a real host at the end
/// of a record: a line, a CSV record, `N` bytes of `fixed:N`. With the split `files` the files go into archives, and
/// one that has so many bytes is followed by the next.
pub struct Dataset {
    /// Its own digest, if it is one that a real host has.
    kept: Option<Digest>,
    format: String,
    shard_bytes: usize,
    pub(crate) shards: Vec<Shard>,
    pub(crate) paths: Vec<(String, Location)>,
    /// What it is sorted by.
    key: Option<String>,
}

pub(crate) struct Shard {
    pub(crate) format: String,
    pub(crate) header: Vec<u8>,
    pub(crate) source: String,
    pub(crate) content: Content,
}

/// The bytes of a shard.
pub(crate) enum Content {
    Made(Vec<u8>),
    /// Those of a real host's, in a file: they may be more than memory holds.
    Kept {
        file: PathBuf,
        size: u64,
        digest: Digest,
    },
}

impl Dataset {
    /// An empty dataset of a split: `lines`, `csv`, `ndjson`, `fixed:N`, `files`, `bytes` or `none`.
    pub fn new(format: &str) -> Self {
        let (shards, paths) = Default::default();
        Self {
            kept: None,
            format: format.to_owned(),
            shard_bytes: usize::MAX,
            shards,
            paths,
            key: None,
        }
    }

    /// Cuts the files that are added from now on after so many bytes.
    pub fn shard_bytes(mut self, bytes: u64) -> Self {
        self.shard_bytes = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        self
    }

    /// Sorts the file that is added next by a CSV column or a JSON pointer, as `put --key` does.
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    /// Adds a file.
    ///
    /// # Panics
    ///
    /// When it has no such [`key`](Self::key), or is not the only one that is sorted.
    pub fn file(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let mut bytes = bytes.into();
        if self.format == "files" {
            self.pack(path, &bytes);
            return self;
        }
        let header = match self.format.as_str() {
            "csv" => bytes[..keys::begin("csv", &bytes)].to_vec(),
            _ => Vec::new(),
        };
        if let Some(key) = &self.key {
            assert!(self.shards.is_empty(), "one file is sorted by a key");
            bytes = keys::sorted(&self.format, key, &bytes, &header);
        }
        let location = Location {
            shard: self.shards.len() as u32,
            offset: 0,
            length: bytes.len() as u64,
        };
        self.paths.push((path.to_owned(), location));
        let mut rest = &bytes[..];
        loop {
            let (piece, later) = rest.split_at(self.piece_by_key(rest, &header));
            self.shards.push(Shard {
                format: self.format.clone(),
                header: header.clone(),
                source: path.to_owned(),
                content: Content::Made(piece.to_vec()),
            });
            rest = later;
            if rest.is_empty() {
                return self;
            }
        }
    }

    /// Adds a file from disk under its name, or all files of a folder, in the order of their paths in it.
    ///
    /// # Panics
    ///
    /// When one can't be read.
    pub fn disk(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut files = Vec::new();
        if path.is_dir() {
            list(path, "", &mut files);
            files.sort();
        } else {
            files.push((name, path.to_owned()));
        }
        for (name, path) in files {
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            self = self.file(&name, bytes);
        }
        self
    }

    /// A dataset that a real host has.
    pub(super) fn kept(
        digest: Digest,
        format: String,
        shards: Vec<Shard>,
        paths: Vec<(String, Location)>,
        key: Option<String>,
    ) -> Self {
        Self {
            kept: Some(digest),
            shards,
            paths,
            key,
            ..Self::new(&format)
        }
    }

    /// Where the records of `key` lie: the outer `None` is a dataset without keys.
    pub(super) fn by_key(&self, key: &str) -> Result<Option<Option<Location>>, DataError> {
        let Some(name) = &self.key else {
            return Ok(None);
        };
        for (index, shard) in self.shards.iter().enumerate() {
            let bytes = shard.content.whole()?;
            let records = keys::records(&self.format, name, &bytes, &shard.header);
            let mut ranges = records.into_iter().filter(|(known, _)| known == key);
            if let Some((_, first)) = ranges.next() {
                let end = ranges.next_back().map_or(first.end, |(_, last)| last.end);
                return Ok(Some(Some(Location {
                    shard: index as u32,
                    offset: first.start as u64,
                    length: (end - first.start) as u64,
                })));
            }
        }
        Ok(Some(None))
    }

    pub(crate) fn digest(&self) -> Digest {
        if let Some(digest) = self.kept {
            return digest;
        }
        let all: Vec<u8> = self.shards.iter().flat_map(|shard| shard.digest().0).collect();
        stand_in(&all)
    }

    /// [`piece`](Self::piece), moved to where a key begins.
    fn piece_by_key(&self, rest: &[u8], header: &[u8]) -> usize {
        let end = self.piece(rest);
        let Some(key) = &self.key else {
            return end;
        };
        let records = keys::records(&self.format, key, rest, header);
        let begins = records.windows(2).filter(|pair| pair[0].0 != pair[1].0);
        let mut begins = begins.map(|pair| pair[1].1.start);
        begins.find(|at| *at >= end).unwrap_or(rest.len())
    }

    /// How many of a file's remaining bytes the next shard has.
    fn piece(&self, rest: &[u8]) -> usize {
        let least = self.shard_bytes;
        if rest.len() <= least {
            return rest.len();
        }
        let newline_from = |start: usize| rest[start..].iter().position(|&byte| byte == b'\n');
        let end = match self.format.as_str() {
            "lines" | "ndjson" => newline_from(least - 1).map(|place| least + place),
            "csv" => {
                let mut ends = nearfield_csv::records(rest).scan(0, |end, record| {
                    *end += record.len();
                    Some(*end)
                });
                ends.find(|end| *end >= least)
            }
            format => match format.strip_prefix("fixed:").map(str::parse::<usize>) {
                Some(Ok(size)) if size > 0 => Some(least.next_multiple_of(size)),
                _ => Some(least),
            },
        };
        end.map_or(rest.len(), |end| end.min(rest.len()))
    }

    /// Adds a file to the last archive, or to a new one where that is full.
    fn pack(&mut self, path: &str, bytes: &[u8]) {
        // An archive ends with two empty blocks, which the next file replaces.
        const END_BYTES: usize = 1024;
        let full = |last: &Shard| last.content.size() as usize - END_BYTES >= self.shard_bytes;
        if self.shards.last().is_none_or(full) {
            let (header, source) = Default::default();
            self.shards.push(Shard {
                format: self.format.clone(),
                header,
                source,
                content: Content::Made(vec![0; END_BYTES]),
            });
        }
        let shard = self.shards.len() - 1;
        let Content::Made(archive) = &mut self.shards[shard].content else {
            unreachable!("nothing is added to what a real host has");
        };
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
                shard: shard as u32,
                offset,
                length: bytes.len() as u64,
            },
        ));
    }
}

impl Shard {
    pub(crate) fn digest(&self) -> Digest {
        match &self.content {
            Content::Made(bytes) => stand_in(bytes),
            Content::Kept { digest, .. } => *digest,
        }
    }
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Made(bytes) => bytes.len() as u64,
            Self::Kept { size, .. } => *size,
        }
    }

    fn whole(&self) -> Result<Vec<u8>, DataError> {
        match self {
            Self::Made(bytes) => Ok(bytes.clone()),
            Self::Kept { file, .. } => {
                fs::read(file).map_err(|error| DataError::Io(format!("{}: {error}", file.display())))
            }
        }
    }

    /// Up to `length` bytes from `offset`, fewer at the end.
    pub(crate) fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, DataError> {
        let Some(left) = self.size().checked_sub(offset) else {
            return Err(DataError::Invalid(format!(
                "offset {offset} is behind the shard's end"
            )));
        };
        // A part of what is in memory or on disk, so it fits.
        let length = left.min(length.into()) as usize;
        match self {
            Self::Made(bytes) => Ok(bytes[offset as usize..][..length].to_vec()),
            Self::Kept { file, .. } => {
                let read = || {
                    let mut file = fs::File::open(file)?;
                    file.seek(SeekFrom::Start(offset))?;
                    let mut bytes = vec![0; length];
                    file.read_exact(&mut bytes)?;
                    Ok(bytes)
                };
                read().map_err(|error: io::Error| DataError::Io(format!("{}: {error}", file.display())))
            }
        }
    }
}

/// The files below a folder: their paths in it, and where they are. Links are passed over.
fn list(folder: &Path, above: &str, files: &mut Vec<(String, PathBuf)>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let name = format!("{above}{}", entry.file_name().to_string_lossy());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => list(&entry.path(), &format!("{name}/"), files),
            Ok(kind) if kind.is_file() => files.push((name, entry.path())),
            _ => {}
        }
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
    fn shards_end_where_records_do() {
        let pieces = |format, bytes: u64, text: &str| -> Vec<String> {
            let data = Dataset::new(format).shard_bytes(bytes).file("f", text);
            let text = |shard: Shard| String::from_utf8(shard.content.read(0, u32::MAX).unwrap()).unwrap();
            data.shards.into_iter().map(text).collect()
        };
        assert_eq!(pieces("lines", 2, "a\nbcd\ne"), ["a\n", "bcd\n", "e"]);
        assert_eq!(pieces("lines", 3, "a\nbcd\ne"), ["a\nbcd\n", "e"]);
        assert_eq!(pieces("csv", 2, "a,\"b\n\"\nc,d\n"), ["a,\"b\n\"\n", "c,d\n"]);
        // A quote inside a plain field means itself.
        assert_eq!(
            pieces("csv", 2, "a,5\" b\nc,d\ne,f\n"),
            ["a,5\" b\n", "c,d\n", "e,f\n"]
        );
        assert_eq!(pieces("fixed:4", 5, "0123456789ab"), ["01234567", "89ab"]);
        assert_eq!(pieces("bytes", 2, "abc"), ["ab", "c"]);
        assert_eq!(pieces("lines", 2, ""), [""]);
    }

    #[test]
    fn a_folder_on_disk_is_a_dataset() {
        let folder = std::env::temp_dir().join(format!("nearfield-mock-{}", std::process::id()));
        fs::create_dir_all(folder.join("b")).unwrap();
        fs::write(folder.join("b/two"), "2").unwrap();
        fs::write(folder.join("one"), "1\n").unwrap();
        let all = Dataset::new("files").shard_bytes(1).disk(&folder);
        let one = Dataset::new("lines").disk(folder.join("one"));
        fs::remove_dir_all(&folder).unwrap();

        assert_eq!(all.shards.len(), 2);
        assert_eq!(
            all.paths
                .iter()
                .map(|(path, _)| path.as_str())
                .collect::<Vec<_>>(),
            ["b/two", "one"]
        );
        assert_eq!(
            (one.paths[0].0.as_str(), one.shards[0].content.read(0, 9).unwrap()),
            ("one", b"1\n".to_vec())
        );
    }

    #[test]
    fn keys_lead_to_their_records() {
        let csv = Dataset::new("csv")
            .shard_bytes(12)
            .key("id")
            .file("t.csv", "id,n\nm,1\na,\"2\n\"\nm,3\nb,4");
        let ndjson = Dataset::new("ndjson")
            .key("/a/0")
            .file("t", "{\"a\":[2]}\n\n{\"a\":[1]}\n");
        let host = Host::new().dataset("csv", csv).dataset("ndjson", ndjson);
        host.run(|| {
            let data = crate::Dataset::open("csv").unwrap();
            assert!(data.len() > 1);
            let found = |key| data.records(key).unwrap().map(|records| records.bytes().to_vec());
            assert_eq!(found("m").unwrap(), b"m,1\nm,3\n");
            assert_eq!(found("a").unwrap(), b"a,\"2\n\"\n");
            assert_eq!(found("b").unwrap(), b"b,4\n");
            assert_eq!(found("c"), None);
            let mut csv = data.records("m").unwrap().unwrap().csv();
            let rows: Vec<(String, u32)> = csv.deserialize().map(Result::unwrap).collect();
            assert_eq!(rows, [("m".to_owned(), 1), ("m".to_owned(), 3)]);
            let data = crate::Dataset::open("ndjson").unwrap();
            assert_eq!(data.records("1").unwrap().unwrap().bytes(), b"{\"a\":[1]}\n");
        });
        let none = Dataset::new("lines").file("t", "a\n");
        Host::new().dataset("data", none).run(|| {
            let data = crate::Dataset::open("data").unwrap();
            assert!(matches!(data.by_key("a"), Err(DataError::Invalid(_))));
        });
    }
}
