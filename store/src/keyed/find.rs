//! The records of a key, in the block that may hold them.

use std::ops::Range;

use nearfield_protocol::Split;

use super::extract::Extract;
use crate::cut::records::{Records, Search};

/// Where in `block`, which begins and ends with records of a dataset sorted by a key, the records of `key` lie.
pub(crate) fn find(
    mut extract: Extract,
    split: Split,
    block: &[u8],
    key: &[u8],
) -> Result<Option<Range<usize>>, String> {
    let records = Records::new(split).ok_or("its split has no records")?;
    let (mut at, mut found) = (0, None::<Range<usize>>);
    while at < block.len() {
        let rest = &block[at..];
        let len = match records.clone().search(rest, 1, true) {
            Ok(Search::End(len) | Search::More(len)) => len,
            Err(_) => return Err("a record is too long".to_owned()),
        };
        let this = extract.key(&rest[..len])?;
        if this > key {
            break;
        }
        if this == key {
            found.get_or_insert(at..at).end = at + len;
        }
        at += len;
    }
    Ok(found)
}
