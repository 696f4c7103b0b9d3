//! `nearfield:gpu` for guests: the host's GPU, as far as the manifest grants it.
//!
//! Linked by hand like `nearfield:data`, for the same reasons. Only what waits for the GPU is async: handles are made at once,
//! and a submission is on its way while its guest goes on.

pub(crate) mod access;
mod wit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::required;
use bytes::Bytes;
use nearfield_gpu::client::{Buffer, Outcome, Pending, Pipeline, Slice, Source, Step, Submission};
use nearfield_gpu::resident::Piece;
use nearfield_gpu::wire::Shader;
use nearfield_gpu::{Description, GpuError, limits};
use nearfield_protocol::cost;
use nearfield_protocol::gpu::GpuUsage;
use nearfield_store::{Shard, StoreError};
use wasmtime::component::{Linker, Resource, ResourceType};
use wit::{WitBound, WitDescription, WitError, WitOptions, WitSlice, WitStep, WitUsage};

use crate::data::access::Sources;
use crate::data::{Context, ShardHandle};
use crate::guest::Guest;
use crate::pay::charge;

const INTERFACE: &str = "nearfield:gpu/compute@0.1.0";

/// Bytes that one `job.read` gives.
const READ_BYTES: u64 = nearfield_protocol::limits::HOST_CALL_COPY_BYTES as u64;

/// The host's side of `resource pipeline`.
pub struct PipelineHandle(Pipeline);

/// The host's side of `resource buffer`.
pub struct BufferHandle {
    buffer: Buffer,
    /// Bytes that count against the call's memory.
    counted: u64,
}

/// The host's side of `resource job`.
struct JobHandle {
    state: JobState,
    read_bytes: u64,
}

enum JobState {
    Pending(Pending),
    Ended(Result<Ended, GpuError>),
}

#[derive(Clone)]
struct Ended {
    usage: GpuUsage,
    reads: Vec<Bytes>,
}

type Answer<T> = Result<T, WitError>;

/// A failure as the guest gets to see it. In a job those of the host are not the guest's to see: another host does better.
fn told(store: &Context<'_>, error: GpuError) -> wasmtime::Result<WitError> {
    match (store.data().data.sources, &error) {
        (Sources::Hidden, GpuError::DeviceLost(_) | GpuError::Unavailable(_)) => Err(error.into()),
        _ => Ok(error.into()),
    }
}

fn answer<T>(store: &Context<'_>, ended: Result<T, GpuError>) -> wasmtime::Result<(Answer<T>,)> {
    Ok((match ended {
        Ok(value) => Ok(value),
        Err(error) => Err(told(store, error)?),
    },))
}

/// Adds the interface to a linker.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut compute = linker.instance(INTERFACE)?;
    compute.resource(
        "pipeline",
        ResourceType::host::<PipelineHandle>(),
        |mut store, rep| {
            let table = store.data_mut().table();
            table.delete(Resource::<PipelineHandle>::new_own(rep))?;
            Ok(())
        },
    )?;
    compute.resource(
        "buffer",
        ResourceType::host::<BufferHandle>(),
        |mut store, rep| {
            let guest = store.data_mut();
            let handle = guest.table().delete(Resource::<BufferHandle>::new_own(rep))?;
            guest.gpu.buffers -= 1;
            guest.gpu.bytes -= handle.counted;
            Ok(())
        },
    )?;
    compute.resource("job", ResourceType::host::<JobHandle>(), |mut store, rep| {
        let guest = store.data_mut();
        let job = guest.table().delete(Resource::<JobHandle>::new_own(rep))?;
        guest.gpu.read_bytes -= job.read_bytes;
        Ok(())
    })?;

    compute.func_wrap_async("describe", |mut store: Context<'_>, (): ()| {
        Box::new(async move {
            charge(&mut store, cost::GPU_CALL)?;
            let described = describe(&mut store).await;
            answer(&store, described)
        })
    })?;
    compute.func_wrap_async(
        "[static]pipeline.build",
        |mut store: Context<'_>, (wgsl, entry, constants): (String, String, Vec<(String, f64)>)| {
            Box::new(async move {
                charge(&mut store, cost::GPU_CALL + cost::bytes(wgsl.len() as u64))?;
                let shader = Shader {
                    wgsl,
                    entry,
                    constants,
                };
                let built = match build(&mut store, shader).await {
                    Ok(pipeline) => Ok(store.data_mut().table().push(PipelineHandle(pipeline))?),
                    Err(error) => Err(error),
                };
                answer(&store, built)
            })
        },
    )?;
    compute.func_wrap(
        "[static]buffer.zeroed",
        |mut store: Context<'_>, (size,): (u64,)| {
            charge(&mut store, cost::GPU_CALL)?;
            let made = zeroed(&mut store, size);
            let pushed = push_buffer(&mut store, made, size)?;
            answer(&store, pushed)
        },
    )?;
    compute.func_wrap(
        "[static]buffer.from-shard",
        |mut store: Context<'_>, (shard, offset, size): (Resource<ShardHandle>, u64, u64)| {
            charge(&mut store, cost::GPU_CALL)?;
            let shard = store.data_mut().table().get(&shard)?.shard.clone();
            let made = from_shard(&mut store, shard, offset, size);
            let pushed = push_buffer(&mut store, made, 0)?;
            answer(&store, pushed)
        },
    )?;
    compute.func_wrap(
        "[method]buffer.size",
        |mut store: Context<'_>, (this,): (Resource<BufferHandle>,)| {
            charge(&mut store, cost::GPU_CALL)?;
            Ok((store.data_mut().table().get(&this)?.buffer.size(),))
        },
    )?;
    compute.func_wrap_async(
        "submit",
        |mut store: Context<'_>, (steps, options): (Vec<WitStep>, WitOptions)| {
            Box::new(async move {
                charge(&mut store, submitting(&steps, &options))?;
                // Before anything is looked at one by one.
                if let Err(error) = not_too_many(&steps, &options) {
                    return answer(&store, Err(error));
                }
                let submission = match submission(&mut store, steps, &options)? {
                    Ok(submission) => submission,
                    Err(error) => return answer(&store, Err(error)),
                };
                let read_bytes = submission.read_bytes();
                let submitted = match submit(&mut store, submission).await? {
                    Ok(pending) => {
                        let guest = store.data_mut();
                        guest.gpu.read_bytes += read_bytes;
                        let state = JobState::Pending(pending);
                        Ok(guest.table().push(JobHandle { state, read_bytes })?)
                    }
                    Err(error) => Err(error),
                };
                answer(&store, submitted)
            })
        },
    )?;
    compute.func_wrap_async(
        "[method]job.wait",
        |mut store: Context<'_>, (this,): (Resource<JobHandle>,)| {
            Box::new(async move {
                charge(&mut store, cost::GPU_CALL)?;
                let ended = ended(&mut store, &this).await?;
                answer(&store, ended.map(|ended| wit_usage(&ended.usage)))
            })
        },
    )?;
    compute.func_wrap_async(
        "[method]job.read",
        |mut store: Context<'_>, (this, index, offset, len): (Resource<JobHandle>, u32, u64, u32)| {
            Box::new(async move {
                let ended = ended(&mut store, &this).await?;
                let part = ended.and_then(|ended| part(&ended.reads, index, offset, len));
                let bytes = part.as_ref().map_or(0, |part| part.len() as u64);
                charge(&mut store, cost::GPU_CALL + cost::bytes(bytes))?;
                answer(&store, part)
            })
        },
    )?;
    Ok(())
}

async fn describe(store: &mut Context<'_>) -> Result<WitDescription, GpuError> {
    let (gpu, grant, _) = store.data().gpu.gpu()?;
    let description = required(&gpu, grant).await?;
    let Description {
        name,
        backend,
        driver,
        software,
        f16,
        subgroups,
        timestamps: _,
        max_buffer_bytes,
        max_binding_bytes,
        binding_alignment,
        max_workgroups_per_dimension,
        max_workgroup_invocations,
        max_workgroup_bytes,
        max_loop_turns,
    } = Description::clone(&description);
    Ok(WitDescription {
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

async fn build(store: &mut Context<'_>, shader: Shader) -> Result<Pipeline, GpuError> {
    let (gpu, grant, account) = store.data().gpu.gpu()?;
    let begun = Instant::now();
    required(&gpu, grant).await?;
    let built = gpu.build(shader, &account).await;
    store.data_mut().gpu.waited += begun.elapsed();
    built
}

fn zeroed(store: &mut Context<'_>, size: u64) -> Result<Buffer, GpuError> {
    if size == 0 {
        return Err(GpuError::Invalid("a buffer has at least one byte".to_owned()));
    }
    Ok(store.data_mut().gpu.new_buffer(size)?.zeroed(size))
}

fn from_shard(store: &mut Context<'_>, shard: Shard, offset: u64, size: u64) -> Result<Buffer, GpuError> {
    let whole = shard.size_bytes();
    let end = offset.checked_add(size).filter(|end| *end <= whole && size > 0);
    let Some(end) = end else {
        return Err(GpuError::Invalid(format!(
            "{size} bytes from {offset} of a shard of {whole}"
        )));
    };
    let gpu = store.data_mut().gpu.new_buffer(0)?;
    let piece = Piece {
        digest: shard.digest(),
        offset,
        len: size,
    };
    let source = Source {
        copies: matches!(shard, Shard::InPlace(_)),
        open: Arc::new(move || Ok(shard.descriptor(offset..end)?)),
    };
    store.data_mut().data.add_bytes(size);
    Ok(gpu.shard(piece, source))
}

fn push_buffer(
    store: &mut Context<'_>,
    made: Result<Buffer, GpuError>,
    counted: u64,
) -> wasmtime::Result<Result<Resource<BufferHandle>, GpuError>> {
    Ok(match made {
        Ok(buffer) => Ok(store.data_mut().table().push(BufferHandle { buffer, counted })?),
        Err(error) => Err(error),
    })
}

/// Fuel of a submission: by its steps, the buffers that they name, and the bytes that they write.
fn submitting(steps: &[WitStep], options: &WitOptions) -> u64 {
    let of_steps = steps.iter().map(|step| match step {
        WitStep::Dispatch(dispatch) => cost::GPU_CALL + cost::GPU_BINDING * dispatch.bindings.len() as u64,
        WitStep::Copy(_) => cost::GPU_CALL,
        WitStep::Write(write) => cost::GPU_CALL + cost::bytes(write.bytes.len() as u64),
    });
    cost::GPU_CALL + cost::GPU_BINDING * options.reads.len() as u64 + of_steps.sum::<u64>()
}

fn not_too_many(steps: &[WitStep], options: &WitOptions) -> Result<(), GpuError> {
    let bindings = steps.iter().map(|step| match step {
        WitStep::Dispatch(dispatch) => dispatch.bindings.len(),
        WitStep::Copy(_) | WitStep::Write(_) => 0,
    });
    let bounds = [
        ("steps", steps.len(), limits::STEPS),
        (
            "bindings of a dispatch",
            bindings.max().unwrap_or(0),
            limits::BINDINGS,
        ),
        ("reads", options.reads.len(), limits::READS),
    ];
    for (what, found, most) in bounds {
        if found > most {
            return Err(GpuError::Quota(format!(
                "{what} = {found}, where at most {most} are allowed"
            )));
        }
    }
    Ok(())
}

/// The guest's handles as what they are.
fn submission(
    store: &mut Context<'_>,
    steps: Vec<WitStep>,
    options: &WitOptions,
) -> wasmtime::Result<Result<Submission, GpuError>> {
    let guest = store.data_mut();
    let account = match guest.gpu.gpu() {
        Ok((_, _, account)) => account,
        Err(error) => return Ok(Err(error)),
    };
    let table = guest.table();
    let buffer =
        |handle: &Resource<BufferHandle>| Ok::<_, wasmtime::Error>(table.get(handle)?.buffer.clone());
    let slice = |slice: &WitSlice| {
        Ok::<_, wasmtime::Error>(Slice {
            buffer: buffer(&slice.buffer)?,
            offset: slice.offset,
            len: slice.size,
        })
    };
    let step = |step: WitStep| {
        Ok::<_, wasmtime::Error>(match step {
            WitStep::Dispatch(dispatch) => {
                let bound =
                    |bound: &WitBound| Ok::<_, wasmtime::Error>((bound.binding, slice(&bound.slice)?));
                let (x, y, z) = dispatch.workgroups;
                Step::Dispatch {
                    pipeline: table.get(&dispatch.pipeline)?.0.clone(),
                    bindings: dispatch.bindings.iter().map(bound).collect::<Result<_, _>>()?,
                    workgroups: [x, y, z],
                }
            }
            WitStep::Copy(copy) => Step::Copy {
                from: slice(&copy.source)?,
                to: buffer(&copy.target)?,
                to_offset: copy.target_offset,
            },
            WitStep::Write(write) => Step::Write {
                to: buffer(&write.target)?,
                offset: write.offset,
                bytes: write.bytes,
            },
        })
    };
    let steps = steps.into_iter().map(step).collect::<Result<_, _>>()?;
    let reads = options.reads.iter().map(slice).collect::<Result<_, _>>()?;
    let timeout = options.timeout_ms.map(|ms| Duration::from_millis(ms.into()));
    Ok(Ok(Submission::new(steps, reads, timeout, account)))
}

async fn submit(
    store: &mut Context<'_>,
    mut submission: Submission,
) -> wasmtime::Result<Result<Pending, GpuError>> {
    let access = &store.data().gpu;
    let read_bytes = access.read_bytes;
    let (gpu, grant, account) = match access.gpu() {
        Ok(access) => access,
        Err(error) => return Ok(Err(error)),
    };
    let begun = Instant::now();
    let checked = async {
        if read_bytes.saturating_add(submission.read_bytes()) > limits::READ_BYTES {
            return Err(GpuError::Quota(format!(
                "the submissions of a call read back at most {} bytes together: drop those that were read",
                limits::READ_BYTES
            )));
        }
        account.time_left()?;
        required(&gpu, grant).await?;
        gpu.check(&submission)
    };
    if let Err(error) = checked.await {
        return Ok(Err(error));
    }
    let brought = gpu.bring(&mut submission).await;
    store.data_mut().gpu.waited += begun.elapsed();
    if let Err(error) = brought {
        let text = format!("a shard cannot be read: {error}");
        return match (store.data().data.sources, error.downcast::<StoreError>()) {
            // As if the guest had read it.
            (Sources::Hidden, Ok(error)) => Err((*error).into()),
            _ => Ok(Err(GpuError::Unavailable(text))),
        };
    }
    Ok(gpu.submit(submission))
}

/// Waits for a submission.
async fn ended(
    store: &mut Context<'_>,
    this: &Resource<JobHandle>,
) -> wasmtime::Result<Result<Ended, GpuError>> {
    let lost = || GpuError::DeviceLost("nobody works on this any more".to_owned());
    let handle = store.data_mut().table().get_mut(this)?;
    let ended = match std::mem::replace(&mut handle.state, JobState::Ended(Err(lost()))) {
        JobState::Ended(ended) => ended,
        JobState::Pending(pending) => {
            let begun = Instant::now();
            let ended = pending.await.unwrap_or_else(|_| Err(lost()));
            store.data_mut().gpu.waited += begun.elapsed();
            ended.map(|outcome| {
                let Outcome { usage, reads } = outcome;
                let reads = reads.into_iter().map(Bytes::from).collect();
                Ended { usage, reads }
            })
        }
    };
    store.data_mut().table().get_mut(this)?.state = JobState::Ended(ended.clone());
    Ok(ended)
}

fn part(reads: &[Bytes], index: u32, offset: u64, len: u32) -> Result<Bytes, GpuError> {
    let read = reads.get(index as usize).ok_or_else(|| {
        GpuError::NotFound(format!(
            "read {index}: the submission has {}, counted from 0",
            reads.len()
        ))
    })?;
    let size = read.len() as u64;
    if offset > size {
        return Err(GpuError::Invalid(format!(
            "offset {offset} lies after the {size} bytes that were read"
        )));
    }
    let end = size.min(offset + u64::from(len).min(READ_BYTES));
    Ok(read.slice(offset as usize..end as usize))
}

fn wit_usage(usage: &GpuUsage) -> WitUsage {
    WitUsage {
        gpu_ns: usage.gpu_ns,
        compile_us: usage.compile_us,
        uploaded_bytes: usage.uploaded_bytes,
        downloaded_bytes: usage.downloaded_bytes,
        resident_hits: usage.resident_hits as u32,
        resident_misses: usage.resident_misses as u32,
    }
}
