//! What a shard from another node costs, beside a bare stream of the same library: both ends in this process, over loopback.
//!
//! `cargo bench -p nearfield-benches --bench transfer [-- ROUNDS]` prints one line a case: the best of the rounds, which take turns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, QuicTransportConfig, presets};
use iroh::{Endpoint, EndpointAddr};
use nearfield_net::control::{Load, Reporter};
use nearfield_net::{BLOB_BYTES, Identity, Node, NodeOptions, Offer, join};
use nearfield_protocol::node::{Labels, Role};
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::{Store, StoreOptions};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

const ALPN: &[u8] = b"bare/1";
/// What each case moves.
const BYTES: usize = 256 << 20;
const ROUNDS: usize = 5;

struct Member {
    node: Node,
    store: Store,
    _inbox: nearfield_net::Inbox,
    _dir: TempDir,
}

impl Member {
    async fn start(dir: TempDir) -> Member {
        let store = Store::open(dir.path(), StoreOptions::default())
            .await
            .expect("a store");
        let options = NodeOptions {
            listen: loopback(),
            advertise: Vec::new(),
        };
        let (node, inbox) = Node::open(dir.path(), &identity(&dir), store.clone(), &options)
            .await
            .expect("a node");
        let stop = CancellationToken::new();
        let (following, stopping) = (node.clone(), stop.clone());
        tokio::spawn(async move { following.follow_records(stopping).await });
        let reporter = Reporter {
            hosting: true,
            load: Arc::new(Load::default),
            residents: tokio::sync::watch::channel(Arc::default()).1,
        };
        tokio::spawn(reporter.run(node.clone(), stop));
        Member {
            node,
            store,
            _inbox: inbox,
            _dir: dir,
        }
    }

    async fn join(gateway: &Member) -> Member {
        let offer = Offer {
            role: Role::Host,
            labels: Labels::new(),
            max_bytes: None,
            may_put: Vec::new(),
            expires_unix_ms: u64::MAX,
        };
        let ticket = gateway.node.invite(offer).expect("an invitation");
        let dir = tempfile::tempdir().expect("a folder");
        join(dir.path(), &identity(&dir), loopback(), &[], &ticket)
            .await
            .expect("joining");
        let member = Member::start(dir).await;
        member.node.admitted().await.expect("membership");
        member
    }

    /// `count` blobs of `size` bytes that nothing compresses.
    async fn blobs(&self, count: usize, size: usize) -> Vec<Digest> {
        let mut digests = Vec::new();
        for index in 0..count {
            let mut bytes = vec![0; size];
            let mut hasher = blake3::Hasher::new();
            hasher
                .update(&(index as u64).to_le_bytes())
                .update(&(size as u64).to_le_bytes());
            hasher.finalize_xof().fill(&mut bytes);
            digests.push(self.store.add_sealed(bytes.into()).await.expect("a blob"));
        }
        digests
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn identity(dir: &TempDir) -> Identity {
    Identity::load_or_create(&dir.path().join("node.key")).expect("a key")
}

/// A connection with nothing of ours in it, and a task at its other end that sends [`BYTES`] on each stream.
async fn bare(transport: Option<QuicTransportConfig>) -> (Endpoint, Connection) {
    let build = |transport: &Option<QuicTransportConfig>| {
        let builder = Endpoint::builder(presets::Minimal)
            .bind_addr(loopback())
            .expect("an address")
            .alpns(vec![ALPN.to_vec()]);
        match transport {
            Some(transport) => builder.transport_config(transport.clone()),
            None => builder,
        }
    };
    let server = build(&transport).bind().await.expect("an endpoint");
    let client = build(&transport).bind().await.expect("an endpoint");
    let address = server
        .bound_sockets()
        .into_iter()
        .fold(EndpointAddr::new(server.id()), |address, ip| {
            address.with_ip_addr(ip)
        });
    tokio::spawn(async move {
        let connection = server
            .accept()
            .await
            .expect("a connection")
            .await
            .expect("a connection");
        let chunk = bytes::Bytes::from(vec![7; 2 << 20]);
        while let Ok((mut send, mut receive)) = connection.accept_bi().await {
            let mut count = [0];
            receive.read_exact(&mut count).await.expect("a question");
            let chunk = chunk.clone();
            tokio::spawn(async move {
                for _ in 0..BYTES / chunk.len() / usize::from(count[0]) {
                    if send.write_chunk(chunk.clone()).await.is_err() {
                        return;
                    }
                }
                let _ = send.finish();
            });
        }
    });
    let connection = client.connect(address, ALPN).await.expect("a connection");
    (client, connection)
}

async fn read_bare(connection: &Connection, streams: u8) -> Duration {
    let begun = Instant::now();
    let mut reading = tokio::task::JoinSet::new();
    for _ in 0..streams {
        let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&[streams]).await.expect("a question");
        reading.spawn(async move {
            let mut read = 0;
            while let Some(chunk) = receive.read_chunk(1 << 20).await.expect("bytes") {
                read += chunk.len();
            }
            read
        });
    }
    let read: usize = reading.join_all().await.into_iter().sum();
    assert_eq!(read, BYTES);
    begun.elapsed()
}

/// Fetches blobs, `at_once` of them together.
async fn fetch(member: &Member, from: NodeId, digests: &[Digest], at_once: usize) -> Duration {
    let begun = Instant::now();
    let mut fetching = tokio::task::JoinSet::new();
    let mut read = 0;
    for digest in digests.iter().copied() {
        if fetching.len() == at_once {
            read += fetching.join_next().await.expect("a fetch").expect("no panic");
        }
        let peers = member.node.peers().clone();
        fetching.spawn(async move {
            let bytes = peers.fetch(digest, vec![from], BLOB_BYTES).await;
            bytes.expect("a blob").bytes.len()
        });
    }
    read += fetching.join_all().await.into_iter().sum::<usize>();
    assert_eq!(read, BYTES);
    begun.elapsed()
}

#[tokio::main]
async fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let gateway = Member::start(tempfile::tempdir().expect("a folder")).await;
    let host = Member::join(&gateway).await;
    let from = gateway.node.id();
    let large = gateway.blobs(BYTES / (64 << 20), 64 << 20).await;
    let usual = gateway.blobs(BYTES / (4 << 20), 4 << 20).await;
    let (_endpoint, plain) = bare(None).await;

    let mut best = [Duration::MAX; 5];
    let mut note = |case: usize, took: Duration| best[case] = best[case].min(took);
    for _ in 0..rounds {
        note(0, read_bare(&plain, 1).await);
        note(1, read_bare(&plain, 4).await);
        note(2, fetch(&host, from, &large, 1).await);
        note(3, fetch(&host, from, &usual, 1).await);
        note(4, fetch(&host, from, &usual, 4).await);
    }
    let names = [
        "a bare stream",
        "four bare streams",
        "blobs of 64 MiB, one after the other",
        "blobs of 4 MiB, one after the other",
        "blobs of 4 MiB, four at once",
    ];
    let rate = |took: Duration| BYTES as f64 / took.as_secs_f64() / 1e9;
    for (name, took) in names.iter().zip(best) {
        let ratio = rate(took) / rate(best[0]);
        println!("{name:40} {:.3} GB/s {ratio:.2} × bare", rate(took));
    }
}
