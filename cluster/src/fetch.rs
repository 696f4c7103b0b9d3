//! Where blobs come from that are not on this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use nearfield_net::control::{Question, Reply};
use nearfield_net::{BLOB_BYTES, Node};
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::{Elsewhere, Fetched};
use rand::seq::SliceRandom;

use crate::hosts::Hosts;

/// How long a gateway may take to say who holds a blob.
const PATIENCE: Duration = Duration::from_secs(3);
/// All of one fetch: a blob of 256 MiB at 10 MB/s.
const FETCH: Duration = Duration::from_secs(30);
/// Smaller blobs tell nothing of a link's rate.
const MEASURED_BYTES: usize = 256 << 10;

/// The other nodes, as a store sees them.
pub struct PeerBlobs {
    pub node: Node,
    pub hosts: Arc<Hosts>,
    /// Bytes a millisecond, over the last fetches.
    pub rate: Arc<AtomicU64>,
}

impl Elsewhere for PeerBlobs {
    fn fetch(&self, digest: Digest) -> BoxFuture<'static, Result<Fetched, String>> {
        let (node, hosts, rate) = (self.node.clone(), self.hosts.clone(), self.rate.clone());
        Box::pin(async move {
            let fetching = async {
                node.keep_residency().await;
                let holders = holders(&node, &hosts, digest).await;
                let began = Instant::now();
                let mut fetched = node.peers().fetch(digest, holders, BLOB_BYTES).await?;
                let bytes = &fetched.bytes;
                node.note_list(&digest, bytes).await;
                // The sender may not have heard of a rule yet.
                fetched.may_rest &= node.may_rest(&digest);
                if bytes.len() >= MEASURED_BYTES {
                    let now = bytes.len() as u64 / (began.elapsed().as_millis() as u64).max(1);
                    let before = rate.load(Ordering::Relaxed);
                    rate.store(
                        if before == 0 { now } else { (3 * before + now) / 4 },
                        Ordering::Relaxed,
                    );
                }
                Ok(fetched)
            };
            match tokio::time::timeout(FETCH, fetching).await {
                Ok(fetched) => fetched,
                Err(_) => Err(format!("the blob did not arrive within {} s", FETCH.as_secs())),
            }
        })
    }
}

/// Who holds a blob, in random order, so that the same one does not give it to all: by this gateway's own table, and by
/// what other gateways say.
async fn holders(node: &Node, hosts: &Hosts, digest: Digest) -> Vec<NodeId> {
    let mut holders: Vec<NodeId> = {
        let table = hosts.table();
        table.holders_of(&digest).map(|host| host.id).collect()
    };
    holders.retain(|id| *id != node.id());
    if !holders.is_empty() {
        holders.shuffle(&mut rand::rng());
        return holders;
    }
    let present = node.present();
    for gateway in node
        .gateways()
        .into_iter()
        .filter(|gateway| present.contains(gateway))
    {
        let digests = vec![digest];
        let Ok(Reply::Holders(found)) = node.ask(gateway, Question::Holders { digests }, PATIENCE).await
        else {
            continue;
        };
        for contact in found
            .into_iter()
            .flatten()
            .filter(|contact| contact.id != node.id())
        {
            node.peers().learn(&contact);
            if !holders.contains(&contact.id) {
                holders.push(contact.id);
            }
        }
        if !holders.is_empty() {
            break;
        }
    }
    holders.shuffle(&mut rand::rng());
    holders
}
