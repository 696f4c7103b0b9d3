//! Functions compute on a GPU, on shards that stay in its memory.
//!
//! Three sides, each behind a feature. `device` drives one adapter through wgpu and nothing else: guests' shaders are checked
//! and made to end first (`shader`). `worker` is that device in a process of its own, behind walls. `client` is the host's
//! side: it starts the worker, decides what stays in GPU memory (`resident`), and kills what takes too long. The worker
//! decides nothing: it does what one message says, and answers it.

pub mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod limits;
pub mod wire;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "device")]
pub mod device;
#[cfg(feature = "client")]
pub mod resident;
#[cfg(feature = "shader")]
pub mod shader;
#[cfg(feature = "worker")]
mod worker;

pub use error::GpuError;
pub use wire::{Description, Usage};
#[cfg(feature = "worker")]
pub use worker::{worker_main, worker_may_open};
