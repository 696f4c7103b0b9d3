//! Compute on the host's GPU, on shards that stay in its memory.
//!
//! The manifest asks for it by `require = { gpu = "any" }`, where the software adapter will do, or `"hardware"`. A [`Kernel`] is
//! a compute shader in WGSL; a [`Buffer`] is memory of the GPU: zeros, or a shard, which the host uploads once and then keeps
//! for whoever uses it next. A [`Batch`] of dispatches, copies, writes and reads goes to the GPU in one call.
//!
//! ```
//! use nearfield::gpu::{Batch, Buffer, Gpu, Kernel};
//! use nearfield::mock;
//!
//! const DOUBLE: &str = "
//!     @group(0) @binding(0) var<storage, read> x: array<f32>;
//!     @group(0) @binding(1) var<storage, read_write> y: array<f32>;
//!     @compute @workgroup_size(64)
//!     fn double(@builtin(global_invocation_id) id: vec3<u32>) {
//!         if id.x < arrayLength(&x) { y[id.x] = 2.0 * x[id.x]; }
//!     }";
//!
//! fn double(numbers: &[f32]) -> nearfield::Result<Vec<f32>> {
//!     let kernel = Kernel::new(DOUBLE, "double")?;
//!     let x = Buffer::zeroed(numbers.len())?;
//!     let y = Buffer::zeroed(numbers.len())?;
//!     let mut batch = Batch::new();
//!     batch.write(&x, 0, numbers);
//!     batch.dispatch(&kernel, [numbers.len().div_ceil(64) as u32, 1, 1], &[x.all(), y.all()]);
//!     let doubled = batch.read(&y, 0..numbers.len());
//!     let mut job = batch.submit()?;
//!     Ok(job.read(doubled)?)
//! }
//!
//! # if std::env::var("NEARFIELD_TEST_GPU").is_ok_and(|value| value == "none") { return }
//! mock::Host::new().gpu().run(|| {
//!     println!("on {}", Gpu::open().unwrap().name);
//!     assert_eq!(double(&[1.0, 2.5]).unwrap(), [2.0, 5.0]);
//! });
//! ```
//!
//! All buffers of a shader are in group 0. Shards are read-only: a shader takes them as `var<storage, read>`. Its loops have a
//! number of turns together ([`Gpu::max_loop_turns`]); a batch with one that takes more is [`GpuError::Quota`]. Floating-point
//! results differ between GPUs in their last bits, so a job that uses one is not remembered beyond its end.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use bytemuck::Pod;

use crate::Shard;
use crate::host::gpu as host;

/// The GPU that a function runs beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    pub name: String,
    /// `vulkan`, `metal`, `dx12`.
    pub backend: String,
    pub driver: String,
    /// It computes on the processor.
    pub software: bool,
    /// Shaders may `enable f16;`
    pub f16: bool,
    /// Shaders may `enable subgroups;`
    pub subgroups: bool,
    pub max_buffer_bytes: u64,
    /// Of a buffer, what one binding may cover.
    pub max_binding_bytes: u64,
    /// What the offset of a binding is a multiple of, in bytes.
    pub binding_alignment: u32,
    pub max_workgroups_per_dimension: u32,
    pub max_workgroup_invocations: u32,
    pub max_workgroup_bytes: u32,
    /// Turns that the loops of one invocation may take together.
    pub max_loop_turns: u32,
}

impl Gpu {
    /// [`GpuError::Denied`] where the manifest requires none, [`GpuError::Unavailable`] where there is none.
    pub fn open() -> Result<Self, GpuError> {
        host::describe()
    }
}

/// Why something on the GPU failed. The text names the thing, the cause and the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuError {
    /// The manifest does not grant it.
    Denied(String),
    /// An argument that cannot be used, or a shader, with line and column.
    Invalid(String),
    NotFound(String),
    /// A limit: of memory, of time on the GPU, of sizes, of the turns of a shader's loops. Again, it would be the same.
    Quota(String),
    /// The GPU worked on it for too long and was stopped.
    Timeout(String),
    /// The GPU or its driver failed. What the buffers held is gone; kernels and shards can still be used.
    DeviceLost(String),
    /// There is no GPU here, or it takes no more now.
    Unavailable(String),
}

impl fmt::Display for GpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Denied(text)
        | Self::Invalid(text)
        | Self::NotFound(text)
        | Self::Quota(text)
        | Self::Timeout(text)
        | Self::DeviceLost(text)
        | Self::Unavailable(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for GpuError {}

/// A compute shader, compiled. Equal ones are compiled once on a host, whoever makes them.
pub struct Kernel(host::Pipeline);

impl Kernel {
    /// `entry` is a compute entry point of `wgsl`.
    pub fn new(wgsl: &str, entry: &str) -> Result<Self, GpuError> {
        Self::with_constants(wgsl, entry, &[])
    }

    /// With values for `override`s of the shader.
    pub fn with_constants(wgsl: &str, entry: &str, constants: &[(&str, f64)]) -> Result<Self, GpuError> {
        host::Pipeline::build(wgsl, entry, constants).map(Self)
    }
}

/// Memory of the GPU that holds values of `T`, or a part of a shard seen as such.
pub struct Buffer<T> {
    handle: host::Buffer,
    len: usize,
    of: PhantomData<[T]>,
}

impl<T: Pod> Buffer<T> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Result<Self, GpuError> {
        let bytes = (len as u64).saturating_mul(size_of::<T>() as u64);
        Ok(Self {
            handle: host::Buffer::zeroed(bytes)?,
            len,
            of: PhantomData,
        })
    }

    /// A whole shard, read-only. A rest that is no whole `T` is left out of [`len`](Self::len).
    pub fn from_shard(shard: &Shard) -> Result<Self, GpuError> {
        Self::from_shard_bytes(shard, 0..shard.size())
    }

    /// A range of a shard's bytes, read-only, from any offset: large shards are taken in parts.
    pub fn from_shard_bytes(shard: &Shard, bytes: Range<u64>) -> Result<Self, GpuError> {
        let size = bytes.end.saturating_sub(bytes.start);
        Ok(Self {
            handle: host::Buffer::from_shard(shard.handle(), bytes.start, size)?,
            len: (size / size_of::<T>() as u64) as usize,
            of: PhantomData,
        })
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole buffer, for a binding. With a rest of a shard that is no whole `T`.
    pub fn all(&self) -> Part<'_> {
        Part {
            buffer: &self.handle,
            offset: 0,
            size: self.handle.size().next_multiple_of(4),
        }
    }

    /// Some of the values. As a binding they begin at a multiple of [`Gpu::binding_alignment`] bytes.
    pub fn part(&self, values: Range<usize>) -> Part<'_> {
        let bytes = |values: usize| values as u64 * size_of::<T>() as u64;
        Part {
            buffer: &self.handle,
            offset: bytes(values.start),
            size: bytes(values.len()),
        }
    }
}

/// A part of a buffer.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    pub(crate) buffer: &'a host::Buffer,
    /// In bytes.
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

pub(crate) enum Step<'a> {
    Dispatch {
        kernel: &'a host::Pipeline,
        /// Bindings 0, 1, ….
        bindings: Vec<Part<'a>>,
        workgroups: [u32; 3],
    },
    Copy {
        from: Part<'a>,
        to: Part<'a>,
    },
    Write {
        to: Part<'a>,
        bytes: Vec<u8>,
    },
}

/// Steps that go to the GPU together and run in their order: what one writes the next ones see.
#[derive(Default)]
pub struct Batch<'a> {
    steps: Vec<Step<'a>>,
    reads: Vec<Part<'a>>,
    timeout: Option<Duration>,
}

/// What a batch reads, to be taken from its [`Job`].
#[derive(Debug, Clone, Copy)]
pub struct Read<T> {
    index: u32,
    size: u64,
    of: PhantomData<[T]>,
}

impl<'a> Batch<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a kernel in so many workgroups. The first part is the buffer at `@binding(0)`, the second at `@binding(1)`.
    pub fn dispatch(&mut self, kernel: &'a Kernel, workgroups: [u32; 3], bindings: &[Part<'a>]) -> &mut Self {
        self.steps.push(Step::Dispatch {
            kernel: &kernel.0,
            bindings: bindings.to_vec(),
            workgroups,
        });
        self
    }

    /// Writes values from the one at `start` on. Offsets and sizes in bytes are multiples of 4, here and in what follows.
    pub fn write<T: Pod>(&mut self, to: &'a Buffer<T>, start: usize, values: &[T]) -> &mut Self {
        self.steps.push(Step::Write {
            to: to.part(start..start + values.len()),
            bytes: bytemuck::cast_slice(values).to_vec(),
        });
        self
    }

    /// Copies as many bytes as both parts have.
    pub fn copy(&mut self, from: Part<'a>, to: Part<'a>) -> &mut Self {
        self.steps.push(Step::Copy { from, to });
        self
    }

    /// Reads values once all steps are done, wherever among them this is called.
    pub fn read<T: Pod>(&mut self, from: &'a Buffer<T>, values: Range<usize>) -> Read<T> {
        let part = from.part(values);
        self.reads.push(part);
        Read {
            index: self.reads.len() as u32 - 1,
            size: part.size,
            of: PhantomData,
        }
    }

    /// How long the GPU may work on it; what the call has left of its time on the GPU otherwise.
    pub fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.timeout = Some(timeout);
        self
    }

    /// Hands it to the GPU, which works on it while the function goes on. A call has up to four batches on their way. If one fails,
    /// the buffers that it writes cannot be used any more.
    pub fn submit(self) -> Result<Job, GpuError> {
        let Self {
            steps,
            reads,
            timeout,
        } = self;
        let timeout_ms = timeout.map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
        host::submit(steps, reads, timeout_ms).map(Job)
    }
}

/// A batch on its way.
pub struct Job(host::Job);

/// What a batch took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// From its first dispatch to its last one's end.
    pub gpu_ns: u64,
    /// Compiling what was not compiled any more.
    pub compile_us: u64,
    /// Bytes of shards and writes that went into GPU memory.
    pub uploaded_bytes: u64,
    pub downloaded_bytes: u64,
    /// Parts of shards that were in GPU memory already, and that were not.
    pub resident_hits: u32,
    pub resident_misses: u32,
}

impl Job {
    /// Waits until it is done.
    pub fn wait(&mut self) -> Result<Usage, GpuError> {
        self.0.wait()
    }

    /// What was read. Waits first.
    pub fn read<T: Pod>(&mut self, read: Read<T>) -> Result<Vec<T>, GpuError> {
        let mut bytes = self.0.read(read.index, 0)?;
        while (bytes.len() as u64) < read.size {
            let more = self.0.read(read.index, bytes.len() as u64)?;
            if more.is_empty() {
                break;
            }
            bytes.extend_from_slice(&more);
        }
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }
}
