//! Who may speak: members, each on the protocols of its role.

use std::collections::HashMap;
use std::sync::Arc;

use iroh::endpoint::{Connection, ConnectionError};
use iroh::protocol::{AcceptError, ProtocolHandler};
use nearfield_protocol::NodeId;
use parking_lot::Mutex;

use crate::document::Document;
use crate::endpoint::node_id;

/// What a node closes the connections with of who is no member.
const NOT_A_MEMBER: u32 = 1;

/// Closes a connection with a node that is no member.
pub(crate) fn refuse(connection: &Connection) {
    connection.close(NOT_A_MEMBER.into(), b"not a member");
}

/// Whether the other side closed it because this node is no member of its network.
pub(crate) fn is_refused(connection: &Connection) -> bool {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) => close.error_code == NOT_A_MEMBER.into(),
        _ => false,
    }
}

/// The connections that others have made to this node.
#[derive(Default)]
pub(crate) struct Doors {
    /// The lock is held for one look-up.
    open: Mutex<HashMap<NodeId, HashMap<usize, Connection>>>,
}

impl Doors {
    /// Ends the connections of those that are not members any more.
    pub fn close_to(&self, gone: impl Fn(&NodeId) -> bool) {
        let open = self.open.lock();
        for (node, connections) in open.iter().filter(|(node, _)| gone(node)) {
            tracing::info!(
                node = node.short(),
                "closing the connections of a node that is no member"
            );
            connections.values().for_each(refuse);
        }
    }

    fn enter(self: &Arc<Self>, node: NodeId, connection: &Connection) -> Inside {
        let mut open = self.open.lock();
        let id = connection.stable_id();
        open.entry(node).or_default().insert(id, connection.clone());
        Inside {
            doors: self.clone(),
            node,
            id,
        }
    }
}

/// A connection's place among the open ones.
struct Inside {
    doors: Arc<Doors>,
    node: NodeId,
    id: usize,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut open = self.doors.open.lock();
        if let Some(connections) = open.get_mut(&self.node) {
            connections.remove(&self.id);
            if connections.is_empty() {
                open.remove(&self.node);
            }
        }
    }
}

/// Who is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admits {
    Members,
    Gateways,
}

/// A protocol behind a check of membership.
pub(crate) struct Gate<P> {
    pub document: Arc<Document>,
    pub doors: Arc<Doors>,
    pub admits: Admits,
    pub protocol: P,
}

impl<P> std::fmt::Debug for Gate<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate to {:?}", self.admits)
    }
}

impl<P: ProtocolHandler> ProtocolHandler for Gate<P> {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let node = node_id(&connection.remote_id());
        let records = self.document.records();
        let reason = match self.admits {
            _ if records.is_expelled(&node) => Some("it was expelled"),
            _ if !self.document.admits(&node) => Some("it is no member"),
            Admits::Gateways if !records.is_gateway(&node) => Some("it is no gateway"),
            _ => None,
        };
        if let Some(reason) = reason {
            let protocol = String::from_utf8_lossy(connection.alpn()).into_owned();
            tracing::warn!(node = node.short(), protocol, reason, "refused a connection");
            refuse(&connection);
            return Ok(());
        }
        let inside = self.doors.enter(node, &connection);
        let served = self.protocol.accept(connection).await;
        drop(inside);
        served
    }

    async fn shutdown(&self) {
        self.protocol.shutdown().await;
    }
}
