//! The host's side of one GPU: handles for calls, and one thread that works with the worker.
//!
//! Nothing here waits for the GPU but that thread (`supervisor`); calls ask it through a bounded queue and await its answer.
//! Buffers and pipelines are made when a submission first uses them, so handles cost nothing and outlive a worker: a pipeline
//! and a shard come again by themselves, and what a lost worker had computed is `device-lost` for its call alone.

mod process;
mod supervisor;

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nearfield_protocol::Digest;
use tokio::sync::{mpsc, oneshot, watch};

pub use process::WorkerCommand;

use crate::resident::Piece;
use crate::wire::{Binding, Choice, Description, Id, Shader, Usage};
use crate::{GpuError, limits};

/// How a GPU is set up.
#[derive(Debug, Clone)]
pub struct GpuOptions {
    pub worker: WorkerCommand,
    pub choice: Choice,
    /// Bytes of GPU memory that shards and calls' buffers may take together; by the kind of adapter if absent.
    pub budget_bytes: Option<u64>,
}

/// One GPU. Cheap to clone.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    asks: mpsc::Sender<Ask>,
    next: AtomicU64,
    state: watch::Receiver<State>,
    shared: Arc<Shared>,
}

/// What the thread tells.
#[derive(Default)]
pub(crate) struct Shared {
    /// Zeroed buffers that nobody holds any more. The lock is held for one push or for taking all.
    dropped: Mutex<Vec<Dropped>>,
    /// The blobs of which pieces are in GPU memory.
    residents: watch::Sender<Arc<HashSet<Digest>>>,
    pub resident_bytes: AtomicU64,
    pub restarts: AtomicU64,
    /// Bytes for shards and buffers; 0 before that is known.
    budget_bytes: AtomicU64,
    /// Bytes of writes that wait.
    queued_bytes: AtomicU64,
    /// The thread was asked to let go of what was dropped, and has not begun.
    tidying: AtomicBool,
}

struct Dropped {
    buffer: Id,
    /// The worker that had it.
    generation: u64,
    bytes: u64,
}

#[derive(Clone)]
enum State {
    Starting,
    Here(Arc<Description>),
    Absent(Arc<str>),
}

/// What a call asks the thread.
enum Ask {
    Build {
        pipeline: Arc<PipelineInner>,
        account: Account,
        reply: oneshot::Sender<Result<Pipeline, GpuError>>,
    },
    Submit {
        submission: Box<Submission>,
        reply: oneshot::Sender<Result<Outcome, GpuError>>,
    },
    /// To let go of what was dropped.
    Tidy,
}

/// What a call has used, whether or not it asked what came of it.
#[derive(Clone, Default)]
pub struct Account(Arc<AccountInner>);

#[derive(Default)]
struct AccountInner {
    /// The lock is held for one addition or a copy.
    usage: Mutex<Usage>,
    /// The call has ended: nothing is begun for it any more.
    closed: AtomicBool,
}

impl Account {
    pub fn usage(&self) -> Usage {
        *self.0.usage.lock().expect("no panic under this lock")
    }

    /// The call has ended.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    fn book(&self, usage: &Usage) {
        self.0.usage.lock().expect("no panic under this lock").add(usage);
    }
}

/// A shader that has been compiled once.
#[derive(Clone)]
pub struct Pipeline(Arc<PipelineInner>);

struct PipelineInner {
    key: Digest,
    shader: Shader,
    bindings: OnceLock<Vec<Binding>>,
}

/// A buffer of one call.
#[derive(Clone)]
pub struct Buffer(Arc<BufferInner>);

struct BufferInner {
    size: u64,
    kind: Kind,
}

enum Kind {
    Zeroed {
        id: Id,
        /// The worker that has it, once a submission used it; 0 before.
        made: AtomicU64,
        shared: Arc<Shared>,
        asks: mpsc::WeakSender<Ask>,
    },
    Shard {
        piece: Piece,
        source: Source,
        /// What the source gave. The lock is held while it is asked.
        brought: Mutex<Option<(File, u64)>>,
    },
}

/// Gives a shard's bytes: a file, and where in it they begin. It may read a disk, or the network.
pub type Source = Arc<dyn Fn() -> Result<(File, u64), GpuError> + Send + Sync>;

/// Work for the GPU.
pub struct Submission {
    pub steps: Vec<Step>,
    pub reads: Vec<Slice>,
    /// Once the GPU works on it.
    pub timeout: Duration,
    pub account: Account,
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

/// A submission that is under way.
pub type Pending = oneshot::Receiver<Result<Outcome, GpuError>>;

/// What adapter there is, by a worker that is started for that alone.
pub fn probe(options: &GpuOptions) -> Result<Description, GpuError> {
    let worker = process::Worker::start(&options.worker, &options.choice)?;
    Ok(worker.description.clone())
}

impl Gpu {
    /// Starts the thread, which looks at once what adapter there is.
    pub fn start(options: GpuOptions) -> std::io::Result<Self> {
        let (asks, inbox) = mpsc::channel(limits::QUEUED);
        let (tell, state) = watch::channel(State::Starting);
        let shared = Arc::<Shared>::default();
        let supervisor = supervisor::Supervisor::new(options, shared.clone());
        std::thread::Builder::new()
            .name("nearfield-gpu".to_owned())
            .spawn(move || supervisor.run(inbox, &tell))?;
        Ok(Gpu {
            inner: Arc::new(Inner {
                asks,
                next: AtomicU64::new(1),
                state,
                shared,
            }),
        })
    }

    /// The adapter, once it is known.
    pub async fn describe(&self) -> Result<Arc<Description>, GpuError> {
        let mut state = self.inner.state.clone();
        let known = state.wait_for(|state| !matches!(state, State::Starting)).await;
        match known.as_deref() {
            Ok(State::Here(description)) => Ok(description.clone()),
            Ok(State::Absent(reason)) => Err(GpuError::Unavailable(reason.to_string())),
            Ok(State::Starting) | Err(_) => Err(gone()),
        }
    }

    /// The adapter, if it is known by now.
    pub fn known(&self) -> Option<Arc<Description>> {
        if self.inner.asks.is_closed() {
            return None;
        }
        match &*self.inner.state.borrow() {
            State::Here(description) => Some(description.clone()),
            State::Starting | State::Absent(_) => None,
        }
    }

    /// The blobs of which pieces are in GPU memory. Changes also once it is known what adapter there is.
    pub fn residents(&self) -> watch::Receiver<Arc<HashSet<Digest>>> {
        self.inner.shared.residents.subscribe()
    }

    /// Bytes in GPU memory.
    pub fn resident_bytes(&self) -> u64 {
        self.inner.shared.resident_bytes.load(Ordering::Relaxed)
    }

    /// How often the worker was started anew.
    pub fn restarts(&self) -> u64 {
        self.inner.shared.restarts.load(Ordering::Relaxed)
    }

    /// Checks and compiles a shader, unless that was done before. An equal shader of anybody is the same.
    pub async fn build(&self, shader: Shader, account: &Account) -> Result<Pipeline, GpuError> {
        let pipeline = Arc::new(PipelineInner {
            key: shader_key(&shader)?,
            shader,
            bindings: OnceLock::new(),
        });
        let (reply, answer) = oneshot::channel();
        let account = account.clone();
        self.ask(Ask::Build {
            pipeline,
            account,
            reply,
        })?;
        answer.await.map_err(|_| gone())?
    }

    /// A buffer of zeros. It takes memory once it is used.
    pub fn zeroed(&self, size: u64) -> Buffer {
        Buffer(Arc::new(BufferInner {
            size,
            kind: Kind::Zeroed {
                id: self.inner.next.fetch_add(1, Ordering::Relaxed),
                made: AtomicU64::new(0),
                shared: self.inner.shared.clone(),
                asks: self.inner.asks.downgrade(),
            },
        }))
    }

    /// Bytes of a shard, read-only. They are brought when they are used, unless they are in GPU memory.
    pub fn shard(&self, piece: Piece, source: Source) -> Buffer {
        Buffer(Arc::new(BufferInner {
            size: piece.len,
            kind: Kind::Shard {
                piece,
                source,
                brought: Mutex::default(),
            },
        }))
    }

    /// The shards of a submission that are not in GPU memory, as far as is known. [`Buffer::bring`] has their bytes at hand, so that
    /// the GPU's thread does not wait for a disk or the network.
    pub fn absent(&self, submission: &Submission) -> Vec<Buffer> {
        let residents = self.inner.shared.residents.borrow().clone();
        let mut absent: Vec<Buffer> = Vec::new();
        for buffer in submission.buffers() {
            if let Kind::Shard { piece, .. } = &buffer.0.kind
                && !residents.contains(&piece.digest)
                && absent.iter().all(|other| !Arc::ptr_eq(&other.0, &buffer.0))
            {
                absent.push(buffer.clone());
            }
        }
        absent
    }

    /// Hands over work. It is done even if nobody awaits it, unless its call ended before it began.
    pub fn submit(&self, submission: Submission) -> Result<Pending, GpuError> {
        let queued = &self.inner.shared.queued_bytes;
        let bytes = submission.write_bytes();
        if queued.fetch_add(bytes, Ordering::Relaxed) + bytes > limits::QUEUED_BYTES {
            queued.fetch_sub(bytes, Ordering::Relaxed);
            return Err(GpuError::Quota(format!(
                "writes of {} bytes wait for the GPU already",
                limits::QUEUED_BYTES
            )));
        }
        let (reply, pending) = oneshot::channel();
        let submission = Box::new(submission);
        match self.ask(Ask::Submit { submission, reply }) {
            Ok(()) => Ok(pending),
            Err(error) => {
                queued.fetch_sub(bytes, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// What can be told of a submission without the device.
    pub fn check(&self, submission: &Submission) -> Result<(), GpuError> {
        check(submission)?;
        let mut pieces: Vec<Piece> = submission.buffers().filter_map(Buffer::piece).collect();
        pieces.sort_unstable();
        pieces.dedup();
        let wanted = pieces.iter().map(|piece| piece.len).fold(0, u64::saturating_add);
        match self.inner.shared.budget_bytes.load(Ordering::Relaxed) {
            0 => Ok(()),
            budget => at_most("bytes of shards", wanted, budget),
        }
    }

    fn ask(&self, ask: Ask) -> Result<(), GpuError> {
        use mpsc::error::TrySendError::{Closed, Full};
        self.inner.asks.try_send(ask).map_err(|error| match error {
            Full(_) => GpuError::Quota(format!("{} submissions wait for the GPU already", limits::QUEUED)),
            Closed(_) => gone(),
        })
    }
}

fn gone() -> GpuError {
    GpuError::Unavailable("the GPU's thread has ended".to_owned())
}

impl Buffer {
    pub fn size(&self) -> u64 {
        self.0.size
    }

    fn is_shard(&self) -> bool {
        matches!(self.0.kind, Kind::Shard { .. })
    }

    fn piece(&self) -> Option<Piece> {
        match &self.0.kind {
            Kind::Shard { piece, .. } => Some(*piece),
            Kind::Zeroed { .. } => None,
        }
    }

    /// Has a shard's bytes at hand. It may wait for a disk or the network.
    pub fn bring(&self) -> Result<(), GpuError> {
        if let Kind::Shard { source, brought, .. } = &self.0.kind {
            let mut brought = brought.lock().expect("no panic under this lock");
            if brought.is_none() {
                *brought = Some(source()?);
            }
        }
        Ok(())
    }
}

impl Submission {
    /// All buffers; some more than once.
    fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        let of_steps = self.steps.iter().flat_map(|step| match step {
            Step::Dispatch { bindings, .. } => bindings.iter().map(|(_, slice)| &slice.buffer).collect(),
            Step::Copy { from, to, .. } => vec![&from.buffer, to],
            Step::Write { to, .. } => vec![to],
        });
        of_steps.chain(self.reads.iter().map(|slice| &slice.buffer))
    }

    /// Bytes that it reads back.
    pub fn read_bytes(&self) -> u64 {
        self.reads
            .iter()
            .map(|read| read.len)
            .fold(0, u64::saturating_add)
    }

    fn write_bytes(&self) -> u64 {
        let written = self.steps.iter().map(|step| match step {
            Step::Write { bytes, .. } => bytes.len() as u64,
            Step::Dispatch { .. } | Step::Copy { .. } => 0,
        });
        written.sum()
    }
}

impl Drop for BufferInner {
    fn drop(&mut self) {
        let Kind::Zeroed {
            id,
            made,
            shared,
            asks,
        } = &self.kind
        else {
            return;
        };
        let generation = made.load(Ordering::Relaxed);
        if generation == 0 {
            return;
        }
        let dropped = Dropped {
            buffer: *id,
            generation,
            bytes: self.size,
        };
        shared
            .dropped
            .lock()
            .expect("no panic under this lock")
            .push(dropped);
        // A full queue is worked on, and what was dropped is let go of before each ask.
        if !shared.tidying.swap(true, Ordering::Relaxed)
            && let Some(asks) = asks.upgrade()
        {
            let _ = asks.try_send(Ask::Tidy);
        }
    }
}

/// Names a pipeline: equal shaders have one. The device is not in it, since each worker starts without any.
fn shader_key(shader: &Shader) -> Result<Digest, GpuError> {
    let Shader {
        wgsl,
        entry,
        constants,
    } = shader;
    if constants.len() > limits::CONSTANTS {
        return Err(too_many(
            "constants of a pipeline",
            constants.len() as u64,
            limits::CONSTANTS as u64,
        ));
    }
    let names = constants.iter().map(|(name, _)| name);
    if let Some(name) = names.chain([entry]).find(|name| name.len() > limits::NAME_BYTES) {
        return Err(too_many(
            "bytes of a name",
            name.len() as u64,
            limits::NAME_BYTES as u64,
        ));
    }
    // What is far beyond what a shader may have is not even sent; the exact bound is the worker's.
    if wgsl.len() > limits::SOURCE_BYTES {
        return Err(too_many(
            "bytes of source",
            wgsl.len() as u64,
            limits::SOURCE_BYTES as u64,
        ));
    }
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
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// What can be told without the device.
fn check(submission: &Submission) -> Result<(), GpuError> {
    let Submission { steps, reads, .. } = submission;
    at_most("steps", steps.len() as u64, limits::STEPS as u64)?;
    at_most("reads", reads.len() as u64, limits::READS as u64)?;
    for (index, step) in steps.iter().enumerate() {
        let within = |error| match error {
            GpuError::Invalid(text) => GpuError::Invalid(format!("step {index}: {text}")),
            GpuError::Quota(text) => GpuError::Quota(format!("step {index}: {text}")),
            other => other,
        };
        match step {
            Step::Dispatch {
                pipeline,
                bindings,
                workgroups,
            } => dispatch(pipeline, bindings, workgroups),
            Step::Copy { from, to, to_offset } => slice(from)
                .and_then(|()| writable(to, *to_offset, from.len))
                .and_then(|()| match Arc::ptr_eq(&from.buffer.0, &to.0) {
                    true => Err(GpuError::Invalid("a buffer is not copied into itself".to_owned())),
                    false => Ok(()),
                }),
            Step::Write { to, offset, bytes } => writable(to, *offset, bytes.len() as u64),
        }
        .map_err(within)?;
    }
    at_most("bytes written", submission.write_bytes(), limits::WRITE_BYTES)?;
    at_most("bytes read back", submission.read_bytes(), limits::READ_BYTES)?;
    reads.iter().try_for_each(slice)
}

fn dispatch(pipeline: &Pipeline, bindings: &[(u32, Slice)], workgroups: &[u32; 3]) -> Result<(), GpuError> {
    let count = workgroups
        .iter()
        .map(|size| u64::from(*size))
        .fold(1, u64::saturating_mul);
    at_most("workgroups", count, limits::WORKGROUPS)?;
    for (at, (number, _)) in bindings.iter().enumerate() {
        if bindings[..at].iter().any(|(other, _)| other == number) {
            return Err(GpuError::Invalid(format!("binding {number} is given twice")));
        }
    }
    for binding in pipeline.0.bindings.get().into_iter().flatten() {
        let Some((_, slice)) = bindings.iter().find(|(number, _)| *number == binding.binding) else {
            return Err(GpuError::Invalid(format!(
                "binding {} of the shader has no buffer",
                binding.binding
            )));
        };
        bound(slice)?;
        if slice.buffer.is_shard() && binding.access == crate::wire::Access::ReadWrite {
            return Err(GpuError::Invalid(format!(
                "binding {} is written by the shader, and shards are read-only: bind it as `var<storage, read>`",
                binding.binding
            )));
        }
    }
    Ok(())
}

fn writable(to: &Buffer, offset: u64, len: u64) -> Result<(), GpuError> {
    if to.is_shard() {
        return Err(GpuError::Invalid("shards are read-only".to_owned()));
    }
    slice(&Slice {
        buffer: to.clone(),
        offset,
        len,
    })
}

/// Bytes that are copied: whole words (WebGPU §20.3).
fn slice(slice: &Slice) -> Result<(), GpuError> {
    let Slice { offset, len, .. } = slice;
    if offset % 4 != 0 || len % 4 != 0 {
        return Err(GpuError::Invalid(format!(
            "{len} bytes from {offset}: what is copied, written or read begins and ends at a multiple of 4"
        )));
    }
    bound(slice)
}

fn bound(Slice { buffer, offset, len }: &Slice) -> Result<(), GpuError> {
    // A shard has zeros up to a multiple of 4.
    let size = buffer.size().next_multiple_of(4);
    match offset.checked_add(*len) {
        Some(end) if end <= size && *len > 0 => Ok(()),
        _ => Err(GpuError::Invalid(format!(
            "{len} bytes from {offset} of a buffer of {size}"
        ))),
    }
}

fn at_most(what: &str, found: u64, most: u64) -> Result<(), GpuError> {
    match found <= most {
        true => Ok(()),
        false => Err(too_many(what, found, most)),
    }
}

fn too_many(what: &str, found: u64, most: u64) -> GpuError {
    GpuError::Quota(format!("{what} = {found}, where at most {most} are allowed"))
}
