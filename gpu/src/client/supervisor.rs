//! The thread that works with the worker: one ask at a time, functions in turn.
//!
//! It owns everything that is known of the worker's memory. A worker that does not answer in time is killed, one that ended is
//! replaced; either way all that is known of it is forgotten, and whoever waits is served by the next one. What a worker ended
//! over is done once more by the next one, because it may have been killed for reasons of its own: a third one is not risked.
//! Functions that cost several workers are refused for a while.

mod keeping;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nearfield_protocol::Digest;
use tokio::sync::watch;

use super::owned::Owned;
use super::process::Worker;
use super::queue::{Next, Queue};
use super::strikes::Strikes;
use super::work::{Buffer, BufferState, Kind, Outcome, Pipeline, PipelineInner, Slice, Step, Submission};
use super::{Account, Ask, GpuOptions, Shared, State};
use crate::resident::{Piece, Resident};
use crate::wire::frame::{READS_AT, read_offsets};
use crate::wire::{self, Binding, Description, Id, Reply, Request, Usage};
use crate::{GpuError, limits};

pub(super) struct Supervisor {
    options: GpuOptions,
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    state: watch::Sender<State>,
    /// What was found first. Another adapter is not taken for it: functions were told what they have.
    first: Option<Arc<Description>>,
    /// `None` until somebody needs it.
    worker: Option<HeldWorker>,
    /// Counts workers: what one had, another has not.
    generation: u64,
    /// The last name that was given to something of this thread's own. Never twice, whichever worker it was for.
    last_id: Id,
    /// When a start failed, and why.
    failed: Option<(Instant, GpuError)>,
    /// How long until a GPU that is not there is looked for.
    look_again: Duration,
    /// Shaders that were refused; for a while, where it need not have been the shader.
    refused: HashMap<Digest, (GpuError, Option<Instant>)>,
    strikes: Strikes,
    /// Something came into the worker's memory or went since the others were told.
    is_news: bool,
}

/// A worker and all that is known of it.
struct HeldWorker {
    worker: Worker,
    resident: Resident<Id>,
    owned: Owned,
    pipelines: HashMap<Digest, Ready>,
    /// What it is to let go of with the next messages.
    drop: Vec<Id>,
    /// Rises with each pipeline that is used.
    clock: u64,
}

struct Ready {
    id: Id,
    bindings: Vec<Binding>,
    used: u64,
}

impl HeldWorker {
    /// Frees a call's buffer, if this worker has it, and its room at once: the worker frees it before it makes anything.
    fn free(&mut self, buffer: Id) {
        if let Some(bytes) = self.owned.remove(buffer) {
            self.drop.push(buffer);
            self.resident.unclaim(bytes);
        }
    }
}

/// Why an ask was not done.
enum Trouble {
    Told(GpuError),
    /// It took too long, and so the worker was killed.
    Late(GpuError),
    /// The worker ended.
    Ended(GpuError),
}

impl From<GpuError> for Trouble {
    fn from(error: GpuError) -> Self {
        Trouble::Told(error)
    }
}

impl Trouble {
    fn into_error(self) -> GpuError {
        let (Trouble::Told(error) | Trouble::Late(error) | Trouble::Ended(error)) = self;
        error
    }
}

/// Ids of what this thread makes itself begin here; calls count from 1.
const OWN_IDS: Id = 1 << 63;

impl Supervisor {
    pub fn new(
        options: GpuOptions,
        shared: Arc<Shared>,
        queue: Arc<Queue>,
        state: watch::Sender<State>,
    ) -> Self {
        Supervisor {
            options,
            shared,
            queue,
            state,
            first: None,
            worker: None,
            generation: 0,
            last_id: OWN_IDS,
            failed: None,
            look_again: limits::RESTART_WAIT,
            refused: HashMap::new(),
            strikes: Strikes::default(),
            is_news: true,
        }
    }

    /// Until nobody can ask any more.
    pub fn run(mut self) {
        let _ended = Ended(self.shared.clone(), self.queue.clone());
        self.look();
        loop {
            let next = self.queue.next(self.look_again);
            self.note_dropped();
            match next {
                Next::Ask(Ask::Build {
                    pipeline,
                    account,
                    reply,
                }) => {
                    let built = self.build(&pipeline, &account);
                    // Before whoever asked: it may ask at once for what is there now.
                    self.tell();
                    // Whoever asked may be gone.
                    let _ = reply.send(built.map(|()| Pipeline(pipeline)));
                }
                Next::Ask(Ask::Submit {
                    submission,
                    place,
                    reply,
                }) => {
                    let ended = self.submit(&submission);
                    self.tell();
                    drop((submission, place));
                    let _ = reply.send(ended);
                }
                Next::Tidy => {
                    self.let_go();
                    self.tell();
                }
                Next::Nothing if matches!(*self.state.borrow(), State::Absent(_)) => {
                    // Most that have none never will.
                    self.look_again = (2 * self.look_again).min(limits::LOOK_AGAIN);
                    self.look();
                }
                Next::Nothing => {}
                Next::Closed => return,
            }
        }
    }

    /// Whether a call may ask at all.
    fn admit(&self, account: &Account) -> Result<(), GpuError> {
        account.time_left()?;
        self.strikes.admit(account.who(), Instant::now())
    }

    fn build(&mut self, pipeline: &PipelineInner, account: &Account) -> Result<(), GpuError> {
        self.admit(account)?;
        let (begun, mut usage) = (Instant::now(), Usage::default());
        let mut built = self.build_once(pipeline, &mut usage);
        if let Err(Trouble::Ended(_)) = built {
            built = self.build_once(pipeline, &mut usage);
        }
        account.book(&usage, begun.elapsed());
        if let Err(Trouble::Ended(_) | Trouble::Late(_)) = built {
            self.strikes.add(account.who(), Instant::now());
        }
        let built = built.map_err(|trouble| match trouble {
            Trouble::Late(_) => self.refuse_for_a_while(
                pipeline,
                GpuError::Quota(format!(
                    "the shader takes longer to compile than {} s",
                    limits::BUILD_TIME.as_secs()
                )),
            ),
            Trouble::Ended(_) => self.refuse_for_a_while(
                pipeline,
                GpuError::Invalid("the driver does not survive compiling this shader".to_owned()),
            ),
            Trouble::Told(error) => error,
        });
        built.map(drop)
    }

    fn build_once(&mut self, pipeline: &PipelineInner, usage: &mut Usage) -> Result<Id, Trouble> {
        self.held()?;
        self.ready(pipeline, usage)
    }

    fn refuse_for_a_while(&mut self, pipeline: &PipelineInner, error: GpuError) -> GpuError {
        self.refuse(
            pipeline.key,
            error.clone(),
            Some(Instant::now() + limits::PENALTY),
        );
        error
    }

    fn refuse(&mut self, key: Digest, error: GpuError, until: Option<Instant>) {
        if self.refused.len() >= limits::REFUSALS {
            self.refused.clear();
        }
        self.refused.insert(key, (error, until));
    }

    /// The worker's name for a pipeline, which is compiled if it is not there.
    fn ready(&mut self, pipeline: &PipelineInner, usage: &mut Usage) -> Result<Id, Trouble> {
        match self.refused.get(&pipeline.key) {
            Some((error, until)) if until.is_none_or(|until| Instant::now() < until) => {
                return Err(error.clone().into());
            }
            Some(_) => drop(self.refused.remove(&pipeline.key)),
            None => {}
        }
        let held = self.current()?;
        held.clock += 1;
        let used = held.clock;
        if let Some(ready) = held.pipelines.get_mut(&pipeline.key) {
            ready.used = used;
            pipeline.bindings.get_or_init(|| ready.bindings.clone());
            return Ok(ready.id);
        }
        if held.pipelines.len() >= limits::PIPELINES {
            let least = held.pipelines.iter().min_by_key(|(_, ready)| ready.used);
            if let Some(key) = least.map(|(key, _)| *key) {
                held.drop
                    .extend(held.pipelines.remove(&key).map(|ready| ready.id));
            }
        }
        let id = self.next_id();
        let request = Request::Build {
            pipeline: id,
            shader: pipeline.shader.clone(),
        };
        let built = match self.ask(request, None, limits::BUILD_TIME) {
            Ok(Reply::Built(built)) => built,
            Ok(_) => return Err(confused().into()),
            Err(Trouble::Told(error)) => {
                // What the shader is alone to blame for.
                if matches!(error, GpuError::Invalid(_) | GpuError::Quota(_)) {
                    self.refuse(pipeline.key, error.clone(), None);
                }
                return Err(error.into());
            }
            Err(trouble) => return Err(trouble),
        };
        usage.compile_us += built.compile_us;
        pipeline.bindings.get_or_init(|| built.bindings.clone());
        let bindings = built.bindings;
        let ready = Ready { id, bindings, used };
        self.current()?.pipelines.insert(pipeline.key, ready);
        Ok(id)
    }

    fn submit(&mut self, submission: &Submission) -> Result<Outcome, GpuError> {
        let account = &submission.account;
        let (begun, mut usage) = (Instant::now(), Usage::default());
        let reads = self.admit(account).map_err(Trouble::from).and_then(|()| {
            match self.submit_once(submission, &mut usage) {
                Err(Trouble::Ended(_)) => self.submit_once(submission, &mut usage),
                reads => reads,
            }
        });
        if let Err(Trouble::Ended(_) | Trouble::Late(_)) = reads {
            self.strikes.add(account.who(), Instant::now());
            // It had the GPU for as long.
            usage.gpu_ns += begun.elapsed().as_nanos() as u64;
        }
        account.book(&usage, begun.elapsed());
        if reads.is_err() {
            self.spoil(submission);
        }
        match reads {
            Ok(reads) => Ok(Outcome { usage, reads }),
            Err(trouble) => Err(trouble.into_error()),
        }
    }

    /// What a submission was to write is unknown once it failed: nobody takes it for what it is not.
    fn spoil(&mut self, submission: &Submission) {
        for buffer in submission.written() {
            let Kind::Zeroed { id, state, .. } = &buffer.0.kind else {
                continue;
            };
            *state.lock() = BufferState::Spoiled;
            if let Some(held) = &mut self.worker {
                held.free(*id);
            }
        }
    }

    fn submit_once(&mut self, submission: &Submission, usage: &mut Usage) -> Result<Vec<Vec<u8>>, Trouble> {
        self.held()?;
        let mut in_use = InUse {
            generation: self.generation,
            ..InUse::default()
        };
        let reads = self.submit_with(submission, &mut in_use, usage);
        let is_there = in_use.generation == self.generation;
        if let Some(held) = self.worker.as_mut().filter(|_| is_there) {
            in_use
                .pieces
                .keys()
                .for_each(|piece| held.resident.release(piece));
        }
        if reads.is_err() {
            // What was made for it alone is not there, or need not be.
            for buffer in &in_use.made {
                let Kind::Zeroed { id, state, .. } = &buffer.0.kind else {
                    continue;
                };
                *state.lock() = BufferState::Unmade;
                if let Some(held) = &mut self.worker {
                    held.free(*id);
                }
            }
        }
        reads
    }

    fn submit_with(
        &mut self,
        submission: &Submission,
        in_use: &mut InUse,
        usage: &mut Usage,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let account = &submission.account;
        // First, since compiling may cost the worker: then it begins again.
        let mut pipelines = HashMap::new();
        for step in &submission.steps {
            if let Step::Dispatch { pipeline, .. } = step
                && let Entry::Vacant(place) = pipelines.entry(pipeline.0.key)
            {
                account.time_left()?;
                place.insert(self.ready(&pipeline.0, usage)?);
            }
        }
        let mut create = Vec::new();
        for buffer in submission.buffers() {
            account.time_left()?;
            self.bring(buffer, submission, in_use, &mut create, usage)?;
        }
        let slice = |slice: &Slice| wire::Slice {
            buffer: in_use.id(&slice.buffer),
            offset: slice.offset,
            len: slice.len,
        };
        let (mut steps, mut written) = (Vec::with_capacity(submission.steps.len()), 0);
        let window = &self.current()?.worker.window;
        for step in &submission.steps {
            steps.push(match step {
                Step::Dispatch {
                    pipeline,
                    bindings,
                    workgroups,
                } => {
                    usage.dispatches += 1;
                    let bound = |(binding, part): &(u32, Slice)| wire::Bound {
                        binding: *binding,
                        slice: slice(part),
                    };
                    wire::Step::Dispatch {
                        pipeline: pipelines[&pipeline.0.key],
                        bindings: bindings.iter().map(bound).collect(),
                        workgroups: *workgroups,
                    }
                }
                Step::Copy { from, to, to_offset } => wire::Step::Copy {
                    from: slice(from),
                    to: in_use.id(to),
                    to_offset: *to_offset,
                },
                Step::Write { to, offset, bytes } => {
                    window.write(written, bytes).map_err(window_failed)?;
                    let at = written;
                    written += bytes.len() as u64;
                    let (buffer, offset, len) = (in_use.id(to), *offset, bytes.len() as u64);
                    let to = wire::Slice { buffer, offset, len };
                    wire::Step::Write { to, at }
                }
            });
        }
        usage.uploaded_bytes += written;
        let run = wire::Run {
            create,
            steps,
            reads: submission.reads.iter().map(slice).collect(),
        };
        let left = account.time_left()?;
        let timeout = submission.timeout.map_or(left, |asked| asked.min(left));
        let ran = match self.ask(Request::Run(run), None, timeout)? {
            Reply::Ran(ran) => ran,
            _ => return Err(confused().into()),
        };
        usage.gpu_ns += ran.gpu_ns;
        let held = self.current()?;
        if ran.exhausted {
            return Err(Trouble::Told(GpuError::Quota(format!(
                "a loop of a shader was cut short after {} turns of one invocation: what was written is not what it meant",
                held.worker.description.max_loop_turns
            ))));
        }
        let lens = submission.reads.iter().map(|read| read.len);
        let mut reads = Vec::with_capacity(submission.reads.len());
        for (read, offset) in submission.reads.iter().zip(read_offsets(lens)) {
            let mut bytes = vec![0; read.len as usize];
            let window = &held.worker.window;
            window
                .read(READS_AT + offset, &mut bytes)
                .map_err(window_failed)?;
            usage.downloaded_bytes += read.len;
            reads.push(bytes);
        }
        Ok(reads)
    }

    /// Sees that the worker has a buffer, or will have it when the submission begins.
    fn bring(
        &mut self,
        buffer: &Buffer,
        submission: &Submission,
        in_use: &mut InUse,
        create: &mut Vec<(Id, u64)>,
        usage: &mut Usage,
    ) -> Result<(), Trouble> {
        let generation = self.generation;
        let (piece, source) = match &buffer.0.kind {
            Kind::Zeroed { id, state, .. } => {
                let now = *state.lock();
                match now {
                    BufferState::Made { generation: there } if there == generation => {}
                    BufferState::Unmade => {
                        let size = buffer.0.size;
                        let budget_bytes = self.shared.budget_bytes.load(Ordering::Relaxed);
                        self.current()?
                            .owned
                            .admit(&submission.account, size, budget_bytes)?;
                        self.claim(size)?;
                        self.current()?.owned.add(*id, &submission.account, size);
                        *state.lock() = BufferState::Made { generation };
                        in_use.made.push(buffer.clone());
                        create.push((*id, size));
                    }
                    BufferState::Spoiled => {
                        let text = "what the buffer holds is unknown: a submission that writes it has failed";
                        return Err(GpuError::Invalid(text.to_owned()).into());
                    }
                    BufferState::Made { .. } => {
                        let text = "what the buffer held was lost with the GPU's worker: begin again";
                        return Err(GpuError::DeviceLost(text.to_owned()).into());
                    }
                }
                return Ok(());
            }
            Kind::Shard { piece, source } => (piece, source),
        };
        if in_use.pieces.contains_key(piece) {
            return Ok(());
        }
        if let Some(id) = self.current()?.resident.take(piece) {
            in_use.pieces.insert(*piece, *id);
            usage.resident_hits += 1;
            return Ok(());
        }
        usage.resident_misses += 1;
        let begun = Instant::now();
        let opened;
        let (file, offset) = match submission.brought.files.get(piece) {
            Some((file, offset)) => (file, *offset),
            None if source.copies => {
                let text = "a shard went out of GPU memory while this waited: submit it again";
                return Err(GpuError::Unavailable(text.to_owned()).into());
            }
            None => {
                let unread = |error| GpuError::Unavailable(format!("a shard cannot be read: {error}"));
                opened = (source.open)().map_err(unread)?;
                (&opened.0, opened.1)
            }
        };
        self.claim(piece.len)?;
        self.is_news = true;
        let id = self.next_id();
        let request = Request::Upload {
            buffer: id,
            offset,
            len: piece.len,
        };
        let uploaded = match self.ask(request, Some(file), limits::UPLOAD_TIME) {
            Ok(Reply::Done) => Ok(()),
            Ok(_) => Err(confused().into()),
            Err(trouble) => Err(trouble),
        };
        if generation != self.generation {
            // The room went with the worker.
            return uploaded;
        }
        let held = self.current()?;
        match uploaded {
            Ok(()) => {
                held.resident.fill(*piece, id, begun.elapsed().as_micros() as u64);
                in_use.pieces.insert(*piece, id);
                usage.uploaded_bytes += piece.len;
                Ok(())
            }
            Err(trouble) => {
                // It may be there, whatever the answer was.
                held.drop.push(id);
                held.resident.unclaim(piece.len);
                Err(trouble)
            }
        }
    }
}

/// What a submission works on, which nobody may take away meanwhile.
#[derive(Default)]
struct InUse {
    /// The worker that has it.
    generation: u64,
    pieces: HashMap<Piece, Id>,
    /// Buffers of zeros that begin with it.
    made: Vec<Buffer>,
}

impl InUse {
    /// The worker's name for a buffer that was brought.
    fn id(&self, buffer: &Buffer) -> Id {
        match &buffer.0.kind {
            Kind::Zeroed { id, .. } => *id,
            Kind::Shard { piece, .. } => self.pieces[piece],
        }
    }
}

/// Says that the thread is there no more, however it ended.
struct Ended(Arc<Shared>, Arc<Queue>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
        self.1.abandon();
    }
}

fn confused() -> GpuError {
    GpuError::Unavailable("the GPU's worker answered something else than it was asked".to_owned())
}

fn window_failed(error: std::io::Error) -> GpuError {
    GpuError::Unavailable(format!("memory shared with the GPU's worker: {error}"))
}
