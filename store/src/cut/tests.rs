mod folders;

use std::collections::HashSet;
use std::io::{self, Cursor, Read, Write};
use std::num::NonZeroU32;

use nearfield_protocol::{Digest, Split, limits};
use proptest::prelude::*;

use super::{CutError, CutOptions, CutShard, HEADER_BYTES, ShardData, cut_folder, cut_stream};

const SHARD_BYTES: u32 = 64 << 10;

struct Shard {
    bytes: Vec<u8>,
    source: Option<String>,
    header: Option<Vec<u8>>,
    spilled: bool,
}

fn collect(into: &mut Vec<Shard>) -> impl FnMut(CutShard) -> io::Result<()> + '_ {
    |shard| {
        let (bytes, spilled) = match &shard.data {
            ShardData::Memory(bytes) => (bytes.to_vec(), false),
            ShardData::Spilled(file) => (std::fs::read(file.path())?, true),
        };
        assert_eq!(bytes.len() as u64, shard.data.len());
        assert!(!bytes.is_empty());
        into.push(Shard {
            bytes,
            source: shard.source,
            header: shard.header.map(|h| h.to_vec()),
            spilled,
        });
        Ok(())
    }
}

fn options(split: Split) -> CutOptions {
    CutOptions {
        split,
        shard_size_bytes: SHARD_BYTES,
        spill_dir: std::env::temp_dir(),
    }
}

fn cut_reader(input: &mut dyn Read, split: Split) -> Result<Vec<Shard>, CutError> {
    let mut shards = Vec::new();
    cut_stream(input, "input", None, &options(split), &mut collect(&mut shards))?;
    Ok(shards)
}

fn cut(mut bytes: &[u8], split: Split) -> Vec<Shard> {
    cut_reader(&mut bytes, split).unwrap()
}

fn digests(shards: &[Shard]) -> Vec<Digest> {
    shards.iter().map(|shard| Digest::of(&shard.bytes)).collect()
}

fn joined(shards: &[Shard]) -> Vec<u8> {
    shards
        .iter()
        .flat_map(|shard| shard.bytes.iter().copied())
        .collect()
}

/// Shards of `new` that `old` does not have.
fn changed(old: &[Shard], new: &[Shard]) -> usize {
    let old = digests(old).into_iter().collect::<HashSet<_>>();
    digests(new).iter().filter(|digest| !old.contains(digest)).count()
}

/// A small generator, so that a megabyte of input is one seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Returns a few bytes at a time, as a socket does.
struct ShortReads<'a>(&'a [u8], Random);

impl Read for ShortReads<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.below(50) == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let most = if self.1.below(4) == 0 { 7 } else { 40_000 };
        let len = self.1.below(most) + 1;
        let len = len.min(buffer.len()).min(self.0.len());
        buffer[..len].copy_from_slice(&self.0[..len]);
        self.0 = &self.0[len..];
        Ok(len)
    }
}

fn lines(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let mut text = Vec::with_capacity(size);
    while text.len() < size {
        // Now and then a line longer than the window.
        let len = if random.below(5000) == 0 {
            300_000
        } else {
            random.below(200)
        };
        text.extend((0..len).map(|_| b' ' + random.below(90) as u8));
        text.push(b'\n');
    }
    text.truncate(size);
    text
}

/// Well-formed CSV with every kind of quoting, and rows that equal the header.
fn csv(seed: u64, size: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let header = b"id,\"the \"\"name\"\"\nof it\",value\r\n";
    let mut text = header.to_vec();
    while text.len() < size {
        match random.below(8) {
            0 => text.extend_from_slice(header),
            1 => text.extend_from_slice(b"1,\"a\n\"\"b\"\",\n\",\"\"\n"),
            2 => text.extend_from_slice(b"\"\n\n\n\",2,3\r\n"),
            _ => writeln!(text, "{},{},{}", random.next(), random.below(1000), random.next()).unwrap(),
        }
    }
    text
}

/// The ends of records by the books: a line end outside quotes, where quotes come in pairs.
fn naive_ends(bytes: &[u8], quotes: bool) -> HashSet<usize> {
    let mut inside = false;
    let mut ends = HashSet::from([bytes.len()]);
    for (index, &byte) in bytes.iter().enumerate() {
        inside ^= quotes && byte == b'"';
        if byte == b'\n' && !inside {
            ends.insert(index + 1);
        }
    }
    ends
}

fn input(split: Split, seed: u64, size: usize) -> Vec<u8> {
    match split {
        Split::Csv => csv(seed, size),
        Split::Lines | Split::Ndjson => lines(seed, size),
        _ => Random(seed).bytes(size),
    }
}

fn assert_no_record_is_split(split: Split, bytes: &[u8], shards: &[Shard]) {
    let ends = match split {
        Split::Lines | Split::Ndjson => naive_ends(bytes, false),
        Split::Csv => naive_ends(bytes, true),
        Split::Fixed(size) => (0..bytes.len())
            .step_by(size.get() as usize)
            .chain([bytes.len()])
            .collect(),
        _ => return,
    };
    let mut end = 0;
    for shard in shards {
        end += shard.bytes.len();
        assert!(ends.contains(&end), "{split}: a cut at {end}");
    }
}

fn split() -> impl Strategy<Value = Split> {
    prop_oneof![
        Just(Split::Lines),
        Just(Split::Ndjson),
        Just(Split::Csv),
        Just(Split::Bytes),
        Just(Split::None),
        (1..200_000u32).prop_map(|size| Split::Fixed(NonZeroU32::new(size).unwrap())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn shards_are_the_input_cut_between_records(split in split(), seed: u64, size in 0..1_500_000usize) {
        let bytes = input(split, seed, size);
        let shards = cut(&bytes, split);
        prop_assert!(joined(&shards) == bytes);
        assert_no_record_is_split(split, &bytes, &shards);
        let short = cut_reader(&mut ShortReads(&bytes, Random(seed)), split).unwrap();
        prop_assert_eq!(digests(&shards), digests(&short));
        if split == Split::Csv {
            let header = b"id,\"the \"\"name\"\"\nof it\",value\r\n";
            prop_assert!(shards.iter().all(|shard| shard.header.as_deref() == Some(header)));
            prop_assert!(shards.iter().skip(1).all(|shard| !shard.bytes.starts_with(header)));
        }
    }

    #[test]
    fn an_edit_changes_the_shards_around_it(split in split(), seed: u64, at in any::<prop::sample::Index>()) {
        prop_assume!(!matches!(split, Split::Fixed(_) | Split::None));
        let bytes = input(split, seed, 2_000_000);
        let mut edited = bytes.clone();
        let record_end = (at.index(bytes.len())..bytes.len()).find(|&index| {
            split == Split::Bytes || edited[index..].starts_with(b"\n1,\"a") || split != Split::Csv && edited[index] == b'\n'
        });
        let at = record_end.unwrap_or(bytes.len() - 1) + 1;
        edited.splice(at..at, b"7,8,9\n".iter().copied());
        let (old, new) = (cut(&bytes, split), cut(&edited, split));
        prop_assert!(changed(&old, &new) <= 6, "{} of {} changed", changed(&old, &new), new.len());
    }
}

#[test]
fn arbitrary_bytes_with_quotes_are_cut_as_csv_without_loss() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let bytes = (0..600_000)
            .map(|_| b"\",;\n\rab"[random.below(7)])
            .collect::<Vec<_>>();
        let shards = cut(&bytes, Split::Csv);
        assert!(joined(&shards) == bytes);
        let short = cut_reader(&mut ShortReads(&bytes, Random(seed)), Split::Csv).unwrap();
        assert_eq!(digests(&shards), digests(&short));
    }
}

#[test]
fn shards_are_near_the_size_asked_for() {
    let shards = cut(&Random(1).bytes(4 << 20), Split::Bytes);
    assert!(
        (40..100).contains(&shards.len()),
        "{} shards of 64 KiB",
        shards.len()
    );
    assert!(
        shards
            .iter()
            .all(|shard| shard.bytes.len() <= 4 * SHARD_BYTES as usize)
    );
}

#[test]
fn empty_input_gives_no_shard() {
    for split in [Split::Lines, Split::Csv, Split::Bytes, Split::None, Split::Files] {
        assert!(cut(b"", split).is_empty());
    }
}

#[test]
fn a_header_without_rows_is_a_shard() {
    let shards = cut(b"a,b", Split::Csv);
    assert_eq!(
        (shards.len(), shards[0].header.as_deref()),
        (1, Some(&b"a,b"[..]))
    );
}

#[test]
fn rows_that_all_equal_the_header_stay_in_one_shard() {
    let bytes = b"a,b\n".repeat(300_000);
    let shards = cut(&bytes, Split::Csv);
    assert_eq!(shards.len(), 1);
    assert!(joined(&shards) == bytes);
}

#[test]
fn compressed_input_is_cut_like_the_plain_one() {
    let bytes = lines(3, 1 << 20);
    let plain = digests(&cut(&bytes, Split::Lines));
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (one, two) = bytes.split_at(bytes.len() / 3);
    assert_eq!(
        digests(&cut(&[gzip(one), gzip(two)].concat(), Split::Lines)),
        plain
    );
    let zstd = zstd::encode_all(&bytes[..], 1).unwrap();
    assert_eq!(digests(&cut(&zstd, Split::Lines)), plain);
    assert!(
        joined(&cut(&zstd, Split::None)) == zstd,
        "none keeps bytes as they are"
    );
}

#[test]
fn a_long_record_is_spilled() {
    let mut bytes = b"first\n".repeat(20_000);
    bytes.extend(std::iter::repeat_n(b'x', 20 << 20));
    bytes.extend(b"\nlast\n".repeat(20_000));
    let shards = cut(&bytes, Split::Lines);
    assert!(joined(&shards) == bytes);
    assert_eq!(shards.iter().filter(|shard| shard.spilled).count(), 1);
    assert!(shards.last().unwrap().bytes.len() < 1 << 20);
}

#[test]
fn a_record_over_the_limit_is_an_error_with_its_offset() {
    let head = b"a,b\n\"1\n\",2\n".repeat(9_000);
    let too_long = |lead: &'static [u8], length: u64, split| {
        let mut input = head
            .chain(lead)
            .chain(io::repeat(b'x').take(length))
            .chain(&b"\nrest\n"[..]);
        match cut_stream(&mut input, "big", None, &options(split), &mut |_| Ok(())) {
            Ok(()) => None,
            Err(CutError::RecordTooLong { offset, name }) => Some((offset, name)),
            Err(other) => panic!("{other}"),
        }
    };
    let found = Some((head.len() as u64, "big".to_owned()));
    assert_eq!(too_long(b"", limits::RECORD_BYTES, Split::Lines), found);
    assert_eq!(too_long(b"", limits::RECORD_BYTES - 1, Split::Lines), None);
    assert_eq!(too_long(b"\"", limits::RECORD_BYTES, Split::Csv), found);
}

#[test]
fn a_header_over_the_limit_is_an_error() {
    let bytes = [&vec![b'x'; HEADER_BYTES][..], b"\n1\n"].concat();
    assert!(matches!(
        cut_reader(&mut &bytes[..], Split::Csv),
        Err(CutError::HeaderTooLong { .. })
    ));
    assert!(joined(&cut(&bytes[1..], Split::Csv)) == bytes[1..]);
}

#[test]
fn errors_of_the_input_and_of_the_taker_are_told_apart() {
    let mut cut_off = &[0x1f, 0x8b, 0x08, 0, 0][..];
    assert!(matches!(
        cut_reader(&mut cut_off, Split::Lines),
        Err(CutError::Read { .. })
    ));
    let refuse = &mut |_| Err(io::ErrorKind::StorageFull.into());
    let result = cut_stream(&mut &b"a\n"[..], "a", None, &options(Split::Lines), refuse);
    assert!(matches!(result, Err(CutError::Emit(_))));
}
