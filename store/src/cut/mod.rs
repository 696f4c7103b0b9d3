//! Cuts a stream or a folder into shards, in one pass and bounded memory.
//!
//! Where a cut falls depends on the bytes since the last cut alone (for CSV also on the quotes before them),
//! never on how many bytes a read returned. So an edit changes the shards around it, and the others keep
//! their digests.
//!
//! Memory: two windows of four times the shard size, 32 MiB for the largest, plus what a decompressor needs.

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
    #[error(
        "the record of `{name}` that begins at byte {offset} is longer than {} MiB (in csv, look for an \
         unclosed quote); put it with `--split bytes`",
        limits::RECORD_BYTES >> 20
    )]
    RecordTooLong { name: String, offset: u64 },
    #[error(
        "the header record of `{name}` is longer than {} KiB (look for an unclosed quote); put it with \
         `--split lines` or `--split bytes`",
        HEADER_BYTES >> 10
    )]
    HeaderTooLong { name: String },
    #[error("`{name}` cannot be sorted: it has no column `{key}`: it has {columns}")]
    NoColumn {
        name: String,
        key: String,
        columns: String,
    },
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

/// Cuts one file or stream. gzip and zstd are decompressed first, unless the split is `none` or `files`, which
/// keep the bytes as they are in one shard. Empty input gives no shard. `appended_to` is the header of a CSV file that
/// this follows: the same header is left out.
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
    let mut begin = Vec::with_capacity(header.len());
    let read = plain.by_ref().take(header.len() as u64).read_to_end(&mut begin);
    read.map_err(|error| CutError::Read {
        name: source.to_owned(),
        error,
    })?;
    match begin == header[..] {
        true => stream::cut_rest(&mut *plain, source, Some(header.clone()), options, emit),
        false => stream::cut_file(&mut begin.as_slice().chain(plain), source, options, emit),
    }
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
mod tests;
