//! One record of a stream after another.

use std::io::Read;

use bytes::Bytes;
use nearfield_protocol::Split;

use crate::cut::records::{Records, Search, TooLong, is_blank};
use crate::cut::{CutError, HEADER_BYTES};
use crate::form::BYTE_ORDER_MARK;

/// What is read at once; the buffer grows to the longest record.
const READ_BYTES: usize = 1 << 20;

pub(super) struct RecordReader<'a> {
    input: &'a mut dyn Read,
    source: &'a str,
    split: Split,
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
    /// Reads the beginning, which must be text.
    pub fn open(input: &'a mut dyn Read, source: &'a str, split: Split) -> Result<Self, CutError> {
        let records = match split {
            Split::Csv | Split::Ndjson => Records::new(split),
            _ => None,
        };
        let records = records.ok_or_else(|| CutError::NoKeys {
            name: source.to_owned(),
            split,
        })?;
        let mut reader = RecordReader {
            input,
            source,
            split,
            records,
            buffer: Vec::new(),
            at: 0,
            ended: false,
            number: 0,
            offset: 0,
            line_end: b"\n",
        };
        reader.fill()?;
        CutError::unlike_text(source, split, &reader.buffer)?;
        Ok(reader)
    }

    /// The first record that says something, and the empty lines before it.
    pub fn header(&mut self) -> Result<Bytes, CutError> {
        let (mut header, mut blank) = (Vec::new(), true);
        while blank && let Some(len) = self.measure()? {
            self.no_lone_cr(len)?;
            let record = self.give(len).bytes;
            // Each record alone: a file may begin with any number of empty lines.
            blank = is_blank(record, header.is_empty());
            header.extend_from_slice(record);
            if header.len() > HEADER_BYTES {
                return Err(CutError::HeaderTooLong {
                    name: self.source.to_owned(),
                });
            }
        }
        if header.ends_with(b"\r\n") {
            self.line_end = b"\r\n";
        }
        Ok(header.into())
    }

    /// The byte order mark, if the stream begins with one. Not one of the next record.
    pub fn mark(&mut self) -> Bytes {
        if !self.buffer.starts_with(BYTE_ORDER_MARK) {
            return Bytes::new();
        }
        self.at += BYTE_ORDER_MARK.len();
        self.offset += BYTE_ORDER_MARK.len() as u64;
        Bytes::from_static(BYTE_ORDER_MARK)
    }

    /// The next record that is no empty line.
    pub fn next(&mut self) -> Result<Option<Record<'_>>, CutError> {
        loop {
            let Some(len) = self.measure()? else {
                return Ok(None);
            };
            let record = &self.buffer[self.at..self.at + len];
            let is_empty = match self.split {
                // Blanks are a field.
                Split::Csv => record.iter().all(|byte| matches!(byte, b'\r' | b'\n')),
                _ => record
                    .iter()
                    .all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n')),
            };
            if is_empty {
                self.step(len);
                continue;
            }
            self.no_lone_cr(len)?;
            return Ok(Some(self.give(len)));
        }
    }

    /// Whoever ends records there would find others than these.
    fn no_lone_cr(&self, len: usize) -> Result<(), CutError> {
        let record = &self.buffer[self.at..self.at + len];
        match nearfield_csv::lone_cr(record).filter(|_| self.split == Split::Csv) {
            None => Ok(()),
            Some(at) => Err(CutError::LoneCr {
                name: self.source.to_owned(),
                offset: self.offset + at as u64,
            }),
        }
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
