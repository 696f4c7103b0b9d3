//! Tests with tables that are read in more than one way: every record comes back under its key, or an error says why not.

use std::collections::BTreeMap;

use nearfield_protocol::Split;
use proptest::prelude::*;

use super::KeyIndex;
use super::tests::{look_up, sorted};

fn told(input: &str, split: Split, key: &str) -> String {
    match sorted(input.as_bytes(), split, key) {
        Ok((.., shards)) => panic!("taken as {:?}", String::from_utf8(shards.concat())),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_table_without_records_comes_back() {
    for (input, back) in [
        ("id,name\n", "id,name\n"),
        ("id,name", "id,name\n"),
        ("\u{feff}id,name\r\n", "\u{feff}id,name\r\n"),
        ("\n\nid,name\n\n\r\n", "\n\nid,name\n"),
    ] {
        let (meta, keyed, shards) = sorted(input.as_bytes(), Split::Csv, "id").unwrap();
        assert_eq!(shards.concat(), back.as_bytes(), "{input:?}");
        assert_eq!(meta.shards.len(), 1);
        let index = KeyIndex::parse(&keyed.index).unwrap();
        assert_eq!(index.block_of(b"").or(index.block_of(b"7")), None);
    }
    let (.., shards) = sorted(b"\n", Split::Ndjson, "id").unwrap();
    assert!(shards.is_empty());
}

#[test]
fn what_others_would_read_as_other_records_is_refused() {
    let csv = |input: &str| told(input, Split::Csv, "id");
    for (input, at) in [
        ("id,name\r7,Ada\r3,Bo\r", 7),
        ("id,name\r7,Ada\r3,Bo\n", 7),
        ("\u{feff}id,name\r7,Ada", 10),
        ("id,name\n7,Ada\r3,Bo\n", 13),
        ("id,name\r\n1,x\r\n7,Ada\r3,Bo\r\n", 19),
    ] {
        assert!(
            csv(input).contains(&format!("a CR alone stands at byte {at}")),
            "{}",
            csv(input)
        );
    }
    assert!(csv("id,name,id\n1,x,2\n").contains("2 columns `id`"));
    assert!(
        csv("id;name\n1;x;y\n")
            .contains("record 2, at byte 8, has 3 fields, and the header has 2, separated by semicolons")
    );
    assert!(csv("id,text\n1,\"a\\\"b\"\n").contains("a quote inside quotes is written twice"));
    assert!(csv("id,text\n1,\"a\n").contains("nothing closes"));
    assert!(csv("").contains("being empty"));
    let json = |input: &str| told(input, Split::Ndjson, "id");
    assert!(json("{\"id\":1}\r{\"id\":2}\r").contains("record 1, at byte 0, is not JSON"));
    assert!(json("{\"id\":1,\"x\":0,\"id\":2}\n").contains("`id` twice"));
    let utf16: Vec<u8> = "{\"id\":1}\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
    for split in [Split::Csv, Split::Ndjson] {
        let told = sorted(&utf16, split, "id").err().unwrap().to_string();
        assert!(
            told.contains("UTF-16 (big-endian)") && told.contains("iconv"),
            "{told}"
        );
    }
}

#[test]
fn numbers_are_found_as_they_are_written() {
    let numbers = [
        "18446744073709551616",
        "18446744073709551617",
        "1.10",
        "1.1",
        "1e3",
        "1000",
        "-0",
        "0",
    ];
    let input: String = numbers
        .iter()
        .map(|number| format!("{{\"id\": {number}}}\n"))
        .collect();
    let (meta, keyed, shards) = sorted(input.as_bytes(), Split::Ndjson, "id").unwrap();
    for number in numbers {
        let found = look_up(&meta, &keyed, &shards, number.as_bytes());
        assert_eq!(
            found,
            Some(format!("{{\"id\": {number}}}\n").into_bytes()),
            "{number}"
        );
    }
    assert!(keyed.meta.exact_numbers);
    let (.., same, _) = {
        let input: String = [7, -3, 1_000_000]
            .map(|number| format!("{{\"id\": {number}}}\n"))
            .concat();
        sorted(input.as_bytes(), Split::Ndjson, "id").unwrap()
    };
    assert!(
        !same.meta.exact_numbers,
        "what older builds read alike keeps its digest"
    );
}

#[test]
fn a_byte_order_mark_stays_in_front() {
    let input = "\u{feff}{\"id\": \"b\"}\n{\"id\": \"a\"}\n\u{feff}{\"id\": \"c\"}";
    let (meta, keyed, shards) = sorted(input.as_bytes(), Split::Ndjson, "id").unwrap();
    let back = "\u{feff}{\"id\": \"a\"}\n{\"id\": \"b\"}\n\u{feff}{\"id\": \"c\"}\n";
    assert_eq!(String::from_utf8(shards.concat()).unwrap(), back);
    for (key, record) in [
        ("a", "{\"id\": \"a\"}\n"),
        ("b", "{\"id\": \"b\"}\n"),
        ("c", "\u{feff}{\"id\": \"c\"}\n"),
    ] {
        assert_eq!(
            look_up(&meta, &keyed, &shards, key.as_bytes()).as_deref(),
            Some(record.as_bytes())
        );
    }
    let (meta, keyed, shards) = sorted("\u{feff}id,n\n2,x\n1,y\n".as_bytes(), Split::Csv, "id").unwrap();
    assert_eq!(shards.concat(), "\u{feff}id,n\n1,y\n2,x\n".as_bytes());
    assert_eq!(
        look_up(&meta, &keyed, &shards, b"2").as_deref(),
        Some(&b"2,x\n"[..])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300)))]

    #[test]
    fn every_record_of_a_table_comes_back_under_its_key(
        records in prop::collection::vec(("[a-c]{0,2}|[0-9]{1,2}", "[ab \"\\\\,;\n\r]{0,6}", 0usize..3), 0..60),
        mark in any::<bool>(),
        blank in "(\r?\n){0,2}",
        crlf in any::<bool>(),
        delimiter in prop_oneof![Just(','), Just(';'), Just('\t'), Just('|')],
        unended in any::<bool>(),
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let mark = if mark { "\u{feff}" } else { "" };
        let mut input = format!("{mark}{blank}text{delimiter}id{end}");
        let mut expected = BTreeMap::<String, String>::new();
        for (key, text, blanks) in &records {
            // As RFC 4180 quotes it.
            let record = format!("\"{}\"{delimiter}{key}{end}", text.replace('"', "\"\""));
            input.push_str(&record);
            input.push_str(&end.repeat(*blanks));
            expected.entry(key.clone()).or_default().push_str(&record);
        }
        if unended {
            input.truncate(input.trim_end_matches(['\r', '\n']).len());
        }
        let (meta, keyed, shards) = sorted(input.as_bytes(), Split::Csv, "id").unwrap();
        let bytes: usize = expected.values().map(String::len).sum();
        let ended = if unended && records.is_empty() { 1 } else { end.len() };
        let header = mark.len() + blank.len() + "text,id".len() + ended;
        prop_assert_eq!(shards.concat().len(), header + bytes);
        for (key, records) in &expected {
            // The last one may have been given another line end.
            let found = look_up(&meta, &keyed, &shards, key.as_bytes());
            prop_assert_eq!(found.as_deref(), Some(records.as_bytes()), "{}", key);
        }
    }

    #[test]
    fn odd_tables_lose_no_record_without_a_word(text in "[ab\",;\\\\\r\n ]{0,40}", header in "id,n\r?\n|id\n|\u{feff}id\r") {
        let input = format!("{header}{text}");
        // All but empty lines and the last line end, in whatever order.
        let letters = |bytes: &[u8]| {
            let mut letters: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
            letters.sort_unstable();
            letters
        };
        match sorted(input.as_bytes(), Split::Csv, "id") {
            Ok((.., shards)) => prop_assert_eq!(letters(&shards.concat()), letters(input.as_bytes())),
            Err(error) => prop_assert!(error.to_string().starts_with("`table` cannot be sorted"), "{}", error),
        }
    }
}
