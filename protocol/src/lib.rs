//! The words that nodes, the command line and the guest's host exchange: digests, names, dataset
//! metas, function manifests, records, limits, the fuel cost table and the problem types.
//!
//! Plain data and pure functions only: nothing here reads a file, a socket or a clock.

pub mod call;
pub mod cost;
mod digest;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gpu;
pub mod http;
pub mod job;
pub mod limits;
pub mod manifest;
pub mod meta;
mod name;
pub mod node;
pub mod problem;
pub mod records;
pub mod said;
mod split;
mod time;
pub mod units;

pub use digest::{Digest, ParseDigestError};
pub use name::{CallId, DatasetName, FunctionName, InvalidName, JobId, NodeId, PartName};
pub use problem::{Problem, ProblemKind};
pub use said::said;
pub use split::{ParseSplitError, Split};
pub use time::unix_ms;
