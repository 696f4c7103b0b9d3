//! One call: instantiate, run, stream. Everything a guest can do wrong ends here, as a value.
//!
//! A reused guest runs where its call arrived until it first has to wait, and as a task of its own from
//! then on; a fresh one is a task from the start. It hands over the response's head as soon as it sets it,
//! and runs on while the body streams. The body asks how the guest ended before it ends itself, so a
//! response is complete only if the call was.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use nearfield_gpu::client::Gpu;
use nearfield_protocol::call::{CallReport, CallSpec, OnReport, Stages, never_has_content};
use nearfield_protocol::gpu::GpuUsage;
use nearfield_protocol::http::{DeclaredLength, LengthFault};
use nearfield_protocol::manifest::Instances;
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{FunctionName, Problem, ProblemKind, cost, limits, said, units};
use tokio::sync::oneshot;
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi_http::{Error as WasiError, WasiBody};

use crate::guest::Guest;
use crate::host::Ready;
use crate::instances::{HeadSender, Instance, drop_reserved};
use crate::logs::Logs;
use crate::memory::HostFull;
use crate::meter::{OutOfTime, in_turns};
use crate::places::Place;

/// What a call's task works with.
pub(crate) struct Invocation {
    pub spec: CallSpec,
    pub ready: Arc<Ready>,
    pub blobs: nearfield_store::Store,
    pub logs: Logs,
    pub gpu: Option<Gpu>,
    pub started: Instant,
    pub stages: Stages,
    pub cold: bool,
    /// Held until the guest has ended.
    pub place: Place,
}

impl Invocation {
    /// Starts the call and waits for the head of its response.
    ///
    /// A guest that is idle already runs right here until it first has to wait: most calls are done by
    /// then. One that is not, or that has to be made first, becomes a task on `guests`.
    pub async fn start<B>(
        self,
        guests: &tokio::runtime::Handle,
        request: http::Request<B>,
        report: OnReport,
    ) -> Result<http::Response<GuestBody>, Problem>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        let shared = Arc::new(Shared::default());
        let reader = Reader(shared.clone());
        let head_only = request.method() == http::Method::HEAD;
        let request = counted(request, &shared);
        let name = self.spec.function.name.clone();
        let (head_sender, head) = oneshot::channel();
        let head_sender = HeadSender::new(head_sender, shared.clone());
        let here = self.ready.pool.has_idle();
        let mut guest = Box::pin(self.run(request, head_sender, shared, report));
        let first = match here {
            true => poll_fn(|cx| Poll::Ready(guest.as_mut().poll(cx))).await,
            false => Poll::Pending,
        };
        let end = match first {
            Poll::Ready(closing) => End::Here(closing),
            Poll::Pending => {
                let (tell, told) = oneshot::channel();
                guests.spawn(async move {
                    let closing = guest.await;
                    // Nobody may be waiting any more.
                    let _ = tell.send(closing.close_when_read().await);
                });
                End::Task(told)
            }
        };

        let head = head.await;
        let mut body = GuestBody {
            function: name,
            inner: None,
            contentless: false,
            length: None,
            last: None,
            trailers: None,
            reader,
            end,
        };
        match head {
            Ok(Ok(response)) => {
                body.contentless = head_only || never_has_content(response.status().as_u16());
                let declared = response.headers().get_all(http::header::CONTENT_LENGTH);
                let declared = DeclaredLength::of(declared.iter().map(http::HeaderValue::as_bytes));
                match declared {
                    Ok(declared) => body.length = declared.filter(|_| !body.contentless),
                    Err(fault) => {
                        let problem = wrong_length(&body.function, fault);
                        let _ = body.reader.0.broken.set(problem.clone());
                        return Err(problem);
                    }
                }
                Ok(response.map(|inner| {
                    body.inner = Some(inner);
                    body
                }))
            }
            // Dropping the body stops what the guest still does.
            Ok(Err(code)) => Err(refused(&body.function, &code)),
            // The task let go of the head unsent: it has ended, or is about to, and knows why.
            Err(_) => {
                body.reader.set(READ);
                let problem = poll_fn(|cx| body.end.poll(cx)).await;
                Err(problem.unwrap_or_else(|| no_response(&body.function)))
            }
        }
    }

    /// Runs the guest to its end.
    async fn run(
        self,
        request: http::Request<WasiBody>,
        head: HeadSender,
        shared: Arc<Shared>,
        report: OnReport,
    ) -> Closing {
        let Invocation {
            spec,
            ready,
            blobs,
            logs,
            gpu,
            started,
            mut stages,
            cold,
            place,
        } = self;
        let limits = &spec.function.manifest.limits;
        let deadline = started + limits.timeout.0;
        let begun = Instant::now();

        let mut instance = None;
        let ended = {
            let run = pin!(async {
                let instance = match ready.pool.take() {
                    Some(used) => {
                        let used = instance.insert(used);
                        Guest::renew(&mut used.store, &spec, (deadline, shared.clone()))?;
                        used
                    }
                    None => {
                        let call = (deadline, shared.clone());
                        let store = Guest::store(&ready, &spec, &blobs, logs, gpu, call)?;
                        instance.insert(Instance::new(store))
                    }
                };
                instance.handle(&ready.component, request, head).await
            });
            tokio::select! {
                biased;
                ended = in_turns(deadline, &ready.turns, run) => match ended {
                    Ok(Ok(())) => Ended::Well,
                    Ok(Err(error)) if error.is::<OutOfTime>() => Ended::TimedOut,
                    Ok(Err(error)) => Ended::Trapped(error),
                    Err(OutOfTime) => Ended::TimedOut,
                },
                () = shared.gone() => Ended::Cancelled,
            }
        };
        stages.run_us = begun.elapsed().as_micros() as u64;

        let mut fuel = 0;
        let mut figures = Figures::default();
        let mut problem = None;
        if let Some(instance) = &instance {
            let left = instance.store.get_fuel().unwrap_or(0);
            let guest = instance.store.data();
            guest.log.finish();
            guest.gpu.close();
            fuel = guest.fuel(limits.fuel, left);
            figures = Figures::of(guest);
            problem = ended.problem(&spec, guest);
            // What a panic said stands in the log already.
            if let Some(problem) = problem
                .as_ref()
                .filter(|problem| problem.kind != ProblemKind::Trap)
            {
                guest.log.note(&told(problem));
            }
        } else if let Ended::Trapped(error) = &ended {
            problem = Some(trap_problem(&spec, error, None));
        }
        // A guest that failed or was stopped is dropped whole, and with it what its body still waits for.
        let reuse = matches!(ended, Ended::Well) && spec.function.manifest.instances == Instances::Reuse;
        if let Some(instance) = instance.take().filter(|_| reuse) {
            ready.pool.give_back(instance);
        }
        // The engine's slot comes free before the place that stands for it.
        drop(place);
        shared.end_guest();
        Closing {
            function: spec.function,
            fuel,
            figures,
            problem,
            cancelled: matches!(ended, Ended::Cancelled),
            deadline,
            cold,
            stages,
            shared,
            report,
        }
    }
}

/// The request as the guest gets it, its body's bytes counted.
fn counted<B>(request: http::Request<B>, shared: &Arc<Shared>) -> http::Request<WasiBody>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display,
{
    if request.body().is_end_stream() {
        return request.map(|_| Empty::new().map_err(|never| match never {}).boxed_unsync());
    }
    let shared = shared.clone();
    request.map(|body| {
        body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                shared
                    .request_bytes
                    .fetch_add(data.len() as u64, Ordering::Relaxed);
            }
            frame
        })
        // The cause was told where the body was bounded; the guest learns that it broke off.
        .map_err(|_| WasiError::ConnectionTerminated)
        .boxed_unsync()
    })
}

/// A call whose guest has ended. What is left is its response, on its way out.
struct Closing {
    function: Arc<FunctionVersion>,
    fuel: u64,
    figures: Figures,
    problem: Option<Problem>,
    /// Nobody wanted the response while the guest still ran.
    cancelled: bool,
    deadline: Instant,
    cold: bool,
    stages: Stages,
    shared: Arc<Shared>,
    report: OnReport,
}

impl Closing {
    /// Waits for the response to be read, but not beyond the call's time.
    async fn close_when_read(self) -> Option<Problem> {
        let read = !self.cancelled
            && tokio::time::timeout_at(self.deadline.into(), self.shared.read()).await == Ok(true);
        self.close(read)
    }

    /// Reports the call. Why it failed, if it did.
    fn close(self, read: bool) -> Option<Problem> {
        let Closing {
            function,
            mut fuel,
            mut problem,
            shared,
            ..
        } = self;
        let cancelled = self.cancelled || !read;
        let request_bytes = shared.request_bytes.load(Ordering::Relaxed);
        let response_bytes = shared.response_bytes.load(Ordering::Relaxed);
        fuel += shared.fuel();
        let most = function.manifest.limits.fuel;
        if problem.is_none() && fuel > most {
            problem = Some(out_of_fuel(&function));
        }
        let status = Some(shared.status.load(Ordering::Relaxed)).filter(|status| *status > 0);
        if problem.is_none() {
            problem = match shared.refused.get() {
                Some(code) => Some(refused(&function.name, code)),
                None if status.is_none() && !cancelled => Some(no_response(&function.name)),
                None => shared.broken.get().cloned(),
            };
        }
        (self.report)(CallReport {
            fuel: fuel.min(most),
            status,
            cancelled: cancelled && problem.is_none(),
            problem: problem.clone(),
            request_bytes,
            response_bytes,
            data_bytes: self.figures.data_bytes,
            moved_bytes: self.figures.moved_bytes,
            pages_grown: self.figures.pages_grown,
            outgoing_requests: self.figures.outgoing_requests,
            gpu: self.figures.gpu.map(|usage| *usage),
            cold: self.cold,
            stages: self.stages,
        });
        problem
    }
}

/// How a guest ended.
enum Ended {
    Well,
    Trapped(wasmtime::Error),
    TimedOut,
    Cancelled,
}

impl Ended {
    fn problem(&self, spec: &CallSpec, guest: &Guest) -> Option<Problem> {
        let name = &spec.function.name;
        let limits = &spec.function.manifest.limits;
        match self {
            Ended::Well | Ended::Cancelled => None,
            Ended::TimedOut => Some(
                Problem::new(
                    ProblemKind::Timeout,
                    format!(
                        "function `{name}` ran out of time: do less in one call, or raise `limits.timeout` in its \
                         nearfield.toml"
                    ),
                )
                .with_limit(format!(
                    "limits.timeout = {}",
                    units::exact_duration(limits.timeout.0)
                )),
            ),
            // A guest that is refused memory traps in its own allocator, so the refusal is the cause.
            Ended::Trapped(_) if guest.limiter.memory_refused => Some(
                Problem::new(
                    ProblemKind::OutOfMemory,
                    format!(
                        "function `{name}` needed more memory than its limit: keep less at once, or raise \
                         `limits.memory` in its nearfield.toml"
                    ),
                )
                .with_limit(format!("limits.memory = {}", units::exact_bytes(limits.memory.0))),
            ),
            Ended::Trapped(error) => Some(trap_problem(spec, error, guest.log.panic())),
        }
    }
}

/// A problem as a line of its function's log.
pub(crate) fn told(problem: &Problem) -> String {
    match &problem.limit {
        Some(limit) => format!("{} ({limit})", problem.detail),
        None => problem.detail.clone(),
    }
}

fn no_response(name: &FunctionName) -> Problem {
    Problem::new(
        ProblemKind::NoResponse,
        format!("function `{name}` ended without a response; see `nearfield logs {name}`"),
    )
}

/// The guest's own word that it has no response.
fn refused(name: &FunctionName, code: &str) -> Problem {
    Problem::new(
        ProblemKind::NoResponse,
        format!("function `{name}` answered with the error {code}"),
    )
}

fn out_of_fuel(function: &FunctionVersion) -> Problem {
    Problem::new(
        ProblemKind::OutOfFuel,
        format!(
            "function `{}` used up its fuel: do less in one call, or raise `limits.fuel` in its nearfield.toml",
            function.name
        ),
    )
    .with_limit(format!(
        "limits.fuel = {}",
        units::exact_count(function.manifest.limits.fuel)
    ))
}

/// `panic` is what the guest said of it, if it is Rust.
fn trap_problem(spec: &CallSpec, error: &wasmtime::Error, panic: Option<String>) -> Problem {
    let name = &spec.function.name;
    if error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel) {
        return out_of_fuel(&spec.function);
    }
    if let Some(full) = error.downcast_ref::<HostFull>() {
        return full.problem();
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return Problem::new(
            ProblemKind::Overload,
            format!("no room to instantiate `{name}`: {error}"),
        );
    }
    let cause = said(error.root_cause());
    if matches!(
        error.downcast_ref::<ResourceTableError>(),
        Some(ResourceTableError::Full)
    ) || cause.contains("too many live component handles")
    {
        return Problem::new(
            ProblemKind::TooManyHandles,
            format!("function `{name}` held more handles than its limit"),
        )
        .with_limit(format!(
            "guest handles = {}",
            nearfield_protocol::limits::GUEST_HANDLES
        ));
    }
    // The engine has no type for this one.
    if cause.contains("fuel allocated for hostcalls") {
        return Problem::new(
            ProblemKind::HostCallTooLarge,
            format!("function `{name}` passed more to one host call than may be copied"),
        )
        .with_limit(format!(
            "host-call copy = {}",
            units::exact_bytes(nearfield_protocol::limits::HOST_CALL_COPY_BYTES as u64)
        ));
    }
    let what = match panic {
        Some(panic) => format!("panicked at {panic}"),
        None => format!("trapped: {cause}"),
    };
    Problem::new(
        ProblemKind::Trap,
        format!("function `{name}` {what}; see `nearfield logs {name}`"),
    )
}

/// Figures that a guest's store holds.
#[derive(Default)]
struct Figures {
    data_bytes: u64,
    moved_bytes: u64,
    pages_grown: u64,
    outgoing_requests: u32,
    /// Few calls have it.
    gpu: Option<Box<GpuUsage>>,
}

impl Figures {
    fn of(guest: &Guest) -> Self {
        Figures {
            data_bytes: guest.data.bytes(),
            moved_bytes: guest.data.moved_bytes(),
            pages_grown: guest.limiter.pages_grown,
            outgoing_requests: guest.outgoing.sent(),
            gpu: guest.gpu.usage().map(Box::new),
        }
    }
}

/// What a call's guest and its response know of each other.
#[derive(Default)]
pub(crate) struct Shared {
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    /// The status of the guest's response, 0 until there is one.
    pub status: AtomicU16,
    /// The error that the guest gave instead of a response.
    pub refused: OnceLock<String>,
    /// How the guest's body itself broke off.
    broken: OnceLock<Problem>,
    /// The guest does nothing more: what is not in its body by now never comes.
    guest_ended: AtomicBool,
    /// The body, if it waits for that.
    body_waiting: AtomicWaker,
    /// How far the response has been read: [`UNREAD`], [`READ`] or [`GONE`].
    reading: AtomicU8,
    /// Who waits for that to change.
    waiting: AtomicWaker,
}

const UNREAD: u8 = 0;
const READ: u8 = 1;
const GONE: u8 = 2;

impl Shared {
    /// What the bytes of both bodies cost so far.
    pub fn fuel(&self) -> u64 {
        cost::bytes(self.request_bytes.load(Ordering::Relaxed))
            + cost::bytes(self.response_bytes.load(Ordering::Relaxed))
    }

    /// Whether the response was read to its end; false if nobody wants it any more.
    async fn read(&self) -> bool {
        poll_fn(|cx| {
            self.waiting.register(cx.waker());
            match self.reading.load(Ordering::Acquire) {
                UNREAD => Poll::Pending,
                reading => Poll::Ready(reading == READ),
            }
        })
        .await
    }

    fn end_guest(&self) {
        self.guest_ended.store(true, Ordering::Release);
        self.body_waiting.wake();
    }

    /// Whether the guest has ended. If not, the body is asked again once it has.
    fn guest_ended(&self, cx: &mut Context<'_>) -> bool {
        self.body_waiting.register(cx.waker());
        self.guest_ended.load(Ordering::Acquire)
    }

    /// Ends when nobody wants the response any more; never, if it was read to its end.
    async fn gone(&self) {
        if self.read().await {
            std::future::pending::<()>().await;
        }
    }
}

/// The response's side of a call. Dropped before the end: the client is gone.
struct Reader(Arc<Shared>);

impl Reader {
    /// The first word counts.
    fn set(&self, reading: u8) {
        let set = self
            .0
            .reading
            .compare_exchange(UNREAD, reading, Ordering::AcqRel, Ordering::Relaxed);
        if set.is_ok() {
            self.0.waiting.wake();
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.set(GONE);
    }
}

/// Who knows how the call ends.
enum End {
    /// The guest has ended; nothing is left but to report it.
    Here(Closing),
    /// A task, which tells.
    Task(oneshot::Receiver<Option<Problem>>),
    Told,
}

impl End {
    /// A long response may be read slowly: its call is then closed by a task, in its own time.
    fn hand_over(&mut self, shared: &Shared) {
        let sent = shared.response_bytes.load(Ordering::Relaxed);
        if sent <= limits::RESPONSE_HELD_BYTES as u64 || !matches!(self, End::Here(_)) {
            return;
        }
        let (tell, told) = oneshot::channel();
        if let End::Here(closing) = std::mem::replace(self, End::Task(told)) {
            tokio::spawn(async move {
                // Nobody may be waiting any more.
                let _ = tell.send(closing.close_when_read().await);
            });
        }
    }

    /// Why the call failed, if it did. Asked once the response has been read.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Problem>> {
        let problem = match self {
            End::Task(told) => match ready!(Pin::new(told).poll(cx)) {
                Ok(problem) => problem,
                Err(_) => Some(Problem::new(ProblemKind::Internal, "the call's task is gone")),
            },
            End::Told => None,
            End::Here(_) => match std::mem::replace(self, End::Told) {
                End::Here(closing) => closing.close(true),
                End::Task(_) | End::Told => None,
            },
        };
        *self = End::Told;
        Poll::Ready(problem)
    }
}

/// A response's body. It ends well only if the call did, and if it is as long as its head says; dropping it stops the guest.
pub struct GuestBody {
    function: FunctionName,
    /// `None` once it has ended.
    inner: Option<WasiBody>,
    /// The answer is complete without it: a length that it does not keep to is none of its own (RFC 9110 §8.6).
    contentless: bool,
    /// What the head says of its length.
    length: Option<DeclaredLength>,
    /// The frame that completes the declared length: with it the client takes the response for whole,
    /// so it waits until the body has ended there and the call is known to have ended well.
    last: Option<Frame<Bytes>>,
    /// What came after that frame.
    trailers: Option<Frame<Bytes>>,
    reader: Reader,
    end: End,
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = &mut *self;
        if let Some(frame) = ready!(this.poll_guest(cx)) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if matches!(this.end, End::Told) {
            return Poll::Ready(this.trailers.take().map(Ok));
        }
        let problem = ready!(this.end.poll(cx));
        this.inner = None;
        match (problem, this.last.take()) {
            (Some(problem), _) => {
                this.trailers = None;
                Poll::Ready(Some(Err(problem)))
            }
            (None, Some(last)) => Poll::Ready(Some(Ok(last))),
            (None, None) => Poll::Ready(this.trailers.take().map(Ok)),
        }
    }
}

impl GuestBody {
    /// The guest's next frame that may be passed on, or none once it has no more and its call's end decides.
    fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        while let Some(inner) = &mut self.inner {
            // Looked at first: what comes after that look may be the guest's last.
            let ended = self.last.is_some() && self.reader.0.guest_ended(cx);
            match Pin::new(inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(frame) = self.pass(frame) {
                        return Poll::Ready(Some(frame));
                    }
                }
                // Whatever broke the body off, the call's end knows the cause better, and tells it to whoever asks.
                Poll::Ready(Some(Err(error))) => {
                    let fault = self.too_short().unwrap_or_else(|| broken(&error));
                    self.read_whole(Some(fault));
                }
                Poll::Ready(None) => self.read_whole(self.too_short()),
                // A reused guest may keep its whole body open.
                Poll::Pending if ended => self.read_whole(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(None)
    }

    /// Counts a frame and holds it to the declared length. The frame, if it may go on now.
    fn pass(&mut self, mut frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        if let Some(trailers) = frame.trailers_mut() {
            drop_reserved(trailers);
            // They wait with the last bytes, if those wait.
            if self.last.is_some() {
                self.trailers = Some(frame);
                return None;
            }
            return Some(frame);
        }
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let counts = &self.reader.0;
        counts.response_bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.length.as_mut().map(|length| length.take(bytes)) {
            Some(Err(fault)) => {
                // Whatever else the guest does, its response is none.
                let _ = self.reader.0.broken.set(wrong_length(&self.function, fault));
                self.inner = None;
                self.reader.set(GONE);
                None
            }
            Some(Ok(true)) => {
                // Empty frames may follow the last one.
                self.last.get_or_insert(frame);
                None
            }
            Some(Ok(false)) | None => {
                self.end.hand_over(&self.reader.0);
                Some(frame)
            }
        }
    }

    /// What is wrong with a body that ends here.
    fn too_short(&self) -> Option<Problem> {
        let fault = self.length?.end().err()?;
        Some(wrong_length(&self.function, fault))
    }

    /// There is no more of the body. `fault` is what is wrong with it; the guest goes on, and may fail for a better reason.
    fn read_whole(&mut self, fault: Option<Problem>) {
        if let Some(fault) = fault.filter(|_| !self.contentless) {
            // The first fault is the cause of any other.
            let _ = self.reader.0.broken.set(fault);
        }
        self.inner = None;
        self.reader.set(READ);
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if let End::Here(closing) = std::mem::replace(&mut self.end, End::Told) {
            closing.close(false);
        }
    }
}

fn broken(error: &WasiError) -> Problem {
    Problem::new(
        ProblemKind::BadResponse,
        format!("the response broke off: {}", said(format_args!("{error:?}"))),
    )
}

fn wrong_length(function: &FunctionName, fault: LengthFault) -> Problem {
    Problem::new(
        ProblemKind::BadResponse,
        format!("function `{function}` answered with a body that {fault}"),
    )
}
