//! One node, from its configuration to its end: the composition root.
//!
//! `open` opens what lies in the data folder, `wire` makes the parts know each other, `serve` starts all that runs for as long as
//! the node does, `stop` ends it in an order in which nothing is lost. `tasks` are those long-lived tasks. `walls` close the
//! process in before anything else. Whoever starts a node says how with a `Config`, and learns where it is from `Up`.

mod config;
mod data_dir;
mod gpu;
mod listeners;
mod local;
mod loops;
mod machine;
mod open;
mod run;
mod runtimes;
mod serve;
mod tasks;
mod tls;
mod up;
mod walls;
mod wire;

pub use config::Config;
pub use data_dir::DataDir;
pub use gpu::gpu_options;
pub use run::{join, run};
pub use up::Up;
