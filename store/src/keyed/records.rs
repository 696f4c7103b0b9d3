//! One record of a stream after another.

use std::io::Read;

use bytes::Bytes;
use nearfield_protocol::Split;

use crate::cut::records::{Records, Search, TooLong};
use crate::cut::{CutError, HEADER_BYTES};

/// What is read at once; the buffer grows to the longest record.
const READ_BYTES: usize = 1 << 20;

pub(super) struct RecordReader<'a> {
    input: &'a mut dyn Read,
    source: &'a str,
    records: Records,
    buffer: Vec<u8>,
    /// Where the next record begins in `buffer`.
    at: usize,
    ended: bool,
    /// Of the next record, in the stream.
    number: u64,
    offset: u64,
    /// What every record gets that lacks a line end.
    line_end: &'static [u8],
}

/// A record with its line end.
pub(super) struct Record<'a> {
    pub bytes: &'a [u8],
    /// From 1, the header counted.
    pub number: u64,
    /// In the stream, in bytes.
    pub offset: u64,
}

impl<'a> RecordReader<'a> {
    pub fn new(input: &'a mut dyn Read, source: &'a str, split: Split) -> Result<Self, CutError> {
        let records = match split {
            Split::Csv | Split::Ndjson => Records::new(split),
            _ => None,
        };
        let records = records.ok_or_else(|| CutError::NoKeys {
            name: source.to_owned(),
            split,
        })?;
        Ok(RecordReader {
            input,
            source,
            records,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            number: 0,
            offset: 0,
            line_end: b"\n",
        })
    }

    /// The first record, whatever it is.
    pub fn header(&mut self) -> Result<Bytes, CutError> {
        let header = match self.advance()? {
            Some(record) => Bytes::copy_from_slice(record.bytes),
            None => Bytes::new(),
        };
        if header.len() > HEADER_BYTES {
            return Err(CutError::HeaderTooLong {
                name: self.source.to_owned(),
            });
        }
        if header.ends_with(b"\r\n") {
            self.line_end = b"\r\n";
        }
        Ok(header)
    }

    /// The next record that is no empty line.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, CutError> {
        loop {
            let Some(len) = self.measure()? else {
                return Ok(None);
            };
            if self.buffer[self.at..self.at + len].trim_ascii().is_empty() {
                self.step(len);
                continue;
            }
            return Ok(Some(self.give(len)));
        }
    }

    fn advance(&mut self) -> Result<Option<Record<'_>>, CutError> {
        Ok(self.measure()?.map(|len| self.give(len)))
    }

    fn give(&mut self, len: usize) -> Record<'_> {
        let (at, number, offset) = (self.at, self.number + 1, self.offset);
        self.step(len);
        Record {
            bytes: &self.buffer[at..at + len],
            number,
            offset,
        }
    }

    fn step(&mut self, len: usize) {
        self.at += len;
        self.offset += len as u64;
        self.number += 1;
    }

    /// The length of the record at `at`, all of it in the buffer; `None` at the end.
    fn measure(&mut self) -> Result<Option<usize>, CutError> {
        let mut searched = 0;
        loop {
            let bytes = &self.buffer[self.at + searched..];
            if !bytes.is_empty() {
                let from = usize::from(searched == 0);
                let found = self.records.search(bytes, from, self.ended);
                match found.map_err(|TooLong(offset)| CutError::RecordTooLong {
                    name: self.source.to_owned(),
                    offset,
                })? {
                    Search::End(len) => return Ok(Some(searched + len)),
                    Search::More(len) => searched += len,
                }
            }
            if self.ended {
                if searched == 0 {
                    return Ok(None);
                }
                // It is sorted in among others.
                self.buffer.extend_from_slice(self.line_end);
                return Ok(Some(searched + self.line_end.len()));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), CutError> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let read = Read::take(&mut *self.input, READ_BYTES as u64)
            .read_to_end(&mut self.buffer)
            .map_err(|error| CutError::Read {
                name: self.source.to_owned(),
                error,
            })?;
        self.ended = read < READ_BYTES;
        Ok(())
    }
}
