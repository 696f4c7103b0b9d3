//! Answers that are made as they are sent.

use std::io::{self, Write};

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nearfield_cluster::store_problem;
use nearfield_protocol::{Problem, ProblemKind};
use nearfield_store::StoreError;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::body::Body;
use crate::breaks_late::BreaksLate;

/// The content type of a tar.
pub const TAR: &str = "application/x-tar";
/// A tar stream's pieces on their way out.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that may wait for a slow client.
const PIECES: usize = 8;

/// A tar that `write` makes, on a thread that may block. What fails at once is told; later it resets the stream.
pub async fn tar(
    what: String,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
) -> Result<Response<Body>, Problem> {
    let (pieces, mut received) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = PieceWriter {
            pieces: pieces.clone(),
            buffer: Vec::with_capacity(PIECE_BYTES),
        };
        let written = write(&mut out).and_then(|()| out.flush());
        if let Err(error) = written {
            let problem = match error.downcast::<StoreError>() {
                Ok(error) => store_problem(error),
                Err(error) => Problem::new(ProblemKind::Internal, format!("{what} cannot be read: {error}")),
            };
            // The client may be gone, which may well be the error.
            let _ = pieces.blocking_send(Err(problem));
        }
    });
    let first: Option<Bytes> = received.recv().await.transpose()?;
    let frames = futures_util::stream::unfold((first, received), |(first, mut received)| async move {
        let piece: Result<Bytes, Problem> = match first {
            Some(first) => Ok(first),
            None => received.recv().await?,
        };
        Some((piece.map(Frame::data), (None, received)))
    });
    Ok(response(
        BreaksLate::new(StreamBody::new(Box::pin(frames))).boxed_unsync(),
        TAR,
    ))
}

/// One JSON value a line as they come: those that are there, and further ones until `ended`.
pub fn lines<T: Serialize + Send + 'static>(
    received: mpsc::Receiver<T>,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Response<Body> {
    let state = (received, Box::pin(ended));
    let frames = futures_util::stream::unfold(state, |(mut received, mut ended)| async move {
        let line = tokio::select! {
            biased;
            line = received.recv() => line?,
            () = &mut ended => return None,
        };
        let mut text = serde_json::to_vec(&line).unwrap_or_default();
        text.push(b'\n');
        Some((
            Ok::<_, Problem>(Frame::data(Bytes::from(text))),
            (received, ended),
        ))
    });
    response(StreamBody::new(frames).boxed_unsync(), "application/x-ndjson")
}

fn response(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// Sends what is written, in pieces.
struct PieceWriter {
    pieces: mpsc::Sender<Result<Bytes, Problem>>,
    buffer: Vec<u8>,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        if piece.is_empty() {
            return Ok(());
        }
        self.pieces
            .blocking_send(Ok(piece.into()))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
