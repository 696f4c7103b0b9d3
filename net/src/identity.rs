//! The key that a node is known by.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use iroh::{PublicKey, SecretKey, Signature};
use nearfield_protocol::NodeId;

/// A node's ed25519 key. Its public half is the node's id and the author of its records.
#[derive(Clone)]
pub struct Identity {
    key: SecretKey,
}

impl Identity {
    /// Reads the key from `path`, or makes one there that only this user can read.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        match File::open(path) {
            Ok(mut file) => {
                let mut bytes = Vec::new();
                (&mut file).take(33).read_to_end(&mut bytes)?;
                let bytes: [u8; 32] = bytes.try_into().map_err(|_| {
                    io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "{} is no node key: restore it from a backup, or remove it to become a new node",
                            path.display()
                        ),
                    )
                })?;
                Ok(Identity {
                    key: SecretKey::from_bytes(&bytes),
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = SecretKey::generate();
                write_private(path, &key.to_bytes())?;
                Ok(Identity { key })
            }
            Err(error) => Err(error),
        }
    }

    pub fn node_id(&self) -> NodeId {
        NodeId::from_bytes(*self.key.public().as_bytes())
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.key
    }

    /// Vouches for `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }

    /// A secret of its own for one purpose, so that no two uses of the key can meet.
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.key.to_bytes())
    }
}

/// Whether `node` vouched for `message`.
pub fn vouches(node: &NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    PublicKey::from_bytes(node.as_bytes())
        .is_ok_and(|key| key.verify(message, &Signature::from_bytes(signature)).is_ok())
}

/// Writes a file that only its owner can read, whole or not at all, and on disk when it returns.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temp = path.with_extension("new");
    let _ = fs::remove_file(&temp);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_same_key_comes_back_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let first = Identity::load_or_create(&path).unwrap();
        let again = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.node_id(), again.node_id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(first.derive("a"), first.derive("b"));
        let signature = first.sign(b"claim");
        assert!(vouches(&again.node_id(), b"claim", &signature));
        assert!(!vouches(&again.node_id(), b"another", &signature));
        let other = Identity::load_or_create(&dir.path().join("other.key")).unwrap();
        assert!(!vouches(&other.node_id(), b"claim", &signature));
    }

    #[test]
    fn a_broken_key_is_an_error_not_a_new_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        fs::write(&path, b"short").unwrap();
        assert!(Identity::load_or_create(&path).is_err());
    }
}
