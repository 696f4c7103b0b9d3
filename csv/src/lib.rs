//! CSV as Nearfield reads it: RFC 4180, and what spreadsheets make of it. Where records end, where fields end, what quotes hold.
//! Put and look-up, the mock host and functions all read it here, so a record is the same to each of them.
//!
//! A quote opens only at a field's start, so one inside a plain field means itself. Within quotes two of them are one. What
//! stands between a closing quote and the next delimiter belongs to the field as it is. A record ends at a line feed outside
//! quotes; a carriage return before it belongs to the line end.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// What may stand between the fields of a record.
pub const DELIMITERS: [u8; 4] = *b",;\t|";

/// What a spreadsheet may put before the first column's name.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Where in a record the next byte stands. Which of [`DELIMITERS`] separates fields is not known here: each of them starts one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldState {
    /// At the start of a field.
    #[default]
    Start,
    Plain,
    Quoted,
    /// Behind a quote in a quoted field: another one doubles it, anything else closes the field.
    Quote,
}

impl FieldState {
    /// Behind one byte. What follows a line end outside quotes is another record.
    pub fn after(self, byte: u8) -> FieldState {
        match (self, byte) {
            (FieldState::Quoted, b'"') => FieldState::Quote,
            (FieldState::Quoted, _) | (FieldState::Start | FieldState::Quote, b'"') => FieldState::Quoted,
            (_, b'\n') => FieldState::Start,
            (_, byte) if DELIMITERS.contains(&byte) => FieldState::Start,
            _ => FieldState::Plain,
        }
    }

    /// Goes on from index `at` to behind the next line end outside quotes; without one, to the end of `bytes`, where the next
    /// piece of the file begins.
    pub fn next_record_end(&mut self, bytes: &[u8], mut at: usize) -> Option<usize> {
        while let Some(&byte) = bytes.get(at) {
            let rest = &bytes[at..];
            match *self {
                FieldState::Quoted => {
                    at += memchr(b'"', rest)? + 1;
                    *self = FieldState::Quote;
                }
                FieldState::Start | FieldState::Quote if byte == b'"' => {
                    at += 1;
                    *self = FieldState::Quoted;
                }
                FieldState::Start | FieldState::Quote | FieldState::Plain => {
                    let stop = memchr2(b'"', b'\n', rest);
                    let before = rest[..stop.unwrap_or(rest.len())].last();
                    let begins = before.is_some_and(|byte| DELIMITERS.contains(byte));
                    *self = if begins {
                        FieldState::Start
                    } else {
                        FieldState::Plain
                    };
                    at += stop? + 1;
                    if bytes[at - 1] == b'\n' {
                        *self = FieldState::Start;
                        return Some(at);
                    }
                    if begins {
                        *self = FieldState::Quoted;
                    }
                }
            }
        }
        None
    }
}

/// The records of `text`, which begins with one: each with its line end, which the last may lack.
pub fn records(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let end = FieldState::Start.next_record_end(rest, 0).unwrap_or(rest.len());
        start += end;
        Some(&rest[..end])
    })
}

/// The index behind a file's header: the first record that says something, with the byte order mark and the empty lines before it.
pub fn header_end(file: &[u8]) -> usize {
    let mark = match file.starts_with(BYTE_ORDER_MARK) {
        true => BYTE_ORDER_MARK.len(),
        false => 0,
    };
    let mut end = mark;
    for record in records(&file[mark..]) {
        end += record.len();
        if !is_blank(record) {
            break;
        }
    }
    end
}

/// Whether a record says nothing: readers of CSV pass over it.
pub fn is_blank(record: &[u8]) -> bool {
    record.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

/// Where in a record a carriage return stands outside quotes that is no part of a line end: some readers end the record there.
pub fn lone_cr(record: &[u8]) -> Option<usize> {
    memchr(b'\r', record)?;
    let mut place = FieldState::Start;
    record.iter().enumerate().find_map(|(at, &byte)| {
        let inside = place == FieldState::Quoted;
        place = place.after(byte);
        (byte == b'\r' && !inside && record.get(at + 1) != Some(&b'\n')).then_some(at)
    })
}

/// A record without its line end.
pub fn without_line_end(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// The fields of a record, without quotes.
pub fn fields(record: &[u8], delimiter: u8) -> impl Iterator<Item = Cow<'_, [u8]>> {
    let mut rest = Some(without_line_end(record));
    std::iter::from_fn(move || {
        let from = rest?;
        let end = field_end(from, delimiter);
        rest = from.get(end + 1..);
        Some(plain(&from[..end]))
    })
}

/// The index where the field that `rest` begins with ends: at a delimiter outside quotes, or at the end.
pub fn field_end(rest: &[u8], delimiter: u8) -> usize {
    let from = match rest.strip_prefix(b"\"") {
        Some(quoted) => closing(quoted).map_or(rest.len(), |close| close + 2),
        None => 0,
    };
    memchr(delimiter, &rest[from.min(rest.len())..]).map_or(rest.len(), |at| from + at)
}

/// What a field says.
pub fn plain(field: &[u8]) -> Cow<'_, [u8]> {
    match field.strip_prefix(b"\"") {
        Some(quoted) => {
            let mut unquoted = Vec::with_capacity(quoted.len());
            unquote(quoted, &mut unquoted);
            Cow::Owned(unquoted)
        }
        None => Cow::Borrowed(field),
    }
}

/// The index in a field, from behind its first quote, of the quote that closes it. A doubled quote closes nothing.
pub fn closing(quoted: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr(b'"', quoted.get(at..)?)?;
        if quoted.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

/// Makes `unquoted` what stands in quotes, from behind the first one: doubled quotes are one, and what follows the closing one is
/// taken as it is.
pub fn unquote(quoted: &[u8], unquoted: &mut Vec<u8>) {
    unquoted.clear();
    let (mut open, mut bytes) = (true, quoted.iter().peekable());
    while let Some(&byte) = bytes.next() {
        if byte != b'"' || !open {
            unquoted.push(byte);
        } else if bytes.next_if_eq(&&b'"').is_some() {
            unquoted.push(b'"');
        } else {
            open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(text: &str) -> Vec<usize> {
        let (mut place, mut ends, mut at) = (FieldState::Start, Vec::new(), 0);
        while let Some(end) = place.next_record_end(text.as_bytes(), at) {
            ends.push(end);
            at = end;
        }
        ends
    }

    #[test]
    fn quotes_hold_line_ends() {
        assert_eq!(ends("a,b\n1,2\n"), [4, 8]);
        assert_eq!(ends("a,\"b\nc\"\r\nd\n"), [9, 11]);
        assert_eq!(ends("\"say \"\"hi\"\"\n\",x\ny\n"), [16, 18]);
        assert_eq!(ends("5\" pipe,1\n6\" pipe,2\n"), [10, 20]);
        assert_eq!(ends("a;\"b\nc\"\n"), [8]);
        assert_eq!(ends("\"\"\n\"\n"), [3]);
    }

    #[test]
    fn a_header_is_the_first_record_that_says_something() {
        for (file, end) in [
            ("id,n\n1,2\n", 5),
            ("\u{feff}id\n1\n", 6),
            ("\u{feff}\n\r\nid\n1\n", 9),
            ("\"a\nb\",5\"\n1\n", 9),
            ("5\" pipe,n\n1\n", 10),
            ("id", 2),
            ("\n\n", 2),
            ("", 0),
        ] {
            assert_eq!(header_end(file.as_bytes()), end, "{file:?}");
        }
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

    fn told(record: &str, delimiter: u8) -> Vec<String> {
        let told = |field: Cow<'_, [u8]>| String::from_utf8_lossy(&field).into_owned();
        fields(record.as_bytes(), delimiter).map(told).collect()
    }

    #[test]
    fn fields_are_what_quotes_hold_and_what_stands_beside_them() {
        assert_eq!(
            told("a,\"b \"\"c\"\",\n\",5\" pipe\r\n", b','),
            ["a", "b \"c\",\n", "5\" pipe"]
        );
        assert_eq!(told(",\"\"\n", b','), ["", ""]);
        assert_eq!(told("\"a\"b\"c,d", b','), ["ab\"c", "d"]);
        assert_eq!(told("a,b;c", b';'), ["a,b", "c"]);
        assert_eq!(told("", b','), [""]);
    }

    /// The same as [`FieldState::next_record_end`], a byte at a time.
    fn ends_byte_by_byte(text: &[u8]) -> Vec<usize> {
        let (mut place, mut ends) = (FieldState::Start, Vec::new());
        for (at, &byte) in text.iter().enumerate() {
            if byte == b'\n' && place != FieldState::Quoted {
                ends.push(at + 1);
            }
            place = place.after(byte);
        }
        ends
    }

    proptest! {
        #[test]
        fn records_end_where_a_walk_over_the_bytes_ends_them(
            text in "[a\",;\t|\n\r]{0,60}",
            pieces in prop::collection::vec(1usize..9, 1..60),
        ) {
            let text = text.as_bytes();
            let (mut place, mut ends, mut start) = (FieldState::Start, Vec::new(), 0);
            for piece in pieces.iter().cycle() {
                let end = text.len().min(start + piece);
                let mut at = start;
                while let Some(found) = place.next_record_end(&text[..end], at) {
                    ends.push(found);
                    at = found;
                }
                start = end;
                if end == text.len() {
                    break;
                }
            }
            prop_assert_eq!(&ends, &ends_byte_by_byte(text));
            let mut whole: Vec<usize> = records(text).scan(0, |at, record| {
                *at += record.len();
                Some(*at)
            }).collect();
            // The last one may lack its line end.
            whole.truncate(ends.len());
            prop_assert_eq!(whole, ends);
        }

        /// Records and fields are those of the crate that most of Rust reads CSV with, stray quotes included.
        #[test]
        fn others_read_the_same(
            pieces in prop::collection::vec(prop::sample::select(vec!["a", "b ", "\"", "\"\"", ",", "\n", "\r\n", "é"]), 0..40),
        ) {
            let text = pieces.concat();
            let last = text.bytes().fold(FieldState::Start, FieldState::after);
            // What nothing closes is refused before anybody looks at its fields.
            prop_assume!(last != FieldState::Quoted);
            let mut reader = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .from_reader(text.as_bytes());
            let theirs: Vec<Vec<Vec<u8>>> = reader
                .byte_records()
                .map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect())
                .collect();
            let ours: Vec<Vec<Vec<u8>>> = records(text.as_bytes())
                .filter(|record| !is_blank(record))
                .map(|record| fields(record, b',').map(Cow::into_owned).collect())
                .collect();
            prop_assert_eq!(ours, theirs, "{:?}", text);
        }
    }
}
