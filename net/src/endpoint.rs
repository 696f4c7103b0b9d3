//! The QUIC endpoint of a node: how it is bound, and what its connections behave like.

use std::net::SocketAddr;

use iroh::address_lookup::memory::MemoryLookup;
use iroh::endpoint::{PortmapperConfig, QuicTransportConfig, presets};
use iroh::{Endpoint, EndpointId};
use nearfield_protocol::NodeId;

use crate::error::NetError;
use crate::identity::Identity;

/// What one stream may have on its way. The other end keeps at most 1,024 pieces apart that came out of order, and ends the
/// connection beyond; a packet has at least 1,200 bytes, so with this no loss can come to that. More at once goes over
/// several streams.
pub const STREAM_WINDOW_BYTES: u32 = 1 << 20;
pub const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Requests on one connection at once.
pub const STREAMS: u32 = 1_024;

/// Binds an endpoint that nothing else finds or maps: no relay, no lookup, no UPnP.
pub async fn bind(
    identity: &Identity,
    listen: SocketAddr,
    advertise: &[SocketAddr],
) -> Result<(Endpoint, MemoryLookup), NetError> {
    let lookup = MemoryLookup::new();
    let mut builder = Endpoint::builder(presets::Minimal)
        .secret_key(identity.secret().clone())
        .transport_config(transport())
        .portmapper_config(PortmapperConfig::Disabled {})
        .address_lookup(lookup.clone())
        .clear_ip_transports()
        .bind_addr(listen)
        .map_err(|error| NetError::Endpoint(error.to_string()))?;
    for address in advertise {
        builder = builder.external_addr(*address);
    }
    let endpoint = builder
        .bind()
        .await
        .map_err(|error| NetError::Endpoint(format!("binding UDP {listen}: {error}")))?;
    Ok((endpoint, lookup))
}

/// Where others may reach an endpoint.
pub fn addresses(endpoint: &Endpoint, advertise: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = advertise.to_vec();
    addresses.extend(endpoint.addr().ip_addrs());
    // Bound to one address, that is it.
    let bound = endpoint.bound_sockets();
    addresses.extend(bound.iter().filter(|address| !address.ip().is_unspecified()));
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// How all of a node's connections behave.
fn transport() -> QuicTransportConfig {
    QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(STREAMS.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .build()
}

/// A node's id as the key of its endpoint.
pub fn endpoint_id(node: &NodeId) -> Result<EndpointId, String> {
    EndpointId::from_bytes(node.as_bytes()).map_err(|error| format!("{node} is no key: {error}"))
}

/// An endpoint's key as the id of its node.
pub fn node_id(id: &EndpointId) -> NodeId {
    NodeId::from_bytes(*id.as_bytes())
}
