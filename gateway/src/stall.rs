//! A connection whose client must take what it is sent.
//!
//! hyper waits for ever on a client that reads nothing, and with it the call's place among its
//! function's. Here writes that have to wait break the connection unless they move
//! [`PROGRESS_BYTES`] in each [`limits::BODY_IDLE`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nearfield_protocol::limits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// What a client must take in [`limits::BODY_IDLE`] while something waits for it: slower than any
/// modem, so that only one that means to hold its call is let go.
const PROGRESS_BYTES: usize = 16 << 10;

/// A stream with a bound on stalled writes.
pub struct StallGuard<S> {
    stream: S,
    /// Runs from the first write that waits until enough was taken or nothing waits any more.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Since the clock began.
    taken_bytes: usize,
}

impl<S> StallGuard<S> {
    pub fn new(stream: S) -> Self {
        StallGuard {
            stream,
            stalled: None,
            taken_bytes: 0,
        }
    }

    fn guard(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let Ok(bytes) = written {
                self.taken_bytes = self.taken_bytes.saturating_add(bytes);
            }
            if self.taken_bytes >= PROGRESS_BYTES {
                self.stalled = None;
            }
            return Poll::Ready(written);
        }
        if self.stalled.is_none() {
            self.taken_bytes = 0;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::BODY_IDLE)));
        ready!(stalled.as_mut().poll(cx));
        let text = format!(
            "the client took less than {PROGRESS_BYTES} bytes in {} s",
            limits::BODY_IDLE.as_secs()
        );
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StallGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StallGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.guard(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.guard(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Writers flush once they have written all they hold: nothing waits any more.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stalled = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;

    /// What the connection's buffer holds.
    const BUFFER_BYTES: usize = 1_000;

    fn connection() -> (DuplexStream, StallGuard<DuplexStream>) {
        let (client, server) = duplex(BUFFER_BYTES);
        (client, StallGuard::new(server))
    }

    /// A client that takes `bytes` just before each [`limits::BODY_IDLE`] has passed.
    async fn drip(mut client: DuplexStream, bytes: usize) {
        let mut taken = vec![0; bytes];
        loop {
            tokio::time::sleep(limits::BODY_IDLE - Duration::from_secs(1)).await;
            if client.read_exact(&mut taken).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_let_go() {
        let (_client, mut guarded) = connection();
        let started = Instant::now();
        let error = guarded.write_all(&[0; 1 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), limits::BODY_IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_byte_at_a_time_is_let_go() {
        let (client, mut guarded) = connection();
        tokio::spawn(drip(client, 1));
        let started = Instant::now();
        let error = guarded.write_all(&[0; 1 << 20]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), limits::BODY_IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_is_waited_for() {
        let (client, mut guarded) = connection();
        tokio::spawn(drip(client, PROGRESS_BYTES + BUFFER_BYTES));
        let started = Instant::now();
        guarded.write_all(&[0; 1 << 20]).await.unwrap();
        assert!(started.elapsed() > limits::BODY_IDLE * 50);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_stops_when_nothing_waits() {
        let (mut client, mut guarded) = connection();
        let mut taken = [0; BUFFER_BYTES];
        for _ in 0..3 {
            let write = async {
                // One byte more than fits waits for the client.
                guarded.write_all(&[0; BUFFER_BYTES + 1]).await?;
                guarded.flush().await
            };
            let take = async {
                tokio::time::sleep(limits::BODY_IDLE / 2).await;
                client.read_exact(&mut taken).await
            };
            let (written, read) = tokio::join!(write, take);
            written.unwrap();
            read.unwrap();
            client.read_exact(&mut taken[..1]).await.unwrap();
            tokio::time::sleep(limits::BODY_IDLE * 2).await;
        }
    }
}
