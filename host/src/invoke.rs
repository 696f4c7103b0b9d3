//! One call: instantiate, run, stream. Everything a guest can do wrong ends here, as a value.
//!
//! A reused guest runs where its call arrived until it first has to wait, and as a task of its own from
//! then on; a fresh one is a task from the start. It hands over the response's head as soon as it sets it,
//! and runs on while the body streams. The body asks how the guest ended before it ends itself, so a
//! response is complete only if the call was.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, Empty};
use nearfield_gpu::client::Gpu;
use nearfield_protocol::call::{CallSpec, OnReport, Stages, never_has_content};
use nearfield_protocol::http::DeclaredLength;
use nearfield_protocol::manifest::Instances;
use nearfield_protocol::{Problem, ProblemKind, units};
use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error as WasiError, WasiBody};

use crate::body::{End, GuestBody, Reader};
use crate::closing::{Closing, Figures};
use crate::failure::{no_response, refused, trap_problem};
use crate::guest::Guest;
use crate::instances::{HeadSender, Instance};
use crate::logs::Logs;
use crate::meter::OutOfTime;
use crate::places::Place;
use crate::ready::Ready;
use crate::shared::{ResponseOutcome, Shared};
use crate::stores::{self, Terms};
use crate::turns::in_turns;

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
                        let problem = fault.of_function(&body.function);
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
                body.reader.0.settle(ResponseOutcome::Read);
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
                        stores::renew(&mut used.store, &spec, (deadline, shared.clone()))?;
                        used
                    }
                    None => {
                        let terms = Terms {
                            deadline,
                            bodies: shared.clone(),
                            memory: ready.memory.clone(),
                            allowed: ready.allowed.clone(),
                        };
                        let engine = ready.component.engine();
                        let store = stores::of_call(engine, &spec, &blobs, logs, gpu, terms)?;
                        instance.insert(Instance::new(store))
                    }
                };
                instance.handle(&ready.component, request, head).await
            });
            tokio::select! {
                biased;
                ended = in_turns(deadline, &ready.turns, run) => match ended {
                    Ok(Ok(())) => GuestEnd::Well,
                    Ok(Err(error)) if error.is::<OutOfTime>() => GuestEnd::TimedOut,
                    Ok(Err(error)) => GuestEnd::Trapped(error),
                    Err(OutOfTime) => GuestEnd::TimedOut,
                },
                () = shared.gone() => GuestEnd::Cancelled,
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
                guest.log.note(&problem.to_string());
            }
        } else if let GuestEnd::Trapped(error) = &ended {
            problem = Some(trap_problem(&spec, error, None));
        }
        // A guest that failed or was stopped is dropped whole, and with it what its body still waits for.
        let reuse = matches!(ended, GuestEnd::Well) && spec.function.manifest.instances == Instances::Reuse;
        if let Some(mut instance) = instance.take().filter(|_| reuse)
            && instance.is_reusable()
        {
            let bytes = instance.memory_bytes();
            ready.pool.give_back(instance, bytes);
        }
        // The engine's slot comes free before the place that stands for it.
        drop(place);
        shared.end_guest();
        Closing {
            function: spec.function,
            fuel,
            figures,
            problem,
            cancelled: matches!(ended, GuestEnd::Cancelled),
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

/// How a guest ended.
enum GuestEnd {
    Well,
    Trapped(wasmtime::Error),
    TimedOut,
    Cancelled,
}

impl GuestEnd {
    fn problem(&self, spec: &CallSpec, guest: &Guest) -> Option<Problem> {
        let name = &spec.function.name;
        let limits = &spec.function.manifest.limits;
        match self {
            GuestEnd::Well | GuestEnd::Cancelled => None,
            GuestEnd::TimedOut => Some(
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
            GuestEnd::Trapped(_) if guest.limiter.memory_refused => Some(
                Problem::new(
                    ProblemKind::OutOfMemory,
                    format!(
                        "function `{name}` needed more memory than its limit: keep less at once, or raise \
                         `limits.memory` in its nearfield.toml"
                    ),
                )
                .with_limit(format!("limits.memory = {}", units::exact_bytes(limits.memory.0))),
            ),
            GuestEnd::Trapped(error) => Some(trap_problem(spec, error, guest.log.panic())),
        }
    }
}
