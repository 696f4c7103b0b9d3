//! One stream of many objects, asked for ahead of its reader.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::error::RemoteError;
use crate::object::{AHEAD_REQUESTS, Object, PIECE_BYTES};
use crate::site::Site;

/// What is asked for ahead of the reader may hold so many bytes, so four pieces.
const AHEAD_BYTES: u64 = 4 * PIECE_BYTES;

/// All that can be held: what is asked for, and what is read.
const BUFFERS: usize = (AHEAD_BYTES / PIECE_BYTES) as usize + 1;

/// Objects as one stream, each after the other, asked for ahead of the reader.
pub struct Ahead {
    runtime: Handle,
    site: Arc<Site>,
    plan: Plan,
    /// The next piece, if it found no room yet.
    waiting: Option<Piece>,
    /// In the order of the plan.
    asked: VecDeque<AskedRange>,
    asked_bytes: u64,
    current: Vec<u8>,
    /// How much of it is read.
    read: usize,
    /// Of whole pieces, to be used again: given back to an allocator, they would come to twice as much.
    spare: Vec<Vec<u8>>,
}

struct AskedRange {
    bytes: u64,
    answer: JoinHandle<Result<Vec<u8>, RemoteError>>,
}

impl Ahead {
    /// `first`: what is there already of the first object. Requests are made on `runtime`, which must last as long.
    pub fn new(runtime: Handle, site: Arc<Site>, objects: Vec<Object>, first: Vec<u8>) -> Self {
        let offset = first.len() as u64;
        Self::start(runtime, site, objects, first, offset)
    }

    /// An object from `offset` on.
    pub fn from(runtime: Handle, site: Arc<Site>, object: Object, offset: u64) -> Self {
        Self::start(runtime, site, vec![object], Vec::new(), offset)
    }

    fn start(runtime: Handle, site: Arc<Site>, objects: Vec<Object>, first: Vec<u8>, offset: u64) -> Self {
        let mut ahead = Ahead {
            runtime,
            site,
            plan: Plan {
                objects: objects.into(),
                index: 0,
                offset,
            },
            waiting: None,
            asked: VecDeque::new(),
            asked_bytes: 0,
            current: first,
            read: 0,
            spare: Vec::new(),
        };
        ahead.ask();
        ahead
    }

    fn ask(&mut self) {
        while self.asked.len() < AHEAD_REQUESTS
            && let Some(piece) = self.waiting.take().or_else(|| self.plan.next())
        {
            let bytes = piece.range.end - piece.range.start;
            if self.asked_bytes + bytes > AHEAD_BYTES {
                self.waiting = Some(piece);
                break;
            }
            let (site, objects) = (self.site.clone(), self.plan.objects.clone());
            let buffer = match bytes {
                PIECE_BYTES => self.spare.pop().unwrap_or_default(),
                _ => Vec::new(),
            };
            let answer = self.runtime.spawn(async move {
                let object = &objects[piece.object];
                site.piece(object, piece.range, buffer).await
            });
            self.asked.push_back(AskedRange { bytes, answer });
            self.asked_bytes += bytes;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Nobody waits for what was asked for ahead.
        self.asked.iter().for_each(|asked| asked.answer.abort());
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.read == self.current.len() && !buffer.is_empty() {
            let Some(AskedRange { bytes, answer }) = self.asked.pop_front() else {
                return Ok(0);
            };
            let answer = self.runtime.block_on(answer).map_err(io::Error::other)?;
            let done = std::mem::replace(&mut self.current, answer.map_err(io::Error::other)?);
            self.read = 0;
            if done.len() as u64 == PIECE_BYTES && self.spare.len() < BUFFERS {
                self.spare.push(done);
            }
            self.asked_bytes -= bytes;
            self.ask();
        }
        let count = buffer.len().min(self.current.len() - self.read);
        buffer[..count].copy_from_slice(&self.current[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Piece {
    /// Which of the plan's objects.
    object: usize,
    range: Range<u64>,
}

/// Which pieces to ask for, in order.
struct Plan {
    objects: Arc<[Object]>,
    index: usize,
    offset: u64,
}

impl Iterator for Plan {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        loop {
            let size_bytes = self.objects.get(self.index)?.size_bytes;
            if self.offset < size_bytes {
                let range = self.offset..size_bytes.min(self.offset + PIECE_BYTES);
                self.offset = range.end;
                return Some(Piece {
                    object: self.index,
                    range,
                });
            }
            self.index += 1;
            self.offset = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(sizes: &[u64], offset: u64) -> Vec<(usize, Range<u64>)> {
        let object = |&size_bytes: &u64| Object {
            key: String::new(),
            size_bytes,
            etag: None,
        };
        let plan = Plan {
            objects: sizes.iter().map(object).collect(),
            index: 0,
            offset,
        };
        plan.map(|piece| (piece.object, piece.range)).collect()
    }

    #[test]
    fn every_byte_is_asked_for_once_and_in_order() {
        const P: u64 = PIECE_BYTES;
        assert_eq!(plan(&[], 0), []);
        assert_eq!(plan(&[0, 0], 0), []);
        assert_eq!(plan(&[P], P), [], "the first piece is there already");
        assert_eq!(plan(&[2 * P + 1], P), [(0, P..2 * P), (0, 2 * P..2 * P + 1)]);
        assert_eq!(
            plan(&[0, 5, 0, P + 1, 7], 0),
            [(1, 0..5), (3, 0..P), (3, P..P + 1), (4, 0..7)]
        );
    }
}
