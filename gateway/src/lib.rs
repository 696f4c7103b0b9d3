//! HTTP in: listeners, routing, auth, admission, placement, dispatch, and the admin API.
//!
//! A request goes top-down through `server`, then `functions`: `prepare` (route → auth → admit → locate → choose), dispatch,
//! finish; or through `admin`. Never links an engine: hosts are behind `nearfield_cluster::Dispatch`.

mod admin;
mod admit;
mod attempts;
mod auth;
mod body;
mod booking;
mod breaks_late;
mod budget;
mod calls;
mod choose;
mod client;
mod connections;
mod content;
mod contentless;
mod cors;
mod fields;
mod finish;
mod first_bytes;
mod functions;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod heads;
mod line_ends;
mod locate;
mod metrics;
mod origin;
mod own_fields;
mod pace;
mod paths;
mod peer;
mod preconditions;
mod prepare;
mod reply;
mod route;
mod server;
mod shares;
mod stall;
mod state;
mod tokens;
mod untaken;

pub use admin::AdminHosts;
pub use admit::Admission;
pub use auth::{Auth, load_or_create_admin_token};
pub use calls::Calls;
pub use metrics::Metrics;
pub use origin::{Proxies, ProxyRange};
pub use peer::{Serving, serve_calls};
pub use route::Routes;
pub use server::{DRAIN, Side, serve};
pub use state::Gateway;
pub use tokens::{Narrowing, narrow};
