//! What bytes from outside are read by here, each as a function of any bytes that panics where something does not hold.
//!
//! Shards are cut far smaller than real ones, so that an input of some KiB becomes several.

use std::io::{self, Read};

use bytes::Bytes;
use nearfield_protocol::meta::{DatasetMeta, KeyMeta, ShardMeta};
use nearfield_protocol::{Digest, Split, limits};
use serde_json::Value;

use crate::cut::records::{Records, Search};
use crate::cut::{self, CutError, CutOptions, CutShard, ShardData};
use crate::decompress::decompress;
use crate::form::{BYTE_ORDER_MARK, Compression};
use crate::in_place::groups::Groups;
use crate::keyed::{self, Extract, KeyIndex, Keyed};
use crate::left_out::LeftOut;
use crate::pack::write_folder_tar;
use crate::path_index::{Entry, PathIndex, check_path};
use crate::written;

/// Shards are cut towards this.
const SHARD_BYTES: u32 = 1 << 10;
/// So much of what an input becomes is looked at: a few bytes of gzip can be many of text.
const LOOKED_AT: usize = 1 << 20;
const SPLITS: [Split; 8] = [
    Split::Files,
    Split::Lines,
    Split::Csv,
    Split::Ndjson,
    Split::Bytes,
    Split::None,
    Split::Fixed(std::num::NonZeroU32::new(7).unwrap()),
    Split::Fixed(std::num::NonZeroU32::new(700).unwrap()),
];

/// A folder's archive, behind a byte that chooses the split. What is taken comes back as an archive that gives the same folder.
pub fn tar(bytes: &[u8]) {
    let Some((split, archive)) = chosen(bytes) else {
        return;
    };
    let folder = cut_folder(&mut &archive[..], split);
    let in_pieces = cut_folder(&mut Pieces::of(archive), split);
    let (Ok((index, shards)), Ok(in_pieces)) = (&folder, &in_pieces) else {
        assert!(folder.is_err() && in_pieces.is_err(), "pieces change nothing");
        return;
    };
    assert_eq!(&in_pieces.0, index);
    assert_eq!(&in_pieces.1, shards);
    let index = PathIndex::parse(&index[..]).unwrap();
    assert_eq!(index.iter().count() as u64, index.len());
    for entry in index.iter() {
        assert_eq!(check_path(&entry.path), Ok(()));
        assert_eq!(index.get(&entry.path), Some(entry));
    }
    let mut again = Vec::new();
    write_folder_tar(
        &index,
        &mut |shard, offset, most| piece(shards, shard, offset, most),
        &mut again,
    )
    .unwrap();
    let (index_again, shards_again) = cut_folder(&mut &again[..], split).unwrap();
    assert_eq!(
        PathIndex::parse(&index_again[..])
            .unwrap()
            .iter()
            .collect::<Vec<_>>(),
        index.iter().collect::<Vec<_>>()
    );
    assert_eq!(&shards_again, shards);
}

/// The path index of a folder, which another node may have made: whatever it says, a search ends and finds what it was asked for.
pub fn path_index(bytes: &[u8]) {
    let Ok(index) = PathIndex::parse(bytes) else {
        return;
    };
    let entries: Vec<Entry> = index.iter().collect();
    assert!(entries.len() as u64 <= index.len());
    assert!(entries.is_sorted_by(|one, next| one.key() < next.key()));
    for path in entries
        .iter()
        .map(|entry| entry.path.as_str())
        .take(64)
        .chain(["a", "a/b"])
    {
        assert!(index.get(path).is_none_or(|entry| entry.path == path));
        let below = format!("{path}/");
        assert!(index.prefix(path).all(|entry| entry.key().starts_with(&below)));
        assert!(index.behind(path).all(|entry| entry.key().as_str() > path));
        let _ = index.follow(path);
    }
    let shards = [vec![1; 100], vec![2; 50]];
    let mut out = Limited(LOOKED_AT);
    let _ = write_folder_tar(
        &index,
        &mut |shard, offset, most| piece(&shards, shard, offset, most),
        &mut out,
    );
}

/// The key index of a sorted dataset, which another node may have made. Any key is looked for, also those in it.
pub fn key_index(bytes: &[u8]) {
    let Ok(index) = KeyIndex::parse(bytes) else { return };
    let pieces = bytes.windows(3).step_by(7).take(256);
    for key in pieces.chain([&b""[..], &[0xff; 8]]) {
        let _ = index.block_of(key);
    }
}

/// A stream, behind a byte that chooses the split. Its shards are its bytes, however they come.
pub fn cut(bytes: &[u8]) {
    let Some((split, input)) = chosen(bytes) else {
        return;
    };
    let cut = cut_stream(&mut &input[..], split, None);
    let in_pieces = cut_stream(&mut Pieces::of(input), split, None);
    assert_eq!(
        cut.as_ref().ok(),
        in_pieces.as_ref().ok(),
        "pieces change nothing"
    );
    // Behind a file with the same header, it is left out.
    let header = input
        .split_inclusive(|&byte| byte == b'\n')
        .next()
        .map(Bytes::copy_from_slice);
    let appended = cut_stream(&mut &input[..], split, header.as_ref());
    let Ok(shards) = cut else { return };
    let plain = match split {
        Split::None | Split::Files => input[..input.len().min(LOOKED_AT)].to_vec(),
        _ => plain(&mut &input[..]).0,
    };
    let joined = shards.concat();
    let looked_at = joined.len().min(plain.len());
    assert_eq!(joined[..looked_at], plain[..looked_at]);
    let whole = joined.len() < LOOKED_AT && plain.len() < LOOKED_AT;
    if whole {
        assert_eq!(joined.len(), plain.len());
        assert!(appended.is_err() || plain.ends_with(&appended.unwrap_or_default().concat()));
    }
    if split.is_text()
        && let [shards @ .., _] = &shards[..]
    {
        assert!(shards.iter().all(|shard| cut::ends_record(shard, split)));
    }
}

/// A table or a file of JSON values to be sorted: a byte that chooses which, a line with the key's name, then the file. Every
/// record is found by its key.
pub fn keyed(bytes: &[u8]) {
    let Some((&choice, rest)) = bytes.split_first() else {
        return;
    };
    let split = [Split::Csv, Split::Ndjson][usize::from(choice % 2)];
    let Some((name, input)) = split_line(rest) else {
        return;
    };
    let sorted = cut_sorted(&mut &input[..], name, split);
    let in_pieces = cut_sorted(&mut Pieces::of(input), name, split);
    assert_eq!(
        sorted.as_ref().ok(),
        in_pieces.as_ref().ok(),
        "pieces change nothing"
    );
    let Ok((Keyed { meta: key, index }, shards, header)) = sorted else {
        return;
    };
    let shard = |shard: &Vec<u8>| ShardMeta {
        size_bytes: shard.len() as u64,
        source: None,
        header: None,
    };
    let meta = DatasetMeta {
        split,
        split_version: Split::VERSION,
        shard_size_bytes: SHARD_BYTES,
        folder: false,
        size_bytes: shards.iter().map(|shard| shard.len() as u64).sum(),
        sources: Vec::new(),
        headers: header.iter().map(|header| header.to_vec()).collect(),
        shards: shards.iter().map(shard).collect(),
        parts: Vec::new(),
        key: Some(key.clone()),
    };
    assert!(DatasetMeta::decode(&meta.encode()).is_ok_and(|read| read == meta));
    if let Some(first) = shards.first() {
        let mark = if first.starts_with(BYTE_ORDER_MARK) {
            BYTE_ORDER_MARK.len()
        } else {
            0
        };
        let begin = header.map_or(mark, |header| header.len());
        records_are_found(&meta, &key, &index, &shards, begin);
    }
}

/// Looks for the first records of the first shards.
fn records_are_found(meta: &DatasetMeta, key: &KeyMeta, index: &[u8], shards: &[Vec<u8>], begin: usize) {
    let index = KeyIndex::parse(index).unwrap();
    let mut extract = Extract::of(meta, key).unwrap();
    let mut last = Vec::new();
    for (number, shard) in shards.iter().enumerate().take(8) {
        let mut at = if number == 0 { begin } else { 0 };
        for _ in 0..4 {
            if at == shard.len() {
                break;
            }
            let mut records = Records::new(meta.split).unwrap();
            let Search::End(len) = records.search(&shard[at..], 1, true).unwrap() else {
                panic!("a record of shard {number} has no end");
            };
            let record = at..at + len;
            let of = extract.key(&shard[record.clone()]).unwrap().to_vec();
            assert!(of.len() <= limits::KEY_BYTES && last <= of);
            assert_eq!(key.shard_of(&of), Some(number as u32));
            let block = index.block_of(&of).unwrap();
            assert_eq!(block.shard, number as u32);
            let start = block.offset as usize;
            let end = block.end.map_or(shard.len(), |end| end as usize);
            let found = keyed::find(extract.clone(), meta.split, &shard[start..end], &of)
                .unwrap()
                .unwrap();
            assert!(start + found.start <= record.start && record.end <= start + found.end);
            last = of;
            at = record.end;
        }
    }
}

/// A line with a pointer, then a JSON value: the pointer leads to what serde_json's leads to.
pub fn json_pointer(bytes: &[u8]) {
    let Some((pointer, json)) = split_line(bytes) else {
        return;
    };
    let Ok(value) = serde_json::from_slice::<Value>(json) else {
        return;
    };
    let tokens: Vec<String> = pointer.split('/').map(str::to_owned).collect();
    let found = keyed::follow(json, &tokens);
    if found.twice.is_some() {
        return;
    }
    let escaped = tokens
        .iter()
        .map(|token| format!("/{}", token.replace('~', "~0")));
    let reference = value.pointer(&escaped.collect::<String>());
    let leaf = reference.filter(|value| !value.is_array() && !value.is_object() && !value.is_null());
    let found: Option<Value> = found
        .leaf
        .map(|leaf| serde_json::from_slice(&json[leaf]).unwrap());
    assert_eq!(found.as_ref(), leaf);
}

/// A stream that may be gzip or zstd: it gives the same however it comes, and anything else is left as it is.
pub fn compressed(bytes: &[u8]) {
    let (whole, ended) = plain(&mut &bytes[..]);
    let (in_pieces, ended_in_pieces) = plain(&mut Pieces::of(bytes));
    if Compression::of(bytes).is_none() {
        assert_eq!((&whole[..], ended), (bytes, true));
    }
    if ended {
        assert_eq!(whole, in_pieces);
    }
    assert_eq!(ended, ended_in_pieces);
}

/// What runs of a job wrote, as another host sends it: two blobs, behind the length of the first.
pub fn written(bytes: &[u8]) {
    let Some((&[low, high], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let first = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
    let blobs = || {
        vec![
            Bytes::copy_from_slice(&rest[..first]),
            Bytes::copy_from_slice(&rest[first..]),
        ]
    };
    for blob in blobs() {
        let files: Vec<_> = written::Files(blob.clone()).collect();
        let encoded = written::encode(files.iter().map(|file| (file.path.as_str(), &file.content[..])));
        assert!(blob.starts_with(&encoded));
    }
    let mut archive = Vec::new();
    written::Tar::new(blobs()).read_to_end(&mut archive).unwrap();
    let folder = cut_folder(&mut &archive[..], Split::Files);
    if let (Ok(files), Ok((index, _))) = (written::count(blobs()), &folder) {
        assert_eq!(PathIndex::parse(&index[..]).unwrap().len(), files);
    }
}

/// The chaining values of a shard's groups, behind which the shard stands: only its own are taken.
pub fn groups(bytes: &[u8]) {
    let Some((&count, rest)) = bytes.split_first() else {
        return;
    };
    let Some((values, shard)) = rest.split_at_checked(32 * usize::from(count % 8)) else {
        return;
    };
    let own = Groups::of(shard);
    let size = shard.len() as u64;
    assert_eq!(own.digest(), Digest::of(shard));
    assert_eq!(
        Groups::parse(own.digest(), size, own.values().to_vec()).as_ref(),
        Some(&own)
    );
    for size in [size, size.saturating_sub(1), u64::MAX, u64::from(count) << 14] {
        let taken = Groups::parse(own.digest(), size, values.to_vec());
        assert!(taken.is_none_or(|taken| taken.values() == own.values()));
    }
}

/// A folder's `.nearfieldignore`, behind a line with a path.
pub fn left_out(bytes: &[u8]) {
    let Some((path, rules)) = split_line(bytes) else {
        return;
    };
    let Ok(rules) = str::from_utf8(rules) else { return };
    if let Ok(left_out) = LeftOut::new(&[], rules) {
        // A file stays out if it does itself.
        let alone = left_out.says(path.as_ref(), false) == Some(true);
        assert!(!alone || left_out.leaves_out_file(path));
    }
}

fn chosen(bytes: &[u8]) -> Option<(Split, &[u8])> {
    let (&choice, rest) = bytes.split_first()?;
    Some((SPLITS[usize::from(choice) % SPLITS.len()], rest))
}

/// The first line, if it is text, and what follows it.
fn split_line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    Some((str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn options(split: Split) -> CutOptions {
    CutOptions {
        split,
        shard_size_bytes: SHARD_BYTES,
        spill_dir: std::env::temp_dir(),
    }
}

/// Collects shards until there are enough.
fn collect(shards: &mut Vec<Vec<u8>>, shard: CutShard) -> io::Result<()> {
    let bytes = match shard.data {
        ShardData::Memory(bytes) => bytes.to_vec(),
        ShardData::Spilled(file) => std::fs::read(file.path())?,
    };
    assert!(!bytes.is_empty());
    if shards.iter().map(Vec::len).sum::<usize>() > LOOKED_AT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    shards.push(bytes);
    Ok(())
}

type Folder = (Vec<u8>, Vec<Vec<u8>>);

fn cut_folder(archive: &mut dyn Read, split: Split) -> Result<Folder, CutError> {
    let mut shards = Vec::new();
    let index = cut::cut_folder(archive, "", &options(split), &mut |shard| {
        collect(&mut shards, shard)
    })?;
    Ok((index.build(), shards))
}

/// The shards of a stream. Those of one that becomes too long are its first ones.
fn cut_stream(
    input: &mut dyn Read,
    split: Split,
    appended: Option<&Bytes>,
) -> Result<Vec<Vec<u8>>, CutError> {
    let mut shards = Vec::new();
    match cut::cut_stream(input, "input", appended, &options(split), &mut |shard| {
        collect(&mut shards, shard)
    }) {
        Ok(()) | Err(CutError::Emit(_)) => Ok(shards),
        Err(error) => Err(error),
    }
}

type Sorted = (Keyed, Vec<Vec<u8>>, Option<Bytes>);

fn cut_sorted(input: &mut dyn Read, name: &str, split: Split) -> Result<Sorted, CutError> {
    let (mut shards, mut header) = (Vec::new(), None);
    let keyed = keyed::cut_sorted(input, "input", name, &options(split), &mut |shard| {
        header = header.take().or(shard.header.clone());
        collect(&mut shards, shard)
    })?;
    Ok((keyed, shards, header))
}

/// The beginning of what a stream holds, and whether that is all of it.
fn plain(input: &mut dyn Read) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let read = decompress(input).and_then(|plain| plain.take(LOOKED_AT as u64).read_to_end(&mut bytes));
    (bytes, read.is_ok())
}

fn piece(shards: &[Vec<u8>], shard: u32, offset: u64, most: u64) -> io::Result<Vec<u8>> {
    let shard = shards.get(shard as usize).ok_or(io::ErrorKind::NotFound)?;
    let start = offset.min(shard.len() as u64) as usize;
    let end = offset.saturating_add(most).min(shard.len() as u64) as usize;
    Ok(shard[start..end].to_vec())
}

/// Gives its bytes in pieces of other lengths than anybody expects.
struct Pieces<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl<'a> Pieces<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let step = usize::from(bytes.last().copied().unwrap_or(0));
        Pieces { bytes, step }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.step = self.step.wrapping_mul(5).wrapping_add(3) % 521;
        let len = (self.step + 1).min(buffer.len());
        self.bytes.read(&mut buffer[..len])
    }
}

/// Takes so many bytes and no more.
struct Limited(usize);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
nearfield_mutate::targets!(
    tar,
    path_index,
    key_index,
    cut,
    keyed,
    json_pointer,
    compressed,
    written,
    groups,
    left_out,
);
