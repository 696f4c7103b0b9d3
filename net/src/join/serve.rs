//! The one protocol that is open to strangers.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler};
use nearfield_protocol::NodeId;
use nearfield_protocol::node::{NodeRecord, NodeVersion};
use nearfield_protocol::records::RecordKind;

use super::{Answer, Invitations, QUESTION_BYTES, Request};
use crate::document::{Document, unix_ms};
use crate::error::NetError;
use crate::frame;
use crate::network::Contact;
use crate::peers::{MAX_ADDRESSES, Peers, node_id};

/// A stranger has this long to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// Attempts at once and a second: a nonce has 256 bits, so this protects the node's time, not its tickets.
const BURST: f64 = 20.0;
const PER_SECOND: f64 = 5.0;

/// Lets in who shows a ticket of this node.
pub(crate) struct Joining {
    pub document: Arc<Document>,
    pub peers: Peers,
    pub invitations: Arc<Invitations>,
    pub rate: Rate,
}

impl std::fmt::Debug for Joining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Joining")
    }
}

impl ProtocolHandler for Joining {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let node = node_id(&connection.remote_id());
        if !self.rate.take(Instant::now()) {
            tracing::warn!(
                node = node.short(),
                "too many attempts to join: one is not looked at"
            );
            connection.close(2u32.into(), b"too many attempts to join");
            return Ok(());
        }
        let answered = tokio::time::timeout(PATIENCE, async {
            let (mut send, mut receive) = connection.accept_bi().await?;
            let request: Request = frame::read(&mut receive, QUESTION_BYTES).await?;
            let answer = match self.admit(node, request).await {
                Ok(answer) => answer,
                Err(reason) => {
                    tracing::warn!(node = node.short(), reason, "refused to let a node join");
                    Answer::Refused(reason)
                }
            };
            frame::write(&mut send, &answer).await?;
            let _ = send.finish();
            // The answer is read before the connection ends.
            let _ = send.stopped().await;
            Ok::<_, std::io::Error>(())
        });
        if !matches!(answered.await, Ok(Ok(()))) {
            tracing::warn!(node = node.short(), "an attempt to join came to nothing");
        }
        Ok(())
    }
}

impl Joining {
    async fn admit(&self, node: NodeId, request: Request) -> Result<Answer, String> {
        let text = |error: NetError| error.to_string();
        let records = self.document.records();
        if records.is_expelled(&node) {
            return Err("this node was expelled: it can come back with another identity only".into());
        }
        let now = unix_ms();
        let offer = self.invitations.redeem(&request.nonce, node, now);
        let offer = offer.map_err(|reason| reason.to_string())?;
        let mut addresses = request.addresses;
        addresses.truncate(MAX_ADDRESSES);
        let (role, version) = (
            offer.role,
            NodeVersion {
                id: node,
                role: offer.role,
                labels: offer.labels,
                max_bytes: offer.max_bytes,
                may_put: offer.may_put,
                addresses: addresses.clone(),
                joined_unix_ms: now,
            },
        );
        let mut known = self.peers.book();
        known.push(Contact {
            id: self.peers.id(),
            addresses: self.peers.addresses(),
        });
        let capability = self.document.grant(role).await.map_err(text)?;
        self.peers.learn(&Contact { id: node, addresses });
        if records.node(&node).is_none() {
            let record = NodeRecord::Joined(Box::new(version));
            let _writing = self.document.lock().await;
            let name = node.to_string();
            let written = self.document.write(RecordKind::Node, &name, &record);
            written.await.map_err(text)?;
            tracing::info!(node = node.short(), %role, "a node joined");
        }
        Ok(Answer::Welcome {
            capability,
            founder: records.founder(),
            role,
            known,
        })
    }
}

/// A bucket of attempts.
pub(crate) struct Rate {
    /// What is left, as of when. The lock is held for one sum.
    left: Mutex<(f64, Option<Instant>)>,
}

impl Rate {
    pub fn new() -> Self {
        Rate {
            left: Mutex::new((BURST, None)),
        }
    }

    fn take(&self, now: Instant) -> bool {
        let mut left = self.left.lock().expect("no panic under this lock");
        let since = left
            .1
            .map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        let full = (left.0 + since.as_secs_f64() * PER_SECOND).min(BURST);
        let taken = full >= 1.0;
        *left = (full - f64::from(u8::from(taken)), Some(now));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_back_with_time() {
        let (rate, start) = (Rate::new(), Instant::now());
        let taken = (0..100).filter(|_| rate.take(start)).count();
        assert_eq!(taken, BURST as usize);
        assert!(rate.take(start + Duration::from_secs(1)));
        let later = start + Duration::from_secs(100);
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), BURST as usize);
    }
}
