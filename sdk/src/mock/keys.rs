//! Datasets of a test that are sorted by a key.

use std::ops::Range;

/// The records of a `csv` or `ndjson` file with their keys, the header left out.
///
/// # Panics
///
/// When a record has no such key, as a real host would refuse the file.
pub(super) fn records(format: &str, key: &str, file: &[u8], header: &[u8]) -> Vec<(String, Range<usize>)> {
    match format {
        "csv" => csv_records(key, file, header),
        "ndjson" => json_records(key, file),
        _ => panic!("only csv and ndjson have keys, not {format}"),
    }
}

fn csv_records(key: &str, file: &[u8], header: &[u8]) -> Vec<(String, Range<usize>)> {
    let parsed = |bytes| {
        csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(bytes)
    };
    let columns = parsed(header)
        .into_records()
        .next()
        .and_then(Result::ok)
        .unwrap_or_default();
    let column = columns.iter().position(|column| column == key);
    let column = column.unwrap_or_else(|| panic!("there is no column {key}"));
    let begin = if file.starts_with(header) { header.len() } else { 0 };
    let mut records: Vec<(String, Range<usize>)> = Vec::new();
    for record in parsed(&file[begin..]).into_records() {
        let record = record.expect("CSV");
        let at = begin + record.position().map_or(0, |position| position.byte() as usize);
        let key = record.get(column).expect("a key in every record");
        if let Some((_, last)) = records.last_mut() {
            last.end = at;
        }
        records.push((key.to_owned(), at..file.len()));
    }
    records
}

fn json_records(key: &str, file: &[u8]) -> Vec<(String, Range<usize>)> {
    let pointer = if key.starts_with('/') {
        key.to_owned()
    } else {
        format!("/{key}")
    };
    let (mut records, mut at) = (Vec::new(), 0);
    for line in file.split_inclusive(|&byte| byte == b'\n') {
        let range = at..at + line.len();
        at = range.end;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value: serde_json::Value = serde_json::from_slice(line).expect("JSON");
        let key = match value.pointer(&pointer) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => value.to_string(),
            _ => panic!("there is no {key} in {value}"),
        };
        records.push((key, range));
    }
    records
}

/// The file as a real host sorts it: bytewise, records of a key in their order, every one with its line end.
pub(super) fn sorted(format: &str, key: &str, file: &[u8], header: &[u8]) -> Vec<u8> {
    let mut records = records(format, key, file, header);
    records.sort_by(|one, other| one.0.as_bytes().cmp(other.0.as_bytes()));
    let mut sorted = header.to_vec();
    for (_, range) in records {
        sorted.extend_from_slice(&file[range]);
        if !sorted.ends_with(b"\n") {
            sorted.push(b'\n');
        }
    }
    sorted
}
