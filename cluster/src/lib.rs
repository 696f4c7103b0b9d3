//! The nodes of one network as this one uses them: what data and records there are (`catalog`), which hosts are there and hold
//! what (`hosts`), which of them runs a call (`place`), how it is asked (`dispatch`, `peer`), and what this node does as a
//! member (`member`). `Cluster` holds them together. Serves no HTTP, and links no engine.

pub mod body;
mod catalog;
mod cluster;
mod dispatch;
mod drains;
mod fetch;
pub mod host;
mod hosts;
mod logs;
mod member;
mod names;
pub mod peer;
pub mod place;
mod problem;
mod recording;

pub use catalog::{Catalog, DataHold, Granted, Keeping, PutInput, Remaining, Removed, Target};
pub use cluster::Cluster;
pub use dispatch::Dispatch;
pub use drains::Drain;
pub use fetch::PeerBlobs;
pub use hosts::Hosts;
pub use logs::everywhere;
pub use member::Member;
pub use member::repair::{KeptBlobs, REPLICAS, REPLICAS_RANGE, wanted};
pub use problem::{lost, net_problem, store_problem, unknown_dataset, unknown_function, unreachable};
pub use recording::ask_gateways;
