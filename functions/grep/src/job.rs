//! The same over a whole dataset.
//!
//! The result has the first `max` matches in the order of their places, and how many there are in all. Of a dataset of
//! files a place is the path and the number of the line in it; of one that is cut by lines it is the shard's digest and
//! the number of the line in that shard, because a job does not see where a shard was cut from.

use std::io::{BufRead, BufReader};

use nearfield::{Error, Lines, Result, Shard};

use crate::contains;

#[derive(serde::Deserialize)]
pub struct Args {
    /// The text to find, as it is written.
    q: String,
    /// How many matches to tell; 1,000 unless given.
    max: Option<usize>,
}

/// The matches of a shard, or of several.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Found {
    total: u64,
    /// The first ones, at most `max`.
    matches: Vec<Match>,
    max: usize,
}

/// Ordered by place.
#[derive(PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
struct Match {
    #[serde(flatten)]
    place: Place,
    /// From 1.
    line: u64,
    /// What is not UTF-8 is replaced, and what is long ends early.
    text: String,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    File(String),
    Shard(String),
}

#[derive(serde::Serialize)]
struct Answer {
    total: u64,
    matches: Vec<Match>,
}

/// Where a line ends early: a match in minified code should not bring all of it.
const LINE_BYTES: usize = 1000;

/// What is read of a file at once.
const READ_BYTES: usize = 64 << 10;

/// Finds the lines of a shard.
#[nearfield::map]
pub fn grep_all(shard: Shard, Args { q, max }: Args) -> Result<Found> {
    if q.is_empty() {
        return Err(Error::bad_request("q is empty"));
    }
    let max = max.unwrap_or(1000);
    let mut found = Found {
        total: 0,
        matches: Vec::new(),
        max,
    };
    if shard.format() == "files" {
        shard.files().for_each(|path, content| {
            let lines = Lines::new(BufReader::with_capacity(READ_BYTES, content));
            found.search(lines, q.as_bytes(), || Place::File(path.to_owned()))
        })?;
    } else {
        let digest = shard.digest();
        found.search(shard.lines(), q.as_bytes(), || Place::Shard(digest.to_string()))?;
    }
    found.keep_first();
    Ok(found)
}

#[nearfield::reduce]
fn merge(mut all: Found, more: Found) -> Found {
    all.total += more.total;
    all.matches.extend(more.matches);
    all.keep_first();
    all
}

#[nearfield::finish]
fn answer(found: Found) -> Answer {
    Answer {
        total: found.total,
        matches: found.matches,
    }
}

impl Found {
    fn search(&mut self, mut lines: Lines<impl BufRead>, q: &[u8], place: impl Fn() -> Place) -> Result<()> {
        let mut number = 0;
        while let Some(line) = lines.next_line()? {
            number += 1;
            if !contains(line, q) {
                continue;
            }
            self.total += 1;
            self.matches.push(Match {
                place: place(),
                line: number,
                text: String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES)]).into_owned(),
            });
            // Twice as many at most, so that sorting them costs little for each.
            if self.matches.len() / 2 > self.max {
                self.keep_first();
            }
        }
        Ok(())
    }

    fn keep_first(&mut self) {
        self.matches.sort();
        self.matches.truncate(self.max);
    }
}

#[cfg(test)]
mod tests {
    use nearfield::mock;
    use serde_json::{Value, json};

    use super::LINE_BYTES;

    fn run(data: mock::Dataset, args: Value) -> Result<Value, mock::Failed> {
        let done = mock::Host::new()
            .dataset("data", data)
            .job::<super::grep_all>("data", args)?;
        Ok(done.result)
    }

    /// Files in the order of their paths, with lines of numbers.
    fn files() -> Vec<(String, String)> {
        let text = |file: u32| (0..50).map(|line| format!("{}\n", line * file)).collect();
        (10..30)
            .map(|file| (format!("{}/{file}.txt", file % 10), text(file)))
            .collect()
    }

    #[test]
    fn matches_are_those_of_the_plain_way() {
        let mut files = files();
        files.sort();
        let mut expected = Vec::new();
        for (path, text) in &files {
            for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains("12")) {
                expected.push(json!({ "file": path, "line": number + 1, "text": line }));
            }
        }
        assert!(expected.len() > 30);
        for (shard_bytes, max) in [(1, 1000), (4000, 1000), (4000, 7), (u64::MAX, 7), (1, 0)] {
            let mut data = mock::Dataset::new("files").shard_bytes(shard_bytes);
            for (path, text) in &files {
                data = data.file(path, text.as_str());
            }
            let matches = &expected[..max.min(expected.len())];
            assert_eq!(
                run(data, json!({ "q": "12", "max": max })).unwrap(),
                json!({ "total": expected.len(), "matches": matches }),
                "shards of {shard_bytes}, at most {max}"
            );
        }
    }

    #[test]
    fn lines_of_shards_have_their_digests() {
        let data = mock::Dataset::new("lines")
            .shard_bytes(4)
            .file("a", "one\ntwo\nthree\none");
        let result = run(data, json!({ "q": "o" })).unwrap();
        assert_eq!(result["total"], 3);
        let matches = result["matches"].as_array().unwrap();
        let mut texts: Vec<_> = matches
            .iter()
            .map(|one| (one["text"].as_str(), one["line"].as_u64()))
            .collect();
        texts.sort();
        assert_eq!(
            texts,
            [
                (Some("one"), Some(1)),
                (Some("one"), Some(1)),
                (Some("two"), Some(1))
            ]
        );
        assert!(
            matches
                .iter()
                .all(|one| one["shard"].as_str().unwrap().starts_with("b3:"))
        );
        assert!(matches.is_sorted_by_key(|one| one["shard"].as_str().unwrap()));
    }

    #[test]
    fn any_bytes_are_read_and_long_lines_end_early() {
        let mut text = b"\xff q\n".to_vec();
        text.extend_from_slice(&[b'q'; 2 * LINE_BYTES]);
        let result = run(mock::Dataset::new("none").file("f", text), json!({ "q": "q" })).unwrap();
        assert_eq!(result["matches"][0]["text"], "\u{fffd} q");
        assert_eq!(result["matches"][1]["text"].as_str().unwrap().len(), LINE_BYTES);
    }

    #[test]
    fn mistakes_are_told() {
        let failed = |args| {
            let data = mock::Dataset::new("none").file("f", "text");
            run(data, args).unwrap_err().message
        };
        assert_eq!(failed(json!({ "q": "" })), "q is empty");
        assert!(failed(Value::Null).contains("missing field `q`"));
    }
}
