//! A connection of HTTP/1, as its bytes come: what follows its framing beside hyper must see the requests that hyper sees.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nearfield_protocol::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::line_ends::Heads;

/// Turns in which hyper does nothing before it is taken to wait: it hands bodies and answers over in some that show nothing.
const IDLE_TURNS: usize = 8;

/// A connection, from its start: it passes unchanged up to the first line end that is none, however it is cut; and where one
/// request ends and the next begins, hyper sees the same.
pub fn line_ends(bytes: &[u8]) {
    let mut passed = bytes.to_vec();
    Heads::default().pass(&mut passed);
    let changed: Vec<usize> = (0..bytes.len()).filter(|&at| passed[at] != bytes[at]).collect();
    assert!(changed.len() <= 1 && changed.iter().all(|&at| (bytes[at], passed[at]) == (b'\n', 0)));
    let (messages, in_pieces) = messages(bytes);
    assert_eq!(in_pieces, passed, "pieces change nothing");
    as_hyper_sees_them(&passed, &messages);
}

/// Where each message ends, and what passes, a byte at a time.
fn messages(bytes: &[u8]) -> (Vec<usize>, Vec<u8>) {
    let (mut heads, mut passed, mut ends) = (Heads::default(), bytes.to_vec(), Vec::new());
    for at in 0..bytes.len() {
        let was_between = heads.is_between();
        heads.pass(&mut passed[at..at + 1]);
        if !was_between && heads.is_between() {
            ends.push(at + 1);
        }
    }
    (ends, passed)
}

/// Gives hyper one message after another: it must have read as many as it was given, unless it refuses one or is told to
/// close. What comes behind the last one may be no request.
fn as_hyper_sees_them(passed: &[u8], ends: &[usize]) {
    let (wire, read) = (Wire::default(), Rc::new(Cell::new(0_usize)));
    let counting = read.clone();
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let read = counting.clone();
        async move {
            request.into_body().collect().await?;
            read.set(read.get() + 1);
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            Ok::<_, hyper::Error>(response)
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(limits::REQUEST_HEADER_FIELDS)
        .max_buf_size(limits::REQUEST_HEADER_BYTES)
        .serve_connection(TokioIo::new(wire.clone()), service);
    let mut connection = std::pin::pin!(connection);
    // Until it waits: whether it ended.
    let mut go_on = || {
        let (mut context, mut idle) = (Context::from_waker(Waker::noop()), 0);
        while idle < IDLE_TURNS {
            let before = (wire.0.borrow().len(), read.get());
            if connection.as_mut().poll(&mut context).is_ready() {
                return true;
            }
            idle = if before == (wire.0.borrow().len(), read.get()) {
                idle + 1
            } else {
                0
            };
        }
        false
    };
    let mut start = 0;
    for (index, &end) in ends.iter().enumerate() {
        wire.0.borrow_mut().extend(&passed[start..end]);
        start = end;
        if go_on() {
            // It closes where it is told to, or refuses what follows.
            assert!(read.get() <= index + 1);
            return;
        }
        assert_eq!(read.get(), index + 1, "hyper sees other requests");
    }
    wire.0.borrow_mut().extend(&passed[start..]);
    go_on();
    assert_eq!(read.get(), ends.len(), "hyper sees a request in what is none");
}

/// A connection whose bytes come when they are given, and that never ends.
#[derive(Clone, Default)]
struct Wire(Rc<RefCell<VecDeque<u8>>>);

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = self.0.borrow_mut();
        if bytes.is_empty() {
            return Poll::Pending;
        }
        let len = bytes.len().min(buffer.remaining());
        let taken: Vec<u8> = bytes.drain(..len).collect();
        buffer.put_slice(&taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
