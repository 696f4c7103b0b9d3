//! Files that belong to somebody else: only under folders that the host's owner allowed, only regular ones, only to read.
//!
//! Every path is resolved by the kernel, below an allowed folder that was opened at the start, through no link and into
//! no other mount. So nothing that is swapped meanwhile leads anywhere else.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::identity::{FileIdentity, Identity};
use super::objects::{Object, ObjectError, Objects};
use crate::left_out::{BadRule, IGNORE_FILE, LeftOut};
use crate::path_index::PATH_BYTES;

/// The longest list of what is left out: thousands of rules.
const MAX_IGNORE_BYTES: u64 = 1 << 20;
/// Folders below a put folder, at most: a path has no room for more.
const MAX_DEPTH: usize = PATH_BYTES / 2;

/// Why a file cannot be read in place.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{} is not in a folder that this node may read: {allowed}", path.display())]
    NotAllowed { path: PathBuf, allowed: String },
    #[error(
        "{} leads through a link, or into another mount: name the folder itself, and allow it with `--allow-path`",
        .0.display()
    )]
    Leads(PathBuf),
    #[error("{} is in this node's own data folder, which is never put", .0.display())]
    Own(PathBuf),
    #[error("{} is a {kind}, and only files can be read in place", path.display())]
    NotAFile { path: PathBuf, kind: &'static str },
    #[error(
        "{} holds more bytes than its size says, as files of /proc do, and what is read in place must have a size: put it \
         without `--in-place`",
        .0.display()
    )]
    UntoldSize(PathBuf),
    #[error("{} became shorter while it was read: put it again", .0.display())]
    Shrank(PathBuf),
    #[error("{} is longer than 1 MiB, and lists what is left out: shorten it", .0.display())]
    LongList(PathBuf),
    #[error(transparent)]
    Rule(#[from] BadRule),
    #[error("the name of {} is not UTF-8: rename it", .0.display())]
    Name(PathBuf),
    #[error("this node may read no URLs in place: start it with `--allow-source URL`")]
    NoObjects,
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("cannot read {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
}

/// The folders that may be read.
#[derive(Debug)]
pub struct Allowed {
    folders: Vec<(PathBuf, OwnedFd)>,
    /// The node's own folder, with its keys: never read, wherever it is.
    own: PathBuf,
}

/// A file or an object, open.
pub struct Source {
    contents: Contents,
    pub identity: Identity,
    pub executable: bool,
}

enum Contents {
    File(File),
    Object {
        object: Object,
        objects: Arc<dyn Objects>,
    },
}

/// One walk through a folder.
struct Walk<'a> {
    rules: &'a LeftOut,
    found: Vec<FolderEntry>,
    left_out: Vec<String>,
}

/// What stands in a folder.
#[derive(Debug, PartialEq, Eq)]
pub struct FolderEntry {
    /// Below the folder.
    pub path: String,
    pub kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    File { size_bytes: u64 },
    Symlink { target: String },
    EmptyDir,
}

impl Allowed {
    /// Opens the folders; they must be there. Nothing below `own` is read.
    pub fn open(folders: &[PathBuf], own: &Path) -> Result<Self, SourceError> {
        let open = |folder: &PathBuf| {
            let opened = folder.canonicalize().and_then(|folder| {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let fd = rustix::fs::open(&folder, flags, Mode::empty())?;
                Ok((folder, fd))
            });
            opened.map_err(|error| SourceError::Io {
                path: folder.clone(),
                error,
            })
        };
        Ok(Allowed {
            folders: folders.iter().map(open).collect::<Result<_, _>>()?,
            own: own.canonicalize().map_err(|error| SourceError::Io {
                path: own.to_owned(),
                error,
            })?,
        })
    }

    /// Opens a file. It is a regular one, whatever stood there a moment before.
    pub fn source(&self, path: &Path) -> Result<Source, SourceError> {
        // What a device or a pipe does when it is opened is not known: looked at first, without opening it.
        let looked = self.resolve(path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&looked).map_err(|error| failed(path, error))?;
        regular(path, &stat)?;
        let fd = self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(path, error))?;
        regular(path, &stat)?;
        Ok(Source {
            contents: Contents::File(File::from(fd)),
            identity: Identity::File(FileIdentity::of(&stat)),
            executable: stat.st_mode & 0o111 != 0,
        })
    }

    /// The size of what is at `path`; none of a folder.
    pub fn file_bytes(&self, path: &Path) -> Result<Option<u64>, SourceError> {
        let fd = self.resolve(path, OFlags::PATH)?;
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(path, error))?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok((!is_folder).then_some(stat.st_size as u64))
    }

    /// All that stands in a folder and below and is not left out, in the order of a path index; and what is left out.
    pub fn walk(
        &self,
        folder: &Path,
        rules: &LeftOut,
    ) -> Result<(Vec<FolderEntry>, Vec<String>), SourceError> {
        let mut walk = Walk {
            rules,
            found: Vec::new(),
            left_out: Vec::new(),
        };
        self.walk_into(folder, "", 0, &mut walk)?;
        walk.found.sort_unstable_by_key(FolderEntry::key);
        walk.left_out.sort_unstable();
        Ok((walk.found, walk.left_out))
    }

    /// A folder's own list of what a put leaves out; empty if it has none.
    pub fn ignore_file(&self, folder: &Path) -> Result<String, SourceError> {
        let path = folder.join(IGNORE_FILE);
        match self.source(&path) {
            Ok(source) => source.text(&path),
            Err(SourceError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                Ok(String::new())
            }
            Err(error) => Err(error),
        }
    }

    fn walk_into(
        &self,
        root: &Path,
        below: &str,
        depth: usize,
        walk: &mut Walk<'_>,
    ) -> Result<(), SourceError> {
        let folder = root.join(below);
        if depth > MAX_DEPTH {
            return Err(SourceError::Leads(folder));
        }
        let fd = self.resolve(&folder, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut empty = true;
        for entry in Dir::read_from(&fd).map_err(|error| failed(&folder, error))? {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let name = match entry.file_name().to_str() {
                Ok("." | "..") => continue,
                Ok(name) => name,
                Err(_) => {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    return Err(SourceError::Name(folder.join(name)));
                }
            };
            let path = if below.is_empty() {
                name.to_owned()
            } else {
                format!("{below}/{name}")
            };
            let stat = rustix::fs::statat(&fd, entry.file_name(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| failed(&root.join(&path), error))?;
            let file_type = FileType::from_raw_mode(stat.st_mode);
            let is_dir = file_type == FileType::Directory;
            if walk.rules.says(Path::new(&path), is_dir) == Some(true) {
                walk.left_out
                    .push(format!("{path}{}", if is_dir { "/" } else { "" }));
                continue;
            }
            empty = false;
            let kind = match file_type {
                FileType::Directory => {
                    self.walk_into(root, &path, depth + 1, walk)?;
                    continue;
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&fd, entry.file_name(), Vec::new())
                        .map_err(|error| failed(&root.join(&path), error))?;
                    let target = target
                        .into_string()
                        .map_err(|_| SourceError::Name(root.join(&path)))?;
                    Kind::Symlink { target }
                }
                _ => {
                    regular(&root.join(&path), &stat)?;
                    Kind::File {
                        size_bytes: stat.st_size as u64,
                    }
                }
            };
            walk.found.push(FolderEntry { path, kind });
        }
        if empty && !below.is_empty() {
            walk.found.push(FolderEntry {
                path: below.to_owned(),
                kind: Kind::EmptyDir,
            });
        }
        Ok(())
    }

    fn resolve(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, SourceError> {
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let within = |(folder, fd)| Some((path.strip_prefix(folder).ok()?, fd));
        if path.starts_with(&self.own) {
            return Err(SourceError::Own(path.to_owned()));
        }
        let allowed = self
            .folders
            .iter()
            .map(|(folder, fd)| (folder, fd))
            .find_map(within);
        let (below, fd) = allowed.filter(|_| plain).ok_or_else(|| SourceError::NotAllowed {
            path: path.to_owned(),
            allowed: self.told(),
        })?;
        let below = if below.as_os_str().is_empty() {
            Path::new(".")
        } else {
            below
        };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(fd, below, flags | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(|error| {
            match error {
                rustix::io::Errno::LOOP | rustix::io::Errno::XDEV => SourceError::Leads(path.to_owned()),
                other => failed(path, other),
            }
        })
    }

    fn told(&self) -> String {
        if self.folders.is_empty() {
            return "start it with `--allow-path FOLDER`".to_owned();
        }
        let folders: Vec<_> = self
            .folders
            .iter()
            .map(|(folder, _)| folder.display().to_string())
            .collect();
        format!(
            "it may read below {}; `--allow-path` adds more",
            folders.join(", ")
        )
    }
}

impl FolderEntry {
    fn key(&self) -> String {
        match self.kind {
            Kind::EmptyDir => format!("{}/", self.path),
            _ => self.path.clone(),
        }
    }
}

impl Source {
    pub fn of_object(object: Object, objects: Arc<dyn Objects>) -> Self {
        Source {
            identity: Identity::Object {
                size_bytes: object.size_bytes,
                etag: object.etag.clone(),
            },
            contents: Contents::Object { object, objects },
            executable: false,
        }
    }

    /// Exactly the bytes `start..end`; `None` if it has become shorter.
    pub fn read(&self, start: u64, end: u64) -> io::Result<Option<Vec<u8>>> {
        let file = match &self.contents {
            Contents::File(file) => file,
            Contents::Object { .. } if start == end => return Ok(Some(Vec::new())),
            Contents::Object { object, objects } => {
                let bytes = objects.read(&object.url, Some(&object.etag), start..end, None);
                return bytes.map(Some).map_err(io::Error::other);
            }
        };
        let mut bytes = vec![0; (end - start) as usize];
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of a list of what is left out, which lies at `path`.
    pub fn text(&self, path: &Path) -> Result<String, SourceError> {
        let size = self.identity.size_bytes();
        if size > MAX_IGNORE_BYTES {
            return Err(SourceError::LongList(path.to_owned()));
        }
        let bytes = self.read(0, size).map_err(|error| SourceError::Io {
            path: path.to_owned(),
            error,
        })?;
        let bytes = bytes.ok_or_else(|| SourceError::Shrank(path.to_owned()))?;
        String::from_utf8(bytes).map_err(|_| SourceError::Rule(BadRule::not_utf8()))
    }

    /// Whether there are bytes behind the end that it said to have when it was opened, and says to have still.
    pub fn has_untold_bytes(&self) -> io::Result<bool> {
        let Contents::File(file) = &self.contents else {
            return Ok(false);
        };
        let size = self.identity.size_bytes();
        Ok(file.read_at(&mut [0], size)? > 0 && file.metadata()?.len() <= size)
    }

    /// From `start` to the end that it had when it was opened. Ends too soon where a file has become shorter.
    pub fn reader(&self, start: u64) -> io::Result<Box<dyn Read + '_>> {
        match &self.contents {
            Contents::File(file) => Ok(Box::new(FileReader {
                file,
                at: start,
                end: self.identity.size_bytes(),
            })),
            Contents::Object { object, objects } => objects.reader(object, start).map_err(io::Error::other),
        }
    }
}

/// A file by its offsets: others may read it too.
struct FileReader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (self.end - self.at).min(buffer.len() as u64) as usize;
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn failed(path: &Path, error: rustix::io::Errno) -> SourceError {
    SourceError::Io {
        path: path.to_owned(),
        error: error.into(),
    }
}

fn regular(path: &Path, stat: &Stat) -> Result<(), SourceError> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "folder",
        FileType::Symlink => "link",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "thing of an unknown kind",
    };
    Err(SourceError::NotAFile {
        path: path.to_owned(),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Leaves out nothing.
    fn all() -> LeftOut {
        LeftOut::new(&[], "").unwrap()
    }

    fn allowed() -> (tempfile::TempDir, PathBuf, Allowed) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("allowed");
        fs::create_dir_all(root.join("deep/empty")).unwrap();
        fs::write(root.join("deep/file"), "inside").unwrap();
        fs::write(root.join("deep-file"), "inside").unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        let own = root.join("node");
        fs::create_dir(&own).unwrap();
        fs::write(own.join("node.key"), "secret").unwrap();
        let allowed = Allowed::open(std::slice::from_ref(&root), &own).unwrap();
        (dir, root, allowed)
    }

    #[test]
    fn what_is_inside_is_read() {
        let (_dir, root, allowed) = allowed();
        let source = allowed.source(&root.join("deep/file")).unwrap();
        assert_eq!(source.identity.size_bytes(), 6);
        assert_eq!(source.read(2, 6).unwrap().unwrap(), b"side");
        assert_eq!(source.read(2, 7).unwrap(), None);
        assert_eq!(allowed.file_bytes(&root).unwrap(), None);
    }

    #[test]
    fn a_file_without_a_size_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let proc = Allowed::open(&[PathBuf::from("/proc/sys/kernel")], dir.path()).unwrap();
        let source = proc.source(Path::new("/proc/sys/kernel/ostype")).unwrap();
        assert_eq!(source.identity.size_bytes(), 0);
        assert!(source.has_untold_bytes().unwrap());
        let (_dir, root, allowed) = allowed();
        let source = allowed.source(&root.join("deep/file")).unwrap();
        assert!(!source.has_untold_bytes().unwrap());
        fs::write(root.join("deep/file"), "inside, and more").unwrap();
        assert!(!source.has_untold_bytes().unwrap(), "it has grown, and says so");
    }

    #[test]
    fn nothing_leads_out() {
        let (dir, root, allowed) = allowed();
        let out = dir.path().canonicalize().unwrap();
        symlink(&out, root.join("up")).unwrap();
        symlink(out.join("secret"), root.join("link")).unwrap();
        symlink("deep", root.join("inner")).unwrap();
        for path in [
            "../secret",
            "deep/../../secret",
            "up/secret",
            "link",
            "inner/file",
        ] {
            let refused = allowed.source(&root.join(path));
            assert!(
                matches!(
                    refused,
                    Err(SourceError::NotAllowed { .. } | SourceError::Leads(_))
                ),
                "{path}: {:?}",
                refused.err()
            );
        }
        for path in [
            out.join("secret"),
            PathBuf::from("/etc/passwd"),
            PathBuf::from("relative"),
            out,
        ] {
            assert!(
                matches!(allowed.source(&path), Err(SourceError::NotAllowed { .. })),
                "{path:?}"
            );
        }
        assert!(matches!(
            Allowed::open(&[], &root.join("node")).unwrap().source(&root.join("deep/file")),
            Err(SourceError::NotAllowed { allowed, .. }) if allowed.contains("--allow-path")
        ));
    }

    #[test]
    fn the_node_s_own_folder_is_never_read() {
        let (_dir, root, allowed) = allowed();
        for path in ["node", "node/node.key", "node/none"] {
            assert!(
                matches!(allowed.source(&root.join(path)), Err(SourceError::Own(_))),
                "{path}"
            );
        }
        assert!(matches!(allowed.walk(&root, &all()), Err(SourceError::Own(_))));
        // Unless it is left out.
        let rules = LeftOut::new(&["/node".to_owned()], "").unwrap();
        assert_eq!(allowed.walk(&root, &rules).unwrap().1, ["node/"]);
        assert!(
            allowed
                .source(&root.join("node-other"))
                .is_err_and(|error| !matches!(error, SourceError::Own(_)))
        );
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (_dir, root, allowed) = allowed();
        let pipe = root.join("deep/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        // A reader of a pipe would wait for its writer.
        assert!(matches!(
            allowed.source(&pipe),
            Err(SourceError::NotAFile { kind: "pipe", .. })
        ));
        assert!(matches!(
            allowed.source(&root.join("deep")),
            Err(SourceError::NotAFile { kind: "folder", .. })
        ));
        assert!(matches!(
            allowed.walk(&root.join("deep"), &all()),
            Err(SourceError::NotAFile { kind: "pipe", .. })
        ));
    }

    #[test]
    fn a_folder_is_walked_in_the_order_of_its_index() {
        let (_dir, root, allowed) = allowed();
        symlink("file", root.join("deep/link")).unwrap();
        fs::create_dir(root.join("all")).unwrap();
        fs::rename(root.join("deep"), root.join("all/deep")).unwrap();
        fs::rename(root.join("deep-file"), root.join("all/deep-file")).unwrap();
        let (found, left_out) = allowed.walk(&root.join("all"), &all()).unwrap();
        assert!(left_out.is_empty());
        let paths: Vec<_> = found.iter().map(|found| found.path.as_str()).collect();
        assert_eq!(paths, ["deep-file", "deep/empty", "deep/file", "deep/link"]);
        assert_eq!(found[1].kind, Kind::EmptyDir);
        assert_eq!(
            found[3].kind,
            Kind::Symlink {
                target: "file".into()
            }
        );
    }

    #[test]
    fn what_is_left_out_is_told_and_not_looked_at() {
        let (_dir, root, allowed) = allowed();
        fs::create_dir(root.join("all")).unwrap();
        fs::rename(root.join("deep"), root.join("all/deep")).unwrap();
        fs::write(root.join("all/.nearfieldignore"), "deep/file\npipe\n").unwrap();
        let pipe = root.join("all/pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let own = allowed.ignore_file(&root.join("all")).unwrap();
        let rules = LeftOut::new(&["empty/".to_owned()], &own).unwrap();
        let (found, left_out) = allowed.walk(&root.join("all"), &rules).unwrap();
        let paths: Vec<_> = found.iter().map(|found| found.path.as_str()).collect();
        assert_eq!(paths, [".nearfieldignore", "deep"]);
        assert_eq!(found[1].kind, Kind::EmptyDir, "of which all is left out");
        assert_eq!(left_out, ["deep/empty/", "deep/file", "pipe"]);
        assert_eq!(allowed.ignore_file(&root).unwrap(), "");
    }

    #[test]
    fn a_folder_that_becomes_a_link_is_refused() {
        let (dir, root, allowed) = allowed();
        fs::create_dir(dir.path().join("elsewhere")).unwrap();
        fs::write(dir.path().join("elsewhere/file"), "outside").unwrap();
        fs::rename(root.join("deep"), root.join("moved")).unwrap();
        symlink(dir.path().join("elsewhere"), root.join("deep")).unwrap();
        assert!(matches!(
            allowed.source(&root.join("deep/file")),
            Err(SourceError::Leads(_))
        ));
    }
}
