//! Preconditions and ranges: what a request's headers make of content whose validators are known.
//!
//! One pure function, in the order of RFC 9110 §13.2.2: `If-Match` or `If-Unmodified-Since`, then `If-None-Match` or
//! `If-Modified-Since`, then `If-Range`, then `Range` (§14). Of several ranges the whole content is sent, as §14.2 allows.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderName};
use http::{HeaderMap, Method};

/// An entity-tag (§8.8.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntityTag {
    pub weak: bool,
    /// Without its quotes.
    pub opaque: String,
}

/// When the content was last modified, to the second, as HTTP tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modified {
    pub unix_s: u64,
    /// The content did not change twice within that second and will not any more (§8.8.2.2).
    pub strong: bool,
}

/// What identifies the content as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validators {
    pub tag: EntityTag,
    pub modified: Option<Modified>,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 200.
    Whole,
    /// 206.
    Part(Range<u64>),
    /// 304.
    NotModified,
    /// 412, because of this header.
    Failed(HeaderName),
    /// 416.
    Unsatisfiable,
}

impl EntityTag {
    pub fn strong(opaque: impl Into<String>) -> Self {
        EntityTag {
            weak: false,
            opaque: opaque.into(),
        }
    }

    /// Equal bytes are not promised, equal meaning is.
    pub fn weak(opaque: impl Into<String>) -> Self {
        EntityTag {
            weak: true,
            opaque: opaque.into(),
        }
    }

    fn same_strongly(&self, other: &Tag<'_>) -> bool {
        !self.weak && !other.weak && self.same_weakly(other)
    }

    fn same_weakly(&self, other: &Tag<'_>) -> bool {
        self.opaque.as_bytes() == other.opaque
    }
}

impl std::fmt::Display for EntityTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let weak = if self.weak { "W/" } else { "" };
        write!(f, "{weak}\"{}\"", self.opaque)
    }
}

/// The last second of the year 9999.
const LAST_UNIX_S: u64 = 253_402_300_799;

impl Modified {
    /// As an HTTP date.
    pub fn to_text(self) -> String {
        // A year has four digits.
        httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(self.unix_s.min(LAST_UNIX_S)))
    }
}

/// What a request of `method` with `headers` is answered. `size_bytes` is `None` where no ranges are served.
pub fn evaluate(
    method: &Method,
    headers: &HeaderMap,
    current: &Validators,
    size_bytes: Option<u64>,
) -> Answer {
    let reads = method == Method::GET || method == Method::HEAD;
    let modified_s = current.modified.map(|modified| modified.unix_s);

    if headers.contains_key(header::IF_MATCH) {
        if !TagList::of(headers, header::IF_MATCH).any(|tag| current.tag.same_strongly(tag)) {
            return Answer::Failed(header::IF_MATCH);
        }
    } else if let (Some(since), Some(modified)) = (date(headers, header::IF_UNMODIFIED_SINCE), modified_s)
        && modified > since
    {
        return Answer::Failed(header::IF_UNMODIFIED_SINCE);
    }

    if headers.contains_key(header::IF_NONE_MATCH) {
        if TagList::of(headers, header::IF_NONE_MATCH).any(|tag| current.tag.same_weakly(tag)) {
            return match reads {
                true => Answer::NotModified,
                false => Answer::Failed(header::IF_NONE_MATCH),
            };
        }
    } else if reads
        && let (Some(since), Some(modified)) = (date(headers, header::IF_MODIFIED_SINCE), modified_s)
        && modified <= since
    {
        return Answer::NotModified;
    }

    // No other method defines what a range means (§14.2).
    if method != Method::GET || !if_range_holds(headers, current) {
        return Answer::Whole;
    }
    match (only(headers, header::RANGE), size_bytes) {
        (Some(range), Some(size_bytes)) => range_of(range, size_bytes),
        _ => Answer::Whole,
    }
}

/// Whether `If-Range` lets a range be served: by a strong comparison, or by the exact date (§13.1.5).
fn if_range_holds(headers: &HeaderMap, current: &Validators) -> bool {
    if !headers.contains_key(header::IF_RANGE) {
        return true;
    }
    let Some(asked) = only(headers, header::IF_RANGE) else {
        return false;
    };
    if let Some((tag, [])) = Tag::parse(asked) {
        return current.tag.same_strongly(&tag);
    }
    match (parse_date(asked), current.modified) {
        (Some(asked), Some(modified)) => modified.strong && asked == modified.unix_s,
        _ => false,
    }
}

/// What a `Range` asks of `size_bytes` bytes. Other units and what is no range at all are passed over (§14.2).
fn range_of(value: &[u8], size_bytes: u64) -> Answer {
    let Some(set) = ranges(value) else {
        return Answer::Whole;
    };
    let mut satisfiable = set.iter().filter(|range| range.satisfiable(size_bytes));
    match (satisfiable.next(), set.len()) {
        (None, _) => Answer::Unsatisfiable,
        (Some(range), 1) => range.within(size_bytes),
        (Some(_), _) => Answer::Whole,
    }
}

/// One range of a set (§14.1.2). Numbers beyond 64 bits lie behind any end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeSpec {
    From { first: u64, last: Option<u64> },
    Suffix(u64),
}

impl RangeSpec {
    fn satisfiable(self, size_bytes: u64) -> bool {
        match self {
            RangeSpec::From { first, .. } => first < size_bytes,
            RangeSpec::Suffix(bytes) => bytes > 0,
        }
    }

    /// Of one that is satisfiable. The suffix of nothing is nothing, which no `Content-Range` can say: all of it then.
    fn within(self, size_bytes: u64) -> Answer {
        match self {
            RangeSpec::From { first, last } => {
                let end = last.map_or(size_bytes, |last| last.saturating_add(1).min(size_bytes));
                Answer::Part(first..end)
            }
            RangeSpec::Suffix(_) if size_bytes == 0 => Answer::Whole,
            RangeSpec::Suffix(bytes) => Answer::Part(size_bytes.saturating_sub(bytes)..size_bytes),
        }
    }
}

/// The ranges of a `bytes` set; `None` if it is another unit's or breaks the grammar anywhere.
fn ranges(value: &[u8]) -> Option<Vec<RangeSpec>> {
    let value = std::str::from_utf8(value).ok()?;
    let (unit, set) = value.split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let elements = set.split(',').map(|element| element.trim_matches([' ', '\t']));
    // Empty elements of a list are passed over (§5.6.1).
    let asked: Option<Vec<_>> = elements
        .filter(|element| !element.is_empty())
        .map(range)
        .collect();
    asked.filter(|asked| !asked.is_empty())
}

fn range(text: &str) -> Option<RangeSpec> {
    let (first, last) = text.split_once('-')?;
    if first.is_empty() {
        return Some(RangeSpec::Suffix(number(last)?));
    }
    let first = number(first)?;
    let last = match last {
        "" => None,
        last => Some(number(last).filter(|last| *last >= first)?),
    };
    Some(RangeSpec::From { first, last })
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// The tags that a header lists, over all its lines.
enum TagList<'a> {
    /// `*`: whatever there is.
    Any,
    Tags(Vec<Tag<'a>>),
}

impl<'a> TagList<'a> {
    fn of(headers: &'a HeaderMap, name: HeaderName) -> Self {
        let mut tags = Vec::new();
        for value in headers.get_all(&name) {
            let mut rest = value.as_bytes();
            if rest.trim_ascii() == b"*" {
                return TagList::Any;
            }
            // A line that breaks the grammar counts up to there.
            loop {
                rest = skip(rest, |byte| matches!(byte, b' ' | b'\t' | b','));
                let Some((tag, left)) = Tag::parse(rest) else {
                    break;
                };
                tags.push(tag);
                rest = left;
            }
        }
        TagList::Tags(tags)
    }

    fn any(&self, same: impl Fn(&Tag<'_>) -> bool) -> bool {
        match self {
            TagList::Any => true,
            TagList::Tags(tags) => tags.iter().any(same),
        }
    }
}

/// A tag as a request writes it.
#[derive(Debug, PartialEq, Eq)]
struct Tag<'a> {
    weak: bool,
    opaque: &'a [u8],
}

impl<'a> Tag<'a> {
    /// The tag that `text` begins with, and what follows it.
    fn parse(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let quoted = quoted.strip_prefix(b"\"")?;
        let end = quoted.iter().position(|byte| *byte == b'"')?;
        let (opaque, rest) = (&quoted[..end], &quoted[end + 1..]);
        let allowed = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
        opaque.iter().all(allowed).then_some((Tag { weak, opaque }, rest))
    }
}

fn skip(bytes: &[u8], passed_over: impl Fn(u8) -> bool) -> &[u8] {
    let start = bytes.iter().position(|byte| !passed_over(*byte));
    &bytes[start.unwrap_or(bytes.len())..]
}

/// A header that may stand once; said twice it says nothing.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next()?;
    match values.next() {
        None => Some(value.as_bytes().trim_ascii()),
        Some(_) => None,
    }
}

fn date(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    parse_date(only(headers, name)?)
}

/// Any of the three forms of a date, as seconds since 1970.
fn parse_date(text: &[u8]) -> Option<u64> {
    let date: SystemTime = httpdate::parse_http_date(std::str::from_utf8(text).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests;
