//! Where words start and end, eight bytes at a time.
//!
//! A byte's place in a word is decided in all eight bytes of a number at once, with the carries kept apart by leaving
//! the highest bit of each byte free (Warren, "Hacker's Delight", chapter 6). Sixty-four such verdicts make a mask, whose edges
//! are the starts and ends: so the cost goes by words, not by bytes.

use std::ops::Range;

const BLOCK_BYTES: usize = 64;
/// A one in each byte.
const ONES: u64 = 0x0101_0101_0101_0101;
/// The highest bit of each byte.
const HIGH: u64 = 0x80 * ONES;

/// Gives the places of the longest runs of ASCII letters, digits and `_`, in order.
pub fn words(text: &[u8], mut found: impl FnMut(Range<usize>)) {
    let (blocks, rest) = text.as_chunks::<BLOCK_BYTES>();
    // Zeros are in no word, and there is at least one: every word ends.
    let mut last = [0; BLOCK_BYTES];
    last[..rest.len()].copy_from_slice(rest);
    let mut start = None;
    for (index, block) in blocks.iter().chain([&last]).enumerate() {
        let inside = mask(block);
        // A bit for each byte that is in a word where the byte before it is not, or the other way round.
        let mut edges = inside ^ (inside << 1 | u64::from(start.is_some()));
        while edges != 0 {
            let edge = BLOCK_BYTES * index + edges.trailing_zeros() as usize;
            edges &= edges - 1;
            match start.take() {
                Some(start) => found(start..edge),
                None => start = Some(edge),
            }
        }
    }
}

/// Whether a byte belongs to a word.
pub fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// A bit for each byte, the first lowest: whether it belongs to a word.
fn mask(block: &[u8; BLOCK_BYTES]) -> u64 {
    let eights = block.as_chunks::<8>().0.iter().enumerate();
    eights.fold(0, |mask, (index, eight)| {
        // The product gathers the eight bits in the highest byte.
        let bits = (eight_in_word(u64::from_le_bytes(*eight)) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56;
        mask | bits << (8 * index)
    })
}

/// [`in_word`] for each of eight bytes, in its highest bit.
fn eight_in_word(bytes: u64) -> u64 {
    let low = bytes & !HIGH;
    let at_least = |seven: u64, least: u8| seven + (0x80 - u64::from(least)) * ONES;
    let within = |seven, first, last| at_least(seven, first) & !at_least(seven, last + 1);
    let letter = within(low | (0x20 * ONES), b'a', b'z');
    let digit = within(low, b'0', b'9');
    let underscore = HIGH - (low ^ (u64::from(b'_') * ONES));
    (letter | digit | underscore) & !bytes & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &[u8]) -> Vec<(usize, usize)> {
        let mut places = Vec::new();
        words(text, |word| places.push((word.start, word.end)));
        places
    }

    #[test]
    fn every_byte_is_judged_as_by_itself() {
        for byte in 0..=255 {
            for place in 0..BLOCK_BYTES {
                for around in [b' ', b'x', 0xff] {
                    let mut block = [around; BLOCK_BYTES];
                    block[place] = byte;
                    let bit = mask(&block) >> place & 1 == 1;
                    assert_eq!(bit, in_word(byte), "{byte:#x} at {place} among {around:#x}");
                    let others = mask(&block) & !(1 << place);
                    let all = if in_word(around) { !(1 << place) } else { 0 };
                    assert_eq!(others, all, "{byte:#x} at {place} among {around:#x}");
                }
            }
        }
    }

    #[test]
    fn words_are_found_across_blocks_and_at_both_ends() {
        for length in 0..200 {
            let mut text = vec![b'x'; length];
            let whole = if length == 0 { vec![] } else { vec![(0, length)] };
            assert_eq!(found(&text), whole);
            if length > 2 {
                text[length / 2] = b' ';
                assert_eq!(found(&text), [(0, length / 2), (length / 2 + 1, length)]);
            }
        }
    }
}
