//! The key index: the first key of every block of a sorted dataset, searched where it lies.
//!
//! `NFKI`, a version and a number of blocks; for each block its shard, its offset there and where its key ends; the keys,
//! one after another. Numbers are little-endian.

/// `NFKI`, version (4 bytes), blocks (8).
const HEADER_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"NFKI";
const VERSION: u32 = 1;
/// Shard (4), offset in it (8), end of its key (8).
const ROW_BYTES: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyIndexError {
    #[error("the key index is of version {0}; this build reads version {VERSION}: upgrade nearfield")]
    Version(u32),
    #[error("the key index is malformed")]
    Malformed,
}

/// Collects the blocks in order.
#[derive(Debug, Default)]
pub(super) struct KeyIndexBuilder {
    rows: Vec<u8>,
    keys: Vec<u8>,
}

impl KeyIndexBuilder {
    pub fn push(&mut self, key: &[u8], shard: u32, offset: u64) {
        self.keys.extend_from_slice(key);
        self.rows.extend_from_slice(&shard.to_le_bytes());
        self.rows.extend_from_slice(&offset.to_le_bytes());
        self.rows
            .extend_from_slice(&(self.keys.len() as u64).to_le_bytes());
    }

    pub fn build(self) -> Vec<u8> {
        let blocks = (self.rows.len() / ROW_BYTES) as u64;
        let header = [&MAGIC[..], &VERSION.to_le_bytes(), &blocks.to_le_bytes()].concat();
        [header, self.rows, self.keys].concat()
    }
}

/// A key index over the bytes that hold it.
pub struct KeyIndex<B> {
    bytes: B,
    blocks: usize,
    /// Where the keys begin.
    keys: usize,
}

/// Where records with a key are, if there are any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyBlock {
    pub shard: u32,
    pub offset: u64,
    /// The shard's end where there is none.
    pub end: Option<u64>,
}

impl<B: AsRef<[u8]>> KeyIndex<B> {
    /// Checks the header and that the parts fit; reads no row.
    pub fn parse(bytes: B) -> Result<Self, KeyIndexError> {
        let all = bytes.as_ref();
        let (header, rest) = all
            .split_at_checked(HEADER_BYTES)
            .ok_or(KeyIndexError::Malformed)?;
        if header[..4] != MAGIC {
            return Err(KeyIndexError::Malformed);
        }
        let version = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
        if version != VERSION {
            return Err(KeyIndexError::Version(version));
        }
        let blocks = usize::try_from(u64_at(header, 8)).ok();
        let rows = blocks.and_then(|blocks| Some((blocks, blocks.checked_mul(ROW_BYTES)?)));
        let (blocks, row_bytes) = rows
            .filter(|(_, bytes)| *bytes <= rest.len())
            .ok_or(KeyIndexError::Malformed)?;
        Ok(KeyIndex {
            bytes,
            blocks,
            keys: HEADER_BYTES + row_bytes,
        })
    }

    /// The only block that may hold `key`.
    pub fn block_of(&self, key: &[u8]) -> Option<KeyBlock> {
        let (mut low, mut high) = (0, self.blocks);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(middle)? <= key {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let block = low.checked_sub(1)?;
        let (shard, offset) = self.place(block)?;
        let next = (block + 1 < self.blocks).then(|| self.place(block + 1)).flatten();
        Some(KeyBlock {
            shard,
            offset,
            end: next.filter(|next| next.0 == shard).map(|next| next.1),
        })
    }

    fn row(&self, block: usize) -> Option<&[u8]> {
        let rows = &self.bytes.as_ref()[HEADER_BYTES..self.keys];
        rows.get(block.checked_mul(ROW_BYTES)?..)?.get(..ROW_BYTES)
    }

    fn place(&self, block: usize) -> Option<(u32, u64)> {
        let row = self.row(block)?;
        let shard = u32::from_le_bytes(row[..4].try_into().expect("four bytes"));
        Some((shard, u64_at(row, 4)))
    }

    /// `None` in an index that was not made here.
    fn key(&self, block: usize) -> Option<&[u8]> {
        let end = usize::try_from(u64_at(self.row(block)?, 12)).ok()?;
        let start = match block.checked_sub(1) {
            Some(before) => usize::try_from(u64_at(self.row(before)?, 12)).ok()?,
            None => 0,
        };
        self.bytes.as_ref()[self.keys..].get(start..end)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Vec<u8> {
        let mut index = KeyIndexBuilder::default();
        for (key, shard, offset) in [("b", 0, 5), ("bb", 0, 90), ("d", 1, 0)] {
            index.push(key.as_bytes(), shard, offset);
        }
        index.build()
    }

    #[test]
    fn blocks_are_found() {
        let index = KeyIndex::parse(index()).unwrap();
        let block = |key: &str| {
            index
                .block_of(key.as_bytes())
                .map(|at| (at.shard, at.offset, at.end))
        };
        assert_eq!(block("a"), None);
        assert_eq!(block("b"), Some((0, 5, Some(90))));
        assert_eq!(block("ba"), Some((0, 5, Some(90))));
        assert_eq!(block("c"), Some((0, 90, None)));
        assert_eq!(block("z"), Some((1, 0, None)));
    }

    #[test]
    fn nonsense_ends_in_an_error_or_finds_nothing() {
        let whole = index();
        for len in 0..whole.len() {
            if let Ok(index) = KeyIndex::parse(&whole[..len]) {
                index.block_of(b"bb");
            }
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                if let Ok(index) = KeyIndex::parse(flipped) {
                    index.block_of(b"bb");
                }
            }
        }
    }
}
