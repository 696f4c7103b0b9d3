use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, PipeReader, PipeWriter, Read, Seek};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use tar::{Builder, EntryType, Header};
use walkdir::WalkDir;

use super::left_out::{Excludes, Rules};

/// A folder's entries, checked and sorted; nothing of their content is read yet.
pub struct Folder<C = OnDisk> {
    contents: C,
    /// In byte order of the full path: `a`, `a.txt`, `a/b`. A folder's digest must not depend on who sends it.
    entries: Vec<Entry>,
    /// Files and whole folders that the put leaves out, in the order in which they were found.
    pub left_out: Vec<String>,
}

/// Where the bytes of a folder's files come from.
pub trait Contents: Send + 'static {
    /// A file that was found with so many bytes: how many it has, and exactly those. Files are asked for one after the other, in
    /// the order of the entries.
    fn open(&mut self, path: &str, found_bytes: u64) -> io::Result<(u64, impl Read)>;
}

/// Files below a folder.
pub struct OnDisk(PathBuf);

/// A file that was found to be so small, or to have no bytes at all, is read before its size is told: what the kernel or a FUSE
/// file system makes as it is read has another size than was said, most often none.
const READ_FIRST_BYTES: u64 = 1 << 20;

impl Contents for OnDisk {
    fn open(&mut self, path: &str, found_bytes: u64) -> io::Result<(u64, impl Read)> {
        let mut file = File::open(self.0.join(path))?;
        if found_bytes > READ_FIRST_BYTES {
            let file = AsFound {
                file,
                found_bytes,
                left: found_bytes,
            };
            return Ok((found_bytes, OnDiskFile::AsFound(file)));
        }
        // In memory while it is about as small as was said.
        let mut read = tempfile::SpooledTempFile::new(2 * READ_FIRST_BYTES as usize);
        let bytes = io::copy(&mut file, &mut read)?;
        read.rewind()?;
        Ok((bytes, OnDiskFile::Read(read)))
    }
}

enum OnDiskFile {
    Read(tempfile::SpooledTempFile),
    AsFound(AsFound),
}

impl Read for OnDiskFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            OnDiskFile::Read(read) => read.read(buffer),
            OnDiskFile::AsFound(file) => file.read(buffer),
        }
    }
}

/// A file up to the size that it was found with. One that grows meanwhile is taken as it was; one that shrinks, or has more bytes than
/// its size says, is an error.
struct AsFound {
    file: File,
    found_bytes: u64,
    left: u64,
}

impl Read for AsFound {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..wanted])?;
        self.left -= read as u64;
        let at_end = read > 0 && self.left == 0;
        if at_end && self.file.read(&mut [0])? > 0 && self.file.metadata()?.len() <= self.found_bytes {
            return Err(io::Error::other(
                "it has more bytes than its size says; copy it elsewhere, and put the copy",
            ));
        }
        Ok(read)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Below the root, `/` between parts.
    pub path: String,
    pub kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    File { size_bytes: u64, executable: bool },
    Symlink { target: PathBuf },
    EmptyDir,
}

impl Folder {
    /// Walks `root`, following no symlinks but `root` itself.
    pub fn read(root: &Path, excludes: &Excludes) -> Result<Self> {
        let mut rules = Rules::read(root, excludes)?;
        let (mut entries, mut left_out) = (Vec::new(), Vec::new());
        let mut with_children = HashSet::new();
        let mut walk = WalkDir::new(root).follow_links(false).min_depth(1).into_iter();
        while let Some(found) = walk.next() {
            let found = found.context("reading the folder; leave out what cannot be read with --exclude")?;
            let is_dir = found.file_type().is_dir();
            if rules.leave_out(found.path(), is_dir)? {
                let path = found.path().strip_prefix(root).unwrap_or(found.path());
                left_out.push(format!("{}{}", path.display(), if is_dir { "/" } else { "" }));
                if is_dir {
                    walk.skip_current_dir();
                }
                continue;
            }
            let path = relative(root, found.path())?;
            let metadata = found
                .metadata()
                .with_context(|| format!("reading {}", found.path().display()))?;
            let kind = kind(found.path(), &metadata)?;
            with_children.extend(path.rsplit_once('/').map(|(parent, _)| parent.to_owned()));
            entries.push(Entry { path, kind });
        }
        entries.retain(|entry| entry.kind != Kind::EmptyDir || !with_children.contains(&entry.path));
        entries.sort_unstable_by(|a, b| a.path.as_bytes().cmp(b.path.as_bytes()));
        Ok(Folder {
            left_out,
            ..Folder::of(entries, OnDisk(root.to_owned()))
        })
    }
}

impl<C: Contents> Folder<C> {
    /// `entries` are checked and sorted already.
    pub fn of(entries: Vec<Entry>, contents: C) -> Self {
        Folder {
            contents,
            entries,
            left_out: Vec::new(),
        }
    }

    /// Of the tar stream, but for the rare headers that long names add. Sizes may be what a server says, so no sum of them is too much.
    pub fn tar_bytes(&self) -> u64 {
        const BLOCK: u64 = 512;
        let entry = |entry: &Entry| match entry.kind {
            Kind::File { size_bytes, .. } => size_bytes
                .checked_next_multiple_of(BLOCK)
                .map_or(u64::MAX, |bytes| bytes.saturating_add(BLOCK)),
            Kind::Symlink { .. } | Kind::EmptyDir => BLOCK,
        };
        self.entries
            .iter()
            .map(entry)
            .fold(2 * BLOCK, u64::saturating_add)
    }

    /// Starts writing the tar stream.
    pub fn pack(self) -> Result<Packed> {
        let (reader, writer) = io::pipe().context("making a pipe")?;
        let worker = std::thread::spawn(move || self.write(writer));
        Ok(Packed {
            reader,
            worker: Some(worker),
        })
    }

    fn write(mut self, out: PipeWriter) -> Result<()> {
        // The builder writes small headers and copies of 8 KiB: one larger write costs fewer wake-ups.
        let mut tar = Builder::new(io::BufWriter::with_capacity(256 << 10, out));
        for entry in &self.entries {
            append(&mut tar, entry, &mut self.contents)
                .with_context(|| format!("packing `{}`", entry.path))?;
        }
        tar.into_inner()?
            .into_inner()
            .map_err(|error| error.into_error())?;
        Ok(())
    }
}

fn append(tar: &mut Builder<impl io::Write>, entry: &Entry, contents: &mut impl Contents) -> Result<()> {
    let mut header = Header::new_gnu();
    match &entry.kind {
        Kind::File {
            size_bytes,
            executable,
        } => {
            let (size_bytes, content) = contents
                .open(&entry.path, *size_bytes)
                .map_err(|error| unreadable(&entry.path, error))?;
            header.set_mode(if *executable { 0o755 } else { 0o644 });
            header.set_size(size_bytes);
            let content = Exactly {
                content,
                left: size_bytes,
            };
            tar.append_data(&mut header, &entry.path, content)?;
        }
        Kind::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            tar.append_link(&mut header, &entry.path, target)?;
        }
        Kind::EmptyDir => {
            header.set_entry_type(EntryType::Directory);
            header.set_mode(0o755);
            header.set_size(0);
            tar.append_data(&mut header, format!("{}/", entry.path), io::empty())?;
        }
    }
    Ok(())
}

/// The tar stream of a folder. It ends with an error, never early, if the folder could not be read to its end.
pub struct Packed {
    reader: PipeReader,
    worker: Option<JoinHandle<Result<()>>>,
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0
            && !buffer.is_empty()
            && let Some(worker) = self.worker.take()
        {
            match worker.join() {
                Ok(Ok(())) => {}
                // As it is: its exit code and next step are found in it.
                Ok(Err(error)) => return Err(io::Error::other(error)),
                Err(_) => return Err(io::Error::other("the packing thread panicked")),
            }
        }
        Ok(read)
    }
}

const SHORTER: &str = "it became shorter while it was read: put the folder when nothing writes to it, or leave the file \
                       out with --exclude";

/// Why a file that was there a moment ago cannot be read, and what helps. Other errors say so themselves.
fn unreadable(path: &str, error: io::Error) -> anyhow::Error {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "it vanished: put the folder when nothing writes to it",
        io::ErrorKind::PermissionDenied => "it may not be read",
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(format!("{what}, or leave it out with --exclude '/{path}'"))
}

/// As many bytes as the header promised: a file that changes meanwhile must not shift what follows it.
struct Exactly<R> {
    content: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.content.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(io::Error::other(SHORTER));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

fn relative(root: &Path, path: &Path) -> Result<String> {
    let below = path.strip_prefix(root).unwrap_or(path);
    let text = below.to_str().map(str::to_owned);
    text.with_context(|| format!("the name of {} is not UTF-8; rename it", path.display()))
}

fn kind(path: &Path, metadata: &Metadata) -> Result<Kind> {
    let file_type = metadata.file_type();
    if file_type.is_file() {
        return Ok(Kind::File {
            size_bytes: metadata.size(),
            executable: metadata.permissions().mode() & 0o111 != 0,
        });
    }
    if file_type.is_dir() {
        return Ok(Kind::EmptyDir);
    }
    if file_type.is_symlink() {
        let target = std::fs::read_link(path).with_context(|| format!("reading {}", path.display()))?;
        let utf8 = OsStr::to_str(target.as_os_str()).is_some();
        ensure!(utf8, "the target of the symlink {} is not UTF-8", path.display());
        return Ok(Kind::Symlink { target });
    }
    let what = match file_type {
        fifo if fifo.is_fifo() => "a FIFO",
        socket if socket.is_socket() => "a socket",
        _ => "a device",
    };
    bail!(
        "{} is {what}, which no dataset can hold; remove it or put a folder without it",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn packed(root: &Path) -> Vec<u8> {
        let mut tar = Vec::new();
        Folder::read(root, &Excludes::default())
            .unwrap()
            .pack()
            .unwrap()
            .read_to_end(&mut tar)
            .unwrap();
        tar
    }

    #[test]
    fn entries_come_in_byte_order_of_the_whole_path() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("a/empty")).unwrap();
        for file in ["a/b", "a.txt", "B", "a-b"] {
            std::fs::write(at(file), file).unwrap();
        }
        std::fs::set_permissions(at("B"), PermissionsExt::from_mode(0o701)).unwrap();
        symlink("/nowhere/..", at("a/link")).unwrap();
        let long = "l".repeat(200);
        std::fs::write(at(&long), "long").unwrap();

        let tar = packed(root.path());
        let mut archive = tar::Archive::new(tar.as_slice());
        let entries: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
                (path, entry.header().mode().unwrap(), entry.header().entry_type())
            })
            .collect();
        let expected = [
            ("B", 0o755, EntryType::Regular),
            ("a-b", 0o644, EntryType::Regular),
            ("a.txt", 0o644, EntryType::Regular),
            ("a/b", 0o644, EntryType::Regular),
            ("a/empty/", 0o755, EntryType::Directory),
            ("a/link", 0o777, EntryType::Symlink),
            (long.as_str(), 0o644, EntryType::Regular),
        ];
        let seen: Vec<_> = entries
            .iter()
            .map(|(path, mode, kind)| (path.as_str(), *mode, *kind))
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_cannot_be_kept_is_named() {
        let root = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("talk")).unwrap();
        let error = Folder::read(root.path(), &Excludes::default())
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("talk is a socket"), "{error}");
    }

    /// The size and the bytes that a file found with `found_bytes` is packed with.
    fn opened(root: &Path, path: &str, found_bytes: u64) -> io::Result<(u64, Vec<u8>)> {
        let mut contents = OnDisk(root.to_owned());
        let (size_bytes, mut content) = contents.open(path, found_bytes)?;
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        Ok((size_bytes, bytes))
    }

    #[test]
    fn content_decides_and_not_what_was_said_of_its_size() {
        let root = tempfile::tempdir().unwrap();
        for len in [0, 1, 5_000, READ_FIRST_BYTES as usize, 3 << 20] {
            let bytes: Vec<u8> = (0..len).map(|at| at as u8).collect();
            std::fs::write(root.path().join("file"), &bytes).unwrap();
            for found in [0, 1, 4_096, READ_FIRST_BYTES] {
                let (size_bytes, read) = opened(root.path(), "file", found).unwrap();
                assert!(
                    size_bytes == len as u64 && read == bytes,
                    "{len} bytes, found as {found}"
                );
            }
        }
        // One that has grown is taken as it was found; one whose size is no less than it was has bytes that it does not tell.
        assert_eq!(opened(root.path(), "file", 2 << 20).unwrap().1.len(), 2 << 20);
        let file = File::open(root.path().join("file")).unwrap();
        let mut lying = AsFound {
            file,
            found_bytes: 3 << 20,
            left: 2 << 20,
        };
        let told = lying.read_to_end(&mut Vec::new()).unwrap_err().to_string();
        assert!(told.contains("more bytes than its size says"), "{told}");
    }

    #[test]
    fn what_the_kernel_makes_as_it_is_read_comes_in_whole() {
        // All of these say that they have no bytes.
        let tar = packed(Path::new("/proc/sys/kernel/random"));
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut ids = 0;
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            if entry.path_bytes().ends_with(b"uuid") || entry.path_bytes().ends_with(b"boot_id") {
                assert_eq!(text.len(), 37, "{text:?}");
                ids += 1;
            }
        }
        assert_eq!(ids, 2);
    }

    #[test]
    fn what_is_left_out_is_told_and_nothing_else_is() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for folder in ["target/debug", "src/target", ".git", "deep"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        for file in [
            "target/debug/a",
            "src/target/b",
            "src/lib.rs",
            "notes.tmp",
            "keep.tmp",
            ".git/HEAD",
            "deep/x.log",
            "deep/y.txt",
        ] {
            std::fs::write(at(file), file).unwrap();
        }
        let read = |globs: &[&str], git| {
            let excludes = Excludes {
                globs: globs.iter().map(|glob| (*glob).to_owned()).collect(),
                git,
            };
            let folder = Folder::read(root.path(), &excludes).unwrap();
            let mut left_out = folder.left_out.clone();
            left_out.sort();
            let paths: Vec<_> = folder.entries.into_iter().map(|entry| entry.path).collect();
            (paths, left_out)
        };
        let (all, none) = read(&[], false);
        assert_eq!(
            (all.len(), none.len()),
            (8, 0),
            "nothing is left out unless it is asked for"
        );

        let (kept, left_out) = read(&["target/", "*.tmp", "!keep.tmp", "/.git"], false);
        assert_eq!(left_out, [".git/", "notes.tmp", "src/target/", "target/"]);
        assert_eq!(kept, ["deep/x.log", "deep/y.txt", "keep.tmp", "src/lib.rs"]);

        std::fs::write(at(".gitignore"), "/target\n*.tmp\n").unwrap();
        std::fs::write(at("deep/.gitignore"), "*.log\n!*.tmp\n").unwrap();
        let (_, left_out) = read(&[], true);
        assert_eq!(
            left_out,
            [".git/", "deep/x.log", "keep.tmp", "notes.tmp", "target/"]
        );
        assert!(read(&[], false).1.is_empty(), "data is often what git leaves out");

        std::fs::write(at(".nearfieldignore"), "target\n!/keep.tmp\n").unwrap();
        assert_eq!(read(&[], false).1, ["src/target/", "target/"]);
        let (kept, _) = read(&[], true);
        assert!(
            kept.contains(&"keep.tmp".to_owned()),
            "the folder's own list goes before git's"
        );
    }

    #[test]
    fn no_size_that_a_server_says_is_too_much_to_add() {
        let tar_bytes = |sizes: &[u64]| {
            let entry = |(at, &size_bytes): (usize, &u64)| Entry {
                path: at.to_string(),
                kind: Kind::File {
                    size_bytes,
                    executable: false,
                },
            };
            let entries = sizes.iter().enumerate().map(entry).collect();
            Folder::of(entries, OnDisk(PathBuf::new())).tar_bytes()
        };
        assert_eq!(tar_bytes(&[0, 1, 512]), 1024 + 512 + 1024 + 1024);
        for sizes in [
            &[u64::MAX][..],
            &[u64::MAX - 511, 1][..],
            &[1_u64 << 63, 1 << 63][..],
        ] {
            assert_eq!(tar_bytes(sizes), u64::MAX, "{sizes:?}");
        }
    }

    #[test]
    fn a_file_that_vanishes_names_the_remedy() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("log"), "here").unwrap();
        let folder = Folder::read(root.path(), &Excludes::default()).unwrap();
        std::fs::remove_file(root.path().join("log")).unwrap();
        let error = folder.pack().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        let error = format!("{:#}", anyhow::Error::new(error));
        assert!(
            error.contains("vanished") && error.contains("--exclude '/log'"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_shrinks_ends_the_stream_with_an_error() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("log"), vec![7; 4 << 20]).unwrap();
        let folder = Folder::read(root.path(), &Excludes::default()).unwrap();
        std::fs::write(root.path().join("log"), "short").unwrap();
        let error = folder.pack().unwrap().read_to_end(&mut Vec::new()).unwrap_err();
        let error = format!("{:#}", anyhow::Error::new(error));
        assert!(error.contains("`log`") && error.contains("shorter"), "{error}");
    }
}
