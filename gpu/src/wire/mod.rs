//! What a host and its GPU worker say to each other: one [`Request`], one [`Reply`], in turn, over a Unix socket.
//!
//! Bytes do not go through the socket. Those of a guest's writes and reads lie in a window of memory that both have
//! ([`frame::Window`]); a shard comes as a descriptor beside its message.

pub mod frame;

pub use nearfield_protocol::gpu::GpuUsage as Usage;
use serde::{Deserialize, Serialize};

use crate::GpuError;

/// Given by the host; never used twice with one worker.
pub type Id = u64;

/// One message to a worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Message {
    /// Buffers and pipelines that nobody needs any more. They go first.
    pub drop: Vec<Id>,
    pub request: Request,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// The first one. The window comes beside it.
    Open {
        choice: Choice,
        /// What the host will have there; 0 for as much as is usual.
        budget_bytes: u64,
    },
    /// Nothing but to let go.
    LetGo,
    Build {
        pipeline: Id,
        shader: Shader,
    },
    /// A buffer with bytes of the file that comes beside it; zeros up to a multiple of 4.
    Upload {
        buffer: Id,
        offset: u64,
        len: u64,
    },
    Run(Run),
}

/// Which adapter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Choice {
    /// Hardware where there is some, the software adapter otherwise.
    #[default]
    Best,
    Hardware,
    Software,
    /// A part of an adapter's name, or its place among all.
    Named(String),
}

/// What a pipeline is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shader {
    pub wgsl: String,
    pub entry: String,
    pub constants: Vec<(String, f64)>,
}

/// Work for the GPU, in order.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// Buffers of zeros to be made first, with their bytes.
    pub create: Vec<(Id, u64)>,
    pub steps: Vec<Step>,
    /// What is read back in the end. It lies in the window one after the other, each from a multiple of 8.
    pub reads: Vec<Slice>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Step {
    Dispatch {
        pipeline: Id,
        bindings: Vec<Bound>,
        workgroups: [u32; 3],
    },
    Copy {
        from: Slice,
        to: Id,
        to_offset: u64,
    },
    /// Bytes of the window from `at`.
    Write {
        to: Slice,
        at: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bound {
    pub binding: u32,
    pub slice: Slice,
}

/// Bytes of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Slice {
    pub buffer: Id,
    pub offset: u64,
    pub len: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Opened(Box<Description>),
    Built(Built),
    Done,
    Ran(Ran),
    Failed(GpuError),
}

/// One adapter, as its users see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    pub name: String,
    /// `vulkan`, `metal`, `dx12`.
    pub backend: String,
    /// The driver and its version.
    pub driver: String,
    /// It computes on the processor.
    pub software: bool,
    pub f16: bool,
    pub subgroups: bool,
    /// The adapter measures its own time; otherwise it is that of the worker.
    pub timestamps: bool,
    pub max_buffer_bytes: u64,
    /// Of a buffer, what one binding may cover.
    pub max_binding_bytes: u64,
    /// What the offset of a binding is a multiple of.
    pub binding_alignment: u32,
    pub max_workgroups_per_dimension: u32,
    pub max_workgroup_invocations: u32,
    pub max_workgroup_bytes: u32,
    /// Turns that the loops of one invocation have together.
    pub max_loop_turns: u32,
}

/// A pipeline that can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// What it uses, by binding.
    pub bindings: Vec<Binding>,
    pub compile_us: u64,
}

/// A buffer that a shader uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub binding: u32,
    pub access: Access,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    Uniform,
    /// What a shard may be bound as.
    Read,
    ReadWrite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ran {
    /// From the first dispatch to the last one's end.
    pub gpu_ns: u64,
    /// A loop was cut short: what was written is not what its author meant.
    pub exhausted: bool,
}
