//! `nearfield run {{name}} --over DATASET --args '{"least": 2}'`

use std::collections::BTreeMap;

use nearfield::{Result, Shard};

/// How many lines have how many bytes.
type Lengths = BTreeMap<usize, u64>;

#[derive(serde::Deserialize)]
struct Args {
    /// Leave out what fewer lines have.
    least: Option<u64>,
}

/// Runs once for each shard, where the shard is.
#[nearfield::map]
fn lengths(shard: Shard) -> Result<Lengths> {
    let mut lengths = Lengths::new();
    let mut lines = shard.lines();
    while let Some(line) = lines.next_line()? {
        *lengths.entry(line.len()).or_default() += 1;
    }
    Ok(lengths)
}

/// Makes one of two, in any grouping.
#[nearfield::reduce]
fn add(mut all: Lengths, more: Lengths) -> Lengths {
    for (length, count) in more {
        *all.entry(length).or_default() += count;
    }
    all
}

/// Makes the result of the last one.
#[nearfield::finish]
fn often(mut all: Lengths, args: Args) -> Lengths {
    all.retain(|_, count| *count >= args.least.unwrap_or(1));
    all
}

#[cfg(test)]
mod tests {
    use nearfield::mock;
    use serde_json::json;

    #[test]
    fn it_counts() {
        let poem = mock::Dataset::new("lines").shard_bytes(4).file("poem", "a\nbb\ncc\n");
        let host = mock::Host::new().dataset("poem", poem);
        let done = host.job::<super::lengths>("poem", json!({ "least": 2 })).unwrap();
        assert_eq!(done.result, json!({ "2": 2 }));
    }
}
