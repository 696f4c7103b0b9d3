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
    let ends = record_ends(split, block)?;
    let record = |index: usize| {
        let start = index.checked_sub(1).map_or(0, |before| ends[before]);
        start as usize..ends[index] as usize
    };
    // By halves: to find the records of a block costs less than to find their keys.
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match extract.key(&block[record(middle)])? < key {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    let mut found = None::<Range<usize>>;
    for record in (low..ends.len()).map(record) {
        if extract.key(&block[record.clone()])? != key {
            break;
        }
        found.get_or_insert(record.clone()).end = record.end;
    }
    Ok(found)
}

/// Four bytes a record: a block is a few KiB, but all records of one key are in one, and may be a shard.
fn record_ends(split: Split, block: &[u8]) -> Result<Vec<u32>, String> {
    let mut search = Records::new(split).ok_or("its split has no records")?;
    let (mut ends, mut at) = (Vec::new(), 0);
    while at < block.len() {
        match search.search(&block[at..], 1, true) {
            Ok(Search::End(len) | Search::More(len)) => at += len,
            Err(_) => return Err("a record is too long".to_owned()),
        }
        ends.push(u32::try_from(at).map_err(|_| "the block is too long")?);
    }
    Ok(ends)
}
