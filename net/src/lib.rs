//! A node on the network: its identity, its endpoint, the records it shares, what it gives and takes.
//!
//! `join` is how a node becomes a member, `gate` keeps all others out; `document` is the replicated records and `view` what
//! they add up to; `control` is what nodes tell each other, `bytes` how blobs move, `residency` where they may; `peers` are the
//! connections.

mod bytes;
mod confirm;
pub mod control;
mod document;
mod endpoint;
mod error;
mod follow;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gate;
mod identity;
mod join;
mod network;
mod node;
mod node_places;
mod peers;
mod present;
mod residency;
mod seldom;
#[cfg(test)]
mod tests;
mod view;
mod write;

pub use bytes::BLOB_BYTES;
pub use error::NetError;
pub use identity::{Identity, vouches};
pub use join::{Invitation, Offer, Ticket, join};
pub use network::{Contact, Network};
pub use node::{CallStream, Inbox, Node, NodeOptions};
pub use node_places::NodePlaces;
pub use peers::{CALL, Peers};
pub use seldom::Seldom;
pub use view::{Membership, Records};
