//! Searching an index where it lies.

use super::{
    BLOCK_ENTRIES, EMPTY_DIR, EXECUTABLE, Entry, EntryKind, FILE, HEADER_BYTES, MAGIC, PATH_BYTES,
    PathIndexError, SYMLINK, VERSION, check_path,
};

/// A path index over the bytes that hold it.
#[derive(Debug, Clone)]
pub struct PathIndex<B> {
    bytes: B,
    entries: u64,
    /// Where the block table begins and the entries end.
    table: usize,
}

impl<B: AsRef<[u8]>> PathIndex<B> {
    /// Checks the header and that the parts fit; reads no entry. A malformed entry ends an iteration and is
    /// not found by [`get`](Self::get): who must see all entries asks [`Entries::is_torn`] at the end.
    pub fn parse(bytes: B) -> Result<Self, PathIndexError> {
        let all = bytes.as_ref();
        let header = all
            .get(..HEADER_BYTES)
            .ok_or(PathIndexError::Malformed("it is too short"))?;
        if header[..4] != MAGIC {
            return Err(PathIndexError::Malformed("it does not begin with NFPI"));
        }
        let version = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(PathIndexError::Version(version));
        }
        let entries = u64_at(header, 8);
        let blocks = entries.div_ceil(BLOCK_ENTRIES);
        let table = usize::try_from(u64_at(header, 16))
            .ok()
            .filter(|&table| table >= HEADER_BYTES);
        let table = table.ok_or(PathIndexError::Malformed("its block table lies outside"))?;
        if blocks
            .checked_mul(8)
            .and_then(|size| size.checked_add(table as u64))
            != Some(all.len() as u64)
        {
            return Err(PathIndexError::Malformed(
                "its block table does not fit its entries",
            ));
        }
        Ok(PathIndex {
            bytes,
            entries,
            table,
        })
    }

    /// The number of entries.
    pub fn len(&self) -> u64 {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// What stands at `path`. A folder that is not empty has no entry of its own.
    pub fn get(&self, path: &str) -> Option<Entry> {
        self.find(path).or_else(|| self.find(&format!("{path}/")))
    }

    /// All entries in order.
    pub fn iter(&self) -> Entries<'_> {
        self.starting_with(Vec::new())
    }

    /// The entries in the folder `path` and below, in order. For an empty folder, its own.
    pub fn prefix(&self, path: &str) -> Entries<'_> {
        if path.is_empty() {
            return self.iter();
        }
        self.starting_with(format!("{path}/").into_bytes())
    }

    /// The entries behind `key` ([`Entry::key`], of an entry or not), in order.
    pub fn behind<'a>(&'a self, key: &'a str) -> impl Iterator<Item = Entry> + 'a {
        let entries = self.entries_from(self.block_of(key.as_bytes()), Vec::new());
        entries.skip_while(move |entry| entry.key().as_str() <= key)
    }

    fn find(&self, key: &str) -> Option<Entry> {
        let mut entries = self.starting_with(key.as_bytes().to_vec());
        let entry = entries.next()?;
        (entries.key == key.as_bytes()).then_some(entry)
    }

    fn starting_with(&self, prefix: Vec<u8>) -> Entries<'_> {
        let block = self.block_of(&prefix);
        self.entries_from(block, prefix)
    }

    /// From the first entry of a block on.
    fn entries_from(&self, block: u64, prefix: Vec<u8>) -> Entries<'_> {
        let body = &self.bytes.as_ref()[..self.table];
        let at = self.block_start(block).unwrap_or(body.len());
        let left = self.entries.saturating_sub(block * BLOCK_ENTRIES);
        Entries {
            cursor: Cursor { rest: &body[at..] },
            left,
            until_block: 0,
            key: Vec::new(),
            prefix,
            torn: false,
        }
    }

    /// The last block whose first key is not greater than `key`, or the first block.
    fn block_of(&self, key: &[u8]) -> u64 {
        let (mut low, mut high) = (0, self.entries.div_ceil(BLOCK_ENTRIES));
        while low < high {
            let middle = low + (high - low) / 2;
            match self.first_key(middle) {
                Some(first) if first <= key => low = middle + 1,
                _ => high = middle,
            }
        }
        low.saturating_sub(1)
    }

    fn first_key(&self, block: u64) -> Option<&[u8]> {
        let start = self.block_start(block)?;
        let mut cursor = Cursor {
            rest: &self.bytes.as_ref()[start..self.table],
        };
        cursor.number()?;
        cursor.text()
    }

    fn block_start(&self, block: u64) -> Option<usize> {
        let table = &self.bytes.as_ref()[self.table..];
        let at = usize::try_from(block.checked_mul(8)?).ok()?;
        let start = usize::try_from(u64_at(table.get(at..)?.get(..8)?, 0)).ok()?;
        (HEADER_BYTES..self.table).contains(&start).then_some(start)
    }
}

/// Entries in order; see [`PathIndex::iter`].
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    cursor: Cursor<'a>,
    left: u64,
    /// Entries until the next one that shares nothing.
    until_block: u64,
    /// Of the last entry read.
    key: Vec<u8>,
    prefix: Vec<u8>,
    torn: bool,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        while self.left > 0 {
            self.left -= 1;
            let Some(entry) = self.decode() else {
                self.torn = true;
                break;
            };
            if self.key.starts_with(&self.prefix) {
                return Some(entry);
            }
            if self.key > self.prefix {
                break;
            }
        }
        self.left = 0;
        None
    }
}

impl Entries<'_> {
    /// Whether the entries ended at one that cannot be read.
    pub fn is_torn(&self) -> bool {
        self.torn
    }

    fn decode(&mut self) -> Option<Entry> {
        let shared = usize::try_from(self.cursor.number()?).ok()?;
        if self.until_block == 0 {
            self.until_block = BLOCK_ENTRIES;
            if shared != 0 {
                return None;
            }
        }
        self.until_block -= 1;
        let suffix = self.cursor.text()?;
        if suffix <= self.key.get(shared..)? {
            return None;
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(suffix);
        let kind = match self.cursor.take(1)? {
            &[tag @ (FILE | EXECUTABLE)] => EntryKind::File {
                shard: u32::try_from(self.cursor.number()?).ok()?,
                offset: self.cursor.number()?,
                len: self.cursor.number()?,
                executable: tag == EXECUTABLE,
            },
            [SYMLINK] => EntryKind::Symlink {
                target: str::from_utf8(self.cursor.text()?).ok()?.to_owned(),
            },
            [EMPTY_DIR] => EntryKind::EmptyDir,
            _ => return None,
        };
        let key = str::from_utf8(&self.key).ok()?;
        let path = if kind == EntryKind::EmptyDir {
            key.strip_suffix('/')?
        } else {
            key
        };
        check_path(path).ok()?;
        Some(Entry {
            path: path.to_owned(),
            kind,
        })
    }
}

/// Reads encoded values off the front; none where they do not fit.
#[derive(Debug, Clone)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A key's end or a target: never longer than a path with its slash.
    fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number()?).ok()?;
        if len > PATH_BYTES + 1 {
            return None;
        }
        self.take(len)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
