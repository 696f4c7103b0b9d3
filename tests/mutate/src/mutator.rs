//! Inputs made of other inputs: some bytes changed, moved, repeated, or taken from another one.

use std::ops::Range;

use crate::INPUT_BYTES;

/// Numbers at which sums and casts go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    i64::MAX as u64,
    u64::MAX,
];
/// Changes of one input: up to two to the power of less than this. Few, more often than not: many leave nothing that is read.
const CHANGES: usize = 4;
/// One in so many inputs is as long as inputs get.
const LONG_ONE_IN: usize = 512;
/// Inputs that were made are kept, so that changes add up; so many beside the corpus.
const KEPT: usize = 64;

/// Makes inputs, the same ones for the same seed and corpus.
pub struct Mutator {
    random: Random,
    corpus: Vec<Vec<u8>>,
    seeds: usize,
    input: Vec<u8>,
}

impl Mutator {
    pub fn new(seed: u64, corpus: Vec<Vec<u8>>) -> Self {
        Mutator {
            random: Random(seed),
            seeds: corpus.len(),
            corpus,
            input: Vec::new(),
        }
    }

    pub fn next(&mut self) -> &[u8] {
        let from = self.random.below(self.corpus.len());
        self.input.clone_from(&self.corpus[from]);
        let most = 1 << self.random.below(CHANGES);
        for _ in 0..1 + self.random.below(most) {
            self.change();
        }
        if self.random.below(LONG_ONE_IN) == 0 {
            self.repeat();
        }
        self.input.truncate(INPUT_BYTES);
        if self.random.below(8) == 0 {
            self.keep();
        }
        &self.input
    }

    fn keep(&mut self) {
        // Long ones would slow all that are made of them.
        if self.input.len() > INPUT_BYTES / 16 {
            return;
        }
        if self.corpus.len() < self.seeds + KEPT {
            self.corpus.push(self.input.clone());
        } else {
            let place = self.seeds + self.random.below(KEPT);
            self.corpus[place].clone_from(&self.input);
        }
    }

    fn change(&mut self) {
        let range = self.range();
        let kind = self.random.below(10);
        if range.is_empty() && !matches!(kind, 3..=5) {
            self.input.push(self.random.next() as u8);
            return;
        }
        match kind {
            0 => self.input[range.start] ^= 1 << self.random.below(8),
            1 => self.input[range.start] = self.random.next() as u8,
            2 => drop(self.input.drain(range)),
            3 => {
                let more: Vec<u8> = (0..1 + self.random.below(8))
                    .map(|_| self.random.next() as u8)
                    .collect();
                self.insert(range.start, &more);
            }
            4 => {
                let other = self.random.below(self.corpus.len());
                let piece = self.random.range(self.corpus[other].len());
                let piece = self.corpus[other][piece].to_vec();
                self.insert(range.start, &piece);
            }
            5 => self.number(range.start),
            6 => {
                let piece = self.input[range.clone()].to_vec();
                self.insert(range.end, &piece);
            }
            7 => {
                let piece = self.input[range].to_vec();
                let to = self.random.below(self.input.len());
                let fits = piece.len().min(self.input.len() - to);
                self.input[to..to + fits].copy_from_slice(&piece[..fits]);
            }
            8 => self.digits(range.start),
            _ => {
                let other = self.random.below(self.corpus.len());
                let piece = self.random.range(self.corpus[other].len());
                let piece = self.corpus[other][piece].to_vec();
                drop(self.input.splice(range, piece));
            }
        }
    }

    /// A number at an edge, in a form that some format has.
    fn number(&mut self, at: usize) {
        let edge = EDGES[self.random.below(EDGES.len())]
            .wrapping_add(self.random.below(3) as u64)
            .wrapping_sub(1);
        let text = edge.to_string().into_bytes();
        let bytes = match self.random.below(6) {
            0 => edge.to_le_bytes().to_vec(),
            1 => edge.to_be_bytes().to_vec(),
            2 => (edge as u32).to_le_bytes().to_vec(),
            3 => (edge as u32).to_be_bytes().to_vec(),
            4 => leb128(edge),
            _ => text,
        };
        let end = (at + bytes.len()).min(self.input.len());
        match self.random.below(2) {
            0 => self.insert(at, &bytes),
            _ => drop(self.input.splice(at..end, bytes)),
        }
    }

    /// Another number in place of the digits at or behind `at`.
    fn digits(&mut self, at: usize) {
        let Some(start) = self.input[at..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let start = at + start;
        let len = self.input[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let edge = EDGES[self.random.below(EDGES.len())].to_string();
        drop(self.input.splice(start..start + len, edge.into_bytes()));
    }

    /// Repeats a piece until the input is as long as inputs get.
    fn repeat(&mut self) {
        let range = self.range();
        let piece = self.input[range.clone()].to_vec();
        if piece.is_empty() {
            return;
        }
        let times = INPUT_BYTES.saturating_sub(self.input.len()) / piece.len();
        self.insert(range.end, &piece.repeat(times));
    }

    fn insert(&mut self, at: usize, bytes: &[u8]) {
        drop(self.input.splice(at..at, bytes.iter().copied()));
    }

    fn range(&mut self) -> Range<usize> {
        self.random.range(self.input.len())
    }
}

fn leb128(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Tells inputs apart, for names of files (FNV-1a).
pub fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// At least 0 and below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// A range of so many bytes, short more often than long; empty only where there are none.
    fn range(&mut self, len: usize) -> Range<usize> {
        let start = self.below(len);
        let most = match self.below(4) {
            0 => len - start,
            _ => (len - start).min(16),
        };
        start..start + (1 + self.below(most)).min(len - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(seed: u64) -> Vec<Vec<u8>> {
        let mut mutator = Mutator::new(seed, vec![b"one 17".to_vec(), Vec::new()]);
        (0..5_000).map(|_| mutator.next().to_vec()).collect()
    }

    #[test]
    fn inputs_follow_from_the_seed_and_stay_short() {
        let inputs = made(7);
        assert_eq!(inputs, made(7));
        assert_ne!(inputs, made(8));
        assert!(inputs.iter().all(|input| input.len() <= INPUT_BYTES));
        assert!(inputs.iter().any(|input| input.len() == INPUT_BYTES));
        let distinct: std::collections::HashSet<_> = inputs.iter().collect();
        assert!(distinct.len() > 4_000, "{}", distinct.len());
    }
}
