//! The key of a record.

use std::fmt;

use nearfield_protocol::Split;
use nearfield_protocol::limits::KEY_BYTES;
use nearfield_protocol::meta::{DatasetMeta, KeyMeta};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::cut::CutError;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// What may stand between the fields of a CSV record.
const DELIMITERS: [u8; 4] = *b",;\t|";
/// Columns that an error lists.
const MAX_LISTED: usize = 20;

/// How to find a record's key.
#[derive(Clone)]
pub(crate) enum Extract {
    Column(Column),
    Pointer { tokens: Vec<String>, key: String },
}

impl Extract {
    /// How records of a dataset that was sorted are read.
    pub fn of(meta: &DatasetMeta, key: &KeyMeta) -> Result<Self, CutError> {
        let source = meta.sources.first().map_or("", String::as_str);
        match meta.split {
            Split::Csv => {
                let header = meta.headers.first().map_or(&[][..], Vec::as_slice);
                Extract::column(source, &key.name, header)
            }
            Split::Ndjson => Ok(Extract::pointer(&key.name)),
            split => Err(CutError::NoKeys {
                name: source.to_owned(),
                split,
            }),
        }
    }

    /// The column `name` of the CSV file that begins with `header`.
    pub fn column(source: &str, name: &str, header: &[u8]) -> Result<Self, CutError> {
        let header = header.strip_prefix(BYTE_ORDER_MARK).unwrap_or(header);
        let mut most: Vec<String> = Vec::new();
        for delimiter in DELIMITERS {
            let columns = fields(header, delimiter);
            if let Some(index) = columns.iter().position(|column| column == name) {
                return Ok(Extract::Column(Column::new(delimiter, index)));
            }
            if columns.len() > most.len() {
                most = columns;
            }
        }
        most.truncate(MAX_LISTED);
        Err(CutError::NoColumn {
            name: source.to_owned(),
            key: name.to_owned(),
            columns: most.join(", "),
        })
    }

    /// `/a/b` as RFC 6901 has it, or the name of a member.
    pub fn pointer(name: &str) -> Self {
        let tokens = match name.strip_prefix('/') {
            None => vec![name.to_owned()],
            Some(pointer) => {
                let unescaped = |token: &str| token.replace("~1", "/").replace("~0", "~");
                pointer.split('/').map(unescaped).collect()
            }
        };
        Extract::Pointer {
            tokens,
            key: String::new(),
        }
    }

    /// The key of `record`, or what is wrong with it.
    pub fn key<'a>(&'a mut self, record: &'a [u8]) -> Result<&'a [u8], String> {
        let key = match self {
            Extract::Column(column) => column.key(record)?,
            Extract::Pointer { tokens, key } => {
                let mut json = serde_json::Deserializer::from_slice(record);
                let found = Pointed(tokens).deserialize(&mut json);
                let found = found.and_then(|found| json.end().map(|()| found));
                *key = found
                    .map_err(|error| format!("is not JSON: {error}"))?
                    .ok_or_else(|| format!("has no text, number or boolean at /{}", tokens.join("/")))?;
                key.as_bytes()
            }
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

/// A column of a CSV file. A reader of whole tables builds its own state first, which a look-up would do each time.
#[derive(Clone)]
pub(crate) struct Column {
    delimiter: u8,
    index: usize,
    /// A key that stood in quotes.
    unquoted: Vec<u8>,
}

impl Column {
    fn new(delimiter: u8, index: usize) -> Self {
        Column {
            delimiter,
            index,
            unquoted: Vec::new(),
        }
    }

    fn key<'a>(&'a mut self, record: &'a [u8]) -> Result<&'a [u8], String> {
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let mut rest = record.strip_suffix(b"\r").unwrap_or(record);
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

/// Where the field that `rest` begins with ends. A delimiter between quotes is a part of it.
fn field_end(rest: &[u8], delimiter: u8) -> usize {
    let find = |from: usize, wanted: u8| {
        let found = rest[from..].iter().position(|&byte| byte == wanted);
        found.map_or(rest.len(), |at| from + at)
    };
    if rest.first() != Some(&b'"') {
        return find(0, delimiter);
    }
    let mut quote = find(1, b'"');
    // A doubled quote closes nothing.
    while rest.get(quote + 1) == Some(&b'"') {
        quote = find(quote + 2, b'"');
    }
    find(rest.len().min(quote + 1), delimiter)
}

/// What stands in quotes, from behind the first one: doubled quotes are one, and what follows the last is taken as it is.
fn unquote(field: &[u8], unquoted: &mut Vec<u8>) {
    unquoted.clear();
    let (mut open, mut bytes) = (true, field.iter().peekable());
    while let Some(&byte) = bytes.next() {
        if byte != b'"' || !open {
            unquoted.push(byte);
        } else if bytes.next_if_eq(&&b'"').is_some() {
            unquoted.push(b'"');
        } else {
            open = false;
        }
    }
}

fn fields(header: &[u8], delimiter: u8) -> Vec<String> {
    let mut fields = Vec::new();
    let mut column = Column::new(delimiter, 0);
    while let Ok(field) = column.key(header) {
        fields.push(String::from_utf8_lossy(field).into_owned());
        column.index += 1;
    }
    fields
}

/// Reads what the tokens lead to and passes over all else.
struct Pointed<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for Pointed<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<String>, D::Error> {
        json.deserialize_any(self)
    }
}

impl Pointed<'_> {
    /// A value that holds no others is the key if the tokens end here.
    fn leaf(&self, text: impl FnOnce() -> String) -> Option<String> {
        self.0.is_empty().then(text)
    }
}

impl<'de> Visitor<'de> for Pointed<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_str<E>(self, value: &str) -> Result<Option<String>, E> {
        Ok(self.leaf(|| value.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Option<String>, E> {
        Ok(self.leaf(|| value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Option<String>, E> {
        Ok(self.leaf(|| value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Option<String>, E> {
        Ok(self.leaf(|| value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Option<String>, E> {
        Ok(self.leaf(|| serde_json::Value::from(value).to_string()))
    }

    fn visit_unit<E>(self) -> Result<Option<String>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.0.split_first() {
                Some((token, rest)) if found.is_none() && *token == name => {
                    found = map.next_value_seed(Pointed(rest))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Option<String>, A::Error> {
        let wanted = self.0.split_first();
        let wanted = wanted.and_then(|(token, rest)| Some((token.parse::<usize>().ok()?, rest)));
        let (mut found, mut index) = (None, 0);
        loop {
            let more = match wanted {
                Some((at, rest)) if at == index => match seq.next_element_seed(Pointed(rest))? {
                    Some(value) => {
                        found = value;
                        true
                    }
                    None => false,
                },
                _ => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                return Ok(found);
            }
            index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csv(header: &str, name: &str, record: &str) -> Result<String, String> {
        let mut extract =
            Extract::column("t.csv", name, header.as_bytes()).map_err(|error| error.to_string())?;
        let key = extract.key(record.as_bytes())?;
        Ok(String::from_utf8_lossy(key).into_owned())
    }

    #[test]
    fn columns() {
        assert_eq!(
            csv("id,name\n", "name", "1,\"a \"\"b\"\"\nc\",x\n").unwrap(),
            "a \"b\"\nc"
        );
        assert_eq!(csv("\u{feff}id;name\r\n", "id", "7;x\r\n").unwrap(), "7");
        assert_eq!(csv("id\tname\r\n", "name", "7\tx\r\n").unwrap(), "x");
        assert_eq!(csv("id,name\n", "name", "7,x").unwrap(), "x");
        assert_eq!(csv("id,name\n", "name", "7,\n").unwrap(), "");
        assert!(csv("id,name\n", "name", "7\n").unwrap_err().contains("1 fields"));
        assert!(csv("id,name\n", "mail", "").unwrap_err().contains("id, name"));
        let long = format!("{},x\n", "y".repeat(5_000));
        assert_eq!(csv("id,name\n", "name", &long).unwrap(), "x");
        assert!(
            csv("id,name\n", "id", &long)
                .unwrap_err()
                .contains("at most 1024")
        );
        let most = format!("{},x\n", "y".repeat(KEY_BYTES));
        assert_eq!(csv("id,name\n", "id", &most).unwrap().len(), KEY_BYTES);
    }

    fn json(pointer: &str, record: &str) -> Result<String, String> {
        let mut extract = Extract::pointer(pointer);
        let key = extract.key(record.as_bytes())?;
        Ok(String::from_utf8_lossy(key).into_owned())
    }

    #[test]
    fn pointers() {
        let record = "{\"a\": {\"b/c\": [1, {\"id\": \"x\\n\"}]}, \"id\": 7, \"ok\": true, \"n\": null, \"f\": -1.50}\n";
        assert_eq!(json("id", record).unwrap(), "7");
        assert_eq!(json("/id", record).unwrap(), "7");
        assert_eq!(json("/a/b~1c/1/id", record).unwrap(), "x\n");
        assert_eq!(json("ok", record).unwrap(), "true");
        assert_eq!(json("f", record).unwrap(), "-1.5");
        for absent in ["n", "a", "zz", "/id/x", "/a/b~1c/5"] {
            assert!(
                json(absent, record).unwrap_err().contains("has no text"),
                "{absent}"
            );
        }
        assert!(json("id", "{\"id\": 1} x").unwrap_err().contains("not JSON"));
        assert!(json("id", "{\"id\": ").unwrap_err().contains("not JSON"));
    }
}
