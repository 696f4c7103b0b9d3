//! A connection whose client must begin to speak.
//!
//! hyper waits for ever for the end of HTTP/2's preface, also once it was told to stop. Here reads fail unless the client
//! has sent all of it within [`limits::HEADER_TIMEOUT`] and before the node stops.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nearfield_protocol::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// HTTP/2's preface (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// A stream with a bound on its beginning.
pub struct FirstBytes<S> {
    stream: S,
    left_bytes: usize,
    /// Gone once the client has begun.
    patience: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<S> FirstBytes<S> {
    pub fn new(stream: S, stop: CancellationToken) -> Self {
        FirstBytes {
            stream,
            left_bytes: PREFACE_BYTES,
            patience: Some(Box::pin(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(limits::HEADER_TIMEOUT) => {}
                }
            })),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstBytes<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let Some(patience) = &mut this.patience else {
            return read;
        };
        match read {
            Poll::Ready(read) => {
                this.left_bytes = this.left_bytes.saturating_sub(buffer.filled().len() - before);
                if this.left_bytes == 0 {
                    this.patience = None;
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(patience.as_mut().poll(cx));
                Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the client does not begin",
                )))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstBytes<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Duration, Instant};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_go_on_is_let_go_and_one_that_does_is_kept() {
        for sent in [0, 1, PREFACE_BYTES - 1] {
            let (mut client, server) = duplex(100);
            let mut server = FirstBytes::new(server, CancellationToken::new());
            client.write_all(&vec![0; sent]).await.unwrap();
            let began = Instant::now();
            let ended = server.read_to_end(&mut Vec::new()).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
            assert_eq!(began.elapsed().as_secs(), limits::HEADER_TIMEOUT.as_secs());
        }
        let (mut client, server) = duplex(100);
        let mut server = FirstBytes::new(server, CancellationToken::new());
        client.write_all(&[0; PREFACE_BYTES]).await.unwrap();
        server.read_exact(&mut [0; PREFACE_BYTES]).await.unwrap();
        let wait = limits::HEADER_TIMEOUT * 10;
        assert!(tokio::time::timeout(wait, server.read_u8()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_does_not_wait_for_it() {
        let stop = CancellationToken::new();
        let (_client, server) = duplex(100);
        let mut server = FirstBytes::new(server, stop.clone());
        let began = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.cancel();
        });
        assert!(server.read_u8().await.is_err());
        assert_eq!(began.elapsed().as_secs(), 1);
    }
}
