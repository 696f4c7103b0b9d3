//! The thread that works with the worker: one ask at a time, in the order in which they came.
//!
//! It owns everything that is known of the worker's memory. A worker that does not answer in time is killed, one that ended is
//! replaced; either way all that is known of it is forgotten, and whoever waits is served by the next one. What a worker ended
//! over is done once more by the next one, because it may have been killed for reasons of its own: a second one is not risked.

use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nearfield_protocol::Digest;
use tokio::sync::{mpsc, watch};

use super::process::{Lost, Worker};
use super::{
    Account, Ask, Buffer, GpuOptions, Kind, Outcome, Pipeline, PipelineInner, Shared, State, Step, Submission,
};
use crate::resident::{NoRoom, Piece, Resident};
use crate::wire::frame::{READS_AT, read_offsets};
use crate::wire::{self, Binding, Description, Id, Message, Reply, Request, Usage};
use crate::{GpuError, limits};

pub(super) struct Supervisor {
    options: GpuOptions,
    shared: Arc<Shared>,
    /// `None` until somebody needs it.
    worker: Option<Held>,
    /// Counts workers: what one had, another has not.
    generation: u64,
    /// When a start failed, and why.
    failed: Option<(Instant, GpuError)>,
    refused: HashMap<Digest, GpuError>,
    budget_bytes: u64,
    /// Something came into the worker's memory or went since the others were told.
    is_news: bool,
}

/// A worker and all that is known of it.
struct Held {
    worker: Worker,
    resident: Resident<Id>,
    pipelines: HashMap<Digest, Ready>,
    /// What it is to let go of with the next message.
    drop: Vec<Id>,
    /// Rises with each pipeline that is used.
    clock: u64,
}

struct Ready {
    id: Id,
    bindings: Vec<Binding>,
    used: u64,
}

/// Ids of what this thread makes itself begin here; calls count from 1.
const OWN_IDS: Id = 1 << 63;

impl Supervisor {
    pub fn new(options: GpuOptions, shared: Arc<Shared>) -> Self {
        Supervisor {
            options,
            shared,
            worker: None,
            generation: 0,
            failed: None,
            refused: HashMap::new(),
            budget_bytes: 0,
            is_news: true,
        }
    }

    /// Until nobody can ask any more.
    pub fn run(mut self, mut inbox: mpsc::Receiver<Ask>, state: &watch::Sender<State>) {
        match self.look() {
            Ok(description) => state.send_replace(State::Here(description)),
            Err(error) => state.send_replace(State::Absent(error.to_string().into())),
        };
        self.tell();
        while let Some(ask) = inbox.blocking_recv() {
            self.let_go();
            match ask {
                Ask::Build {
                    pipeline,
                    account,
                    reply,
                } if !account.is_closed() => {
                    let built = self.build(&pipeline, &account);
                    // Whoever asked may be gone.
                    let _ = reply.send(built.map(|()| Pipeline(pipeline)));
                }
                Ask::Submit { submission, reply } => {
                    let bytes = submission.write_bytes();
                    if !submission.account.is_closed() {
                        let _ = reply.send(self.submit(&submission));
                    }
                    self.shared.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                }
                Ask::Build { .. } | Ask::Tidy => {}
            }
            self.tell();
        }
    }

    /// What adapter there is. A software adapter's worker is then ended: most nodes never need it.
    fn look(&mut self) -> Result<Arc<Description>, GpuError> {
        let description = Arc::new(self.held()?.worker.description.clone());
        if description.software {
            self.worker = None;
        }
        Ok(description)
    }

    /// The worker, started if there is none.
    fn held(&mut self) -> Result<&mut Held, GpuError> {
        if self.worker.as_mut().is_some_and(|held| held.worker.has_ended()) {
            self.lose("it ended");
        }
        if self.worker.is_none() {
            if let Some((at, error)) = &self.failed
                && at.elapsed() < limits::RESTART_WAIT
            {
                return Err(error.clone());
            }
            self.failed = None;
            self.generation += 1;
            let started = Worker::start(&self.options.worker, &self.options.choice);
            let worker = started.inspect_err(|error| self.failed = Some((Instant::now(), error.clone())))?;
            let usual = match worker.description.software {
                true => limits::SOFTWARE_MEMORY_BYTES,
                false => limits::HARDWARE_MEMORY_BYTES,
            };
            self.budget_bytes = self.options.budget_bytes.unwrap_or(usual);
            self.shared
                .budget_bytes
                .store(self.budget_bytes, Ordering::Relaxed);
            self.worker = Some(Held {
                worker,
                resident: Resident::new(self.budget_bytes),
                pipelines: HashMap::new(),
                drop: Vec::new(),
                clock: 0,
            });
        }
        Ok(self.worker.as_mut().expect("started above"))
    }

    /// The worker that this ask began with.
    fn current(&mut self) -> Result<&mut Held, GpuError> {
        let lost = || GpuError::DeviceLost("the GPU's worker was lost".to_owned());
        self.worker.as_mut().ok_or_else(lost)
    }

    /// Ends a worker that is of no more use, and starts the next one, since others wait.
    fn lose(&mut self, why: &str) {
        let begun = Instant::now();
        self.worker = None;
        self.is_news = true;
        self.shared.restarts.fetch_add(1, Ordering::Relaxed);
        match self.held() {
            Ok(_) => tracing::warn!(
                why,
                recovery_ms = begun.elapsed().as_millis() as u64,
                "the GPU's worker was started anew"
            ),
            Err(error) => tracing::error!(why, %error, "the GPU's worker is gone"),
        }
    }

    /// Notes what was dropped since.
    fn let_go(&mut self) {
        // Before they are taken: what is dropped from here on asks again.
        self.shared.tidying.store(false, Ordering::Relaxed);
        let dropped = std::mem::take(&mut *self.shared.dropped.lock().expect("no panic under this lock"));
        let Some(held) = &mut self.worker else { return };
        for buffer in dropped {
            if buffer.generation == self.generation {
                held.resident.unclaim(buffer.bytes);
                held.drop.push(buffer.buffer);
            }
        }
    }

    /// Tells the others what is in GPU memory.
    fn tell(&mut self) {
        let resident = self.worker.as_ref().map(|held| &held.resident);
        let bytes = resident.map_or(0, Resident::held_bytes);
        self.shared.resident_bytes.store(bytes, Ordering::Relaxed);
        if std::mem::take(&mut self.is_news) {
            let residents: HashSet<Digest> = resident.into_iter().flat_map(Resident::digests).collect();
            self.shared.residents.send_replace(Arc::new(residents));
        }
    }

    /// Asks the worker. Without an answer the worker is another one.
    fn ask(
        &mut self,
        request: Request,
        file: Option<&std::fs::File>,
        timeout: Duration,
    ) -> Result<Reply, GpuError> {
        let held = self.current()?;
        let message = Message {
            drop: std::mem::take(&mut held.drop),
            request,
        };
        match held.worker.ask(&message, file.map(AsFd::as_fd), timeout) {
            Ok(Reply::Failed(error)) => Err(error),
            Ok(reply) => Ok(reply),
            Err(Lost::Late) => {
                self.lose("it took too long");
                Err(GpuError::Timeout(format!(
                    "the GPU worked on this for more than {} ms and was stopped",
                    timeout.as_millis()
                )))
            }
            Err(Lost::Ended(error)) => {
                self.lose("it ended");
                Err(GpuError::DeviceLost(format!(
                    "the GPU's worker was lost over this: {error}"
                )))
            }
        }
    }

    fn build(&mut self, pipeline: &PipelineInner, account: &Account) -> Result<(), GpuError> {
        let mut usage = Usage::default();
        self.held()?;
        let ready = self.ready(pipeline, &mut usage);
        account.book(&usage);
        ready.map(drop)
    }

    /// The worker's name for a pipeline, which is compiled if it is not there.
    fn ready(&mut self, pipeline: &PipelineInner, usage: &mut Usage) -> Result<Id, GpuError> {
        if let Some(error) = self.refused.get(&pipeline.key) {
            return Err(error.clone());
        }
        let held = self.current()?;
        held.clock += 1;
        if let Some(ready) = held.pipelines.get_mut(&pipeline.key) {
            ready.used = held.clock;
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
        let (id, used) = (OWN_IDS + held.clock, held.clock);
        let request = Request::Build {
            pipeline: id,
            shader: pipeline.shader.clone(),
        };
        let mut answer = self.ask(request.clone(), None, limits::BUILD_TIME);
        if let Err(GpuError::DeviceLost(_)) = answer {
            answer = self.ask(request, None, limits::BUILD_TIME);
        }
        let built = match answer {
            Ok(Reply::Built(built)) => built,
            Ok(_) => return Err(confused()),
            Err(error) => {
                let error = match error {
                    GpuError::Timeout(_) => GpuError::Quota(format!(
                        "the shader takes longer to compile than {} s",
                        limits::BUILD_TIME.as_secs()
                    )),
                    // It would end every worker.
                    GpuError::DeviceLost(_) => {
                        GpuError::Invalid("the driver does not survive compiling this shader".to_owned())
                    }
                    error => error,
                };
                if !matches!(error, GpuError::Unavailable(_)) {
                    if self.refused.len() >= limits::REFUSALS {
                        self.refused.clear();
                    }
                    self.refused.insert(pipeline.key, error.clone());
                }
                return Err(error);
            }
        };
        usage.compile_us += built.compile_us;
        pipeline.bindings.get_or_init(|| built.bindings.clone());
        let ready = Ready {
            id,
            bindings: built.bindings,
            used,
        };
        self.current()?.pipelines.insert(pipeline.key, ready);
        Ok(id)
    }

    fn submit(&mut self, submission: &Submission) -> Result<Outcome, GpuError> {
        let mut usage = Usage::default();
        let mut reads = self.submit_once(submission, &mut usage);
        if let Err((GpuError::DeviceLost(_), Worth::Repeating)) = reads {
            reads = self.submit_once(submission, &mut usage);
        }
        submission.account.book(&usage);
        match reads {
            Ok(reads) => Ok(Outcome { usage, reads }),
            Err((error, _)) => Err(error),
        }
    }

    fn submit_once(
        &mut self,
        submission: &Submission,
        usage: &mut Usage,
    ) -> Result<Vec<Vec<u8>>, (GpuError, Worth)> {
        let mut in_use = InUse::default();
        let reads = self.submit_with(submission, &mut in_use, usage);
        if in_use.generation == self.generation {
            if let Some(held) = &mut self.worker {
                in_use
                    .pieces
                    .keys()
                    .for_each(|piece| held.resident.release(piece));
            }
            return reads.map_err(|error| (error, Worth::Telling));
        }
        // With the worker went what it made for this alone; nobody misses that.
        for buffer in &in_use.made {
            if let Kind::Zeroed { made, .. } = &buffer.0.kind {
                made.store(0, Ordering::Relaxed);
            }
        }
        reads.map_err(|error| (error, Worth::Repeating))
    }

    fn submit_with(
        &mut self,
        submission: &Submission,
        in_use: &mut InUse,
        usage: &mut Usage,
    ) -> Result<Vec<Vec<u8>>, GpuError> {
        self.held()?;
        let mut pipelines = HashMap::new();
        for step in &submission.steps {
            if let Step::Dispatch { pipeline, .. } = step
                && !pipelines.contains_key(&pipeline.0.key)
            {
                pipelines.insert(pipeline.0.key, self.ready(&pipeline.0, usage)?);
            }
        }
        in_use.generation = self.generation;
        let mut create = Vec::new();
        for buffer in submission.buffers() {
            self.bring(buffer, in_use, &mut create, usage)?;
        }
        let slice = |slice: &super::Slice| wire::Slice {
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
                    let bound = |(binding, part): &(u32, super::Slice)| wire::Bound {
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
                    wire::Step::Write {
                        to: wire::Slice {
                            buffer: in_use.id(to),
                            offset: *offset,
                            len: bytes.len() as u64,
                        },
                        at,
                    }
                }
            });
        }
        usage.uploaded_bytes += written;
        let run = wire::Run {
            create,
            steps,
            reads: submission.reads.iter().map(slice).collect(),
        };
        let generation = self.generation;
        let begun = Instant::now();
        let ran = match self.ask(Request::Run(run), None, submission.timeout) {
            Ok(Reply::Ran(ran)) => ran,
            Ok(_) => return Err(confused()),
            Err(error) => {
                // It had the GPU for as long.
                if matches!(error, GpuError::Timeout(_) | GpuError::DeviceLost(_)) {
                    usage.gpu_ns += begun.elapsed().as_nanos() as u64;
                }
                return Err(error);
            }
        };
        debug_assert_eq!(generation, self.generation, "who answered is who was asked");
        usage.gpu_ns += ran.gpu_ns;
        if ran.exhausted {
            let turns = self.current()?.worker.description.max_loop_turns;
            return Err(GpuError::Quota(format!(
                "a loop of a shader was cut short after {turns} turns of one invocation: what was written is not what it meant"
            )));
        }
        let window = &self.current()?.worker.window;
        let lens = submission.reads.iter().map(|read| read.len);
        let mut reads = Vec::with_capacity(submission.reads.len());
        for (read, offset) in submission.reads.iter().zip(read_offsets(lens)) {
            let mut bytes = vec![0; read.len as usize];
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
        in_use: &mut InUse,
        create: &mut Vec<(Id, u64)>,
        usage: &mut Usage,
    ) -> Result<(), GpuError> {
        let generation = self.generation;
        match &buffer.0.kind {
            Kind::Zeroed { id, made, .. } => match made.load(Ordering::Relaxed) {
                there if there == generation => Ok(()),
                1.. => Err(GpuError::DeviceLost(
                    "what the buffer held was lost with the GPU's worker: begin again".to_owned(),
                )),
                0 => {
                    let size = buffer.0.size;
                    let held = self.current()?;
                    let gone = held.resident.claim(size).map_err(no_room)?;
                    let evicted = !gone.is_empty();
                    held.drop.extend(gone);
                    self.is_news |= evicted;
                    made.store(generation, Ordering::Relaxed);
                    in_use.made.push(buffer.clone());
                    create.push((*id, size));
                    Ok(())
                }
            },
            Kind::Shard { piece, brought, .. } => {
                if in_use.pieces.contains_key(piece) {
                    return Ok(());
                }
                let held = self.current()?;
                if let Some(id) = held.resident.take(piece) {
                    in_use.pieces.insert(*piece, *id);
                    usage.resident_hits += 1;
                    return Ok(());
                }
                usage.resident_misses += 1;
                let begun = Instant::now();
                let gone = held.resident.claim(piece.len).map_err(no_room)?;
                held.drop.extend(gone);
                held.clock += 1;
                let id = OWN_IDS + held.clock;
                self.is_news = true;
                // Most often it was brought before.
                let file = buffer
                    .bring()
                    .map(|()| brought.lock().expect("no panic under this lock").take());
                let brought = match file {
                    Ok(Some((file, offset))) => {
                        let request = Request::Upload {
                            buffer: id,
                            offset,
                            len: piece.len,
                        };
                        match self.ask(request, Some(&file), limits::UPLOAD_TIME) {
                            Ok(Reply::Uploaded) => Ok(()),
                            Ok(_) => Err(confused()),
                            Err(error) => Err(error),
                        }
                    }
                    Ok(None) => Err(confused()),
                    Err(error) => Err(error),
                };
                if generation != self.generation {
                    // The room went with the worker.
                    return brought;
                }
                let held = self.current()?;
                match brought {
                    Ok(()) => {
                        held.resident.fill(*piece, id, begun.elapsed().as_micros() as u64);
                        in_use.pieces.insert(*piece, id);
                        usage.uploaded_bytes += piece.len;
                        Ok(())
                    }
                    Err(error) => {
                        held.resident.unclaim(piece.len);
                        Err(error)
                    }
                }
            }
        }
    }
}

/// What to do about a submission that failed.
enum Worth {
    Telling,
    /// Its worker was lost.
    Repeating,
}

/// What a submission works on, which nobody may take away meanwhile.
#[derive(Default)]
struct InUse {
    /// The worker that has it; 0 before there is one.
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

fn no_room(error: NoRoom) -> GpuError {
    GpuError::Quota(error.to_string())
}

fn confused() -> GpuError {
    GpuError::Unavailable("the GPU's worker answered something else than it was asked".to_owned())
}

fn window_failed(error: std::io::Error) -> GpuError {
    GpuError::Unavailable(format!("memory shared with the GPU's worker: {error}"))
}
