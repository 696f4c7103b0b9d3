//! HTTP in: listeners, routing, auth, admission, placement, dispatch, and the admin API.
//!
//! A request goes top-down through `server`, then `functions` (route → auth → admit → place →
//! dispatch → finish) or `admin`. Never links an engine: hosts are behind `dispatch`.

mod admin;
mod admit;
mod attempts;
mod auth;
mod body;
mod booking;
mod budget;
mod calls;
mod catalog;
mod cluster;
mod content;
mod contentless;
mod cors;
mod dispatch;
mod finish;
mod first_bytes;
mod forget;
mod functions;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod heads;
mod hosts;
mod jobs;
mod line_ends;
mod logs;
mod metrics;
mod open;
mod origin;
mod pace;
mod paths;
mod peer;
pub mod place;
mod preconditions;
mod remaining;
mod reply;
mod route;
mod server;
mod shares;
#[cfg(test)]
mod simulation;
mod stall;
mod tokens;

pub use admin::AdminHosts;
pub use admit::Admission;
pub use auth::{Auth, load_or_create_admin_token};
pub use body::Body;
pub use calls::Calls;
pub use catalog::Catalog;
pub use cluster::{Cluster, PeerBlobs};
pub use dispatch::{Boxed, Dispatch, Given, Host, LogQuery, Logged, Replayed, RunOf, Runs, Surface};
pub use hosts::Hosts;
pub use jobs::{JobRecord, Jobs, resume_jobs};
pub use metrics::Metrics;
pub use origin::{Proxies, ProxyRange};
pub use peer::{Serving, serve_calls};
pub use route::Routes;
pub use server::{DRAIN, Gateway, Peer, Side, serve};
pub use tokens::{Narrowing, narrow};
