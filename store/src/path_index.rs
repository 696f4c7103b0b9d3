//! The path index of a folder: child 1 of its dataset. It is searched where it lies, mapped or not.
//!
//! Format, version 1, all integers little-endian:
//! - A header of 24 bytes: `NFPI`, the version (u32), the number of entries (u64), the position of the block
//!   table (u64).
//! - The entries, in strictly rising byte order of their keys. An entry's key is its path; an empty folder's has
//!   a `/` behind it, as in a tar archive. An entry is: how many bytes its key shares with the key before it, how
//!   many follow, those bytes, a kind byte, and then for a file (kind 0) or an executable file (kind 1) its shard,
//!   offset and length, for a symlink (kind 2) the target's length and bytes, for an empty folder (kind 3) nothing.
//!   Numbers in entries are LEB128.
//! - The block table, to the end: the position (u64) of every 16th entry. Such an entry shares nothing, so a
//!   search bisects the table and then reads 16 entries at most.

/// Longest path and longest symlink target, in bytes: Linux takes no longer ones.
pub const PATH_BYTES: usize = 4096;

const MAGIC: [u8; 4] = *b"NFPI";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
/// Entries per block: more make the index smaller and the search longer.
const BLOCK_ENTRIES: u64 = 16;

const FILE: u8 = 0;
const EXECUTABLE: u8 = 1;
const SYMLINK: u8 = 2;
const EMPTY_DIR: u8 = 3;

/// One path of a folder and what stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    pub kind: EntryKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    File {
        /// The number of the shard that its content begins in.
        shard: u32,
        /// Where in that shard, in bytes. The content may go on at the start of the next shard.
        offset: u64,
        len: u64,
        executable: bool,
    },
    /// The target is as it was: it may be absolute, lead out of the folder or nowhere.
    Symlink {
        target: String,
    },
    EmptyDir,
}

/// Why bytes are not a path index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathIndexError {
    #[error("the path index is of version {0}; this build reads version {VERSION}: upgrade nearfield")]
    Version(u32),
    #[error("the path index is malformed: {0}")]
    Malformed(&'static str),
}

/// Why `path` may not stand in a folder, if so. What passes is relative and stays inside it.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if path.len() > PATH_BYTES {
        return Err("is longer than 4096 bytes");
    }
    if path.contains('\0') {
        return Err("contains a NUL");
    }
    if path.starts_with('/') {
        return Err("is absolute");
    }
    for component in path.split('/') {
        match component {
            "" => return Err("has an empty component"),
            "." | ".." => return Err("has a `.` or `..` component"),
            _ => {}
        }
    }
    Ok(())
}

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
    /// not found by [`get`](Self::get): who must see all entries counts them against [`len`](Self::len).
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

    fn find(&self, key: &str) -> Option<Entry> {
        let mut entries = self.starting_with(key.as_bytes().to_vec());
        let entry = entries.next()?;
        (entries.key == key.as_bytes()).then_some(entry)
    }

    fn starting_with(&self, prefix: Vec<u8>) -> Entries<'_> {
        let body = &self.bytes.as_ref()[..self.table];
        let block = self.block_of(&prefix);
        let at = self.block_start(block).unwrap_or(body.len());
        let left = self.entries.saturating_sub(block * BLOCK_ENTRIES);
        Entries {
            cursor: Cursor { rest: &body[at..] },
            left,
            until_block: 0,
            key: Vec::new(),
            prefix,
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
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        while self.left > 0 {
            self.left -= 1;
            let Some(entry) = self.decode() else { break };
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

/// Collects entries in order, encoded as they come: about 30 bytes each.
#[derive(Debug)]
pub struct PathIndexBuilder {
    bytes: Vec<u8>,
    entries: u64,
    blocks: Vec<u64>,
    last_key: Vec<u8>,
}

impl PathIndexBuilder {
    pub fn new() -> Self {
        PathIndexBuilder {
            bytes: vec![0; HEADER_BYTES],
            entries: 0,
            blocks: Vec::new(),
            last_key: Vec::new(),
        }
    }

    /// The number of entries so far.
    pub fn len(&self) -> u64 {
        self.entries
    }

    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// # Panics
    /// When the entry's key (see the format) does not follow the last one's.
    pub fn push(&mut self, path: &str, kind: &EntryKind) {
        let mut key = path.as_bytes().to_vec();
        if *kind == EntryKind::EmptyDir {
            key.push(b'/');
        }
        assert!(key > self.last_key, "`{path}` was pushed out of order");
        let shared = if self.entries.is_multiple_of(BLOCK_ENTRIES) {
            self.blocks.push(self.bytes.len() as u64);
            0
        } else {
            key.iter().zip(&self.last_key).take_while(|(a, b)| a == b).count()
        };
        self.number(shared as u64);
        self.text(&key[shared..]);
        match kind {
            EntryKind::File {
                shard,
                offset,
                len,
                executable,
            } => {
                self.bytes.push(if *executable { EXECUTABLE } else { FILE });
                self.number(u64::from(*shard));
                self.number(*offset);
                self.number(*len);
            }
            EntryKind::Symlink { target } => {
                self.bytes.push(SYMLINK);
                self.text(target.as_bytes());
            }
            EntryKind::EmptyDir => self.bytes.push(EMPTY_DIR),
        }
        self.last_key = key;
        self.entries += 1;
    }

    /// The bytes of the index: the same for the same entries.
    pub fn build(mut self) -> Vec<u8> {
        let table = self.bytes.len() as u64;
        self.bytes
            .extend(self.blocks.iter().flat_map(|block| block.to_le_bytes()));
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        self.bytes[8..16].copy_from_slice(&self.entries.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&table.to_le_bytes());
        self.bytes
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text);
    }
}

impl Default for PathIndexBuilder {
    fn default() -> Self {
        Self::new()
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn kind() -> impl Strategy<Value = EntryKind> {
        prop_oneof![
            any::<(u32, u64, u64, bool)>().prop_map(|(shard, offset, len, executable)| EntryKind::File {
                shard,
                offset,
                len,
                executable
            }),
            "[a-z./]{1,20}".prop_map(|target| EntryKind::Symlink { target }),
            Just(EntryKind::EmptyDir),
        ]
    }

    /// Entries by key.
    fn entries() -> impl Strategy<Value = BTreeMap<String, Entry>> {
        let entry = ("[a-c]{1,3}([/-][a-c]{1,2}){0,3}", kind()).prop_map(|(path, kind)| {
            let slash = if kind == EntryKind::EmptyDir { "/" } else { "" };
            (format!("{path}{slash}"), Entry { path, kind })
        });
        proptest::collection::vec(entry, 0..200).prop_map(|entries| entries.into_iter().collect())
    }

    fn build(entries: &BTreeMap<String, Entry>) -> Vec<u8> {
        let mut builder = PathIndexBuilder::new();
        for entry in entries.values() {
            builder.push(&entry.path, &entry.kind);
        }
        builder.build()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn entries_come_back(entries in entries(), other in "[a-c]{1,3}(/[a-c]{1,2}){0,2}") {
            let index = PathIndex::parse(build(&entries)).unwrap();
            prop_assert_eq!(index.len(), entries.len() as u64);
            prop_assert_eq!(index.iter().collect::<Vec<_>>(), entries.values().cloned().collect::<Vec<_>>());
            let expected = |path: &str| {
                entries.get(path).or_else(|| entries.get(&format!("{path}/"))).cloned()
            };
            for path in entries.values().map(|entry| &entry.path).chain([&other]) {
                prop_assert_eq!(index.get(path), expected(path));
                let folder = format!("{path}/");
                let below = entries.iter().filter(|(key, _)| key.starts_with(&folder));
                let below = below.map(|(_, entry)| entry.clone()).collect::<Vec<_>>();
                prop_assert_eq!(index.prefix(path).collect::<Vec<_>>(), below);
            }
        }

        #[test]
        fn hostile_bytes_do_no_harm(
            entries in entries(),
            damage in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = build(&entries);
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                let Ok(index) = PathIndex::parse(bytes) else { continue };
                prop_assert!(index.iter().all(|entry| check_path(&entry.path).is_ok()));
                index.get("a/b");
                index.prefix("a").count();
            }
        }
    }

    #[test]
    fn many_entries_stay_small() {
        let mut builder = PathIndexBuilder::new();
        for number in 0..50_000u32 {
            let kind = EntryKind::File {
                shard: number / 100,
                offset: 1 << 20,
                len: 9000,
                executable: false,
            };
            builder.push(
                &format!("images/train/{:03}/{number:08}.jpeg", number / 1000),
                &kind,
            );
        }
        let bytes = builder.build();
        assert!(
            bytes.len() < 50_000 * 30,
            "{} bytes an entry",
            bytes.len() / 50_000
        );
        assert!(
            PathIndex::parse(&bytes)
                .unwrap()
                .get("images/train/007/00007777.jpeg")
                .is_some()
        );
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "./a",
            "a/../b",
            "..",
            "a\0b",
            &"a".repeat(4097),
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        for path in ["a", "a/b", "..a", "a b/ü", ".git"] {
            assert!(check_path(path).is_ok(), "{path:?}");
        }
    }
}
