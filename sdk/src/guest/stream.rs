//! Bodies as WASI streams.

use std::io::{self, Read};

use wasip2::http::types::{IncomingBody, IncomingRequest, IncomingResponse};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// The most that `blocking-write-and-flush` takes; one such call is the cheapest way to send a small body.
const ONE_CALL_BYTES: usize = 4096;

/// A body the host still receives, opened at the first read.
pub(crate) struct Incoming(State);

enum State {
    Request(IncomingRequest),
    Response(IncomingResponse),
    // The stream is the body's child: it is dropped first.
    Open {
        stream: InputStream,
        _body: IncomingBody,
    },
    End,
}

impl Incoming {
    pub(crate) fn new(request: IncomingRequest) -> Self {
        Self(State::Request(request))
    }

    pub(crate) fn response(response: IncomingResponse) -> Self {
        Self(State::Response(response))
    }

    fn open(&mut self) {
        let body = match std::mem::replace(&mut self.0, State::End) {
            State::Request(request) => request.consume(),
            State::Response(response) => response.consume(),
            open => {
                self.0 = open;
                return;
            }
        };
        if let Ok(body) = body
            && let Ok(stream) = body.stream()
        {
            self.0 = State::Open { stream, _body: body };
        }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.open();
        let State::Open { stream, .. } = &self.0 else {
            return Ok(0);
        };
        if buffer.is_empty() {
            return Ok(0);
        }
        // A blocking read may come back empty; that is not the end.
        loop {
            match stream.blocking_read(buffer.len() as u64) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    buffer[..bytes.len()].copy_from_slice(&bytes);
                    return Ok(bytes.len());
                }
                Err(StreamError::Closed) => return Ok(0),
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Where a body goes: to the host, or to memory for a body that its own function reads.
pub(crate) enum Sink {
    Stream(OutputStream),
    Memory(Vec<u8>),
}

impl Sink {
    pub(crate) fn stream(stream: OutputStream) -> Self {
        Self::Stream(stream)
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(Vec::new())
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Stream(_) => Vec::new(),
            Self::Memory(bytes) => bytes,
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => write_all(stream, bytes).map_err(failed),
            Self::Memory(memory) => {
                memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.blocking_flush().map_err(failed),
            Self::Memory(_) => Ok(()),
        }
    }
}

/// Sends a body that is already there: false if the client went away.
pub(super) fn write_whole(stream: &OutputStream, bytes: &[u8]) -> bool {
    match bytes.len() {
        0 => true,
        1..=ONE_CALL_BYTES => stream.blocking_write_and_flush(bytes).is_ok(),
        _ => write_all(stream, bytes).is_ok() && stream.blocking_flush().is_ok(),
    }
}

/// As much a call as the host takes, waiting while it takes none.
fn write_all(stream: &OutputStream, mut bytes: &[u8]) -> Result<(), StreamError> {
    while !bytes.is_empty() {
        let room = usize::try_from(stream.check_write()?).unwrap_or(usize::MAX);
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, later) = bytes.split_at(room.min(bytes.len()));
        stream.write(now)?;
        bytes = later;
    }
    Ok(())
}

fn failed(error: StreamError) -> io::Error {
    match error {
        StreamError::Closed => io::ErrorKind::BrokenPipe.into(),
        StreamError::LastOperationFailed(error) => io::Error::other(error.to_debug_string()),
    }
}
