//! Runs WebAssembly components: engines, lanes, limits, data imports.
//!
//! A call goes top-down through `host` (admission), `components` (digest → ready to instantiate),
//! `invoke` (one call, one task) and `instances` (the guest itself). `guest` is what a store holds, `meter` what
//! it pays for and how long it may go on, `memory` what it may take; `data`, `gpu`, `outgoing` and `logs` are what guests may touch.

mod compile;
mod components;
mod data;
mod engine;
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
mod logs;
mod memory;
mod meter;
mod outgoing;
mod output;
mod places;
mod pure;
mod random;

pub use compile::{CompilerCommand, compiler_main};
pub use components::Checked;
pub use engine::Lane;
pub use host::{Host, HostError, HostOptions};
pub use inspect::{Inspection, inspect};
pub use invoke::GuestBody;
pub use jobs::Replayed;
pub use logs::{LogLine, LogWriter, Logs};
