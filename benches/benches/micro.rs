//! The pure parts a put and a call wait for: cutting a stream, and placing a call.

use std::hint::black_box;
use std::io::Cursor;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nearfield_gateway::place::{Ask, HostView, place};
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

/// A call among all hosts of a network, of which all hold its data: ties everywhere, so all is compared.
fn placing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("place");
    for count in [1, 16, 1000] {
        let hosts: Vec<_> = (0..count).map(host).collect();
        let ask = Ask {
            key: Digest::of(b"a shard"),
            component_bytes: 86_000,
        };
        group.bench_with_input(BenchmarkId::from_parameter(count), &hosts, |bencher, hosts| {
            bencher.iter(|| place(black_box(&ask), black_box(hosts)));
        });
    }
    group.finish();
}

fn host(index: u32) -> HostView {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&index.to_le_bytes());
    HostView {
        id: NodeId::from_bytes(id),
        draining: false,
        queued_fuel: 0,
        fuel_per_ms: 1_000_000,
        link_bytes_per_ms: 100_000,
        has_code: true,
        missing_bytes: 0,
    }
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
