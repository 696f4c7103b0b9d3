//! Datasets of a test that are sorted by a key, as a real host sorts them.

use std::borrow::Cow;
use std::ops::Range;

use crate::records::BYTE_ORDER_MARK;

/// What stands before the records of a file: the header of a CSV file, with the empty lines before it; a byte order mark.
pub(super) fn begin(format: &str, file: &[u8]) -> usize {
    let mark = if file.starts_with(BYTE_ORDER_MARK) {
        BYTE_ORDER_MARK.len()
    } else {
        0
    };
    match format {
        "csv" => nearfield_csv::header_end(file),
        _ => mark,
    }
}

/// The records of a `csv` or `ndjson` file with their keys, the header left out.
///
/// # Panics
///
/// When a record has no such key, or a real host would refuse the file otherwise.
pub(super) fn records(format: &str, key: &str, file: &[u8], header: &[u8]) -> Vec<(String, Range<usize>)> {
    match format {
        "csv" => csv_records(key, file, header),
        "ndjson" => json_records(key, file),
        _ => panic!("only csv and ndjson have keys, not {format}"),
    }
}

fn csv_records(key: &str, file: &[u8], header: &[u8]) -> Vec<(String, Range<usize>)> {
    let text = |field: Cow<'_, [u8]>| String::from_utf8_lossy(&field).into_owned();
    // Empty lines may stand before the columns' names.
    let names = header.strip_prefix(BYTE_ORDER_MARK).unwrap_or(header);
    let names = nearfield_csv::records(names).last().unwrap_or_default();
    // What separates the columns is what makes the key one of them.
    let found = nearfield_csv::DELIMITERS.into_iter().find_map(|delimiter| {
        let columns: Vec<String> = nearfield_csv::fields(names, delimiter).map(text).collect();
        let column = columns.iter().position(|column| column == key)?;
        let times = columns.iter().filter(|column| *column == key).count();
        assert!(times == 1, "there are {times} columns {key}");
        Some((delimiter, column, columns.len()))
    });
    let (delimiter, column, columns) = found.unwrap_or_else(|| panic!("there is no column {key}"));
    let mut at = if file.starts_with(header) { header.len() } else { 0 };
    let mut records: Vec<(String, Range<usize>)> = Vec::new();
    for record in nearfield_csv::records(&file[at..]) {
        let start = at;
        at += record.len();
        if nearfield_csv::is_blank(record) {
            continue;
        }
        let fields: Vec<_> = nearfield_csv::fields(record, delimiter).collect();
        assert!(
            fields.len() == columns,
            "a record has {} fields, and the header has {columns}",
            fields.len()
        );
        let key = std::str::from_utf8(&fields[column]).expect("a key is UTF-8");
        if let Some((_, last)) = records.last_mut() {
            last.end = start;
        }
        records.push((key.to_owned(), start..file.len()));
    }
    records
}

fn json_records(key: &str, file: &[u8]) -> Vec<(String, Range<usize>)> {
    let pointer = if key.starts_with('/') {
        key.to_owned()
    } else {
        format!("/{key}")
    };
    let (mut records, mut at) = (Vec::new(), begin("ndjson", file));
    for line in file[at..].split_inclusive(|&byte| byte == b'\n') {
        let range = at..at + line.len();
        at = range.end;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
        let key = match value.pointer(&pointer) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Bool(value)) => value.to_string(),
            Some(serde_json::Value::Number(_)) => own_text(line, &pointer),
            _ => panic!("there is no {key} in {value}"),
        };
        records.push((key, range));
    }
    records
}

/// The text of the number at `pointer` in `json`, which it is: a key is no number, so `1.10` and `1.1` are two.
fn own_text(json: &[u8], pointer: &str) -> String {
    // Each number in turn becomes a text, until the pointer leads to one.
    let text = std::str::from_utf8(json).expect("JSON is UTF-8");
    let (mut quoted, mut at) = (false, 0);
    while let Some(byte) = text.as_bytes().get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'-' | b'0'..=b'9' if !quoted => {
                let number = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'0'..=b'9' | b'e' | b'E');
                let len = text.as_bytes()[at..]
                    .iter()
                    .take_while(|byte| number(byte))
                    .count();
                let (before, number, after) = (&text[..at], &text[at..at + len], &text[at + len..]);
                let told = format!("{before}\"{number}\"{after}");
                let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
                if told.pointer(pointer).is_some_and(serde_json::Value::is_string) {
                    return number.to_owned();
                }
                at += len - 1;
            }
            _ => {}
        }
        at += 1;
    }
    unreachable!("there is a number at {pointer}")
}

/// The file as a real host sorts it: bytewise, records of a key in their order, every one with its line end. A byte order mark
/// stays in front.
pub(super) fn sorted(format: &str, key: &str, file: &[u8], header: &[u8]) -> Vec<u8> {
    let mut records = records(format, key, file, header);
    records.sort_by(|one, other| one.0.as_bytes().cmp(other.0.as_bytes()));
    let mut sorted = file[..begin(format, file)].to_vec();
    for (_, range) in records {
        if !sorted.is_empty() && sorted != BYTE_ORDER_MARK && !sorted.ends_with(b"\n") {
            sorted.push(b'\n');
        }
        sorted.extend_from_slice(&file[range]);
        if !sorted.ends_with(b"\n") {
            sorted.push(b'\n');
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(format: &str, key: &str, file: &str) -> Vec<String> {
        let header = if format == "csv" {
            begin(format, file.as_bytes())
        } else {
            0
        };
        let records = records(format, key, file.as_bytes(), &file.as_bytes()[..header]);
        records.into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn keys_are_those_of_a_real_host() {
        assert_eq!(
            keys("csv", "id", "\u{feff}\n\"id\";n\n7;x\n3;\"y\n\"\n"),
            ["7", "3"]
        );
        let numbers = "\u{feff}{\"n\": 1, \"id\": 1.10}\n{\"id\": 18446744073709551617}\n{\"id\": \"1e3\"}\n{\"id\": 1e3}";
        assert_eq!(
            keys("ndjson", "id", numbers),
            ["1.10", "18446744073709551617", "1e3", "1e3"]
        );
        assert_eq!(
            keys("ndjson", "/a/1", "{\"b\": [\"\\\"7\"], \"a\": [5, -0]}\n"),
            ["-0"]
        );
        let sorted = sorted("ndjson", "id", "\u{feff}{\"id\": 2}\n{\"id\": 1}".as_bytes(), b"");
        assert_eq!(sorted, "\u{feff}{\"id\": 1}\n{\"id\": 2}\n".as_bytes());
    }

    #[test]
    #[should_panic(expected = "2 columns id")]
    fn the_same_column_twice_is_refused() {
        keys("csv", "id", "id,id\n1,2\n");
    }

    #[test]
    #[should_panic(expected = "a record has 1 fields")]
    fn a_ragged_record_is_refused() {
        keys("csv", "id", "id,n\n1\n");
    }
}
