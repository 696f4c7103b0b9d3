//! An answer that comes once and in one piece.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use nearfield_protocol::units::format_bytes;
use reqwest::Response;
use tokio::runtime::Handle;

use crate::error::{Cause, RemoteError};
use crate::transport::{Trouble, trouble};

/// One answer as it comes: from servers without ranges or without ETags. What breaks off cannot be taken up again.
/// A server that says neither a length nor sends chunks ends its answer by closing, where a cut does not show.
pub struct Stream {
    runtime: Handle,
    shown: String,
    response: Response,
    said_bytes: Option<u64>,
    came_bytes: u64,
    current: Bytes,
}

impl Stream {
    /// The rest of `response`, read on `runtime`, which must last as long.
    pub fn new(runtime: Handle, shown: String, response: Response) -> Self {
        Stream {
            runtime,
            shown,
            said_bytes: response.content_length(),
            response,
            came_bytes: 0,
            current: Bytes::new(),
        }
    }

    fn cut(&self, cause: &str) -> io::Error {
        let said = self
            .said_bytes
            .map(|bytes| format!(" of {}", format_bytes(bytes)));
        let what = format!(
            "{} broke off after {}{} ({cause}), and its server cannot go on from there",
            self.shown,
            format_bytes(self.came_bytes),
            said.unwrap_or_default()
        );
        io::Error::other(RemoteError::new(Cause::Unreachable, what).next("put it again"))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !buffer.is_empty() {
            match self.runtime.block_on(self.response.chunk()) {
                Ok(Some(chunk)) => {
                    self.came_bytes += chunk.len() as u64;
                    self.current = chunk;
                }
                Ok(None) if self.said_bytes.is_none_or(|said| said == self.came_bytes) => return Ok(0),
                Ok(None) => return Err(self.cut("its server closed the connection")),
                Err(error) => {
                    return Err(match trouble(error) {
                        Trouble::BrokeOff(cause) | Trouble::Unreachable(cause) => self.cut(&cause),
                        _ => self.cut("no answer"),
                    });
                }
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
