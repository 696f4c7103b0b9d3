//! Finds the ends of records, in bytes that arrive piece by piece.

use bytes::Bytes;
use memchr::{memchr, memchr2, memrchr};
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
        field: Field,
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
                field: Field::Start,
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

/// Where in a CSV field the next byte stands. A quote opens only at a field's start, so one inside a plain
/// field means itself. The delimiter is not known here: comma, semicolon, tab and bar all start a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Start,
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: another one doubles it, anything else closes the field.
    Quote,
}

impl Field {
    /// Behind one byte. What follows a line end is another record.
    fn after(self, byte: u8) -> Field {
        match (self, byte) {
            (Field::Quoted, b'"') => Field::Quote,
            (Field::Quoted, _) | (Field::Start | Field::Quote, b'"') => Field::Quoted,
            (_, b',' | b';' | b'\t' | b'|' | b'\n') => Field::Start,
            _ => Field::Plain,
        }
    }

    /// Goes on from index `at` to the next record end; without one, to the end of `bytes`.
    fn next_record_end(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        while let Some(&byte) = bytes.get(at) {
            let rest = &bytes[at..];
            match *self {
                Field::Quoted => {
                    at += memchr(b'"', rest)? + 1;
                    *self = Field::Quote;
                }
                Field::Start | Field::Quote if byte == b'"' => {
                    at += 1;
                    *self = Field::Quoted;
                }
                Field::Start | Field::Quote | Field::Plain => {
                    let stop = memchr2(b'"', b'\n', rest);
                    let before = rest[..stop.unwrap_or(rest.len())].last();
                    let begins = before.is_some_and(|byte| matches!(byte, b',' | b';' | b'\t' | b'|'));
                    *self = if begins { Field::Start } else { Field::Plain };
                    at += stop? + 1;
                    if bytes[at - 1] == b'\n' {
                        *self = Field::Start;
                        return Some(at);
                    }
                    if begins {
                        *self = Field::Quoted;
                    }
                }
            }
        }
        None
    }
}

/// Whether a record before the header says nothing: readers of CSV pass over it. The first one of a file may have a mark.
pub(crate) fn is_blank(record: &[u8], is_first: bool) -> bool {
    let unmarked = record.strip_prefix(BYTE_ORDER_MARK).filter(|_| is_first);
    unmarked
        .unwrap_or(record)
        .iter()
        .all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// Where in a CSV record a CR stands outside quotes that is no part of a CRLF: some readers end the record there.
pub(crate) fn lone_cr(record: &[u8]) -> Option<usize> {
    memchr(b'\r', record)?;
    let mut field = Field::Start;
    record.iter().enumerate().find_map(|(at, &byte)| {
        let inside = field == Field::Quoted;
        field = field.after(byte);
        (byte == b'\r' && !inside && record.get(at + 1) != Some(&b'\n')).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv_ends(text: &str) -> Vec<usize> {
        let mut field = Field::Start;
        let mut ends = Vec::new();
        let mut at = 0;
        while let Some(end) = field.next_record_end(text.as_bytes(), at) {
            ends.push(end);
            at = end;
        }
        ends
    }

    #[test]
    fn csv_quotes_hold_line_ends() {
        assert_eq!(csv_ends("a,b\n1,2\n"), [4, 8]);
        assert_eq!(csv_ends("a,\"b\nc\"\r\nd\n"), [9, 11]);
        assert_eq!(csv_ends("\"say \"\"hi\"\"\n\",x\ny\n"), [16, 18]);
        assert_eq!(csv_ends("5\" pipe,1\n6\" pipe,2\n"), [10, 20]);
        assert_eq!(csv_ends("a;\"b\nc\"\n"), [8]);
        assert_eq!(csv_ends("\"\"\n\"\n"), [3]);
    }

    /// The same, a byte at a time.
    fn ends_byte_by_byte(text: &[u8]) -> Vec<usize> {
        let (mut field, mut ends) = (Field::Start, Vec::new());
        for (at, &byte) in text.iter().enumerate() {
            if byte == b'\n' && field != Field::Quoted {
                ends.push(at + 1);
            }
            field = field.after(byte);
        }
        ends
    }

    #[test]
    fn a_cr_alone_is_found_outside_quotes() {
        for (record, at) in [
            ("id,name\r7,Ada\r3,Bo\r", Some(7)),
            ("id,name\r7,Ada\r3,Bo\n", Some(7)),
            ("1,\"a\rb\"\r\n", None),
            ("1,\"a\rb\"\rc\r\n", Some(7)),
            ("1,5\" x\ry\n", Some(6)),
            ("1,2\r\r\n", Some(3)),
            ("1,2\r\n", None),
            ("1,2\n", None),
            ("1,2", None),
        ] {
            assert_eq!(lone_cr(record.as_bytes()), at, "{record:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn csv_records_end_where_a_walk_over_the_bytes_ends_them(
            text in "[a\",;\t|\n\r]{0,60}",
            pieces in proptest::collection::vec(1usize..9, 1..60),
        ) {
            let text = text.as_bytes();
            let (mut field, mut ends, mut start) = (Field::Start, Vec::new(), 0);
            for piece in pieces.iter().cycle() {
                let end = text.len().min(start + piece);
                let mut at = start;
                while let Some(found) = field.next_record_end(&text[..end], at) {
                    ends.push(found);
                    at = found;
                }
                start = end;
                if end == text.len() {
                    break;
                }
            }
            proptest::prop_assert_eq!(ends, ends_byte_by_byte(text));
        }
    }

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
