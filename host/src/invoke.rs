//! One call: instantiate, run, stream. Everything a guest can do wrong ends here, as a value.
//!
//! A call is one task on the guests' runtime. It hands over the response's head as soon as the guest
//! sets it, and runs on while the body streams. The task, not the body, knows how the call ended; the
//! body asks it before it ends, so a response is complete only if the call was.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use nearfield_protocol::call::{CallReport, CallSpec, OnReport, Stages};
use nearfield_protocol::manifest::Instances;
use nearfield_protocol::{FunctionName, Problem, ProblemKind, cost, units};
use tokio::sync::oneshot;
use wasmtime::component::ResourceTableError;
use wasmtime::{PoolConcurrencyLimitError, Trap};
use wasmtime_wasi_http::{Error as WasiError, WasiBody};

use crate::components::Loaded;
use crate::guest::Guest;
use crate::instances::{Head, HeadSender, Instance, InstancePool};
use crate::logs::CallLog;

/// Told to the task when the body has been read to its end. Dropped unsent: the client is gone.
struct BodyEnded;

/// The ends of the channels between a call's task and its response.
struct TaskEnds {
    head: oneshot::Sender<Head>,
    body_ended: oneshot::Receiver<BodyEnded>,
    outcome: oneshot::Sender<Option<Problem>>,
    report: OnReport,
}

/// What a call's task works with.
pub(crate) struct Invocation {
    pub spec: CallSpec,
    pub component: Arc<Loaded>,
    pub pool: Arc<InstancePool>,
    pub blobs: nearfield_store::Store,
    pub log: CallLog,
    pub started: Instant,
    pub stages: Stages,
    pub cold: bool,
    /// Held until the guest has ended.
    pub place: tokio::sync::OwnedSemaphorePermit,
}

impl Invocation {
    /// Starts the call on `guests` and waits for the head of its response.
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
        let (head_tx, head) = oneshot::channel();
        let (body_ended, body_ended_rx) = oneshot::channel();
        let (outcome_tx, outcome) = oneshot::channel();
        let ends = TaskEnds {
            head: head_tx,
            body_ended: body_ended_rx,
            outcome: outcome_tx,
            report,
        };

        let counts = Arc::new(Counts::default());
        let up = counts.clone();
        let request = request.map(|body| {
            body.map_frame(move |frame| {
                if let Some(data) = frame.data_ref() {
                    up.request.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                frame
            })
            // The cause was told where the body was bounded; the guest learns that it broke off.
            .map_err(|_| WasiError::ConnectionTerminated)
            .boxed_unsync()
        });
        let name = self.spec.function.name.clone();
        guests.spawn(self.run(request, ends, counts.clone()));

        match head.await {
            Ok(Ok(response)) => {
                let declared = response.headers().get(http::header::CONTENT_LENGTH);
                let left_bytes = declared.and_then(|length| length.to_str().ok()?.parse().ok());
                Ok(response.map(|inner| GuestBody {
                    inner: Some(inner),
                    left_bytes,
                    last: None,
                    broken: None,
                    counts,
                    body_ended: Some(body_ended),
                    outcome,
                    told: false,
                }))
            }
            Ok(Err(code)) => {
                drop(body_ended);
                Err(Problem::new(
                    ProblemKind::NoResponse,
                    format!("function `{name}` answered with the error {code}"),
                ))
            }
            // The task let go of the head unsent: it has ended, or is about to, and knows why.
            Err(_) => {
                let _ = body_ended.send(BodyEnded);
                Err(outcome.await.ok().flatten().unwrap_or_else(|| no_response(&name)))
            }
        }
    }

    async fn run(self, request: http::Request<WasiBody>, ends: TaskEnds, counts: Arc<Counts>) {
        let TaskEnds {
            head,
            body_ended,
            outcome,
            report,
        } = ends;
        let Invocation {
            spec,
            component,
            pool,
            blobs,
            log,
            started,
            mut stages,
            cold,
            place,
        } = self;
        let limits = &spec.function.manifest.limits;
        let deadline = tokio::time::Instant::from_std(started + limits.timeout.0);
        let begun = Instant::now();
        let mut body_ended = BodyEnd::Waiting(body_ended);
        let status = Arc::new(AtomicU16::new(0));
        let head = HeadSender::new(head, status.clone());

        let mut instance = None;
        let ended = {
            let run = pin!(async {
                let instance = match pool.take() {
                    Some(used) => {
                        let used = instance.insert(used);
                        Guest::renew(&mut used.store, &spec, &log)?;
                        used
                    }
                    None => {
                        let store = Guest::store(component.engine(), &spec, &blobs, log.clone())?;
                        instance.insert(Instance::new(store))
                    }
                };
                instance.handle(&component, request, head).await
            });
            tokio::select! {
                biased;
                ended = tokio::time::timeout_at(deadline, run) => match ended {
                    Ok(Ok(())) => Ended::Well,
                    Ok(Err(error)) => Ended::Trapped(error),
                    Err(_) => Ended::TimedOut,
                },
                () = body_ended.gone() => Ended::Cancelled,
            }
        };
        stages.run_us = begun.elapsed().as_micros() as u64;
        drop(place);
        log.finish();

        let mut fuel = 0;
        let mut figures = Figures::default();
        let mut problem = None;
        if let Some(instance) = &instance {
            let left = instance.store.get_fuel().unwrap_or(0);
            let guest = instance.store.data();
            fuel = limits.fuel.saturating_sub(left) + guest.settled_fuel();
            figures = Figures::of(guest);
            problem = ended.problem(&spec, guest);
        } else if let Ended::Trapped(error) = &ended {
            problem = Some(trap_problem(&spec, error));
        }
        // A guest that failed or was stopped is dropped whole, and with it what its body still waits for.
        let reuse = matches!(ended, Ended::Well) && spec.function.manifest.instances == Instances::Reuse;
        if let Some(instance) = instance.take().filter(|_| reuse) {
            pool.give_back(instance);
        }

        // The guest is done; its response may still be on its way out.
        let cancelled = matches!(ended, Ended::Cancelled)
            || tokio::time::timeout_at(deadline, body_ended.ended()).await != Ok(true);
        let (request_bytes, response_bytes) = counts.get();
        fuel += cost::bytes(request_bytes) + cost::bytes(response_bytes);
        if problem.is_none() && fuel > limits.fuel {
            problem = Some(out_of_fuel(&spec));
        }
        let status = Some(status.load(Ordering::Relaxed)).filter(|status| *status > 0);
        if problem.is_none() && status.is_none() && !cancelled {
            problem = Some(no_response(&spec.function.name));
        }
        // Nobody may be waiting any more.
        let _ = outcome.send(problem.clone());
        report(CallReport {
            fuel,
            status,
            cancelled: cancelled && problem.is_none(),
            problem,
            request_bytes,
            response_bytes,
            data_bytes: figures.data_bytes,
            pages_grown: figures.pages_grown,
            outgoing_requests: figures.outgoing_requests,
            cold,
            stages,
        });
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
                Problem::new(ProblemKind::Timeout, format!("function `{name}` ran out of time"))
                    .with_limit(format!("limits.timeout = {}ms", limits.timeout.0.as_millis())),
            ),
            // A guest that is refused memory traps in its own allocator, so the refusal is the cause.
            Ended::Trapped(_) if guest.limiter.memory_refused => Some(
                Problem::new(
                    ProblemKind::OutOfMemory,
                    format!("function `{name}` needed more memory than its limit"),
                )
                .with_limit(format!(
                    "limits.memory = {}",
                    units::format_bytes(limits.memory.0)
                )),
            ),
            Ended::Trapped(error) => Some(trap_problem(spec, error)),
        }
    }
}

fn no_response(name: &FunctionName) -> Problem {
    Problem::new(
        ProblemKind::NoResponse,
        format!("function `{name}` ended without a response; see `nearfield logs {name}`"),
    )
}

fn out_of_fuel(spec: &CallSpec) -> Problem {
    Problem::new(
        ProblemKind::OutOfFuel,
        format!("function `{}` used up its fuel", spec.function.name),
    )
    .with_limit(format!("limits.fuel = {}", spec.function.manifest.limits.fuel))
}

fn trap_problem(spec: &CallSpec, error: &wasmtime::Error) -> Problem {
    let name = &spec.function.name;
    if error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel) {
        return out_of_fuel(spec);
    }
    if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
        return Problem::new(
            ProblemKind::Overload,
            format!("no room to instantiate `{name}`: {error}"),
        );
    }
    let cause = error.root_cause().to_string();
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
            "host-call copy = {} bytes",
            nearfield_protocol::limits::HOST_CALL_COPY_BYTES
        ));
    }
    Problem::new(
        ProblemKind::Trap,
        format!("function `{name}` trapped: {cause}; see `nearfield logs {name}`"),
    )
}

/// Figures that a guest's store holds.
#[derive(Default)]
struct Figures {
    data_bytes: u64,
    pages_grown: u64,
    outgoing_requests: u32,
}

impl Figures {
    fn of(guest: &Guest) -> Self {
        Figures {
            data_bytes: guest.data.bytes(),
            pages_grown: guest.limiter.pages_grown,
            outgoing_requests: guest.outgoing.sent(),
        }
    }
}

/// Body bytes of one call, counted as they pass.
#[derive(Default)]
struct Counts {
    request: AtomicU64,
    response: AtomicU64,
}

impl Counts {
    fn get(&self) -> (u64, u64) {
        (
            self.request.load(Ordering::Relaxed),
            self.response.load(Ordering::Relaxed),
        )
    }
}

/// The task's view of whether its response has been read to the end.
enum BodyEnd {
    Waiting(oneshot::Receiver<BodyEnded>),
    Ended,
    Gone,
}

impl BodyEnd {
    async fn resolve(&mut self) {
        if let BodyEnd::Waiting(receiver) = self {
            *self = match receiver.await {
                Ok(BodyEnded) => BodyEnd::Ended,
                Err(_) => BodyEnd::Gone,
            };
        }
    }

    /// Ends when the client has gone away; never, if the body was read to its end.
    async fn gone(&mut self) {
        self.resolve().await;
        if matches!(self, BodyEnd::Ended) {
            std::future::pending::<()>().await;
        }
    }

    /// Whether the body was read to its end.
    async fn ended(&mut self) -> bool {
        self.resolve().await;
        matches!(self, BodyEnd::Ended)
    }
}

/// A response's body. It ends well only if the call did; dropping it stops the guest.
pub struct GuestBody {
    /// `None` once it has ended.
    inner: Option<WasiBody>,
    /// Bytes that the declared length still promises.
    left_bytes: Option<u64>,
    /// The frame that completes the declared length: with it the client takes the response for whole,
    /// so it waits until the call is known to have ended well.
    last: Option<Frame<Bytes>>,
    /// How the guest's body itself broke off.
    broken: Option<Problem>,
    counts: Arc<Counts>,
    body_ended: Option<oneshot::Sender<BodyEnded>>,
    outcome: oneshot::Receiver<Option<Problem>>,
    /// The outcome has been passed on; what is left is the end.
    told: bool,
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = &mut *self;
        if this.last.is_none()
            && let Some(inner) = &mut this.inner
        {
            match ready!(Pin::new(inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                    this.counts.response.fetch_add(bytes, Ordering::Relaxed);
                    this.left_bytes = this.left_bytes.map(|left| left.saturating_sub(bytes));
                    if this.left_bytes != Some(0) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                    this.last = Some(frame);
                    // What the guest still does with its body must find it open.
                    this.tell_ended();
                }
                // Whatever broke the body off, the task knows the cause better.
                Some(Err(error)) => {
                    this.broken = Some(broken(&error));
                    this.end();
                }
                None => this.end(),
            }
        }
        if this.told {
            return Poll::Ready(None);
        }
        let outcome = match ready!(Pin::new(&mut this.outcome).poll(cx)) {
            Ok(None) => this.broken.take(),
            Ok(Some(problem)) => Some(problem),
            Err(_) => Some(Problem::new(ProblemKind::Internal, "the call's task is gone")),
        };
        this.told = true;
        this.inner = None;
        match (outcome, this.last.take()) {
            (Some(problem), _) => Poll::Ready(Some(Err(problem))),
            (None, last) => Poll::Ready(last.map(Ok)),
        }
    }
}

impl GuestBody {
    fn end(&mut self) {
        self.inner = None;
        self.tell_ended();
    }

    fn tell_ended(&mut self) {
        if let Some(body_ended) = self.body_ended.take() {
            // The task may have ended already.
            let _ = body_ended.send(BodyEnded);
        }
    }
}

fn broken(error: &WasiError) -> Problem {
    Problem::new(
        ProblemKind::BadResponse,
        format!("the response broke off: {error:?}"),
    )
}
