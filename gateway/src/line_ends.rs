//! Ends of lines in the heads of HTTP/1 requests.
//!
//! A line ends with a carriage return and a line feed; a reader may take a line feed alone (RFC 9112 §2.2), and hyper does. Two
//! readers of one connection then see different requests. Here a line feed alone in a head, or among trailers, becomes a zero
//! byte, which hyper answers with 400; beside a chunk's size hyper refuses it by itself. Bodies are skipped by their framing and stay
//! as they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nearfield_protocol::units::parse_digits;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Of each line so much is kept as its field's name and value need where they say how long a body is.
const KEPT_BYTES: usize = 256;

/// A connection of HTTP/1, from its start.
pub struct LineEnds<S> {
    stream: S,
    heads: Heads,
}

impl<S> LineEnds<S> {
    pub fn new(stream: S) -> Self {
        LineEnds {
            stream,
            heads: Heads::default(),
        }
    }
}

/// Where in its messages a connection is.
#[derive(Default)]
pub(crate) struct Heads {
    at: At,
    /// The beginning of the line that has not ended yet.
    line: Vec<u8>,
    /// That beginning is not all of it.
    is_cut: bool,
    /// Of the message whose head this is.
    framing: Framing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Before a message's first line. Empty lines may come before it.
    #[default]
    Start,
    Head,
    /// So many bytes pass.
    Body(u64),
    ChunkSize,
    /// A chunk and its line end.
    Chunk(u64),
    Trailers,
    /// A zero byte was put where hyper refuses it: nothing follows that it would read.
    Refused,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Framing {
    length: u64,
    chunked: bool,
}

impl Heads {
    /// Whether no message has begun that has not ended.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_between(&self) -> bool {
        self.at == At::Start
    }

    /// Looks at the next bytes, however they are cut.
    pub(crate) fn pass(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            match self.at {
                At::Refused => return,
                At::Body(left) | At::Chunk(left) => {
                    let passed = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    self.skip(left - passed as u64);
                    bytes = &mut bytes[passed..];
                }
                At::Start | At::Head | At::ChunkSize | At::Trailers => {
                    let Some(end) = memchr::memchr(b'\n', bytes) else {
                        self.keep(bytes);
                        return;
                    };
                    self.keep(&bytes[..end]);
                    let whole = match end {
                        0 => self.line.last() == Some(&b'\r'),
                        end => bytes[end - 1] == b'\r',
                    };
                    // hyper refuses a line feed alone here, and passes over a zero byte in a chunk's extension.
                    let left_to_hyper = self.at == At::ChunkSize && !whole;
                    let line = std::mem::take(&mut self.line);
                    let whole = whole && !(std::mem::take(&mut self.is_cut) && self.decides(&line));
                    self.at = match whole {
                        true => self.after(line.strip_suffix(b"\r").unwrap_or(&line)),
                        false => At::Refused,
                    };
                    if self.at == At::Refused && !left_to_hyper {
                        bytes[end] = 0;
                    }
                    self.line = line;
                    self.line.clear();
                    bytes = &mut bytes[end + 1..];
                }
            }
        }
    }

    /// Keeps what a line begins with, and its last byte.
    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if bytes.len() > room
            && let (Some(kept), Some(last)) = (self.line.last_mut(), bytes.last())
        {
            *kept = *last;
            self.is_cut = true;
        }
    }

    /// Whether what was cut off of a line may say how long a body is, so that nobody here knows what hyper reads there.
    fn decides(&self, line: &[u8]) -> bool {
        match self.at {
            At::Head => {
                let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
                [&b"content-length"[..], b"transfer-encoding"]
                    .iter()
                    .any(|decides| name.eq_ignore_ascii_case(decides))
            }
            At::ChunkSize => !line.contains(&b';'),
            _ => false,
        }
    }

    /// `left` bytes are still to be passed.
    fn skip(&mut self, left: u64) {
        self.at = match (self.at, left) {
            (At::Body(_), 0) => At::Start,
            (At::Body(_), left) => At::Body(left),
            (_, 0) => At::ChunkSize,
            (_, left) => At::Chunk(left),
        };
    }

    /// What follows a whole line.
    fn after(&mut self, line: &[u8]) -> At {
        match self.at {
            At::Start if line.is_empty() => At::Start,
            At::Start => {
                self.framing = Framing::default();
                At::Head
            }
            At::Head if line.is_empty() => match self.framing {
                Framing { chunked: true, .. } => At::ChunkSize,
                Framing { length: 0, .. } => At::Start,
                Framing { length, .. } => At::Body(length),
            },
            At::Head => match self.framing.read(line) {
                Some(()) => At::Head,
                None => At::Refused,
            },
            At::ChunkSize => match chunk_size(line) {
                Some(0) => At::Trailers,
                Some(bytes) => bytes.checked_add(2).map_or(At::Refused, At::Chunk),
                None => At::Refused,
            },
            At::Trailers if line.is_empty() => At::Start,
            at => at,
        }
    }
}

impl Framing {
    /// Takes in a field. None if it cannot be followed.
    fn read(&mut self, line: &[u8]) -> Option<()> {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            // No name that matters is so long.
            return (line.len() + 1 >= KEPT_BYTES).then_some(());
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = parse_digits(std::str::from_utf8(value).ok()?)?;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Of several encodings the last decides; hyper refuses a request whose last one is another.
            let last = value.rsplit(|&byte| byte == b',').next()?;
            self.chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        }
        Some(())
    }
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    // `from_str_radix` takes a sign.
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16)
        .ok()
        .filter(|_| is_hex)
}

impl<S: AsyncRead + Unpin> AsyncRead for LineEnds<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.heads.pass(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LineEnds<S> {
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
    use proptest::prelude::*;

    use super::*;

    /// What hyper gets to see, of pieces of these lengths.
    fn passed(sent: &[u8], pieces: &[usize]) -> Vec<u8> {
        let (mut heads, mut bytes, mut at) = (Heads::default(), sent.to_vec(), 0);
        for piece in pieces.iter().cycle() {
            let end = (at + piece).min(bytes.len());
            heads.pass(&mut bytes[at..end]);
            at = end;
            if at == bytes.len() {
                break;
            }
        }
        bytes
    }

    /// A request whose body is full of line feeds.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let body = proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'x')], 0..40);
        (body, 0..5usize, 0..300usize).prop_map(|(body, form, padding)| {
            let mut text = format!(
                "POST /x HTTP/1.1\r\nhost: a\r\nx-pad: {}\r\n",
                "p".repeat(padding)
            )
            .into_bytes();
            match form {
                0 => text.extend(b"\r\n"),
                1 | 2 => {
                    let name = if form == 1 {
                        "content-length"
                    } else {
                        "Content-Length"
                    };
                    text.extend(format!("{name}:  {}\r\n\r\n", body.len()).bytes());
                    text.extend(body);
                }
                _ => {
                    // A length beside chunks counts for nothing.
                    let length = if form == 3 { "" } else { "content-length: 7\r\n" };
                    text.extend(format!("{length}Transfer-Encoding: gzip, Chunked\r\n\r\n").bytes());
                    for chunk in body.chunks(9) {
                        text.extend(format!("{:X};a=b\r\n", chunk.len()).bytes());
                        text.extend(chunk);
                        text.extend(b"\r\n");
                    }
                    text.extend(b"0\r\nx-sum: 1\r\n\r\n");
                }
            }
            text
        })
    }

    proptest! {
        /// Whole line ends pass unchanged, whatever bodies hold and however the bytes come. One that is not whole, in the
        /// head of whichever request, does not pass.
        #[test]
        fn whole_lines_pass_and_others_do_not(
            requests in proptest::collection::vec(request(), 1..5),
            pieces in proptest::collection::vec(1..50usize, 1..6),
            broken in any::<prop::sample::Index>(),
            line in any::<prop::sample::Index>(),
        ) {
            let sent = requests.concat();
            prop_assert_eq!(&passed(&sent, &pieces), &sent);
            let mut requests = requests;
            let broken = broken.index(requests.len());
            let head = requests[broken].windows(4).position(|text| text == b"\r\n\r\n").unwrap() + 4;
            let ends: Vec<_> = (0..head).filter(|&at| requests[broken][at] == b'\r').collect();
            requests[broken].remove(ends[line.index(ends.len())]);
            let sent = requests.concat();
            let differs: Vec<_> = passed(&sent, &pieces)
                .into_iter()
                .zip(&sent)
                .filter(|(passed, sent)| passed != *sent)
                .collect();
            prop_assert_eq!(differs, [(0, &b'\n')]);
        }
    }

    #[test]
    fn what_cannot_be_followed_does_not_pass() {
        let head = |field: &str| format!("GET / HTTP/1.1\r\n{field}\r\n\r\n").into_bytes();
        let long = "n".repeat(2 * KEPT_BYTES);
        for passes in [
            &format!("{long}: 1"),
            &format!("x: {long}"),
            "content-length:\t5 ",
        ] {
            let sent = head(passes);
            assert_eq!(passed(&sent, &[7]), sent);
        }
        let spaces = " ".repeat(KEPT_BYTES);
        for refused in [
            "no colon",
            "content-length: x",
            "content-length: +5",
            "content-length: 99999999999999999999",
            &format!("content-length: {spaces}5"),
            &format!("content-length: {}5", "0".repeat(KEPT_BYTES)),
            &format!("transfer-encoding: {}chunked", "gzip, ".repeat(KEPT_BYTES / 6)),
        ] {
            assert!(passed(&head(refused), &[7]).contains(&0), "{refused}");
        }
        // Of a chunk's size all digits count, of what stands behind it nothing.
        let chunk = |size: &str| {
            let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
            format!("{head}{size}\r\nx\r\n0\r\n\r\n").into_bytes()
        };
        let sized = |size: &str| passed(&chunk(size), &[7]);
        assert!(sized(&format!("{}1", "0".repeat(KEPT_BYTES))).contains(&0));
        let extended = format!("1;{}", "x".repeat(KEPT_BYTES));
        assert_eq!(sized(&extended), chunk(&extended));
        // hyper refuses this one as it is, and would not if it had a zero byte there.
        assert_eq!(sized("1;a\nb"), chunk("1;a\nb"));
    }

    #[test]
    fn empty_lines_before_a_request_pass() {
        let sent = b"\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        assert_eq!(passed(sent, &[3]), sent);
    }
}
