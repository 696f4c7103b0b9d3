//! HTTP in: listeners, routing, auth, admission, placement, dispatch, and the admin API.
//!
//! A request goes top-down through `server`, then `functions` (route → auth → admit → place →
//! dispatch → finish) or `admin`. Never links an engine: hosts are behind `dispatch`.

mod admin;
mod admit;
mod auth;
mod body;
mod booking;
mod calls;
mod catalog;
mod content;
mod dispatch;
mod finish;
mod functions;
mod hosts;
mod jobs;
mod metrics;
pub mod place;
mod remaining;
mod reply;
mod route;
mod server;
mod stall;

pub use admit::Admission;
pub use auth::{Auth, load_or_create_admin_token};
pub use body::Body;
pub use calls::Calls;
pub use catalog::Catalog;
pub use dispatch::{Boxed, Dispatch, LogQuery, Logged, Replayed, RunOf, Surface};
pub use hosts::Hosts;
pub use jobs::{JobRecord, Jobs, resume_jobs};
pub use metrics::Metrics;
pub use route::Routes;
pub use server::{DRAIN, Gateway, Peer, Side, serve};
