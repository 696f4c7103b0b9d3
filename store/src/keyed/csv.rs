//! The key's column in a CSV file, and what its records must look like to be taken for records.

use memchr::memchr;
use nearfield_csv::{DELIMITERS, closing, field_end, fields, unquote, without_line_end};

use crate::cut::{CutError, without_mark};

/// Columns that an error lists.
const MAX_LISTED: usize = 20;

/// A column of a CSV file. A reader of whole tables builds its own state first, which a look-up would do each time.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    delimiter: u8,
    index: usize,
    /// Of the header.
    columns: usize,
    /// A key that stood in quotes.
    unquoted: Vec<u8>,
}

impl Column {
    /// The column `name` of the CSV file that begins with `header`. What separates its columns is what makes `name` one of them.
    pub fn of(source: &str, name: &str, header: &[u8]) -> Result<Self, CutError> {
        match Column::find(source, name, header)? {
            (column, 1) => Ok(column),
            (_, times) => Err(CutError::SameColumns {
                name: source.to_owned(),
                key: name.to_owned(),
                times,
            }),
        }
    }

    /// The first column `name`.
    pub fn of_any(source: &str, name: &str, header: &[u8]) -> Result<Self, CutError> {
        Ok(Column::find(source, name, header)?.0)
    }

    /// The first column `name`, and how many there are.
    fn find(source: &str, name: &str, header: &[u8]) -> Result<(Self, usize), CutError> {
        let header = without_mark(header);
        // Empty lines before it say nothing.
        let begin = header.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
        let header = &header[begin.unwrap_or(header.len())..];
        let (mut most, mut by): (Vec<String>, u8) = (Vec::new(), DELIMITERS[0]);
        for delimiter in DELIMITERS {
            let columns = columns_of(header, delimiter);
            let mut found = columns.iter().enumerate().filter(|(_, column)| *column == name);
            if let Some((index, _)) = found.next() {
                let times = 1 + found.count();
                return Ok((Column::new(delimiter, index, columns.len()), times));
            }
            if columns.len() > most.len() {
                (most, by) = (columns, delimiter);
            }
        }
        let more = most.len() > MAX_LISTED;
        most.truncate(MAX_LISTED);
        let told = match (header.is_empty(), most.len()) {
            (true, _) => "none, being empty".to_owned(),
            (false, 1) => format!("{}, in which nothing separates columns", most[0]),
            (false, _) => format!(
                "{}{}, separated by {}",
                most.join(", "),
                if more { ", …" } else { "" },
                delimiter_name(by)
            ),
        };
        Err(CutError::NoColumn {
            name: source.to_owned(),
            key: name.to_owned(),
            columns: told,
        })
    }

    fn new(delimiter: u8, index: usize, columns: usize) -> Self {
        Column {
            delimiter,
            index,
            columns,
            unquoted: Vec::new(),
        }
    }

    pub fn key<'a>(&'a mut self, record: &'a [u8]) -> Result<&'a [u8], String> {
        let mut rest = without_line_end(record);
        for index in 0..self.index {
            let behind = rest.get(field_end(rest, self.delimiter) + 1..);
            rest = behind.ok_or_else(|| {
                let (fields, key) = (index + 1, self.index + 1);
                format!("has {fields} fields, and the key is field {key}")
            })?;
        }
        let field = &rest[..field_end(rest, self.delimiter)];
        Ok(match field.strip_prefix(b"\"") {
            Some(quoted) => {
                unquote(quoted, &mut self.unquoted);
                &self.unquoted
            }
            None => field,
        })
    }
}

/// Sees to it that the records of a file are what they are taken for, so that none is sorted by something that is no key of it.
#[derive(Debug)]
pub(super) struct Checker {
    delimiter: u8,
    columns: usize,
    /// The last record in which a quote behind a backslash closed a field.
    closed_behind_backslash: Option<u64>,
}

const BACKSLASH: &str =
    "has a quote behind a backslash, which ends its field: a quote inside quotes is written twice";

/// Where records end is told before it is known what separates fields, so any of these would begin a field there.
const OTHER_DELIMITER: &str = "has a quote right behind a comma, semicolon, tab or bar that separates no columns here: readers \
                               take it for the beginning of a field";

/// Whether a quote stands in a field where it would open another, did something else separate fields.
fn opens_another(field: &[u8]) -> bool {
    memchr(b'"', field).is_some()
        && field
            .windows(2)
            .any(|pair| DELIMITERS.contains(&pair[0]) && pair[1] == b'"')
}

impl Checker {
    pub fn of(column: &Column) -> Self {
        Checker {
            delimiter: column.delimiter,
            columns: column.columns,
            closed_behind_backslash: None,
        }
    }

    /// Looks at the next record, which has this number, or says what is wrong with it.
    pub fn check(&mut self, record: &[u8], number: u64) -> Result<(), String> {
        let (mut rest, mut fields, mut backslash) = (without_line_end(record), 0, false);
        loop {
            fields += 1;
            let end = field_end(rest, self.delimiter);
            let field = &rest[..end];
            match field.strip_prefix(b"\"") {
                Some(quoted) => {
                    let close = closing(quoted).ok_or("has a quote that nothing closes")?;
                    if quoted[..close].ends_with(b"\\") {
                        backslash = true;
                        self.closed_behind_backslash = Some(number);
                        if close + 1 < quoted.len() {
                            return Err(BACKSLASH.to_owned());
                        }
                    }
                    if opens_another(&quoted[close..]) {
                        return Err(OTHER_DELIMITER.to_owned());
                    }
                }
                None if opens_another(field) => return Err(OTHER_DELIMITER.to_owned()),
                // A Windows path may end with a backslash: it takes a quote behind it where none belongs to tell, or at the
                // end of a line that the quotes were to hold.
                None => {
                    let near = self
                        .closed_behind_backslash
                        .is_some_and(|closed| closed == number || self.columns == 1 && closed + 1 == number);
                    if near && memchr(b'"', field).is_some() {
                        return Err(BACKSLASH.to_owned());
                    }
                }
            }
            match rest.get(end + 1..) {
                Some(next) => rest = next,
                None => break,
            }
        }
        if fields != self.columns {
            let hint = match backslash {
                true => format!("; it {BACKSLASH}"),
                false => String::new(),
            };
            let (one, by) = (
                if fields == 1 { "field" } else { "fields" },
                delimiter_name(self.delimiter),
            );
            let columns = self.columns;
            return Err(format!(
                "has {fields} {one}, and the header has {columns}, separated by {by}{hint}"
            ));
        }
        Ok(())
    }
}

fn delimiter_name(delimiter: u8) -> &'static str {
    match delimiter {
        b';' => "semicolons",
        b'\t' => "tabs",
        b'|' => "bars",
        _ => "commas",
    }
}

fn columns_of(header: &[u8], delimiter: u8) -> Vec<String> {
    let columns = fields(header, delimiter);
    columns
        .map(|column| String::from_utf8_lossy(&column).into_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use nearfield_protocol::limits::KEY_BYTES;

    use super::*;

    fn key(header: &str, name: &str, record: &str) -> Result<String, String> {
        let mut column = Column::of("t.csv", name, header.as_bytes()).map_err(|error| error.to_string())?;
        let key = column.key(record.as_bytes())?;
        Ok(String::from_utf8_lossy(key).into_owned())
    }

    #[test]
    fn columns() {
        assert_eq!(
            key("id,name\n", "name", "1,\"a \"\"b\"\"\nc\",x\n").unwrap(),
            "a \"b\"\nc"
        );
        assert_eq!(key("\u{feff}id;name\r\n", "id", "7;x\r\n").unwrap(), "7");
        assert_eq!(key("\u{feff}\"id\",name\n", "id", "7,x\n").unwrap(), "7");
        assert_eq!(key("\u{feff}\n\r\nid,name\n", "id", "7,x\n").unwrap(), "7");
        assert_eq!(key("id\tname\r\n", "name", "7\tx\r\n").unwrap(), "x");
        assert_eq!(key("id,name\n", "name", "7,x").unwrap(), "x");
        assert_eq!(key("id,name\n", "name", "7,\n").unwrap(), "");
        assert!(key("id,name\n", "name", "7\n").unwrap_err().contains("1 fields"));
        let long = format!("{},x\n", "y".repeat(5 * KEY_BYTES));
        assert_eq!(key("id,name\n", "name", &long).unwrap(), "x");
    }

    #[test]
    fn a_column_that_is_not_one_is_told_with_those_that_are() {
        let told = |header: &str| key(header, "mail", "").unwrap_err();
        assert!(told("id,name\n").contains("no column `mail`: it has id, name, separated by commas"));
        assert!(told("id;name;x, y\n").contains("it has id, name, x, y, separated by semicolons"));
        assert!(told("id\tname\tx\n").contains("it has id, name, x, separated by tabs"));
        assert!(told("id\n").contains("it has id, in which nothing separates"));
        assert!(told("").contains("being empty") && told("\n\n").contains("being empty"));
        assert!(told(&"c,".repeat(50)).contains(", …, separated"));
        let twice = key("id,mail,mail\n", "mail", "").unwrap_err();
        assert!(twice.contains("2 columns `mail`"), "{twice}");
        let twice = key("\"id\";mail;id\n", "id", "").unwrap_err();
        assert!(twice.contains("2 columns `id`"), "{twice}");
        assert_eq!(
            key("id,mail,mail\n", "id", "7,x,y\n").unwrap(),
            "7",
            "another one may be there twice"
        );
    }

    /// What the first record says that is refused.
    fn refused(header: &str, records: &[&str]) -> Option<(usize, String)> {
        let column = Column::of("t.csv", "id", header.as_bytes()).unwrap();
        let mut checker = Checker::of(&column);
        let mut records = records.iter().zip(0usize..);
        records.find_map(|(record, number)| {
            let refused = checker.check(record.as_bytes(), number as u64).err()?;
            Some((number, refused))
        })
    }

    #[test]
    fn records_are_like_their_header_or_refused() {
        let good: &[&str] = &[
            "1,x\n",
            "\"a \"\"b\"\"\",\"\n\r,;\"\r\n",
            ",\n",
            "5\" pipe,\"\"",
            "\"C:\\dir\\\",x\n",
            "\"a;\"\"b|\"\"\",x;y\n",
            "a\\,\"b\"",
        ];
        assert_eq!(refused("id,name\n", good), None);
        let refuse = |header, records: &[&str], at: usize, text: &str| {
            let (number, told) = refused(header, records).expect("a refusal");
            assert!(number == at && told.contains(text), "{number}: {told}");
        };
        refuse(
            "id,name\n",
            &["1,x\n", "2\n"],
            1,
            "has 1 field, and the header has 2, separated by commas",
        );
        refuse(
            "id;name\n",
            &["1;x;y\n"],
            0,
            "has 3 fields, and the header has 2, separated by semicolons",
        );
        refuse("id,name\n", &["1,\"x\n"], 0, "nothing closes");
        refuse("id,name\n", &["1,x;\"y\n"], 0, "right behind a comma, semicolon");
        refuse("id\n", &["\"a\" \t\"b\"\n"], 0, "right behind a comma, semicolon");
        for escaped in [
            "\"a\\\"b\",x\n",
            "\"a\\\",b\",x\n",
            "1,\"say \\\"hi\\\"\"\n",
            "\"a\\\"\\\",b\"\n",
        ] {
            refuse("id,name\n", &[escaped], 0, "written twice");
        }
        // The line end within the quotes ended the record.
        refuse("id\n", &["\"a\\\"\n", "b\"\n"], 1, "written twice");
    }
}
