//! What odd files are made of.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

/// A file that need not be what its name says.
#[derive(Debug, Clone)]
pub struct OddFile {
    pub name: String,
    /// As it is put.
    pub sent: Vec<u8>,
    /// What is left once a whole layer of gzip or zstd is off; the same as `sent` where there is none.
    pub plain: Vec<u8>,
}

/// How a file is compressed.
#[derive(Debug, Clone, Copy)]
enum Packed {
    No,
    Gzip,
    /// Two members, as `cat a.gz b.gz` makes them.
    GzipTwice,
    /// Zeros behind it, as tapes and downloads in blocks leave them.
    GzipPadded,
    Zstd,
    /// A frame to be skipped in front, as pzstd makes it.
    ZstdSkippable,
    /// The end is missing.
    GzipCut,
    ZstdCut,
}

pub fn odd_file() -> impl Strategy<Value = OddFile> {
    (odd_name(), odd_bytes(), packed()).prop_map(|(name, plain, packed)| {
        let (sent, plain) = pack(plain, packed);
        OddFile { name, sent, plain }
    })
}

pub fn odd_name() -> impl Strategy<Value = String> {
    let stem = prop_oneof![
        Just("t"),
        Just("a b"),
        Just("ü"),
        Just("x%2f"),
        Just("-"),
        Just("t;1"),
        Just("'t'"),
        Just("t\u{301}")
    ];
    let ending = prop_oneof![
        3 => Just(""), 3 => Just(".csv"), 2 => Just(".ndjson"), 2 => Just(".txt"), 1 => Just(".tsv"), 1 => Just(".csv.gz"),
        1 => Just(".csv.zst"), 1 => Just(".csv.br"), 1 => Just(".jsonl"), 1 => Just(".log"), 1 => Just(".CSV"), 1 => Just(".tar")
    ];
    (stem, ending).prop_map(|(stem, ending)| format!("{stem}{ending}"))
}

/// Texts, tables and what is neither, up to some hundred KiB: more than the smallest shard.
pub fn odd_bytes() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        6 => encoded(),
        2 => prop::collection::vec(any::<u8>(), 0..300),
        1 => magic(),
    ];
    (
        content,
        prop_oneof![5 => Just(1usize), 1 => 2usize..3_000],
        padding(),
    )
        .prop_map(|(content, times, padding)| {
            let times = times.min(200_000 / content.len().max(1)).max(1);
            [content.repeat(times), padding].concat()
        })
}

fn padding() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => Just(Vec::new()),
        1 => (1usize..2_000).prop_map(|len| vec![0; len]),
        1 => (1usize..600).prop_map(|len| vec![b' '; len]),
        1 => (1usize..60).prop_map(|len| vec![b'\n'; len]),
    ]
}

/// A text in an encoding, with or without a byte order mark.
fn encoded() -> impl Strategy<Value = Vec<u8>> {
    (text(), 0usize..12, any::<bool>()).prop_map(|(text, encoding, mark)| {
        let marked = format!("{}{text}", if mark { "\u{feff}" } else { "" });
        match encoding {
            0 => marked.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            1 => marked.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            2 => marked
                .chars()
                .flat_map(|char| u32::from(char).to_le_bytes())
                .collect(),
            3 => text
                .chars()
                .map(|char| u8::try_from(char).unwrap_or(b'?'))
                .collect(),
            _ => marked.into_bytes(),
        }
    })
}

fn text() -> impl Strategy<Value = String> {
    let line_end = || prop_oneof![5 => Just("\n"), 3 => Just("\r\n"), 1 => Just("\r"), 1 => Just("\n\r")];
    let table = (
        prop_oneof![Just(","), Just(";"), Just("\t"), Just("|")],
        line_end(),
        prop::collection::vec(("[ab]{0,3}", "[ab \"\\\\é,;\n]{0,8}"), 0..30),
        any::<bool>(),
    );
    let table = table.prop_map(|(delimiter, end, records, quoted)| {
        let mut text = format!("id{delimiter}text{end}");
        for (key, field) in records {
            let field = match quoted {
                true => format!("\"{}\"", field.replace('"', "\"\"")),
                false => field,
            };
            text.push_str(&format!("{key}{delimiter}{field}{end}"));
        }
        text
    });
    let json =
        (line_end(), prop::collection::vec("[a-c]{1,2}|[0-9]{1,25}", 0..30)).prop_map(|(end, keys)| {
            let line = |key: String| match key.parse::<u128>() {
                Ok(number) => format!("{{\"id\": {number}}}{end}"),
                Err(_) => format!("{{\"id\": \"{key}\"}}{end}"),
            };
            keys.into_iter().map(line).collect()
        });
    prop_oneof![
        table,
        json,
        "[ab,;\"\\\\ \t\r\n\0é]{0,120}",
        "([ab\"]{0,3},[ab]{0,3}\r){0,20}",
        "[ \t\r\n]{0,40}",
        "[a-z]{0,200}",
    ]
}

/// The beginnings of what is no text.
fn magic() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop_oneof![
        Just(&b"BZh91AY&SY\x80\xff\0\x01"[..]),
        Just(&b"\xfd7zXZ\0\0\x04"[..]),
        Just(&b"PK\x03\x04\x14\0"[..]),
        Just(&b"\x04\x22\x4d\x18\x64"[..]),
        Just(&b"PAR1\x15\0"[..]),
        Just(&b"\x78\x9c\x03\0"[..]),
        Just(&b"\x50\x2a\x4d\x18\x02\0\0\0xy"[..]),
        Just(&b"\x1f\x8b"[..]),
        Just(&b"\x1f\x8b\x08\0"[..]),
        Just(&b"\x28\xb5\x2f\xfd"[..]),
        Just(&b"\x0b\x02\x80hello\x03"[..])
    ];
    (begin, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(begin, rest)| [begin, &rest].concat())
}

fn packed() -> impl Strategy<Value = Packed> {
    prop_oneof![
        8 => Just(Packed::No), 2 => Just(Packed::Gzip), 1 => Just(Packed::GzipTwice), 1 => Just(Packed::GzipPadded),
        2 => Just(Packed::Zstd), 1 => Just(Packed::ZstdSkippable), 1 => Just(Packed::GzipCut), 1 => Just(Packed::ZstdCut)
    ]
}

/// What is sent, and what it holds.
fn pack(plain: Vec<u8>, packed: Packed) -> (Vec<u8>, Vec<u8>) {
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let sent = match packed {
        // Nothing but frames to be skipped is a zstd stream of no bytes (RFC 8878 §3.1.2).
        Packed::No if !plain.is_empty() && is_skipped(&plain) => return (plain, Vec::new()),
        Packed::No => return (plain.clone(), plain),
        Packed::Gzip => gzip(&plain),
        Packed::GzipTwice => {
            let (one, two) = plain.split_at(plain.len() / 2);
            [gzip(one), gzip(two)].concat()
        }
        Packed::GzipPadded => [gzip(&plain), vec![0; 700]].concat(),
        Packed::Zstd => zstd(&plain),
        Packed::ZstdSkippable => [&b"\x5a\x2a\x4d\x18\x01\0\0\0x"[..], &zstd(&plain)].concat(),
        Packed::GzipCut | Packed::ZstdCut => {
            let mut sent = match packed {
                Packed::GzipCut => gzip(&plain),
                _ => zstd(&plain),
            };
            sent.truncate(sent.len() - 1 - sent.len() / 3);
            return (sent.clone(), sent);
        }
    };
    (sent, plain)
}

/// Whether these are whole frames to be skipped and nothing else.
fn is_skipped(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, a, b, c, d, rest @ ..] => {
            let len = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
            rest.get(len..).is_some_and(is_skipped)
        }
        _ => false,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}
