//! The hosts that this gateway knows, as placement sees them. So far there is one: this node.

use http::HeaderValue;
use nearfield_protocol::NodeId;

use crate::place::HostView;

/// Fuel that one core burns in a millisecond: an estimate until hosts measure their own. It only
/// matters as a ratio between hosts.
const FUEL_PER_MS: u64 = 3_000_000;
/// Bytes a millisecond that a verified transfer over loopback reaches.
const LINK_BYTES_PER_MS: u64 = 240_000;

/// What is known of the hosts.
pub struct Hosts {
    local: NodeId,
    /// `nearfield-host` of this node, made once.
    header: HeaderValue,
}

impl Hosts {
    pub fn new(local: NodeId) -> Self {
        let header = HeaderValue::from_str(&local.short()).unwrap_or(HeaderValue::from_static("local"));
        Hosts { local, header }
    }

    /// A snapshot for placement.
    pub fn views(&self) -> [HostView; 1] {
        [HostView {
            id: self.local,
            draining: false,
            queued_fuel: 0,
            fuel_per_ms: FUEL_PER_MS,
            link_bytes_per_ms: LINK_BYTES_PER_MS,
            has_code: true,
            missing_bytes: 0,
        }]
    }

    /// How a host is named in responses.
    pub fn header(&self, host: &NodeId) -> HeaderValue {
        if *host == self.local {
            return self.header.clone();
        }
        HeaderValue::from_str(&host.short()).unwrap_or(HeaderValue::from_static("unknown"))
    }
}
