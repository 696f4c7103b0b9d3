//! A response's body on its way out of the host: counted, held to its declared length, and whole only if its call was.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use nearfield_protocol::http::DeclaredLength;
use nearfield_protocol::{FunctionName, Problem, ProblemKind, limits, said};
use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error as WasiError, WasiBody};

use crate::closing::Closing;
use crate::instances::drop_reserved;
use crate::shared::{ResponseOutcome, Shared};

/// The response's side of a call. Dropped before the end: the client is gone.
pub(crate) struct Reader(pub Arc<Shared>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.settle(ResponseOutcome::Unwanted);
    }
}

/// Who knows how the call ends.
pub(crate) enum End {
    /// The guest has ended; nothing is left but to report it.
    Here(Closing),
    /// A task, which tells.
    Task(oneshot::Receiver<Option<Problem>>),
    Told,
}

impl End {
    /// A long response may be read slowly: its call is then closed by a task, in its own time.
    fn hand_over(&mut self, shared: &Shared) {
        let sent = shared.response_bytes.load(Ordering::Relaxed);
        if sent <= limits::RESPONSE_HELD_BYTES as u64 || !matches!(self, End::Here(_)) {
            return;
        }
        let (tell, told) = oneshot::channel();
        if let End::Here(closing) = std::mem::replace(self, End::Task(told)) {
            tokio::spawn(async move {
                // Nobody may be waiting any more.
                let _ = tell.send(closing.close_when_read().await);
            });
        }
    }

    /// Why the call failed, if it did. Asked once the response has been read.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Problem>> {
        let problem = match self {
            End::Task(told) => match ready!(Pin::new(told).poll(cx)) {
                Ok(problem) => problem,
                Err(_) => Some(Problem::new(ProblemKind::Internal, "the call's task is gone")),
            },
            End::Told => None,
            End::Here(_) => match std::mem::replace(self, End::Told) {
                End::Here(closing) => closing.close(true),
                End::Task(_) | End::Told => None,
            },
        };
        *self = End::Told;
        Poll::Ready(problem)
    }
}

/// A response's body. It ends well only if the call did, and if it is as long as its head says; dropping it stops the guest.
pub struct GuestBody {
    pub(crate) function: FunctionName,
    /// `None` once it has ended.
    pub(crate) inner: Option<WasiBody>,
    /// The answer is complete without it: a length that it does not keep to is none of its own (RFC 9110 §8.6).
    pub(crate) contentless: bool,
    /// What the head says of its length.
    pub(crate) length: Option<DeclaredLength>,
    /// The frame that completes the declared length: with it the client takes the response for whole,
    /// so it waits until the body has ended there and the call is known to have ended well.
    pub(crate) last: Option<Frame<Bytes>>,
    /// What came after that frame.
    pub(crate) trailers: Option<Frame<Bytes>>,
    pub(crate) reader: Reader,
    pub(crate) end: End,
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Problem;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Problem>>> {
        let this = &mut *self;
        if let Some(frame) = ready!(this.poll_guest(cx)) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if matches!(this.end, End::Told) {
            return Poll::Ready(this.trailers.take().map(Ok));
        }
        let problem = ready!(this.end.poll(cx));
        this.inner = None;
        match (problem, this.last.take()) {
            (Some(problem), _) => {
                this.trailers = None;
                Poll::Ready(Some(Err(problem)))
            }
            (None, Some(last)) => Poll::Ready(Some(Ok(last))),
            (None, None) => Poll::Ready(this.trailers.take().map(Ok)),
        }
    }
}

impl GuestBody {
    /// The guest's next frame that may be passed on, or none once it has no more and its call's end decides.
    fn poll_guest(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        while let Some(inner) = &mut self.inner {
            // Looked at first: what comes after that look may be the guest's last.
            let ended = self.last.is_some() && self.reader.0.guest_ended(cx);
            match Pin::new(inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    if let Some(frame) = self.pass(frame) {
                        return Poll::Ready(Some(frame));
                    }
                }
                // Whatever broke the body off, the call's end knows the cause better, and tells it to whoever asks.
                Poll::Ready(Some(Err(error))) => {
                    let fault = self.too_short().unwrap_or_else(|| broken(&error));
                    self.read_whole(Some(fault));
                }
                Poll::Ready(None) => self.read_whole(self.too_short()),
                // A reused guest may keep its whole body open.
                Poll::Pending if ended => self.read_whole(None),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(None)
    }

    /// Counts a frame and holds it to the declared length. The frame, if it may go on now.
    fn pass(&mut self, mut frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        if let Some(trailers) = frame.trailers_mut() {
            drop_reserved(trailers);
            // They wait with the last bytes, if those wait.
            if self.last.is_some() {
                self.trailers = Some(frame);
                return None;
            }
            return Some(frame);
        }
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let counts = &self.reader.0;
        counts.response_bytes.fetch_add(bytes, Ordering::Relaxed);
        match self.length.as_mut().map(|length| length.take(bytes)) {
            Some(Err(fault)) => {
                // Whatever else the guest does, its response is none.
                let _ = self.reader.0.broken.set(fault.of_function(&self.function));
                self.inner = None;
                self.reader.0.settle(ResponseOutcome::Unwanted);
                None
            }
            Some(Ok(true)) => {
                // Empty frames may follow the last one.
                self.last.get_or_insert(frame);
                None
            }
            Some(Ok(false)) | None => {
                self.end.hand_over(&self.reader.0);
                Some(frame)
            }
        }
    }

    /// What is wrong with a body that ends here.
    fn too_short(&self) -> Option<Problem> {
        let fault = self.length?.end().err()?;
        Some(fault.of_function(&self.function))
    }

    /// There is no more of the body. `fault` is what is wrong with it; the guest goes on, and may fail for a better reason.
    fn read_whole(&mut self, fault: Option<Problem>) {
        if let Some(fault) = fault.filter(|_| !self.contentless) {
            // The first fault is the cause of any other.
            let _ = self.reader.0.broken.set(fault);
        }
        self.inner = None;
        self.reader.0.settle(ResponseOutcome::Read);
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if let End::Here(closing) = std::mem::replace(&mut self.end, End::Told) {
            closing.close(false);
        }
    }
}

fn broken(error: &WasiError) -> Problem {
    Problem::new(
        ProblemKind::BadResponse,
        format!("the response broke off: {}", said(format_args!("{error:?}"))),
    )
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    use super::*;

    /// A body whose guest and whose call the test ends, and what both know of each other.
    struct Rig {
        body: GuestBody,
        frames: mpsc::UnboundedSender<Result<Frame<Bytes>, WasiError>>,
        told: Option<oneshot::Sender<Option<Problem>>>,
        shared: Arc<Shared>,
    }

    fn rig(length: Option<&str>, contentless: bool) -> Rig {
        let (frames, mut coming) = mpsc::unbounded_channel();
        let (tell, told) = oneshot::channel();
        let shared = Arc::new(Shared::default());
        let guests = StreamBody::new(futures_util::stream::poll_fn(move |cx| coming.poll_recv(cx)));
        let length = length.map(|length| DeclaredLength::of([length.as_bytes()]).unwrap().unwrap());
        Rig {
            body: GuestBody {
                function: "f".parse().unwrap(),
                inner: Some(guests.boxed_unsync()),
                contentless,
                length,
                last: None,
                trailers: None,
                reader: Reader(shared.clone()),
                end: End::Task(told),
            },
            frames,
            told: Some(tell),
            shared,
        }
    }

    impl Rig {
        fn says(&self, text: &'static str) {
            self.frames
                .send(Ok(Frame::data(Bytes::from_static(text.as_bytes()))))
                .unwrap();
        }

        fn call_ends(&mut self, problem: Option<Problem>) {
            self.told.take().unwrap().send(problem).unwrap();
        }

        /// The next piece, the end as an empty one, a failure as its kind; none while the body waits.
        fn next(&mut self) -> Option<Result<String, ProblemKind>> {
            let mut cx = Context::from_waker(Waker::noop());
            match Pin::new(&mut self.body).poll_frame(&mut cx) {
                Poll::Pending => None,
                Poll::Ready(None) => Some(Ok(String::new())),
                Poll::Ready(Some(Ok(frame))) => {
                    let data = frame.into_data().expect("bytes");
                    Some(Ok(String::from_utf8(data.to_vec()).unwrap()))
                }
                Poll::Ready(Some(Err(problem))) => Some(Err(problem.kind)),
            }
        }

        fn is_read(&self) -> Option<ResponseOutcome> {
            self.shared.outcome()
        }
    }

    fn trap() -> Problem {
        Problem::new(ProblemKind::Trap, "it trapped")
    }

    #[test]
    fn what_completes_a_response_waits_for_its_call() {
        for failure in [None, Some(trap())] {
            let mut rig = rig(Some("6"), false);
            rig.says("abc");
            assert_eq!(rig.next(), Some(Ok("abc".to_owned())));
            rig.says("def");
            assert_eq!(rig.next(), None, "with it the client would have a whole response");
            // The guest's own end of the body is not yet its end.
            drop(std::mem::replace(&mut rig.frames, mpsc::unbounded_channel().0));
            assert_eq!(rig.next(), None);
            assert_eq!(rig.is_read(), Some(ResponseOutcome::Read));
            rig.call_ends(failure.clone());
            let last = match failure {
                None => Ok("def".to_owned()),
                Some(problem) => Err(problem.kind),
            };
            assert_eq!(rig.next(), Some(last));
        }
    }

    #[test]
    fn a_guest_that_keeps_its_whole_body_open_ends_with_its_call() {
        let mut rig = rig(Some("3"), false);
        rig.says("abc");
        assert_eq!(rig.next(), None);
        rig.shared.end_guest();
        assert_eq!(rig.next(), None, "its call has not ended");
        rig.call_ends(None);
        assert_eq!(rig.next(), Some(Ok("abc".to_owned())));
        assert_eq!(rig.next(), Some(Ok(String::new())));
    }

    #[test]
    fn a_body_of_another_length_than_declared_is_none() {
        let mut short = rig(Some("6"), false);
        short.says("abc");
        assert_eq!(short.next(), Some(Ok("abc".to_owned())));
        drop(std::mem::replace(&mut short.frames, mpsc::unbounded_channel().0));
        assert_eq!(short.next(), None);
        assert_eq!(short.shared.broken.get().unwrap().kind, ProblemKind::BadResponse);
        let mut long = rig(Some("2"), false);
        long.says("abc");
        assert_eq!(long.next(), None);
        assert_eq!(long.shared.broken.get().unwrap().kind, ProblemKind::BadResponse);
        assert_eq!(
            long.is_read(),
            Some(ResponseOutcome::Unwanted),
            "its guest is stopped"
        );
        // An answer without content says the length of what it leaves out.
        let mut head = rig(None, true);
        drop(std::mem::replace(&mut head.frames, mpsc::unbounded_channel().0));
        head.call_ends(None);
        assert_eq!(head.next(), Some(Ok(String::new())));
        assert!(head.shared.broken.get().is_none());
    }

    #[test]
    fn the_first_word_on_a_response_counts() {
        let rig = rig(None, false);
        let shared = rig.shared.clone();
        assert_eq!(shared.outcome(), None);
        drop(rig.body);
        assert_eq!(shared.outcome(), Some(ResponseOutcome::Unwanted));
        shared.settle(ResponseOutcome::Read);
        assert_eq!(shared.outcome(), Some(ResponseOutcome::Unwanted));
    }

    #[test]
    fn bytes_are_counted_as_they_pass() {
        let mut rig = rig(None, false);
        rig.says("abc");
        rig.says("de");
        assert_eq!(
            (rig.next(), rig.next()),
            (Some(Ok("abc".to_owned())), Some(Ok("de".to_owned())))
        );
        assert_eq!(rig.shared.response_bytes.load(Ordering::Relaxed), 5);
    }
}
