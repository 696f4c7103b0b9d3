//! A word with what it is found by.

use std::ops::Range;

/// Compares eight bytes at a time, and mostly by its hash alone.
#[derive(Clone, Copy)]
pub struct Word<'a> {
    pub bytes: &'a [u8],
    /// The first eight bytes, the first in the lowest place, 0 where there are fewer.
    pub head: u64,
    pub hash: u64,
}

impl<'a> Word<'a> {
    /// The word at `place`. One load makes its head where the text goes on for so long.
    pub fn at(text: &'a [u8], place: Range<usize>) -> Self {
        let length = place.len().min(8);
        let head = match text[place.start..].first_chunk() {
            Some(_) if length == 0 => 0,
            Some(eight) => u64::from_le_bytes(*eight) & (u64::MAX >> (64 - 8 * length)),
            None => {
                let bytes = text[place.clone()].iter().rev();
                bytes.fold(0, |head, byte| head << 8 | u64::from(*byte))
            }
        };
        let bytes = &text[place];
        let hash = hash(head, bytes);
        Word { bytes, head, hash }
    }
}

impl PartialEq for Word<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.head == other.head
            && self.bytes.len() == other.bytes.len()
            && (self.bytes.len() <= 8 || same_tail(self.bytes, other.bytes))
    }
}

/// Eight bytes at a time by a multiplication with the golden ratio, as in FxHash; a table wants good low and high bits.
fn hash(head: u64, word: &[u8]) -> u64 {
    const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = head.wrapping_mul(RATIO);
    let mut mix = |piece: &[u8; 8]| {
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(*piece)).wrapping_mul(RATIO);
    };
    if let (Some(mut rest), Some(last)) = (word.get(8..), word.last_chunk()) {
        while let Some((piece, after)) = rest.split_first_chunk() {
            mix(piece);
            rest = after;
        }
        // It overlaps what was before it.
        if !rest.is_empty() {
            mix(last);
        }
    }
    hash ^ (hash >> 32)
}

/// Whether two words of one length, more than eight bytes, are the same after their heads.
fn same_tail(one: &[u8], other: &[u8]) -> bool {
    let (mut a, mut b) = (one, other);
    while let (Some((left, after)), Some((right, after_right))) =
        (a.split_first_chunk::<8>(), b.split_first_chunk())
    {
        if left != right {
            return false;
        }
        (a, b) = (after, after_right);
    }
    one.last_chunk::<8>() == other.last_chunk()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_same_wherever_it_stands() {
        for length in 0..40 {
            let word: Vec<u8> = (0..length).map(|n| b'a' + n % 26).collect();
            let alone = Word::at(&word, 0..word.len());
            let longer = [b"--", word.as_slice(), b"---------"].concat();
            let inside = Word::at(&longer, 2..2 + word.len());
            assert!(alone == inside && alone.head == inside.head);
            for place in 0..word.len() {
                let mut other = word.clone();
                other[place] ^= 1;
                assert!(
                    alone != Word::at(&other, 0..word.len()),
                    "byte {place} of {length}"
                );
            }
        }
    }
}
