//! The pure parts a put and a call wait for: cutting a stream, and placing a call.

use std::hint::black_box;
use std::io::Cursor;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nearfield_cluster::place::table::HostTable;
use nearfield_cluster::place::{Ask, Need, place};
use nearfield_net::Records;
use nearfield_net::control::Hello;
use nearfield_protocol::node::{NodeRecord, NodeVersion, Role};
use nearfield_protocol::{Digest, NodeId, Split};
use nearfield_store::cut::{CutOptions, cut_stream};

criterion_group!(benches, cutting, placing);
criterion_main!(benches);

/// Bytes a second through the record cutters, without hashing or disk.
fn cutting(criterion: &mut Criterion) {
    const BYTES: usize = 64 << 20;
    let spill = tempfile::tempdir().expect("a folder for temporary files");
    let mut group = criterion.benchmark_group("cut");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(10);
    for split in [Split::Lines, Split::Csv] {
        let input = table(BYTES);
        let options = CutOptions {
            split,
            shard_size_bytes: 4 << 20,
            spill_dir: spill.path().to_owned(),
        };
        group.bench_function(format!("{split:?}").to_lowercase(), |bencher| {
            bencher.iter(|| {
                let mut shards = 0;
                let mut emit = |shard| {
                    black_box(shard);
                    shards += 1;
                    Ok(())
                };
                cut_stream(&mut Cursor::new(&input), "table.csv", None, &options, &mut emit)
                    .expect("the table is well-formed");
                shards
            });
        });
    }
    group.finish();
}

/// Shards in the network, each on two hosts.
const SHARDS: u32 = 1_000_000;

/// Calls with up to three inputs among a thousand hosts with a million shards, each on two of them. What the table of
/// all that takes in memory is printed.
fn placing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("place");
    for hosts in [1, 16, 1_000] {
        let before = resident_bytes();
        let table = network(hosts);
        let grown = resident_bytes().saturating_sub(before);
        println!(
            "{hosts} hosts, {SHARDS} shards twice: {:.1} MiB",
            grown as f64 / (1 << 20) as f64
        );
        let mut shard = 0;
        for needed in [1, 3] {
            group.bench_function(format!("{hosts} hosts, {needed} shards needed"), |bencher| {
                bencher.iter(|| {
                    shard = (shard + 7_919) % SHARDS;
                    let needs: Vec<_> = (0..needed)
                        .map(|more| Need::Blob {
                            digest: digest((shard + more) % SHARDS),
                            size_bytes: 4 << 20,
                        })
                        .collect();
                    let ask = Ask {
                        key: digest(shard),
                        component: Digest::EMPTY,
                        component_bytes: 86_000,
                        located: None,
                        needs: &needs,
                        only: &[],
                        gpu: None,
                    };
                    place(black_box(&ask), black_box(&table))
                });
            });
        }
    }
    group.finish();
}

fn digest(shard: u32) -> Digest {
    // Spread like a hash, and cheaper than one.
    let mut bytes = [0; 32];
    for (word, part) in bytes.chunks_exact_mut(8).enumerate() {
        let mixed = (u64::from(shard) + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(17 * word as u32);
        part.copy_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
    }
    Digest::from_bytes(bytes)
}

fn network(hosts: u32) -> HostTable {
    let id = |index: u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&index.to_le_bytes());
        NodeId::from_bytes(id)
    };
    let mut records = Records::new(id(u32::MAX));
    let hello = Hello {
        addresses: Vec::new(),
        hosting: true,
        version: String::new(),
    };
    let joined = |index, role| {
        NodeRecord::Joined(Box::new(NodeVersion {
            id: id(index),
            role,
            labels: Default::default(),
            max_bytes: None,
            may_put: Vec::new(),
            addresses: Vec::new(),
            joined_unix_ms: 0,
        }))
    };
    let founder = id(u32::MAX);
    records.tell_node(founder, &founder, &joined(u32::MAX, Role::Gateway));
    for index in 0..hosts {
        records.tell_node(founder, &id(index), &joined(index, Role::Host));
    }
    let mut table = HostTable::default();
    for index in 0..hosts {
        table.up(id(index), &hello, &records);
        table.holds(&id(index), &[Digest::EMPTY], &[]);
    }
    for shard in 0..SHARDS {
        for replica in 0..2 {
            let host = shard.wrapping_mul(2_654_435_761).rotate_left(7 * replica) % hosts;
            table.holds(&id((host + replica) % hosts), &[digest(shard)], &[]);
        }
    }
    table
}

/// Memory that this process has now.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = status
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4_096
}

/// Records of uneven length that cut at different places, some of them quoted.
fn table(bytes: usize) -> Vec<u8> {
    let mut table = b"number,square,text\n".to_vec();
    for number in 0u64.. {
        if table.len() >= bytes {
            break;
        }
        let square = number.wrapping_mul(number).wrapping_mul(0x9e37_79b9);
        table.extend_from_slice(format!("{number},{square},\"a, {number:x}\"\n").as_bytes());
    }
    table
}
