//! Where the bytes go that a user asked for: as `cp` would write them, and whole or not at all where that can be.
//!
//! A plain file is written beside its place and renamed, so that whoever opens it sees the old bytes or all of the new ones.
//! What is no plain file, or is one in a way that a new one would not be, is written into as the bytes come.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::failure::{Exit, Failure};
use crate::interrupt::Partial;
use crate::output::Leaving;

/// Links that lead to links, as many as the kernel follows.
const MAX_LINKS: usize = 40;
/// What a new file may be read and written by, before the umask takes its part.
const FILE_MODE: u32 = 0o666;
const EXECUTABLE_MODE: u32 = 0o777;

/// Whether a path is this process's standard output, whatever that is: what `>>` opened is added to, a terminal shown on.
pub fn is_stdout(path: &Path) -> bool {
    path == Path::new("-") || follow(path).ok().and_then(|path| descriptor(&path)) == Some(1)
}

/// Writes all of `content` to `path`. A new file may be run if `executable`; one that is there keeps its mode.
pub fn write(content: &mut dyn Read, path: &Path, executable: bool) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let place = place(path).with_context(writing)?;
    let copying = || {
        format!(
            "the content is cut short, or {} cannot be written",
            path.display()
        )
    };
    match place {
        Destination::Stdout => {
            let mut stdout = crate::output::stdout();
            io::copy(content, &mut stdout).with_context(copying)?;
            stdout.flush().with_context(writing)
        }
        Destination::Through(file) => {
            io::copy(content, &mut Leaving(file)).with_context(copying)?;
            Ok(())
        }
        Destination::Beside(target, like) => match beside(&target, like.as_ref(), executable) {
            Ok((mut file, target_file)) => {
                let _partial = Partial::new(file.path());
                io::copy(content, &mut file).with_context(copying)?;
                let Err(refused) = file.persist(&target) else {
                    return Ok(());
                };
                // A mount point, for instance, is not renamed over.
                let Some(mut target_file) = target_file else {
                    return Err(refused.error).with_context(writing);
                };
                let mut whole = refused.file;
                whole.rewind().with_context(writing)?;
                target_file.set_len(0).with_context(writing)?;
                io::copy(&mut whole, &mut target_file).with_context(writing)?;
                Ok(())
            }
            // In a folder that takes no new files, or for a file that is somebody else's.
            Err(error) if like.is_some() && is_refusal(&error) => {
                let mut file = truncated(&target).with_context(writing)?;
                io::copy(content, &mut file).with_context(copying)?;
                Ok(())
            }
            Err(error) => Err(error).with_context(writing),
        },
    }
}

enum Destination {
    Stdout,
    /// Written into as it is.
    Through(File),
    /// A plain file that is replaced, which was like this, or a new one.
    Beside(PathBuf, Option<Metadata>),
}

fn place(path: &Path) -> Result<Destination> {
    let target = follow(path)?;
    match descriptor(&target) {
        Some(1) => return Ok(Destination::Stdout),
        // What it is open for goes on where it is.
        Some(_) => {
            return Ok(Destination::Through(
                OpenOptions::new().append(true).open(&target)?,
            ));
        }
        None => {}
    }
    let like = match fs::symlink_metadata(&target) {
        Ok(like) => like,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Destination::Beside(target, None));
        }
        Err(error) => return Err(error.into()),
    };
    if like.is_dir() {
        let failure = Failure::new(Exit::Usage, format!("{} is a folder", path.display()));
        return Err(failure.next("name a file, new or not").into());
    }
    if !like.is_file() {
        return Ok(Destination::Through(
            OpenOptions::new().write(true).open(&target)?,
        ));
    }
    match like.nlink() {
        1 => Ok(Destination::Beside(target, Some(like))),
        // Its other names are to show the new bytes, too.
        _ => Ok(Destination::Through(truncated(&target)?)),
    }
}

/// A new file in the folder of `target`, with the mode and the owner that are to stay; and `target` itself, open to write, if it is
/// there: a file that may not be written is not replaced either.
fn beside(
    target: &Path,
    like: Option<&Metadata>,
    executable: bool,
) -> io::Result<(tempfile::NamedTempFile, Option<File>)> {
    let mode = match like {
        Some(like) => like.mode() & 0o777,
        None if executable => EXECUTABLE_MODE,
        None => FILE_MODE,
    };
    let there = like
        .map(|_| OpenOptions::new().write(true).open(target))
        .transpose()?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    let file = tempfile::Builder::new()
        .prefix(".nearfield-")
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(parent.unwrap_or(Path::new(".")))?;
    if let Some(like) = like {
        let made = file.as_file().metadata()?;
        if (made.uid(), made.gid()) != (like.uid(), like.gid()) {
            fchown(file.as_file(), Some(like.uid()), Some(like.gid()))?;
        }
        // The umask does not change what is there.
        file.as_file().set_permissions(Permissions::from_mode(mode))?;
    }
    Ok((file, there))
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn truncated(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).truncate(true).open(path)
}

/// Where a path leads through links, to something or to nothing yet. A descriptor of this process is an end.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if descriptor(&path).is_some() {
            return Ok(path);
        }
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => {
                let to = fs::read_link(&path)?;
                path = path.parent().unwrap_or(Path::new("/")).join(to);
            }
            _ => return Ok(path),
        }
    }
    Err(io::Error::other("it leads through too many links"))
}

/// The number of the descriptor that a path names in this process.
fn descriptor(path: &Path) -> Option<u32> {
    let text = path.to_str()?;
    match text {
        "/dev/stdout" => return Some(1),
        "/dev/stderr" => return Some(2),
        _ => {}
    }
    let own = format!("/proc/{}/fd/", std::process::id());
    let number = ["/dev/fd/", "/proc/self/fd/", &own]
        .iter()
        .find_map(|folder| text.strip_prefix(folder))?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out");
        assert!(write(&mut b"half".chain(Broken), &path, false).is_err());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        write(&mut b"whole".as_slice(), &path, false).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert!(write(&mut b"half".chain(Broken), &path, false).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"whole", "the old one stays");
    }

    #[test]
    fn a_file_that_is_there_keeps_its_mode_and_its_names() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for kept in [0o600, 0o640, 0o666, 0o755, 0o200] {
            fs::write(at("out"), "something longer").unwrap();
            fs::set_permissions(at("out"), Permissions::from_mode(kept)).unwrap();
            write(&mut b"new".as_slice(), &at("out"), true).unwrap();
            assert_eq!(mode(&at("out")), kept);
            fs::set_permissions(at("out"), Permissions::from_mode(0o600)).unwrap();
            assert_eq!(fs::read(at("out")).unwrap(), b"new");
        }
        // Another name of the same file shows the new bytes.
        fs::hard_link(at("out"), at("other")).unwrap();
        write(&mut b"newer".as_slice(), &at("out"), false).unwrap();
        assert_eq!(fs::read(at("other")).unwrap(), b"newer");
    }

    #[test]
    fn a_link_stays_and_what_it_leads_to_is_written() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        symlink("folder/file", at("link")).unwrap();
        symlink(at("link"), at("first")).unwrap();
        for bytes in [b"new".as_slice(), b"again"] {
            write(&mut &bytes[..], &at("first"), false).unwrap();
            assert_eq!(fs::read(at("folder/file")).unwrap(), bytes);
            assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        }
        symlink("loop", at("loop")).unwrap();
        assert!(write(&mut b"x".as_slice(), &at("loop"), false).is_err());
        let refused = write(&mut b"x".as_slice(), &at("folder"), false).unwrap_err();
        assert!(crate::failure::message(&refused).contains("is a folder"));
    }

    #[test]
    fn a_pipe_is_written_into() {
        let home = tempfile::tempdir().unwrap();
        let pipe = home.path().join("pipe");
        let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let link = home.path().join("link");
        symlink("pipe", &link).unwrap();
        for path in [&pipe, &link] {
            let reader = std::thread::spawn({
                let pipe = pipe.clone();
                move || fs::read(pipe).unwrap()
            });
            write(&mut b"through".as_slice(), path, false).unwrap();
            assert_eq!(reader.join().unwrap(), b"through");
            assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        }
        // A reader that leaves is no failure.
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || drop(File::open(pipe).unwrap())
        });
        let endless = write(&mut io::repeat(7), &pipe, false).unwrap_err();
        reader.join().unwrap();
        assert!(crate::failure::reader_left(&endless), "{endless:#}");
    }

    #[test]
    fn descriptors_of_this_process_are_known() {
        for (path, number) in [
            ("/dev/stdout", Some(1)),
            ("/dev/stderr", Some(2)),
            ("/dev/fd/3", Some(3)),
            ("/proc/self/fd/1", Some(1)),
            ("/proc/self/fd/x", None),
            ("/dev/null", None),
            ("stdout", None),
        ] {
            assert_eq!(descriptor(Path::new(path)), number, "{path}");
        }
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("link");
        symlink("/dev/stdout", &link).unwrap();
        assert!(is_stdout(&link) && is_stdout(Path::new("-")) && !is_stdout(home.path()));
    }
}
