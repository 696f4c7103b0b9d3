//! The GPU, as a node starts its worker and tells others of it.

use anyhow::Context;
use nearfield_gpu::client::{Gpu, GpuOptions, WorkerCommand};
use nearfield_gpu::wire::Choice;
use nearfield_protocol::gpu::{AdapterKind, GpuAdvert};

/// How the GPU's worker is started: as this same program.
pub fn gpu_options(choice: Choice, budget_bytes: Option<u64>) -> anyhow::Result<GpuOptions> {
    Ok(GpuOptions {
        worker: WorkerCommand {
            program: std::env::current_exe().context("finding this executable, which drives the GPU")?,
            arguments: vec!["gpu-worker".into()],
        },
        choice,
        budget_bytes,
    })
}

/// What others are told of the GPU, once it is known.
pub fn advert(gpu: &Gpu) -> Option<GpuAdvert> {
    let description = gpu.known()?;
    Some(GpuAdvert {
        name: description.name.as_str().into(),
        kind: match description.software {
            true => AdapterKind::Software,
            false => AdapterKind::Hardware,
        },
        resident_bytes: gpu.resident_bytes(),
    })
}
