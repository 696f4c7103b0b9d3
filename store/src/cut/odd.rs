//! Tests with tables and texts that are not what their names say: their bytes come back, or an error names them.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use nearfield_protocol::Split;
use proptest::prelude::*;

use super::{CutError, CutOptions, ShardData, cut_plain, cut_stream};

const TEXT: [Split; 3] = [Split::Lines, Split::Csv, Split::Ndjson];

fn options(split: Split) -> CutOptions {
    CutOptions {
        split,
        shard_size_bytes: 64 << 10,
        spill_dir: std::env::temp_dir(),
    }
}

/// All shards' bytes, and the header of the last.
fn cut(
    input: &[u8],
    split: Split,
    appended_to: Option<&Bytes>,
) -> Result<(Vec<u8>, Option<Bytes>), CutError> {
    let (mut bytes, mut header) = (Vec::new(), None);
    cut_stream(
        &mut &input[..],
        "t.csv",
        appended_to,
        &options(split),
        &mut |shard| {
            match shard.data {
                ShardData::Memory(data) => bytes.extend_from_slice(&data),
                ShardData::Spilled(file) => bytes.extend(std::fs::read(file.path())?),
            }
            header = shard.header;
            Ok(())
        },
    )?;
    Ok((bytes, header))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_header_is_the_first_record_that_says_something() {
    for (input, header) in [
        ("id,name\n1,x\n", "id,name\n"),
        ("\n\r\nid,name\n1,x\n", "\n\r\nid,name\n"),
        ("\u{feff}\nid,name\n1,x\n", "\u{feff}\nid,name\n"),
        ("\u{feff}\"i\nd\",name\n1,x\n", "\u{feff}\"i\nd\",name\n"),
        ("id,name", "id,name"),
        ("  \nid\n", "  \n"),
        ("\n\n", "\n\n"),
        ("\u{feff}", "\u{feff}"),
        ("id,name\r7,Ada\r3,Bo\r", "id,name\r7,Ada\r3,Bo\r"),
    ] {
        let (bytes, found) = cut(input.as_bytes(), Split::Csv, None).unwrap();
        assert_eq!(bytes, input.as_bytes());
        assert_eq!(found.as_deref(), Some(header.as_bytes()), "{input:?}");
    }
}

#[test]
fn what_is_appended_loses_its_header_and_nothing_else() {
    for (header, appended, kept) in [
        ("id,n\n", "id,n\n1,2\n", "1,2\n"),
        ("id,n\n", "\u{feff}id,n\n1,2\n", "1,2\n"),
        ("\u{feff}id,n\n", "id,n\n1,2\n", "1,2\n"),
        ("id,n\n", "id,n2\n1,2\n", "id,n2\n1,2\n"),
        ("id,n\n", "1,2\n", "1,2\n"),
        // Nothing ended its line: what comes ends it.
        ("id,n", "id,n\n1,2\n", "\n1,2\n"),
        ("id,n", "id,n2\n1,2\n", "id,n2\n1,2\n"),
        // The same record again is data.
        ("id\n", "id\nid\n1\n", "id\nid\n1\n"),
        ("\u{feff}", "\u{feff}id\n1\n", "\u{feff}id\n1\n"),
        // Whole tables, where CR alone ends records.
        ("id\r7\r", "id\r7\r", "id\r7\r"),
    ] {
        let header = Bytes::from_static(header.as_bytes());
        let (bytes, _) = cut(appended.as_bytes(), Split::Csv, Some(&header)).unwrap();
        assert_eq!(bytes, kept.as_bytes(), "{appended:?} behind {header:?}");
    }
}

#[test]
fn what_is_no_text_is_refused_by_splits_of_text_alone() {
    let table = "id,name\r\n7,Ada\r\n";
    let utf16: Vec<u8> = table.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [&[0xff, 0xfe][..], &utf16].concat();
    let bzip2 = b"BZh91AY&SY\x80\xff\0".to_vec();
    for (input, what) in [
        (utf16, "UTF-16 (little-endian) text"),
        (marked, "UTF-16 (little-endian) text"),
        (bzip2, "compressed with bzip2"),
        (gzip(&gzip(b"id\n1\n")), "compressed with gzip"),
        (gzip(b"PK\x03\x04..."), "a zip archive"),
        (
            zstd::encode_all(&b"\xfd7zXZ\0.."[..], 1).unwrap(),
            "compressed with xz",
        ),
    ] {
        for split in TEXT {
            let told = cut(&input, split, None).unwrap_err().to_string();
            assert!(told.starts_with("`t.csv` is ") && told.contains(what), "{told}");
            assert!(
                told.contains(&format!("`{split}` cuts")) && told.contains("--split none"),
                "{told}"
            );
            // As in a folder or in place, where nothing is decompressed.
            let plain = cut_plain(&mut &input[..], "t.csv", None, &options(split), &mut |_| Ok(()));
            assert!(matches!(plain, Err(CutError::Foreign { .. })));
        }
        let header = Bytes::from_static(b"id\n");
        assert!(matches!(
            cut(&input, Split::Csv, Some(&header)),
            Err(CutError::Foreign { .. })
        ));
        assert!(
            cut(&input, Split::None, None).unwrap().0 == input,
            "kept as it is"
        );
    }
}

fn odd_text() -> impl Strategy<Value = Vec<u8>> {
    let begin = prop_oneof![
        Just(""),
        Just("\u{feff}"),
        Just("\n"),
        Just("\r\n\r\n"),
        Just("\u{feff}\n"),
        Just("id,n\n")
    ];
    let text = prop_oneof![
        "[ab,;\"\\\\ \t\r\n\0é]{0,120}",
        "([ab\"]{0,3},[ab]{0,3}\r){0,20}",
        "[ \t\r\n]{0,40}",
    ];
    (begin, text, 1usize..600)
        .prop_map(|(begin, text, times)| [begin.as_bytes(), &text.as_bytes().repeat(times)].concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(400)))]

    #[test]
    fn bytes_come_back_or_an_error_names_them(
        input in odd_text(),
        packed in 0usize..3,
        split in prop_oneof![
            Just(Split::Lines), Just(Split::Csv), Just(Split::Ndjson), Just(Split::Bytes),
            Just(Split::Fixed(7.try_into().unwrap())),
        ],
    ) {
        let sent = match packed {
            0 => input.clone(),
            1 => gzip(&input),
            _ => [b"\x5a\x2a\x4d\x18\x01\0\0\0x", &zstd::encode_all(&input[..], 1).unwrap()[..]].concat(),
        };
        match cut(&sent, split, None) {
            Ok((bytes, header)) => {
                prop_assert!(bytes == input);
                prop_assert_eq!(header.is_some(), split == Split::Csv && !input.is_empty());
            }
            Err(CutError::Foreign { .. }) => prop_assert!(input.contains(&0) && split.is_text()),
            Err(error) => prop_assert!(false, "{}", error),
        }
        prop_assert!(cut(&sent, Split::None, None).unwrap().0 == sent);
    }

    #[test]
    fn an_append_leaves_out_a_header_or_nothing(before in odd_text(), input in odd_text(), same in any::<bool>()) {
        let Ok((_, Some(header))) = cut(&before, Split::Csv, None) else {
            return Ok(());
        };
        let input = if same { before } else { input };
        let Ok((bytes, _)) = cut(&input, Split::Csv, Some(&header)) else {
            return Ok(());
        };
        let left_out = input.len() - bytes.len();
        prop_assert!(input.ends_with(&bytes));
        let text = super::without_mark(&input[..left_out]);
        prop_assert!(left_out == 0 || text == super::without_mark(&header));
        // What is left out is a record, and no more than one.
        prop_assert!(nearfield_csv::lone_cr(text).is_none() || text.ends_with(b"\n"));
    }
}
