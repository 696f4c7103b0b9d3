//! Words and how often each was seen.

use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Place;

use crate::packed::Packed;
use crate::scan;
use crate::word::Word;

/// A table of words. A word that is known costs no allocation, and one of up to 8 bytes is compared as a number.
#[derive(Default)]
pub struct Counts {
    table: HashTable<Entry>,
    /// The words one after another.
    text: Vec<u8>,
}

struct Entry {
    hash: u64,
    head: u64,
    count: u64,
    /// Where it is in `text`.
    start: u32,
    length: u32,
}

/// Counts the words of `text`: its longest runs of ASCII letters, digits and `_`, upper and lower case apart. It must
/// not start or end inside a word.
pub fn count(text: &[u8], counts: &mut Counts) {
    scan::words(text, |place| counts.add(Word::at(text, place)));
}

impl Counts {
    /// The words in the order of their hashes, in which lists are merged without a table.
    pub fn pack(self) -> Packed {
        let mut entries: Vec<(u64, &Entry)> = self.table.iter().map(|entry| (entry.hash, entry)).collect();
        entries.sort_unstable_by_key(|(hash, _)| *hash);
        let words = entries
            .into_iter()
            .map(|(_, entry)| (&self.text[entry.place()], entry.count));
        Packed::new(words, self.text.len() + 3 * self.table.len())
    }

    fn add(&mut self, word: Word<'_>) {
        let same = |entry: &Entry| entry.word(&self.text) == word;
        match self.table.entry(word.hash, same, |entry| entry.hash) {
            Place::Occupied(mut known) => known.get_mut().count += 1,
            Place::Vacant(place) => {
                // A guest has less memory than 4 GiB; natively a table this large is a mistake.
                let start = u32::try_from(self.text.len()).expect("less than 4 GiB of different words");
                self.text.extend_from_slice(word.bytes);
                place.insert(Entry {
                    hash: word.hash,
                    head: word.head,
                    count: 1,
                    start,
                    length: word.bytes.len() as u32,
                });
            }
        }
    }
}

impl Entry {
    fn place(&self) -> Range<usize> {
        self.start as usize..(self.start + self.length) as usize
    }

    fn word<'a>(&self, text: &'a [u8]) -> Word<'a> {
        Word {
            bytes: &text[self.place()],
            head: self.head,
            hash: self.hash,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

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

    fn packed(text: &str) -> Packed {
        let mut counts = Counts::default();
        count(text.as_bytes(), &mut counts);
        counts.pack()
    }

    fn listed(packed: &Packed) -> Vec<(String, u64)> {
        let mut words = Vec::new();
        let mut found = |word: &[u8], count| words.push((str::from_utf8(word).unwrap().to_owned(), count));
        packed.each(&mut found).unwrap();
        words
    }

    #[test]
    fn words_are_counted_as_the_plain_way_counts_them() {
        let text = text();
        let mut counted = listed(&packed(&text));
        counted.sort();
        let plain = plain(&text).into_iter();
        assert_eq!(
            counted,
            plain
                .map(|(word, count)| (word.to_owned(), count))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn merging_is_counting_all() {
        let text = text();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        for parts in [2, 3, 40] {
            let mut merged = Packed::default();
            for part in lines.chunks(lines.len().div_ceil(parts)) {
                merged.merge(packed(&part.concat()));
            }
            assert_eq!(listed(&merged), listed(&packed(&text)), "{parts} parts");
        }
        assert_eq!(listed(&Packed::default()), []);
    }

    #[test]
    fn tables_travel_and_torn_ones_are_refused() {
        let text = text();
        let (one, two) = text.split_at(text.find('\n').unwrap());
        let mut both = packed(one);
        both.merge(packed(two));
        let json = serde_json::to_vec(&both).unwrap();
        let bytes: Vec<u8> = serde_json::from_slice(&json).unwrap();
        let take = |bytes: &[u8]| {
            let bytes = serde::de::value::BytesDeserializer::<serde::de::value::Error>::new(bytes);
            Packed::deserialize(bytes).unwrap()
        };
        assert_eq!(listed(&take(&bytes)), listed(&packed(&text)));
        let mut torn = take(&bytes[..bytes.len() - 1]);
        assert!(torn.each(|_, _| ()).is_err());
        torn.merge(take(&bytes));
        assert!(serde_json::to_vec(&torn).is_err());
    }
}
