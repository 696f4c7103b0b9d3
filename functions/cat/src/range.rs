//! `Range` headers (RFC 9110, section 14) of a single range.

use nearfield::HeaderValue;

#[derive(Debug, PartialEq, Eq)]
pub enum Range {
    /// None is asked for, or in a way that a server may pass over: another unit, several ranges, no number.
    Whole,
    /// Both ends included.
    Part { first: u64, last: u64 },
    /// It starts behind the end.
    Outside,
}

/// What a header asks of a file of `size` bytes.
pub fn parse(header: Option<&HeaderValue>, size: u64) -> Range {
    header
        .and_then(|value| parts(value.to_str().ok()?, size))
        .unwrap_or(Range::Whole)
}

fn parts(value: &str, size: u64) -> Option<Range> {
    let (first, last) = match value.strip_prefix("bytes=")?.trim().split_once('-')? {
        ("", suffix) => (size.saturating_sub(suffix.parse().ok()?), size.checked_sub(1)),
        (first, "") => (first.parse().ok()?, size.checked_sub(1)),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse::<u64>().ok()?);
            if last < first {
                return None;
            }
            (first, size.checked_sub(1).map(|end| last.min(end)))
        }
    };
    match last {
        Some(last) if first <= last => Some(Range::Part { first, last }),
        _ => Some(Range::Outside),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_the_standard_says() {
        let of_ten = |value: &'static str| parse(Some(&HeaderValue::from_static(value)), 10);
        assert_eq!(parse(None, 10), Range::Whole);
        assert_eq!(of_ten("bytes=0-0"), Range::Part { first: 0, last: 0 });
        assert_eq!(of_ten("bytes=4-"), Range::Part { first: 4, last: 9 });
        assert_eq!(of_ten("bytes=4-99"), Range::Part { first: 4, last: 9 });
        assert_eq!(of_ten("bytes=-99"), Range::Part { first: 0, last: 9 });
        assert_eq!(of_ten("bytes=-0"), Range::Outside);
        assert_eq!(of_ten("bytes=10-12"), Range::Outside);
        for ignored in ["bytes=5-4", "bytes=0-1,4-5", "lines=1-2", "bytes=x-", "bytes"] {
            assert_eq!(of_ten(ignored), Range::Whole, "{ignored}");
        }
        assert_eq!(
            parse(Some(&HeaderValue::from_static("bytes=0-")), 0),
            Range::Outside
        );
    }
}
