//! Which network a node belongs to, as its folder says.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use iroh_docs::NamespaceId;
use nearfield_protocol::NodeId;
use nearfield_protocol::node::Role;
use serde::{Deserialize, Serialize};

/// A node's place in its network. Written when it founds or joins one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The record document.
    pub document: NamespaceId,
    /// Who made it: the first gateway, by whose word all others are one.
    pub founder: NodeId,
    /// Who let this node in; none for the founder.
    #[serde(default)]
    pub introducer: Option<NodeId>,
    /// What this node is in it.
    pub role: Role,
    /// Nodes that were there when this one joined.
    pub known: Vec<Contact>,
}

/// A node and where it was last reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    pub id: NodeId,
    pub addresses: Vec<SocketAddr>,
}

fn path(dir: &Path) -> PathBuf {
    dir.join("network.json")
}

impl Network {
    pub fn load(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(path(dir)) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(network) => Ok(Some(network)),
                Err(error) => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{} cannot be read ({error}): restore it from a backup",
                        path(dir).display()
                    ),
                )),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// On disk when this returns.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        replace(&path(dir), &serde_json::to_vec_pretty(self)?)
    }

    /// Forgets the network and its records. The node's key, its blobs and its compiled code stay.
    pub fn forget(dir: &Path) -> io::Result<()> {
        for gone in [
            fs::remove_file(path(dir)),
            fs::remove_dir_all(dir.join("records")),
        ] {
            match gone {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        File::open(dir)?.sync_all()
    }
}

/// Writes a file whole or not at all; on disk when this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let temp = path.with_extension("new");
    let mut file = File::create(&temp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temp, path)?;
    File::open(folder)?.sync_all()
}
