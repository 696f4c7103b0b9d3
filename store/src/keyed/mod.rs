//! Datasets sorted by a key: records are taken apart, sorted outside memory, cut between keys, and found again.
//!
//! A key index, a blob of its own, has the first key of every 16 KiB or so. The shards' ranges are in the meta. So a
//! look-up is two binary searches and a scan of one block, whatever the size of the dataset.

mod csv;
mod cut;
mod extract;
mod find;
mod index;
mod json;
mod records;
mod sort;

use std::io::Read;

use nearfield_protocol::Split;
use nearfield_protocol::meta::KeyMeta;

pub(crate) use extract::Extract;
pub(crate) use find::find;
pub(crate) use index::KeyIndex;
#[cfg(any(test, fuzzing))]
pub(crate) use json::follow;

use crate::cut::{CutError, CutOptions, Emit};
use crate::decompress::decompress;
use csv::{Checker, Column};
use cut::KeyedCutter;
use extract::Pointer;
use records::RecordReader;
use sort::Sorter;

/// What sorting adds to a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keyed {
    pub meta: KeyMeta,
    /// A [`KeyIndex`].
    pub index: Vec<u8>,
}

/// Sorts the records of a CSV or ndjson stream by the key called `name` and cuts them. Records of the same key keep
/// their order; empty lines are left out; every record ends with a line end; a byte order mark stays in front. What a reader
/// might take for other records than these is refused.
///
/// Memory: one run of the sort (64 MiB) or the buffers of a merge (32 MiB), and a window of the cutter.
pub(crate) fn cut_sorted(
    input: &mut dyn Read,
    source: &str,
    name: &str,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<Keyed, CutError> {
    let read = |error| CutError::Read {
        name: source.to_owned(),
        error,
    };
    let mut plain = decompress(input).map_err(read)?;
    let mut records = RecordReader::open(&mut *plain, source, options.split)?;
    let (mut extract, mut checker, begin) = match options.split {
        Split::Csv => {
            let header = records.header()?;
            let column = Column::of(source, name, &header)?;
            (
                Extract::Column(column.clone()),
                Some(Checker::of(&column)),
                header,
            )
        }
        _ => (Extract::Pointer(Pointer::strict(name)), None, records.mark()),
    };
    let mut sorter = Sorter::new(&options.spill_dir);
    while let Some(record) = records.next()? {
        let checked = match &mut checker {
            Some(checker) => checker.check(record.bytes, record.number),
            None => Ok(()),
        };
        let key = checked.and_then(|()| extract.key(record.bytes));
        let key = key.map_err(|reason| CutError::Key {
            name: source.to_owned(),
            record: record.number,
            offset: record.offset,
            reason,
        })?;
        sorter.push(key, record.bytes).map_err(CutError::Io)?;
    }
    let mut cutter = KeyedCutter::new(source, begin, options);
    sorter.finish(|key, record| cutter.push(key, record, emit))?;
    let (ranges, index) = cutter.finish(emit)?;
    let exact_numbers = match &extract {
        Extract::Pointer(pointer) => pointer.differed(),
        Extract::Column(_) => false,
    };
    Ok(Keyed {
        meta: KeyMeta {
            name: name.to_owned(),
            ranges,
            exact_numbers,
        },
        index,
    })
}

#[cfg(test)]
mod odd;
#[cfg(test)]
mod tests;
