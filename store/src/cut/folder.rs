//! Cuts a folder that arrives as a tar stream. Nothing in the stream is trusted.

use std::io::{self, Read};

use nearfield_protocol::Split;
use tar::EntryType;

use super::archive::{Archive, Entry, type_name};
use super::stream::cut_file;
use super::{CutError, CutOptions, CutShard, Emit};
use crate::pack::Packer;
use crate::path_index::{EntryKind, PATH_BYTES, PathIndexBuilder, check_path};

pub(super) fn cut_folder(
    tar: &mut dyn Read,
    prefix: &str,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<PathIndexBuilder, CutError> {
    let mut archive = Archive::new(tar);
    let mut folder = Folder {
        prefix,
        options,
        emit,
        packer: (options.split == Split::Files)
            .then(|| Packer::new(options.shard_size_bytes, &options.spill_dir)),
        order: Order::default(),
        index: PathIndexBuilder::new(),
        shards: 0,
    };
    while let Some(entry) = archive.next()? {
        folder.add(&entry, &mut archive.content())?;
    }
    archive.finish()?;
    folder.finish()
}

/// What the folder has become so far.
struct Folder<'a, 'e> {
    prefix: &'a str,
    options: &'a CutOptions,
    emit: &'a mut Emit<'e>,
    /// Makes the packs, if the split is `files`.
    packer: Option<Packer>,
    order: Order,
    index: PathIndexBuilder,
    /// Shards emitted.
    shards: u32,
}

impl Folder<'_, '_> {
    fn add(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), CutError> {
        let path = format!("{}{}", self.prefix, utf8_path(&entry.path)?);
        if let Some(kind) = entry.refused {
            return Err(CutError::Unsupported { path, kind });
        }
        let kind = match entry.kind {
            // What such an entry's content would be, archives do not agree on.
            EntryType::Directory | EntryType::Symlink if entry.size_bytes > 0 => {
                let kind = "folder or link with content";
                return Err(CutError::Unsupported { path, kind });
            }
            EntryType::Directory => {
                let path = path.strip_suffix('/').unwrap_or(&path);
                return self.enter(path, true);
            }
            EntryType::Regular | EntryType::Continuous => EntryKind::File {
                shard: 0,
                offset: 0,
                len: entry.size_bytes,
                executable: entry.executable,
            },
            EntryType::Symlink => EntryKind::Symlink {
                target: link_target(&entry.link, &path)?,
            },
            other => {
                return Err(CutError::Unsupported {
                    path,
                    kind: type_name(other),
                });
            }
        };
        self.enter(&path, false)?;
        self.put(&path, kind, content)
    }

    /// Checks that `path` may stand here, and keeps the empty folders that come before it.
    fn enter(&mut self, path: &str, is_dir: bool) -> Result<(), CutError> {
        let bad = |reason| CutError::BadPath {
            path: path.to_owned(),
            reason,
        };
        check_path(path).map_err(bad)?;
        let empty_dirs = self.order.enter(path, is_dir).map_err(bad)?;
        self.put_empty_dirs(empty_dirs)
    }

    fn put_empty_dirs(&mut self, paths: Vec<String>) -> Result<(), CutError> {
        paths
            .iter()
            .try_for_each(|path| self.put(path, EntryKind::EmptyDir, &mut io::empty()))
    }

    fn put(&mut self, path: &str, mut kind: EntryKind, content: &mut dyn Read) -> Result<(), CutError> {
        // Known only now: an empty folder before it may have ended a pack.
        if let EntryKind::File { shard, .. } = &mut kind {
            *shard = self.shards;
        }
        if let Some(packer) = &mut self.packer {
            let pack = packer.append(path, &mut kind, content)?;
            self.index.push(path, &kind);
            return pack.map_or(Ok(()), |data| {
                self.emit(CutShard {
                    data,
                    source: None,
                    header: None,
                })
            });
        }
        self.index.push(path, &kind);
        let EntryKind::File { len, .. } = kind else {
            return Ok(());
        };
        let (options, mut read) = (self.options, 0);
        let mut counted = Counted {
            content,
            read: &mut read,
        };
        cut_file(&mut counted, path, options, &mut |shard| {
            self.shards += 1;
            (self.emit)(shard)
        })?;
        if read != len {
            return Err(CutError::Tar(format!("it ends within `{path}`")));
        }
        Ok(())
    }

    fn emit(&mut self, shard: CutShard) -> Result<(), CutError> {
        self.shards += 1;
        (self.emit)(shard).map_err(CutError::Emit)
    }

    fn finish(mut self) -> Result<PathIndexBuilder, CutError> {
        let empty_dirs = self.order.finish();
        self.put_empty_dirs(empty_dirs)?;
        let pack = self.packer.as_mut().map_or(Ok(None), Packer::finish)?;
        if let Some(data) = pack {
            self.emit(CutShard {
                data,
                source: None,
                header: None,
            })?;
        }
        Ok(self.index)
    }
}

/// Sees to it that keys rise and that nothing lies below a file, and finds the folders that nothing lies in. A
/// folder's key ends in a slash, so `a.txt` may come between the folder `a` and what it holds: several paths can
/// be open at a time, each a prefix of the ones behind it.
#[derive(Default)]
struct Order {
    last: String,
    open: Vec<Open>,
}

/// A path that others may turn out to lie below.
struct Open {
    /// With a slash behind it.
    key: String,
    state: State,
}

#[derive(PartialEq)]
enum State {
    File,
    EmptyDir,
    Dir,
}

impl Order {
    /// Gives the empty folders whose keys come before this one, in order.
    fn enter(&mut self, path: &str, is_dir: bool) -> Result<Vec<String>, &'static str> {
        let folder_key = format!("{path}/");
        let key = if is_dir { &folder_key } else { path };
        let mut empty_dirs = Vec::new();
        while let Some(open) = self
            .open
            .pop_if(|open| *open.key < *key && !key.starts_with(&open.key))
        {
            if open.state == State::EmptyDir {
                empty_dirs.push(open.key.trim_end_matches('/').to_owned());
            }
            self.last = self.last.as_str().max(&open.key).to_owned();
        }
        if let Some(open) = self.open.last_mut() {
            if open.key == folder_key {
                return Err("comes twice");
            }
            if key.starts_with(&open.key) {
                if open.state == State::File {
                    return Err("lies below a file");
                }
                open.state = State::Dir;
            }
        }
        match key.cmp(&self.last) {
            std::cmp::Ordering::Less => return Err("comes out of the byte order of full paths"),
            std::cmp::Ordering::Equal => return Err("comes twice"),
            std::cmp::Ordering::Greater => {}
        }
        if !is_dir {
            self.last = path.to_owned();
        }
        self.open.push(Open {
            key: folder_key,
            state: if is_dir { State::EmptyDir } else { State::File },
        });
        Ok(empty_dirs)
    }

    fn finish(&mut self) -> Vec<String> {
        let left = std::mem::take(&mut self.open).into_iter().rev();
        let empty = left.filter(|open| open.state == State::EmptyDir);
        empty
            .map(|open| open.key.trim_end_matches('/').to_owned())
            .collect()
    }
}

struct Counted<'a> {
    content: &'a mut dyn Read,
    read: &'a mut u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer)?;
        *self.read += read as u64;
        Ok(read)
    }
}

fn utf8_path(bytes: &[u8]) -> Result<String, CutError> {
    let lossy = || String::from_utf8_lossy(bytes).chars().take(200).collect();
    String::from_utf8(bytes.to_vec()).map_err(|_| CutError::BadPath {
        path: lossy(),
        reason: "is not UTF-8",
    })
}

fn link_target(target: &[u8], path: &str) -> Result<String, CutError> {
    let bad = |reason| CutError::BadPath {
        path: path.to_owned(),
        reason,
    };
    let target = str::from_utf8(target).map_err(|_| bad("links to a target that is not UTF-8"))?;
    if target.is_empty() || target.contains('\0') || target.len() > PATH_BYTES {
        return Err(bad(
            "links to a target that is empty, has a NUL or is longer than 4096 bytes",
        ));
    }
    Ok(target.to_owned())
}
