//! Dispatch between nodes: what a gateway asks of another node's host, on a stream each.

pub(crate) mod client;
pub mod forward;
pub mod message;
mod remote_body;
