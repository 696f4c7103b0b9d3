//! The host's side of one GPU: handles for calls, and one thread that works with the worker.
//!
//! Nothing here waits for the GPU but that thread (`supervisor`); calls ask it through a bounded queue and await its answer.
//! Buffers and pipelines are made when a submission first uses them, so handles (`work`) cost nothing and outlive a worker: a
//! pipeline and a shard come again by themselves, and what a lost worker had computed is `device-lost` for its call alone.
//! `account` is what a call may use and has used.

mod account;
mod owned;
mod process;
mod queue;
mod strikes;
mod supervisor;
mod work;

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nearfield_protocol::Digest;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot, watch};

pub use account::Account;
pub use process::WorkerCommand;
pub use work::{Buffer, Outcome, Pipeline, Slice, Source, Step, Submission};

use crate::resident::Piece;
use crate::wire::{Choice, Description, Id, Shader};
use crate::{GpuError, limits};
use queue::Queue;
use work::{BufferInner, BufferState, Kind, PipelineInner};

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
    queue: Arc<Queue>,
    next: AtomicU64,
    state: watch::Receiver<State>,
    shared: Arc<Shared>,
    /// Units of [`limits::BRINGING`].
    bringing: Arc<Semaphore>,
}

/// What the thread and the handles tell each other.
#[derive(Default)]
struct Shared {
    /// Zeroed buffers that nobody holds any more. The lock is held for one push or for taking all.
    dropped: Mutex<Vec<Id>>,
    /// The blobs of which pieces are in GPU memory.
    residents: watch::Sender<Arc<HashSet<Digest>>>,
    /// The pieces themselves. The lock is held for one exchange or copy of the pointer.
    pieces: Mutex<Arc<HashSet<Piece>>>,
    resident_bytes: AtomicU64,
    restarts: AtomicU64,
    /// Bytes for shards and buffers; 0 before that is known.
    budget_bytes: AtomicU64,
    /// The thread is there no more.
    ended: AtomicBool,
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
        place: account::Place,
        reply: oneshot::Sender<Result<Outcome, GpuError>>,
    },
}

impl Ask {
    fn who(&self) -> &str {
        match self {
            Ask::Build { account, .. } => account.who(),
            Ask::Submit { submission, .. } => submission.account.who(),
        }
    }

    /// What it carries.
    fn bytes(&self) -> u64 {
        match self {
            Ask::Build { pipeline, .. } => pipeline.shader.wgsl.len() as u64,
            Ask::Submit { submission, .. } => submission.write_bytes(),
        }
    }
}

/// A submission that is under way.
pub type Pending = oneshot::Receiver<Result<Outcome, GpuError>>;

/// A failure of whoever gives shards, as it is.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// What adapter there is, by a worker that is started for that alone.
pub fn probe(options: &GpuOptions) -> Result<Description, GpuError> {
    let worker = process::Worker::start(&options.worker, &options.choice, options.budget_bytes)?;
    Ok(worker.description.clone())
}

impl Gpu {
    /// Starts the thread, which looks at once what adapter there is.
    pub fn start(options: GpuOptions) -> std::io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let (tell, state) = watch::channel(State::Starting);
        let shared = Arc::<Shared>::default();
        let supervisor = supervisor::Supervisor::new(options, shared.clone(), queue.clone(), tell);
        std::thread::Builder::new()
            .name("nearfield-gpu".to_owned())
            .spawn(move || supervisor.run())?;
        Ok(Gpu {
            inner: Arc::new(Inner {
                queue,
                next: AtomicU64::new(1),
                state,
                shared,
                bringing: Arc::new(Semaphore::new(limits::BRINGING as usize)),
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

    /// The adapter, if it is there by now.
    pub fn known(&self) -> Option<Arc<Description>> {
        if self.inner.shared.ended.load(Ordering::Relaxed) {
            return None;
        }
        match &*self.inner.state.borrow() {
            State::Here(description) => Some(description.clone()),
            State::Starting | State::Absent(_) => None,
        }
    }

    /// The blobs of which pieces are in GPU memory. Changes also with what is known of the adapter.
    pub fn residents(&self) -> watch::Receiver<Arc<HashSet<Digest>>> {
        self.inner.shared.residents.subscribe()
    }

    /// Bytes in GPU memory.
    pub fn resident_bytes(&self) -> u64 {
        self.inner.shared.resident_bytes.load(Ordering::Relaxed)
    }

    /// How often the worker was lost.
    pub fn restarts(&self) -> u64 {
        self.inner.shared.restarts.load(Ordering::Relaxed)
    }

    /// Checks and compiles a shader, unless that was done before. An equal shader of anybody is the same.
    pub async fn build(&self, shader: Shader, account: &Account) -> Result<Pipeline, GpuError> {
        let pipeline = Arc::new(PipelineInner::new(shader)?);
        let (reply, answer) = oneshot::channel();
        self.inner.queue.push(Ask::Build {
            pipeline,
            account: account.clone(),
            reply,
        })?;
        answer.await.map_err(|_| gone())?
    }

    /// A buffer of zeros. It takes memory once it is used.
    pub fn zeroed(&self, size: u64) -> Buffer {
        let kind = Kind::Zeroed {
            id: self.inner.next.fetch_add(1, Ordering::Relaxed),
            state: Mutex::new(BufferState::Unmade),
            shared: self.inner.shared.clone(),
            queue: self.inner.queue.clone(),
        };
        Buffer(Arc::new(BufferInner { size, kind }))
    }

    /// Bytes of a shard, read-only. They are brought when they are used, unless they are in GPU memory.
    pub fn shard(&self, piece: Piece, source: Source) -> Buffer {
        let (size, kind) = (piece.len, Kind::Shard { piece, source });
        Buffer(Arc::new(BufferInner { size, kind }))
    }

    /// What can be told of a submission without the device.
    pub fn check(&self, submission: &Submission) -> Result<(), GpuError> {
        submission.check(self.inner.shared.budget_bytes.load(Ordering::Relaxed))
    }

    /// Has at hand what of a submission's shards is not in GPU memory, so that the GPU's thread waits for no disk and no network. Waits
    /// while others bring much.
    pub async fn bring(&self, submission: &mut Submission) -> Result<(), SourceError> {
        let here = self.inner.shared.pieces.lock().clone();
        let absent: Vec<(Piece, Source)> = submission
            .shards()
            .into_iter()
            .filter(|(piece, _)| !here.contains(piece))
            .collect();
        if absent.is_empty() {
            return Ok(());
        }
        let units = |(piece, source): &(Piece, Source)| match source.copies {
            false => 1,
            true => 1 + piece.len.div_ceil(limits::BRINGING_UNIT_BYTES),
        };
        // What is more than all there is goes alone.
        let units = absent.iter().map(units).sum::<u64>().min(limits::BRINGING.into());
        let permit = self
            .inner
            .bringing
            .clone()
            .acquire_many_owned(units as u32)
            .await?;
        let bringing = tokio::task::spawn_blocking(move || {
            let mut files = Vec::with_capacity(absent.len());
            for (piece, source) in absent {
                files.push((piece, (source.open)()?));
            }
            Ok::<Vec<(Piece, (File, u64))>, SourceError>(files)
        });
        // Awaited by a task, so that what is at hand counts also where nobody waits for it any more.
        let brought = tokio::spawn(async move { (bringing.await, permit) }).await?;
        let (files, permit) = brought;
        submission.brought.files.extend(files??);
        submission.brought.permit = Some(permit);
        Ok(())
    }

    /// Hands over work. It is done even if nobody awaits it, unless its call ended before it began.
    pub fn submit(&self, submission: Submission) -> Result<Pending, GpuError> {
        let place = submission.account.enter()?;
        let (reply, pending) = oneshot::channel();
        self.inner.queue.push(Ask::Submit {
            submission: Box::new(submission),
            place,
            reply,
        })?;
        Ok(pending)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

fn gone() -> GpuError {
    GpuError::Unavailable("the GPU's thread has ended".to_owned())
}
