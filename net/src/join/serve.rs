//! The one protocol that is open to strangers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use iroh::TransportAddr;
use iroh::endpoint::Connection;
use iroh::protocol::{AcceptError, ProtocolHandler};
use nearfield_protocol::node::{NodeRecord, NodeVersion, Role};
use nearfield_protocol::records::RecordKind;
use nearfield_protocol::{NodeId, unix_ms};

use super::invitations::Again;
use super::rate::Rate;
use super::{Answer, Invitations, QUESTION_BYTES, Request};
use crate::document::Document;
use crate::endpoint::node_id;
use crate::error::NetError;
use crate::frame;
use crate::network::Contact;
use crate::peers::{MAX_ADDRESSES, Peers};
use crate::seldom::Seldom;

/// A stranger has this long to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets in who shows a ticket of this node.
pub(crate) struct Joining {
    pub document: Arc<Document>,
    pub peers: Peers,
    pub invitations: Arc<Invitations>,
    pub rate: Rate,
    pub refusals: Refusals,
}

/// What is said of attempts that come to nothing, each kind once a minute.
#[derive(Default)]
pub(crate) struct Refusals {
    too_many: Seldom,
    refused: Seldom,
    ended_early: Seldom,
}

impl std::fmt::Debug for Joining {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Joining")
    }
}

impl ProtocolHandler for Joining {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let node = node_id(&connection.remote_id());
        let (source, now) = (source(&connection), Instant::now());
        let refusals = &self.refusals;
        if !self.rate.take(source, now) {
            if let Some(attempts) = refusals.too_many.say(now) {
                let node = node.short();
                tracing::warn!(
                    node,
                    ?source,
                    attempts,
                    "too many attempts to join: they are not looked at"
                );
            }
            connection.close(2u32.into(), b"too many attempts to join");
            return Ok(());
        }
        let answered = tokio::time::timeout(PATIENCE, async {
            let (mut send, mut receive) = connection.accept_bi().await?;
            let request: Request = frame::read(&mut receive, QUESTION_BYTES).await?;
            let answer = match self.admit(node, request).await {
                Ok(answer) => answer,
                Err(reason) => {
                    if let Some(attempts) = refusals.refused.say(now) {
                        let node = node.short();
                        tracing::warn!(node, ?source, reason, attempts, "refused to let a node join");
                    }
                    Answer::Refused(reason)
                }
            };
            frame::write(&mut send, &answer).await?;
            let _ = send.finish();
            // The answer is read before the connection ends.
            let _ = send.stopped().await;
            Ok::<_, std::io::Error>(())
        });
        if !matches!(answered.await, Ok(Ok(())))
            && let Some(attempts) = refusals.ended_early.say(now)
        {
            let node = node.short();
            tracing::warn!(node, ?source, attempts, "an attempt to join came to nothing");
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
        let now = unix_ms(SystemTime::now());
        let member = records.node(&node).map(|member| member.node.role);
        let again = may_ask_again(member, records.has_left(&node));
        let offer = self.invitations.redeem(&request.nonce, node, again, now);
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

/// What of a ticket that a node used may be answered once more to it, because the first answer may have been lost: an offer of
/// what it is now, or anything if its record was never written. Who has left has to be invited anew.
fn may_ask_again(member: Option<Role>, has_left: bool) -> Again {
    match (member, has_left) {
        (Some(role), _) => Again::As(role),
        (None, false) => Again::Anything,
        (None, true) => Again::Nothing,
    }
}

/// Where a connection comes from.
fn source(connection: &Connection) -> Option<IpAddr> {
    let paths = connection.paths();
    let mut addresses = paths.iter().filter_map(|path| match path.remote_addr() {
        TransportAddr::Ip(address) => Some((path.is_selected(), address.ip())),
        _ => None,
    });
    let first = addresses.next();
    let selected = addresses.find(|(selected, _)| *selected);
    selected.or(first).map(|(_, address)| address)
}
