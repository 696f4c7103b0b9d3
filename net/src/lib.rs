//! A node on the network: its identity, its endpoint, the records it shares.
//!
//! `remote` reads what lies on servers that are no nodes.
//!
//! One node so far: the endpoint listens on loopback and the document has one replica. What crosses
//! nodes is already what it will be: signed records under prefix-free keys.

mod identity;
mod node;
pub mod remote;
mod view;

pub use identity::Identity;
pub use node::{NetError, Node};
pub use view::Records;
