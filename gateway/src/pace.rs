//! Streams of HTTP/2 whose client must take what it is sent.
//!
//! A client that gives a stream no window stops it without stopping its connection, so no write waits and no clock of the
//! connection runs: hyper just asks the body for nothing more. Here each response notes when its last piece was taken from
//! it, and the future that sends it ends, and with it the stream, if no piece was for [`limits::BODY_IDLE`].

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::rt::Executor;
use nearfield_protocol::{Problem, limits};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use crate::body::{Body, after};

/// Longest piece: what a client must take in [`limits::BODY_IDLE`], so that only one that means to hold its call is let go.
const PIECE_BYTES: usize = 16 << 10;
/// Longest last piece of a frame, since any may be the last of its body. hyper takes a piece whole once the stream's window has a
/// byte, and then lets go of a body that has ended: this much lies at the gateway when nothing holds places for it any more.
const LAST_PIECE_BYTES: usize = 1 << 10;

thread_local! {
    /// The clock of the stream that is being polled on this thread, for the body that is made meanwhile.
    static CURRENT: RefCell<Option<Arc<Clock>>> = const { RefCell::new(None) };
}

/// When the last piece of a stream's response was handed out, while it is on its way. The lock is never contended: a stream
/// is one task.
#[derive(Default)]
struct Clock(Mutex<Option<Instant>>);

impl Clock {
    fn set(&self, at: Option<Instant>) {
        *self.0.lock() = at;
    }

    fn since(&self) -> Option<Instant> {
        *self.0.lock()
    }
}

/// Runs the streams of one connection, each as a task, until its client takes nothing more.
#[derive(Clone)]
pub struct PacedStreams;

impl<F> Executor<F> for PacedStreams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Paced {
            stream: Box::pin(stream),
            clock: Arc::default(),
            patience: None,
        });
    }
}

/// One stream: its service, then its response on the way out.
struct Paced<F> {
    stream: Pin<Box<F>>,
    clock: Arc<Clock>,
    /// Runs out when the piece on its way has waited too long.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Paced<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let outer = CURRENT.replace(Some(this.clock.clone()));
        let polled = this.stream.as_mut().poll(cx);
        CURRENT.set(outer);
        if polled.is_ready() {
            return Poll::Ready(());
        }
        let Some(since) = this.clock.since() else {
            this.patience = None;
            return Poll::Pending;
        };
        let end = since + limits::BODY_IDLE;
        let patience = this
            .patience
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if patience.deadline() != end {
            patience.as_mut().reset(end);
        }
        ready!(patience.as_mut().poll(cx));
        tracing::debug!("a stream ends, because its client takes nothing of it");
        Poll::Ready(())
    }
}

/// A response's body that tells the clock of its stream when pieces of it are taken. As it is where there is none.
pub fn paced(body: Body) -> Body {
    match CURRENT.with_borrow(Option::clone) {
        Some(clock) if !body.is_end_stream() => PacedBody {
            body,
            left: Bytes::new(),
            clock,
        }
        .boxed_unsync(),
        _ => body,
    }
}

struct PacedBody {
    body: Body,
    /// Of a long frame, what comes with the next pieces.
    left: Bytes,
    clock: Arc<Clock>,
}

impl PacedBody {
    fn piece(&mut self, mut data: Bytes) -> Frame<Bytes> {
        let piece = data.split_to(match data.len() {
            len if len > PIECE_BYTES => PIECE_BYTES,
            len if len > LAST_PIECE_BYTES => len - LAST_PIECE_BYTES,
            len => len,
        });
        self.left = data;
        self.clock.set(Some(Instant::now()));
        Frame::data(piece)
    }
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = &mut *self;
        if !this.left.is_empty() {
            let left = std::mem::take(&mut this.left);
            return Poll::Ready(Some(Ok(this.piece(left))));
        }
        // Whoever asks has sent all there was: now the body is waited for, and not the client.
        this.clock.set(None);
        match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => this.piece(data),
                Err(frame) => frame,
            }))),
            ended => Poll::Ready(ended),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        after(self.left.len() as u64, &self.body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::client::conn::http2 as client;
    use hyper::server::conn::http2 as server;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
    use tokio::sync::mpsc;

    use super::*;
    use crate::body;

    const BODY_BYTES: usize = 1 << 20;
    const WINDOW_BYTES: u32 = 64 << 10;
    const NO_WINDOW_BYTES: u32 = 1;

    /// A body that tells when it is let go of, and perhaps that it has ended.
    struct Told(
        Body,
        bool,
        #[expect(dead_code, reason = "dropped with it")] mpsc::Sender<Infallible>,
    );

    impl http_body::Body for Told {
        type Data = Bytes;
        type Error = Problem;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn is_end_stream(&self) -> bool {
            self.1 && self.0.is_end_stream()
        }
    }

    /// The response's body over a connection of its own, and what ends once the server let go of it.
    async fn asked(
        body_bytes: usize,
        window_bytes: u32,
        knows_its_end: bool,
    ) -> (hyper::body::Incoming, mpsc::Receiver<Infallible>) {
        let (near, far) = tokio::io::duplex(4 << 20);
        let (held, released) = mpsc::channel(1);
        let held = Mutex::new(Some(held));
        let service = service_fn(move |_: Request<hyper::body::Incoming>| {
            let held = held.lock().take().unwrap();
            async move {
                let body = Told(body::full(vec![7; body_bytes]), knows_its_end, held).boxed_unsync();
                Ok::<_, Infallible>(Response::new(paced(body)))
            }
        });
        tokio::spawn(
            server::Builder::new(PacedStreams)
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(far), service),
        );
        let (mut sender, connection) = client::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window_bytes)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(near))
            .await
            .unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(Request::new(Empty::new())).await.unwrap();
        // The connection lives as long as its sender, and a client that stalls one stream keeps it.
        tokio::spawn(async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        });
        (response.into_body(), released)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_window_ends_and_a_slow_one_goes_on() {
        let (stalled, mut released) = asked(BODY_BYTES, WINDOW_BYTES, true).await;
        let began = Instant::now();
        assert!(released.recv().await.is_none());
        let took = began.elapsed();
        assert!(
            took >= limits::BODY_IDLE && took < limits::BODY_IDLE * 2,
            "{took:?}"
        );
        let read = stalled.collect().await;
        assert!(read.is_err(), "what ends so is never taken for complete");

        let (mut slow, _released) = asked(BODY_BYTES, WINDOW_BYTES, true).await;
        let mut read = 0;
        while let Some(frame) = slow.frame().await {
            read += frame.unwrap().into_data().map_or(0, |data| data.len());
            tokio::time::sleep(limits::BODY_IDLE / 3).await;
        }
        assert_eq!(read, BODY_BYTES);
    }

    /// hyper takes a piece once a stream has a window of a byte. What is longer than a last piece is held until it is taken.
    #[tokio::test(start_paused = true)]
    async fn a_window_of_a_byte_lets_go_of_short_bodies_alone() {
        for (body_bytes, is_held) in [
            (LAST_PIECE_BYTES, false),
            (LAST_PIECE_BYTES + 2, true),
            (PIECE_BYTES, true),
            (PIECE_BYTES + 1, true),
        ] {
            for knows_its_end in [false, true] {
                let (_untaken, mut released) = asked(body_bytes, NO_WINDOW_BYTES, knows_its_end).await;
                let began = Instant::now();
                assert!(released.recv().await.is_none());
                let was_held = began.elapsed() >= limits::BODY_IDLE;
                assert_eq!(was_held, is_held, "{body_bytes} bytes, {knows_its_end}");
                let (taken, _released) = asked(body_bytes, WINDOW_BYTES, knows_its_end).await;
                assert_eq!(taken.collect().await.unwrap().to_bytes().len(), body_bytes);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_waits_for_its_maker_is_no_client_s_fault() {
        let (send, frames) = mpsc::channel(1);
        let clock = Arc::new(Clock::default());
        CURRENT.set(Some(clock.clone()));
        let frames = futures_util::stream::unfold(frames, |mut frames: mpsc::Receiver<Bytes>| async {
            let data = frames.recv().await?;
            Some((Ok(Frame::data(data)), frames))
        });
        let mut body = paced(http_body_util::StreamBody::new(frames).boxed_unsync());
        CURRENT.set(None);
        send.send(Bytes::from(vec![1; PIECE_BYTES + 1])).await.unwrap();
        for bytes in [PIECE_BYTES, 1] {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!((piece.len(), clock.since().is_some()), (bytes, true));
        }
        let waiting = tokio::time::timeout(Duration::from_secs(100), body.frame()).await;
        assert!(waiting.is_err() && clock.since().is_none());
    }
}
