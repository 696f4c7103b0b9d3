//! Reaching other nodes: where they are, and connections that are used again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{ConnectOptions, Connection, QuicTransportConfig, RecvStream, SendStream};
use iroh::{Endpoint, EndpointAddr};
use nearfield_protocol::NodeId;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::endpoint::{SEND_WINDOW_BYTES, STREAM_WINDOW_BYTES, STREAMS, addresses, endpoint_id, node_id};
use crate::error::NetError;
use crate::frame;
use crate::gate;
use crate::network::Contact;

/// Open to strangers: redeems invitations.
pub const JOIN: &[u8] = b"nearfield/join/1";
/// Beats, holdings, and what gateways and hosts ask of each other.
pub const CONTROL: &[u8] = b"nearfield/control/1";
/// Ranges of blobs.
pub const BYTES: &[u8] = b"nearfield/bytes/1";
/// Calls and runs, as HTTP.
pub const CALL: &[u8] = b"nearfield/call/2";

/// How long a connection may take to be made; one for calls no longer than a call's host may be silent.
const CONNECT: Duration = Duration::from_secs(3);
/// A host that is silent for as long during a call is given up: what may be retried is then, the rest is answered within a
/// second. The clock starts anew with the first packet of our own that is sent into the silence, so it may take
/// [`KEEP_ALIVE`] longer.
const CALL_SILENCE: Duration = Duration::from_millis(700);
/// Elsewhere a machine that is busy for a moment costs more than waiting for it.
const SILENCE: Duration = Duration::from_secs(3);
/// How often packets of our own keep an idle connection alive.
const KEEP_ALIVE: Duration = Duration::from_millis(200);
/// Connections that are kept; a member has at most one of each kind with each other.
const MAX_CONNECTIONS: u64 = 4_096;
/// Addresses that are kept of one node.
pub const MAX_ADDRESSES: usize = 16;

/// The other nodes, as this one reaches them.
#[derive(Clone)]
pub struct Peers {
    endpoint: Endpoint,
    lookup: MemoryLookup,
    connections: moka::future::Cache<(NodeId, &'static [u8]), Connection>,
    /// The lock is held for one look-up.
    book: Arc<Mutex<BTreeMap<NodeId, Vec<SocketAddr>>>>,
}

/// Of connections whose end must be noticed soon.
fn impatient(alpn: &[u8]) -> QuicTransportConfig {
    let silence = if alpn == CALL { CALL_SILENCE } else { SILENCE };
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(STREAMS.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(silence.try_into().ok())
        .keep_alive_interval(KEEP_ALIVE)
        .build()
}

impl Peers {
    pub(crate) fn new(endpoint: Endpoint, lookup: MemoryLookup) -> Self {
        Peers {
            endpoint,
            lookup,
            connections: moka::future::Cache::new(MAX_CONNECTIONS),
            book: Arc::default(),
        }
    }

    /// Learns where a node is.
    pub fn learn(&self, contact: &Contact) {
        if contact.addresses.is_empty() || contact.id == self.id() {
            return;
        }
        if let Ok(id) = endpoint_id(&contact.id) {
            let addresses = contact.addresses.iter().take(MAX_ADDRESSES);
            let address = addresses.fold(EndpointAddr::new(id), |address, ip| address.with_ip_addr(*ip));
            self.lookup.set_endpoint_info(address);
        }
        let mut book = self.book.lock();
        book.insert(
            contact.id,
            contact.addresses.iter().take(MAX_ADDRESSES).copied().collect(),
        );
    }

    /// Where nodes were last reached.
    pub fn book(&self) -> Vec<Contact> {
        let book = self.book.lock();
        let contact = |(id, addresses): (&NodeId, &Vec<SocketAddr>)| Contact {
            id: *id,
            addresses: addresses.clone(),
        };
        book.iter().map(contact).collect()
    }

    pub fn id(&self) -> NodeId {
        node_id(&self.endpoint.id())
    }

    /// Where this node may be reached, as far as it knows.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.endpoint, &[])
    }

    /// A connection of this kind, made if there is none.
    pub async fn connection(&self, node: NodeId, alpn: &'static [u8]) -> Result<Connection, NetError> {
        let key = (node, alpn);
        if let Some(open) = self.connections.get(&key).await {
            if open.close_reason().is_none() {
                return Ok(open);
            }
            self.connections.invalidate(&key).await;
        }
        let made = self.connections.try_get_with(key, self.connect(node, alpn)).await;
        made.map_err(|error| NetError::Unreachable {
            node,
            cause: error.to_string(),
        })
    }

    async fn connect(&self, node: NodeId, alpn: &'static [u8]) -> Result<Connection, String> {
        let id = endpoint_id(&node)?;
        let options = ConnectOptions::new().with_transport_config(impatient(alpn));
        let connecting = async {
            let connecting = self.endpoint.connect_with_opts(id, alpn, options).await;
            let connecting = connecting.map_err(|error| error.to_string())?;
            connecting.await.map_err(|error| error.to_string())
        };
        let patience = if alpn == CALL { CALL_SILENCE } else { CONNECT };
        match tokio::time::timeout(patience, connecting).await {
            Ok(made) => made,
            Err(_) => Err(format!("no answer within {} s", patience.as_secs_f32())),
        }
    }

    /// A new stream to `node`.
    pub async fn open(
        &self,
        node: NodeId,
        alpn: &'static [u8],
    ) -> Result<(SendStream, RecvStream), NetError> {
        let connection = self.connection(node, alpn).await?;
        match tokio::time::timeout(CONNECT, connection.open_bi()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(self.lost(node, alpn, error.to_string()).await),
            Err(_) => Err(NetError::Unreachable {
                node,
                cause: format!("the node accepted no new stream within {} s", CONNECT.as_secs()),
            }),
        }
    }

    async fn lost(&self, node: NodeId, alpn: &'static [u8], cause: String) -> NetError {
        self.connections.invalidate(&(node, alpn)).await;
        NetError::Unreachable { node, cause }
    }

    /// Asks one question on a stream of its own.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        node: NodeId,
        alpn: &'static [u8],
        question: &impl Serialize,
        max_answer_bytes: usize,
        patience: Duration,
    ) -> Result<T, NetError> {
        let asked = async {
            let (mut send, mut receive) = self.open(node, alpn).await?;
            let failed = |error: std::io::Error| NetError::Unreachable {
                node,
                cause: error.to_string(),
            };
            frame::write(&mut send, question).await.map_err(failed)?;
            let _ = send.finish();
            frame::read(&mut receive, max_answer_bytes).await.map_err(failed)
        };
        let timed_out = |_| NetError::Unreachable {
            node,
            cause: format!("no answer within {} s", patience.as_secs_f32()),
        };
        tokio::time::timeout(patience, asked).await.map_err(timed_out)?
    }

    /// Ends all connections with a node.
    pub async fn forget(&self, node: NodeId) {
        for alpn in [JOIN, CONTROL, BYTES, CALL] {
            if let Some(connection) = self.connections.remove(&(node, alpn)).await {
                gate::refuse(&connection);
            }
        }
    }
}
