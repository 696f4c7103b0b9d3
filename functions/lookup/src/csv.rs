//! A few CSV records of one key. The `csv` crate's reader first makes tables for large inputs, which would cost more than all
//! else that a look-up does.

use std::borrow::Cow;

use nearfield_csv::DELIMITERS;

/// The header's fields, and those of each record of `key`. Fields are separated by what makes every record as long as the header, and
/// `key` the same column of each.
pub fn table(header: &[u8], text: &[u8], key: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let of = |delimiter| {
        // Empty lines may stand before the header.
        let names = records(header, delimiter).pop().unwrap_or_default();
        (names, records(text, delimiter))
    };
    let fits = |(names, records): &(Vec<String>, Vec<Vec<String>>)| {
        records.iter().all(|record| record.len() == names.len())
            && (0..names.len()).any(|column| records.iter().all(|record| record[column] == key))
    };
    let found = DELIMITERS.into_iter().map(of).find(fits);
    found.unwrap_or_else(|| of(DELIMITERS[0]))
}

/// The fields of each record.
fn records(text: &[u8], delimiter: u8) -> Vec<Vec<String>> {
    let text_of = |field: Cow<'_, [u8]>| String::from_utf8_lossy(&field).into_owned();
    let records = nearfield_csv::records(text);
    let fields = |record| nearfield_csv::fields(record, delimiter).map(text_of).collect();
    records.map(fields).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_separates_fields_is_told_by_the_key() {
        for (header, record) in [
            ("id,name\n", "7,A;B\n"),
            ("id;name\n", "7;A,B\n"),
            ("id\tname\n", "7\tA,B\n"),
            ("name|id\r\n", "A,B|7\r\n"),
            ("id\n", "7\n"),
            // A comma in the header and in the record, and the key in no column of theirs.
            ("name, first;id\n", "A, B;7\n"),
        ] {
            let (names, records) = super::table(header.as_bytes(), record.as_bytes(), "7");
            assert!(names.contains(&"id".to_owned()), "{header:?}: {names:?}");
            assert!(records[0].contains(&"7".to_owned()), "{record:?}: {records:?}");
        }
    }

    #[test]
    fn quotes_hold_what_they_enclose() {
        let text = b"a,\"b \"\"c\"\",\n\",5\" pipe\r\n,\"\"\n";
        let expected = [vec!["a", "b \"c\",\n", "5\" pipe"], vec!["", ""]];
        assert_eq!(super::records(text, b','), expected);
    }
}
