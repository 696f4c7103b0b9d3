//! The thread that works with the worker: one ask at a time, in the order in which they came.
//!
//! It owns everything that is known of the worker's memory. A worker that does not answer in time is killed, one that ended is
//! replaced; either way all that is known of it is forgotten, and whoever waits is served by the next one. What a worker ended
//! over is done once more by the next one, because it may have been killed for reasons of its own: a third one is not risked.
//! Functions that cost several workers are refused for a while.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nearfield_protocol::Digest;
use tokio::sync::watch;

use super::process::{Lost, Worker};
use super::work::{Buffer, Kind, Outcome, Pipeline, PipelineInner, SPOILED, Slice, Step, Submission, UNMADE};
use super::{Account, Ask, GpuOptions, Shared, State};
use crate::resident::{NoRoom, Piece, Resident};
use crate::wire::frame::{READS_AT, read_offsets};
use crate::wire::{self, Binding, Description, Id, Reply, Request, Usage};
use crate::{GpuError, limits};

pub(super) struct Supervisor {
    options: GpuOptions,
    shared: Arc<Shared>,
    state: watch::Sender<State>,
    /// What was found first. Another adapter is not taken for it: functions were told what they have.
    first: Option<Arc<Description>>,
    /// `None` until somebody needs it.
    worker: Option<Held>,
    /// Counts workers: what one had, another has not.
    generation: u64,
    /// The last name that was given to something of this thread's own. Never twice, whichever worker it was for.
    last_id: Id,
    /// When a start failed, and why.
    failed: Option<(Instant, GpuError)>,
    /// Shaders that were refused; for a while, where it need not have been the shader.
    refused: HashMap<Digest, (GpuError, Option<Instant>)>,
    /// When functions cost a worker.
    strikes: HashMap<String, VecDeque<Instant>>,
    /// Something came into the worker's memory or went since the others were told.
    is_news: bool,
}

/// A worker and all that is known of it.
struct Held {
    worker: Worker,
    resident: Resident<Id>,
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
/// Ids that one message lets go of.
const DROPPED_AT_ONCE: usize = 4_096;

impl Supervisor {
    pub fn new(options: GpuOptions, shared: Arc<Shared>, state: watch::Sender<State>) -> Self {
        Supervisor {
            options,
            shared,
            state,
            first: None,
            worker: None,
            generation: UNMADE,
            last_id: OWN_IDS,
            failed: None,
            refused: HashMap::new(),
            strikes: HashMap::new(),
            is_news: true,
        }
    }

    /// Until nobody can ask any more.
    pub fn run(mut self, inbox: &Receiver<Ask>) {
        let _ended = Ended(self.shared.clone());
        self.look();
        loop {
            let ask = match inbox.recv_timeout(limits::LOOK_AGAIN) {
                Ok(ask) => ask,
                Err(RecvTimeoutError::Timeout) if matches!(*self.state.borrow(), State::Absent(_)) => {
                    self.look();
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.note_dropped();
            match ask {
                Ask::Build {
                    pipeline,
                    account,
                    reply,
                } => {
                    let built = self.build(&pipeline, &account);
                    // Whoever asked may be gone.
                    let _ = reply.send(built.map(|()| Pipeline(pipeline)));
                }
                Ask::Submit {
                    submission,
                    place,
                    reply,
                } => {
                    let ended = self.submit(&submission);
                    self.shared
                        .queued_bytes
                        .fetch_sub(submission.write_bytes(), Ordering::Relaxed);
                    drop((submission, place));
                    let _ = reply.send(ended);
                }
                Ask::Tidy => self.let_go(),
            }
            self.tell();
        }
    }

    /// What adapter there is. A software adapter's worker is then ended: most nodes never need it.
    fn look(&mut self) {
        if self.held().is_ok_and(|held| held.worker.description.software) {
            self.worker = None;
        }
        self.is_news = true;
        self.tell();
    }

    /// The worker, started if there is none. For the beginning of an ask alone: what an ask has taken of a worker is no other's.
    fn held(&mut self) -> Result<&mut Held, GpuError> {
        if self.worker.as_mut().is_some_and(|held| held.worker.has_ended()) {
            self.lose("it ended");
        }
        if self.worker.is_none() {
            self.start()?;
        }
        self.current()
    }

    fn start(&mut self) -> Result<(), GpuError> {
        if let Some((at, error)) = &self.failed
            && at.elapsed() < limits::RESTART_WAIT
        {
            return Err(error.clone());
        }
        self.generation += 1;
        let options = &self.options;
        let started = Worker::start(&options.worker, &options.choice, options.budget_bytes);
        let same = |worker: &Worker| {
            self.first
                .as_ref()
                .is_none_or(|first| **first == worker.description)
        };
        let worker = match started {
            Ok(worker) if same(&worker) => worker,
            Ok(worker) => return Err(self.absent(another(self.first.as_deref(), &worker.description))),
            Err(error) => return Err(self.absent(error)),
        };
        self.failed = None;
        let description = self
            .first
            .get_or_insert_with(|| Arc::new(worker.description.clone()))
            .clone();
        let usual = match description.software {
            true => limits::SOFTWARE_MEMORY_BYTES,
            false => limits::HARDWARE_MEMORY_BYTES,
        };
        let budget_bytes = options.budget_bytes.unwrap_or(usual);
        self.shared.budget_bytes.store(budget_bytes, Ordering::Relaxed);
        self.worker = Some(Held {
            worker,
            resident: Resident::new(budget_bytes),
            pipelines: HashMap::new(),
            drop: Vec::new(),
            clock: 0,
        });
        if !matches!(*self.state.borrow(), State::Here(_)) {
            self.is_news = true;
            self.state.send_replace(State::Here(description));
        }
        Ok(())
    }

    /// There is no adapter, for now.
    fn absent(&mut self, error: GpuError) -> GpuError {
        self.failed = Some((Instant::now(), error.clone()));
        self.is_news = true;
        self.state.send_replace(State::Absent(error.to_string().into()));
        error
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
        match self.start() {
            Ok(()) => tracing::warn!(
                why,
                recovery_ms = begun.elapsed().as_millis() as u64,
                "the GPU's worker was started anew"
            ),
            Err(error) => tracing::error!(why, %error, "the GPU's worker is gone"),
        }
    }

    /// Notes what was dropped since.
    fn note_dropped(&mut self) {
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

    /// Has the worker let go of what nobody needs, when it is asked nothing else.
    fn let_go(&mut self) {
        if self.worker.as_ref().is_some_and(|held| !held.drop.is_empty()) {
            // Without an answer the worker is another one, which has none of it.
            let _ = self.ask(Request::LetGo, None, limits::UPLOAD_TIME);
        }
    }

    /// Tells the others what is in GPU memory.
    fn tell(&mut self) {
        let resident = self.worker.as_ref().map(|held| &held.resident);
        let bytes = resident.map_or(0, Resident::held_bytes);
        self.shared.resident_bytes.store(bytes, Ordering::Relaxed);
        if std::mem::take(&mut self.is_news) {
            let pieces: HashSet<Piece> = resident.into_iter().flat_map(Resident::pieces).collect();
            let blobs: HashSet<Digest> = pieces.iter().map(|piece| piece.digest).collect();
            *self.shared.pieces.lock().expect("no panic under this lock") = Arc::new(pieces);
            self.shared.residents.send_replace(Arc::new(blobs));
        }
    }

    fn next_id(&mut self) -> Id {
        self.last_id += 1;
        self.last_id
    }

    /// Asks the worker. Without an answer the worker is another one.
    fn ask(&mut self, request: Request, file: Option<&File>, timeout: Duration) -> Result<Reply, Trouble> {
        let begun = Instant::now();
        let held = self.current()?;
        // Far too many at once would be more than a message holds.
        let mut dropped = std::mem::take(&mut held.drop);
        let mut lost = None;
        while dropped.len() > DROPPED_AT_ONCE && lost.is_none() {
            let some = dropped.split_off(dropped.len() - DROPPED_AT_ONCE);
            lost = held
                .worker
                .ask(some, Request::LetGo, None, limits::UPLOAD_TIME)
                .err();
        }
        let answer = match lost {
            Some(lost) => Err(lost),
            None => held.worker.ask(
                dropped,
                request,
                file.map(AsFd::as_fd),
                timeout.max(limits::GRACE),
            ),
        };
        let late = || {
            GpuError::Timeout(format!(
                "the GPU worked on this for more than {} ms and was stopped",
                timeout.as_millis()
            ))
        };
        match answer {
            // It was spared, since it needed little more; its caller was to have an answer before.
            Ok(_) if begun.elapsed() > timeout => Err(late().into()),
            // wgpu does not go on after that.
            Ok(Reply::Failed(error @ GpuError::DeviceLost(_))) => {
                self.lose("its device was lost");
                Err(Trouble::Ended(error))
            }
            Ok(Reply::Failed(error)) => Err(error.into()),
            Ok(reply) => Ok(reply),
            Err(Lost::TooLong) => Err(GpuError::Quota("the submission is too long".to_owned()).into()),
            Err(Lost::Late) => {
                self.lose("it took too long");
                Err(Trouble::Late(late()))
            }
            Err(Lost::Ended(error)) => {
                self.lose("it ended");
                let text = format!("the GPU's worker was lost over this: {error}");
                Err(Trouble::Ended(GpuError::DeviceLost(text)))
            }
        }
    }

    /// Whether a function may ask at all.
    fn admit(&mut self, account: &Account) -> Result<(), GpuError> {
        account.time_left()?;
        let Some(strikes) = self.strikes.get_mut(account.who()) else {
            return Ok(());
        };
        strikes.retain(|at| at.elapsed() < limits::PENALTY);
        let (count, is_over) = (strikes.len(), strikes.is_empty());
        if is_over {
            self.strikes.remove(account.who());
        }
        match count < limits::STRIKES {
            true => Ok(()),
            false => Err(GpuError::Unavailable(format!(
                "`{}` has cost the GPU's worker {count} times within {} s, and is refused for as long",
                account.who(),
                limits::PENALTY.as_secs()
            ))),
        }
    }

    /// A function cost a worker.
    fn strike(&mut self, account: &Account) {
        self.strikes
            .retain(|_, strikes| strikes.iter().any(|at| at.elapsed() < limits::PENALTY));
        let strikes = self.strikes.entry(account.who().to_owned()).or_default();
        strikes.push_back(Instant::now());
        if strikes.len() > limits::STRIKES {
            strikes.pop_front();
        }
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
            self.strike(account);
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
        let mut reads = self.admit(account).map_err(Trouble::from).and_then(|()| {
            let reads = self.submit_once(submission, &mut usage);
            match reads {
                Err(Trouble::Ended(_)) => self.submit_once(submission, &mut usage),
                reads => reads,
            }
        });
        account.book(&usage, begun.elapsed());
        if let Err(Trouble::Ended(_) | Trouble::Late(_)) = reads {
            self.strike(account);
        }
        if let Err(trouble) = &mut reads {
            self.spoil(submission);
            if let Trouble::Late(_) | Trouble::Ended(_) = trouble {
                // It had the GPU for as long.
                let lost = Usage {
                    gpu_ns: begun.elapsed().as_nanos() as u64,
                    ..Usage::default()
                };
                account.book(&lost, Duration::ZERO);
            }
        }
        match reads {
            Ok(reads) => Ok(Outcome { usage, reads }),
            Err(trouble) => Err(trouble.into_error()),
        }
    }

    /// What a submission was to write is unknown once it failed: nobody takes it for what it is not.
    fn spoil(&mut self, submission: &Submission) {
        for buffer in submission.written() {
            let Kind::Zeroed { id, made, .. } = &buffer.0.kind else {
                continue;
            };
            let before = made.swap(SPOILED, Ordering::Relaxed);
            if before == self.generation
                && let Some(held) = &mut self.worker
            {
                held.drop.push(*id);
                held.resident.unclaim(buffer.0.size);
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
                let Kind::Zeroed { id, made, .. } = &buffer.0.kind else {
                    continue;
                };
                made.store(UNMADE, Ordering::Relaxed);
                if let Some(held) = self.worker.as_mut().filter(|_| is_there) {
                    held.drop.push(*id);
                    held.resident.unclaim(buffer.0.size);
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
            Kind::Zeroed { id, made, .. } => {
                match made.load(Ordering::Relaxed) {
                    there if there == generation => {}
                    UNMADE => {
                        let size = buffer.0.size;
                        self.claim(size)?;
                        made.store(generation, Ordering::Relaxed);
                        in_use.made.push(buffer.clone());
                        create.push((*id, size));
                    }
                    SPOILED => {
                        let text = "what the buffer holds is unknown: a submission that writes it has failed";
                        return Err(GpuError::Invalid(text.to_owned()).into());
                    }
                    _ => {
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

    /// Takes room in GPU memory.
    fn claim(&mut self, bytes: u64) -> Result<(), GpuError> {
        let held = self.current()?;
        let gone = held
            .resident
            .claim(bytes)
            .map_err(|NoRoom { wanted, free, budget }| {
                let text =
                    format!("{wanted} bytes of GPU memory are wanted, {free} of {budget} are not in use");
                match wanted > budget {
                    true => GpuError::Quota(text),
                    // Others will let go of theirs.
                    false => GpuError::Unavailable(text),
                }
            })?;
        self.is_news |= !gone.is_empty();
        self.current()?.drop.extend(gone);
        Ok(())
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
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

fn another(first: Option<&Description>, found: &Description) -> GpuError {
    let first = first.map_or("", |first| first.name.as_str());
    GpuError::Unavailable(format!(
        "{first} is not there any more, or is another than before; there is {} ({})",
        found.name, found.driver
    ))
}

fn confused() -> GpuError {
    GpuError::Unavailable("the GPU's worker answered something else than it was asked".to_owned())
}

fn window_failed(error: std::io::Error) -> GpuError {
    GpuError::Unavailable(format!("memory shared with the GPU's worker: {error}"))
}
