//! What calls hold and hand over: pipelines, buffers, submissions, and what can be told of them without the device.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nearfield_protocol::Digest;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use super::queue::Queue;
use super::{Account, Shared, SourceError};
use crate::resident::Piece;
use crate::wire::{Access, Binding, Id, Shader, Usage};
use crate::{GpuError, limits};

/// A shader that has been compiled once.
#[derive(Clone)]
pub struct Pipeline(pub(super) Arc<PipelineInner>);

pub(super) struct PipelineInner {
    pub key: Digest,
    pub shader: Shader,
    pub bindings: OnceLock<Vec<Binding>>,
}

/// A buffer of one call.
#[derive(Clone)]
pub struct Buffer(pub(super) Arc<BufferInner>);

pub(super) struct BufferInner {
    pub size: u64,
    pub kind: Kind,
}

pub(super) enum Kind {
    Zeroed {
        id: Id,
        /// The lock is held for one look-up.
        state: Mutex<BufferState>,
        shared: Arc<Shared>,
        queue: Arc<Queue>,
    },
    Shard {
        piece: Piece,
        source: Source,
    },
}

/// Where a buffer of zeros is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BufferState {
    /// No submission used it yet.
    Unmade,
    /// The worker of this generation has it.
    Made { generation: u64 },
    /// A submission that writes it has failed, so what it holds is unknown.
    Spoiled,
}

/// Where a shard's bytes are to be had.
#[derive(Clone)]
pub struct Source {
    pub open: Arc<Open>,
    /// It does not give a file that is there, but makes a copy, and may wait for the network.
    pub copies: bool,
}

/// Gives a file, and where in it the bytes begin.
pub type Open = dyn Fn() -> Result<(File, u64), SourceError> + Send + Sync;

/// Work for the GPU.
pub struct Submission {
    pub(super) steps: Vec<Step>,
    pub(super) reads: Vec<Slice>,
    /// Once the GPU works on it; what its call has left, if absent.
    pub(super) timeout: Option<Duration>,
    pub(super) account: Account,
    pub(super) brought: Brought,
}

/// Shards that are at hand.
#[derive(Default)]
pub(super) struct Brought {
    pub files: HashMap<Piece, (File, u64)>,
    /// For as long as they are.
    pub permit: Option<OwnedSemaphorePermit>,
}

pub enum Step {
    Dispatch {
        pipeline: Pipeline,
        bindings: Vec<(u32, Slice)>,
        workgroups: [u32; 3],
    },
    Copy {
        from: Slice,
        to: Buffer,
        to_offset: u64,
    },
    Write {
        to: Buffer,
        offset: u64,
        bytes: Vec<u8>,
    },
}

/// Bytes of a buffer.
#[derive(Clone)]
pub struct Slice {
    pub buffer: Buffer,
    pub offset: u64,
    pub len: u64,
}

/// What a submission came to.
#[derive(Debug)]
pub struct Outcome {
    pub usage: Usage,
    /// What was read back, in the order in which it was asked for.
    pub reads: Vec<Vec<u8>>,
}

impl PipelineInner {
    /// Named by a hash: equal shaders have one name. The device is not in it, since each worker starts without any.
    pub fn new(shader: Shader) -> Result<Self, GpuError> {
        let Shader {
            wgsl,
            entry,
            constants,
        } = &shader;
        at_most("constants of a pipeline", constants.len(), limits::CONSTANTS)?;
        for name in constants.iter().map(|(name, _)| name).chain([entry]) {
            at_most("bytes of a name", name.len(), limits::NAME_BYTES)?;
        }
        at_most("bytes of source", wgsl.len(), limits::SOURCE_BYTES)?;
        let mut hasher = blake3::Hasher::new_derive_key("nearfield 2026-11 GPU pipeline");
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(wgsl.as_bytes());
        field(entry.as_bytes());
        for (name, value) in constants {
            field(name.as_bytes());
            field(&value.to_bits().to_le_bytes());
        }
        Ok(PipelineInner {
            key: Digest::from_bytes(*hasher.finalize().as_bytes()),
            shader,
            bindings: OnceLock::new(),
        })
    }
}

impl Buffer {
    pub fn size(&self) -> u64 {
        self.0.size
    }

    fn is_shard(&self) -> bool {
        matches!(self.0.kind, Kind::Shard { .. })
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        let Kind::Zeroed {
            id,
            state,
            shared,
            queue,
        } = &self.kind
        else {
            return;
        };
        if !matches!(*state.lock(), BufferState::Made { .. }) {
            return;
        }
        shared.dropped.lock().push(*id);
        queue.tidy();
    }
}

impl Submission {
    pub fn new(steps: Vec<Step>, reads: Vec<Slice>, timeout: Option<Duration>, account: Account) -> Self {
        Submission {
            steps,
            reads,
            timeout,
            account,
            brought: Brought::default(),
        }
    }

    /// All buffers; some more than once.
    pub(super) fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        let of_steps = self.steps.iter().flat_map(|step| match step {
            Step::Dispatch { bindings, .. } => bindings.iter().map(|(_, slice)| &slice.buffer).collect(),
            Step::Copy { from, to, .. } => vec![&from.buffer, to],
            Step::Write { to, .. } => vec![to],
        });
        of_steps.chain(self.reads.iter().map(|slice| &slice.buffer))
    }

    /// The buffers that it writes.
    pub(super) fn written(&self) -> impl Iterator<Item = &Buffer> {
        self.steps.iter().flat_map(|step| match step {
            Step::Dispatch {
                pipeline, bindings, ..
            } => {
                let known = pipeline.0.bindings.get().into_iter().flatten();
                let written: HashSet<u32> = known
                    .filter(|binding| binding.access == Access::ReadWrite)
                    .map(|binding| binding.binding)
                    .collect();
                let bound = bindings.iter().filter(|(number, _)| written.contains(number));
                bound.map(|(_, slice)| &slice.buffer).collect()
            }
            Step::Copy { to, .. } | Step::Write { to, .. } => vec![to],
        })
    }

    /// Each shard's piece once, and where it is to be had.
    pub(super) fn shards(&self) -> HashMap<Piece, Source> {
        let shards = self.buffers().filter_map(|buffer| match &buffer.0.kind {
            Kind::Shard { piece, source } => Some((*piece, source.clone())),
            Kind::Zeroed { .. } => None,
        });
        shards.collect()
    }

    /// Bytes that it reads back.
    pub fn read_bytes(&self) -> u64 {
        self.reads
            .iter()
            .map(|read| read.len)
            .fold(0, u64::saturating_add)
    }

    pub(super) fn write_bytes(&self) -> u64 {
        let written = self.steps.iter().map(|step| match step {
            Step::Write { bytes, .. } => bytes.len() as u64,
            Step::Dispatch { .. } | Step::Copy { .. } => 0,
        });
        written.sum()
    }

    /// What can be told without the device, which has `budget_bytes` for shards and buffers; 0 if that is not known yet.
    pub(super) fn check(&self, budget_bytes: u64) -> Result<(), GpuError> {
        at_most("steps", self.steps.len(), limits::STEPS)?;
        at_most("reads", self.reads.len(), limits::READS)?;
        for (index, step) in self.steps.iter().enumerate() {
            step.check().map_err(|error| match error {
                GpuError::Invalid(text) => GpuError::Invalid(format!("step {index}: {text}")),
                GpuError::Quota(text) => GpuError::Quota(format!("step {index}: {text}")),
                other => other,
            })?;
        }
        let pipelines: HashSet<Digest> = self
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Dispatch { pipeline, .. } => Some(pipeline.0.key),
                Step::Copy { .. } | Step::Write { .. } => None,
            })
            .collect();
        at_most(
            "pipelines of a submission",
            pipelines.len(),
            limits::PIPELINES_AT_ONCE,
        )?;
        let shards = self.shards();
        at_most("shards of a submission", shards.len(), limits::SHARDS_AT_ONCE)?;
        if budget_bytes > 0 {
            let wanted = shards.keys().map(|piece| piece.len).fold(0, u64::saturating_add);
            bytes_at_most("bytes of shards", wanted, budget_bytes)?;
        }
        bytes_at_most("bytes written", self.write_bytes(), limits::WRITE_BYTES)?;
        bytes_at_most("bytes read back", self.read_bytes(), limits::READ_BYTES)?;
        self.reads.iter().try_for_each(Slice::check_copied)
    }
}

impl Step {
    fn check(&self) -> Result<(), GpuError> {
        match self {
            Step::Dispatch {
                pipeline,
                bindings,
                workgroups,
            } => check_dispatch(pipeline, bindings, workgroups),
            Step::Copy { from, to, to_offset } => {
                from.check_copied()?;
                check_written(to, *to_offset, from.len)?;
                match Arc::ptr_eq(&from.buffer.0, &to.0) {
                    true => Err(GpuError::Invalid("a buffer is not copied into itself".to_owned())),
                    false => Ok(()),
                }
            }
            Step::Write { to, offset, bytes } => check_written(to, *offset, bytes.len() as u64),
        }
    }
}

fn check_dispatch(
    pipeline: &Pipeline,
    bindings: &[(u32, Slice)],
    workgroups: &[u32; 3],
) -> Result<(), GpuError> {
    let count = workgroups
        .iter()
        .map(|size| u64::from(*size))
        .fold(1, u64::saturating_mul);
    bytes_at_most("workgroups", count, limits::WORKGROUPS)?;
    at_most("bindings of a dispatch", bindings.len(), limits::BINDINGS)?;
    for (at, (number, slice)) in bindings.iter().enumerate() {
        if bindings[..at].iter().any(|(other, _)| other == number) {
            return Err(GpuError::Invalid(format!("binding {number} is given twice")));
        }
        slice.check_bounds()?;
    }
    for binding in pipeline.0.bindings.get().into_iter().flatten() {
        let Some((_, slice)) = bindings.iter().find(|(number, _)| *number == binding.binding) else {
            return Err(GpuError::Invalid(format!(
                "binding {} of the shader has no buffer",
                binding.binding
            )));
        };
        if slice.buffer.is_shard() && binding.access == Access::ReadWrite {
            return Err(GpuError::Invalid(format!(
                "binding {} is written by the shader, and shards are read-only: bind it as `var<storage, read>`",
                binding.binding
            )));
        }
    }
    Ok(())
}

fn check_written(to: &Buffer, offset: u64, len: u64) -> Result<(), GpuError> {
    if to.is_shard() {
        return Err(GpuError::Invalid("shards are read-only".to_owned()));
    }
    let buffer = to.clone();
    Slice { buffer, offset, len }.check_copied()
}

impl Slice {
    /// What is copied are whole words (WebGPU, `copyBufferToBuffer`).
    fn check_copied(&self) -> Result<(), GpuError> {
        let Slice { offset, len, .. } = self;
        if offset % 4 != 0 || len % 4 != 0 {
            return Err(GpuError::Invalid(format!(
                "{len} bytes from {offset}: what is copied, written or read begins and ends at a multiple of 4"
            )));
        }
        self.check_bounds()
    }

    fn check_bounds(&self) -> Result<(), GpuError> {
        let Slice { buffer, offset, len } = self;
        // A shard has zeros up to a multiple of 4.
        let size = buffer.size().next_multiple_of(4);
        match offset.checked_add(*len) {
            Some(end) if end <= size && *len > 0 => Ok(()),
            _ => Err(GpuError::Invalid(format!(
                "{len} bytes from {offset} of a buffer of {size}"
            ))),
        }
    }
}

fn at_most(what: &str, found: usize, most: usize) -> Result<(), GpuError> {
    bytes_at_most(what, found as u64, most as u64)
}

fn bytes_at_most(what: &str, found: u64, most: u64) -> Result<(), GpuError> {
    match found <= most {
        true => Ok(()),
        false => Err(GpuError::Quota(format!(
            "{what} = {found}, where at most {most} are allowed"
        ))),
    }
}
