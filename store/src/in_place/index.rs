//! `put --in-place`: cuts and hashes files where they lie. What is known already is not read again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nearfield_protocol::{Digest, Split};

use super::groups::Groups;
use super::source::{Kind, Source, SourceError};
use super::table::{Cut, FileRow};
use super::{InPlace, StagedInPlace};
use crate::blobs::SealReport;
use crate::cut::{self, CutOptions, CutShard, ShardData};
use crate::error::StoreError;
use crate::path_index::{EntryKind, PathIndexBuilder, check_path};
use crate::put::{PutProgress, PutRequest};

/// Noted in one transaction: files, or bytes of groups.
const NOTED_FILES: usize = 4_096;
const NOTED_BYTES: usize = 32 << 20;
/// A file that changed a moment ago may change again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);
/// Bytes of a file looked at to choose its split.
const SAMPLE_BYTES: u64 = 8 << 10;

/// What an index found.
pub(crate) struct Indexed {
    pub split: Split,
    /// Of a folder.
    pub index: Option<Vec<u8>>,
    pub shards: Vec<IndexedShard>,
    pub staged: StagedInPlace,
    /// Shards and bytes that were hashed now.
    pub new: SealReport,
}

pub(crate) struct IndexedShard {
    pub digest: Digest,
    pub size_bytes: u64,
    pub source: Arc<str>,
    pub header: Option<Bytes>,
}

impl InPlace {
    /// Indexes the file or folder at `path`. Blocks.
    pub fn index(
        self: &Arc<Self>,
        path: &Path,
        request: &PutRequest,
        spill_dir: PathBuf,
        progress: &PutProgress,
    ) -> Result<Indexed, StoreError> {
        let found = match request.folder {
            true => self.allowed.walk(path)?,
            false => Vec::new(),
        };
        let first = found.iter().find(|found| found.kind == Kind::File);
        let first = first.map_or(path.to_owned(), |found| path.join(&found.path));
        let split = match request.split {
            // Packs are made; what lies somewhere is a file at a time.
            Some(Split::Files) => Split::None,
            Some(split) => split,
            None if request.folder && first == path => Split::None,
            None => self.guess(&first)?,
        };
        let mut indexer = Indexer {
            in_place: self,
            cut: Cut {
                split,
                version: Split::VERSION,
                shard_size_bytes: request.shard_size(),
            },
            spill_dir,
            progress,
            rows: Vec::new(),
            groups: Vec::new(),
            groups_bytes: 0,
            indexed: Indexed {
                split,
                index: None,
                shards: Vec::new(),
                staged: StagedInPlace {
                    in_place: self.clone(),
                    digests: Vec::new(),
                },
                new: SealReport::default(),
            },
        };
        if !request.folder {
            indexer.file(path, &request.source)?;
            return indexer.finish(None);
        }
        let mut index = PathIndexBuilder::new();
        for entry in found {
            let name = format!("{}{}", request.prefix(), entry.path);
            check_path(&name).map_err(|reason| cut::CutError::BadPath {
                path: name.clone(),
                reason,
            })?;
            let kind = match entry.kind {
                Kind::File => {
                    let shard = indexer.indexed.shards.len() as u32;
                    let (len, executable) = indexer.file(&path.join(&entry.path), &name)?;
                    EntryKind::File {
                        shard,
                        offset: 0,
                        len,
                        executable,
                    }
                }
                Kind::Symlink { target } => EntryKind::Symlink { target },
                Kind::EmptyDir => EntryKind::EmptyDir,
            };
            index.push(&name, &kind);
        }
        indexer.finish(Some(index.build()))
    }

    fn guess(&self, path: &Path) -> Result<Split, StoreError> {
        let source = self.allowed.source(path)?;
        let end = source.identity.size_bytes.min(SAMPLE_BYTES);
        let sample = source.read(0, end)?.unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let compressed = [".gz", ".zst"]
            .iter()
            .any(|end| name.to_ascii_lowercase().ends_with(end));
        // It stays as it is, compressed.
        Ok(if compressed {
            Split::None
        } else {
            Split::guess(&name, &sample)
        })
    }
}

struct Indexer<'a> {
    in_place: &'a Arc<InPlace>,
    cut: Cut,
    spill_dir: PathBuf,
    progress: &'a PutProgress,
    /// Not noted yet.
    rows: Vec<FileRow>,
    groups: Vec<Groups>,
    groups_bytes: usize,
    indexed: Indexed,
}

impl Indexer<'_> {
    /// Indexes one file. Returns its size and whether it is executable.
    fn file(&mut self, path: &Path, name: &str) -> Result<(u64, bool), StoreError> {
        let text = path.to_str().ok_or_else(|| SourceError::Name(path.to_owned()))?;
        let source = self.in_place.allowed.source(path)?;
        let known = self.in_place.table.file(text, self.cut, &source.identity)?;
        let known = match known {
            Some(known) if self.in_place.table.has_all(&known.shards)? => Some(known),
            _ => None,
        };
        let row = match known {
            Some(known) if source.identity.is_unchanged(&known.identity, known.path == text) => FileRow {
                path: text.to_owned(),
                identity: source.identity,
                ..known
            },
            known => self.read(text, &source, known)?,
        };
        let (source_name, header): (Arc<str>, _) = (name.into(), row.header.clone().map(Bytes::from));
        let mut size_bytes = 0;
        for (digest, shard_bytes) in &row.shards {
            size_bytes += shard_bytes;
            self.indexed.staged.add(*digest);
            self.indexed.shards.push(IndexedShard {
                digest: *digest,
                size_bytes: *shard_bytes,
                source: source_name.clone(),
                header: header.clone(),
            });
        }
        self.progress.bytes.fetch_add(size_bytes, Ordering::Relaxed);
        self.progress
            .shards
            .fetch_add(row.shards.len() as u64, Ordering::Relaxed);
        self.rows.push(row);
        if self.rows.len() >= NOTED_FILES || self.groups_bytes >= NOTED_BYTES {
            self.note()?;
        }
        Ok((size_bytes, source.executable))
    }

    /// Cuts and hashes a file: all of it, or what was added to it.
    fn read(&mut self, path: &str, source: &Source, known: Option<FileRow>) -> Result<FileRow, StoreError> {
        let grown = match known {
            Some(known) => self.grown(source, known)?,
            None => Grown::default(),
        };
        let Grown {
            mut shards,
            mut header,
            start,
        } = grown;
        let end = source.identity.size_bytes;
        let mut offset = start;
        let options = CutOptions {
            split: self.cut.split,
            shard_size_bytes: self.cut.shard_size_bytes,
            spill_dir: self.spill_dir.clone(),
        };
        if matches!(self.cut.split, Split::None | Split::Files) {
            if end > 0 {
                shards.push(self.hash(path, source, 0, end)?);
            }
        } else {
            let mut input = Range {
                in_place: self.in_place.clone(),
                source,
                at: start,
                end,
            };
            let rest_of = (start > 0).then(|| header.clone());
            let mut failed = None;
            let mut emit = |shard: CutShard| {
                let len = shard.data.len();
                let hashed = match shard.data {
                    ShardData::Memory(bytes) => Ok(self.keep(Groups::of(&bytes))),
                    ShardData::Spilled(_) => self.hash(path, source, offset, offset + len),
                };
                header = header.take().or(shard.header);
                offset += len;
                match hashed {
                    Ok(shard) => {
                        shards.push(shard);
                        Ok(())
                    }
                    Err(error) => {
                        failed = Some(error);
                        Err(std::io::Error::other("hashing"))
                    }
                }
            };
            let cut = cut::cut_plain(&mut input, path, rest_of, &options, &mut emit);
            if let Some(error) = failed {
                return Err(error);
            }
            cut?;
        }
        // What changed a moment ago is read again the next time.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = source.identity.modified_ns + SETTLED.as_nanos() as i128 <= now.as_nanos() as i128;
        let identity = match settled {
            true => source.identity,
            false => super::source::Identity {
                modified_ns: 0,
                ..source.identity
            },
        };
        Ok(FileRow {
            path: path.to_owned(),
            identity,
            shards,
            header: header.map(|header| header.to_vec()),
        })
    }

    /// What of a known file is as it was, if it has only grown: its shards but the last, its header, and where
    /// the last begins.
    fn grown(&self, source: &Source, known: FileRow) -> Result<Grown, StoreError> {
        let mut shards = known.shards;
        let size: u64 = shards.iter().map(|(_, size_bytes)| size_bytes).sum();
        if let Some((digest, last)) = shards.pop()
            && source.identity.size_bytes > size
            && !shards.is_empty()
        {
            let groups = Groups::read(last, |range| {
                source.read(size - last + range.start, size - last + range.end)
            })?;
            if groups.is_some_and(|groups| groups.digest() == digest) {
                return Ok(Grown {
                    shards,
                    header: known.header.map(Bytes::from),
                    start: size - last,
                });
            }
        }
        Ok(Grown::default())
    }

    fn hash(
        &mut self,
        path: &str,
        source: &Source,
        start: u64,
        end: u64,
    ) -> Result<(Digest, u64), StoreError> {
        let read = |range: std::ops::Range<u64>| {
            self.in_place.going_on()?;
            source.read(start + range.start, start + range.end)
        };
        match Groups::read(end - start, read)? {
            Some(groups) => Ok(self.keep(groups)),
            None => Err(SourceError::Shrank(path.into()).into()),
        }
    }

    fn keep(&mut self, groups: Groups) -> (Digest, u64) {
        let shard = (groups.digest(), groups.size_bytes());
        self.groups_bytes += groups.values().len();
        self.indexed.new.new_blobs += 1;
        self.indexed.new.new_bytes += shard.1;
        // Before it can be noted, so that nobody forgets it in between.
        self.indexed.staged.add(shard.0);
        self.groups.push(groups);
        shard
    }

    fn note(&mut self) -> Result<(), StoreError> {
        self.in_place.table.note(self.cut, &self.rows, &self.groups)?;
        self.rows.clear();
        self.groups.clear();
        self.groups_bytes = 0;
        Ok(())
    }

    fn finish(mut self, index: Option<Vec<u8>>) -> Result<Indexed, StoreError> {
        self.note()?;
        self.indexed.index = index;
        Ok(self.indexed)
    }
}

/// What is kept of a file that has only grown, and where to go on.
#[derive(Default)]
struct Grown {
    shards: Vec<(Digest, u64)>,
    header: Option<Bytes>,
    start: u64,
}

/// A range of a file as a stream. A file that has become shorter is an error.
struct Range<'a> {
    in_place: Arc<InPlace>,
    source: &'a Source,
    at: u64,
    end: u64,
}

impl Read for Range<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let wanted = (self.end - self.at).min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        self.in_place.going_on()?;
        match self.source.file.read_at(&mut buffer[..wanted], self.at)? {
            0 => Err(std::io::Error::new(
                std::io::ErrorKind::UnexpectedEof,
                "it became shorter while it was read",
            )),
            read => {
                self.at += read as u64;
                Ok(read)
            }
        }
    }
}
