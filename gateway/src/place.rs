//! Which host runs a call. A pure function of a snapshot; nothing here waits, reads or counts.
//!
//! A host's cost is the time until the call could be done there: missing bytes over the measured
//! link, code to load, and what is queued before it. Equal costs are settled by rendezvous hashing,
//! so that every gateway settles them alike.

use nearfield_protocol::{Digest, NodeId};

/// Component bytes that a host without the code compiles in a millisecond: an estimate, not yet measured.
const COMPILE_BYTES_PER_MS: u64 = 1_000;

/// One host as placement sees it.
#[derive(Debug, Clone)]
pub struct HostView {
    pub id: NodeId,
    /// It takes no new calls.
    pub draining: bool,
    /// Fuel of the calls before this one, this gateway's own in flight included.
    pub queued_fuel: u64,
    /// Fuel that it burns in a millisecond.
    pub fuel_per_ms: u64,
    /// Bytes that reach it in a millisecond.
    pub link_bytes_per_ms: u64,
    /// It has native code of the component.
    pub has_code: bool,
    /// Bytes of the call's data that it lacks.
    pub missing_bytes: u64,
}

/// What is to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// What the call is for: its located shard, or the function's component.
    pub key: Digest,
    pub component_bytes: u64,
}

/// A host with its cost, or why it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub host: NodeId,
    pub standing: Standing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Costs { ms: u64, missing_bytes: u64 },
    Draining,
}

/// The hosts, best first; those that cannot run the call last.
pub fn place(ask: &Ask, hosts: &[HostView]) -> Vec<Candidate> {
    let mut ranked: Vec<_> = hosts
        .iter()
        .map(|host| Candidate {
            host: host.id,
            standing: standing(ask, host),
        })
        .collect();
    if ranked.len() > 1 {
        ranked.sort_by_cached_key(|candidate| match candidate.standing {
            Standing::Costs { ms, .. } => (0, ms, rendezvous(&ask.key, &candidate.host)),
            Standing::Draining => (1, 0, rendezvous(&ask.key, &candidate.host)),
        });
    }
    ranked
}

fn standing(ask: &Ask, host: &HostView) -> Standing {
    if host.draining {
        return Standing::Draining;
    }
    let moving = host.missing_bytes / host.link_bytes_per_ms.max(1);
    let loading = if host.has_code {
        0
    } else {
        ask.component_bytes / COMPILE_BYTES_PER_MS
    };
    let waiting = host.queued_fuel / host.fuel_per_ms.max(1);
    Standing::Costs {
        ms: moving + loading + waiting,
        missing_bytes: host.missing_bytes,
    }
}

/// Highest random weight, as a number that sorts ascending.
fn rendezvous(key: &Digest, host: &NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes());
    hasher.update(host.as_bytes());
    let weight = hasher.finalize();
    u64::MAX - u64::from_le_bytes(*weight.as_bytes().first_chunk().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: u8) -> HostView {
        HostView {
            id: NodeId::from_bytes([id; 32]),
            draining: false,
            queued_fuel: 0,
            fuel_per_ms: 3_000_000,
            link_bytes_per_ms: 100_000,
            has_code: true,
            missing_bytes: 0,
        }
    }

    fn ask(key: &[u8]) -> Ask {
        Ask {
            key: Digest::of(key),
            component_bytes: 100_000,
        }
    }

    fn first(hosts: &[HostView]) -> u8 {
        place(&ask(b"shard"), hosts)[0].host.as_bytes()[0]
    }

    #[test]
    fn the_best_host() {
        let cases: [(&str, Vec<HostView>, u8); 5] = [
            (
                "the one that holds the bytes",
                vec![
                    HostView {
                        missing_bytes: 4 << 20,
                        ..host(1)
                    },
                    host(2),
                ],
                2,
            ),
            (
                "the one that has the code",
                vec![
                    host(1),
                    HostView {
                        has_code: false,
                        ..host(2)
                    },
                ],
                1,
            ),
            (
                "the one that is idle",
                vec![
                    HostView {
                        queued_fuel: 30_000_000,
                        ..host(1)
                    },
                    host(2),
                ],
                2,
            ),
            (
                "a busy holder before an idle host a long way from the bytes",
                vec![
                    HostView {
                        queued_fuel: 30_000_000,
                        ..host(1)
                    },
                    HostView {
                        missing_bytes: 64 << 20,
                        ..host(2)
                    },
                ],
                1,
            ),
            (
                "never one that drains",
                vec![
                    HostView {
                        draining: true,
                        ..host(1)
                    },
                    HostView {
                        missing_bytes: 1 << 30,
                        ..host(2)
                    },
                ],
                2,
            ),
        ];
        for (what, hosts, best) in cases {
            assert_eq!(first(&hosts), best, "{what}");
            let reversed: Vec<_> = hosts.into_iter().rev().collect();
            assert_eq!(first(&reversed), best, "{what}, listed the other way round");
        }
    }

    #[test]
    fn differences_under_a_millisecond_are_settled_by_key_so_load_spreads() {
        let hosts: Vec<_> = (1..=4)
            .map(|id| HostView {
                queued_fuel: u64::from(id),
                ..host(id)
            })
            .collect();
        let mut chosen = [0; 5];
        for key in 0..1_000u32 {
            let ranked = place(&ask(&key.to_le_bytes()), &hosts);
            chosen[usize::from(ranked[0].host.as_bytes()[0])] += 1;
        }
        assert!(
            chosen[1..].iter().all(|&count| (150..350).contains(&count)),
            "{chosen:?}"
        );
    }

    #[test]
    fn one_host_more_moves_only_its_share() {
        let few: Vec<_> = (1..=4).map(host).collect();
        let more: Vec<_> = (1..=5).map(host).collect();
        let moved = (0..1_000u32)
            .filter(|key| {
                let ask = ask(&key.to_le_bytes());
                let (before, after) = (place(&ask, &few)[0].host, place(&ask, &more)[0].host);
                assert!(before == after || after.as_bytes()[0] == 5);
                before != after
            })
            .count();
        assert!((120..280).contains(&moved), "{moved}");
    }

    #[test]
    fn nobody_is_an_empty_ranking() {
        assert!(place(&ask(b"x"), &[]).is_empty());
    }
}
