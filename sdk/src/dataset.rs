//! Granted datasets: their shards, and the files in them.

use std::fmt;
use std::io::{self, BufRead, Read, Seek, SeekFrom};
use std::rc::Rc;

use crate::{Csv, Files, Fixed, Lines, Ndjson, host};

mod file;

pub use file::File;

/// One version of a dataset. Cloning it is cheap.
#[derive(Clone)]
pub struct Dataset {
    handle: Rc<host::Dataset>,
}

/// Where a file lies: it starts in `shard` at `offset` and goes on at the start of the following shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub shard: u32,
    pub offset: u64,
    pub length: u64,
}

impl Dataset {
    /// Opens a name from the manifest's `inputs`.
    pub fn open(input: &str) -> Result<Self, DataError> {
        host::Dataset::open(input).map(|handle| Self {
            handle: Rc::new(handle),
        })
    }

    /// What names this version.
    pub fn digest(&self) -> Digest {
        self.handle.digest()
    }

    /// The number of shards.
    pub fn len(&self) -> u32 {
        self.handle.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shard at `index`, from 0.
    pub fn shard(&self, index: u32) -> Result<Shard, DataError> {
        self.handle.shard(index).map(Shard::new)
    }

    /// All shards in order, each opened when its turn comes.
    pub fn shards(&self) -> impl Iterator<Item = Result<Shard, DataError>> + '_ {
        (0..self.len()).map(|index| self.shard(index))
    }

    /// Where the file at `path` lies, if there is one.
    pub fn by_path(&self, path: &str) -> Result<Option<Location>, DataError> {
        self.handle.by_path(path)
    }

    /// Where the records of `key` lie, if there are any, in a dataset put with `--key`. They do not leave their shard. A key is
    /// text: of a JSON number as it is written there, so `1.10` is not `1.1`; of a JSON string what it says.
    pub fn by_key(&self, key: &str) -> Result<Option<Location>, DataError> {
        self.handle.by_key(key)
    }

    /// The records of `key`, if there are any, in a dataset put with `--key`.
    ///
    /// ```
    /// # use nearfield::{Dataset, mock};
    /// # let data = mock::Dataset::new("csv").key("id").file("users.csv", "id,name\n7,Ada\n3,Bo\n");
    /// # mock::Host::new().dataset("users", data).run(|| -> nearfield::Result<()> {
    /// #[derive(serde::Deserialize)]
    /// struct User {
    ///     name: String,
    /// }
    ///
    /// let records = Dataset::open("users")?.records("7")?.expect("user 7");
    /// let user: User = records.csv().deserialize().next().expect("a record")?;
    /// assert_eq!(user.name, "Ada");
    /// # Ok(()) }).unwrap();
    /// ```
    pub fn records(&self, key: &str) -> Result<Option<Records>, DataError> {
        let Some(location) = self.by_key(key)? else {
            return Ok(None);
        };
        let shard = self.handle.shard(location.shard)?;
        let (mut bytes, mut at) = (Vec::new(), location.offset);
        let end = at + location.length;
        while at < end {
            let length = (end - at).min(READ_AT_ONCE.into()) as u32;
            let mut piece = shard.read(at, length)?;
            if piece.is_empty() {
                return Err(DataError::Corrupt("records reach behind their shard".to_owned()));
            }
            at += piece.len() as u64;
            match bytes.is_empty() {
                true => bytes = piece,
                false => bytes.append(&mut piece),
            }
        }
        Ok(Some(Records { shard, bytes }))
    }

    /// The file at `path`, if there is one.
    pub fn file(&self, path: &str) -> Result<Option<File>, DataError> {
        let open = |location: Location| {
            let shard = self.shard(location.shard)?;
            Ok(File {
                dataset: self.clone(),
                location,
                position: 0,
                ends: Vec::new(),
                shard,
                segment: 0,
            })
        };
        self.by_path(path)?.map(open).transpose()
    }
}

/// The most a host gives in one read.
const READ_AT_ONCE: u32 = 1 << 20;

/// The records of one key, in memory.
pub struct Records {
    shard: host::Shard,
    bytes: Vec<u8>,
}

impl Records {
    /// The records as they are, line ends included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The header record of a CSV file, its line end included; empty for ndjson.
    pub fn header(&self) -> Vec<u8> {
        self.shard.header()
    }

    /// `csv` or `ndjson`.
    pub fn format(&self) -> String {
        self.shard.format()
    }

    /// As CSV records under their file's header.
    pub fn csv(self) -> csv::Reader<io::Cursor<Vec<u8>>> {
        let mut table = self.shard.header();
        table.extend_from_slice(&self.bytes);
        csv::Reader::from_reader(io::Cursor::new(table))
    }

    /// As JSON values.
    pub fn ndjson<T: serde::de::DeserializeOwned>(self) -> Ndjson<io::Cursor<Vec<u8>>, T> {
        Ndjson::new(io::Cursor::new(self.bytes))
    }
}

/// The least and the most bytes a shard asks the host for at once. Reads start small, so that a lookup stays cheap,
/// and double while they are sequential; 256 KiB amortise a crossing and still fit the processor's cache.
const READ_BYTES: (u32, u32) = (16 << 10, 256 << 10);

/// One immutable piece of a dataset, readable from any place. It buffers by itself.
pub struct Shard {
    handle: host::Shard,
    size: u64,
    /// Where `buffer` starts in the shard.
    start: u64,
    buffer: Vec<u8>,
    /// How much of `buffer` has been read.
    used: usize,
    /// Bytes to ask for next.
    ahead: u32,
}

impl Shard {
    pub(crate) fn new(handle: host::Shard) -> Self {
        Self {
            size: handle.size(),
            handle,
            start: 0,
            buffer: Vec::new(),
            used: 0,
            ahead: READ_BYTES.0,
        }
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn handle(&self) -> &host::Shard {
        &self.handle
    }

    pub fn digest(&self) -> Digest {
        self.handle.digest()
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The split that cut it: `lines`, `csv`, `ndjson`, `fixed:N`, `files`, `bytes` or `none`.
    pub fn format(&self) -> String {
        self.handle.format()
    }

    /// The CSV header record of the file it was cut from, its line end included; empty for other formats.
    pub fn header(&self) -> Vec<u8> {
        self.handle.header()
    }

    /// The file or part it was cut from; in a job the digest, because a result must not depend on names.
    pub fn source(&self) -> String {
        self.handle.source()
    }

    /// The rest as lines without their ends.
    pub fn lines(self) -> Lines<Self> {
        Lines::new(self)
    }

    /// The whole shard as CSV records under their file's header, whichever piece of the file this is.
    ///
    /// ```
    /// # use nearfield::{Dataset, mock};
    /// # let data = mock::Dataset::new("csv").shard_bytes(8).file("t.csv", "id,n\n1,2\n3,4\n5,6\n");
    /// # mock::Host::new().dataset("table", data).run(|| -> nearfield::Result<()> {
    /// let mut sum = 0;
    /// for shard in Dataset::open("table")?.shards() {
    ///     let mut csv = shard?.csv()?;
    ///     assert_eq!(csv.headers()?, &["id", "n"][..]);
    ///     for record in csv.deserialize() {
    ///         let (_id, n): (u32, u32) = record?;
    ///         sum += n;
    ///     }
    /// }
    /// assert_eq!(sum, 12);
    /// # Ok(()) }).unwrap();
    /// ```
    pub fn csv(mut self) -> io::Result<Csv> {
        let header = self.header();
        // Only a file's first shard begins with the header. It is left out there, and put before every shard.
        let mut first = Vec::with_capacity(header.len());
        self.rewind()?;
        self.by_ref().take(header.len() as u64).read_to_end(&mut first)?;
        if first != header {
            self.rewind()?;
        }
        Ok(csv::Reader::from_reader(io::Cursor::new(header).chain(self)))
    }

    /// The rest as JSON values, one on each line; empty lines are passed over.
    pub fn ndjson<T: serde::de::DeserializeOwned>(self) -> Ndjson<Self, T> {
        Ndjson::new(self)
    }

    /// The files of a shard that was split by `files`.
    pub fn files(self) -> Files<Self> {
        Files::new(self)
    }

    /// The rest as records of `size` bytes.
    pub fn fixed(self, size: usize) -> Fixed<Self> {
        Fixed::new(self, size)
    }

    fn position(&self) -> u64 {
        self.start + self.used as u64
    }
}

impl BufRead for Shard {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.buffer.len() && self.position() < self.size {
            self.start = self.position();
            self.used = 0;
            // Freed first: the allocator then hands the same, warm memory out again.
            drop(std::mem::take(&mut self.buffer));
            self.buffer = self.handle.read(self.start, self.ahead)?;
            self.ahead = (self.ahead * 2).min(READ_BYTES.1);
            if self.buffer.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, amount: usize) {
        self.used = self.buffer.len().min(self.used + amount);
    }
}

impl Read for Shard {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(into)?;
        self.consume(length);
        Ok(length)
    }
}

impl Seek for Shard {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = target(to, self.position(), self.size)?;
        match position.checked_sub(self.start) {
            Some(used) if used <= self.buffer.len() as u64 => self.used = used as usize,
            _ => {
                self.start = position;
                self.used = 0;
                self.buffer = Vec::new();
                self.ahead = READ_BYTES.0;
            }
        }
        Ok(position)
    }
}

/// Where a seek leads; behind the end is an empty read, before the start an error.
fn target(to: SeekFrom, position: u64, size: u64) -> io::Result<u64> {
    let (from, by) = match to {
        SeekFrom::Start(position) => return Ok(position),
        SeekFrom::Current(by) => (position, by),
        SeekFrom::End(by) => (size, by),
    };
    from.checked_add_signed(by)
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A BLAKE3 digest, written `b3:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("b3:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why data could not be read. The text names the thing and the cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataError {
    /// The manifest does not grant it.
    Denied(String),
    /// No such input, shard or path.
    NotFound(String),
    /// The bytes on disk no longer match their digest.
    Corrupt(String),
    /// The file that an in-place shard points into has changed.
    Changed(String),
    /// An argument out of range.
    Invalid(String),
    /// The host could not read.
    Io(String),
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Denied(text)
        | Self::NotFound(text)
        | Self::Corrupt(text)
        | Self::Changed(text)
        | Self::Invalid(text)
        | Self::Io(text)) = self;
        f.write_str(text)
    }
}

impl std::error::Error for DataError {}

impl From<DataError> for io::Error {
    fn from(error: DataError) -> Self {
        let kind = match error {
            DataError::Denied(_) => io::ErrorKind::PermissionDenied,
            DataError::NotFound(_) => io::ErrorKind::NotFound,
            DataError::Corrupt(_) | DataError::Changed(_) => io::ErrorKind::InvalidData,
            DataError::Invalid(_) => io::ErrorKind::InvalidInput,
            DataError::Io(_) => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock;

    fn in_shards_of(bytes: u64, test: impl FnOnce(Dataset)) {
        let data = mock::Dataset::new("bytes")
            .shard_bytes(bytes)
            .file("a", "0123456789")
            .file("b/c", "xyz");
        mock::Host::new()
            .dataset("data", data)
            .run(|| test(Dataset::open("data").unwrap()));
    }

    #[test]
    fn a_file_is_whole_over_any_shards() {
        for bytes in [1, 3, 5, 10, 99] {
            in_shards_of(bytes, |data| {
                let mut text = String::new();
                data.file("a")
                    .unwrap()
                    .unwrap()
                    .read_to_string(&mut text)
                    .unwrap();
                assert_eq!(text, "0123456789", "shards of {bytes} bytes");
                assert!(data.file("c").unwrap().is_none());
            });
        }
    }

    #[test]
    fn a_file_is_read_from_any_place() {
        in_shards_of(3, |data| {
            let mut file = data.file("a").unwrap().unwrap();
            for start in [7, 2, 9, 0, 5, 10, 11] {
                let mut text = String::new();
                file.seek(SeekFrom::Start(start)).unwrap();
                file.by_ref().take(4).read_to_string(&mut text).unwrap();
                assert_eq!(
                    text,
                    "0123456789"
                        .chars()
                        .skip(start as usize)
                        .take(4)
                        .collect::<String>()
                );
            }
            assert_eq!(file.seek(SeekFrom::End(-3)).unwrap(), 7);
            assert!(file.seek(SeekFrom::Current(-8)).is_err());
        });
    }

    #[test]
    fn a_shard_larger_than_a_read_is_whole_and_seeks_inside_and_outside_its_buffer() {
        let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n / 1000) as u8).collect();
        let data = mock::Dataset::new("none").file("big", bytes.clone());
        mock::Host::new().dataset("data", data).run(|| {
            let mut shard = Dataset::open("data").unwrap().shard(0).unwrap();
            let mut all = Vec::new();
            shard.read_to_end(&mut all).unwrap();
            assert_eq!(all, bytes);
            for position in [999_999, 0, 10, 500_000] {
                let mut byte = [0];
                shard.seek(SeekFrom::Start(position)).unwrap();
                shard.read_exact(&mut byte).unwrap();
                assert_eq!(byte[0], bytes[position as usize]);
            }
        });
    }

    #[test]
    fn what_is_not_granted_is_denied() {
        mock::Host::new().run(|| assert!(matches!(Dataset::open("data"), Err(DataError::Denied(_)))));
    }
}
