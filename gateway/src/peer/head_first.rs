//! A body that breaks off after its head is on its way, and never before.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};

/// hyper drops a head that it has not sent yet where the body fails at once, and the gateway would take its host for lost: no guest may be
/// able to do that. A body that is pending once lets the head go first.
pub(super) struct HeadFirst<B> {
    inner: B,
    head_went: bool,
}

impl<B> HeadFirst<B> {
    pub fn new(inner: B) -> Self {
        HeadFirst {
            inner,
            head_went: false,
        }
    }
}

impl<B: Body + Unpin> Body for HeadFirst<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        if !std::mem::replace(&mut self.head_went, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::body::Body as Boxed;
    use nearfield_protocol::{Problem, ProblemKind};

    /// An answer of five bytes that fails at once, or after three of them.
    fn fails(first: Option<&'static [u8]>) -> Response<Boxed> {
        let frames = first.map(|bytes| Ok(Frame::data(Bytes::from_static(bytes))));
        let problem = Err(Problem::new(ProblemKind::BadResponse, "it has fewer"));
        let body = StreamBody::new(futures_util::stream::iter(frames.into_iter().chain([problem])));
        let response = Response::builder().header("content-length", "5");
        response.body(HeadFirst::new(body).boxed_unsync()).unwrap()
    }

    #[tokio::test]
    async fn the_head_arrives_whenever_the_body_fails() {
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
                answer.starts_with(b"HTTP/1.1 200 OK\r\n"),
                "{}",
                answer.escape_ascii()
            );
        }
    }
}
