//! Counts the words of a dataset: `nearfield run wordcount --over registry --args '{"top": 20}'`.
//!
//! A word is a longest run of ASCII letters, digits and `_`; upper and lower case are different words. Of a dataset
//! of files every text file is counted, and one with a zero byte near its start is taken for no text. [`count`],
//! [`Counts`] and [`Packed`] are the whole of the work, and can be called natively, too.

mod counts;
mod packed;
mod scan;
mod top;
mod word;

use std::io::Read;

use nearfield::{Result, Shard};

pub use counts::{Counts, count};
pub use packed::{Packed, Torn};
use top::{Frequent, Top};

#[derive(serde::Deserialize)]
struct Args {
    /// How many of the most frequent words to tell; 20 unless given.
    top: Option<usize>,
}

/// What is told in the end.
#[derive(serde::Serialize)]
struct Summary {
    words: u64,
    distinct: usize,
    /// The most frequent words, the most frequent first.
    top: Vec<Frequent>,
}

/// Counts a shard's words.
#[nearfield::map]
pub fn wordcount(shard: Shard) -> Result<Packed> {
    let mut counts = Counts::default();
    let mut buffer = vec![0; READ_BYTES];
    if shard.format() == "files" {
        shard
            .files()
            .for_each(|_, content| read(content, &mut buffer, &mut counts))?;
    } else {
        read(&mut { shard }, &mut buffer, &mut counts)?;
    }
    Ok(counts.pack())
}

#[nearfield::reduce]
fn add(mut all: Packed, more: Packed) -> Packed {
    all.merge(more);
    all
}

#[nearfield::finish]
fn summary(counts: Packed, args: Args) -> Result<Summary, Torn> {
    let (mut words, mut distinct) = (0, 0);
    let mut top = Top::new(args.top.unwrap_or(20));
    counts.each(|word, count| {
        words += count;
        distinct += 1;
        top.offer(word, count);
    })?;
    Ok(Summary {
        words,
        distinct,
        top: top.sorted(),
    })
}

/// Read at once: as much as the SDK asks its host for.
const READ_BYTES: usize = 256 << 10;

/// How far to look for a zero byte: as far as git does.
const TEXT_BYTES: usize = 8000;

/// Counts the words of one text, whatever pieces it comes in. `buffer` has room, and may get more for a long word.
fn read(text: &mut dyn Read, buffer: &mut Vec<u8>, counts: &mut Counts) -> Result<()> {
    let mut kept = 0;
    let mut first = true;
    loop {
        if kept == buffer.len() {
            buffer.resize(2 * kept, 0);
        }
        let length = text.read(&mut buffer[kept..])?;
        let filled = kept + length;
        if length == 0 {
            count(&buffer[..filled], counts);
            return Ok(());
        }
        if std::mem::take(&mut first) && buffer[..filled.min(TEXT_BYTES)].contains(&0) {
            return Ok(());
        }
        // A word that reaches the end may go on.
        let word = buffer[..filled]
            .iter()
            .rev()
            .take_while(|&&byte| scan::in_word(byte))
            .count();
        count(&buffer[..filled - word], counts);
        buffer.copy_within(filled - word..filled, 0);
        kept = word;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use nearfield::mock;
    use serde_json::{Value, json};

    fn run(data: mock::Dataset, args: Value) -> Value {
        let done = mock::Host::new()
            .dataset("data", data)
            .job::<super::wordcount>("data", args);
        done.unwrap().result
    }

    #[test]
    fn lines_are_counted_over_shards() {
        let data = mock::Dataset::new("lines")
            .shard_bytes(5)
            .file("a", "to be or\nnot to be\n")
            .file("b", "Be\tnot_be");
        let top = json!([{ "word": "be", "count": 2 }, { "word": "to", "count": 2 }]);
        assert_eq!(
            run(data, json!({ "top": 2 })),
            json!({ "words": 8, "distinct": 6, "top": top })
        );
    }

    #[test]
    fn text_files_are_counted_each_by_itself() {
        let data = mock::Dataset::new("files")
            .shard_bytes(600)
            .file("a.txt", "one")
            .file("b.bin", "two\0two")
            .file("c/d.txt", "one two");
        let result = run(data, Value::Null);
        assert_eq!((&result["words"], &result["distinct"]), (&json!(3), &json!(2)));
        assert_eq!(result["top"][0], json!({ "word": "one", "count": 2 }));
    }

    #[test]
    fn a_word_may_be_longer_than_a_read() {
        let long = "x".repeat(700_000);
        let text = format!("{}{long} y {long}", "a ".repeat(131_000));
        let result = run(mock::Dataset::new("none").file("f", text), json!({ "top": 3 }));
        assert_eq!(result["words"], 131_003);
        assert_eq!(result["top"][1], json!({ "word": long, "count": 2 }));
    }

    #[test]
    fn our_own_sources_count_as_the_plain_way_counts_them() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut plain = HashMap::<String, u64>::new();
        for file in ["counts.rs", "lib.rs", "packed.rs", "scan.rs", "top.rs", "word.rs"] {
            let text = std::fs::read_to_string(format!("{folder}/{file}")).unwrap();
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                *plain.entry(word.to_owned()).or_default() += 1;
            }
        }
        plain.remove("");
        let result = run(
            mock::Dataset::new("lines").shard_bytes(1000).disk(folder),
            json!({ "top": plain.len() }),
        );
        assert_eq!(result["words"], plain.values().sum::<u64>());
        assert_eq!(result["distinct"], plain.len());
        for frequent in result["top"].as_array().unwrap() {
            assert_eq!(
                frequent["count"],
                plain[frequent["word"].as_str().unwrap()],
                "{frequent}"
            );
        }
    }
}
