//! What a client asks for by `Range` and by the ETag it knows (RFC 9110, sections 13 and 14), of a single range.

use nearfield::{HeaderMap, HeaderName, Method, header};

#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// No range is asked for, or in a way that a server passes over: another unit, several ranges, no number, of other content.
    Whole,
    /// Both ends included.
    Part { first: u64, last: u64 },
    /// It starts behind the end.
    Outside,
    /// The client has it.
    NotModified,
    /// The client asks for content that is there no more.
    Changed,
}

/// What a request asks of a file of `size` bytes whose content has the tag `etag`, quotes included.
pub fn asked(method: &Method, headers: &HeaderMap, etag: &str, size: u64) -> Asked {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let lists = |listed: &str, weak: bool| {
        let mut tags = listed.split(',').map(str::trim);
        tags.any(|tag| tag == "*" || tag == etag || weak && tag.strip_prefix("W/") == Some(etag))
    };
    if headers.contains_key(header::IF_MATCH)
        && !text(header::IF_MATCH).is_some_and(|listed| lists(listed, false))
    {
        return Asked::Changed;
    }
    if text(header::IF_NONE_MATCH).is_some_and(|listed| lists(listed, true)) {
        return Asked::NotModified;
    }
    let stale = headers.contains_key(header::IF_RANGE) && text(header::IF_RANGE) != Some(etag);
    if *method != Method::GET || stale {
        return Asked::Whole;
    }
    text(header::RANGE)
        .and_then(|value| part(value, size))
        .unwrap_or(Asked::Whole)
}

fn part(value: &str, size: u64) -> Option<Asked> {
    let (unit, range) = value.split_once('=')?;
    let (first, last) = range
        .split_once('-')
        .filter(|_| unit.eq_ignore_ascii_case("bytes"))?;
    let end = size.checked_sub(1);
    let (first, last) = match (first, last) {
        ("", suffix) => match (number(suffix)?, end) {
            (0, _) => return Some(Asked::Outside),
            (bytes, Some(end)) => (size.saturating_sub(bytes), Some(end)),
            (_, None) => return None,
        },
        (first, "") => (number(first)?, end),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            (first, end.map(|end| last.min(end)))
        }
    };
    match last {
        Some(last) if first <= last => Some(Asked::Part { first, last }),
        _ => Some(Asked::Outside),
    }
}

/// Digits alone; what is larger than any file lies behind its end.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(size: u64, lines: &[(&'static str, &str)]) -> Asked {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(*name, value.parse().unwrap());
        }
        asked(&Method::GET, &headers, "\"now\"", size)
    }

    #[test]
    fn ranges_mean_what_the_standard_says() {
        let of_ten = |value: &str| of(10, &[("range", value)]);
        let part = |first, last| Asked::Part { first, last };
        assert_eq!(of(10, &[]), Asked::Whole);
        assert_eq!(of_ten("bytes=0-0"), part(0, 0));
        assert_eq!(of_ten("Bytes=4-"), part(4, 9));
        assert_eq!(of_ten("bytes=4-99999999999999999999"), part(4, 9));
        assert_eq!(of_ten("bytes=-99"), part(0, 9));
        assert_eq!(of_ten("bytes=-0"), Asked::Outside);
        assert_eq!(of_ten("bytes=10-12"), Asked::Outside);
        for ignored in [
            "bytes=5-4",
            "bytes=0-1,4-5",
            "lines=1-2",
            "bytes=x-",
            "bytes",
            "bytes=+1-2",
            "bytes=-",
        ] {
            assert_eq!(of_ten(ignored), Asked::Whole, "{ignored}");
        }
        assert_eq!(of(0, &[("range", "bytes=0-")]), Asked::Outside);
        assert_eq!(of(0, &[("range", "bytes=-1")]), Asked::Whole);
    }

    #[test]
    fn tags_go_before_ranges() {
        let with = |name, value: &str| of(10, &[("range", "bytes=0-1"), (name, value)]);
        let part = Asked::Part { first: 0, last: 1 };
        assert_eq!(with("if-range", "\"now\""), part);
        for stale in ["\"then\"", "W/\"now\"", "Sun, 06 Nov 1994 08:49:37 GMT", "*"] {
            assert_eq!(with("if-range", stale), Asked::Whole, "{stale}");
        }
        for same in ["\"now\"", "W/\"now\"", "\"a\", \"now\"", "*"] {
            assert_eq!(with("if-none-match", same), Asked::NotModified, "{same}");
        }
        assert_eq!(with("if-none-match", "\"then\""), part);
        assert_eq!(with("if-match", "\"now\""), part);
        assert_eq!(with("if-match", "W/\"now\""), Asked::Changed);
    }
}
