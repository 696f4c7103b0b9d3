//! One call on one host after another, until one takes it.
//!
//! What never reached a host goes to the next, whatever it is. What was lost on the way goes on only if running it twice does
//! no harm: its method says so (RFC 9110 §9.2.2), its body is here to be sent again, and nothing has come back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use nearfield_cluster::Hosts;
use nearfield_cluster::host::Host;
use nearfield_protocol::call::{CallReport, CallSpec, OnReport, Stages};
use nearfield_protocol::problem::{Blame, Elsewhere};
use nearfield_protocol::{NodeId, Problem, ProblemKind, limits};
use parking_lot::Mutex;

use crate::body::{self, Body, HeldEnd};

/// Longest body that is kept to be sent again.
const KEPT_BODY_BYTES: u64 = 64 << 10;
/// Responses that are read as they come: they are sent on so, too.
const STREAMS: [&[u8]; 4] = [
    b"text/event-stream",
    b"application/x-ndjson",
    b"application/jsonl",
    b"application/grpc",
];
/// How long another response may be read ahead of what is sent on: until the loss of a host is surely noticed, which takes up
/// to 0.9 s.
const HOLD: Duration = Duration::from_millis(1_500);
/// Hosts that are tried.
const MAX_ATTEMPTS: usize = 3;
/// In place of an attempt's number: each may report.
const ANY_ATTEMPT: usize = usize::MAX;

/// What is left to send, as long as it can be.
enum Sent {
    /// All of it is here. Whether a host that was lost on the way may have had it is for the method to say.
    Kept { bytes: Bytes, twice: bool },
    /// It streams, so it is sent once.
    Once(Option<Body>),
}

impl Sent {
    /// Keeps a body that is known to be short.
    async fn of(parts: &Parts, body: Body) -> Result<Sent, Problem> {
        let short = body
            .size_hint()
            .upper()
            .is_some_and(|bytes| bytes <= KEPT_BODY_BYTES);
        if !short {
            return Ok(Sent::Once(Some(body)));
        }
        let kept = Limited::new(body, KEPT_BODY_BYTES as usize).collect().await;
        match kept {
            Ok(kept) => Ok(Sent::Kept {
                bytes: kept.to_bytes(),
                twice: parts.method.is_idempotent(),
            }),
            Err(error) => Err(match error.downcast::<Problem>() {
                Ok(problem) => *problem,
                Err(error) => Problem::new(ProblemKind::BadRequest, error.to_string()),
            }),
        }
    }

    fn body(&mut self) -> Option<Body> {
        match self {
            Sent::Kept { bytes, .. } if bytes.is_empty() => Some(body::empty()),
            Sent::Kept { bytes, .. } => Some(body::full(bytes.clone())),
            Sent::Once(body) => body.take(),
        }
    }

    /// Whether a host that was lost on the way may have had it.
    fn again(&self) -> bool {
        matches!(self, Sent::Kept { twice: true, .. })
    }
}

/// Reads a response ahead before anything of it is passed on: if its host is lost meanwhile, another can still answer, or it
/// is told as an error instead of a response that breaks off.
async fn held(response: Response<Body>) -> Result<Response<Body>, Problem> {
    if let Some(content) = response.headers().get(header::CONTENT_TYPE)
        && STREAMS
            .iter()
            .any(|stream| content.as_bytes().starts_with(stream))
    {
        return Ok(response);
    }
    let (parts, mut rest) = response.into_parts();
    let held = body::hold(&mut rest, HOLD).await;
    let body = match held.end {
        HeldEnd::Failed(problem) => return Err(problem),
        HeldEnd::Ended(trailers) => body::buffered(held.frames, trailers),
        HeldEnd::More => body::resumed(held.frames, rest),
    };
    Ok(Response::from_parts(parts, body))
}

/// Runs a call on the first of `hosts` that takes it, and says which that was. `handle` gives the handle of each, `report` is
/// told what became of the call there.
pub async fn call(
    known: &Arc<Hosts>,
    handle: impl Fn(NodeId) -> Arc<dyn Host>,
    hosts: &[NodeId],
    chosen: &OnceLock<NodeId>,
    spec: CallSpec,
    request: Request<Body>,
    report: OnReport,
) -> (NodeId, Result<Response<Body>, Problem>) {
    let (parts, body) = request.into_parts();
    let mut sent = match Sent::of(&parts, body).await {
        Ok(sent) => sent,
        Err(problem) => return (hosts[0], Err(problem)),
    };
    // Each attempt may take it; one that comes to nothing leaves it there.
    let report = Arc::new(Mutex::new(Some(report)));
    let mut ended = Err(Problem::new(ProblemKind::Overload, "no host takes calls now"));
    let mut host = hosts[0];
    // The one whose report is the call's: a host that was given up may still tell what it burned.
    let current = Arc::new(AtomicUsize::new(0));
    for (number, next) in hosts.iter().copied().take(MAX_ATTEMPTS).enumerate() {
        let Some(body) = sent.body() else { break };
        host = next;
        let under_way = known.enter(host);
        current.store(number, Ordering::Relaxed);
        let (hosts, report, current) = (known.clone(), report.clone(), current.clone());
        let limit = spec.function.manifest.limits.fuel;
        let on_report: OnReport = Box::new(move |mut ended| {
            ended.fuel = hosts.believed(&next, ended.fuel, limit);
            cut_times(&mut ended);
            hosts.burned(ended.fuel);
            drop(under_way);
            let current = current.load(Ordering::Relaxed);
            if (current == number || current == ANY_ATTEMPT)
                && let Some(report) = report.lock().take()
            {
                report(ended);
            }
        });
        let request = Request::from_parts(parts.clone(), body);
        ended = handle(host).call(spec.clone(), request, on_report).await;
        // This node's own host is lost only together with it.
        if host != known.local()
            && let Ok(response) = ended
        {
            ended = held(response).await;
        }
        let next = match ended.as_ref().map_err(|problem| problem.kind) {
            Err(kind) if kind.blame() == Blame::LostHost => {
                known.missed(&host);
                match kind.elsewhere() {
                    Elsewhere::Always => true,
                    Elsewhere::Repeatable => sent.again(),
                    Elsewhere::Never => false,
                }
            }
            _ => false,
        };
        if !next {
            break;
        }
        tracing::info!(host = host.short(), id = %spec.id, "a call goes on to the next host");
    }
    if ended.is_err() {
        // Whoever tells what the call burned.
        current.store(ANY_ATTEMPT, Ordering::Relaxed);
    }
    let _ = chosen.set(host);
    (host, ended)
}

/// Cuts a report's times to the longest that a call may last. Metrics add them up and clients read them, so no host may say any number.
fn cut_times(report: &mut CallReport) {
    let most_us = limits::MAX_CALL_TIMEOUT.as_micros() as u64;
    let Stages {
        queue_us,
        load_us,
        run_us,
    } = &mut report.stages;
    for us in [queue_us, load_us, run_us] {
        *us = most_us.min(*us);
    }
    if let Some(usage) = &mut report.gpu {
        usage.gpu_ns = usage.gpu_ns.min(most_us * 1_000);
        usage.compile_us = usage.compile_us.min(most_us);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nearfield_cluster::host::{Boxed, Given, LogQuery, Logged, Replayed, Runs, Surface};
    use nearfield_protocol::gpu::GpuUsage;
    use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey};
    use nearfield_protocol::records::FunctionVersion;
    use nearfield_protocol::{CallId, Digest};
    use tokio::sync::mpsc;

    use super::*;

    /// A host that takes calls only, and fails them if it is to.
    struct Fake {
        fails: Option<ProblemKind>,
        asked: Arc<Mutex<Vec<usize>>>,
        number: usize,
    }

    impl Host for Fake {
        fn call(
            &self,
            _: CallSpec,
            request: Request<Body>,
            report: OnReport,
        ) -> Boxed<'_, Result<Response<Body>, Problem>> {
            Box::pin(async move {
                self.asked.lock().push(self.number);
                match self.fails {
                    Some(kind) => Err(Problem::new(kind, "as it is meant to")),
                    None => {
                        report(lying());
                        Ok(Response::new(request.into_body()))
                    }
                }
            })
        }

        fn check(&self, _: Digest) -> Boxed<'_, Result<Surface, Problem>> {
            unreachable!("it takes calls only")
        }

        fn logs(&self, _: LogQuery) -> Boxed<'_, Result<mpsc::Receiver<Logged>, Problem>> {
            unreachable!("it takes calls only")
        }
    }

    /// What a host may say of a call's times.
    fn lying() -> CallReport {
        let stages = Stages {
            queue_us: u64::MAX,
            load_us: u64::MAX,
            run_us: 1,
        };
        CallReport {
            gpu: Some(GpuUsage {
                gpu_ns: u64::MAX,
                compile_us: u64::MAX,
                ..GpuUsage::default()
            }),
            ..CallReport::without_guest(None, stages)
        }
    }

    /// Its times as they are taken in: an hour at most.
    fn assert_cut(report: &CallReport) {
        const HOUR_US: u64 = 3_600_000_000;
        let Stages {
            queue_us,
            load_us,
            run_us,
        } = report.stages;
        assert_eq!((queue_us, load_us, run_us), (HOUR_US, HOUR_US, 1));
        let usage = report.gpu.unwrap();
        assert_eq!((usage.gpu_ns, usage.compile_us), (HOUR_US * 1_000, HOUR_US));
    }

    impl Runs for Fake {
        fn run_pure(&self, _: PureSpec) -> Boxed<'_, Result<PureReport, PureFailure>> {
            unreachable!("it takes calls only")
        }

        fn replay(&self, _: PureSpec) -> Boxed<'_, Result<Replayed, Problem>> {
            unreachable!("it takes calls only")
        }

        fn recall<'a>(
            &'a self,
            _: &'a [ResultKey],
            _: &'a [String],
        ) -> Boxed<'a, Result<Vec<Option<PureReport>>, Problem>> {
            unreachable!("it takes calls only")
        }

        fn output(&self, _: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
            unreachable!("it takes calls only")
        }

        fn written(&self, _: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
            unreachable!("it takes calls only")
        }

        fn take(&self, _: ResultKey) -> Boxed<'_, Result<Option<Given>, Problem>> {
            unreachable!("it takes calls only")
        }

        fn give<'a>(&'a self, _: Given, _: &'a [String]) -> Boxed<'a, Result<(), Problem>> {
            unreachable!("it takes calls only")
        }
    }

    /// Which hosts were asked, and what the call came to, when each fails as it is to.
    async fn tried(
        method: http::Method,
        body: Body,
        fails: &[Option<ProblemKind>],
    ) -> (Vec<usize>, Result<Bytes, ProblemKind>) {
        let id = |number: usize| NodeId::from_bytes([number as u8; 32]);
        let hosts: Vec<NodeId> = (0..fails.len()).map(id).collect();
        let known = Arc::new(Hosts::new(NodeId::from_bytes([99; 32])));
        let asked = Arc::<Mutex<Vec<usize>>>::default();
        let handle = |host: NodeId| -> Arc<dyn Host> {
            let number = usize::from(host.as_bytes()[0]);
            Arc::new(Fake {
                fails: fails[number],
                asked: asked.clone(),
                number,
            })
        };
        let spec = CallSpec {
            id: CallId::new(0, rand::random()),
            function: Arc::new(FunctionVersion {
                name: "f".parse().unwrap(),
                version: 1,
                component: Digest::EMPTY,
                manifest: Default::default(),
                deployed_unix_ms: 0,
                rolled_back_to: None,
            }),
            inputs: Arc::new(BTreeMap::new()),
        };
        let request = Request::builder().method(method).body(body).unwrap();
        let reports = Arc::new(Mutex::new(0));
        let counted = reports.clone();
        let report: OnReport = Box::new(move |ended| {
            assert_cut(&ended);
            *counted.lock() += 1;
        });
        let chosen = OnceLock::new();
        let (host, ended) = call(&known, handle, &hosts, &chosen, spec, request, report).await;
        assert_eq!(chosen.get(), Some(&host));
        let ended = match ended {
            Ok(response) => Ok(response.into_body().collect().await.unwrap().to_bytes()),
            Err(problem) => Err(problem.kind),
        };
        assert_eq!(*reports.lock(), i32::from(ended.is_ok()));
        let asked = asked.lock().clone();
        assert_eq!(asked.last(), Some(&usize::from(host.as_bytes()[0])));
        (asked, ended)
    }

    #[tokio::test]
    async fn a_call_goes_on_where_that_does_no_harm() {
        use ProblemKind::{HostLost, HostUnreachable, OutOfFuel, Overload, Trap};
        let text = || body::full("text");
        // It never got there.
        for method in [http::Method::GET, http::Method::POST] {
            let (asked, ended) = tried(method, text(), &[Some(HostUnreachable), None]).await;
            assert_eq!((asked, ended), (vec![0, 1], Ok("text".into())));
        }
        // It may have run: only what may run twice goes on.
        let lost = [Some(HostLost), None];
        assert_eq!(tried(http::Method::PUT, text(), &lost).await.0, [0, 1]);
        assert_eq!(
            tried(http::Method::POST, text(), &lost).await,
            (vec![0], Err(HostLost))
        );
        // What a guest did, or a host that is there, comes again elsewhere.
        for kind in [Trap, OutOfFuel, Overload] {
            let (asked, ended) = tried(http::Method::GET, text(), &[Some(kind), None]).await;
            assert_eq!((asked, ended), (vec![0], Err(kind)));
        }
        let (asked, ended) = tried(http::Method::GET, text(), &[Some(HostUnreachable); 5]).await;
        assert_eq!(
            (asked, ended),
            (vec![0, 1, 2], Err(HostUnreachable)),
            "three are enough"
        );
    }

    #[tokio::test]
    async fn a_body_that_streams_is_sent_once() {
        let long = || body::full(vec![b'x'; KEPT_BODY_BYTES as usize + 1]);
        let (asked, ended) = tried(
            http::Method::PUT,
            long(),
            &[Some(ProblemKind::HostUnreachable), None],
        )
        .await;
        assert_eq!((asked, ended), (vec![0], Err(ProblemKind::HostUnreachable)));
        let (asked, ended) = tried(http::Method::PUT, long(), &[None]).await;
        assert_eq!(
            (asked.len(), ended.unwrap().len() as u64),
            (1, KEPT_BODY_BYTES + 1)
        );
    }
}
