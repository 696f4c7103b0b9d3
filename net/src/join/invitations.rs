//! The invitations that this node has given out: one small file each, which says whether it was used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nearfield_protocol::node::{Labels, Role};
use nearfield_protocol::{DatasetName, Digest, NodeId};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::network::replace;

/// Open invitations at once: more are a mistake.
const MAX_OPEN: usize = 1_000;

/// What is offered to whoever comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    pub role: Role,
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub max_bytes: Option<u64>,
    #[serde(default)]
    pub may_put: Vec<DatasetName>,
    pub expires_unix_ms: u64,
}

/// An offer, and who took it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub offer: Offer,
    pub used_by: Option<NodeId>,
}

/// Why a nonce opens nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRedeemed {
    #[error("this node has given out no such ticket")]
    Unknown,
    #[error("the ticket has expired: ask for another")]
    Expired,
    #[error("the ticket has been used by another node: ask for another")]
    Used,
    #[error("this node has used the ticket before, and is not what it was for any more: ask for another")]
    UsedUp,
    #[error("the invitation cannot be read: {0}")]
    Io(String),
}

/// Which offers a node may take once more that it took before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Anything,
    /// Those of the role that it has.
    As(Role),
    Nothing,
}

impl Again {
    fn allows(self, offer: &Offer) -> bool {
        match self {
            Again::Anything => true,
            Again::As(role) => offer.role == role,
            Again::Nothing => false,
        }
    }
}

/// The folder of invitations.
pub(crate) struct Invitations {
    dir: PathBuf,
    /// One redemption after another: an invitation is used once.
    redeeming: Mutex<()>,
}

impl Invitations {
    pub fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("invitations");
        fs::create_dir_all(&dir)?;
        Ok(Invitations {
            dir,
            redeeming: Mutex::new(()),
        })
    }

    /// Who reads the folder learns no ticket.
    fn path(&self, nonce: &[u8; 32]) -> PathBuf {
        self.dir
            .join(format!("{}.json", &Digest::of(nonce).to_string()[3..35]))
    }

    /// Writes down an offer. On disk when this returns.
    pub fn add(&self, nonce: &[u8; 32], offer: Offer, now_unix_ms: u64) -> io::Result<()> {
        let _redeeming = self.redeeming.lock();
        let mut open = 0;
        for file in fs::read_dir(&self.dir)? {
            let path = file?.path();
            // One that was half written when an earlier process ended: nobody writes now.
            if path.extension().is_none_or(|extension| extension != "json") {
                fs::remove_file(&path)?;
                continue;
            }
            match read(&path) {
                Ok(invitation) if now_unix_ms > invitation.offer.expires_unix_ms => fs::remove_file(&path)?,
                Ok(invitation) if invitation.used_by.is_none() => open += 1,
                _ => {}
            }
        }
        if open >= MAX_OPEN {
            return Err(io::Error::other(format!(
                "{MAX_OPEN} invitations are open already"
            )));
        }
        let invitation = Invitation { offer, used_by: None };
        replace(&self.path(nonce), &serde_json::to_vec(&invitation)?)
    }

    /// Takes the offer for `node`, or gives it to the same node `again`: its first answer may have been lost.
    pub fn redeem(
        &self,
        nonce: &[u8; 32],
        node: NodeId,
        again: Again,
        now_unix_ms: u64,
    ) -> Result<Offer, NotRedeemed> {
        let _redeeming = self.redeeming.lock();
        let failed = |error: io::Error| NotRedeemed::Io(error.to_string());
        let path = self.path(nonce);
        let invitation = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NotRedeemed::Unknown),
            read => read.map_err(failed)?,
        };
        if now_unix_ms > invitation.offer.expires_unix_ms {
            return Err(NotRedeemed::Expired);
        }
        match invitation.used_by {
            Some(before) if before == node && again.allows(&invitation.offer) => return Ok(invitation.offer),
            Some(before) if before == node => return Err(NotRedeemed::UsedUp),
            Some(_) => return Err(NotRedeemed::Used),
            None => {}
        }
        let used = Invitation {
            used_by: Some(node),
            ..invitation
        };
        replace(
            &path,
            &serde_json::to_vec(&used).map_err(|error| failed(error.into()))?,
        )
        .map_err(failed)?;
        Ok(used.offer)
    }
}

fn read(path: &Path) -> io::Result<Invitation> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_is_used_once_and_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let invitations = Invitations::open(dir.path()).unwrap();
        let offer = Offer {
            role: Role::Host,
            labels: Labels::new(),
            max_bytes: None,
            may_put: Vec::new(),
            expires_unix_ms: 100,
        };
        let (nonce, other) = ([1; 32], [2; 32]);
        let (first, second) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        invitations.add(&nonce, offer.clone(), 0).unwrap();
        assert_eq!(
            invitations.redeem(&other, first, Again::Anything, 1),
            Err(NotRedeemed::Unknown)
        );
        assert_eq!(
            invitations.redeem(&nonce, first, Again::Anything, 101),
            Err(NotRedeemed::Expired)
        );
        assert_eq!(
            invitations.redeem(&nonce, first, Again::Anything, 1),
            Ok(offer.clone())
        );
        assert_eq!(
            invitations.redeem(&nonce, second, Again::Anything, 1),
            Err(NotRedeemed::Used)
        );
        assert_eq!(
            invitations.redeem(&nonce, first, Again::Anything, 2),
            Ok(offer.clone())
        );
        // Who became something else, or has left, takes nothing by it.
        assert_eq!(
            invitations.redeem(&nonce, first, Again::As(Role::Host), 2),
            Ok(offer.clone())
        );
        for again in [Again::As(Role::Gateway), Again::Nothing] {
            assert_eq!(
                invitations.redeem(&nonce, first, again, 2),
                Err(NotRedeemed::UsedUp)
            );
        }
        // It stays used over a restart, and goes once it has expired.
        let again = Invitations::open(dir.path()).unwrap();
        assert_eq!(
            again.redeem(&nonce, second, Again::Anything, 1),
            Err(NotRedeemed::Used)
        );
        again.add(&other, offer, 101).unwrap();
        assert_eq!(
            again.redeem(&nonce, first, Again::Anything, 1),
            Err(NotRedeemed::Unknown)
        );
    }
}
