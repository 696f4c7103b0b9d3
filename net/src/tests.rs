//! Nodes in one process that speak over loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nearfield_protocol::node::{Label, Role, labels};
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, NodeId, unix_ms};
use nearfield_store::{Store, StoreOptions};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::control::{Load, MemberEvent, Question, Reply, Reporter};
use crate::document::RECORD_BYTES;
use crate::endpoint::bind;
use crate::network::Network;
use crate::peers::{BYTES, CALL, CONTROL, Peers};
use crate::{BLOB_BYTES, Contact, Identity, Inbox, Node, NodeOptions, Offer, Ticket};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn identity(dir: &Path) -> Identity {
    Identity::load_or_create(&dir.join("node.key")).unwrap()
}

pub(crate) struct Member {
    pub node: Node,
    inbox: Inbox,
    pub store: Store,
    dir: TempDir,
    stop: CancellationToken,
}

impl Member {
    async fn start(dir: TempDir) -> Member {
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        let options = NodeOptions {
            listen: loopback(),
            advertise: Vec::new(),
        };
        let identity = identity(dir.path());
        let (node, inbox) = Node::open(dir.path(), &identity, store.clone(), &options)
            .await
            .unwrap();
        let stop = CancellationToken::new();
        let (following, stopping) = (node.clone(), stop.clone());
        tokio::spawn(async move { following.follow_records(stopping).await });
        let reporter = Reporter {
            hosting: true,
            load: Arc::new(Load::default),
            residents: tokio::sync::watch::channel(Arc::default()).1,
        };
        tokio::spawn(reporter.run(node.clone(), stop.clone()));
        Member {
            node,
            inbox,
            store,
            dir,
            stop,
        }
    }

    pub async fn found() -> Member {
        Member::start(tempfile::tempdir().unwrap()).await
    }

    pub fn ticket(&self, role: Role, of: &[&str]) -> Ticket {
        let offer = Offer {
            role,
            labels: labels(of.iter().map(|label| label.parse::<Label>().unwrap())).unwrap(),
            max_bytes: None,
            may_put: Vec::new(),
            expires_unix_ms: unix_ms(SystemTime::now()) + 60_000,
        };
        self.node.invite(offer).unwrap()
    }

    pub async fn joined(ticket: &Ticket) -> Member {
        let dir = tempfile::tempdir().unwrap();
        let identity = identity(dir.path());
        crate::join(dir.path(), &identity, loopback(), &[], ticket)
            .await
            .unwrap();
        let member = Member::start(dir).await;
        member.node.admitted().await.unwrap();
        member
    }

    /// Stops the node and gives its folder back.
    async fn stop(self) -> TempDir {
        self.stop.cancel();
        self.node.shutdown().await;
        self.store.shutdown().await;
        self.dir
    }

    async fn put(&self, name: &str, only: &[&str]) -> u64 {
        let digest = self.store.add_sealed(name.to_owned().into()).await.unwrap();
        self.put_version(name, digest, only).await
    }

    async fn put_version(&self, name: &str, digest: Digest, only: &[&str]) -> u64 {
        let name: DatasetName = name.parse().unwrap();
        let only = only.iter().map(|label| label.parse().unwrap()).collect();
        let make = |version| DatasetVersion {
            name: name.clone(),
            version,
            digest,
            size_bytes: 0,
            shards: 0,
            put_unix_ms: 0,
            replicas: None,
            only,
        };
        self.node.write_dataset(&name, None, make).await.unwrap().version
    }

    fn has(&self, name: &str) -> bool {
        self.node.records().dataset(&name.parse().unwrap()).is_some()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Names of which one starts with another are where a document that deletes by prefix loses records.
#[tokio::test(flavor = "multi_thread")]
async fn records_survive_each_other_in_every_order() {
    let orders = [
        ["a", "ab", "a/b"],
        ["a", "a/b", "ab"],
        ["ab", "a", "a/b"],
        ["ab", "a/b", "a"],
        ["a/b", "a", "ab"],
        ["a/b", "ab", "a"],
    ];
    for order in orders {
        let member = Member::found().await;
        for (index, name) in order.iter().chain(&order).enumerate() {
            assert_eq!(member.put(name, &[]).await, 1 + index as u64 / 3);
        }
        let before = member.node.records();
        // What the document itself holds, not what this node remembers.
        member.node.document().reread().await.unwrap();
        let after = member.node.records();
        assert_eq!(after.datasets().count(), 3, "{order:?}");
        for name in order {
            let name = name.parse().unwrap();
            assert_eq!(
                after.dataset_versions(&name),
                before.dataset_versions(&name),
                "{order:?}"
            );
            assert_eq!(after.dataset_versions(&name).len(), 2);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_at_once_get_a_version_each() {
    let member = Arc::new(Member::found().await);
    let writers: Vec<_> = (0..20)
        .map(|_| {
            let member = member.clone();
            tokio::spawn(async move { member.put("shared", &[]).await })
        })
        .collect();
    let mut versions = Vec::new();
    for writer in writers {
        versions.push(writer.await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_has_the_records_and_one_that_was_away_catches_up() {
    let founder = Member::found().await;
    founder.put("before", &[]).await;
    let host = Member::joined(&founder.ticket(Role::Host, &["region=eu"])).await;
    let gateway = Member::joined(&founder.ticket(Role::Gateway, &[])).await;
    assert!(host.has("before") && gateway.has("before"));
    assert_eq!(host.node.role(), Role::Host);

    gateway.put("by-gateway", &[]).await;
    until("both others have it", || {
        founder.has("by-gateway") && host.has("by-gateway")
    })
    .await;
    let denied = host.node.remove_dataset(&"before".parse().unwrap()).await;
    assert!(denied.is_err(), "a host writes nothing");

    let away = gateway.stop().await;
    founder.put("meanwhile", &[]).await;
    let back = Member::start(away).await;
    until("it catches up", || back.has("meanwhile")).await;
    back.put("after", &[]).await;
    until("and is heard again", || founder.has("after") && host.has("after")).await;
}

/// More records than wait anywhere on their way.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_late_gets_all_records_and_can_write() {
    const COUNT: usize = 1_500;
    let founder = Member::found().await;
    for n in 0..COUNT {
        founder.put(&format!("early-{n}"), &[]).await;
    }
    let gateway = Member::joined(&founder.ticket(Role::Gateway, &[])).await;
    until("it has all", || {
        gateway.node.records().datasets().count() == COUNT
    })
    .await;
    let written = tokio::time::timeout(PATIENCE, gateway.put("late", &[])).await;
    assert_eq!(written.unwrap(), 1);
    assert!(founder.has("late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_its_writer() {
    let founder = Member::found().await;
    let gateway = Member::joined(&founder.ticket(Role::Gateway, &[])).await;
    for round in 0..20 {
        let name = format!("kept-{round}");
        gateway.put(&name, &[]).await;
        // No waiting: acknowledged means that the other has it.
        assert!(founder.has(&name), "{name}");
    }
    gateway.stop().await;
    assert_eq!(founder.node.records().datasets().count(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_that_write_one_name_at_once_both_count() {
    let founder = Member::found().await;
    let gateway = Member::joined(&founder.ticket(Role::Gateway, &[])).await;
    for round in 0..10 {
        let name = format!("shared-{round}");
        let both = tokio::join!(founder.put(&name, &[]), gateway.put(&name, &[]));
        let name: DatasetName = name.parse().unwrap();
        until("both see both", || {
            [&founder, &gateway]
                .iter()
                .all(|member| member.node.records().dataset_versions(&name).len() == 2)
        })
        .await;
        let versions = |member: &Member| member.node.records().dataset_versions(&name).to_vec();
        assert_eq!(versions(&founder), versions(&gateway), "{both:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_would_take_is_not_written() {
    let founder = Member::found().await;
    let gateway = Member::joined(&founder.ticket(Role::Gateway, &[])).await;
    let reason = |bytes: usize| "x".repeat(bytes);
    let most = RECORD_BYTES as usize;
    let written = founder.node.quarantine(&gateway.node.id(), reason(most)).await;
    assert!(written.unwrap_err().to_string().contains("no node takes one"));
    let quarantined = |member: &Member| {
        let records = member.node.records();
        let node = records.node(&gateway.node.id()).unwrap();
        node.quarantined.as_ref().map(String::len)
    };
    assert_eq!(quarantined(&founder), None);
    // One that is nearly as long spreads.
    let long = most - 1_000;
    founder
        .node
        .quarantine(&gateway.node.id(), reason(long))
        .await
        .unwrap();
    until("it is there", || quarantined(&gateway) == Some(long)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_open_nothing() {
    let founder = Member::found().await;
    let good = founder.ticket(Role::Host, &[]);
    let expired = founder
        .node
        .invite(Offer {
            role: Role::Host,
            labels: Default::default(),
            max_bytes: None,
            may_put: Vec::new(),
            expires_unix_ms: unix_ms(SystemTime::now()) - 1,
        })
        .unwrap();
    let forged = Ticket {
        nonce: [7; 32],
        ..good.clone()
    };
    let refused = async |ticket: &Ticket| {
        let dir = tempfile::tempdir().unwrap();
        let joined = crate::join(dir.path(), &identity(dir.path()), loopback(), &[], ticket).await;
        joined.unwrap_err().to_string()
    };
    assert!(refused(&expired).await.contains("expired"));
    assert!(refused(&forged).await.contains("no such ticket"));
    let _host = Member::joined(&good).await;
    assert!(refused(&good).await.contains("used by another"));
}

/// A stranger, and a member of another network, on every protocol.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_expelled_nodes_are_refused_on_every_protocol() {
    let founder = Member::found().await;
    let host = Member::joined(&founder.ticket(Role::Host, &[])).await;
    let here = Contact {
        id: founder.node.id(),
        addresses: founder.node.addresses(),
    };
    let refused = async |peers: &Peers| {
        for alpn in [iroh_docs::ALPN, iroh_gossip::ALPN, CONTROL, BYTES, CALL] {
            let connection = peers.connection(here.id, alpn).await.unwrap();
            let ended = tokio::time::timeout(PATIENCE, connection.closed())
                .await
                .unwrap()
                .to_string();
            assert!(
                ended.contains("not a member"),
                "{}: {ended}",
                String::from_utf8_lossy(alpn)
            );
        }
    };
    let stranger = tempfile::tempdir().unwrap();
    let (endpoint, lookup) = bind(&identity(stranger.path()), loopback(), &[]).await.unwrap();
    let peers = Peers::new(endpoint, lookup);
    peers.learn(&here);
    refused(&peers).await;

    // A host may do what hosts may, and no more.
    let asked = host
        .node
        .ask(here.id, Question::Confirm { key: "00".into() }, PATIENCE)
        .await;
    assert!(matches!(asked, Ok(Reply::Confirmed(false))), "{asked:?}");
    let call = host.node.peers().connection(here.id, CALL).await.unwrap();
    assert!(call.closed().await.to_string().contains("not a member"));

    founder.node.expel(&host.node.id(), false).await.unwrap();
    refused(host.node.peers()).await;
    // Nor does it get back in by the ticket of before, nor with a new one.
    let again = founder.ticket(Role::Host, &[]);
    let dir = host.stop().await;
    let joined = crate::join(dir.path(), &identity(dir.path()), loopback(), &[], &again).await;
    assert!(joined.unwrap_err().to_string().contains("expelled"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_left_is_let_in_by_a_new_ticket_alone() {
    let founder = Member::found().await;
    let ticket = founder.ticket(Role::Gateway, &[]);
    let member = Member::joined(&ticket).await;
    let id = member.node.id();
    let dir = member.stop().await;
    // A folder of its own each time, with the same key.
    let join = async |ticket: &Ticket| {
        let fresh = tempfile::tempdir().unwrap();
        let identity = identity(dir.path());
        crate::join(fresh.path(), &identity, loopback(), &[], ticket).await
    };
    join(&ticket).await.expect("its first answer may have been lost");
    founder.node.let_go(&id).await.unwrap();
    let refused = join(&ticket).await.unwrap_err().to_string();
    assert!(refused.contains("ask for another"), "{refused}");
    let as_host = founder.ticket(Role::Host, &[]);
    assert_eq!(join(&as_host).await.unwrap().role, Role::Host);
    // What it was once is nothing that it gets back.
    let refused = join(&ticket).await.unwrap_err().to_string();
    assert!(refused.contains("ask for another"), "{refused}");
    founder.node.expel(&id, false).await.unwrap();
    for ticket in [&ticket, &as_host] {
        assert!(join(ticket).await.unwrap_err().to_string().contains("expelled"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_move_checked_and_only_where_they_may() {
    let founder = Member::found().await;
    let eu = Member::joined(&founder.ticket(Role::Host, &["region=eu"])).await;
    let us = Member::joined(&founder.ticket(Role::Host, &["region=us"])).await;
    let mut large = vec![0; 9 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    for bytes in [
        vec![],
        b"small".to_vec(),
        large[..(1 << 20) + 1].to_vec(),
        large.clone(),
    ] {
        let digest = eu.store.add_sealed(bytes.clone().into()).await.unwrap();
        us.store.add_sealed(bytes.clone().into()).await.unwrap();
        let both = vec![eu.node.id(), us.node.id()];
        assert_eq!(
            founder
                .node
                .peers()
                .fetch(digest, both, BLOB_BYTES)
                .await
                .unwrap()
                .bytes,
            bytes
        );
        // Of two, one does not have it.
        let one = vec![founder.node.id(), us.node.id()];
        assert_eq!(
            eu.node
                .peers()
                .fetch(digest, one, BLOB_BYTES)
                .await
                .unwrap()
                .bytes,
            bytes
        );
        // Nobody sends more than was asked for, whatever its name was said to stand for.
        let Some(fewer) = (bytes.len() as u64).checked_sub(1) else {
            continue;
        };
        let refused = founder
            .node
            .peers()
            .fetch(digest, vec![us.node.id()], fewer)
            .await;
        assert!(refused.unwrap_err().contains("are taken"));
    }
    let absent = us
        .node
        .peers()
        .fetch(Digest::of(b"absent"), vec![eu.node.id()], BLOB_BYTES)
        .await;
    assert!(absent.unwrap_err().contains("not here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn residency_is_kept_by_the_sender() {
    let founder = Member::found().await;
    let eu = Member::joined(&founder.ticket(Role::Host, &["region=eu"])).await;
    let us = Member::joined(&founder.ticket(Role::Host, &["region=us"])).await;
    let gateway = Member::joined(&founder.ticket(Role::Gateway, &[])).await;
    let shard = Digest::of(b"shard");
    founder.store.add_sealed("shard".into()).await.unwrap();
    let list = shard.as_bytes().to_vec();
    let digest = founder.store.add_sealed(list.clone().into()).await.unwrap();
    founder.put_version("private", digest, &["region=eu"]).await;
    let fetch = async |member: &Member, digest: Digest| {
        let holders = vec![founder.node.id()];
        let fetched = member.node.peers().fetch(digest, holders, BLOB_BYTES).await;
        fetched.map(|fetched| (fetched.bytes.to_vec(), fetched.may_rest))
    };
    assert_eq!(fetch(&eu, shard).await.unwrap(), (b"shard".to_vec(), true));
    assert!(fetch(&us, shard).await.unwrap_err().contains("region=eu"));
    assert_eq!(fetch(&gateway, shard).await.unwrap(), (b"shard".to_vec(), false));
    // What a list names may not rest on a node is no secret to it.
    assert_eq!(fetch(&us, digest).await.unwrap(), (list.clone(), false));
    until("the record is there", || us.has("private")).await;
    us.node.refresh_residency().await;
    assert!(us.node.may_rest(&shard), "it does not know better");
    assert_eq!(us.node.unread_lists(), [digest]);
    us.node.note_list(&digest, &list).await;
    assert!(!us.node.may_rest(&shard) && us.node.unread_lists().is_empty());
    assert!(us.node.misplaced().is_empty());
    us.store.add_sealed("shard".into()).await.unwrap();
    assert_eq!(us.node.misplaced(), [shard]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_older_than_the_store_release_nothing_until_they_are_compared() {
    let founder = Member::found().await;
    let second = Member::joined(&founder.ticket(Role::Gateway, &[])).await;
    founder.put("data", &[]).await;
    let dir = second.stop().await;

    // An expelled gateway wrote the latest record, whose time is noted; it counts no more.
    let open_later = async |dir: &Path| {
        let network = Network::load(dir).unwrap().unwrap().document.to_string();
        let store = Store::open(dir, StoreOptions::default()).await.unwrap();
        store.note_records(&network, u64::MAX).await.unwrap();
        let options = NodeOptions {
            listen: loopback(),
            advertise: Vec::new(),
        };
        let opened = Node::open(dir, &identity(dir), store.clone(), &options).await;
        (opened, store)
    };
    let (opened, store) = open_later(dir.path()).await;
    let (second, inbox) = opened.unwrap();
    assert!(second.lacks_records());
    second.shutdown().await;
    store.shutdown().await;
    drop((second, inbox, store));
    let second = Member::start(dir).await;
    let begun = Instant::now();
    while second.node.lacks_records() {
        assert!(begun.elapsed() < PATIENCE, "it is compared with the founder's");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let dir = second.stop().await;
    let again = Member::start(dir).await;
    assert!(
        !again.node.lacks_records(),
        "the time that is noted is that of the records"
    );
    again.stop().await;

    // Nobody else's records can be compared: the folder was restored in part.
    founder.stop().await;
    let alone = Member::found().await;
    let dir = alone.stop().await;
    let (opened, _store) = open_later(dir.path()).await;
    let refused = opened.err().expect("it is refused").to_string();
    assert!(refused.contains("of an earlier moment"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_report_what_they_hold_and_are_missed_when_they_go() {
    let mut founder = Member::found().await;
    let host = Member::joined(&founder.ticket(Role::Host, &[])).await;
    let (id, digest) = (host.node.id(), Digest::of(b"held"));
    host.store
        .add_sealed(bytes::Bytes::from_static(b"held"))
        .await
        .unwrap();
    let held = expect(&mut founder.inbox, |event| match event {
        MemberEvent::Holds { node, added, .. } => *node == id && added.contains(&digest),
        _ => false,
    });
    held.await;
    host.store.release(vec![digest]).await.unwrap();
    let let_go = expect(&mut founder.inbox, |event| match event {
        MemberEvent::Holds { node, removed, .. } => *node == id && removed.contains(&digest),
        _ => false,
    });
    let_go.await;
    host.stop().await;
    let started = Instant::now();
    expect(&mut founder.inbox, |event| *event == MemberEvent::Gone(id)).await;
    assert!(started.elapsed() < Duration::from_secs(4));
}

async fn expect(inbox: &mut Inbox, wanted: impl Fn(&MemberEvent) -> bool) {
    let found = async {
        while let Some(event) = inbox.members.recv().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("no more events");
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap();
}

#[test]
fn a_node_id_is_the_author_of_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let identity = identity(dir.path());
    let author = iroh_docs::Author::from_bytes(&identity.secret().to_bytes());
    assert_eq!(NodeId::from_bytes(author.id().to_bytes()), identity.node_id());
}
