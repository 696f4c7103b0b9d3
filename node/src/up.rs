//! Where a node is.

use std::net::SocketAddr;

use nearfield_protocol::NodeId;
use nearfield_protocol::node::Role;

/// Where a node is that is up.
#[derive(Debug, Clone)]
pub struct Up {
    pub node: NodeId,
    pub role: Role,
    /// Where other nodes reach it.
    pub peers: Vec<SocketAddr>,
    /// Empty for a host, which takes no requests.
    pub functions_url: String,
    pub admin_url: String,
}
