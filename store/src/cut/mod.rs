//! Cuts a stream or a folder into shards, in one pass and bounded memory.
//!
//! Where a cut falls depends on the bytes since the last cut alone (for CSV also on the quotes before them),
//! never on how many bytes a read returned. So an edit changes the shards around it, and the others keep
//! their digests.
//!
//! Memory: two windows of four times the shard size, 32 MiB for the largest, plus what a decompressor needs.

mod archive;
mod folder;
pub(crate) mod records;
pub(crate) mod stream;

use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use nearfield_protocol::{Split, limits};

pub use crate::spool::{ShardData, SpooledFile};

pub(crate) use stream::copy;

use crate::decompress::decompress;
use crate::form::{BYTE_ORDER_MARK, Foreign};
use crate::path_index::PathIndexBuilder;

/// The longest CSV header: a copy of it goes into the dataset's meta and is offered with every shard.
pub const HEADER_BYTES: usize = 1 << 20;

#[derive(Debug, Clone)]
pub struct CutOptions {
    pub split: Split,
    /// The average that fastcdc aims at, 64 KiB to 4 MiB. It looks for a cut from a quarter to four times of it.
    pub shard_size_bytes: u32,
    /// Where shards over 16 MiB go while they grow.
    pub spill_dir: PathBuf,
}

/// One piece of the input. The pieces of a file, one after another, are the file.
#[derive(Debug)]
pub struct CutShard {
    /// Shards in memory share the window that they were read into: drop one before asking for many more.
    pub data: ShardData,
    /// The file it was cut from; none for a pack.
    pub source: Option<String>,
    /// The header record of its CSV file, line end included. The file's first shard begins with it, and
    /// no other shard does.
    pub header: Option<Bytes>,
}

/// Takes the shards in order; its error ends the cutting.
pub type Emit<'a> = dyn FnMut(CutShard) -> io::Result<()> + 'a;

#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error("cannot read `{name}`: {error}; check that it is whole and put it again")]
    Read { name: String, error: io::Error },
    #[error("cannot use the spill folder: {0}; free some space there and put it again")]
    Io(io::Error),
    #[error("cannot keep a shard: {0}")]
    Emit(io::Error),
    #[error("`{name}` is {what}, and `{split}` cuts text in UTF-8: {next}; `--split none` keeps it as it is")]
    Foreign {
        name: String,
        split: Split,
        /// Goes on from "it is".
        what: String,
        next: String,
    },
    #[error(
        "the record of `{name}` that begins at byte {offset} is longer than {} MiB (in csv, look for an \
         unclosed quote, and for line ends of CR alone); put it with `--split bytes`",
        limits::RECORD_BYTES >> 20
    )]
    RecordTooLong { name: String, offset: u64 },
    #[error(
        "the header record of `{name}` is longer than {} KiB (look for an unclosed quote, and for line ends of CR \
         alone); put it with `--split lines` or `--split bytes`",
        HEADER_BYTES >> 10
    )]
    HeaderTooLong { name: String },
    #[error(
        "`{name}` cannot be sorted: it has no column `{key}`: it has {columns}; name one of them, as it is written there"
    )]
    NoColumn {
        name: String,
        key: String,
        /// With what separates them.
        columns: String,
    },
    #[error(
        "`{name}` cannot be sorted: it has {times} columns `{key}`; rename all but one, or choose another key"
    )]
    SameColumns { name: String, key: String, times: usize },
    #[error(
        "`{name}` cannot be sorted: a CR alone stands at byte {offset}, and only LF and CRLF end records; make one of \
         them of it first, with `tr '\\r' '\\n' < {name}`, or put it without `--key`"
    )]
    LoneCr { name: String, offset: u64 },
    #[error(
        "`{name}` cannot be sorted: record {record}, at byte {offset}, {reason}; mend it, or choose another key"
    )]
    Key {
        name: String,
        record: u64,
        offset: u64,
        reason: String,
    },
    #[error("`{name}` is cut as `{split}`: only csv or ndjson has keys; say which with `--split`")]
    NoKeys { name: String, split: Split },
    #[error(
        "the records of `{name}` with the key `{key}` are more than {} MiB: choose a key that tells them apart",
        limits::KEY_RECORDS_BYTES >> 20
    )]
    KeyTooCommon { name: String, key: String },
    #[error("cannot read the folder's tar stream: {0}; send a whole, uncompressed tar archive")]
    Tar(String),
    #[error("the path `{path}` {reason}; rename it or leave it out")]
    BadPath { path: String, reason: &'static str },
    #[error(
        "`{path}` is a {kind}, which a dataset cannot hold; leave it out or replace it with a plain file"
    )]
    Unsupported { path: String, kind: &'static str },
}

impl CutError {
    /// If `bytes`, with which the file `name` begins, are not text that `split` can cut.
    pub(crate) fn unlike_text(name: &str, split: Split, bytes: &[u8]) -> Result<(), CutError> {
        match Foreign::of(name, bytes).filter(|_| split.is_text()) {
            None => Ok(()),
            Some(foreign) => Err(CutError::Foreign {
                name: name.to_owned(),
                split,
                next: foreign.next(name),
                what: foreign.what,
            }),
        }
    }
}

/// Cuts one file or stream. gzip and zstd are decompressed first, unless the split is `none` or `files`, which
/// keep the bytes as they are in one shard; what is then no text is refused by a split of text. Empty input gives no shard.
/// `appended_to` is the header of a CSV file that this follows: the same header is left out.
pub fn cut_stream(
    input: &mut dyn Read,
    source: &str,
    appended_to: Option<&Bytes>,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<(), CutError> {
    if matches!(options.split, Split::None | Split::Files) {
        return stream::cut_file(input, source, options, emit);
    }
    let mut plain = decompress(input).map_err(|error| CutError::Read {
        name: source.to_owned(),
        error,
    })?;
    let Some(header) = appended_to else {
        return stream::cut_file(&mut *plain, source, options, emit);
    };
    let most = 2 * header.len() + BYTE_ORDER_MARK.len() + LINE_END_BYTES;
    let mut begin = Vec::with_capacity(most);
    let read = plain.by_ref().take(most as u64).read_to_end(&mut begin);
    read.map_err(|error| CutError::Read {
        name: source.to_owned(),
        error,
    })?;
    match behind_same_header(&begin, header) {
        Some(rest) => {
            let mut rest = rest.chain(plain);
            stream::cut_rest(&mut rest, source, Some(header.clone()), options, emit)
        }
        None => stream::cut_file(&mut begin.as_slice().chain(plain), source, options, emit),
    }
}

/// Of a CRLF.
const LINE_END_BYTES: usize = 2;

/// What follows the header in `begin`, the beginning of a CSV file, if its header is `header`, with or without a byte order mark.
/// None as well if the header stands there twice: then the second is a record, which must not be taken for a header.
fn behind_same_header<'a>(begin: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let text = without_mark(header);
    let rest = without_mark(begin).strip_prefix(text)?;
    let is_record = match text.last() {
        None => false,
        Some(b'\n') => true,
        // A header that nothing followed: this ends its line.
        Some(_) => {
            nearfield_csv::lone_cr(text).is_none()
                && (rest.is_empty() || rest.starts_with(b"\n") || rest.starts_with(b"\r\n"))
        }
    };
    (is_record && !rest.starts_with(header)).then_some(rest)
}

pub(crate) fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)
}

/// Whether a record ends where `bytes` do, which begin with one.
pub(crate) fn ends_record(bytes: &[u8], split: Split) -> bool {
    let search = records::Records::new(split).map(|mut records| records.search(bytes, bytes.len(), false));
    matches!(search, Some(Ok(records::Search::End(end))) if end == bytes.len())
}

/// Cuts a file as it is. With `rest_of`, `input` follows a cut; within it is the header of a CSV file.
pub(crate) fn cut_plain(
    input: &mut dyn Read,
    source: &str,
    rest_of: Option<Option<Bytes>>,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<(), CutError> {
    match rest_of {
        None => stream::cut_file(input, source, options, emit),
        Some(header) => stream::cut_rest(input, source, header, options, emit),
    }
}

/// Cuts a folder that arrives as a tar stream, its entries in the byte order of their full paths (a folder
/// may stand with or without its trailing slash). `files` makes packs of it; any other split cuts each file
/// alone and as it is, compressed or not, so that the folder comes back identical. All paths get `prefix` before them.
pub fn cut_folder(
    tar: &mut dyn Read,
    prefix: &str,
    options: &CutOptions,
    emit: &mut Emit<'_>,
) -> Result<PathIndexBuilder, CutError> {
    folder::cut_folder(tar, prefix, options, emit)
}

#[cfg(test)]
mod odd;
#[cfg(test)]
mod tests;
