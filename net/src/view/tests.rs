use nearfield_protocol::node::NodeRecord;
use nearfield_protocol::records::{DatasetRecord, TokenRecord};
use proptest::prelude::*;

use super::*;

const FOUNDER: NodeId = node(1);

const fn node(n: u8) -> NodeId {
    NodeId::from_bytes([n; 32])
}

fn entry(kind: RecordKind, name: &str, unix_ms: u64, author: NodeId, value: Vec<u8>) -> Entry {
    let writer = *author.as_bytes().first_chunk().unwrap();
    let clock = RecordClock {
        unix_ms,
        counter: 0,
        writer,
    };
    Entry {
        key: RecordKey {
            kind,
            name: name.into(),
            clock,
        },
        author,
        value: value.into(),
    }
}

fn put(name: &str, version: u64, unix_ms: u64, author: NodeId) -> Entry {
    let record = DatasetRecord::Put(DatasetVersion {
        name: name.parse().unwrap(),
        version,
        digest: Digest::of(&unix_ms.to_le_bytes()),
        size_bytes: 1,
        shards: 1,
        put_unix_ms: unix_ms,
        replicas: None,
        only: Vec::new(),
    });
    let value = serde_json::to_vec(&record).unwrap();
    entry(RecordKind::Dataset, name, unix_ms, author, value)
}

fn about(id: NodeId, unix_ms: u64, author: NodeId, record: &NodeRecord) -> Entry {
    let value = serde_json::to_vec(record).unwrap();
    entry(RecordKind::Node, &id.to_string(), unix_ms, author, value)
}

fn joined(id: NodeId, role: Role, unix_ms: u64, author: NodeId) -> Entry {
    let record = NodeRecord::Joined(Box::new(NodeVersion {
        id,
        role,
        labels: Default::default(),
        max_bytes: None,
        may_put: Vec::new(),
        addresses: Vec::new(),
        joined_unix_ms: unix_ms,
    }));
    about(id, unix_ms, author, &record)
}

fn expelled(id: NodeId, accepted: &[&Entry], unix_ms: u64, author: NodeId) -> Entry {
    let accepted = accepted.iter().map(|entry| entry.digest()).collect();
    let record = NodeRecord::Expelled {
        accepted,
        keep_tokens: false,
    };
    about(id, unix_ms, author, &record)
}

fn issued(id: &str, key: &str, unix_ms: u64, author: NodeId) -> Entry {
    let token = TokenRecord::Issued(TokenVersion {
        id: id.to_owned(),
        key: key.to_owned(),
        function: "f".parse().unwrap(),
        component: None,
        max_fuel_per_day: None,
        expires_unix_ms: None,
        issued_unix_ms: unix_ms,
    });
    let value = serde_json::to_vec(&token).unwrap();
    entry(RecordKind::Token, id, unix_ms, author, value)
}

#[test]
fn the_tokens_of_an_expelled_gateway_end_with_it_and_others_go_on() {
    let second = node(2);
    let mut all = vec![
        joined(FOUNDER, Role::Gateway, 1, FOUNDER),
        joined(second, Role::Gateway, 2, FOUNDER),
        issued("ours", "k1", 3, FOUNDER),
        issued("theirs", "k2", 4, second),
        // A name that is taken is nobody's to take over.
        issued("ours", "k2", 5, second),
    ];
    let (records, _) = Records::of(FOUNDER, &mut all);
    assert_eq!(records.token("ours").unwrap().key, "k1");
    assert_eq!((records.tokens().count(), records.tokens_of(&second)), (2, 1));
    assert!(records.token_keys().eq(["k1", "k2"]));
    let accepted: Vec<Entry> = all[3..].to_vec();
    let accepted: Vec<&Entry> = accepted.iter().collect();
    all.push(expelled(second, &accepted, 6, FOUNDER));
    let (records, ignored) = Records::of(FOUNDER, &mut all);
    assert!(ignored.is_empty(), "{ignored:?}");
    assert!(records.token("theirs").is_none() && records.token("ours").is_some());
    assert!(records.token_keys().eq(["k1"]));
    // Unless they are kept.
    all.pop();
    let record = NodeRecord::Expelled {
        accepted: accepted.iter().map(|entry| entry.digest()).collect(),
        keep_tokens: true,
    };
    all.push(about(second, 6, FOUNDER, &record));
    assert_eq!(Records::of(FOUNDER, &mut all).0.tokens().count(), 2);
}

fn versions(records: &Records, name: &str) -> Vec<u64> {
    let versions = records.dataset_versions(&name.parse().unwrap());
    versions.iter().map(|version| version.version).collect()
}

#[test]
fn the_newest_version_counts_until_removal() {
    let mut records = Records::new(FOUNDER);
    let name: DatasetName = "logs".parse().unwrap();
    records.apply(&put("logs", 1, 1, FOUNDER)).unwrap();
    records.apply(&put("logs", 2, 2, FOUNDER)).unwrap();
    assert_eq!(records.dataset(&name).unwrap().version, 2);
    assert_eq!(versions(&records, "logs"), [1, 2]);
    let end = |record: &DatasetRecord, unix_ms| {
        let value = serde_json::to_vec(record).unwrap();
        entry(RecordKind::Dataset, "logs", unix_ms, FOUNDER, value)
    };
    records
        .apply(&end(&DatasetRecord::Pruned { before: 2 }, 3))
        .unwrap();
    assert_eq!(versions(&records, "logs"), [2]);
    records.apply(&end(&DatasetRecord::Removed, 4)).unwrap();
    assert!(records.dataset(&name).is_none());
}

#[test]
fn a_bad_value_is_told_and_hides_nothing() {
    let mut records = Records::new(FOUNDER);
    records.apply(&put("a", 1, 1, FOUNDER)).unwrap();
    let bad = entry(RecordKind::Dataset, "b", 2, FOUNDER, b"nonsense".to_vec());
    assert!(matches!(records.apply(&bad), Err(Ignored::Unreadable(_))));
    let mut other = put("c", 1, 3, FOUNDER);
    other.key.name = "d".to_owned();
    assert!(matches!(records.apply(&other), Err(Ignored::Unreadable(_))));
    assert_eq!(records.datasets().count(), 1);
}

#[test]
fn only_gateways_are_heard() {
    let (gateway, host, stranger) = (node(2), node(3), node(4));
    let mut all = vec![
        joined(FOUNDER, Role::Gateway, 1, FOUNDER),
        put("early", 1, 2, gateway),
        joined(gateway, Role::Gateway, 3, FOUNDER),
        joined(host, Role::Host, 4, gateway),
        put("by-gateway", 1, 5, gateway),
        put("by-host", 1, 6, host),
        put("by-stranger", 1, 7, stranger),
        joined(stranger, Role::Gateway, 8, stranger),
        joined(stranger, Role::Gateway, 9, host),
    ];
    let (records, ignored) = Records::of(FOUNDER, &mut all);
    let names: Vec<_> = records
        .datasets()
        .map(|version| version.name.to_string())
        .collect();
    assert_eq!(names, ["by-gateway"]);
    assert_eq!(ignored.len(), 5, "{ignored:?}");
    assert!(records.is_gateway(&gateway) && !records.is_gateway(&host) && records.node(&host).is_some());
    assert!(records.node(&stranger).is_none());
}

#[test]
fn of_an_expelled_gateway_only_what_was_accepted_counts_whatever_its_clock() {
    let gateway = node(2);
    let kept = put("kept", 1, 3, gateway);
    let mut all = vec![
        joined(FOUNDER, Role::Gateway, 1, FOUNDER),
        joined(gateway, Role::Gateway, 2, FOUNDER),
        kept.clone(),
        put("backdated", 1, 4, gateway),
        expelled(gateway, &[&kept], 5, FOUNDER),
        put("later", 1, 6, gateway),
    ];
    let (records, ignored) = Records::of(FOUNDER, &mut all);
    assert_eq!(records.datasets().count(), 1);
    assert_eq!(versions(&records, "kept"), [1]);
    assert_eq!(ignored.len(), 2);
    assert!(records.node(&gateway).is_none() && records.is_expelled(&gateway));
}

#[test]
fn who_does_not_count_moves_nobodys_clock() {
    let (gateway, stranger) = (node(2), node(3));
    let far = RecordClock::LATEST_UNIX_MS;
    let mut all = vec![
        joined(FOUNDER, Role::Gateway, 1, FOUNDER),
        joined(gateway, Role::Gateway, 2, FOUNDER),
        put("a", 1, far, stranger),
        put("b", 1, far, gateway),
        put("c", 1, u64::MAX, FOUNDER),
        expelled(gateway, &[], 5, FOUNDER),
    ];
    let (records, ignored) = Records::of(FOUNDER, &mut all);
    assert_eq!(ignored.len(), 3, "{ignored:?}");
    assert_eq!(records.last.unwrap().unix_ms, 5, "an expulsion heals it");
    assert!(
        !records.follows(&put("c", 1, 6, FOUNDER)),
        "they are judged together again"
    );
}

#[test]
fn nobody_expels_who_came_before_them_so_expulsions_have_no_circles() {
    let (elder, younger, guest) = (node(2), node(3), node(4));
    let invited = joined(guest, Role::Host, 4, younger);
    let mut all = vec![
        joined(FOUNDER, Role::Gateway, 1, FOUNDER),
        joined(elder, Role::Gateway, 2, FOUNDER),
        joined(younger, Role::Gateway, 3, elder),
        invited.clone(),
        expelled(elder, &[], 5, younger),
        expelled(FOUNDER, &[], 6, younger),
        // Written later, and stronger.
        expelled(younger, &[&invited], 7, elder),
    ];
    let (records, ignored) = Records::of(FOUNDER, &mut all);
    assert!(records.is_gateway(&elder) && records.is_gateway(&FOUNDER));
    assert!(records.is_expelled(&younger) && !records.is_expelled(&elder));
    assert!(records.node(&guest).is_some(), "{ignored:?}");
    // An expelled inviter's other guests go with it.
    let mut stricter = all;
    stricter.pop();
    stricter.push(expelled(younger, &[], 7, elder));
    assert!(Records::of(FOUNDER, &mut stricter).0.node(&guest).is_none());
}

/// Something done to one of four datasets, whose bytes are among four and which may be kept to some nodes.
fn step() -> impl Strategy<Value = (u8, DatasetRecord)> {
    let dataset = |number: u8| -> DatasetName { format!("d{number}").parse().unwrap() };
    let put = (0..4_u8, 1..6_u64, 0..4_u8, 0..3_u8).prop_map(move |(name, version, bytes, kept)| {
        let only = ["a=1", "b=2"][..kept as usize].iter();
        let put = DatasetRecord::Put(DatasetVersion {
            name: dataset(name),
            version,
            digest: Digest::of(&[bytes]),
            size_bytes: 1,
            shards: 1,
            put_unix_ms: 1,
            replicas: None,
            only: only.map(|label| label.parse().unwrap()).collect(),
        });
        (name, put)
    });
    prop_oneof![
        6 => put,
        2 => (0..4_u8, 1..6_u64).prop_map(|(name, before)| (name, DatasetRecord::Pruned { before })),
        1 => (0..4_u8).prop_map(|name| (name, DatasetRecord::Removed)),
    ]
}

proptest! {
    #[test]
    fn what_is_known_of_bytes_is_what_all_versions_say(steps in prop::collection::vec(step(), 0..60)) {
        let mut records = Records::new(FOUNDER);
        let of = |records: &Records| -> BTreeSet<Digest> {
            records.all_dataset_versions().map(|version| version.digest).collect()
        };
        for (at, (name, record)) in steps.into_iter().enumerate() {
            let before = records.clone();
            let value = serde_json::to_vec(&record).unwrap();
            let entry = entry(RecordKind::Dataset, &format!("d{name}"), at as u64 + 1, FOUNDER, value);
            records.apply(&entry).unwrap();
            let (was, is) = (of(&before), of(&records));
            let ended: BTreeSet<Digest> = records.ended_since(&before).into_iter().collect();
            prop_assert_eq!(ended, was.difference(&is).copied().collect());
            prop_assert!(records.has_functions_of(&before));
            for bytes in 0..4_u8 {
                let digest = Digest::of(&[bytes]);
                prop_assert_eq!(records.has_version_of(&digest), is.contains(&digest));
                let mut rule = BTreeSet::new();
                for version in records.all_dataset_versions().filter(|version| version.digest == digest) {
                    rule.extend(version.only.iter().map(Label::to_string));
                }
                let found = records.rule_of(&digest);
                prop_assert_eq!(found.len(), rule.len());
                prop_assert_eq!(found.iter().map(Label::to_string).collect::<BTreeSet<_>>(), rule);
            }
            let restricted = records.all_dataset_versions().filter(|version| !version.only.is_empty());
            prop_assert_eq!(records.restricted().count(), restricted.count());
        }
    }
}

#[test]
fn one_by_one_or_all_at_once_is_the_same() {
    let mut all = vec![
        joined(FOUNDER, Role::Gateway, 1, FOUNDER),
        joined(node(2), Role::Gateway, 2, FOUNDER),
        put("a", 1, 3, node(2)),
        put("a", 2, 4, FOUNDER),
        put("a", 2, 4, node(2)),
    ];
    let (at_once, _) = Records::of(FOUNDER, &mut all);
    let mut one_by_one = Records::new(FOUNDER);
    for entry in &all {
        assert!(one_by_one.follows(entry));
        one_by_one.apply(entry).unwrap();
    }
    assert_eq!(at_once, one_by_one);
    assert_eq!(
        versions(&at_once, "a"),
        [1, 2, 2],
        "two writers at once: both are kept"
    );
    all.reverse();
    assert_eq!(Records::of(FOUNDER, &mut all).0, at_once);
}
