//! `put --in-place`: cuts and hashes files where they lie. What is known already is not read again.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use nearfield_protocol::{Digest, Split};

use super::groups::Groups;
use super::identity::Identity;
use super::objects::{FoundObjects, Object, is_url};
use super::source::{Kind, Source, SourceError};
use super::table::{Cut, FileRow};
use super::{InPlace, StagedInPlace};
use crate::blobs::SealReport;
use crate::cut::{self, CutOptions, CutShard, ShardData};
use crate::error::StoreError;
use crate::form::{self, SAMPLE_BYTES};
use crate::left_out::{IGNORE_FILE, LeftOut, left_out_notice};
use crate::path_index::{EntryKind, PathIndexBuilder, check_path};
use crate::put::{PutProgress, PutRequest};

/// Noted in one transaction: files, or bytes of groups.
const NOTED_FILES: usize = 4_096;
const NOTED_BYTES: usize = 32 << 20;
/// A file that changed a moment ago may change again without its time telling.
const SETTLED: Duration = Duration::from_secs(2);

/// What an index found.
pub(crate) struct Indexed {
    pub split: Split,
    /// Why the split is not the one that a name promises, and what is left out.
    pub notices: Vec<String>,
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
    /// Indexes the file, folder, object or folder of objects at `place`. Blocks.
    pub fn index(
        self: &Arc<Self>,
        place: &str,
        request: &mut PutRequest,
        spill_dir: PathBuf,
        progress: &PutProgress,
    ) -> Result<Indexed, StoreError> {
        let (found, left_out) = self.find(place, &request.exclude)?;
        progress.total_bytes.store(found.size_bytes(), Ordering::Relaxed);
        request.folder = matches!(found, Places::Folder(_));
        let (split, notice) = match (request.split, found.files().next()) {
            // Packs are made; what lies somewhere is a file at a time.
            (Some(Split::Files), _) => (Split::None, None),
            (Some(split), _) => (split, None),
            (None, Some(first)) => self.choose(first)?,
            (None, None) => (Split::None, None),
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
            done_bytes: 0,
            rows: Vec::new(),
            groups: Vec::new(),
            groups_bytes: 0,
            indexed: Indexed {
                split,
                notices: notice.into_iter().chain(left_out_notice(&left_out)).collect(),
                index: None,
                shards: Vec::new(),
                staged: StagedInPlace {
                    in_place: self.clone(),
                    digests: Vec::new(),
                },
                new: SealReport::default(),
            },
        };
        let entries = match found {
            Places::One(one) => {
                indexer.file(one, &request.source)?;
                return indexer.finish(None);
            }
            Places::Folder(entries) => entries,
        };
        let mut index = PathIndexBuilder::new();
        for (path, entry) in entries {
            let name = format!("{}{path}", request.prefix());
            check_path(&name).map_err(|reason| cut::CutError::BadPath {
                path: name.clone(),
                reason,
            })?;
            let kind = match entry {
                Entry::File(place) => {
                    let shard = indexer.indexed.shards.len() as u32;
                    let (len, executable) = indexer.file(place, &name)?;
                    EntryKind::File {
                        shard,
                        offset: 0,
                        len,
                        executable,
                    }
                }
                Entry::Symlink { target } => EntryKind::Symlink { target },
                Entry::EmptyDir => EntryKind::EmptyDir,
            };
            index.push(&name, &kind);
        }
        indexer.finish(Some(index.build()))
    }

    /// What lies at a path or URL, without reading any of it but a folder's list of what is left out; and what is.
    fn find(&self, place: &str, exclude: &[String]) -> Result<(Places, Vec<String>), SourceError> {
        if is_url(place) {
            let of =
                |object: Option<Object>| object.map_or(Entry::EmptyDir, |object| Entry::File(object.into()));
            return Ok(match self.objects()?.objects().find(place)? {
                FoundObjects::One(object) => (Places::One(object.into()), Vec::new()),
                FoundObjects::Folder(found) => {
                    let list = found.iter().find(|(path, _)| path == IGNORE_FILE);
                    let own = match list {
                        Some((_, Some(object))) => {
                            let (url, source) = self.open_place(object.clone().into())?;
                            source.text(Path::new(&url))?
                        }
                        _ => String::new(),
                    };
                    let rules = LeftOut::new(exclude, &own)?;
                    let (out, kept): (Vec<_>, Vec<_>) = found
                        .into_iter()
                        .partition(|(path, _)| rules.leaves_out_file(path));
                    let kept = kept.into_iter().map(|(path, object)| (path, of(object)));
                    let out = out.into_iter().map(|(path, _)| path);
                    (Places::Folder(kept.collect()), out.collect())
                }
            });
        }
        let folder = Path::new(place);
        if let Some(size_bytes) = self.allowed.file_bytes(folder)? {
            let path = folder.to_owned();
            return Ok((Places::One(FilePlace::File { path, size_bytes }), Vec::new()));
        }
        let rules = LeftOut::new(exclude, &self.allowed.ignore_file(folder)?)?;
        let (found, left_out) = self.allowed.walk(folder, &rules)?;
        let entries = found.into_iter().map(|found| {
            let entry = match found.kind {
                Kind::File { size_bytes } => Entry::File(FilePlace::File {
                    path: folder.join(&found.path),
                    size_bytes,
                }),
                Kind::Symlink { target } => Entry::Symlink { target },
                Kind::EmptyDir => Entry::EmptyDir,
            };
            (found.path, entry)
        });
        Ok((Places::Folder(entries.collect()), left_out))
    }

    fn open_place(&self, place: FilePlace) -> Result<(String, Source), SourceError> {
        match place {
            FilePlace::File { path, .. } => {
                let text = path.to_str().ok_or_else(|| SourceError::Name(path.clone()))?;
                Ok((text.to_owned(), self.allowed.source(&path)?))
            }
            FilePlace::Object(object) => {
                let objects = self.objects()?.objects().clone();
                Ok((object.url.clone(), Source::of_object(object, objects)))
            }
        }
    }

    /// By the first file, as it is: nothing is decompressed in place.
    fn choose(&self, first: &FilePlace) -> Result<(Split, Option<String>), StoreError> {
        let (place, source) = self.open_place(first.clone())?;
        let end = source.identity.size_bytes().min(SAMPLE_BYTES as u64);
        let sample = source.read(0, end)?.unwrap_or_default();
        let name = place.rsplit('/').next().unwrap_or_default();
        Ok(form::choose(name, &sample))
    }
}

/// What is to be put.
enum Places {
    One(FilePlace),
    /// By path below it, in the order of a path index.
    Folder(Vec<(String, Entry)>),
}

enum Entry {
    File(FilePlace),
    Symlink { target: String },
    EmptyDir,
}

#[derive(Clone)]
enum FilePlace {
    /// As large as it was when it was found.
    File {
        path: PathBuf,
        size_bytes: u64,
    },
    Object(Object),
}

impl From<Object> for FilePlace {
    fn from(object: Object) -> Self {
        FilePlace::Object(object)
    }
}

impl Places {
    fn files(&self) -> impl Iterator<Item = &FilePlace> {
        let (one, entries) = match self {
            Places::One(one) => (Some(one), &[][..]),
            Places::Folder(entries) => (None, &entries[..]),
        };
        let below = entries.iter().filter_map(|(_, entry)| match entry {
            Entry::File(file) => Some(file),
            Entry::Symlink { .. } | Entry::EmptyDir => None,
        });
        one.into_iter().chain(below)
    }

    fn size_bytes(&self) -> u64 {
        let size = |file: &FilePlace| match file {
            FilePlace::File { size_bytes, .. } => *size_bytes,
            FilePlace::Object(object) => object.size_bytes,
        };
        self.files().map(size).sum()
    }
}

/// An error for a file with bytes that its size does not tell: they would be left out without a word.
fn has_its_size(path: &str, source: &Source) -> Result<(), SourceError> {
    match source.has_untold_bytes() {
        Ok(false) => Ok(()),
        Ok(true) => Err(SourceError::UntoldSize(path.into())),
        Err(error) => Err(SourceError::Io {
            path: path.into(),
            error,
        }),
    }
}

struct Indexer<'a> {
    in_place: &'a Arc<InPlace>,
    cut: Cut,
    spill_dir: PathBuf,
    progress: &'a PutProgress,
    /// Of whole files.
    done_bytes: u64,
    /// Not noted yet.
    rows: Vec<FileRow>,
    groups: Vec<Groups>,
    groups_bytes: usize,
    indexed: Indexed,
}

impl Indexer<'_> {
    /// Indexes one file or object. Returns its size and whether it is executable.
    fn file(&mut self, place: FilePlace, name: &str) -> Result<(u64, bool), StoreError> {
        let (text, source) = self.in_place.open_place(place)?;
        if source.identity.size_bytes() == 0 {
            has_its_size(&text, &source)?;
        }
        let known = self.in_place.table.file(&text, self.cut, &source.identity)?;
        let known = match known {
            Some(known) if self.in_place.table.has_all(&known.shards)? => Some(known),
            _ => None,
        };
        let row = match known {
            Some(known) if source.identity.is_unchanged(&known.identity, known.path == text) => FileRow {
                path: text,
                identity: source.identity.clone(),
                ..known
            },
            known => {
                has_its_size(&text, &source)?;
                self.read(&text, &source, known)?
            }
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
        self.done_bytes += size_bytes;
        self.progress.bytes.store(self.done_bytes, Ordering::Relaxed);
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
        let end = source.identity.size_bytes();
        let mut offset = start;
        let options = CutOptions {
            split: self.cut.split,
            shard_size_bytes: self.cut.shard_size_bytes,
            spill_dir: self.spill_dir.clone(),
        };
        if matches!(self.cut.split, Split::None | Split::Files) {
            if end > 0 {
                let mut input = Going {
                    in_place: self.in_place.clone(),
                    progress: self.progress,
                    input: source.reader(0)?,
                    left: end,
                };
                shards.push(self.hash(path, &mut input, end)?);
            }
        } else {
            let mut input = Going {
                in_place: self.in_place.clone(),
                progress: self.progress,
                input: source.reader(start)?,
                left: end - start,
            };
            let rest_of = (start > 0).then(|| header.clone());
            let mut failed = None;
            let mut emit = |shard: CutShard| {
                let len = shard.data.len();
                let hashed = match shard.data {
                    ShardData::Memory(bytes) => Ok(self.keep(Groups::of(&bytes))),
                    ShardData::Spilled(file) => match File::open(file.path()) {
                        Ok(mut spilled) => self.hash(path, &mut spilled, len),
                        Err(error) => Err(error.into()),
                    },
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
                        Err(io::Error::other("hashing"))
                    }
                }
            };
            let cut = cut::cut_plain(&mut input, path, rest_of, &options, &mut emit);
            if let Some(error) = failed {
                return Err(error);
            }
            cut?;
        }
        let identity = match source.identity.clone() {
            // What changed a moment ago is read again the next time.
            Identity::File(file) => Identity::File(file.settled(SETTLED)),
            object @ Identity::Object { .. } => object,
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
            && source.identity.size_bytes() > size
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

    /// Hashes the next `len` bytes of what lies at `path`.
    fn hash(&mut self, path: &str, input: &mut dyn Read, len: u64) -> Result<(Digest, u64), StoreError> {
        let read = |range: std::ops::Range<u64>| {
            self.in_place.going_on()?;
            let mut bytes = vec![0; (range.end - range.start) as usize];
            match input.read_exact(&mut bytes) {
                Ok(()) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
                Err(error) => Err(StoreError::from(error)),
            }
        };
        match Groups::read(len, read)? {
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

/// What is read as long as the node goes on. An end that comes too soon is an error.
struct Going<'a, R> {
    in_place: Arc<InPlace>,
    progress: &'a PutProgress,
    input: R,
    left: u64,
}

impl<R: Read> Read for Going<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = self.left.min(buffer.len() as u64) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        self.in_place.going_on()?;
        match self.input.read(&mut buffer[..wanted])? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it became shorter while it was read",
            )),
            read => {
                self.left -= read as u64;
                self.progress.bytes.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
        }
    }
}
