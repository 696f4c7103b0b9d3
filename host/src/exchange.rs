//! One exchange of HTTP/1.1 with a server that a guest asks: bounded in what comes before its answer's head.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nearfield_protocol::http::named_by_connection;
use nearfield_protocol::manifest::HostPort;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi_http::{Error, WasiBody};

use crate::memory::FIELD_BYTES;
use crate::outgoing::{Refusal, Sent};

/// Longest head of a response, and what hyper reads ahead of it.
const HEAD_BYTES: usize = 64 << 10;
/// What may come before a response's head is whole: itself, and interim responses, which nobody asked for.
const BYTES_BEFORE_HEAD: u64 = 2 * HEAD_BYTES as u64;
/// What the host holds for an exchange: hyper's buffers, of which the response's head is made, and what that has as fields.
pub(crate) const EXCHANGE_BYTES: u64 = 2 * HEAD_BYTES as u64 + FIELD_BYTES as u64;

/// One HTTP/1.1 exchange. The connection lives as long as the returned future is polled, and `held` with it.
pub(crate) async fn exchange(
    host: &HostPort,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: http::Request<WasiBody>,
    bytes: Arc<AtomicU64>,
    held: impl Send + 'static,
) -> Result<Sent, Refusal> {
    let failed = |error| Refusal::Http(host.clone(), error);
    // The connection is to the host already; HTTP/1.1 wants the path alone in the request line.
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    *request.uri_mut() = path.parse().map_err(|_| Refusal::NoHost)?;
    let up = bytes.clone();
    let request = request.map(|body| count(body, up));
    let has_head = Arc::new(AtomicBool::new(false));
    let (read, write) = tokio::io::split(stream);
    let read = UntilHead {
        read,
        left_bytes: BYTES_BEFORE_HEAD,
        has_head: has_head.clone(),
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(tokio::io::join(read, write)))
        .await
        .map_err(failed)?;
    let mut connection = Box::pin(connection);
    let response = {
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // The connection may end first with its answer already delivered.
            _ = &mut connection => answer.await,
        }
    }
    .map_err(failed)?;
    has_head.store(true, Ordering::Relaxed);
    let response = without_connections_own(response);
    let response = response.map(|body| count(body.map_err(Error::Hyper).boxed_unsync(), bytes));
    // What comes after the response, or breaks then, is no fault of the response: a body that is too short says so itself.
    let rest = async move {
        let _ = connection.await;
        drop(held);
        Ok(())
    };
    Ok((response, Box::new(rest)))
}

/// Removes what the response names as its connection's own: the engine keeps `connection` from the guest, which could not tell
/// these fields from those that are meant for it.
fn without_connections_own<B>(mut response: http::Response<B>) -> http::Response<B> {
    let connection = response.headers().get_all(http::header::CONNECTION).iter();
    let named: Vec<_> = named_by_connection(connection.map(http::HeaderValue::as_bytes))
        .filter_map(|name| http::HeaderName::from_bytes(name).ok())
        .collect();
    for name in named {
        response.headers_mut().remove(name);
    }
    response
}

/// What is read fails once more came than may before a response's head. hyper reads over interim responses (1xx) by itself, and
/// without an end.
struct UntilHead<R> {
    read: R,
    left_bytes: u64,
    has_head: Arc<AtomicBool>,
}

impl<R: AsyncRead + Unpin> AsyncRead for UntilHead<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.read).poll_read(cx, buffer))?;
        if !self.has_head.load(Ordering::Relaxed) {
            let read = (buffer.filled().len() - before) as u64;
            self.left_bytes = self.left_bytes.checked_sub(read).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "too much comes before the response's head",
                )
            })?;
        }
        Poll::Ready(Ok(()))
    }
}

/// Counts a body's data bytes.
fn count(body: WasiBody, bytes: Arc<AtomicU64>) -> WasiBody {
    body.map_frame(move |frame| {
        if let Some(data) = frame.data_ref() {
            bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        frame
    })
    .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_response_is_whole_without_what_concerns_its_connection() {
        let (guest, mut origin) = tokio::io::duplex(4_096);
        tokio::spawn(async move {
            let _ = origin.read(&mut [0; 1_024]).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close, X-Gone, content-length\r\nx-gone: 1\r\n\
                           x-stays: 1\r\n\r\nthere, and what nobody asked for";
            origin.write_all(answer).await
        });
        let host: HostPort = "example.org:80".parse().unwrap();
        let body = http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
        let request = http::Request::get("http://example.org/").body(body).unwrap();
        let sent = exchange(&host, guest, request, Arc::default(), ()).await;
        let Ok((response, rest)) = sent else {
            panic!("it was refused")
        };
        let names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["content-length", "connection", "x-stays"]);
        let (body, rest) = tokio::join!(response.into_body().collect(), Box::into_pin(rest));
        assert_eq!(body.unwrap().to_bytes(), "there");
        assert!(rest.is_ok(), "{rest:?}");
    }

    #[tokio::test]
    async fn interim_responses_end() {
        let (guest, mut origin) = tokio::io::duplex(4_096);
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while origin
                .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                .await
                .is_ok()
            {
                sent += 28;
            }
            sent
        });
        let host: HostPort = "example.org:80".parse().unwrap();
        let body = http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
        let request = http::Request::get("http://example.org/").body(body).unwrap();
        let held = Arc::new(());
        let sent = exchange(&host, guest, request, Arc::default(), held.clone()).await;
        assert!(matches!(sent, Err(Refusal::Http(..))));
        assert_eq!(Arc::strong_count(&held), 1, "what was held for it is given back");
        let came = sending.await.unwrap();
        assert!(
            (BYTES_BEFORE_HEAD..BYTES_BEFORE_HEAD * 2).contains(&came),
            "{came}"
        );
    }
}
