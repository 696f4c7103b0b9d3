//! Odd files through the whole store: put, appended, sorted by a key, put in place and as folders. Their bytes come back, or an
//! error names them.
//!
//! `PROPTEST_CASES` says how many; `cargo xtask soak odd` tries 100,000.

mod file;
mod folder;
mod rig;

use std::collections::BTreeMap;
use std::fs;

use nearfield_protocol::Split;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use self::file::{OddFile, odd_bytes, odd_file};
use self::rig::{Rig, request, with_rig};
use crate::StoreError;
use crate::cut::without_mark;

/// Cases in an ordinary run: each waits for the disk.
const CASES: u32 = 24;
/// Where tables are written for other readers of CSV, each beside its shards.
const TABLES: &str = "NEARFIELD_ODD_TABLES";
/// Tables that are written at most: another reader takes its time.
const MAX_TABLES: usize = 3_000;

fn split() -> impl Strategy<Value = Option<Split>> {
    prop_oneof![
        4 => Just(None), 1 => Just(Some(Split::Lines)), 1 => Just(Some(Split::Csv)), 1 => Just(Some(Split::Ndjson)),
        1 => Just(Some(Split::Bytes)), 1 => Just(Some(Split::Fixed(7.try_into().unwrap()))), 1 => Just(Some(Split::None)),
    ]
}

/// Whether it is one that says what is wrong with the input, by its name.
fn names(error: &StoreError, name: &str) -> Result<(), TestCaseError> {
    let of_the_input = matches!(error, StoreError::Cut(_) | StoreError::Source(_));
    prop_assert!(
        of_the_input && error.to_string().contains(name),
        "{name}: {error:?}"
    );
    Ok(())
}

fn put_comes_back(rig: &Rig, file: &OddFile, split: Option<Split>) -> Result<(), TestCaseError> {
    let dataset = match rig.put(&file.sent, request(&file.name, split)) {
        Ok(dataset) => dataset,
        Err(error) => return names(&error, &file.name),
    };
    let back = rig.whole(&dataset).unwrap();
    prop_assert_eq!(dataset.meta.size_bytes, back.len() as u64);
    match (split, dataset.meta.split) {
        (Some(asked), cut) => prop_assert_eq!(asked, cut),
        (None, cut) if cut.is_text() => {
            prop_assert!(back == file.plain, "auto cut something else as {}", cut)
        }
        (None, _) => {}
    }
    match dataset.meta.split {
        Split::None => prop_assert!(back == file.sent || split.is_none() && back == file.plain, "none"),
        _ => prop_assert!(back == file.plain, "{} bytes of {}", back.len(), file.plain.len()),
    }
    Ok(())
}

fn append_adds(rig: &Rig, file: &OddFile, more: &OddFile, split: Option<Split>) -> Result<(), TestCaseError> {
    let Ok(base) = rig.put(&file.sent, request(&file.name, split)) else {
        return Ok(());
    };
    let before = rig.whole(&base).unwrap();
    let grown = match rig.append(&base, &more.sent, &more.name) {
        Ok(grown) => grown,
        Err(error) => return names(&error, &more.name),
    };
    let back = rig.whole(&grown).unwrap();
    prop_assert!(back.starts_with(&before), "what was there stays");
    let added = &back[before.len()..];
    let input = if grown.meta.split == Split::None {
        &more.sent
    } else {
        &more.plain
    };
    // A table's own header is left out; a line end may be put behind one that lacked it.
    let added_alone = if input.ends_with(added) {
        added
    } else {
        added.strip_prefix(b"\n").unwrap_or(added)
    };
    prop_assert!(input.ends_with(added_alone), "{added:?} of {input:?}");
    let left_out = &input[..input.len() - added_alone.len()];
    if !left_out.is_empty() {
        prop_assert_eq!(grown.meta.split, Split::Csv);
        let headers = grown.meta.headers.iter();
        let mut headers = headers.map(|header| without_mark(header).trim_ascii_end());
        let text = without_mark(left_out).trim_ascii_end();
        prop_assert!(headers.any(|header| header == text), "{left_out:?} is no header");
    }
    Ok(())
}

/// What is done to a file that lies in place.
#[derive(Debug, Clone)]
enum Edit {
    Append(Vec<u8>),
    Truncate(prop::sample::Index),
    Overwrite(prop::sample::Index, u8),
    Replace(Vec<u8>),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        odd_bytes().prop_map(Edit::Append),
        any::<prop::sample::Index>().prop_map(Edit::Truncate),
        any::<(prop::sample::Index, u8)>().prop_map(|(at, byte)| Edit::Overwrite(at, byte)),
        odd_bytes().prop_map(Edit::Replace),
    ]
}

impl Edit {
    fn of(&self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Edit::Append(more) => bytes.extend_from_slice(more),
            Edit::Truncate(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Edit::Overwrite(_, _) if bytes.is_empty() => {}
            Edit::Overwrite(at, byte) => {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            Edit::Replace(other) => bytes.clone_from(other),
        }
        bytes
    }
}

fn in_place_stays_true(
    rig: &Rig,
    file: &OddFile,
    split: Option<Split>,
    edits: &[Edit],
) -> Result<(), TestCaseError> {
    let folder = rig.folder();
    let path = folder.path().join(&file.name);
    let mut lies = file.sent.clone();
    fs::write(&path, &lies).unwrap();
    let mut known = None;
    for edit in edits.iter().map(Some).chain([None]) {
        match rig.put_in_place(&path, split) {
            Ok(dataset) => {
                prop_assert!(rig.whole(&dataset).unwrap() == lies, "what lies there");
                known = Some((dataset, lies.clone()));
            }
            Err(error) => names(&error, &file.name)?,
        }
        let Some(edit) = edit else { break };
        lies = edit.of(&lies);
        fs::write(&path, &lies).unwrap();
        // Of what was put, the old bytes or an error.
        if let Some((dataset, was)) = &known
            && let Ok(back) = rig.whole(dataset)
        {
            prop_assert!(back == *was, "other bytes than were put");
        }
    }
    Ok(())
}

/// A table that RFC 4180 would take, and what belongs to each key.
#[derive(Debug)]
struct Table {
    text: String,
    records: BTreeMap<String, String>,
}

fn table() -> impl Strategy<Value = Table> {
    (
        prop::collection::vec(("[a-c]{0,2}|[0-9]{1,2}", "[ab \"\\\\,;\n\r]{0,6}"), 0..40),
        prop_oneof![Just(','), Just(';'), Just('\t'), Just('|')],
        prop_oneof![Just("\n"), Just("\r\n")],
        any::<bool>(),
        prop_oneof![4 => Just(1usize), 1 => 1usize..4_000],
    )
        .prop_map(|(rows, delimiter, end, mark, wide)| {
            let mark = if mark { "\u{feff}" } else { "" };
            let mut table = Table {
                text: format!("{mark}text{delimiter}id{end}"),
                records: BTreeMap::new(),
            };
            for (key, text) in rows {
                let record = format!(
                    "\"{}\"{delimiter}{key}{end}",
                    text.replace('"', "\"\"").repeat(wide)
                );
                table.text.push_str(&record);
                table.records.entry(key).or_default().push_str(&record);
            }
            table
        })
}

fn keys_are_found(rig: &Rig, table: &Table) -> Result<(), TestCaseError> {
    let mut keyed = request("table", Some(Split::Csv));
    keyed.key = Some("id".to_owned());
    let dataset = rig.put(table.text.as_bytes(), keyed).unwrap();
    for (key, records) in &table.records {
        let found = rig.look_up(&dataset, key.as_bytes());
        prop_assert_eq!(found.as_deref(), Some(records.as_bytes()), "{}", key);
    }
    prop_assert_eq!(rig.look_up(&dataset, b"nobody"), None);
    write_tables(rig, table, &dataset);
    let dataset = rig
        .put(table.text.as_bytes(), request("table", Some(Split::Csv)))
        .unwrap();
    prop_assert_eq!(rig.whole(&dataset).unwrap(), table.text.as_bytes());
    write_tables(rig, table, &dataset);
    Ok(())
}

/// Writes a table and its shards for other readers, if somebody asks for them.
fn write_tables(rig: &Rig, table: &Table, dataset: &crate::Dataset) {
    let Some(folder) = std::env::var_os(TABLES) else {
        return;
    };
    let written = fs::read_dir(&folder).unwrap().count();
    if written >= MAX_TABLES {
        return;
    }
    let sorted = if dataset.meta.key.is_some() {
        "sorted"
    } else {
        "cut"
    };
    let folder = std::path::Path::new(&folder).join(format!("{written:06}-{sorted}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("whole.csv"), &table.text).unwrap();
    for (index, shard) in rig.tables(dataset).into_iter().enumerate() {
        fs::write(folder.join(format!("shard-{index:04}.csv")), shard).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(CASES)))]

    #[test]
    fn a_put_comes_back_or_an_error_names_it(file in odd_file(), split in split()) {
        with_rig(|rig| put_comes_back(rig, &file, split))?;
    }

    #[test]
    fn an_append_adds_or_an_error_names_it(file in odd_file(), more in odd_file(), split in split()) {
        with_rig(|rig| append_adds(rig, &file, &more, split))?;
    }

    #[test]
    fn in_place_are_the_bytes_that_lie_there(file in odd_file(), split in split(), edits in prop::collection::vec(edit(), 0..3)) {
        with_rig(|rig| in_place_stays_true(rig, &file, split, &edits))?;
    }

    #[test]
    fn a_key_finds_its_records(table in table()) {
        with_rig(|rig| keys_are_found(rig, &table))?;
    }

    #[test]
    fn a_folder_comes_back_or_an_error_names_its_file(tree in folder::tree(), split in folder::split()) {
        with_rig(|rig| folder::comes_back(rig, &tree, split))?;
    }
}
