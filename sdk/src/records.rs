//! The records of shards and files.

use std::io::{self, BufRead, Cursor, Read};
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::Shard;

/// A shard's CSV records: the [`csv`] crate's reader, over the header and what follows it.
pub type Csv = csv::Reader<io::Chain<Cursor<Vec<u8>>, Shard>>;

/// Lines without their ends. As an iterator it yields a `String` each; [`next_line`](Self::next_line) lends its
/// own buffer instead, several times faster, and takes any bytes.
pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// The lines of any reader, of a file in a pack for instance.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            line: Vec::new(),
        }
    }

    /// The next line, or nothing at the end.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        if self.reader.read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        Ok(Some(line.strip_suffix(b"\r").unwrap_or(line)))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.next_line().transpose()?;
        Some(line.and_then(|line| String::from_utf8(line.into()).map_err(invalid)))
    }
}

/// What may stand before the first character of UTF-8, and says nothing.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// JSON values, one on each line. A byte order mark before one is passed over.
pub struct Ndjson<R, T> {
    lines: Lines<R>,
    number: u64,
    value: PhantomData<fn() -> T>,
}

impl<R: BufRead, T> Ndjson<R, T> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            lines: Lines::new(reader),
            number: 0,
            value: PhantomData,
        }
    }
}

impl<R: BufRead, T: DeserializeOwned> Iterator for Ndjson<R, T> {
    type Item = io::Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.number += 1;
            let number = self.number;
            let line = match self.lines.next_line().transpose()? {
                // Files that were put together may have one each.
                Ok(line) => line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line),
                Err(error) => return Some(Err(error)),
            };
            if line.trim_ascii().is_empty() {
                continue;
            }
            let value = serde_json::from_slice(line);
            return Some(value.map_err(|error| invalid(format!("line {number} of the shard: {error}"))));
        }
    }
}

/// Records of a fixed size. A rest that is shorter is an error.
pub struct Fixed<R> {
    reader: R,
    record: Vec<u8>,
}

impl<R: BufRead> Fixed<R> {
    pub(crate) fn new(reader: R, size: usize) -> Self {
        assert!(size > 0, "a record has bytes");
        Self {
            reader,
            record: vec![0; size],
        }
    }

    /// The next record, or nothing at the end.
    pub fn next_record(&mut self) -> io::Result<Option<&[u8]>> {
        if self.reader.fill_buf()?.is_empty() {
            return Ok(None);
        }
        self.reader.read_exact(&mut self.record)?;
        Ok(Some(&self.record))
    }
}

impl<R: BufRead> Iterator for Fixed<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.next_record().transpose()?.map(<[u8]>::to_vec))
    }
}

/// The files of a shard that was split by `files`.
pub struct Files<R: Read> {
    archive: tar::Archive<R>,
}

impl<R: Read> Files<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self {
            archive: tar::Archive::new(reader),
        }
    }

    /// Calls `each` with every file's path and content. Folders and links are passed over.
    ///
    /// ```
    /// # use nearfield::{Dataset, mock};
    /// # use std::io::Read;
    /// # let data = mock::Dataset::new("files").file("a.txt", "one").file("b/c.txt", "two");
    /// # mock::Host::new().dataset("docs", data).run(|| -> nearfield::Result<()> {
    /// let mut seen = Vec::new();
    /// Dataset::open("docs")?.shard(0)?.files().for_each(|path, content| {
    ///     let mut text = String::new();
    ///     content.read_to_string(&mut text)?;
    ///     seen.push((path.to_owned(), text));
    ///     Ok(())
    /// })?;
    /// assert_eq!(seen[1], ("b/c.txt".into(), "two".into()));
    /// # Ok(()) }).unwrap();
    /// ```
    pub fn for_each(
        mut self,
        mut each: impl FnMut(&str, &mut dyn Read) -> crate::Result<()>,
    ) -> crate::Result<()> {
        for entry in self.archive.entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(invalid)?;
                each(&path, &mut entry)?;
            }
        }
        Ok(())
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_nothing_else() {
        let lines: Vec<_> = Lines::new(&b"a\r\n\nb \n c"[..]).map(Result::unwrap).collect();
        assert_eq!(lines, ["a", "", "b ", " c"]);
    }

    #[test]
    fn a_bad_json_line_is_named() {
        let mut values = Ndjson::<_, u32>::new(&b"1\n\nx\n2\n"[..]);
        assert_eq!(values.next().unwrap().unwrap(), 1);
        assert!(
            values
                .next()
                .unwrap()
                .unwrap_err()
                .to_string()
                .starts_with("line 3 ")
        );
        assert_eq!(values.next().unwrap().unwrap(), 2);
        assert!(values.next().is_none());
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let values = Ndjson::<_, u32>::new("\u{feff}1\n2\n\u{feff}3\n\u{feff}".as_bytes());
        assert_eq!(values.map(Result::unwrap).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_cut_record_is_an_error() {
        let mut records = Fixed::new(&b"abcde"[..], 2);
        assert_eq!(records.next_record().unwrap(), Some(&b"ab"[..]));
        assert_eq!(records.next().unwrap().unwrap(), b"cd");
        assert!(records.next().unwrap().is_err());
    }
}
