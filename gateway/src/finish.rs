//! A response that outlived its reading ahead: streamed, bounded, with fuel and timing as trailers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame};
use nearfield_protocol::{Problem, ProblemKind, limits};
use tokio::sync::oneshot;

use crate::body::DeclaredBody;
use crate::booking::Cost;
use crate::own_fields::set_cost;

/// The body of such a response.
pub struct FinishingBody {
    held: VecDeque<Bytes>,
    rest: Option<DeclaredBody>,
    left_bytes: u64,
    trailers: HeaderMap,
    /// Taken when it has come.
    report: Option<oneshot::Receiver<Cost>>,
    /// Why the response breaks off, until the client has what came before: hyper drops a connection whose body fails, and with it
    /// a head that was not sent yet.
    broken: Option<Problem>,
}

impl FinishingBody {
    pub fn new(held: VecDeque<Bytes>, rest: DeclaredBody, report: oneshot::Receiver<Cost>) -> Self {
        FinishingBody {
            held,
            rest: Some(rest),
            left_bytes: limits::RESPONSE_BODY_BYTES,
            trailers: HeaderMap::new(),
            report: Some(report),
            broken: None,
        }
    }

    fn take(&mut self, data: Bytes) -> Result<Frame<Bytes>, Problem> {
        match self.left_bytes.checked_sub(data.len() as u64) {
            Some(left) => {
                self.left_bytes = left;
                Ok(Frame::data(data))
            }
            None => {
                self.rest = None;
                Err(
                    Problem::new(ProblemKind::BadResponse, "the response body is too large")
                        .with_limit(format!("response body = {} bytes", limits::RESPONSE_BODY_BYTES)),
                )
            }
        }
    }
}

impl http_body::Body for FinishingBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        if let Some(problem) = self.broken.take() {
            return Poll::Ready(Some(Err(problem)));
        }
        match ready!(self.poll_next(cx)) {
            Some(Err(problem)) => {
                // A body that is not ready has hyper send what it was given.
                self.broken = Some(problem);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => Poll::Ready(frame),
        }
    }
}

impl FinishingBody {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = self;
        if let Some(data) = this.held.pop_front() {
            return Poll::Ready(Some(this.take(data)));
        }
        while let Some(rest) = &mut this.rest {
            match ready!(Pin::new(rest).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Poll::Ready(Some(this.take(data))),
                    Err(frame) => this.trailers.extend(frame.into_trailers().unwrap_or_default()),
                },
                Some(Err(problem)) => {
                    this.rest = None;
                    return Poll::Ready(Some(Err(problem)));
                }
                None => this.rest = None,
            }
        }
        let Some(report) = &mut this.report else {
            return Poll::Ready(None);
        };
        let report = ready!(Pin::new(report).poll(cx));
        this.report = None;
        let mut trailers = std::mem::take(&mut this.trailers);
        if let Ok(cost) = report {
            set_cost(&mut trailers, cost);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};

    use http_body_util::{BodyExt, StreamBody};
    use nearfield_protocol::Digest;
    use nearfield_protocol::manifest::FunctionManifest;
    use nearfield_protocol::records::FunctionVersion;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_came_before_a_response_breaks_off_is_sent_first() {
        let function = FunctionVersion {
            name: "f".parse().unwrap(),
            version: 1,
            component: Digest::of(b"component"),
            manifest: FunctionManifest::default(),
            deployed_unix_ms: 0,
            rolled_back_to: None,
        };
        let trapped = Problem::new(ProblemKind::Trap, "trapped");
        let rest = StreamBody::new(futures_util::stream::iter([Err(trapped.clone())])).boxed_unsync();
        let rest = DeclaredBody::new(rest, Arc::new(function), None, Arc::default());
        let (_cost, report) = oneshot::channel();
        let mut body = FinishingBody::new([Bytes::from_static(b"some")].into(), rest, report);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut poll = || Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker));
        let some = poll().map(|frame| frame.unwrap().unwrap().into_data().unwrap());
        assert_eq!(some, Poll::Ready(Bytes::from_static(b"some")));
        assert!(poll().is_pending() && woken.0.load(Ordering::Relaxed));
        let Poll::Ready(Some(Err(problem))) = poll() else {
            panic!("it goes on")
        };
        assert_eq!(problem, trapped);
    }
}
