//! Whether what came is a part of what was meant.

use std::ops::Range;

use nearfield_protocol::units::parse_digits;
use reqwest::header::{CONTENT_RANGE, ETAG, HeaderName};
use reqwest::{Response, StatusCode};

/// Bytes of one request: less costs round trips, more costs memory.
pub const PIECE_BYTES: u64 = 8 << 20;

/// Small objects are asked for so many at a time, as a server's latency is most of what they cost.
pub const AHEAD_REQUESTS: usize = 16;

/// What is read, as it was when reading began. Every range must be of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub key: String,
    pub size_bytes: u64,
    /// Needed for objects of more than one piece.
    pub etag: Option<String>,
}

/// What the head of an answer says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Which bytes come, of how many; none if it is no part.
    pub range: Option<(Range<u64>, u64)>,
    pub etag: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    Changed,
    /// Other bytes than asked for.
    Range,
    Short,
}

/// What is wrong with a piece of an object.
pub fn verdict(object: &Object, range: &Range<u64>, found: &Described, bytes: u64) -> Option<Wrong> {
    if object.etag.is_some() && found.etag != object.etag {
        return Some(Wrong::Changed);
    }
    match &found.range {
        Some((_, size_bytes)) if *size_bytes != object.size_bytes => Some(Wrong::Changed),
        Some((came, _)) if came == range => (bytes != range.end - range.start).then_some(Wrong::Short),
        _ => Some(Wrong::Range),
    }
}

/// The object, if it can be read by ranges: one piece is all of it, or an ETag holds the pieces together.
pub fn rangeable(key: &str, found: Described) -> Option<Object> {
    let (range, size_bytes) = found.range?;
    let etag = found.etag.filter(|etag| is_strong(etag));
    let whole = range == (0..size_bytes.min(PIECE_BYTES));
    (whole && (size_bytes <= PIECE_BYTES || etag.is_some())).then(|| Object {
        key: key.to_owned(),
        size_bytes,
        etag,
    })
}

pub fn described(head: &Response) -> Described {
    let header = |name: HeaderName| head.headers().get(name)?.to_str().ok();
    let is_part = head.status() == StatusCode::PARTIAL_CONTENT;
    Described {
        range: header(CONTENT_RANGE).filter(|_| is_part).and_then(content_range),
        etag: header(ETAG).map(str::to_owned),
    }
}

/// `bytes 0-9/100`; a part of what has no known size is of no use.
pub(crate) fn content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = parse_digits::<u64>;
    let (first, last, size) = (number(first)?, number(last)?, number(size)?);
    (first <= last && last < size).then(|| (first..last + 1, size))
}

pub fn is_strong(etag: &str) -> bool {
    !etag.starts_with("W/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(size_bytes: u64, etag: Option<&str>) -> Object {
        Object {
            key: "k".to_owned(),
            size_bytes,
            etag: etag.map(str::to_owned),
        }
    }

    fn part(range: Range<u64>, size_bytes: u64, etag: Option<&str>) -> Described {
        Described {
            range: Some((range, size_bytes)),
            etag: etag.map(str::to_owned),
        }
    }

    #[test]
    fn parts_are_understood_or_not_used() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0..10, 100)));
        assert_eq!(content_range("bytes 99-99/100"), Some((99..100, 100)));
        for bad in [
            "bytes 0-9/*",
            "bytes */100",
            "bytes 9-0/100",
            "bytes +0-9/100",
            "bytes 0-100/100",
            "0-9/100",
            "bytes 0-9",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_what_a_change_would_show_of_is_read_by_ranges() {
        let (small, large) = (100, PIECE_BYTES + 1);
        let piece = 0..PIECE_BYTES;
        let is = |described| rangeable("k", described).is_some();
        assert!(is(part(0..small, small, None)), "one piece is all of it");
        assert!(is(part(piece.clone(), large, Some("\"a\""))));
        assert!(!is(part(piece.clone(), large, None)));
        assert!(
            !is(part(piece.clone(), large, Some("W/\"a\""))),
            "weak is not the same bytes"
        );
        assert!(!is(part(0..small, large, Some("\"a\""))), "less than asked for");
        assert!(!is(part(1..small, small, Some("\"a\""))));
    }

    #[test]
    fn a_part_of_something_else_is_never_taken() {
        let (object, etag) = (object(100, Some("\"a\"")), Some("\"a\""));
        let judge = |found, bytes| verdict(&object, &(10..20), &found, bytes);
        assert_eq!(judge(part(10..20, 100, etag), 10), None);
        assert_eq!(judge(part(10..20, 100, Some("\"b\"")), 10), Some(Wrong::Changed));
        assert_eq!(judge(part(10..20, 100, None), 10), Some(Wrong::Changed));
        assert_eq!(judge(part(10..20, 101, etag), 10), Some(Wrong::Changed));
        assert_eq!(judge(part(11..21, 100, etag), 10), Some(Wrong::Range));
        assert_eq!(judge(part(10..20, 100, etag), 9), Some(Wrong::Short));
        let whole = Described {
            range: None,
            etag: etag.map(str::to_owned),
        };
        assert_eq!(judge(whole, 100), Some(Wrong::Range));
    }
}
