//! A job whose allocations and results are random, for tests: what it returns must be the same bytes in Wasm and on the
//! mock host, whatever lies before and after a result in the guest's memory.
//!
//! All randomness comes from the seed in the arguments and from the shard's bytes. Parts are lists that a reduce appends, so the
//! result does not depend on how they are grouped.

mod random;

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use nearfield::{Result, Shard, output};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use random::Random;

#[derive(Deserialize)]
pub struct Args {
    seed: u64,
    /// Most bytes of one shard's part.
    most: u64,
}

/// Whatever a part can be made of.
#[derive(Clone, Serialize, Deserialize)]
pub enum Value {
    Nothing,
    Whole(i64),
    Float(f64),
    Text(String),
    Bytes(ByteBuf),
    Numbers(Vec<u8>),
    List(Vec<Value>),
    Cities(BTreeMap<String, (u64, f64)>),
    Named { name: String, value: Option<Box<Value>> },
}

#[nearfield::map]
pub fn churn(mut shard: Shard, args: Args) -> Result<Vec<Value>> {
    let mut seed = args.seed;
    let mut bytes = Vec::new();
    shard.read_to_end(&mut bytes)?;
    for chunk in bytes.chunks(8) {
        seed = seed.rotate_left(9).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(chunk[0]);
    }
    let mut random = Random::new(seed);
    let held = allocations(&mut random);

    let mut budget = random.size(args.most);
    let mut part = vec![Value::Bytes(ByteBuf::from(piece(&mut shard, &mut random)?))];
    while budget > 0 {
        part.push(value(&mut random, &mut budget, 0));
    }
    if random.below(3) == 0 {
        for file in 0..random.below(4) {
            let name = format!("{:016x}/{file}", random.next());
            let size = random.size(200_000);
            output::write(&name, random.bytes(size)).ok();
        }
    }
    drop(held);
    drop(allocations(&mut random));
    Ok(part)
}

#[nearfield::reduce]
fn append(mut all: Vec<Value>, more: Vec<Value>) -> Vec<Value> {
    let mut random = Random::new(all.len() as u64 * 31 + more.len() as u64);
    let held = allocations(&mut random);
    all.extend(more);
    drop(held);
    all
}

/// What is told of all parts: a hash of them as JSON, and how that begins.
#[derive(Serialize)]
struct Told {
    bytes: usize,
    hash: u64,
    begins: String,
}

#[nearfield::finish]
fn tell(all: Vec<Value>, args: Args) -> Result<Told> {
    let mut random = Random::new(args.seed);
    let held = allocations(&mut random);
    let json = serde_json::to_string(&all)?;
    // FNV-1a.
    let hash = json.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    drop(held);
    Ok(Told {
        bytes: json.len(),
        hash,
        begins: json.chars().take(random.size(1 << 20) as usize).collect(),
    })
}

/// Allocations of random sizes, some freed again: what is left makes holes of all sizes in the heap.
fn allocations(random: &mut Random) -> Vec<Vec<u8>> {
    let mut held = Vec::new();
    for _ in 0..random.below(60) {
        let size = random.size(1 << 16);
        held.push(random.bytes(size));
        if random.below(2) == 0 {
            let at = random.below(held.len() as u64) as usize;
            held.swap_remove(at);
        }
    }
    held
}

/// Some bytes from somewhere in the shard.
fn piece(shard: &mut Shard, random: &mut Random) -> Result<Vec<u8>> {
    let at = random.below(shard.size() + 1);
    let mut piece = vec![0; random.size(5_000).min(shard.size() - at) as usize];
    shard.seek(SeekFrom::Start(at))?;
    shard.read_exact(&mut piece)?;
    Ok(piece)
}

fn value(random: &mut Random, budget: &mut u64, depth: u32) -> Value {
    let mut take = |random: &mut Random, most: u64| {
        let size = random.size(most.min(*budget));
        *budget = budget.saturating_sub(size + 8);
        size
    };
    match random.below(if depth < 3 { 9 } else { 6 }) {
        0 => {
            take(random, 0);
            Value::Nothing
        }
        1 => {
            take(random, 8);
            Value::Whole(random.next() as i64)
        }
        2 => {
            take(random, 8);
            Value::Float(random.next() as i32 as f64 / 8.0)
        }
        3 => Value::Text({
            let size = take(random, 1_000);
            random.text(size)
        }),
        4 => Value::Bytes(ByteBuf::from({
            let size = take(random, 4 << 20);
            random.bytes(size)
        })),
        5 => Value::Numbers({
            let size = take(random, 10_000);
            random.bytes(size)
        }),
        6 => {
            let count = random.below(8);
            Value::List((0..count).map(|_| value(random, budget, depth + 1)).collect())
        }
        7 => {
            let mut cities = BTreeMap::new();
            for _ in 0..1 + random.below(4) {
                let size = 1 + take(random, 30);
                let sums = (random.below(1 << 40), random.next() as i32 as f64 / 4.0);
                cities.insert(random.text(size), sums);
            }
            Value::Cities(cities)
        }
        _ => Value::Named {
            name: {
                let size = take(random, 40);
                random.text(size)
            },
            value: (random.below(2) == 0).then(|| Box::new(value(random, budget, depth + 1))),
        },
    }
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    use super::*;

    fn told(seed: u64) -> serde_json::Value {
        let data = mock::Dataset::new("bytes").shard_bytes(100).file("a", [7; 250]);
        let args = serde_json::json!({ "seed": seed, "most": 10_000 });
        let done = mock::Host::new().dataset("data", data).job::<churn>("data", args);
        done.unwrap().result
    }

    #[test]
    fn a_seed_says_all() {
        assert_eq!(told(1), told(1));
        let different: std::collections::HashSet<_> =
            (0..50).map(|seed| told(seed)["hash"].to_string()).collect();
        assert_eq!(different.len(), 50);
    }
}
