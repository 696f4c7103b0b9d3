use std::cell::Cell;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use tar::{Archive, Entry, EntryType};

use crate::interrupt::Partial;

/// The path of the entry that was unpacked when something went wrong.
#[derive(Debug)]
pub struct Unpacking(pub String);

impl std::fmt::Display for Unpacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "unpacking `{}`", self.0)
    }
}

/// Unpacks `tar` into `target`, which must be new or empty: all of it, or nothing stays.
///
/// The stream is not trusted. Every entry lands below `target`, through real folders only: a symlink is made as
/// it is named, but nothing is ever written through one, and nothing is written twice.
///
/// What goes wrong with one entry has [`Unpacking`] as its context.
pub fn unpack(tar: impl Read, target: &Path) -> Result<()> {
    let made = make_empty(target)?;
    let _partial = made.then(|| Partial::new(target));
    let whole = unpack_into_empty(tar, target);
    if whole.is_err() && made {
        // Its content has gone with the staging folder; an error here would hide the first.
        let _ = fs::remove_dir(target);
    }
    whole
}

fn unpack_into_empty(tar: impl Read, target: &Path) -> Result<()> {
    // Inside the target: the last step is then a rename, and leaving early removes one folder.
    let staging = tempfile::Builder::new()
        .prefix(".nearfield-")
        .tempdir_in(target)
        .context("making a folder")?;
    let _partial = Partial::new(staging.path());
    extract(tar, staging.path())?;
    for entry in fs::read_dir(staging.path())? {
        let entry = entry?;
        fs::rename(entry.path(), target.join(entry.file_name())).context("moving what was unpacked")?;
    }
    Ok(())
}

/// True if the folder had to be made.
fn make_empty(target: &Path) -> Result<bool> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) => bail!("{} is not empty; name a new or empty folder", target.display()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir(target).with_context(|| format!("making {}", target.display()))?;
            Ok(true)
        }
        Err(error) => Err(error).with_context(|| format!("reading {}", target.display())),
    }
}

fn extract(tar: impl Read, root: &Path) -> Result<()> {
    let ended = Rc::new(Cell::new(false));
    let mut archive = Archive::new(Watched {
        tar,
        ended: ended.clone(),
    });
    for entry in archive.entries()? {
        let mut entry = entry.context("the folder's stream is cut short or damaged")?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        place(root, &mut entry).context(Unpacking(path))?;
    }
    // The entries of a whole archive end with a mark; those of one cut between two entries, with the stream.
    ensure!(!ended.get(), "the folder's stream is cut short");
    // What the connection still has to say: the end, or that it broke.
    io::copy(&mut archive.into_inner(), &mut io::sink()).context("the folder's stream is cut short")?;
    Ok(())
}

fn place(root: &Path, entry: &mut Entry<'_, impl Read>) -> Result<()> {
    let relative = checked(&entry.path()?)?;
    let path = root.join(&relative);
    if let Some(parent) = relative.parent() {
        real_dirs(root, parent)?;
    }
    match entry.header().entry_type() {
        EntryType::Directory => real_dirs(root, &relative),
        EntryType::Regular | EntryType::Continuous => {
            // What any new file gets: the umask takes its part, as it does of folders.
            let mode = if entry.header().mode()? & 0o111 != 0 {
                0o777
            } else {
                0o666
            };
            // `create_new` opens nothing that is there, and so follows no symlink.
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)?;
            let size = entry.size();
            ensure!(
                io::copy(entry, &mut file)? == size,
                "the folder's stream is cut short"
            );
            Ok(())
        }
        EntryType::Symlink => {
            let target = entry.link_name()?.context("a symlink without a target")?;
            Ok(symlink(target, &path)?)
        }
        other => bail!("an entry of type {other:?} is refused"),
    }
}

/// `path` if it stays below where it starts.
fn checked(path: &Path) -> Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => plain.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                bail!("its path leads out of the folder")
            }
        }
    }
    ensure!(!plain.as_os_str().is_empty(), "its path is empty");
    Ok(plain)
}

/// Makes each folder of `relative` below `root`; what is there already must be a folder itself, not a way to one.
/// Nobody else writes in `root`, so what was checked stays true.
fn real_dirs(root: &Path, relative: &Path) -> Result<()> {
    let mut path = root.to_owned();
    for part in relative {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) => ensure!(
                found.is_dir(),
                "it would be written through something that is no folder"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&path)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Knows whether its stream has ended.
struct Watched<R> {
    tar: R,
    ended: Rc<Cell<bool>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tar.read(buffer)?;
        self.ended.set(read == 0 && !buffer.is_empty());
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::archive::{Excludes, Folder};
    use tar::{Builder, Header};

    /// A tar of entries whose paths no honest writer would produce.
    fn hostile(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            let body = if *kind == EntryType::Regular { *content } else { "" };
            if body.is_empty() {
                header.set_link_name_literal(content).unwrap();
            }
            header.set_size(body.len() as u64);
            header.set_cksum();
            tar.append(&header, body.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn a_folder_comes_back() {
        let home = tempfile::tempdir().unwrap();
        let from = home.path().join("from");
        fs::create_dir_all(from.join("a/empty")).unwrap();
        fs::write(from.join("a/run"), "#!").unwrap();
        fs::set_permissions(from.join("a/run"), Permissions::from_mode(0o755)).unwrap();
        symlink("../../../etc/passwd", from.join("link")).unwrap();

        let to = home.path().join("to");
        unpack(
            Folder::read(&from, &Excludes::default()).unwrap().pack().unwrap(),
            &to,
        )
        .unwrap();
        assert_eq!(fs::read(to.join("a/run")).unwrap(), b"#!");
        assert_eq!(
            fs::metadata(to.join("a/run")).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert!(to.join("a/empty").is_dir());
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("../../../etc/passwd")
        );
        assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
    }

    #[test]
    fn nothing_is_written_outside_and_nothing_stays() {
        use EntryType::*;
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let outside_file = outside.join("file");
        let (dir, file) = (outside.to_str().unwrap(), outside_file.to_str().unwrap());
        let attacks: &[&[(&str, EntryType, &str)]] = &[
            &[("../outside/file", Regular, "x")],
            &[("a/../../outside/file", Regular, "x")],
            &[(file, Regular, "x")],
            &[("door", Symlink, dir), ("door/file", Regular, "x")],
            &[("door", Symlink, dir), ("door/new", Directory, "")],
            &[("door", Symlink, file), ("door", Regular, "x")],
            &[
                ("one", Symlink, "two"),
                ("two", Symlink, dir),
                ("one/file", Regular, "x"),
            ],
            &[("hard", Link, file)],
            &[("pipe", Fifo, "")],
            &[("twice", Regular, "x"), ("twice", Regular, "y")],
        ];
        for attack in attacks {
            let target = home.path().join("target");
            assert!(unpack(hostile(attack).as_slice(), &target).is_err(), "{attack:?}");
            assert!(!target.exists(), "{attack:?}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{attack:?}");
        }
    }

    #[test]
    fn a_stream_cut_anywhere_leaves_nothing() {
        let tar = hostile(&[
            ("a", EntryType::Regular, "first"),
            ("b", EntryType::Regular, "second"),
        ]);
        let home = tempfile::tempdir().unwrap();
        for cut in [0, 100, 512, 600, 1024, 1600, 2048] {
            let target = home.path().join("target");
            assert!(unpack(&tar[..cut], &target).is_err(), "cut at {cut}");
            assert!(!target.exists(), "cut at {cut}");
        }
    }

    #[test]
    fn a_folder_in_use_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("mine"), "mine").unwrap();
        let error = unpack(hostile(&[("a", EntryType::Regular, "x")]).as_slice(), home.path()).unwrap_err();
        assert!(error.to_string().contains("not empty"), "{error}");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
