//! How a node becomes part of a network: a ticket, redeemed once, at the node that made it.

mod invitations;
mod rate;
mod serve;
mod ticket;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nearfield_protocol::NodeId;
use serde::{Deserialize, Serialize};

pub(crate) use invitations::Invitations;
pub use invitations::{Invitation, Offer};
pub(crate) use rate::Rate;
pub(crate) use serve::{Joining, Refusals};
pub use ticket::Ticket;

use crate::document::{Document, Granted};
use crate::endpoint::{addresses, bind};
use crate::error::NetError;
use crate::identity::Identity;
use crate::network::{Contact, Network};
use crate::peers::{JOIN, Peers};

/// Longest question and answer: an answer lists every node.
const QUESTION_BYTES: usize = 16 << 10;
const ANSWER_BYTES: usize = 4 << 20;
/// How long the issuer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a node that wants to join sends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    nonce: [u8; 32],
    /// Where others can reach it.
    addresses: Vec<SocketAddr>,
}

/// What it gets.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Welcome {
        capability: Granted,
        founder: NodeId,
        role: nearfield_protocol::node::Role,
        known: Vec<Contact>,
    },
    Refused(String),
}

/// Redeems a ticket and writes into `dir` what it gave. The node is a member afterwards, and comes up as one.
pub async fn join(
    dir: &Path,
    identity: &Identity,
    listen: SocketAddr,
    advertise: &[SocketAddr],
    ticket: &Ticket,
) -> Result<Network, NetError> {
    let (endpoint, lookup) = bind(identity, listen, advertise).await?;
    let peers = Peers::new(endpoint.clone(), lookup);
    peers.learn(&Contact {
        id: ticket.issuer,
        addresses: ticket.addresses.clone(),
    });
    let request = Request {
        nonce: ticket.nonce,
        addresses: addresses(&endpoint, advertise),
    };
    let asked = peers
        .ask(ticket.issuer, JOIN, &request, ANSWER_BYTES, PATIENCE)
        .await;
    endpoint.close().await;
    match asked? {
        Answer::Refused(reason) => Err(NetError::Refused {
            node: ticket.issuer,
            reason,
        }),
        Answer::Welcome {
            capability,
            founder,
            role,
            known,
        } => {
            let document = Document::import(dir, capability).await?;
            let network = Network {
                document,
                founder,
                introducer: Some(ticket.issuer),
                role,
                known,
            };
            network.save(dir)?;
            Ok(network)
        }
    }
}
