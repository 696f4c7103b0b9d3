//! One call on one host after another, until one takes it.
//!
//! What never reached a host goes to the next, whatever it is. What was lost on the way goes on only if running it twice does
//! no harm: its method says so (RFC 9110 §9.2.2), its body is here to be sent again, and nothing has come back.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use nearfield_protocol::call::{CallSpec, OnReport};
use nearfield_protocol::problem::{Blame, Elsewhere};
use nearfield_protocol::{NodeId, Problem, ProblemKind};
use parking_lot::Mutex;

use crate::body::{self, Body, HeldEnd};
use crate::server::Gateway;

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

/// Runs a call on the first of `hosts` that takes it, and says which that was. `report` is told what became of it there.
pub async fn call(
    gateway: &Arc<Gateway>,
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
    for next in hosts.iter().copied().take(MAX_ATTEMPTS) {
        let Some(body) = sent.body() else { break };
        host = next;
        let under_way = gateway.hosts.enter(host);
        let (hosts, report) = (gateway.hosts.clone(), report.clone());
        let limit = spec.function.manifest.limits.fuel;
        let on_report: OnReport = Box::new(move |mut ended| {
            ended.fuel = hosts.believed(&next, ended.fuel, limit);
            hosts.burned(ended.fuel);
            drop(under_way);
            if let Some(report) = report.lock().take() {
                report(ended);
            }
        });
        let request = Request::from_parts(parts.clone(), body);
        ended = gateway
            .dispatch
            .to(host)
            .call(spec.clone(), request, on_report)
            .await;
        // This node's own host is lost only together with it.
        if host != gateway.hosts.local()
            && let Ok(response) = ended
        {
            ended = held(response).await;
        }
        let next = match ended.as_ref().map_err(|problem| problem.kind) {
            Err(kind) if kind.blame() == Blame::LostHost => {
                gateway.hosts.missed(&host);
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
    let _ = chosen.set(host);
    (host, ended)
}
