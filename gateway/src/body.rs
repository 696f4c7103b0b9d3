//! Bodies as they cross the gateway, with their bounds. What they are all made of is `nearfield_cluster::body`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nearfield_protocol::http::{DeclaredLength, LengthFault};
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{Problem, ProblemKind, limits};
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use crate::heads;

pub use nearfield_cluster::body::{Body, empty, full};

/// A body of up to so many bytes is expected soon after its head.
const EXPECTED_BYTES: u64 = 64 << 10;

/// What a client did wrong with its body, told to whoever answers it.
#[derive(Clone, Default)]
pub struct BodyFault(Arc<OnceLock<Problem>>);

impl BodyFault {
    /// The problem to answer with instead of what the function made of a broken body.
    pub fn problem(&self) -> Option<Problem> {
        self.0.get().cloned()
    }
}

fn too_slow(idle: Duration) -> Problem {
    Problem::new(
        ProblemKind::RequestTimeout,
        "the request body stood still for too long",
    )
    .with_limit(format!("body idle = {} s", idle.as_secs()))
}

pub(crate) fn broken(error: &hyper::Error) -> Problem {
    Problem::new(
        ProblemKind::BadRequest,
        format!("the request body broke off: {error}"),
    )
}

fn wrong_length(fault: LengthFault) -> Problem {
    Problem::new(
        ProblemKind::BadRequest,
        format!("the request's body is not what its head says: it {fault}"),
    )
}

pub fn too_large() -> Problem {
    Problem::new(
        ProblemKind::BodyTooLarge,
        "the request body is too large; put large data as a dataset",
    )
    .with_limit(format!("request body = {} bytes", limits::REQUEST_BODY_BYTES))
}

/// A client's body: at most `max_bytes`, as long as its head says, and never still for longer than [`limits::BODY_IDLE`].
pub struct BoundedBody {
    inner: Incoming,
    left_bytes: u64,
    length: Option<DeclaredLength>,
    fault: BodyFault,
    /// Somebody has asked for it, and with that the client to send it.
    begun: bool,
    /// Made when the body first has to be waited for.
    idle: Option<Pin<Box<Sleep>>>,
}

impl BoundedBody {
    pub fn new(inner: Incoming, max_bytes: u64, fault: BodyFault) -> Self {
        BoundedBody {
            inner,
            left_bytes: max_bytes,
            length: None,
            fault,
            begun: false,
            idle: None,
        }
    }

    /// Holds it to what its head says of its length.
    pub fn declared(mut self, length: Option<DeclaredLength>) -> Self {
        self.length = length;
        self
    }

    /// The body once it has begun: a request whose body does not come must not hold a place meanwhile. One that is
    /// declared long begins when its function asks for it, because the function may answer without it.
    pub async fn begun(mut self) -> Result<Body, Problem> {
        if self
            .length
            .is_some_and(|length| length.declared() > EXPECTED_BYTES)
        {
            return Ok(self.boxed_unsync());
        }
        let first = tokio::time::timeout(limits::HEADER_TIMEOUT, self.frame()).await;
        match first.unwrap_or_else(|_| Some(Err(too_slow(limits::HEADER_TIMEOUT)))) {
            None => Ok(empty()),
            Some(Err(problem)) => Err(problem),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Ok(resumed(VecDeque::from([data]), self.boxed_unsync())),
                Err(frame) => Ok(buffered(VecDeque::new(), frame.into_trailers().ok())),
            },
        }
    }

    /// Takes what a client still sends after it was refused, for a while, and reads none of it: a
    /// client that is cut off while it sends does not get to see its answer.
    pub fn discard(mut self, runtime: &Handle) {
        if !self.begun || http_body::Body::is_end_stream(&self.inner) {
            return;
        }
        runtime.spawn(async move {
            let rest = async { while let Some(Ok(_)) = self.inner.frame().await {} };
            // However that ended, nobody waits for it.
            let _ = tokio::time::timeout(limits::BODY_IDLE, rest).await;
        });
    }

    fn fail(&self, problem: Problem) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        // The first fault is the cause of any other.
        let _ = self.fault.0.set(problem.clone());
        Poll::Ready(Some(Err(problem)))
    }
}

impl http_body::Body for BoundedBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        self.begun = true;
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.idle = None;
                match frame {
                    Some(Ok(mut frame)) => {
                        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                        match self.left_bytes.checked_sub(bytes) {
                            Some(left) => self.left_bytes = left,
                            None => return self.fail(too_large()),
                        }
                        if let Some(Err(fault)) = self.length.as_mut().map(|length| length.take(bytes)) {
                            return self.fail(wrong_length(fault));
                        }
                        if let Some(trailers) = frame.trailers_mut() {
                            heads::clean_trailers(trailers);
                        }
                        Poll::Ready(Some(Ok(frame)))
                    }
                    Some(Err(error)) => self.fail(broken(&error)),
                    None => match self.length.map_or(Ok(()), |length| length.end()) {
                        Ok(()) => Poll::Ready(None),
                        Err(fault) => self.fail(wrong_length(fault)),
                    },
                }
            }
            Poll::Pending => {
                let idle = self
                    .idle
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::BODY_IDLE)));
                ready!(idle.as_mut().poll(cx));
                self.fail(too_slow(limits::BODY_IDLE))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// A function's body as a gateway takes it from a host, which may be another's: as long as its head says, and with
/// trailers that are the function's to say.
pub struct DeclaredBody {
    inner: Body,
    function: Arc<FunctionVersion>,
    length: Option<DeclaredLength>,
    /// Why the gateway answers something else, for whoever books the call.
    refused: Arc<OnceLock<Problem>>,
}

impl DeclaredBody {
    pub fn new(
        inner: Body,
        function: Arc<FunctionVersion>,
        length: Option<DeclaredLength>,
        refused: Arc<OnceLock<Problem>>,
    ) -> Self {
        DeclaredBody {
            inner,
            function,
            length,
            refused,
        }
    }

    fn refuse(&mut self, fault: LengthFault) -> Problem {
        let problem = fault.of_function(&self.function.name);
        // The first fault is the cause of any other.
        let _ = self.refused.set(problem.clone());
        self.inner = empty();
        self.length = None;
        problem
    }
}

impl http_body::Body for DeclaredBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = &mut *self;
        let mut frame = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(problem)) => return Poll::Ready(Some(Err(problem))),
            None => {
                let ended = this.length.map_or(Ok(()), |length| length.end());
                return Poll::Ready(ended.err().map(|fault| Err(this.refuse(fault))));
            }
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        if let Some(Err(fault)) = this.length.as_mut().map(|length| length.take(bytes)) {
            return Poll::Ready(Some(Err(this.refuse(fault))));
        }
        if let Some(trailers) = frame.trailers_mut() {
            heads::clean_trailers(trailers);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() && self.length.is_none_or(|length| length.end().is_ok())
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The start of a body, read ahead.
pub struct HeldFrames {
    pub frames: VecDeque<Bytes>,
    /// How the reading ahead stopped.
    pub end: HeldEnd,
}

pub enum HeldEnd {
    /// The body ended, with these trailers.
    Ended(Option<http::HeaderMap>),
    /// It failed before anything was sent.
    Failed(Problem),
    /// There is more.
    More,
}

/// Reads ahead up to [`limits::RESPONSE_HELD_BYTES`], and no longer than until `patience` has passed
/// without a frame: a slow stream must not wait for its buffer to fill.
pub async fn hold<B>(body: &mut B, patience: std::time::Duration) -> HeldFrames
where
    B: http_body::Body<Data = Bytes, Error = Problem> + Unpin,
{
    let (mut frames, mut held_bytes, mut trailers) = (VecDeque::new(), 0, None);
    let deadline = Instant::now() + patience;
    let end = loop {
        // Most answers are there at once: only a pending body needs the timer.
        let next = match futures_util::FutureExt::now_or_never(body.frame()) {
            Some(frame) => frame,
            None => match tokio::time::timeout_at(deadline, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => break HeldEnd::More,
            },
        };
        match next {
            None => break HeldEnd::Ended(trailers),
            Some(Err(problem)) => break HeldEnd::Failed(problem),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    held_bytes += data.len();
                    if !data.is_empty() {
                        frames.push_back(data);
                    }
                    if held_bytes >= limits::RESPONSE_HELD_BYTES {
                        break HeldEnd::More;
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    };
    HeldFrames { frames, end }
}

/// A body of frames that are all there, its length known, with trailers if there are any.
pub fn buffered(frames: VecDeque<Bytes>, trailers: Option<http::HeaderMap>) -> Body {
    let body = Buffered { frames };
    match trailers {
        Some(trailers) => body
            .with_trailers(std::future::ready(Some(Ok(trailers))))
            .boxed_unsync(),
        None => body.boxed_unsync(),
    }
}

/// Reads a body to its end for the sake of whoever makes it, and keeps nothing. Why it failed, if it did.
pub async fn drain<B>(body: &mut B) -> Result<(), Problem>
where
    B: http_body::Body<Data = Bytes, Error = Problem> + Unpin,
{
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

struct Buffered {
    frames: VecDeque<Bytes>,
}

impl http_body::Body for Buffered {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        Poll::Ready(self.frames.pop_front().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.frames.iter().map(|data| data.len() as u64).sum())
    }
}

/// A body of which `frames` were read ahead.
pub fn resumed(frames: VecDeque<Bytes>, rest: Body) -> Body {
    Resumed { frames, rest }.boxed_unsync()
}

struct Resumed {
    frames: VecDeque<Bytes>,
    rest: Body,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        match self.frames.pop_front() {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.frames.iter().map(|data| data.len() as u64).sum();
        after(held, &self.rest.size_hint())
    }
}

/// The size of a body of which so many bytes come before the rest.
pub(crate) fn after(held_bytes: u64, rest: &SizeHint) -> SizeHint {
    let mut hint = SizeHint::new();
    hint.set_lower(held_bytes + rest.lower());
    if let Some(upper) = rest.upper() {
        hint.set_upper(held_bytes + upper);
    }
    hint
}
