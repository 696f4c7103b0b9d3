//! Finds the ends of records, in bytes that arrive piece by piece.

use bytes::Bytes;
use memchr::{memchr, memrchr};
use nearfield_csv::FieldState;
use nearfield_protocol::{Split, limits};

use crate::form::BYTE_ORDER_MARK;

/// Where a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// A record ends before this index.
    End(usize),
    /// No record ends in what was searched, this many bytes. The next search begins behind them.
    More(usize),
}

/// A record is over the limit; it begins at this offset of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooLong(pub(crate) u64);

/// Follows one file from its start. A clone may search ahead.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    kind: Kind,
    /// The file offset behind the bytes searched so far.
    position: u64,
    /// The file offset at which the open record begins.
    record: u64,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Every byte is a record.
    Bytes,
    Lines,
    Fixed(u64),
    Csv {
        field: FieldState,
        header: Option<Bytes>,
    },
}

impl Records {
    /// None for the splits that do not cut inside a file.
    pub(crate) fn new(split: Split) -> Option<Self> {
        let kind = match split {
            Split::Bytes => Kind::Bytes,
            Split::Lines | Split::Ndjson => Kind::Lines,
            Split::Fixed(size) => Kind::Fixed(u64::from(size.get())),
            Split::Csv => Kind::Csv {
                field: FieldState::Start,
                header: None,
            },
            Split::None | Split::Files => return None,
        };
        Some(Records {
            kind,
            position: 0,
            record: 0,
        })
    }

    /// From now on no record end is one before a record that equals `header`.
    pub(crate) fn set_header(&mut self, bytes: Bytes) {
        if let Kind::Csv { header, .. } = &mut self.kind {
            *header = Some(bytes);
        }
    }

    /// Looks for the first record end at or behind index `from` of `bytes`. `from` is at least 1 where a
    /// shard begins and 0 where a search goes on. `ended` says that no bytes follow these.
    pub(crate) fn search(&mut self, bytes: &[u8], from: usize, ended: bool) -> Result<Search, TooLong> {
        let found = match &self.kind {
            Kind::Bytes => Search::End(from),
            Kind::Lines => self.search_lines(bytes, from),
            Kind::Fixed(size) => self.search_fixed(*size, bytes.len(), from),
            Kind::Csv { .. } => self.search_csv(bytes, from, ended)?,
        };
        match found {
            Search::End(end) => {
                self.check_open_record(end)?;
                self.position += end as u64;
                self.record = self.position;
            }
            Search::More(searched) => {
                self.check_open_record(searched)?;
                self.position += searched as u64;
            }
        }
        Ok(found)
    }

    /// Judges the open record as it stands at index `end`. The bytes of one search are fewer than the
    /// limit, so what ended earlier among them was short enough.
    fn check_open_record(&self, end: usize) -> Result<(), TooLong> {
        if self.position + end as u64 - self.record > limits::RECORD_BYTES {
            return Err(TooLong(self.record));
        }
        Ok(())
    }

    fn search_lines(&mut self, bytes: &[u8], from: usize) -> Search {
        let last = from.saturating_sub(1);
        if let Some(index) = memchr(b'\n', &bytes[last..]) {
            return Search::End(last + index + 1);
        }
        if let Some(index) = memrchr(b'\n', &bytes[..last]) {
            self.record = self.position + index as u64 + 1;
        }
        Search::More(bytes.len())
    }

    fn search_fixed(&mut self, size: u64, len: usize, from: usize) -> Search {
        let end = self.position + len as u64;
        let target = (self.position + from as u64).next_multiple_of(size);
        if target <= end {
            self.record = target - size;
            return Search::End((target - self.position) as usize);
        }
        self.record = end / size * size;
        Search::More(len)
    }

    fn search_csv(&mut self, bytes: &[u8], from: usize, ended: bool) -> Result<Search, TooLong> {
        let Kind::Csv { mut field, header } = self.kind.clone() else {
            unreachable!("only called for csv");
        };
        // The last search may have stopped at a record end to see what follows it.
        let mut at_end = from == 0 && self.record == self.position;
        let mut at = 0;
        if self.position == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
            at = BYTE_ORDER_MARK.len();
        }
        let found = loop {
            if at_end && at >= from {
                let next = &bytes[at..];
                let repeats = header
                    .as_ref()
                    .map(|header| (next.starts_with(header), header.starts_with(next)));
                match repeats {
                    Some((true, _)) => {}
                    Some((false, true)) if !ended => break Search::More(at),
                    _ => break Search::End(at),
                }
            }
            match field.next_record_end(bytes, at) {
                Some(end) => {
                    self.check_open_record(end)?;
                    self.record = self.position + end as u64;
                    at = end;
                    at_end = true;
                }
                None => break Search::More(bytes.len()),
            }
        };
        self.kind = Kind::Csv { field, header };
        Ok(found)
    }
}

/// Whether a record before the header says nothing: readers of CSV pass over it. The first one of a file may have a mark.
pub(crate) fn is_blank(record: &[u8], is_first: bool) -> bool {
    let unmarked = record.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first);
    nearfield_csv::is_blank(unmarked.unwrap_or(record))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_goes_on_over_pieces_as_over_the_whole() {
        let text = b"h\n\"a\"\"\nb\",1\nh\nh\nc,2\nd";
        for pieces in 1..text.len() {
            let mut records = Records::new(Split::Csv).unwrap();
            records.set_header(Bytes::from_static(b"h\n"));
            let (mut held, mut done, mut from) = (Vec::new(), 0, 3);
            let mut chunks = text.chunks(pieces).peekable();
            let end = loop {
                held.extend_from_slice(chunks.next().unwrap_or_default());
                if held.len() < from {
                    continue;
                }
                match records.search(&held, from, chunks.peek().is_none()).unwrap() {
                    Search::End(end) => break done + end,
                    Search::More(searched) => {
                        held.drain(..searched);
                        done += searched;
                        from = 0;
                    }
                }
            };
            assert_eq!(
                end, 16,
                "in pieces of {pieces}: behind the records that equal the header"
            );
        }
    }
}
