//! Who may speak: members, each on the protocols of its role.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, ConnectionError, WeakConnectionHandle};
use iroh::protocol::{AcceptError, ProtocolHandler};
use nearfield_protocol::NodeId;
use parking_lot::Mutex;

use crate::document::Document;
use crate::endpoint::node_id;
use crate::seldom::Seldom;

/// What a node closes the connections with of who is no member.
const NOT_A_MEMBER: u32 = 1;
/// The same of who has made too many since.
const TOO_MANY: u32 = 2;
/// Connections of one member for one protocol: it needs one, and some may linger after it was started again.
pub(crate) const CONNECTIONS: usize = 8;
/// Of those that exchange records: a message of theirs may have 1 GiB, which is the library's limit.
pub(crate) const EXCHANGES: usize = 2;
/// How long an exchange of records may take.
pub(crate) const LONGEST_EXCHANGE: Duration = Duration::from_secs(300);

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

/// A member and a protocol.
type Door = (NodeId, Vec<u8>);

/// The connections that others have made to this node.
#[derive(Default)]
pub(crate) struct Doors {
    /// In the order in which they came. The lock is held for one look-up.
    open: Mutex<HashMap<Door, VecDeque<(usize, WeakConnectionHandle)>>>,
}

impl Doors {
    /// Ends the connections of those that are not members any more.
    pub fn close_to(&self, gone: impl Fn(&NodeId) -> bool) {
        let open = self.open.lock();
        for ((node, _), connections) in open.iter().filter(|((node, _), _)| gone(node)) {
            tracing::info!(
                node = node.short(),
                "closing the connections of a node that is no member"
            );
            let there = connections
                .iter()
                .filter_map(|(_, connection)| connection.upgrade());
            there.for_each(|connection| refuse(&connection));
        }
    }

    /// Lets a connection in. Where the member has `most` for this protocol, the oldest gives way.
    fn enter(self: &Arc<Self>, node: NodeId, connection: &Connection, most: usize) -> Inside {
        let door = (node, connection.alpn().to_vec());
        let mut open = self.open.lock();
        let connections = open.entry(door.clone()).or_default();
        while connections.len() >= most
            && let Some((_, oldest)) = connections.pop_front()
        {
            close(&oldest, b"too many connections");
        }
        let id = connection.stable_id();
        connections.push_back((id, connection.weak_handle()));
        Inside {
            doors: self.clone(),
            door,
            id,
        }
    }
}

fn close(connection: &WeakConnectionHandle, why: &[u8]) {
    if let Some(connection) = connection.upgrade() {
        connection.close(TOO_MANY.into(), why);
    }
}

/// A connection's place among the open ones.
struct Inside {
    doors: Arc<Doors>,
    door: Door,
    id: usize,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut open = self.doors.open.lock();
        if let Some(connections) = open.get_mut(&self.door) {
            connections.retain(|(id, _)| *id != self.id);
            if connections.is_empty() {
                open.remove(&self.door);
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
    /// Connections of one member.
    pub most: usize,
    /// How long one may last, if that is bounded.
    pub longest: Option<Duration>,
    pub refused: Refused,
    pub protocol: P,
}

/// When it was said last that somebody was refused, for each reason.
#[derive(Default)]
pub(crate) struct Refused {
    expelled: Seldom,
    stranger: Seldom,
    host: Seldom,
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
            _ if records.is_expelled(&node) => Some(("it was expelled", &self.refused.expelled)),
            _ if !self.document.admits(&node) => Some(("it is no member", &self.refused.stranger)),
            Admits::Gateways if !records.is_gateway(&node) => Some(("it is no gateway", &self.refused.host)),
            _ => None,
        };
        if let Some((reason, seldom)) = reason {
            // Anybody may come as often as it likes.
            if let Some(times) = seldom.say(Instant::now()) {
                let protocol = String::from_utf8_lossy(connection.alpn()).into_owned();
                tracing::warn!(
                    node = node.short(),
                    protocol,
                    reason,
                    times,
                    "refused a connection"
                );
            }
            refuse(&connection);
            return Ok(());
        }
        let inside = self.doors.enter(node, &connection, self.most);
        let handle = connection.weak_handle();
        let closed = handle.closed();
        // Some protocols hand the connection on, and it goes on without them.
        let serving = async {
            let served = self.protocol.accept(connection).await;
            closed.await;
            served
        };
        let served = match self.longest {
            None => serving.await,
            Some(longest) => tokio::time::timeout(longest, serving).await.unwrap_or_else(|_| {
                close(&handle, b"it took too long");
                Ok(())
            }),
        };
        drop(inside);
        served
    }

    async fn shutdown(&self) {
        self.protocol.shutdown().await;
    }
}
