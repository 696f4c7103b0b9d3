//! The types of `nearfield:gpu/compute`, as they cross the guest's boundary.

use nearfield_gpu::GpuError;
use wasmtime::component::{ComponentType, Lift, Lower, Resource};

use super::{BufferHandle, PipelineHandle};

#[derive(Debug, Clone, ComponentType, Lift, Lower)]
#[component(variant)]
pub enum WitError {
    #[component(name = "denied")]
    Denied(String),
    #[component(name = "invalid")]
    Invalid(String),
    #[component(name = "not-found")]
    NotFound(String),
    #[component(name = "quota")]
    Quota(String),
    #[component(name = "timeout")]
    Timeout(String),
    #[component(name = "device-lost")]
    DeviceLost(String),
    #[component(name = "unavailable")]
    Unavailable(String),
}

impl From<GpuError> for WitError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::Denied(text) => WitError::Denied(text),
            GpuError::Invalid(text) => WitError::Invalid(text),
            GpuError::NotFound(text) => WitError::NotFound(text),
            GpuError::Quota(text) => WitError::Quota(text),
            GpuError::Timeout(text) => WitError::Timeout(text),
            GpuError::DeviceLost(text) => WitError::DeviceLost(text),
            GpuError::Unavailable(text) => WitError::Unavailable(text),
        }
    }
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub struct WitDescription {
    pub name: String,
    pub backend: String,
    pub driver: String,
    pub software: bool,
    pub f16: bool,
    pub subgroups: bool,
    #[component(name = "max-buffer-bytes")]
    pub max_buffer_bytes: u64,
    #[component(name = "max-binding-bytes")]
    pub max_binding_bytes: u64,
    #[component(name = "binding-alignment")]
    pub binding_alignment: u32,
    #[component(name = "max-workgroups-per-dimension")]
    pub max_workgroups_per_dimension: u32,
    #[component(name = "max-workgroup-invocations")]
    pub max_workgroup_invocations: u32,
    #[component(name = "max-workgroup-bytes")]
    pub max_workgroup_bytes: u32,
    #[component(name = "max-loop-turns")]
    pub max_loop_turns: u32,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct WitSlice {
    pub buffer: Resource<BufferHandle>,
    pub offset: u64,
    pub size: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct WitBound {
    pub binding: u32,
    pub slice: WitSlice,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct WitDispatch {
    pub pipeline: Resource<PipelineHandle>,
    pub bindings: Vec<WitBound>,
    pub workgroups: (u32, u32, u32),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct WitCopy {
    pub source: WitSlice,
    pub target: Resource<BufferHandle>,
    #[component(name = "target-offset")]
    pub target_offset: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct WitWrite {
    pub target: Resource<BufferHandle>,
    pub offset: u64,
    pub bytes: Vec<u8>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
pub enum WitStep {
    #[component(name = "dispatch")]
    Dispatch(WitDispatch),
    #[component(name = "copy")]
    Copy(WitCopy),
    #[component(name = "write")]
    Write(WitWrite),
}

#[derive(ComponentType, Lift)]
#[component(record)]
pub struct WitOptions {
    pub reads: Vec<WitSlice>,
    #[component(name = "timeout-ms")]
    pub timeout_ms: Option<u32>,
}

#[derive(ComponentType, Lift, Lower)]
#[component(record)]
pub struct WitUsage {
    #[component(name = "gpu-ns")]
    pub gpu_ns: u64,
    #[component(name = "compile-us")]
    pub compile_us: u64,
    #[component(name = "uploaded-bytes")]
    pub uploaded_bytes: u64,
    #[component(name = "downloaded-bytes")]
    pub downloaded_bytes: u64,
    #[component(name = "resident-hits")]
    pub resident_hits: u32,
    #[component(name = "resident-misses")]
    pub resident_misses: u32,
}
