//! What goes wrong between nodes.

use nearfield_protocol::{NodeId, Problem};
use nearfield_store::StoreError;

/// Why the network part of a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("the node's endpoint: {0}")]
    Endpoint(String),
    #[error("the record document: {0}")]
    Records(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("`{name}` is at version {found}, not {expected}: look at what changed and try again")]
    Conflict { name: String, found: u64, expected: u64 },
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("node {} cannot be reached: {cause}", .node.short())]
    Unreachable { node: NodeId, cause: String },
    #[error("node {} refused: {reason}", .node.short())]
    Refused { node: NodeId, reason: String },
    #[error("this node is a host: a gateway writes {0}")]
    NotAGateway(&'static str),
    #[error(
        "written here, but no other node has confirmed it within {seconds} s: it will spread once one can be reached"
    )]
    Unconfirmed { seconds: u64 },
    #[error(
        "a record of `{0}` cannot be read, because its value on this node's disk is lost or broken: restore the data folder from a \
         backup, or start another gateway that has the record"
    )]
    Unreadable(String),
    /// What another node answered instead of doing what it was asked.
    #[error("{0}")]
    Failed(Problem),
    #[error("{0}")]
    Ticket(String),
    #[error("{0}")]
    Membership(String),
}

impl NetError {
    pub(crate) fn records(error: impl std::fmt::Display) -> Self {
        NetError::Records(error.to_string())
    }
}
