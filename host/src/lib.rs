//! Runs WebAssembly components: engines, lanes, limits, data imports.
//!
//! A call goes top-down through `host` (admission), `components` (digest → ready to instantiate), `invoke` (one call, one
//! task) and `instances` (the guest itself); it ends in `closing`, once its response is read (`body`). `guest` is what a store
//! holds, `stores` makes one; `pay` takes the price of host calls from it, `turns` says how long it may hold a thread, `memory`
//! what it may take. `data`, `gpu`, `outgoing` and `logs` are what guests may touch. `pure` and `jobs` are the runs of jobs.

mod body;
mod closing;
mod compile;
mod components;
mod contentless;
mod data;
mod engine;
mod exchange;
mod failure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gpu;
mod guest;
mod host;
mod idle;
mod inspect;
mod instances;
mod invoke;
mod jobs;
mod lane;
mod logs;
mod lookups;
mod memory;
mod meter;
mod outgoing;
mod output;
mod pay;
mod places;
mod problem;
mod pure;
mod random;
mod ready;
mod shared;
mod still;
mod stores;
mod texts;
mod turns;

pub use body::GuestBody;
pub use compile::{CompilerCommand, compiler_main};
pub use components::Checked;
pub use host::{Host, HostError, HostOptions};
pub use inspect::{Inspection, inspect};
pub use jobs::Replayed;
pub use lane::Lane;
pub use logs::{LogLine, LogWriter, Logs};
