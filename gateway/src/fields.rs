//! Header fields that are lists.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The entries of a list header, of all its lines, in their order (RFC 9110 §5.3).
pub fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl DoubleEndedIterator<Item = &'a str> {
    let lines: Vec<_> = headers.get_all(name).iter().collect();
    lines
        .into_iter()
        .filter_map(|line: &HeaderValue| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
}
