//! A body that breaks off once its reader has what came before, the head as well.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

/// hyper drops a connection whose body fails, and with it what it has not sent yet: the head, if the body fails soon. A client would
/// get an empty answer, and a gateway would take its host for lost, which no guest may be able to bring about. A body that is
/// pending once before it fails lets hyper send what hyper was given.
pub struct BreaksLate<B: Body> {
    inner: B,
    /// Why it breaks off, until the reader has what came before.
    broken: Option<B::Error>,
}

impl<B: Body> BreaksLate<B> {
    pub fn new(inner: B) -> Self {
        BreaksLate { inner, broken: None }
    }
}

impl<B: Body<Error: Unpin> + Unpin> Body for BreaksLate<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            polled => polled,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.broken.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Response;
    use http_body_util::{BodyExt, StreamBody};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use nearfield_protocol::{Problem, ProblemKind};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::body::Body as Boxed;

    /// An answer of five bytes that fails at once, or after three of them.
    fn fails(first: Option<&'static [u8]>) -> Response<Boxed> {
        let frames = first.map(|bytes| Ok(Frame::data(Bytes::from_static(bytes))));
        let problem = Err(Problem::new(ProblemKind::BadResponse, "it has fewer"));
        let body = StreamBody::new(futures_util::stream::iter(frames.into_iter().chain([problem])));
        let response = Response::builder().header("content-length", "5");
        response.body(BreaksLate::new(body).boxed_unsync()).unwrap()
    }

    #[tokio::test]
    async fn what_came_before_arrives_whenever_the_body_fails() {
        for first in [None, Some(&b"abc"[..])] {
            let (mut client, server) = tokio::io::duplex(1 << 16);
            let service = service_fn(|_| async { Ok::<_, Problem>(fails(first)) });
            let served = http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(server), service);
            client
                .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                .await
                .unwrap();
            let mut answer = Vec::new();
            let (served, read) = tokio::join!(served, client.read_to_end(&mut answer));
            read.unwrap();
            assert!(served.is_err());
            assert!(
                answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(first.unwrap_or(b"\r\n\r\n")),
                "{}",
                answer.escape_ascii()
            );
        }
    }
}
