//! The host's end: what other nodes' gateways ask of it.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use iroh::endpoint::{RecvStream, SendStream};
use nearfield_cluster::host::{Given, Host, LogQuery};
use nearfield_cluster::peer::message::{
    Answer, HEADER_FIELDS, MESSAGE_BYTES, OPENING, OUTPUT_BYTES, Op, PROBLEM,
};
use nearfield_net::{CallStream, NodePlaces, frame};
use nearfield_protocol::call::{CallReport, CallSpec};
use nearfield_protocol::{CallId, NodeId, Problem, ProblemKind, limits};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::read_to_end::ReadToEnd;
use crate::admin;
use crate::body::{self, Body, broken};
use crate::breaks_late::BreaksLate;
use crate::contentless;
use crate::heads;
use crate::state::Gateway;

/// Streams of one gateway that are served at once.
const STREAMS: usize = 4_096;
/// Calls whose reports are not asked for yet.
const MAX_REPORTS: u64 = 16_384;
/// How long a report waits to be asked for.
const REPORT_AGE: std::time::Duration = std::time::Duration::from_secs(60);

/// A report that is to come, until somebody waits for it.
type Untaken = Mutex<Option<oneshot::Receiver<CallReport>>>;

/// A host, as it serves other nodes' gateways.
pub struct Serving {
    host: Arc<dyn Host>,
    gateway: Arc<Gateway>,
    /// Where puts are worked on.
    control: Handle,
    /// Reports of calls by who asked for them. Each is taken once.
    reports: moka::sync::Cache<(NodeId, CallId), Arc<Untaken>>,
}

impl Serving {
    /// Puts are worked on by the runtime that this is called on.
    pub fn new(host: Arc<dyn Host>, gateway: Arc<Gateway>) -> Self {
        Serving {
            host,
            gateway,
            control: Handle::current(),
            reports: moka::sync::Cache::builder()
                .max_capacity(MAX_REPORTS)
                .time_to_live(REPORT_AGE + limits::MAX_CALL_TIMEOUT)
                .build(),
        }
    }
}

/// Serves what gateways ask for until `stop`, on the threads of `guests`.
pub async fn serve_calls(
    serving: Arc<Serving>,
    mut calls: mpsc::Receiver<CallStream>,
    guests: Handle,
    stop: CancellationToken,
) {
    let mut places = NodePlaces::new(STREAMS);
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return,
            stream = calls.recv() => match stream {
                Some(stream) => stream,
                None => return,
            },
        };
        let (places, serving, stop) = (places.of(stream.node), serving.clone(), stop.clone());
        guests.spawn(async move {
            let _place = tokio::select! {
                () = stop.cancelled() => return,
                place = places.acquire() => match place {
                    Ok(place) => place,
                    Err(_) => return,
                },
            };
            let node = stream.node;
            if let Err(error) = serving.stream(stream).await {
                tracing::debug!(node = node.short(), %error, "a stream of a gateway ended early");
            }
        });
    }
}

impl Serving {
    async fn stream(&self, stream: CallStream) -> io::Result<()> {
        let CallStream {
            node,
            mut send,
            mut receive,
        } = stream;
        match timeout(OPENING, frame::read(&mut receive, MESSAGE_BYTES)).await?? {
            Op::Call(spec) => self.call(node, spec, send, receive).await,
            Op::Put { name, newest } => {
                self.gateway.cluster.catalog.has_come(&name, newest).await;
                self.put(node, send, receive).await
            }
            op => {
                // Who asked may go away: then nobody waits for the answer, and the guest stops.
                let gone = send.stopped();
                tokio::select! {
                    answered = self.answer(node, op, &mut send, &mut receive) => answered?,
                    _ = gone => return Ok(()),
                }
                let _ = send.finish();
                Ok(())
            }
        }
    }

    async fn call(
        &self,
        node: NodeId,
        spec: CallSpec,
        send: SendStream,
        receive: RecvStream,
    ) -> io::Result<()> {
        let (reported, report) = oneshot::channel();
        let slot = Arc::new(Mutex::new(Some(report)));
        self.reports.insert((node, spec.id), slot);
        let once = Mutex::new(Some((spec, reported)));
        let service = service_fn(|request: Request<Incoming>| {
            let once = once.lock().take();
            async move {
                let Some((spec, reported)) = once else {
                    return Err(Problem::new(ProblemKind::BadRequest, "one stream is one call"));
                };
                let (method, function) = (request.method().clone(), spec.function.clone());
                let request = request.map(|body| body.map_err(|error| broken(&error)).boxed_unsync());
                let report = Box::new(move |report| {
                    // Nobody may ask for it.
                    let _ = reported.send(report);
                });
                let answer = async {
                    let mut response = self.host.call(spec, request, report).await?;
                    // What would not reach the gateway as what it is, and what is a host's to say and never a guest's.
                    heads::check_response(&function.name, &mut response)?;
                    let response = contentless::settle(&method, response).await?;
                    Ok(response.map(|body| BreaksLate::new(body).boxed_unsync()))
                };
                Ok(answer.await.unwrap_or_else(|problem| told(&problem)))
            }
        });
        let io = TokioIo::new(tokio::io::join(ReadToEnd(Some(receive)), send));
        let served = http1::Builder::new()
            .keep_alive(false)
            .max_headers(HEADER_FIELDS)
            .max_buf_size(limits::RESPONSE_HEADER_BYTES.max(limits::REQUEST_HEADER_BYTES) * 2)
            .serve_connection(io, service);
        served.await.map_err(io::Error::other)
    }

    async fn answer(
        &self,
        node: NodeId,
        op: Op,
        send: &mut SendStream,
        receive: &mut RecvStream,
    ) -> io::Result<()> {
        let host = &self.host;
        let (answer, bytes) = match op {
            Op::Call(_) | Op::Put { .. } => (
                Answer::Failed(Problem::new(
                    ProblemKind::BadRequest,
                    "a call or a put was sent where a question belongs",
                )),
                None,
            ),
            Op::Report(call) => (Answer::Report(self.report(node, call).await), None),
            Op::Check(component) => match host.check(component).await {
                Ok(surface) => (Answer::Surface(surface), None),
                Err(problem) => (Answer::Failed(problem), None),
            },
            Op::RunPure(spec) => (Answer::Ran(host.run_pure(spec).await), None),
            Op::Replay(spec) => match host.replay(spec).await {
                Ok(replayed) => {
                    let (outcome, output) = match replayed.outcome {
                        Ok((report, output)) => (Ok(report), Some(output)),
                        Err(failure) => (Err(failure), None),
                    };
                    let answer = Answer::Replayed {
                        outcome: Box::new(outcome),
                        remembered: replayed.remembered.map(Box::new),
                        log: replayed.log,
                    };
                    (answer, output)
                }
                Err(problem) => (Answer::Failed(problem), None),
            },
            Op::Recall { keys, origins } => match host.recall(&keys, &origins).await {
                Ok(found) => (Answer::Recalled(found), None),
                Err(problem) => (Answer::Failed(problem), None),
            },
            Op::Output(key) => given(host.output(key).await),
            Op::Written(key) => given(host.written(key).await),
            Op::Take(key) => match host.take(key).await {
                Ok(Some(given)) => (Answer::Taken(Some(given.report)), Some(given.output)),
                Ok(None) => (Answer::Taken(None), None),
                Err(problem) => (Answer::Failed(problem), None),
            },
            Op::Give { report, origins } => {
                let output = frame::read_bytes(receive, OUTPUT_BYTES).await?;
                match host.give(Given { report, output }, &origins).await {
                    Ok(()) => (Answer::Done, None),
                    Err(problem) => (Answer::Failed(problem), None),
                }
            }
            Op::Logs {
                function,
                runs,
                lines,
                follow,
            } => {
                let query = LogQuery {
                    function,
                    runs: runs.map(|runs| Arc::new(runs.into_iter().collect::<HashMap<_, _>>())),
                    lines,
                    follow,
                };
                match host.logs(query).await {
                    Ok(mut lines) => {
                        while let Some(line) = lines.recv().await {
                            frame::write(send, &Answer::Line(line)).await?;
                        }
                        return Ok(());
                    }
                    Err(problem) => (Answer::Failed(problem), None),
                }
            }
        };
        frame::write(send, &answer).await?;
        match bytes {
            Some(bytes) if bytes.len() > OUTPUT_BYTES => Err(io::ErrorKind::InvalidData.into()),
            Some(bytes) => frame::write_bytes(send, &bytes).await,
            None => Ok(()),
        }
    }

    async fn report(&self, node: NodeId, call: CallId) -> Option<CallReport> {
        let slot = self.reports.remove(&(node, call))?;
        let report = slot.lock().take()?;
        report.await.ok()
    }
}

impl Serving {
    /// Takes a put for a gateway.
    async fn put(&self, via: NodeId, send: SendStream, receive: RecvStream) -> io::Result<()> {
        let service = service_fn(|request: Request<Incoming>| async move {
            // Cutting and sorting are no guest's work.
            let (gateway, control) = (self.gateway.clone(), &self.control);
            let put = control.spawn(async move { admin::put_for(&gateway, via, request).await });
            Ok::<_, Infallible>(put.await.unwrap_or_else(|error| admin::failed(&error)))
        });
        let io = TokioIo::new(tokio::io::join(ReadToEnd(Some(receive)), send));
        let served = http1::Builder::new()
            .keep_alive(false)
            .serve_connection(io, service);
        served.await.map_err(io::Error::other)
    }
}

fn given(bytes: Result<Option<bytes::Bytes>, Problem>) -> (Answer, Option<bytes::Bytes>) {
    match bytes {
        Ok(bytes) => (Answer::Bytes(bytes.is_some()), bytes),
        Err(problem) => (Answer::Failed(problem), None),
    }
}

/// A problem as a response that only the gateway reads. In a header, because the answer to HEAD has nothing else; in the body
/// if no header can hold it.
fn told(problem: &Problem) -> Response<Body> {
    let text = serde_json::to_vec(problem).unwrap_or_default();
    let header = match text.len() <= limits::RESPONSE_HEADER_BYTES {
        true => HeaderValue::from_bytes(&text).ok(),
        false => None,
    };
    let mut response = Response::new(body::full(text));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
        .headers_mut()
        .insert(PROBLEM, header.unwrap_or(HeaderValue::from_static("1")));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_without_a_body() {
        for detail in [
            "plain",
            "two\nlines, a \"quote\" and ümlauts",
            "a \u{7f} that no header holds",
        ] {
            let problem = Problem::new(ProblemKind::Trap, detail).with_limit("fuel = 5");
            let response = told(&problem);
            let header = &response.headers()[PROBLEM];
            let read = serde_json::from_slice::<Problem>(header.as_bytes()).ok();
            assert_eq!(read, (!detail.contains('\u{7f}')).then_some(problem));
        }
    }
}
