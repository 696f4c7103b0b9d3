//! The request of a stream between nodes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use iroh::endpoint::RecvStream;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// How long what is left of a request is read after its call, and how much at once.
const REST: Duration = Duration::from_secs(5);
const REST_BYTES: usize = 64 << 10;

/// A stream that is read to its end by somebody, if not by the call: a response that ends first would otherwise look like
/// a host that stopped listening.
pub struct ReadToEnd(pub Option<RecvStream>);

impl AsyncRead for ReadToEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(stream) => AsyncRead::poll_read(Pin::new(stream), context, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        if let (Some(mut stream), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(async move {
                let rest = async { while let Ok(Some(_)) = stream.read_chunk(REST_BYTES).await {} };
                let _ = timeout(REST, rest).await;
            });
        }
    }
}
