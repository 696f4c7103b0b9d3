//! A holder that sends what is not so.

use std::sync::atomic::{AtomicU64, Ordering};

use iroh::Endpoint;
use iroh::endpoint::presets;

use super::*;
use crate::network::Contact;
use crate::tests::{Member, loopback};

/// Answers as `honest` would, and then spoils the answer.
struct Liar {
    honest: Giving,
    flipped: Arc<AtomicU64>,
}

/// Numbers that follow from a seed.
fn draw(seed: u64) -> u64 {
    let hash = blake3::hash(&seed.to_le_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap())
}

impl Liar {
    /// Flips bits in most answers, shortens some, promises more in others.
    fn spoil(&self, seed: u64, size_bytes: &mut u64, bytes: &mut Vec<u8>, flips: u64) {
        match draw(seed) % 16 {
            0 => bytes.truncate(bytes.len() / 2),
            1 => *size_bytes += 1,
            2 => *size_bytes /= 2,
            // A prefix that ends with a group is as right as it goes.
            3 => bytes.truncate(bytes.len() / 2 / GROUP_BYTES * GROUP_BYTES),
            4 => {}
            _ if bytes.is_empty() => {}
            _ => {
                for number in 0..flips {
                    let random = draw(seed ^ (number + 1) << 40);
                    let at = (random >> 8) as usize % bytes.len();
                    bytes[at] ^= 1 << (random & 7);
                }
                self.flipped.fetch_add(flips, Ordering::Relaxed);
            }
        }
    }

    async fn serve(self, endpoint: Endpoint, flips: u64) {
        let mut seed = flips << 20;
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else { continue };
            while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                seed += 1;
                let request: Request = frame::read(&mut receive, QUESTION_BYTES).await.unwrap();
                let (Request::Range { digest, .. } | Request::Groups { digest }) = request;
                let node = node_id(&connection.remote_id());
                let given = self.honest.read(node, digest, &request).await.unwrap();
                let (mut size_bytes, mut bytes) = (given.size_bytes, given.bytes.to_vec());
                self.spoil(seed, &mut size_bytes, &mut bytes, flips);
                let len = bytes.len() as u64;
                let given = Answer::Given {
                    size_bytes,
                    len,
                    may_rest: true,
                };
                if frame::write(&mut send, &given).await.is_ok() {
                    let _ = send.write_chunk(bytes.into()).await;
                    let _ = send.finish();
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wrong_bit_of_ten_thousand_gets_through() {
    let honest = Member::found().await;
    let reader = Member::joined(&honest.ticket(nearfield_protocol::node::Role::Host, &[])).await;
    let flipped = Arc::new(AtomicU64::new(0));
    // Small blobs come whole, large ones in parts.
    for (size, fetches, flips) in [(20_000, 600, 10), (7 << 20, 24, 100)] {
        let endpoint = Endpoint::builder(presets::Minimal)
            .bind_addr(loopback())
            .unwrap()
            .alpns(vec![BYTES.to_vec()])
            .bind()
            .await
            .unwrap();
        let liar = node_id(&endpoint.id());
        reader.node.peers().learn(&Contact {
            id: liar,
            addresses: endpoint.bound_sockets(),
        });
        let serving = Liar {
            honest: Giving {
                store: honest.store.clone(),
                residency: honest.node.residency(),
                places: Arc::new(Mutex::new(NodePlaces::new(SERVED))),
            },
            flipped: flipped.clone(),
        };
        let serving = tokio::spawn(serving.serve(endpoint, flips));
        let mut bytes = vec![0; size];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        let digest = honest.store.add_sealed(bytes.clone().into()).await.unwrap();
        let mut refused = 0;
        for _ in 0..fetches {
            match reader.node.peers().fetch(digest, vec![liar], BLOB_BYTES).await {
                Ok(came) => assert!(came.bytes == bytes, "wrong bytes of {size} got through"),
                Err(_) => refused += 1,
            }
            let both = vec![liar, honest.node.id()];
            let came = reader.node.peers().fetch(digest, both, BLOB_BYTES).await;
            assert!(
                came.is_ok_and(|came| came.bytes == bytes),
                "an honest holder is enough"
            );
            let both = vec![honest.node.id(), liar];
            let came = reader.node.peers().fetch(digest, both, BLOB_BYTES).await;
            assert!(
                came.is_ok_and(|came| came.bytes == bytes),
                "and is asked for each part"
            );
        }
        assert!(refused > fetches / 2, "{refused} of {fetches}");
        serving.abort();
    }
    let flipped = flipped.load(Ordering::Relaxed);
    assert!(flipped >= 10_000, "only {flipped} bits were flipped");
}

/// What a member asks for is bounded, by what it asks at once and over how many connections, and so is how long it may take it.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_much_and_takes_nothing_is_given_up() {
    let holder = Member::found().await;
    let asker = Member::joined(&holder.ticket(nearfield_protocol::node::Role::Host, &[])).await;
    let digest = holder.store.add_sealed(vec![7; 8 << 20].into()).await.unwrap();
    let all = Request::Range {
        digest,
        start: 0,
        len: u64::MAX,
    };
    let (_, mut receive) = asked(&asker, &holder, &all).await;
    let answer: Answer = frame::read(&mut receive, ANSWER_BYTES).await.unwrap();
    assert!(
        matches!(answer, Answer::Given { len: WHOLE_BYTES, .. }),
        "{answer:?}"
    );
    // Streams that nobody reads take all places of the member, until their patience is over.
    let mut untaken = Vec::new();
    for _ in 0..=SERVED {
        untaken.push(asked(&asker, &holder, &all).await);
    }
    // They stay unread: the holder has to give them up for anything more to come.
    let fetched = tokio::time::timeout(PATIENCE * 12, async {
        let holders = || vec![holder.node.id()];
        while asker
            .node
            .peers()
            .fetch(digest, holders(), BLOB_BYTES)
            .await
            .is_err()
        {}
    });
    assert!(fetched.await.is_ok(), "the places of unread streams came free");
    drop(untaken);
}

async fn asked(asker: &Member, holder: &Member, request: &Request) -> (SendStream, RecvStream) {
    let (mut send, receive) = asker.node.peers().open(holder.node.id(), BYTES).await.unwrap();
    frame::write(&mut send, request).await.unwrap();
    send.finish().unwrap();
    (send, receive)
}
