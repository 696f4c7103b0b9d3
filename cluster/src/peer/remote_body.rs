//! A response's body on its way from another node's host.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use nearfield_protocol::Problem;
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::client::Driver;
use crate::problem::lost;

/// How long a host is asked why a response broke off.
const WHY: Duration = Duration::from_millis(500);

/// A response's body as it comes from another node. If it breaks off, its end says why, as far as the host can tell.
pub(super) struct RemoteBody<B = Incoming> {
    incoming: B,
    problem: oneshot::Receiver<Option<Problem>>,
    /// How long the host may send nothing.
    patience: Duration,
    /// Runs while it sends nothing.
    silent: Option<Pin<Box<Sleep>>>,
    /// Set once it has broken off, with how: until then the host is asked why.
    ended: Option<(io::Error, Pin<Box<Sleep>>)>,
    _driver: Driver,
}

impl<B> RemoteBody<B> {
    /// `problem` comes when the call has ended: none if it ended well. The host is lost if nothing comes for `patience`.
    pub fn new(
        incoming: B,
        problem: oneshot::Receiver<Option<Problem>>,
        patience: Duration,
        driver: Driver,
    ) -> Self {
        RemoteBody {
            incoming,
            problem,
            patience,
            silent: None,
            ended: None,
            _driver: driver,
        }
    }
}

impl<B> http_body::Body for RemoteBody<B>
where
    B: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Unpin,
{
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = &mut *self;
        if this.ended.is_none() {
            let how = match Pin::new(&mut this.incoming).poll_frame(context) {
                Poll::Ready(Some(Err(error))) => io::Error::other(error),
                Poll::Ready(frame) => {
                    this.silent = None;
                    return Poll::Ready(frame.map(|frame| frame.map_err(lost)));
                }
                Poll::Pending => {
                    let patience = this.patience;
                    let silent = this.silent.get_or_insert_with(|| Box::pin(sleep(patience)));
                    ready!(silent.as_mut().poll(context));
                    let text = format!("it sent nothing for {} s", patience.as_secs());
                    io::Error::new(io::ErrorKind::TimedOut, text)
                }
            };
            this.ended = Some((how, Box::pin(sleep(WHY))));
        }
        let Some((how, patience)) = &mut this.ended else {
            return Poll::Ready(None);
        };
        let told = match Pin::new(&mut this.problem).poll(context) {
            Poll::Ready(told) => told.ok().flatten(),
            Poll::Pending => {
                ready!(patience.as_mut().poll(context));
                None
            }
        };
        Poll::Ready(Some(Err(told.unwrap_or_else(|| lost(&*how)))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::{BodyExt, StreamBody};
    use nearfield_protocol::ProblemKind;
    use tokio::time::Instant;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(40);

    type Piece = (Duration, Result<&'static str, io::Error>);

    /// A body whose pieces come so long after each other, and then nothing, with the sender of what its call came to.
    fn body(
        pieces: impl IntoIterator<Item = Piece>,
    ) -> (
        RemoteBody<impl http_body::Body<Data = Bytes, Error = io::Error> + Unpin>,
        oneshot::Sender<Option<Problem>>,
    ) {
        let pieces: VecDeque<Piece> = pieces.into_iter().collect();
        let frames = futures_util::stream::unfold(pieces, |mut pieces| async {
            let (after, piece) = match pieces.pop_front() {
                Some(next) => next,
                None => std::future::pending().await,
            };
            sleep(after).await;
            Some((piece.map(|text| Frame::data(Bytes::from(text))), pieces))
        });
        let (tell, problem) = oneshot::channel();
        let driver = Driver::new(tokio::spawn(std::future::pending()));
        let incoming = StreamBody::new(Box::pin(frames));
        (RemoteBody::new(incoming, problem, PATIENCE, driver), tell)
    }

    fn broken() -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionReset, "the stream was reset")
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_sends_nothing_is_lost_and_each_piece_begins_its_time_anew() {
        let almost = PATIENCE - Duration::from_secs(1);
        let (mut body, _call) = body([(almost, Ok("a")), (almost, Ok("b"))]);
        let begun = Instant::now();
        for piece in ["a", "b"] {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        let problem = body.frame().await.unwrap().unwrap_err();
        assert_eq!(problem.kind, ProblemKind::HostLost);
        assert!(problem.detail.contains("nothing for 40 s"), "{problem}");
        assert_eq!(begun.elapsed().as_secs(), (almost * 2 + PATIENCE + WHY).as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn what_breaks_off_has_the_reason_that_its_host_gives_in_time() {
        let trapped = Problem::new(ProblemKind::Trap, "it trapped");
        for (after, told, expected) in [
            (WHY / 2, Some(trapped.clone()), ProblemKind::Trap),
            (WHY * 2, Some(trapped), ProblemKind::HostLost),
            // It ended well there, so what came between lost it.
            (WHY / 2, None, ProblemKind::HostLost),
        ] {
            let (mut body, call) = body([(Duration::ZERO, Err(broken()))]);
            tokio::spawn(async move {
                sleep(after).await;
                let _ = call.send(told);
            });
            let problem = body.frame().await.unwrap().unwrap_err();
            assert_eq!(problem.kind, expected, "{problem}");
        }
        // Nobody tells any more.
        let (mut body, call) = body([(Duration::ZERO, Err(broken()))]);
        drop(call);
        let begun = Instant::now();
        let problem = body.frame().await.unwrap().unwrap_err();
        assert!(problem.detail.contains("reset"), "{problem}");
        assert!(begun.elapsed() < WHY);
    }
}
