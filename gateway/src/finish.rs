//! A response that outlived its reading ahead: streamed, bounded, with fuel and timing as trailers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use nearfield_protocol::call::CallReport;
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{CallId, NodeId, Problem, ProblemKind, limits};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::auth::Caller;
use crate::body::Body;
use crate::calls::Placement;
use crate::functions::{FUEL, SERVER_TIMING, lost_report, server_timing};
use crate::metrics::FunctionMetrics;
use crate::server::Gateway;

/// A call that still has to be booked.
pub struct Unfinished {
    pub gateway: Arc<Gateway>,
    pub metrics: Arc<FunctionMetrics>,
    pub id: CallId,
    pub function: Arc<FunctionVersion>,
    pub host: NodeId,
    pub placement: Arc<Placement>,
    pub caller: Caller,
    pub started: Instant,
    pub started_unix_ms: u64,
    /// The response's status, once it is known.
    pub status: u16,
    /// The call's place among its function's, held until it is booked.
    pub _place: OwnedSemaphorePermit,
}

/// The body of such a response. Dropped early, it has the call booked once its host reports.
pub struct FinishingBody {
    held: VecDeque<Bytes>,
    rest: Option<Body>,
    left_bytes: u64,
    trailers: HeaderMap,
    /// Taken when the call is booked.
    booking: Option<(oneshot::Receiver<CallReport>, Unfinished)>,
}

impl FinishingBody {
    pub fn new(
        held: VecDeque<Bytes>,
        rest: Body,
        report: oneshot::Receiver<CallReport>,
        unfinished: Unfinished,
    ) -> Self {
        FinishingBody {
            held,
            rest: Some(rest),
            left_bytes: limits::RESPONSE_BODY_BYTES,
            trailers: HeaderMap::new(),
            booking: Some((report, unfinished)),
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
        let this = &mut *self;
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
        let Some((report, _)) = &mut this.booking else {
            return Poll::Ready(None);
        };
        let report = ready!(Pin::new(report).poll(cx)).unwrap_or_else(|_| lost_report());
        let mut trailers = std::mem::take(&mut this.trailers);
        trailers.insert(FUEL, HeaderValue::from(report.fuel));
        trailers.insert(SERVER_TIMING, server_timing(&report.stages));
        if let Some((_, unfinished)) = this.booking.take() {
            unfinished.done(report);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Drop for FinishingBody {
    fn drop(&mut self) {
        // Dropping the rest first tells the host that nobody listens any more.
        self.rest = None;
        if let Some((report, unfinished)) = self.booking.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move { unfinished.done(report.await.unwrap_or_else(|_| lost_report())) });
        }
    }
}
