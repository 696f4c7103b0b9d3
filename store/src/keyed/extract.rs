//! The key of a record.

use nearfield_protocol::Split;
use nearfield_protocol::limits::KEY_BYTES;
use nearfield_protocol::meta::{DatasetMeta, KeyMeta};
use serde::de::IgnoredAny;
use serde_json::Value;

use super::csv::Column;
use super::json;
use crate::cut::{CutError, without_mark};

/// Parts of a JSON pointer: as deep as JSON is parsed at all.
const MAX_TOKENS: usize = 127;

/// How to find a record's key.
#[derive(Clone)]
pub(crate) enum Extract {
    Column(Column),
    Pointer(Pointer),
}

/// The member of a JSON value that is its key.
#[derive(Clone)]
pub(crate) struct Pointer {
    tokens: Vec<String>,
    numbers: Numbers,
    /// A record that has a member on the way twice is refused. A look-up takes the first.
    strict: bool,
    /// Some number's text was another than that of the nearest double.
    differed: bool,
    /// The last record's key.
    key: String,
}

/// What the key is where it is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Its own text.
    Written,
    /// What the nearest double is written as, which several numbers share. Datasets were sorted so once.
    Doubles,
}

impl Extract {
    /// How records of a dataset that was sorted are read.
    pub fn of(meta: &DatasetMeta, key: &KeyMeta) -> Result<Self, CutError> {
        let source = meta.sources.first().map_or("", String::as_str);
        match meta.split {
            Split::Csv => {
                let header = meta.headers.first().map_or(&[][..], Vec::as_slice);
                // A header that is refused today led to its first such column once.
                Column::of_any(source, &key.name, header).map(Extract::Column)
            }
            Split::Ndjson => {
                let numbers = match key.exact_numbers {
                    true => Numbers::Written,
                    false => Numbers::Doubles,
                };
                Ok(Extract::Pointer(Pointer::new(&key.name, numbers, false)))
            }
            split => Err(CutError::NoKeys {
                name: source.to_owned(),
                split,
            }),
        }
    }

    /// The key of `record`, or what is wrong with it.
    pub fn key<'a>(&'a mut self, record: &'a [u8]) -> Result<&'a [u8], String> {
        let key = match self {
            Extract::Column(column) => column.key(record)?,
            Extract::Pointer(pointer) => pointer.key(record)?.as_bytes(),
        };
        match key.len() > KEY_BYTES {
            true => Err(format!(
                "has a key of {} bytes; at most {KEY_BYTES} are taken",
                key.len()
            )),
            false => Ok(key),
        }
    }
}

impl Pointer {
    /// Of records that are to be sorted.
    pub fn strict(name: &str) -> Self {
        Pointer::new(name, Numbers::Written, true)
    }

    /// `/a/b` as RFC 6901 has it, or the name of a member.
    fn new(name: &str, numbers: Numbers, strict: bool) -> Self {
        let tokens = match name.strip_prefix('/') {
            None => vec![name.to_owned()],
            Some(pointer) => {
                let unescaped = |token: &str| token.replace("~1", "/").replace("~0", "~");
                pointer.split('/').map(unescaped).collect()
            }
        };
        Pointer {
            tokens,
            numbers,
            strict,
            differed: false,
            key: String::new(),
        }
    }

    /// Whether some key so far is another than that of the nearest double, which older builds would look for.
    pub fn differed(&self) -> bool {
        self.differed
    }

    fn key(&mut self, record: &[u8]) -> Result<&str, String> {
        let not_json = |error: serde_json::Error| format!("is not JSON: {error}");
        // Files that were put together may have a byte order mark at the beginning of each.
        let record = without_mark(record);
        serde_json::from_slice::<IgnoredAny>(record).map_err(not_json)?;
        let way = || format!("/{}", self.tokens.join("/"));
        if self.tokens.len() > MAX_TOKENS {
            return Err(format!(
                "is asked for more than {MAX_TOKENS} levels below its top"
            ));
        }
        let found = json::follow(record, &self.tokens);
        if let Some(name) = found.twice.filter(|_| self.strict) {
            return Err(format!("has `{name}` twice, on the way to {}", way()));
        }
        let text = found.leaf.and_then(|range| record.get(range));
        let text = text.ok_or_else(|| format!("has no text, number or boolean at {}", way()))?;
        self.key.clear();
        match text.first() {
            Some(b'"') => self.key = serde_json::from_slice(text).map_err(not_json)?,
            Some(b't' | b'f') => self.key.push_str(&String::from_utf8_lossy(text)),
            _ => {
                let written = String::from_utf8_lossy(text);
                if self.numbers == Numbers::Doubles || !is_short_integer(text) {
                    let double = serde_json::from_slice::<Value>(text).map(|value| value.to_string());
                    if self.numbers == Numbers::Doubles {
                        self.key = double.map_err(not_json)?;
                        return Ok(&self.key);
                    }
                    // One that is no double at all was refused.
                    self.differed |= double.map_or(true, |double| double != written);
                }
                self.key.push_str(&written);
            }
        }
        Ok(&self.key)
    }
}

/// An integer that any reading of numbers leaves as it is. Most keys are.
fn is_short_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) && text != b"-0"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn json(pointer: &str, record: &str) -> Result<String, String> {
        Pointer::strict(pointer).key(record.as_bytes()).map(str::to_owned)
    }

    #[test]
    fn pointers() {
        let record = "{\"a\": {\"b/c\": [1, {\"id\": \"x\\n\"}]}, \"id\": 7, \"ok\": true, \"n\": null, \"f\": -1.50}\n";
        assert_eq!(json("id", record).unwrap(), "7");
        assert_eq!(json("/id", record).unwrap(), "7");
        assert_eq!(json("/a/b~1c/1/id", record).unwrap(), "x\n");
        assert_eq!(json("ok", record).unwrap(), "true");
        assert_eq!(json("f", record).unwrap(), "-1.50");
        assert_eq!(json("id", &format!("\u{feff}{record}")).unwrap(), "7");
        for absent in ["n", "a", "zz", "/id/x", "/a/b~1c/5"] {
            assert!(
                json(absent, record).unwrap_err().contains("has no text"),
                "{absent}"
            );
        }
        assert!(json("id", "{\"id\": 1} x").unwrap_err().contains("not JSON"));
        assert!(json("id", "{\"id\": ").unwrap_err().contains("not JSON"));
        assert!(
            json("id", "{\"id\": 1, \"id\": 2}")
                .unwrap_err()
                .contains("`id` twice")
        );
        assert!(
            json("id", "{\"id\": \"\\ud800\"}")
                .unwrap_err()
                .contains("not JSON")
        );
        let (deep, record) = (
            "/a".repeat(200),
            format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200)),
        );
        assert!(json(&deep, &record).unwrap_err().contains("more than 127 levels"));
    }

    #[test]
    fn a_dataset_of_an_older_build_is_read_as_it_was_made() {
        let old = |record: &str| {
            let mut pointer = Pointer::new("id", Numbers::Doubles, false);
            pointer.key(record.as_bytes()).map(str::to_owned)
        };
        for (number, key) in [
            ("18446744073709551617", "1.8446744073709552e+19"),
            ("1.10", "1.1"),
            ("1e3", "1000.0"),
            ("7", "7"),
            ("-0", "-0.0"),
        ] {
            assert_eq!(old(&format!("{{\"id\": {number}}}")).unwrap(), key);
        }
        assert_eq!(old("{\"id\": 1, \"id\": 2}").unwrap(), "1");
    }

    proptest! {
        #[test]
        fn numbers_are_keys_as_they_are_written(number in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?") {
            let record = format!("{{\"x\": 0, \"id\":{number} }}");
            let mut pointer = Pointer::strict("id");
            prop_assert_eq!(pointer.key(record.as_bytes()).unwrap(), &number);
            // The two readings may only be taken for each other where they agree.
            let mut old = Pointer::new("id", Numbers::Doubles, false);
            let old = old.key(record.as_bytes()).map(str::to_owned);
            prop_assert_eq!(pointer.differed(), old != Ok(number));
        }
    }
}
