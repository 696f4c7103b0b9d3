//! Handles of hosts: of the one in this process, and of those of other nodes.

use std::sync::Arc;

use nearfield_net::Peers;
use nearfield_protocol::NodeId;

use crate::host::Host;
use crate::peer::client::RemoteHost;

/// Gives the handle of each host.
pub struct Dispatch {
    local: NodeId,
    /// This node's own host, if it has one.
    here: Option<Arc<dyn Host>>,
    peers: Peers,
}

impl Dispatch {
    pub fn new(local: NodeId, here: Option<Arc<dyn Host>>, peers: Peers) -> Self {
        Dispatch { local, here, peers }
    }

    /// The handle of a host. Nothing is sent yet.
    pub fn to(&self, host: NodeId) -> Arc<dyn Host> {
        match &self.here {
            Some(here) if host == self.local => here.clone(),
            _ => Arc::new(RemoteHost::new(self.peers.clone(), host)),
        }
    }
}
