//! The gateway's end: other nodes' hosts.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use iroh::endpoint::{RecvStream, SendStream};
use nearfield_net::{CALL, Peers, frame};
use nearfield_protocol::call::{CallReport, CallSpec, OnReport};
use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey};
use nearfield_protocol::said::{SAID_BYTES, cut_string};
use nearfield_protocol::{CallId, Digest, NodeId, Problem, ProblemKind, limits};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::message::{Answer, HEADER_FIELDS, MESSAGE_BYTES, OUTPUT_BYTES, Op, PROBLEM};
use super::remote_body::RemoteBody;
use crate::body::Body;
use crate::host::{Boxed, Given, Host, LogQuery, Logged, Replayed, Runs, Surface};
use crate::problem::{lost, unreachable};

/// How long a host may take for what runs no guest.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take to compile a component.
const COMPILED: Duration = Duration::from_secs(600);
/// How long an output may take from or to a host: the largest, at 1 MiB/s. A host that is gone is noticed sooner.
const OUTPUT: Duration = Duration::from_secs((OUTPUT_BYTES >> 20) as u64);
/// How long after its call's timeout a host may still answer: the call may have waited for a place, and the answer is on its way.
const LATER: Duration = Duration::from_secs(30);
/// Longest problem that is read: its texts are cut, and JSON makes six bytes of one at most.
const PROBLEM_BYTES: usize = 16 * SAID_BYTES;
/// Log lines that may wait for a slow reader.
const LOG_LINES: usize = 256;

/// Another node's host. Each question has a stream of its own.
pub struct RemoteHost {
    peers: Peers,
    host: NodeId,
}

impl RemoteHost {
    pub fn new(peers: Peers, host: NodeId) -> Self {
        RemoteHost { peers, host }
    }

    async fn open(&self, op: &Op) -> Result<(SendStream, RecvStream), Problem> {
        open(&self.peers, self.host, op).await
    }

    /// One question with one answer. Dropped, it ends what the host does for it.
    async fn ask(&self, op: &Op) -> Result<(Answer, RecvStream), Problem> {
        let patience = match op {
            // A guest runs, within its own limits, after those that it was queued behind.
            Op::RunPure(spec) | Op::Replay(spec) => {
                let timeout = spec.setting.limits.timeout;
                timeout.saturating_mul(limits::RUNS_IN_FLIGHT as u32)
            }
            Op::Check(_) => COMPILED,
            _ => ANSWER,
        };
        self.ask_for(patience, op).await
    }

    async fn ask_for(&self, patience: Duration, op: &Op) -> Result<(Answer, RecvStream), Problem> {
        let (mut send, mut receive) = self.open(op).await?;
        let _ = send.finish();
        match within(patience, frame::read(&mut receive, MESSAGE_BYTES)).await? {
            Answer::Failed(problem) => Err(problem),
            answer => Ok((answer, receive)),
        }
    }

    async fn bytes(&self, op: &Op) -> Result<Option<Bytes>, Problem> {
        match self.ask(op).await? {
            (Answer::Bytes(false), _) => Ok(None),
            (Answer::Bytes(true), mut receive) => {
                let bytes = within(OUTPUT, frame::read_bytes(&mut receive, OUTPUT_BYTES)).await?;
                Ok(Some(bytes))
            }
            _ => Err(unexpected()),
        }
    }

    async fn call_there(
        &self,
        spec: CallSpec,
        request: Request<Body>,
        report: OnReport,
    ) -> Result<Response<Body>, Problem> {
        let id = spec.id;
        // A host that is there and does not end a call in its time is as good as lost: nobody's place is held for it.
        let patience = spec.function.manifest.limits.timeout.0 + LATER;
        let stream = self.open(&Op::Call(spec)).await?;
        let (mut sender, driver) = handshake(stream).await?;
        let mut later = ReportLater {
            peers: self.peers.clone(),
            host: self.host,
            id,
            patience,
            report: Some(report),
        };
        let sending = async { sender.send_request(request).await.map_err(io::Error::other) };
        let response = match within(patience, sending).await {
            Ok(response) => response,
            Err(problem) => {
                // Whether the host got the call is not known, so no report is asked for.
                later.report = None;
                return Err(problem);
            }
        };
        let problem = later.ask();
        if let Some(told) = response.headers().get(PROBLEM) {
            if let Ok(problem) = serde_json::from_slice::<Problem>(told.as_bytes()) {
                return Err(problem);
            }
            let body = Limited::new(response.into_body(), PROBLEM_BYTES).collect();
            let body = within(ANSWER, async { body.await.map_err(io::Error::other) }).await?;
            let problem = serde_json::from_slice(&body.to_bytes());
            return Err(problem.unwrap_or_else(|_| unexpected()));
        }
        Ok(response.map(|incoming| RemoteBody::new(incoming, problem, patience, driver).boxed_unsync()))
    }
}

impl Host for RemoteHost {
    fn call(
        &self,
        spec: CallSpec,
        request: Request<Body>,
        report: OnReport,
    ) -> Boxed<'_, Result<Response<Body>, Problem>> {
        Box::pin(self.call_there(spec, request, report))
    }

    fn check(&self, component: Digest) -> Boxed<'_, Result<Surface, Problem>> {
        Box::pin(async move {
            match self.ask(&Op::Check(component)).await? {
                (Answer::Surface(surface), _) => Ok(surface.cut()),
                _ => Err(unexpected()),
            }
        })
    }

    fn logs(&self, query: LogQuery) -> Boxed<'_, Result<mpsc::Receiver<Logged>, Problem>> {
        Box::pin(async move {
            let runs = |runs: Arc<HashMap<CallId, _>>| runs.iter().map(|(id, run)| (*id, *run)).collect();
            let op = Op::Logs {
                function: query.function,
                runs: query.runs.map(runs),
                lines: query.lines,
                follow: query.follow,
            };
            let (send, mut receive) = self.open(&op).await?;
            let (lines, received) = mpsc::channel(LOG_LINES);
            tokio::spawn(async move {
                // Held so that the host goes on; whoever listened no more ends it.
                let _send = send;
                loop {
                    let line = tokio::select! {
                        line = frame::read(&mut receive, MESSAGE_BYTES) => line,
                        () = lines.closed() => return,
                    };
                    match line {
                        Ok(Answer::Line(line)) => {
                            if lines.send(line.cut()).await.is_err() {
                                return;
                            }
                        }
                        _ => return,
                    }
                }
            });
            Ok(received)
        })
    }
}

impl Runs for RemoteHost {
    fn run_pure(&self, spec: PureSpec) -> Boxed<'_, Result<PureReport, PureFailure>> {
        Box::pin(async move {
            match self.ask(&Op::RunPure(spec)).await? {
                (Answer::Ran(ended), _) => ended,
                _ => Err(unexpected().into()),
            }
        })
    }

    fn replay(&self, spec: PureSpec) -> Boxed<'_, Result<Replayed, Problem>> {
        Box::pin(async move {
            let (answer, mut receive) = self.ask(&Op::Replay(spec)).await?;
            let Answer::Replayed {
                outcome,
                remembered,
                log,
            } = answer
            else {
                return Err(unexpected());
            };
            let outcome = match *outcome {
                Ok(report) => {
                    let reading = frame::read_bytes(&mut receive, OUTPUT_BYTES);
                    Ok((report, within(OUTPUT, reading).await?))
                }
                Err(failure) => Err(failure),
            };
            Ok(Replayed {
                outcome,
                remembered: remembered.map(|report| *report),
                log: cut_lines(log),
            })
        })
    }

    fn recall<'a>(
        &'a self,
        keys: &'a [ResultKey],
        origins: &'a [String],
    ) -> Boxed<'a, Result<Vec<Option<PureReport>>, Problem>> {
        Box::pin(async move {
            let op = Op::Recall {
                keys: keys.to_vec(),
                origins: origins.to_vec(),
            };
            match self.ask(&op).await? {
                (Answer::Recalled(found), _) if found.len() == keys.len() => Ok(found),
                _ => Err(unexpected()),
            }
        })
    }

    fn output(&self, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
        Box::pin(async move { self.bytes(&Op::Output(key)).await })
    }

    fn written(&self, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>> {
        Box::pin(async move { self.bytes(&Op::Written(key)).await })
    }

    fn take(&self, key: ResultKey) -> Boxed<'_, Result<Option<Given>, Problem>> {
        Box::pin(async move {
            match self.ask(&Op::Take(key)).await? {
                (Answer::Taken(None), _) => Ok(None),
                (Answer::Taken(Some(report)), mut receive) => {
                    let output = within(OUTPUT, frame::read_bytes(&mut receive, OUTPUT_BYTES)).await?;
                    Ok(Some(Given { report, output }))
                }
                _ => Err(unexpected()),
            }
        })
    }

    fn give<'a>(&'a self, given: Given, origins: &'a [String]) -> Boxed<'a, Result<(), Problem>> {
        Box::pin(async move {
            let op = Op::Give {
                report: given.report,
                origins: origins.to_vec(),
            };
            let (mut send, mut receive) = self.open(&op).await?;
            within(OUTPUT, frame::write_bytes(&mut send, &given.output)).await?;
            let _ = send.finish();
            match within(ANSWER, frame::read(&mut receive, MESSAGE_BYTES)).await? {
                Answer::Done => Ok(()),
                Answer::Failed(problem) => Err(problem),
                _ => Err(unexpected()),
            }
        })
    }
}

/// A stream to a host, on which what is asked for was said.
pub(super) async fn open(peers: &Peers, host: NodeId, op: &Op) -> Result<(SendStream, RecvStream), Problem> {
    let (mut send, receive) = peers.open(host, CALL).await.map_err(unreachable)?;
    match tokio::time::timeout(ANSWER, frame::write(&mut send, op)).await {
        Ok(Ok(())) => Ok((send, receive)),
        Ok(Err(error)) => Err(unreachable(error)),
        Err(_) => Err(unreachable(format!(
            "the host read no question within {} s",
            ANSWER.as_secs()
        ))),
    }
}

/// HTTP/1.1 on such a stream, as long as the driver is there.
pub(super) async fn handshake(
    (send, receive): (SendStream, RecvStream),
) -> Result<(http1::SendRequest<Body>, Driver), Problem> {
    let io = TokioIo::new(tokio::io::join(receive, send));
    let (sender, connection) = http1::Builder::new()
        .max_headers(HEADER_FIELDS)
        .max_buf_size(limits::RESPONSE_HEADER_BYTES.max(limits::REQUEST_HEADER_BYTES) * 2)
        .handshake(io)
        .await
        .map_err(unreachable)?;
    let driver = Driver::new(tokio::spawn(async move {
        // What breaks it is told by the response or its body.
        let _ = connection.await;
    }));
    Ok((sender, driver))
}

/// A host that is there and does not go on is as good as lost.
async fn within<T>(patience: Duration, doing: impl Future<Output = io::Result<T>>) -> Result<T, Problem> {
    let done = tokio::time::timeout(patience, doing).await;
    let done = done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    done.map_err(lost)
}

/// The lines of one run, as many bytes of them as a host keeps of one.
fn cut_lines(lines: Vec<String>) -> Vec<String> {
    let mut left = limits::LOG_BYTES_PER_CALL;
    lines
        .into_iter()
        .map(|line| cut_string(limits::LOG_LINE_BYTES, line))
        .take_while(|line| {
            let fits = line.len() <= left;
            left = left.saturating_sub(line.len());
            fits
        })
        .take(limits::LOG_BYTES_PER_CALL / 2)
        .collect()
}

fn unexpected() -> Problem {
    Problem::new(
        ProblemKind::Internal,
        "the host sent a message that this build cannot decode",
    )
}

/// Asks for the report of a call that was sent, at the latest when nobody waits for its response any more.
struct ReportLater {
    peers: Peers,
    host: NodeId,
    id: CallId,
    patience: Duration,
    report: Option<OnReport>,
}

impl ReportLater {
    /// Passes the report on when it comes. Returns the problem that it names.
    fn ask(&mut self) -> oneshot::Receiver<Option<Problem>> {
        let (told, problem) = oneshot::channel();
        if let Some(report) = self.report.take() {
            let remote = RemoteHost::new(self.peers.clone(), self.host);
            let (id, patience) = (self.id, self.patience);
            tokio::spawn(async move {
                let ended: Option<CallReport> = match remote.ask_for(patience, &Op::Report(id)).await {
                    Ok((Answer::Report(ended), _)) => ended,
                    _ => None,
                };
                if let Some(ended) = ended {
                    let _ = told.send(ended.problem.clone());
                    report(ended);
                }
            });
        }
        problem
    }
}

impl Drop for ReportLater {
    fn drop(&mut self) {
        self.ask();
    }
}

/// Drives a connection until nobody wants it.
pub(super) struct Driver(JoinHandle<()>);

impl Driver {
    pub fn new(driving: JoinHandle<()>) -> Self {
        Driver(driving)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
