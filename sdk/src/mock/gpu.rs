//! The GPU of native tests: the device that a host's worker has, in the test's own process.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nearfield_gpu::device::Device;
use nearfield_gpu::limits;
use nearfield_gpu::wire::{Access, Binding, Bound, Choice, Id, Run, Shader, Slice, Step as WireStep};

use super::host::{self, Shard};
use crate::gpu::{Gpu, GpuError, Part, Step, Usage};

/// Opened by the first test that needs it, and never closed: drivers do not bear that while a thread ends. The lock is held for
/// one build, one upload or one submission.
static DEVICE: OnceLock<Result<Mutex<Device>, String>> = OnceLock::new();
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The device, if the test's host grants it.
fn device() -> Result<MutexGuard<'static, Device>, GpuError> {
    if !host::grants_gpu() {
        let text =
            "the manifest requires no GPU: add `require = { gpu = \"any\" }`, and `.gpu()` to the mock host";
        return Err(GpuError::Denied(text.to_owned()));
    }
    let opened = DEVICE.get_or_init(|| {
        let open = |choice| Device::open(&choice, |reason| panic!("the device is lost: {reason}"));
        let opened = open(Choice::Software).or_else(|_| open(Choice::Best));
        opened.map(Mutex::new).map_err(|error| error.to_string())
    });
    match opened {
        // A test that failed meanwhile has left it as it was.
        Ok(device) => Ok(device.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(reason) => Err(GpuError::Unavailable(reason.clone())),
    }
}

pub(crate) fn describe() -> Result<Gpu, GpuError> {
    let device = device()?;
    let of = device.description();
    Ok(Gpu {
        name: of.name.clone(),
        backend: of.backend.clone(),
        driver: of.driver.clone(),
        software: of.software,
        f16: of.f16,
        subgroups: of.subgroups,
        max_buffer_bytes: of.max_buffer_bytes,
        max_binding_bytes: of.max_binding_bytes,
        binding_alignment: of.binding_alignment,
        max_workgroups_per_dimension: of.max_workgroups_per_dimension,
        max_workgroup_invocations: of.max_workgroup_invocations,
        max_workgroup_bytes: of.max_workgroup_bytes,
        max_loop_turns: of.max_loop_turns,
    })
}

pub(crate) struct Pipeline {
    held: Held,
    bindings: Vec<Binding>,
}

impl Pipeline {
    pub(crate) fn build(wgsl: &str, entry: &str, constants: &[(&str, f64)]) -> Result<Self, GpuError> {
        let held = Held::new();
        let shader = Shader {
            wgsl: wgsl.to_owned(),
            entry: entry.to_owned(),
            constants: constants
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
        };
        let built = device()?.build(held.0, &shader)?;
        let bindings = built.bindings;
        Ok(Self { held, bindings })
    }

    /// As a real host: what a shader writes is no shard.
    fn check(&self, bound: &[Part<'_>]) -> Result<(), GpuError> {
        let written = self
            .bindings
            .iter()
            .filter(|binding| binding.access == Access::ReadWrite);
        for Binding { binding, .. } in written {
            if bound
                .get(*binding as usize)
                .is_some_and(|part| part.buffer.is_shard)
            {
                return Err(GpuError::Invalid(format!(
                    "binding {binding} is written by the shader, and shards are read-only: bind it as `var<storage, read>`"
                )));
            }
        }
        Ok(())
    }
}

pub(crate) struct Buffer {
    held: Held,
    size: u64,
    is_shard: bool,
}

impl Buffer {
    pub(crate) fn zeroed(size: u64) -> Result<Self, GpuError> {
        let held = Held::new();
        let create = Run {
            create: vec![(held.0, size)],
            ..Run::default()
        };
        device()?.run(&create, &[], |_, _| Ok(()))?;
        Ok(Self {
            held,
            size,
            is_shard: false,
        })
    }

    pub(crate) fn from_shard(shard: &Shard, offset: u64, size: u64) -> Result<Self, GpuError> {
        let held = Held::new();
        let mut at = offset;
        if size == 0 || offset.saturating_add(size) > shard.size() {
            let whole = shard.size();
            return Err(GpuError::Invalid(format!(
                "{size} bytes from {offset} of a shard of {whole}"
            )));
        }
        device()?.upload(held.0, size, |piece| {
            let bytes = shard
                .read(at, piece.len() as u32)
                .map_err(std::io::Error::other)?;
            piece.copy_from_slice(&bytes);
            at += bytes.len() as u64;
            Ok(())
        })?;
        Ok(Self {
            held,
            size,
            is_shard: true,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    fn writable(&self) -> Result<Id, GpuError> {
        match self.is_shard {
            true => Err(GpuError::Invalid("shards are read-only".to_owned())),
            false => Ok(self.held.0),
        }
    }
}

/// The name of something of the device's, which goes with its handle.
struct Held(Id);

impl Held {
    fn new() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(Ok(device)) = DEVICE.get() {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .let_go(&[self.0]);
        }
    }
}

fn slice(part: &Part<'_>) -> Slice {
    Slice {
        buffer: part.buffer.held.0,
        offset: part.offset,
        len: part.size,
    }
}

/// What a batch came to: it has run when this is made.
pub(crate) struct Job {
    usage: Usage,
    reads: Vec<Vec<u8>>,
}

pub(crate) fn submit(
    steps: Vec<Step<'_>>,
    reads: Vec<Part<'_>>,
    _timeout_ms: Option<u32>,
) -> Result<Job, GpuError> {
    for (what, found, most) in [
        ("steps", steps.len(), limits::STEPS),
        ("reads", reads.len(), limits::READS),
    ] {
        at_most(what, found as u64, most as u64)?;
    }
    at_most(
        "bytes read back",
        reads.iter().map(|read| read.size).sum(),
        limits::READ_BYTES,
    )?;
    let mut device = device()?;
    let (mut run, mut writes) = (Run::default(), Vec::new());
    for step in steps {
        run.steps.push(match step {
            Step::Dispatch {
                kernel,
                bindings,
                workgroups,
            } => {
                kernel.check(&bindings)?;
                let bound = |(binding, part)| Bound {
                    binding: binding as u32,
                    slice: slice(part),
                };
                WireStep::Dispatch {
                    pipeline: kernel.held.0,
                    bindings: bindings.iter().enumerate().map(bound).collect(),
                    workgroups,
                }
            }
            Step::Copy { from, to } => WireStep::Copy {
                from: Slice {
                    len: from.size.min(to.size),
                    ..slice(&from)
                },
                to: to.buffer.writable()?,
                to_offset: to.offset,
            },
            Step::Write { to, bytes } => {
                to.buffer.writable()?;
                let at = writes.len() as u64;
                writes.extend_from_slice(&bytes);
                WireStep::Write { to: slice(&to), at }
            }
        });
    }
    at_most("bytes written", writes.len() as u64, limits::WRITE_BYTES)?;
    run.reads = reads.iter().map(slice).collect();
    let mut read = Vec::new();
    let ran = device.run(&run, &writes, |_, bytes| {
        read.push(bytes.to_vec());
        Ok(())
    })?;
    if ran.exhausted {
        return Err(GpuError::Quota(format!(
            "a loop of a shader was cut short after {} turns of one invocation",
            device.description().max_loop_turns
        )));
    }
    let usage = Usage {
        gpu_ns: ran.gpu_ns,
        uploaded_bytes: writes.len() as u64,
        downloaded_bytes: read.iter().map(|read| read.len() as u64).sum(),
        ..Usage::default()
    };
    Ok(Job { usage, reads: read })
}

/// As a real host has it, so that a test finds what would fail there.
fn at_most(what: &str, found: u64, most: u64) -> Result<(), GpuError> {
    match found <= most {
        true => Ok(()),
        false => Err(GpuError::Quota(format!(
            "{what} = {found}, where at most {most} are allowed"
        ))),
    }
}

impl Job {
    pub(crate) fn wait(&mut self) -> Result<Usage, GpuError> {
        Ok(self.usage)
    }

    pub(crate) fn read(&mut self, index: u32, offset: u64) -> Result<Vec<u8>, GpuError> {
        let read = self.reads.get(index as usize);
        let read = read.ok_or_else(|| GpuError::NotFound(format!("read {index}")))?;
        Ok(read[(offset as usize).min(read.len())..].to_vec())
    }
}

impl From<nearfield_gpu::GpuError> for GpuError {
    fn from(error: nearfield_gpu::GpuError) -> Self {
        use nearfield_gpu::GpuError as Device;
        match error {
            Device::Denied(text) => Self::Denied(text),
            Device::Invalid(text) => Self::Invalid(text),
            Device::NotFound(text) => Self::NotFound(text),
            Device::Quota(text) => Self::Quota(text),
            Device::Timeout(text) => Self::Timeout(text),
            Device::DeviceLost(text) => Self::DeviceLost(text),
            Device::Unavailable(text) => Self::Unavailable(text),
        }
    }
}
