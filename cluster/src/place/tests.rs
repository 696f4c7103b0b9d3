use super::*;
use nearfield_net::Records;
use nearfield_net::control::{Hello, Load};
use nearfield_protocol::node::{NodeRecord, NodeVersion, Role, labels};

const MIB: u64 = 1 << 20;

fn id(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn hello() -> Hello {
    Hello {
        addresses: Vec::new(),
        hosting: true,
        version: String::new(),
    }
}

/// Records of hosts 1 to `count`; some drain, some have labels.
fn records(count: u8, draining: &[u8], labelled: &[u8]) -> Records {
    let mut records = Records::new(id(0));
    for n in 0..=count {
        let with: &[&str] = if labelled.contains(&n) {
            &["region=eu"]
        } else {
            &[]
        };
        let node = NodeVersion {
            id: id(n),
            role: if n == 0 { Role::Gateway } else { Role::Host },
            labels: labels(with.iter().map(|label| label.parse().unwrap())).unwrap(),
            max_bytes: None,
            may_put: Vec::new(),
            addresses: Vec::new(),
            joined_unix_ms: 0,
        };
        records.tell_node(id(0), &id(n), &NodeRecord::Joined(Box::new(node)));
        if draining.contains(&n) {
            records.tell_node(id(0), &id(n), &NodeRecord::Draining { draining: true });
        }
    }
    records
}

/// Hosts 1 to `count`, which hold the code of `component`.
fn table(records: &Records, count: u8) -> HostTable {
    let mut table = HostTable::default();
    for n in 1..=count {
        table.up(id(n), &hello(), records);
        table.holds(&id(n), &[component()], &[]);
    }
    table
}

fn component() -> Digest {
    Digest::of(b"component")
}

fn shard() -> Digest {
    Digest::of(b"shard")
}

fn ask<'a>(key: Digest, needs: &'a [Need<'a>], only: &'a [Label]) -> Ask<'a> {
    Ask {
        key,
        component: component(),
        component_bytes: 100_000,
        located: None,
        needs,
        only,
        gpu: None,
    }
}

fn busy(calls: u32) -> Load {
    Load {
        calls,
        ..Load::default()
    }
}

fn first(table: &HostTable, needs: &[Need<'_>], only: &[Label]) -> u8 {
    place(&ask(shard(), needs, only), table)[0].host.as_bytes()[0]
}

#[test]
fn the_best_host() {
    let needs = [Need::Blob {
        digest: shard(),
        size_bytes: 4 * MIB,
    }];
    for holder in 1..=3 {
        let records = records(3, &[], &[2]);
        let mut hosts = table(&records, 3);
        hosts.holds(&id(holder), &[shard()], &[]);
        assert_eq!(first(&hosts, &needs, &[]), holder, "the one that holds the bytes");
        hosts.beat(&id(holder), busy(30));
        assert_eq!(
            first(&hosts, &needs, &[]),
            holder,
            "waiting 10 ms is less than moving 4 MiB"
        );
        hosts.beat(&id(holder), busy(3_000));
        assert_ne!(first(&hosts, &needs, &[]), holder, "waiting a second is more");
        hosts.beat(&id(holder), busy(0));
        hosts.missed(&id(holder));
        assert_ne!(first(&hosts, &needs, &[]), holder, "never one that is silent");
        hosts.beat(&id(holder), busy(0));
        assert_eq!(
            first(&hosts, &needs, &["region=eu".parse().unwrap()]),
            2,
            "only where the data may be"
        );
    }
    let draining = records(3, &[2], &[]);
    let mut hosts = table(&draining, 3);
    hosts.holds(&id(2), &[shard()], &[]);
    assert_ne!(first(&hosts, &needs, &[]), 2, "never one that drains");
    let mut hosts = table(&records(2, &[], &[]), 2);
    hosts.holds(&id(1), &[], &[component()]);
    assert_eq!(first(&hosts, &[], &[]), 2, "the one that has the code");
}

#[test]
fn what_was_located_runs_where_it_is() {
    let mut hosts = table(&records(3, &[], &[]), 3);
    hosts.holds(&id(2), &[shard()], &[component()]);
    let needs = [Need::Blob {
        digest: shard(),
        size_bytes: 1_000,
    }];
    let mut ask = ask(shard(), &needs, &[]);
    assert_ne!(
        place(&ask, &hosts)[0].host,
        id(2),
        "moving a little is less than loading code"
    );
    ask.located = Some(shard());
    assert_eq!(place(&ask, &hosts)[0].host, id(2));
    hosts.beat(&id(2), busy(30_000));
    assert_ne!(
        place(&ask, &hosts)[0].host,
        id(2),
        "but not if it is busy for seconds"
    );
}

#[test]
fn the_one_with_most_of_a_dataset() {
    let hosts = table(&records(3, &[], &[]), 3);
    let slot = |n| hosts.slot(&id(n)).unwrap();
    let held = [(slot(1), 10 * MIB), (slot(3), 60 * MIB)];
    let needs = [Need::Spread {
        size_bytes: 100 * MIB,
        held: &held,
        resident: &[],
    }];
    assert_eq!(first(&hosts, &needs, &[]), 3);
}

#[test]
fn the_one_whose_gpu_has_it() {
    use nearfield_protocol::gpu::{AdapterKind, GpuAdvert};
    let with_gpu = |kind| Load {
        gpu: Some(GpuAdvert {
            name: "".into(),
            kind,
            resident_bytes: 0,
        }),
        ..Load::default()
    };
    let mut hosts = table(&records(4, &[], &[]), 4);
    for (n, kind) in [
        (1, AdapterKind::Software),
        (2, AdapterKind::Hardware),
        (3, AdapterKind::Hardware),
    ] {
        hosts.beat(&id(n), with_gpu(kind));
        hosts.holds(&id(n), &[shard()], &[]);
    }
    hosts.holds(&id(4), &[shard()], &[]);
    let needs = [Need::Blob {
        digest: shard(),
        size_bytes: 100,
    }];
    for resident in 1..=3 {
        hosts.residents(&id(resident), &[shard()], &[]);
        let any = Ask {
            gpu: Some(GpuKind::Any),
            located: Some(shard()),
            ..ask(shard(), &needs, &[])
        };
        let ranked = place(&any, &hosts);
        assert_eq!(ranked[0].host, id(resident));
        let last = ranked.last().unwrap();
        assert_eq!((last.host, &last.standing), (id(4), &Standing::Gpu(GpuKind::Any)));
        let hardware = Ask {
            gpu: Some(GpuKind::Hardware),
            ..any
        };
        assert_ne!(
            place(&hardware, &hosts)[0].host,
            id(1),
            "never a software adapter"
        );
        hosts.residents(&id(resident), &[], &[shard()]);
    }
    let held = [1, 2, 3].map(|n| (hosts.slot(&id(n)).unwrap(), 1 << 40));
    let resident = [(hosts.slot(&id(3)).unwrap(), 1)];
    let needs = [Need::Spread {
        size_bytes: 1 << 40,
        held: &held,
        resident: &resident,
    }];
    let any = Ask {
        gpu: Some(GpuKind::Any),
        ..ask(shard(), &needs, &[])
    };
    assert_eq!(place(&any, &hosts)[0].host, id(3));
}

#[test]
fn a_holder_among_a_thousand_is_found_and_few_are_looked_at() {
    let records = records(250, &[], &[]);
    let mut hosts = table(&records, 250);
    hosts.holds(&id(77), &[shard()], &[]);
    let needs = [Need::Blob {
        digest: shard(),
        size_bytes: 64 * MIB,
    }];
    let ranked = place(&ask(shard(), &needs, &[]), &hosts);
    assert_eq!(ranked[0].host, id(77));
    assert!(ranked.len() <= 1 + RENDEZVOUS);
    let others = others(&ranked, &hosts);
    assert_eq!(others.len() + ranked.len(), 250);
    assert!(
        others
            .iter()
            .all(|other| other.standing == Standing::NotConsidered)
    );
}

#[test]
fn differences_under_a_millisecond_are_settled_by_key_so_load_spreads() {
    let hosts = table(&records(4, &[], &[]), 4);
    let mut chosen = [0; 5];
    for key in 0..1_000u32 {
        let ranked = place(&ask(Digest::of(&key.to_le_bytes()), &[], &[]), &hosts);
        chosen[usize::from(ranked[0].host.as_bytes()[0])] += 1;
    }
    assert!(
        chosen[1..].iter().all(|&count| (150..350).contains(&count)),
        "{chosen:?}"
    );
}

#[test]
fn one_host_more_moves_only_its_share() {
    let records = records(5, &[], &[]);
    let (few, more) = (table(&records, 4), table(&records, 5));
    let moved = (0..1_000u32)
        .filter(|key| {
            let ask = ask(Digest::of(&key.to_le_bytes()), &[], &[]);
            let (before, after) = (place(&ask, &few)[0].host, place(&ask, &more)[0].host);
            assert!(before == after || after == id(5));
            before != after
        })
        .count();
    assert!((120..280).contains(&moved), "{moved}");
}

#[test]
fn nobody_is_an_empty_ranking() {
    assert!(place(&ask(shard(), &[], &[]), &HostTable::default()).is_empty());
}

#[test]
fn who_is_gone_is_forgotten_and_comes_back_empty() {
    let records = records(2, &[], &[]);
    let mut hosts = table(&records, 2);
    hosts.holds(&id(1), &[shard()], &[]);
    hosts.gone(&id(1));
    assert_eq!(hosts.holders_of(&shard()).count(), 0);
    hosts.up(id(1), &hello(), &records);
    assert_eq!(hosts.holders_of(&shard()).count(), 0);
    hosts.holds(&id(1), &[shard()], &[]);
    assert_eq!(hosts.holders_of(&shard()).count(), 1);
    assert_eq!(hosts.len(), 2);
}
