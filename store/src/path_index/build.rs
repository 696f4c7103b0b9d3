//! Writing an index.

use super::{BLOCK_ENTRIES, EMPTY_DIR, EXECUTABLE, EntryKind, FILE, HEADER_BYTES, MAGIC, SYMLINK, VERSION};

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
