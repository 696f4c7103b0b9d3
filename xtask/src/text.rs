//! A text to measure with: the same bytes on every machine, made and not found, so that figures of two machines compare.
//!
//! Lines of words that are as frequent as those of natural and program text are (Zipf's law), with indentation and punctuation as
//! code has them. It holds no control characters, so every tool takes it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Different words: about as many as hundreds of MB of Rust have.
const WORDS: usize = 200_000;
/// What the first MiB hashes to: a change of the generator changes all figures that were measured with it.
const FIRST_MIB: &str = "b3:f96375d2fa45aabf5101ae753324fa0a2999be7be133638b73e6f841d30766e4";

/// Writes a text of about `bytes` bytes; returns how many they are.
pub fn write(path: &Path, bytes: u64) -> Result<u64> {
    let mut text = Text::new();
    let mut out = BufWriter::new(File::create(path)?);
    let (mut first, mut written) = (Vec::with_capacity(2 << 20), 0);
    let mut line = Vec::new();
    while written < bytes {
        line.clear();
        text.line(&mut line);
        if first.len() < 1 << 20 {
            first.extend_from_slice(&line);
        }
        out.write_all(&line)?;
        written += line.len() as u64;
    }
    out.flush().context("writing the text")?;
    if first.len() >= 1 << 20 {
        let digest = format!("b3:{}", blake3::hash(&first[..1 << 20]));
        ensure!(
            digest == FIRST_MIB,
            "the text is another one: {digest}, not {FIRST_MIB}"
        );
    }
    Ok(written)
}

/// Where the lines come from.
pub struct Text {
    random: u64,
    words: Vec<String>,
    /// For each word how often it or one before it comes, of all.
    up_to: Vec<f64>,
}

impl Text {
    pub fn new() -> Self {
        let mut text = Text {
            random: 0x6e65_6172_6669_656c,
            words: Vec::with_capacity(WORDS),
            up_to: Vec::with_capacity(WORDS),
        };
        let mut sum = 0.0;
        for rank in 0..WORDS {
            let word = text.word(rank);
            text.words.push(word);
            sum += 1.0 / (rank + 3) as f64;
            text.up_to.push(sum);
        }
        text
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Frequent words are short.
    fn word(&mut self, rank: usize) -> String {
        const SYLLABLES: [&str; 32] = [
            "a", "be", "con", "de", "er", "fn", "get", "ha", "in", "key", "let", "map", "new", "of", "pub",
            "re", "self", "to", "use", "val", "with", "x", "ty", "str", "_id", "_len", "ing", "tion", "ref",
            "mut", "set", "err",
        ];
        let syllables = 1 + (rank.max(1).ilog2() as u64 / 5) + self.below(2);
        let mut word = String::new();
        for _ in 0..syllables {
            word.push_str(SYLLABLES[self.below(32) as usize]);
        }
        if rank > 2_000 && self.below(3) == 0 {
            word.push_str(&format!("{}", self.below(1_000)));
        }
        word
    }

    pub fn line(&mut self, out: &mut Vec<u8>) {
        let indent = 4 * self.below(4);
        out.extend(std::iter::repeat_n(b' ', indent as usize));
        let total = *self.up_to.last().expect("there are words");
        for number in 0..self.below(14) {
            if number > 0 {
                const BETWEEN: [&str; 8] = [" ", " ", " ", ".", "(", "::", ", ", " = "];
                out.extend_from_slice(BETWEEN[self.below(8) as usize].as_bytes());
            }
            let at = self.next() as f64 / u64::MAX as f64 * total;
            let word = self.up_to.partition_point(|up_to| *up_to < at).min(WORDS - 1);
            out.extend_from_slice(self.words[word].as_bytes());
        }
        out.extend_from_slice([";\n", "\n", " {\n", ");\n"][self.below(4) as usize].as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_one_that_was_measured_with() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = write(file.path(), 1 << 20).unwrap();
        let text = std::fs::read(file.path()).unwrap();
        assert_eq!(text.len() as u64, bytes);
        assert!(
            text.iter()
                .all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n')
        );
    }
}
