//! Words and how often each was seen.

use std::fmt;
use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// A table of words. A word that is known costs no allocation, and one of up to 8 bytes is compared as a number.
#[derive(Default)]
pub struct Counts {
    table: HashTable<Entry>,
    /// The words one after another.
    text: Vec<u8>,
    /// Words that are not in the table yet; then it is empty.
    packed: Vec<u8>,
}

struct Entry {
    hash: u64,
    /// The word's first 8 bytes, the first in the lowest place, 0 where there are fewer.
    head: u64,
    count: u64,
    /// Where it is in `text`.
    start: u32,
    length: u32,
}

/// Whether a byte belongs to a word: ASCII letters, digits, `_`.
const IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'_';
        byte += 1;
    }
    table
};

pub(crate) fn in_word(byte: u8) -> bool {
    IN_WORD[usize::from(byte)]
}

/// Counts the words of `text`: its longest runs of ASCII letters, digits and `_`, upper and lower case apart. It must
/// not start or end inside a word.
pub fn count(text: &[u8], counts: &mut Counts) {
    let mut at = 0;
    while at < text.len() {
        if !in_word(text[at]) {
            at += 1;
            continue;
        }
        let start = at;
        while at < text.len() && in_word(text[at]) {
            at += 1;
        }
        counts.add(text, start..at, 1);
    }
}

impl Counts {
    /// How many different words there are.
    pub fn distinct(&self) -> usize {
        self.table.len()
    }

    /// How many words were counted.
    pub fn total(&self) -> u64 {
        self.table.iter().map(|entry| entry.count).sum()
    }

    /// Adds all of another table.
    pub fn merge(&mut self, other: &Self) {
        self.unpack();
        for entry in &other.table {
            self.add(&other.text, entry.place(), entry.count);
        }
        self.add_packed(&other.packed);
    }

    /// Makes a table of what came packed, as all but [`Counts::merge`] need it.
    pub fn unpack(&mut self) {
        let packed = std::mem::take(&mut self.packed);
        self.add_packed(&packed);
    }

    fn add_packed(&mut self, packed: &[u8]) {
        // They were looked through as they came.
        for (word, count) in Words(packed).flatten() {
            let start = word.as_ptr() as usize - packed.as_ptr() as usize;
            self.add(packed, start..start + word.len(), count);
        }
    }

    /// All words with their counts, in the order of the words.
    pub fn sorted(&self) -> Vec<(&str, u64)> {
        let mut entries: Vec<&Entry> = self.table.iter().collect();
        let key = |entry: &Entry| (entry.head.swap_bytes(), &self.text[entry.place()]);
        entries.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
        entries
            .into_iter()
            .map(|entry| (self.word(entry), entry.count))
            .collect()
    }

    /// The most frequent words, the most frequent first; of equally frequent ones the first in the alphabet.
    pub fn top(&self, limit: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<_> = self
            .table
            .iter()
            .map(|entry| (self.word(entry), entry.count))
            .collect();
        let order = |a: &(&str, u64), b: &(&str, u64)| b.1.cmp(&a.1).then(a.0.cmp(b.0));
        if limit < words.len() {
            words.select_nth_unstable_by(limit, order);
            words.truncate(limit);
        }
        words.sort_unstable_by(order);
        words
    }

    fn add(&mut self, text: &[u8], word: Range<usize>, count: u64) {
        let length = word.len();
        let head = head(text, &word);
        let word = &text[word];
        let hash = hash(head, word);
        let same = |entry: &Entry| {
            entry.head == head
                && entry.length as usize == length
                && (length <= 8 || self.text[entry.place()][8..] == word[8..])
        };
        match self.table.entry(hash, same, |entry| entry.hash) {
            Place::Occupied(mut known) => known.get_mut().count += count,
            Place::Vacant(place) => {
                // A guest has less memory than 4 GiB; natively a table this large is a mistake.
                let start = u32::try_from(self.text.len()).expect("less than 4 GiB of different words");
                self.text.extend_from_slice(word);
                place.insert(Entry {
                    hash,
                    head,
                    count,
                    start,
                    length: length as u32,
                });
            }
        }
    }

    fn word(&self, entry: &Entry) -> &str {
        std::str::from_utf8(&self.text[entry.place()]).expect("words are ASCII")
    }
}

impl Entry {
    fn place(&self) -> Range<usize> {
        self.start as usize..(self.start + self.length) as usize
    }
}

/// The first 8 bytes of a word as a number: in one load where the text goes on for so long.
fn head(text: &[u8], word: &Range<usize>) -> u64 {
    let mut bytes = [0; 8];
    let length = word.len().min(8);
    match text.get(word.start..word.start + 8) {
        Some(eight) => bytes.copy_from_slice(eight),
        None => bytes[..length].copy_from_slice(&text[word.start..word.start + length]),
    }
    u64::from_le_bytes(bytes) & (u64::MAX >> (64 - 8 * length))
}

/// The same everywhere, which a part's order must not depend on but its cost does. Eight bytes at a time by a
/// multiplication with the golden ratio, as in FxHash; the table wants good low and high bits.
fn hash(head: u64, word: &[u8]) -> u64 {
    const RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = head.wrapping_mul(RATIO);
    for piece in word.get(8..).unwrap_or_default().chunks(8) {
        let mut bytes = [0; 8];
        bytes[..piece.len()].copy_from_slice(piece);
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(bytes)).wrapping_mul(RATIO);
    }
    hash ^ (hash >> 32)
}

/// Travels as one string of bytes: for each word its length, its bytes, its count. A map of strings would be read
/// one string at a time, which costs more than the counting.
impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.packed.is_empty() {
            return serializer.serialize_bytes(&self.packed);
        }
        let mut packed = Vec::with_capacity(self.text.len() + 3 * self.table.len());
        // In the table's order: the same after the same words, which is all that a job needs.
        for entry in &self.table {
            write_number(&mut packed, u64::from(entry.length));
            packed.extend_from_slice(&self.text[entry.place()]);
            write_number(&mut packed, entry.count);
        }
        serializer.serialize_bytes(&packed)
    }
}

impl<'de> Deserialize<'de> for Counts {
    /// Only takes the bytes: what is merged into another table never needs one of its own.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Packed;
        impl Visitor<'_> for Packed {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("words and their counts")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        let packed = deserializer.deserialize_byte_buf(Packed)?;
        match Words(&packed).all(|word| word.is_some()) {
            true => Ok(Counts {
                packed,
                ..Counts::default()
            }),
            false => Err(D::Error::custom("the words and their counts are torn")),
        }
    }
}

/// The words of a packed table, each with its count. Gives `None` once if they are torn.
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = Option<(&'a [u8], u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let mut word = || {
            let length = usize::try_from(read_number(&mut self.0)?).ok()?;
            let (word, rest) = self
                .0
                .split_at_checked(length)
                .filter(|(word, _)| !word.is_empty())?;
            self.0 = rest;
            Some((word, read_number(&mut self.0)?))
        };
        let word = word();
        if word.is_none() {
            self.0 = &[];
        }
        Some(word)
    }
}

/// Seven bits a byte, the lowest first, the highest bit set where more follow (LEB128).
fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The plain way: split, and a map of strings.
    fn plain(text: &str) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if !word.is_empty() {
                *counts.entry(word).or_default() += 1;
            }
        }
        counts
    }

    /// Words of every length, many of them alike in their first 8 bytes.
    fn text() -> String {
        let mut text = String::from("ä_b-C d1\n");
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let length = (state >> 60) as usize + 1;
            text.push_str(&"abcdefghijklmnop"[..length]);
            text.push(char::from(b'a' + (state >> 40) as u8 % 20));
            text.push_str([" ", ", ", "\n", "ß", "::"][(state >> 50) as usize % 5]);
        }
        text
    }

    #[test]
    fn words_are_counted_as_the_plain_way_counts_them() {
        let text = text();
        let mut counts = Counts::default();
        count(text.as_bytes(), &mut counts);
        let plain = plain(&text);
        assert_eq!(
            counts.sorted(),
            plain
                .iter()
                .map(|(word, count)| (*word, *count))
                .collect::<Vec<_>>()
        );
        assert_eq!(counts.total(), plain.values().sum::<u64>());
        assert_eq!(counts.distinct(), plain.len());
    }

    #[test]
    fn the_top_is_ordered_by_count_then_word() {
        let mut counts = Counts::default();
        count(b"b a b c a d", &mut counts);
        assert_eq!(counts.top(3), [("a", 2), ("b", 2), ("c", 1)]);
        assert_eq!(counts.top(0), []);
        assert_eq!(counts.top(9).len(), 4);
    }

    #[test]
    fn merging_is_counting_both() {
        let text = text();
        let middle = text.find('\n').unwrap();
        let (mut all, mut one, mut two) = <(Counts, Counts, Counts)>::default();
        count(text.as_bytes(), &mut all);
        count(&text.as_bytes()[..middle], &mut one);
        count(&text.as_bytes()[middle..], &mut two);
        one.merge(&two);
        assert_eq!(one.sorted(), all.sorted());
    }

    #[test]
    fn tables_travel_and_torn_ones_are_refused() {
        let text = text();
        let mut counts = Counts::default();
        count(text.as_bytes(), &mut counts);
        let json = serde_json::to_vec(&counts).unwrap();
        let bytes: Vec<u8> = serde_json::from_slice(&json).unwrap();
        let take = |bytes: &[u8]| {
            let bytes = serde::de::value::BytesDeserializer::<serde::de::value::Error>::new(bytes);
            Counts::deserialize(bytes)
        };
        let mut back = take(&bytes).unwrap();
        let mut merged = Counts::default();
        merged.merge(&back);
        back.unpack();
        assert_eq!(back.sorted(), counts.sorted());
        assert_eq!(merged.sorted(), counts.sorted());
        assert!(take(&bytes[..bytes.len() - 1]).is_err());
        assert!(take(&[0, 1]).is_err(), "an empty word is none");
    }
}
