//! Bodies: read from a request, or produced for a response, whole or bit by bit.

use std::fmt;
use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use http::StatusCode;

use crate::{Error, Result, host};

/// The bytes of a request or response. Reading one consumes it.
///
/// ```
/// use std::io::Read;
///
/// use nearfield::Body;
///
/// let body = Body::from_reader("a long text".as_bytes().take(6));
/// assert_eq!(body.text(100).unwrap(), "a long");
/// ```
pub struct Body(pub(crate) Content);

pub(crate) enum Content {
    /// All there is, or what is left of it.
    Whole(Bytes),
    /// What is still to be read: from a client, another server, or whatever the author has.
    Reader(Box<dyn Read>),
    Writer(Box<Produce>),
}

type Produce = dyn FnOnce(&mut BodyWriter) -> Result<()>;

/// A body that `produce` writes while the client already reads. When it fails, the client sees a broken
/// transfer rather than a short body.
///
/// ```
/// use std::io::Write;
/// use nearfield::{IntoResponse, Request};
///
/// #[nearfield::http]
/// fn count(_: Request) -> impl IntoResponse {
///     nearfield::stream(|out| {
///         for n in 1..=3 {
///             writeln!(out, "{n}")?;
///         }
///         Ok(())
///     })
/// }
/// # assert_eq!(nearfield::mock::call(count, nearfield::mock::get("/")).body(), "1\n2\n3\n");
/// ```
pub fn stream(produce: impl FnOnce(&mut BodyWriter) -> Result<()> + 'static) -> Body {
    Body(Content::Writer(Box::new(produce)))
}

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self(Content::Whole(Bytes::new()))
    }

    /// What `reader` yields, read when it is sent.
    pub fn from_reader(reader: impl Read + 'static) -> Self {
        Self(Content::Reader(Box::new(reader)))
    }

    /// All that is left, at most `limit` bytes; more is the error 413.
    pub fn bytes(self, limit: usize) -> Result<Bytes> {
        let bytes = match self.0 {
            Content::Whole(bytes) => bytes,
            _ => {
                let mut bytes = Vec::new();
                self.take(limit as u64 + 1).read_to_end(&mut bytes)?;
                bytes.into()
            }
        };
        if bytes.len() > limit {
            let detail = format!("the body is longer than {limit} bytes");
            return Err(Error::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
        }
        Ok(bytes)
    }

    /// All that is left as text, at most `limit` bytes; other bytes than UTF-8 are the error 400.
    pub fn text(self, limit: usize) -> Result<String> {
        String::from_utf8(self.bytes(limit)?.into()).map_err(|_| Error::bad_request("the body is not UTF-8"))
    }

    /// Sends everything to `out`.
    pub(crate) fn write_to(self, out: &mut BodyWriter) -> Result<()> {
        match self.0 {
            Content::Whole(bytes) => out.write_all(&bytes)?,
            Content::Reader(mut reader) => copy(&mut *reader, out)?,
            Content::Writer(produce) => produce(out)?,
        }
        Ok(out.flush()?)
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Content::Whole(bytes) => {
                let length = buffer.len().min(bytes.len());
                bytes.copy_to_slice(&mut buffer[..length]);
                Ok(length)
            }
            Content::Reader(reader) => reader.read(buffer),
            Content::Writer(_) => {
                let Content::Writer(produce) = std::mem::take(self).0 else {
                    unreachable!()
                };
                let mut out = BodyWriter::new(host::Sink::memory());
                let produced = produce(&mut out).and_then(|()| Ok(out.flush()?));
                produced.map_err(|error| io::Error::other(error.to_string()))?;
                *self = out.into_bytes().into();
                self.read(buffer)
            }
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Content::Whole(_) => "Body(whole)",
            Content::Reader(_) => "Body(reader)",
            Content::Writer(_) => "Body(writer)",
        })
    }
}

impl From<()> for Body {
    fn from(_: ()) -> Self {
        Self::empty()
    }
}

macro_rules! whole {
    ($($bytes:ty),*) => {$(
        impl From<$bytes> for Body {
            fn from(bytes: $bytes) -> Self {
                Self(Content::Whole(bytes.into()))
            }
        }
    )*};
}

whole!(&'static str, &'static [u8], String, Vec<u8>, Bytes);

/// Bytes gathered before they cross to the host: a crossing costs about as much as copying this much.
const BUFFER_BYTES: usize = 16 << 10;

/// Where a streamed body is written to. It gathers small writes; [`flush`](Write::flush) sends what is there, for
/// a client that should see it now.
pub struct BodyWriter {
    buffer: Vec<u8>,
    sink: host::Sink,
}

impl BodyWriter {
    pub(crate) fn new(sink: host::Sink) -> Self {
        Self {
            buffer: Vec::new(),
            sink,
        }
    }

    /// What a writer to memory has gathered.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.sink.into_bytes()
    }

    fn drain(&mut self) -> io::Result<()> {
        self.sink.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Sends `bytes` without gathering: a reader's pace is the client's, as in an echo.
    fn sink_now(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.drain()?;
        self.sink.write_all(bytes)?;
        self.sink.flush()
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.drain()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.sink.write_all(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.drain()?;
        self.sink.flush()
    }
}

/// Larger than the writer's buffer, so that what is read passes it by; small enough to stay in the cache.
const COPY_BYTES: usize = 64 << 10;

fn copy(from: &mut dyn Read, out: &mut BodyWriter) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => out.sink_now(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_kept_for_every_kind_of_body() {
        for body in [Body::from("12345"), Body::from_reader(&b"12345"[..])] {
            assert_eq!(body.bytes(4).unwrap_err().status(), 413);
        }
        assert_eq!(Body::from_reader(&b"12345"[..]).bytes(5).unwrap(), "12345");
    }

    #[test]
    fn a_written_body_can_be_read() {
        let body = stream(|out| {
            for _ in 0..3 {
                out.write_all(&[7; BUFFER_BYTES - 1])?;
            }
            out.write_all(&[8; 2 * BUFFER_BYTES])?;
            Ok(())
        });
        let bytes = body.bytes(1 << 20).unwrap();
        assert_eq!(bytes.len(), 5 * BUFFER_BYTES - 3);
        assert_eq!(bytes.last(), Some(&8));
    }

    #[test]
    fn a_failed_writer_is_an_error_and_not_a_short_body() {
        let body = stream(|out| {
            out.write_all(b"half")?;
            Err(Error::bad_request("no more"))
        });
        assert!(body.bytes(100).is_err());
    }
}
