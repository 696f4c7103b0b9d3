//! `nearfield:gpu` as the host offers it. A function that uses no GPU does not import it.

use bindings::nearfield::gpu::compute;

use crate::gpu::{Gpu, GpuError, Part, Step, Usage};

#[allow(missing_docs)]
pub mod bindings {
    wit_bindgen::generate!({
        path: ["../wit/data", "../wit/gpu"],
        world: "nearfield:gpu/gpu",
        with: { "nearfield:data/shards@0.1.0": crate::guest::data::bindings::nearfield::data::shards },
    });
}

/// What one `job.read` gives at most.
const READ_BYTES: u32 = 8 << 20;

pub(crate) fn describe() -> Result<Gpu, GpuError> {
    let compute::Description {
        name,
        backend,
        driver,
        software,
        f16,
        subgroups,
        max_buffer_bytes,
        max_binding_bytes,
        binding_alignment,
        max_workgroups_per_dimension,
        max_workgroup_invocations,
        max_workgroup_bytes,
        max_loop_turns,
    } = compute::describe()?;
    Ok(Gpu {
        name,
        backend,
        driver,
        software,
        f16,
        subgroups,
        max_buffer_bytes,
        max_binding_bytes,
        binding_alignment,
        max_workgroups_per_dimension,
        max_workgroup_invocations,
        max_workgroup_bytes,
        max_loop_turns,
    })
}

pub(crate) struct Pipeline(compute::Pipeline);

impl Pipeline {
    pub(crate) fn build(wgsl: &str, entry: &str, constants: &[(&str, f64)]) -> Result<Self, GpuError> {
        let constants: Vec<(String, f64)> = constants
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect();
        Ok(Self(compute::Pipeline::build(wgsl, entry, &constants)?))
    }
}

pub(crate) struct Buffer {
    handle: compute::Buffer,
    size: u64,
}

impl Buffer {
    pub(crate) fn zeroed(size: u64) -> Result<Self, GpuError> {
        let handle = compute::Buffer::zeroed(size)?;
        Ok(Self { handle, size })
    }

    pub(crate) fn from_shard(shard: &super::Shard, offset: u64, size: u64) -> Result<Self, GpuError> {
        let handle = compute::Buffer::from_shard(&shard.0, offset, size)?;
        Ok(Self { handle, size })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

fn slice<'a>(part: &Part<'a>) -> compute::Slice<'a> {
    compute::Slice {
        buffer: &part.buffer.handle,
        offset: part.offset,
        size: part.size,
    }
}

fn step<'a>(step: Step<'a>) -> compute::Step<'a> {
    match step {
        Step::Dispatch {
            kernel,
            bindings,
            workgroups: [x, y, z],
        } => {
            let bound = |(binding, part)| compute::Bound {
                binding: binding as u32,
                slice: slice(part),
            };
            compute::Step::Dispatch(compute::Dispatch {
                pipeline: &kernel.0,
                bindings: bindings.iter().enumerate().map(bound).collect(),
                workgroups: (x, y, z),
            })
        }
        Step::Copy { from, to } => compute::Step::Copy(compute::Copy {
            source: slice(&Part {
                size: from.size.min(to.size),
                ..from
            }),
            target: &to.buffer.handle,
            target_offset: to.offset,
        }),
        Step::Write { to, bytes } => compute::Step::Write(compute::Write {
            target: &to.buffer.handle,
            offset: to.offset,
            bytes,
        }),
    }
}

pub(crate) fn submit(
    steps: Vec<Step<'_>>,
    reads: Vec<Part<'_>>,
    timeout_ms: Option<u32>,
) -> Result<Job, GpuError> {
    let steps: Vec<_> = steps.into_iter().map(step).collect();
    let reads: Vec<_> = reads.iter().map(slice).collect();
    Ok(Job(compute::submit(
        &steps,
        &compute::Options { reads, timeout_ms },
    )?))
}

pub(crate) struct Job(compute::Job);

impl Job {
    pub(crate) fn wait(&mut self) -> Result<Usage, GpuError> {
        let usage = self.0.wait()?;
        Ok(Usage {
            gpu_ns: usage.gpu_ns,
            compile_us: usage.compile_us,
            uploaded_bytes: usage.uploaded_bytes,
            downloaded_bytes: usage.downloaded_bytes,
            resident_hits: usage.resident_hits,
            resident_misses: usage.resident_misses,
        })
    }

    pub(crate) fn read(&mut self, index: u32, offset: u64) -> Result<Vec<u8>, GpuError> {
        Ok(self.0.read(index, offset, READ_BYTES)?)
    }
}

impl From<compute::Error> for GpuError {
    fn from(error: compute::Error) -> Self {
        match error {
            compute::Error::Denied(text) => Self::Denied(text),
            compute::Error::Invalid(text) => Self::Invalid(text),
            compute::Error::NotFound(text) => Self::NotFound(text),
            compute::Error::Quota(text) => Self::Quota(text),
            compute::Error::Timeout(text) => Self::Timeout(text),
            compute::Error::DeviceLost(text) => Self::DeviceLost(text),
            compute::Error::Unavailable(text) => Self::Unavailable(text),
        }
    }
}
