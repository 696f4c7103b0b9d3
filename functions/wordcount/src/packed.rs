//! Tables on their way from host to host.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Error, Serialize, Serializer};

use crate::word::Word;

/// Words with their counts, as lists in the order of the words' hashes. Lists are merged when they travel on, all of
/// them at once: no table of words is made, and each word is copied once, whatever many lists it comes in.
#[derive(Default)]
pub struct Packed(Vec<Vec<u8>>);

/// A list that ends inside a word.
#[derive(Debug)]
pub struct Torn;

impl Packed {
    /// One list of words that are in order already.
    pub(crate) fn new<'a>(words: impl Iterator<Item = (&'a [u8], u64)>, bytes: usize) -> Self {
        let mut list = Vec::with_capacity(bytes);
        words.for_each(|(word, count)| write(&mut list, word, count));
        Packed(vec![list])
    }

    /// Takes all of another table in.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// All words with their counts, in the order of their hashes.
    pub fn each(&self, mut found: impl FnMut(&[u8], u64)) -> Result<(), Torn> {
        if let [list] = self.0.as_slice() {
            return Words::of(list)
                .try_for_each(|word| word.map(|(place, count)| found(&list[place], count)));
        }
        // Each list with its next word, and which of them comes first.
        let mut lists = Vec::with_capacity(self.0.len());
        let mut first = BinaryHeap::with_capacity(self.0.len());
        for list in &self.0 {
            let mut words = Words::of(list);
            if let Some(next) = words.next_word().transpose()? {
                first.push(Reverse((next.0.hash, lists.len())));
                lists.push((next, words));
            }
        }
        // The words of one hash: nearly always one word.
        let mut open: Vec<(Word<'_>, u64)> = Vec::new();
        while let Some(mut head) = first.peek_mut() {
            let Reverse((hash, index)) = *head;
            let ((word, count), words) = &mut lists[index];
            if open.first().is_some_and(|(open, _)| open.hash != hash) {
                open.drain(..).for_each(|(word, count)| found(word.bytes, count));
            }
            match open.iter_mut().find(|(open, _)| open == word) {
                Some((_, sum)) => *sum += *count,
                None => open.push((*word, *count)),
            }
            match words.next_word().transpose()? {
                Some(next) => {
                    *head = Reverse((next.0.hash, index));
                    (*word, *count) = next;
                }
                None => drop(PeekMut::pop(head)),
            }
        }
        open.drain(..).for_each(|(word, count)| found(word.bytes, count));
        Ok(())
    }

    /// All lists as one.
    fn merged(&self) -> Result<Vec<u8>, Torn> {
        let mut merged = Vec::with_capacity(self.0.iter().map(Vec::len).sum());
        self.each(|word, count| write(&mut merged, word, count))?;
        Ok(merged)
    }
}

/// One string of bytes: for each word its length, its bytes, its count. A map of strings would be read one string at a
/// time, which costs more than the counting.
impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [list] => serializer.serialize_bytes(list),
            _ => serializer.serialize_bytes(&self.merged().map_err(S::Error::custom)?),
        }
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl Visitor<'_> for List {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("words and their counts")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        let list = deserializer.deserialize_byte_buf(List)?;
        Ok(Packed(vec![list]))
    }
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the words and their counts are torn")
    }
}

impl std::error::Error for Torn {}

/// The words of a list: where each is, and its count.
struct Words<'a> {
    list: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn of(list: &'a [u8]) -> Self {
        Words { list, rest: list }
    }

    fn next_word(&mut self) -> Option<Result<(Word<'a>, u64), Torn>> {
        let next = self.next()?;
        Some(next.map(|(place, count)| (Word::at(self.list, place), count)))
    }

    /// `None` if the list ends too early.
    fn read(&mut self) -> Option<(Range<usize>, u64)> {
        let length = usize::try_from(read_number(&mut self.rest)?).ok()?;
        let start = self.list.len() - self.rest.len();
        self.rest = self.rest.get(length..)?;
        Some((start..start + length, read_number(&mut self.rest)?))
    }
}

impl Iterator for Words<'_> {
    type Item = Result<(Range<usize>, u64), Torn>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let word = self.read();
        if word.is_none() {
            self.rest = &[];
        }
        Some(word.ok_or(Torn))
    }
}

fn write(list: &mut Vec<u8>, word: &[u8], count: u64) {
    write_number(list, word.len() as u64);
    list.extend_from_slice(word);
    write_number(list, count);
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
