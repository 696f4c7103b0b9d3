//! Numbers that follow from a seed: the same in Wasm and natively.

/// splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`; 0 if there is nothing below it.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }

    /// Up to `most`, small sizes as often as large ones: allocators treat them differently.
    pub fn size(&mut self, most: u64) -> u64 {
        let bits = self.below(u64::from(most.max(1).ilog2()) + 2);
        self.below(most.min((1 << bits) - 1) + 1)
    }

    pub fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len as usize);
        bytes
    }

    pub fn text(&mut self, chars: u64) -> String {
        let letters: Vec<char> = "abcdefghijklmnop RSTUVäöü€\"\\\n".chars().collect();
        (0..chars)
            .map(|_| letters[self.below(letters.len() as u64) as usize])
            .collect()
    }
}
