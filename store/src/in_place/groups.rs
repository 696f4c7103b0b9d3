//! What a shard that lies in somebody else's file is checked with, each time it is read.
//!
//! BLAKE3 is a tree. Of each shard the chaining values of its groups of 16 KiB are kept, 0.2 % of its size; together
//! they are its digest. So any range can be checked by hashing the groups that it touches, and a Bao outboard for
//! other nodes can be made of them without reading the data again.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root,
};
use nearfield_protocol::Digest;
use rayon::prelude::*;

/// Bytes of a group: as in the outboards of `iroh-blobs`.
pub const GROUP_BYTES: usize = 16 << 10;
const VALUE_BYTES: usize = 32;
/// What [`Groups::read`] asks for at once.
const READ_BYTES: u64 = 8 << 20;

/// The chaining values of a shard's groups, in order. A shard of one group has its digest here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    size_bytes: u64,
    values: Vec<u8>,
}

impl Groups {
    /// Hashes a shard, on all cores.
    pub fn of(bytes: &[u8]) -> Self {
        let values = bytes
            .par_chunks(GROUP_BYTES)
            .enumerate()
            .map(|(index, group)| value(group, index, bytes.len() <= GROUP_BYTES))
            .collect::<Vec<_>>();
        Groups {
            size_bytes: bytes.len() as u64,
            values: values.concat(),
        }
    }

    /// Hashes what `read` gives for ranges of the shard, a few MiB at a time. `None` if it gives `None`.
    pub fn read<E>(
        size_bytes: u64,
        mut read: impl FnMut(Range<u64>) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Self>, E> {
        let alone = size_bytes <= GROUP_BYTES as u64;
        let mut values = Vec::new();
        let mut start = 0;
        while start < size_bytes {
            let end = size_bytes.min(start + READ_BYTES);
            let Some(bytes) = read(start..end)? else {
                return Ok(None);
            };
            let first = start as usize / GROUP_BYTES;
            let piece = bytes.par_chunks(GROUP_BYTES).enumerate();
            let piece: Vec<_> = piece
                .map(|(index, group)| value(group, first + index, alone))
                .collect();
            values.extend(piece.concat());
            start = end;
        }
        Ok(Some(Groups { size_bytes, values }))
    }

    /// Takes what [`Groups::values`] gave, if it is that of the shard `digest`.
    pub fn parse(digest: Digest, size_bytes: u64, values: Vec<u8>) -> Option<Self> {
        let fits = values.len() as u64 == size_bytes.div_ceil(GROUP_BYTES as u64) * VALUE_BYTES as u64;
        let groups = Groups { size_bytes, values };
        (fits && groups.digest() == digest).then_some(groups)
    }

    pub fn values(&self) -> &[u8] {
        &self.values
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The shard's digest.
    pub fn digest(&self) -> Digest {
        let values = self.values.as_chunks::<VALUE_BYTES>().0;
        match values {
            [] => Digest::EMPTY,
            [one] => Digest::from_bytes(*one),
            many => {
                let (left, right) = self.halves(many);
                Digest::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
            }
        }
    }

    fn halves(&self, values: &[[u8; VALUE_BYTES]]) -> (ChainingValue, ChainingValue) {
        // Where a tree is split depends on the number of groups alone: the last may be short.
        let left = left_subtree_len((values.len() * GROUP_BYTES) as u64) as usize / GROUP_BYTES;
        let (left, right) = values.split_at(left);
        (self.subtree(left), self.subtree(right))
    }

    fn subtree(&self, values: &[[u8; VALUE_BYTES]]) -> ChainingValue {
        match values {
            [one] => *one,
            many => {
                let (left, right) = self.halves(many);
                merge_subtrees_non_root(&left, &right, Mode::Hash)
            }
        }
    }

    /// The whole groups that hold `range`, in bytes of the shard.
    pub fn around(&self, range: &Range<u64>) -> Range<u64> {
        let group = GROUP_BYTES as u64;
        let end = range.end.next_multiple_of(group).min(self.size_bytes);
        (range.start / group * group).min(end)..end
    }

    /// Whether `bytes`, which begin at `start`, a multiple of [`GROUP_BYTES`], and end where a group does, are those that
    /// were hashed.
    pub fn check(&self, start: u64, bytes: &[u8]) -> bool {
        let first = start as usize / GROUP_BYTES;
        let alone = self.size_bytes <= GROUP_BYTES as u64;
        let mut known = self.values.as_chunks::<VALUE_BYTES>().0.iter().skip(first);
        let mut groups = bytes.chunks(GROUP_BYTES).zip(first..);
        groups.all(|(group, index)| known.next() == Some(&value(group, index, alone)))
    }
}

/// A group's chaining value; a shard of one group has none but its digest.
fn value(group: &[u8], index: usize, alone: bool) -> [u8; VALUE_BYTES] {
    if alone {
        return *blake3::hash(group).as_bytes();
    }
    let mut hasher = Hasher::new();
    hasher.set_input_offset((index * GROUP_BYTES) as u64);
    hasher.update(group).finalize_non_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn the_groups_of_any_size_make_the_digest() {
        let group = GROUP_BYTES;
        for len in [
            0,
            1,
            1024,
            group - 1,
            group,
            group + 1,
            2 * group,
            3 * group,
            5 * group + 7,
            64 * group,
            100 * group - 1,
        ] {
            let bytes = noise(len);
            let groups = Groups::of(&bytes);
            assert_eq!(groups.digest(), Digest::of(&bytes), "{len} bytes");
            let again = Groups::parse(groups.digest(), len as u64, groups.values().to_vec());
            assert_eq!(again, Some(groups.clone()));
            let shorter = len.saturating_sub(group) as u64;
            assert!(len == 0 || Groups::parse(groups.digest(), shorter, groups.values().to_vec()).is_none());
        }
    }

    #[test]
    fn a_flipped_bit_is_found_in_each_range_that_touches_its_group() {
        let bytes = noise(5 * GROUP_BYTES + 100);
        let groups = Groups::of(&bytes);
        let mut flipped = bytes.clone();
        flipped[2 * GROUP_BYTES + 5] ^= 1;
        let size = bytes.len() as u64;
        for start in (0..size).step_by(5_000) {
            for end in (start..=size).step_by(7_001) {
                let around = groups.around(&(start..end));
                let at = |bytes: &[u8]| bytes[around.start as usize..around.end as usize].to_vec();
                assert!(around.start <= start && (around.end >= end || start == end));
                assert!(groups.check(around.start, &at(&bytes)));
                let touched = around.contains(&(2 * GROUP_BYTES as u64 + 5));
                assert_eq!(
                    groups.check(around.start, &at(&flipped)),
                    !touched,
                    "{start}..{end}"
                );
            }
        }
    }

    #[test]
    fn values_that_are_not_the_shard_s_are_refused() {
        let groups = Groups::of(&noise(3 * GROUP_BYTES));
        let mut values = groups.values().to_vec();
        values[40] ^= 1;
        assert_eq!(Groups::parse(groups.digest(), groups.size_bytes(), values), None);
    }
}
