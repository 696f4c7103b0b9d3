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
    let records = records(split, block)?;
    // By halves: to find the records of a block costs less than to find their keys.
    let (mut low, mut high) = (0, records.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match extract.key(&block[records[middle].clone()])? < key {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    let mut found = None::<Range<usize>>;
    for record in &records[low..] {
        if extract.key(&block[record.clone()])? != key {
            break;
        }
        found.get_or_insert(record.clone()).end = record.end;
    }
    Ok(found)
}

fn records(split: Split, block: &[u8]) -> Result<Vec<Range<usize>>, String> {
    let mut search = Records::new(split).ok_or("its split has no records")?;
    let (mut records, mut at) = (Vec::new(), 0);
    while at < block.len() {
        match search.search(&block[at..], 1, true) {
            Ok(Search::End(len) | Search::More(len)) => records.push(at..at + len),
            Err(_) => return Err("a record is too long".to_owned()),
        }
        at = records.last().map_or(at, |record| record.end);
    }
    Ok(records)
}
