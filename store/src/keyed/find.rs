//! The records of a key, in the block that may hold them.

use std::cmp::Ordering;
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
    let mut at = match split {
        Split::Lines | Split::Ndjson => first_line(&mut extract, block, key)?,
        // Line ends between quotes end no record.
        Split::Csv if !block.contains(&b'"') => first_line(&mut extract, block, key)?,
        _ => 0,
    };
    let mut found = None::<Range<usize>>;
    while at < block.len() {
        let rest = &block[at..];
        let len = match records.clone().search(rest, 1, true) {
            Ok(Search::End(len) | Search::More(len)) => len,
            Err(_) => return Err("a record is too long".to_owned()),
        };
        match extract.key(&rest[..len])?.cmp(key) {
            Ordering::Less => {}
            Ordering::Equal => found.get_or_insert(at..at).end = at + len,
            Ordering::Greater => break,
        }
        at += len;
    }
    Ok(found)
}

/// Where the first line begins whose key is not less than `key`, in lines that are sorted: by halves.
fn first_line(extract: &mut Extract, block: &[u8], key: &[u8]) -> Result<usize, String> {
    let line_end = |bytes: &[u8]| bytes.iter().position(|&byte| byte == b'\n');
    let (mut low, mut high) = (0, block.len());
    while low < high {
        let middle = low + (high - low) / 2;
        // The line that the middle lies in.
        let before = block[low..middle].iter().rposition(|&byte| byte == b'\n');
        let start = before.map_or(low, |at| low + at + 1);
        let end = line_end(&block[middle..]).map_or(block.len(), |at| middle + at + 1);
        match extract.key(&block[start..end])? < key {
            true => low = end,
            false => high = start,
        }
    }
    Ok(low)
}
