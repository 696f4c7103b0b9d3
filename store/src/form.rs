//! What the first bytes of a file say of it: text that a table or lines can be cut from, or something else under such a name.
//! Pure.

use std::cmp::Ordering;

use nearfield_protocol::Split;

/// Bytes of a file that are looked at.
pub(crate) const SAMPLE_BYTES: usize = 8 << 10;
/// What a spreadsheet may put before the first character of UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What `put` takes off by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first four bytes. A zstd file may begin with a frame to be skipped, as pzstd and seekable zstd make it.
    pub fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
        }
    }
}

/// What is no text that a text split could cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// Goes on from "it is".
    pub what: String,
    /// A command that makes text of it, if there is a usual one.
    pub undo: Option<&'static str>,
    /// A compressed or packed file, as opposed to text of another encoding.
    pub packed: bool,
}

impl Foreign {
    /// What is at the beginning of the file called `name`, if a text split should not cut it.
    pub fn of(name: &str, sample: &[u8]) -> Option<Foreign> {
        let sample = &sample[..sample.len().min(SAMPLE_BYTES)];
        let packed = packed(sample).or_else(|| packed_by_name(name, sample));
        if let Some((what, undo)) = packed {
            return Some(Foreign {
                what: what.to_owned(),
                undo: Some(undo).filter(|undo| !undo.is_empty()),
                packed: true,
            });
        }
        let (encoding, undo) = wide(sample)?;
        Some(Foreign {
            what: format!("{encoding} text"),
            undo: Some(undo),
            packed: false,
        })
    }

    /// The command that makes text of the file called `name`, ready to be typed.
    pub fn next(&self, name: &str) -> String {
        match self.undo {
            Some(undo) => format!("`{undo} {name} | nearfield put -` puts what it holds"),
            None => "make text of it first".to_owned(),
        }
    }
}

/// What `auto` chooses for a stream called `name` whose first bytes are `sample`, gzip and zstd taken off; and what to tell of it.
pub(crate) fn choose(name: &str, sample: &[u8]) -> (Split, Option<String>) {
    let split = Split::guess(name, sample);
    let Some(foreign) = Foreign::of(name, sample) else {
        return (split, None);
    };
    let kept = if split.is_text() { Split::None } else { split };
    let told = split.is_text() || foreign.packed && promises_text(name) || is_compressed(&foreign);
    let notice = format!(
        "`{name}` is {}, so it is kept as it is (`--split {kept}`); {}",
        foreign.what,
        foreign.next(name)
    );
    (kept, told.then_some(notice))
}

fn is_compressed(foreign: &Foreign) -> bool {
    foreign.packed && foreign.what.starts_with("compressed")
}

/// Whether a name is that of text once the ending of a compression is off.
fn promises_text(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let inner = name.rsplit_once('.').map_or("", |(inner, _)| inner);
    Split::guess(inner, b"").is_text()
}

/// Files that begin so: what they are, and what makes text of them.
const MAGIC: &[(&[u8], &str, &str)] = &[
    (b"\xfd7zXZ\0", "compressed with xz", "xz -dc"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -dc"),
    (b"\x02\x21\x4c\x18", "compressed with lz4", "lz4 -dc"),
    (b"\x1f\x9d", "compressed with compress", "gunzip -c"),
    (b"\x89LZO\0\r\n\x1a\n", "compressed with lzop", "lzop -dc"),
    (b"\xff\x06\0\0sNaPpY", "compressed with snappy", "snzip -dc"),
    (b"LZIP\x01", "compressed with lzip", "lzip -dc"),
    (b"PK\x03\x04", "a zip archive", "unzip -p"),
    (b"PK\x05\x06", "a zip archive", "unzip -p"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x -so"),
    (b"Rar!\x1a\x07", "a rar archive", "unrar p -inul"),
    (b"PAR1", "a Parquet file", ""),
    (b"ARROW1\0\0", "an Arrow file", ""),
    (b"Obj\x01", "an Avro file", ""),
    (b"SQLite format 3\0", "an SQLite database", ""),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document", ""),
];

/// A bzip2 block, or the end of a stream without one.
const BZIP2_BLOCKS: [&[u8]; 2] = [b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"];

fn packed(sample: &[u8]) -> Option<(&'static str, &'static str)> {
    // LZ4 has the same frames to be skipped as zstd.
    let behind = behind_skippable(sample);
    let found = MAGIC
        .iter()
        .find(|(magic, ..)| sample.starts_with(magic) || behind.starts_with(magic));
    if let Some((_, what, undo)) = found.filter(|_| !is_clean(sample)) {
        return Some((what, undo));
    }
    match Compression::of(sample) {
        Some(Compression::Gzip) => return Some(("compressed with gzip", "gunzip -c")),
        Some(Compression::Zstd) => return Some(("compressed with zstd", "zstd -dc")),
        None => {}
    }
    let bzip2 = sample.starts_with(b"BZh")
        && matches!(sample.get(3), Some(b'1'..=b'9'))
        && BZIP2_BLOCKS.iter().any(|block| sample[4..].starts_with(block));
    if bzip2 {
        return Some(("compressed with bzip2", "bunzip2 -c"));
    }
    if is_zlib(sample) {
        return Some(("compressed with zlib", "zlib-flate -uncompress <"));
    }
    if is_lzma(sample) {
        return Some(("compressed with lzma", "xz -dc --format=lzma"));
    }
    if sample.get(257..262) == Some(b"ustar") {
        return Some(("a tar archive", "tar -xOf"));
    }
    None
}

/// `sample` without the frames at its beginning that zstd and LZ4 skip.
fn behind_skippable(mut sample: &[u8]) -> &[u8] {
    while let [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, rest @ ..] = sample {
        let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        sample = rest.get(len..).unwrap_or_default();
    }
    sample
}

/// A two-byte mark is little: what follows it must inflate.
fn is_zlib(sample: &[u8]) -> bool {
    if !matches!(sample, [0x78, 0x01 | 0x9c | 0xda, ..]) {
        return false;
    }
    let mut inflated = [0; 64];
    let mut inflate = flate2::Decompress::new(true);
    let status = inflate.decompress(sample, &mut inflated, flate2::FlushDecompress::None);
    status.is_ok_and(|status| inflate.total_out() > 0 || status == flate2::Status::StreamEnd)
}

/// The header of an LZMA file has no mark: properties, a dictionary of a usual size, and a size that is likely or unknown.
fn is_lzma(sample: &[u8]) -> bool {
    let Some((header, _)) = sample.split_first_chunk::<13>() else {
        return false;
    };
    let dictionary = u32::from_le_bytes([header[1], header[2], header[3], header[4]]);
    let size = u64::from_le_bytes(header[5..13].try_into().expect("eight bytes"));
    let usual = dictionary.is_power_of_two() || (dictionary / 3).is_power_of_two() && dictionary % 3 == 0;
    header[0] == 0x5d && usual && dictionary >= 4096 && (size == u64::MAX || size < 1 << 40)
}

/// Compressions that nothing at their beginning tells: their names do, unless text is what is there.
const ENDINGS: &[(&str, &str, &str)] = &[
    ("br", "compressed with brotli", "brotli -dc"),
    ("brotli", "compressed with brotli", "brotli -dc"),
    ("lzma", "compressed with lzma", "xz -dc --format=lzma"),
    ("sz", "compressed with snappy", "snzip -dc"),
    ("snappy", "compressed with snappy", "snzip -dc"),
    ("lz4", "compressed with lz4", "lz4 -dc"),
    ("bz2", "compressed with bzip2", "bunzip2 -c"),
    ("xz", "compressed with xz", "xz -dc"),
    ("zz", "compressed with zlib", "zlib-flate -uncompress <"),
    ("lzo", "compressed with lzo", "lzop -dc"),
    ("z", "compressed with compress", "gunzip -c"),
];

fn packed_by_name(name: &str, sample: &[u8]) -> Option<(&'static str, &'static str)> {
    let (_, ending) = name.rsplit_once('.')?;
    let (_, what, undo) = ENDINGS
        .iter()
        .find(|(known, ..)| ending.eq_ignore_ascii_case(known))?;
    (!sample.is_empty() && !is_clean(sample)).then_some((what, undo))
}

/// UTF-8 without control characters but those of text; its last character may be cut off.
fn is_clean(sample: &[u8]) -> bool {
    let utf8 = match str::from_utf8(sample) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    utf8 && sample
        .iter()
        .all(|&byte| !byte.is_ascii_control() || is_text_control(u32::from(byte)))
}

fn is_text_control(unit: u32) -> bool {
    matches!(unit, 0x09 | 0x0a | 0x0c | 0x0d)
}

/// Encodings whose characters are more than a byte wide, so that a line end is, too.
const LE16: (&str, &str) = ("UTF-16 (little-endian)", "iconv -f UTF-16LE -t UTF-8");
const BE16: (&str, &str) = ("UTF-16 (big-endian)", "iconv -f UTF-16BE -t UTF-8");
const LE32: (&str, &str) = ("UTF-32 (little-endian)", "iconv -f UTF-32LE -t UTF-8");
const BE32: (&str, &str) = ("UTF-32 (big-endian)", "iconv -f UTF-32BE -t UTF-8");
/// With a byte order mark iconv finds the order itself, and leaves the mark out.
const MARKED16: &str = "iconv -f UTF-16 -t UTF-8";
const MARKED32: &str = "iconv -f UTF-32 -t UTF-8";

/// By the byte order mark, or else by where the NULs of ASCII characters stand.
fn wide(sample: &[u8]) -> Option<(&'static str, &'static str)> {
    match sample {
        [0xff, 0xfe, 0, 0, ..] => return Some((LE32.0, MARKED32)),
        [0, 0, 0xfe, 0xff, ..] => return Some((BE32.0, MARKED32)),
        [0xff, 0xfe, ..] => return Some((LE16.0, MARKED16)),
        [0xfe, 0xff, ..] => return Some((BE16.0, MARKED16)),
        _ => {}
    }
    if !sample.contains(&0) {
        return None;
    }
    let quads = sample.as_chunks::<4>().0;
    let pairs = sample.as_chunks::<2>().0;
    let units32 = |of: fn([u8; 4]) -> u32| quads.iter().map(|quad| of(*quad)).collect::<Vec<_>>();
    let units16 = |of: fn([u8; 2]) -> u16| pairs.iter().map(|pair| of(*pair)).collect::<Vec<_>>();
    if is_utf32(&units32(u32::from_le_bytes)) {
        return Some(LE32);
    }
    if is_utf32(&units32(u32::from_be_bytes)) {
        return Some(BE32);
    }
    let (little, big) = (units16(u16::from_le_bytes), units16(u16::from_be_bytes));
    match ascii(&little).cmp(&ascii(&big)) {
        Ordering::Greater => is_utf16(&little).then_some(LE16),
        Ordering::Less => is_utf16(&big).then_some(BE16),
        Ordering::Equal => None,
    }
}

fn ascii(units: &[u16]) -> usize {
    units.iter().filter(|unit| matches!(unit, 1..=0x7f)).count()
}

/// Text of at least half ASCII.
fn is_utf32(units: &[u32]) -> bool {
    let plain = |unit: &u32| char::from_u32(*unit).is_some() && (*unit >= 0x20 || is_text_control(*unit));
    let ascii = units.iter().filter(|unit| **unit < 0x80).count();
    !units.is_empty() && units.iter().all(plain) && 2 * ascii >= units.len()
}

/// Text that is nearly all ASCII, or has line ends of two bytes. A surrogate may be cut off at the end.
fn is_utf16(units: &[u16]) -> bool {
    let whole = match units {
        [rest @ .., 0xd800..=0xdbff] => rest,
        all => all,
    };
    let plain = char::decode_utf16(whole.iter().copied())
        .all(|char| char.is_ok_and(|char| !char.is_ascii_control() || is_text_control(char.into())));
    let has_line_end = units.iter().any(|unit| matches!(unit, 0x0a | 0x0d));
    plain && (4 * ascii(units) >= 3 * units.len() || has_line_end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn what(name: &str, sample: &[u8]) -> Option<String> {
        Foreign::of(name, sample).map(|foreign| foreign.what)
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn utf32(text: &str, bytes: fn(u32) -> [u8; 4]) -> Vec<u8> {
        text.chars().flat_map(|char| bytes(char.into())).collect()
    }

    #[test]
    fn plain_text_is_not_foreign() {
        let latin1 = b"stadt,land\nM\xfcnchen,x\n";
        let names0 = b"abc\0def\0g\0hij\0";
        let numbers: Vec<u8> = (0u16..500).flat_map(u16::to_le_bytes).collect();
        let plain: [&[u8]; 10] = [
            b"",
            b"a",
            b"id,name\n1,Ada\n",
            b"\xef\xbb\xbfid,name\n",
            latin1,
            names0,
            &numbers,
            b"PAR1,name\n",
            b"BZh9,x\n",
            b"x\x9c,is Latin-1\n",
        ];
        for sample in plain {
            assert_eq!(what("t.csv", sample), None, "{sample:?}");
        }
        assert_eq!(
            what("t.csv.br", b"id,name\n1,Ada\n"),
            None,
            "text, whatever its name"
        );
    }

    #[test]
    fn what_is_compressed_is_told() {
        let zlib = {
            use std::io::Write;
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(b"id,name\n1,Ada\n").unwrap();
            encoder.finish().unwrap()
        };
        let skipped_lz4 = b"\x50\x2a\x4d\x18\x02\0\0\0ab\x04\x22\x4d\x18rest";
        for (sample, expected) in [
            (&b"BZh91AY&SY..."[..], "compressed with bzip2"),
            (b"\xfd7zXZ\0...", "compressed with xz"),
            (b"\x1f\x8b\x08...", "compressed with gzip"),
            (b"\x28\xb5\x2f\xfd...", "compressed with zstd"),
            (
                b"\x5e\x2a\x4d\x18\x04\0\0\0abcd\x28\xb5\x2f\xfd",
                "compressed with zstd",
            ),
            (skipped_lz4, "compressed with lz4"),
            (
                b"]\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff\0",
                "compressed with lzma",
            ),
            (&zlib, "compressed with zlib"),
            (b"PK\x03\x04...", "a zip archive"),
            (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
            (b"PAR1\x15\0", "a Parquet file"),
        ] {
            assert_eq!(what("-", sample).as_deref(), Some(expected), "{sample:?}");
        }
        assert_eq!(
            what("t.csv.br", b"\x0b\x02\x80hello\x03").as_deref(),
            Some("compressed with brotli")
        );
    }

    #[test]
    fn auto_keeps_what_it_cannot_cut_and_says_so() {
        let (split, notice) = choose("t.csv", &utf16("id,name\r\n7,Ada\r\n", u16::to_le_bytes));
        assert_eq!(split, Split::None);
        let notice = notice.unwrap();
        assert!(
            notice.contains("`t.csv` is UTF-16") && notice.contains("iconv -f UTF-16LE"),
            "{notice}"
        );
        let (split, notice) = choose("t.csv.bz2", b"BZh91AY&SY\x80\xff");
        assert!(!split.is_text() && notice.unwrap().contains("bunzip2 -c t.csv.bz2"));
        assert_eq!(choose("t.csv", b"id\n1\n"), (Split::Csv, None));
        assert_eq!(
            choose("x.parquet", b"PAR1"),
            (Split::None, None),
            "as its name says"
        );
    }

    proptest! {
        #[test]
        fn wide_text_is_recognised_with_a_mark_and_without(
            text in "[a-z0-9,;\" äé一二三]{0,40}(\r?\n[a-z0-9,\"一😀]{0,40}){1,9}",
            header in "[a-z]{2,9},[a-z]{2,9}\n",
            ends_early in 0usize..4,
        ) {
            let text = format!("{header}{text}");
            let ways: [(&str, Vec<u8>, Vec<u8>); 4] = [
                (LE16.0, utf16(&text, u16::to_le_bytes), vec![0xff, 0xfe]),
                (BE16.0, utf16(&text, u16::to_be_bytes), vec![0xfe, 0xff]),
                (LE32.0, utf32(&header, u32::to_le_bytes), vec![0xff, 0xfe, 0, 0]),
                (BE32.0, utf32(&header, u32::to_be_bytes), vec![0, 0, 0xfe, 0xff]),
            ];
            for (expected, mut bytes, mark) in ways {
                // A sample may end within a character.
                bytes.truncate(bytes.len() - ends_early);
                let expected = Some(format!("{expected} text"));
                prop_assert_eq!(what("-", &[mark, bytes.clone()].concat()), expected.clone());
                prop_assert_eq!(what("-", &bytes), expected);
            }
        }

        #[test]
        fn text_in_utf8_is_never_foreign(text in "[ -~äöü一😀\t\r\n]{0,300}") {
            prop_assert_eq!(what("t.csv", text.as_bytes()), None);
            prop_assert_eq!(what("t.csv.br", text.as_bytes()), None);
        }
    }
}
