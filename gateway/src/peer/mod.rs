//! What gateways of other nodes ask of this node's host: calls, runs, puts. How they ask is `nearfield_cluster::peer`.

mod read_to_end;
mod serve;

pub use serve::{Serving, serve_calls};
