//! The folder in which a node keeps all that it has, its keys among them: nobody else may read it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nearfield_net::{Identity, Network};
use rustix::fs::Mode;
use rustix::process::{geteuid, umask};

/// What files are called until they are whole, as `tempfile` has it.
const HALF_WRITTEN: &str = ".tmp";
/// What users other than the owner may do.
const OTHERS: u32 = 0o077;
/// What users may do who are neither the owner nor of its group.
const EVERYBODY: u32 = 0o007;
const ROOT: u32 = 0;

/// A node's data folder. What the store keeps in it (`state.redb`, `blobs/`, `in-place.redb`, `remembered.redb`) and what the
/// network does (`records/`, `network.json`, `invitations/`) these crates name; the rest is named here.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

impl DataDir {
    pub fn new(path: PathBuf) -> Self {
        DataDir(path)
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    /// The node's secret key.
    fn node_key(&self) -> PathBuf {
        self.0.join("node.key")
    }

    /// What the admin API asks for.
    pub fn admin_token(&self) -> PathBuf {
        self.0.join("admin.token")
    }

    /// Where others reach this node.
    pub fn peers_address(&self) -> PathBuf {
        self.0.join("peers.address")
    }

    /// Records of jobs.
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// Native code of components.
    pub fn code(&self) -> PathBuf {
        self.0.join("code")
    }

    /// What guests printed.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// Who this node is, from its first start on.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        let key = self.node_key();
        if !key.exists() && Network::load(self.root())?.is_some() {
            bail!(
                "{} is missing, though the folder belongs to a network, which knows this node by it: restore the whole folder from a \
                 backup, or have the node join anew with `nearfield join TICKET --forget`",
                key.display()
            );
        }
        Identity::load_or_create(&key).with_context(|| format!("the node's key {}", key.display()))
    }

    /// Makes the folder if it is not there, and closes it. What this process makes from now on is its user's alone.
    pub fn prepare(&self) -> anyhow::Result<()> {
        let data_dir = self.root();
        umask(Mode::from_raw_mode(OTHERS));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .with_context(|| format!("making the data folder {}", data_dir.display()))?;
        let close = || format!("closing the data folder {} to others", data_dir.display());
        let found = fs::metadata(data_dir).with_context(close)?;
        let (owner, user) = (found.uid(), geteuid().as_raw());
        if owner != user && user != ROOT {
            // Only its owner can close it. One that is open to a group is how some systems lend a folder to a program.
            if found.mode() & EVERYBODY != 0 {
                bail!(
                    "the data folder {} belongs to the user {owner} and is open to everybody, and this is the user {user}: close it, \
                     start the node as its owner, or choose another --data-dir",
                    data_dir.display()
                );
            }
            return Ok(());
        }
        if owner != user {
            tracing::warn!(
                path = %data_dir.display(),
                owner,
                "the data folder belongs to another user, who may open it again and read this node's keys"
            );
        }
        let had_keys = self.node_key().exists();
        let closed = close_to_others(data_dir).with_context(close)?;
        if closed > 0 && had_keys {
            tracing::warn!(
                path = %data_dir.display(),
                closed,
                "the data folder was open to other users of this machine and is closed now: whoever read it has this node's keys"
            );
        }
        Ok(())
    }

    /// Removes files that were half written when an earlier process was killed. Only for who has the folder to itself.
    pub fn remove_leftovers(&self) -> io::Result<usize> {
        let data_dir = self.root();
        let mut removed = 0;
        let folders = fs::read_dir(data_dir)?.flatten().map(|entry| entry.path());
        for folder in std::iter::once(data_dir.to_owned()).chain(folders.filter(|path| is_folder(path))) {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
                if name.starts_with(HALF_WRITTEN) && !is_folder(&path) {
                    fs::remove_file(&path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// Not a link to one.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Closes the folder and what lies in it. How much of it was open.
fn close_to_others(data_dir: &Path) -> io::Result<usize> {
    let mut closed = 0;
    // The folder first: nobody gets at the rest while it is closed.
    let found = fs::read_dir(data_dir)?.map(|entry| entry.map(|entry| entry.path()));
    for path in std::iter::once(Ok(data_dir.to_owned())).chain(found) {
        let path = path?;
        let metadata = fs::symlink_metadata(&path)?;
        let is_ours = metadata.is_dir() || metadata.is_file();
        if path != data_dir && !is_ours {
            continue;
        }
        // The folder itself may be a link.
        let mode = fs::metadata(&path)?.permissions().mode() & 0o7777;
        if mode & OTHERS != 0 {
            fs::set_permissions(&path, Permissions::from_mode(mode & !OTHERS))?;
            closed += 1;
        }
    }
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_was_half_written_goes_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(data.path().join("code/.tmp-folder")).unwrap();
        std::os::unix::fs::symlink(outside.path(), data.path().join("link")).unwrap();
        let half = [".tmpAbC", "code/.tmpx"];
        let whole = ["node.key", "code/a.cwasm", "code/.tmp-folder/.tmpy"];
        for file in half.iter().chain(&whole) {
            fs::write(data.path().join(file), "").unwrap();
        }
        fs::write(outside.path().join(".tmpz"), "").unwrap();
        // What a killed process leaves is called so.
        let (_, left) = tempfile::NamedTempFile::new_in(data.path().join("code"))
            .unwrap()
            .keep()
            .unwrap();
        assert_eq!(
            DataDir::new(data.path().to_owned()).remove_leftovers().unwrap(),
            3
        );
        assert!(!left.exists() && half.iter().all(|file| !data.path().join(file).exists()));
        assert!(whole.iter().all(|file| data.path().join(file).exists()));
        assert!(outside.path().join(".tmpz").exists());
    }

    #[test]
    fn what_was_open_is_closed_and_nothing_else_is_touched() {
        let around = tempfile::tempdir().unwrap();
        let (data, outside) = (around.path().join("data"), around.path().join("outside"));
        for folder in [&data, &data.join("blobs")] {
            fs::create_dir(folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        }
        for (file, open) in [
            (data.join("docs.redb"), 0o644),
            (data.join("node.key"), 0o600),
            (outside.clone(), 0o644),
        ] {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(open)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, data.join("link")).unwrap();
        assert_eq!(close_to_others(&data).unwrap(), 3);
        assert_eq!(mode(&data), 0o700);
        assert_eq!(mode(&data.join("blobs")), 0o700);
        assert_eq!(mode(&data.join("docs.redb")), 0o600);
        assert_eq!(mode(&outside), 0o644);
        assert_eq!(close_to_others(&data).unwrap(), 0);
    }
}
