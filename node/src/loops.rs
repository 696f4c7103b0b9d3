//! What a node does now and then, and once after its start.

use std::sync::Arc;
use std::time::Duration;

use nearfield_cluster::Cluster;
use nearfield_jobs::{JobRecord, Jobs};
use nearfield_net::Node;
use nearfield_protocol::Digest;
use nearfield_store::Store;
use tokio_util::sync::CancellationToken;

/// One blob is hashed again this often: 4 MiB a second, a terabyte in three days.
const SCRUB_INTERVAL: Duration = Duration::from_secs(1);
/// How often remembered results are looked through: they may exceed their limit for as long.
const EVICT_INTERVAL: Duration = Duration::from_secs(60);
/// How often a node looks whether it has heard from another gateway since its start, and how long.
const HEARING: Duration = Duration::from_millis(100);
const LONGEST_HEARING: Duration = Duration::from_secs(60);

/// Hashes one blob after another, slowly.
pub async fn scrub(store: Store, stop: CancellationToken) {
    let start = Digest::from_bytes([0; 32]);
    let mut after = start;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SCRUB_INTERVAL) => {}
        }
        after = match store.scrub_next(after).await {
            Ok(next) => next.unwrap_or(start),
            Err(error) => {
                tracing::error!(%error, "the scrub of stored blobs failed, and begins anew");
                start
            }
        };
    }
}

/// Forgets remembered results beyond their limit.
pub async fn evict(cluster: Arc<Cluster>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVICT_INTERVAL) => {}
        }
        match cluster.catalog.evict_remembered().await {
            Ok(0) => {}
            Ok(results) => tracing::info!(results, "forgot the least used remembered results"),
            Err(problem) => tracing::warn!(%problem, "the least used remembered results cannot be forgotten"),
        }
    }
}

/// Takes in what other nodes write.
pub async fn follow_records(node: Node, stop: CancellationToken) {
    if let Err(error) = node.follow_records(stop).await {
        tracing::error!(%error, "the records cannot be followed");
    }
}

/// Lets go of what a crash left sealed but unnamed; then jobs that it interrupted go on, which may make the same blobs again.
pub async fn settle(
    cluster: Arc<Cluster>,
    jobs: Arc<Jobs>,
    sealed: Vec<Digest>,
    interrupted: Vec<JobRecord>,
) {
    // First: the name of what they work on may be gone.
    let mut held = Vec::new();
    for record in interrupted {
        let hold = jobs.hold(&record).await;
        held.push((record, hold));
    }
    // What was put last may stand in records that this node has yet to hear of.
    let node = &cluster.catalog.node;
    let heard = async {
        while !node.gateways().is_empty() && !node.heard() {
            tokio::time::sleep(HEARING).await;
        }
    };
    let sealed = match tokio::time::timeout(LONGEST_HEARING, heard).await {
        Ok(()) => sealed,
        // Nothing is let go of before the next start.
        Err(_) => Vec::new(),
    };
    match cluster.catalog.release_orphans(sealed).await {
        Ok(0) => {}
        Ok(bytes) => tracing::info!(bytes, "released blobs that nothing refers to"),
        Err(problem) => tracing::warn!(%problem, "cannot tell which blobs nothing refers to"),
    }
    jobs.resume(held);
}
