use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How `put` cuts its input into shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Split {
    /// At line ends.
    Lines,
    /// At the ends of CSV records; quotes and line ends inside quotes are respected.
    Csv,
    /// At line ends; each line is one JSON value.
    Ndjson,
    /// At multiples of this many bytes.
    Fixed(NonZeroU32),
    /// Whole files, packed into tar archives; a file is never cut.
    Files,
    /// Anywhere that the content says.
    Bytes,
    /// Not at all: one shard a file.
    None,
}

impl Split {
    /// Rises when the same input would be cut elsewhere: digests of datasets change with it.
    pub const VERSION: u16 = 1;

    /// Whether it finds the ends of records in UTF-8 text.
    pub fn is_text(self) -> bool {
        matches!(self, Split::Lines | Split::Csv | Split::Ndjson)
    }

    /// What `auto` means for a file of this name: by its extension, after `.gz` and `.zst` are
    /// taken off, else lines if `sample` is text, else bytes. A folder is `files`.
    pub fn guess(file_name: &str, sample: &[u8]) -> Split {
        let name = file_name.to_ascii_lowercase();
        let name = name
            .strip_suffix(".gz")
            .or(name.strip_suffix(".zst"))
            .unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => Split::Csv,
            Some("ndjson" | "jsonl") => Split::Ndjson,
            Some("txt" | "log") => Split::Lines,
            Some("parquet" | "npy" | "npz" | "zip" | "png" | "jpg" | "jpeg" | "webp" | "gif") => Split::None,
            _ if is_text(sample) => Split::Lines,
            _ => Split::Bytes,
        }
    }
}

/// Text is what holds no NUL and is UTF-8 but for a character cut off at the sample's end.
fn is_text(sample: &[u8]) -> bool {
    !sample.contains(&0)
        && match std::str::from_utf8(sample) {
            Ok(_) => !sample.is_empty(),
            Err(error) => error.error_len().is_none(),
        }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Split::Lines => f.write_str("lines"),
            Split::Csv => f.write_str("csv"),
            Split::Ndjson => f.write_str("ndjson"),
            Split::Fixed(bytes) => write!(f, "fixed:{bytes}"),
            Split::Files => f.write_str("files"),
            Split::Bytes => f.write_str("bytes"),
            Split::None => f.write_str("none"),
        }
    }
}

/// Text that names no split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no split: use lines, csv, ndjson, fixed:BYTES, files, bytes or none")]
pub struct ParseSplitError(String);

impl FromStr for Split {
    type Err = ParseSplitError;

    fn from_str(text: &str) -> Result<Self, ParseSplitError> {
        let refused = || ParseSplitError(text.chars().take(80).collect());
        Ok(match text {
            "lines" => Split::Lines,
            "csv" => Split::Csv,
            "ndjson" => Split::Ndjson,
            "files" => Split::Files,
            "bytes" => Split::Bytes,
            "none" => Split::None,
            _ => {
                let bytes = text.strip_prefix("fixed:").ok_or_else(refused)?;
                Split::Fixed(bytes.parse().map_err(|_| refused())?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back() {
        for text in ["lines", "csv", "ndjson", "fixed:3072", "files", "bytes", "none"] {
            assert_eq!(text.parse::<Split>().unwrap().to_string(), text);
        }
        for text in ["", "fixed", "fixed:0", "fixed:-1", "Lines"] {
            assert!(text.parse::<Split>().is_err(), "{text}");
        }
    }

    #[test]
    fn auto_goes_by_name_then_content() {
        assert_eq!(Split::guess("a.csv.gz", b""), Split::Csv);
        assert_eq!(Split::guess("events.jsonl.zst", b""), Split::Ndjson);
        assert_eq!(Split::guess("x.parquet", b"text"), Split::None);
        assert_eq!(Split::guess("-", "gr\u{fc}n\n".as_bytes()), Split::Lines);
        assert_eq!(Split::guess("-", b"\x7fELF\0"), Split::Bytes);
    }
}
