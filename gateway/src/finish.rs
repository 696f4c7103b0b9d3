//! A response that outlived its reading ahead: streamed, bounded, with fuel and timing as trailers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
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
}

impl FinishingBody {
    pub fn new(held: VecDeque<Bytes>, rest: DeclaredBody, report: oneshot::Receiver<Cost>) -> Self {
        FinishingBody {
            held,
            rest: Some(rest),
            left_bytes: limits::RESPONSE_BODY_BYTES,
            trailers: HeaderMap::new(),
            report: Some(report),
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
        let Some(report) = &mut this.report else {
            return Poll::Ready(None);
        };
        let report = ready!(Pin::new(report).poll(cx));
        this.report = None;
        let mut trailers = std::mem::take(&mut this.trailers);
        if let Ok(cost) = report {
            set_cost(&mut trailers, &cost);
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
