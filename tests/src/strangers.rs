//! Who is let in, and what members may do that mean no good: real nodes, and this process as the other end.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nearfield_net::control::{Forget, Question, Reply};
use nearfield_net::{BLOB_BYTES, CALL, Contact, Identity, Inbox, NodeOptions, Ticket};
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::{Store, StoreOptions};
use tempfile::TempDir;

use crate::harness::{Node, binary, fails, lines, until};
use crate::network::Network;

const PATIENCE: Duration = Duration::from_secs(20);
/// As `nearfield-net` names them.
const CONTROL: &[u8] = b"nearfield/control/1";
const BYTES: &[u8] = b"nearfield/bytes/1";

/// A node of this process, over a folder that another process has let go of, or a new one.
struct Own {
    node: nearfield_net::Node,
    store: Store,
    _inbox: Inbox,
    _dir: TempDir,
}

impl Own {
    async fn open(dir: TempDir) -> Own {
        let store = Store::open(dir.path(), StoreOptions::default()).await.unwrap();
        let identity = Identity::load_or_create(&dir.path().join("node.key")).unwrap();
        let options = NodeOptions {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: Vec::new(),
        };
        let opened = nearfield_net::Node::open(dir.path(), &identity, store.clone(), &options);
        let (node, inbox) = opened.await.unwrap();
        Own {
            node,
            store,
            _inbox: inbox,
            _dir: dir,
        }
    }

    /// Why `node` ends a connection of each kind with this one.
    async fn refused_by(&self, node: NodeId) {
        for alpn in [iroh_docs::ALPN, iroh_gossip::ALPN, CONTROL, BYTES, CALL] {
            let connection = self.node.peers().connection(node, alpn).await.unwrap();
            let ended = tokio::time::timeout(PATIENCE, connection.closed()).await;
            let ended = ended.unwrap_or_else(|_| panic!("{} stays open", String::from_utf8_lossy(alpn)));
            assert!(ended.to_string().contains("not a member"), "{ended}");
        }
    }

    async fn close(self) {
        self.node.shutdown().await;
        self.store.shutdown().await;
    }
}

fn ticket(gateway: &Node, more: &[&str]) -> Ticket {
    let invited = gateway.json(&[&["invite"], more].concat());
    invited["ticket"].as_str().unwrap().parse().unwrap()
}

fn issuer(ticket: &Ticket) -> Contact {
    Contact {
        id: ticket.issuer,
        addresses: ticket.addresses.clone(),
    }
}

fn join(data: &Path, ticket: &Ticket) -> Output {
    let mut join = Command::new(binary());
    join.args(["join", &ticket.to_string(), "--peers", "127.0.0.1:0"])
        .env("NEARFIELD_DATA", data);
    join.output().unwrap()
}

#[test]
fn tickets_open_once_in_time_and_only_as_they_were_made() {
    let gateway = Node::start();
    let good = ticket(&gateway, &[]);
    let dir = tempfile::tempdir().unwrap();
    let forged = Ticket {
        nonce: [7; 32],
        ..good.clone()
    };
    fails(&join(dir.path(), &forged), 1, "no such ticket");
    let short = ticket(&gateway, &["--expires", "1s"]);
    std::thread::sleep(Duration::from_millis(1_200));
    fails(&join(dir.path(), &short), 1, "expired");
    // More than was offered.
    let raised = Ticket {
        role: nearfield_protocol::node::Role::Gateway,
        ..ticket(&gateway, &[])
    };
    let member = Node::join_with(&raised.to_string(), &[]);
    let nodes = gateway.json(&["ls", "nodes"]);
    let found = nodes["nodes"].as_array().unwrap().iter();
    let role = found
        .clone()
        .find(|node| node["id"] == member.id().as_str())
        .unwrap()["role"]
        .clone();
    assert_eq!(role, "host", "{nodes}");
    fails(&join(dir.path(), &raised), 1, "used by another");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_expelled_are_refused_everywhere_and_it_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("gateway.log");
    let gateway = Node::start_in_logging_to(tempfile::tempdir().unwrap(), &log);
    let contact = issuer(&ticket(&gateway, &[]));

    // A member of a network of its own.
    let stranger = Own::open(tempfile::tempdir().unwrap()).await;
    stranger.node.peers().learn(&contact);
    stranger.refused_by(contact.id).await;
    let said = std::fs::read_to_string(&log).unwrap();
    let told = said.matches("refused a connection").count();
    assert!(told >= 5 && said.contains(&stranger.node.id().short()), "{said}");
    stranger.close().await;

    let host = Node::join(&gateway, &[], &[]);
    let id = host.id();
    let (data, _) = host.stop();
    gateway.ok(&["rm", &format!("node/{}", &id[..10])]);
    let expelled = Own::open(data).await;
    expelled.node.peers().learn(&contact);
    expelled.refused_by(contact.id).await;
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("it was expelled"), "{said}");
    expelled.close().await;
}

#[test]
fn a_host_that_is_expelled_says_so_in_its_log() {
    let gateway = Node::start();
    let (data, _) = Node::join(&gateway, &[], &[]).stop();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("host.log");
    let host = Node::start_in_logging_to(data, &log);
    let said = || std::fs::read_to_string(&log).unwrap();
    assert!(!said().contains("no member"), "{}", said());
    gateway.ok(&["rm", &format!("node/{}", host.id())]);
    until("it says so", || said().contains("refuses this node as no member"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_gets_and_does_no_more_than_it_may() {
    let network = Network {
        gateway: Node::start_in(tempfile::tempdir().unwrap(), &["--no-host"]),
        hosts: Vec::new(),
    };
    let gateway = &network.gateway;
    let eu: Vec<Node> = (0..2)
        .map(|_| Node::join(gateway, &["--label", "region=eu"], &[]))
        .collect();
    let us = Node::join(gateway, &["--label", "region=us"], &[]);
    network.wait_for(3);
    network.put(
        "private",
        &lines(5, 200_000),
        &["--only", "region=eu", "--shard-size", "64KiB"],
    );
    network.put("public", &lines(6, 200_000), &[]);
    let described = |name: &str| gateway.json(&["describe", &format!("dataset/{name}"), "--shards"]);
    let digest_of = |value: &serde_json::Value| value.as_str().unwrap().parse::<Digest>().unwrap();
    let private = described("private");
    let shard = digest_of(&private["shards"][0]["digest"]);
    let list = digest_of(&private["versions"][0]["digest"]);
    let open = digest_of(&described("public")["shards"][0]["digest"]);
    let gateway_contact = issuer(&ticket(gateway, &[]));
    let eu_contact = Contact {
        id: eu[0].id().parse().unwrap(),
        addresses: eu[0].addresses(),
    };

    let us_id = us.id();
    let (data, _) = us.stop();
    until("it is gone", || {
        let nodes = gateway.json(&["ls", "nodes"]);
        let nodes = nodes["nodes"].as_array().unwrap();
        nodes.iter().filter(|node| node["hosting"] == true).count() == 2
    });
    let us = Own::open(data).await;
    assert_eq!(us.node.id().to_string(), us_id);
    for contact in [&gateway_contact, &eu_contact] {
        us.node.peers().learn(contact);
        let fetch = async |digest| us.node.peers().fetch(digest, vec![contact.id], BLOB_BYTES).await;
        let refused = fetch(shard).await.unwrap_err();
        assert!(
            refused.contains("region=eu") || refused.contains("not here"),
            "{refused}"
        );
        // By its list, which has digests alone, it learns what it must let go of. It may not keep that either.
        match fetch(list).await {
            Ok(passed) => assert!(!passed.may_rest),
            Err(refused) => assert!(refused.contains("not here"), "{refused}"),
        }
    }
    let refused = us
        .node
        .peers()
        .fetch(shard, vec![eu_contact.id], BLOB_BYTES)
        .await
        .unwrap_err();
    assert!(refused.contains("region=eu"), "{refused}");
    // What it may have comes.
    let holders = vec![gateway_contact.id, eu_contact.id];
    assert!(us.node.peers().fetch(open, holders, BLOB_BYTES).await.is_ok());

    // What gateways ask, it may not, whomever it asks.
    for contact in [&gateway_contact, &eu_contact] {
        for question in [
            Question::Forget(Forget::For("public".to_owned())),
            Question::Spare { digests: vec![open] },
            Question::Keep {
                dataset: None,
                digests: vec![open],
                from: Vec::new(),
            },
        ] {
            let asked = us.node.ask(contact.id, question, PATIENCE).await.unwrap();
            let Reply::Failed(problem) = asked else {
                panic!("{asked:?}");
            };
            assert!(problem.detail.contains("only gateways"), "{problem:?}");
        }
        let call = us.node.peers().connection(contact.id, CALL).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, call.closed()).await.unwrap();
        assert!(ended.to_string().contains("not a member"), "{ended}");
    }
    let denied = us.node.remove_dataset(&"public".parse().unwrap()).await;
    assert!(denied.is_err(), "a host writes no records");
    us.close().await;
    assert!(gateway.ok(&["get", "private"]) == lines(5, 200_000));
}
