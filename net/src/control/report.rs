//! This node's reports to the gateways.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::{Digest, NodeId};
use tokio::io::AsyncWriteExt;
use tokio::sync::{broadcast, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BEAT, HOLDINGS, Hello, Load, MESSAGE_BYTES, Opening, Report, SILENCE, Welcome};
use crate::error::NetError;
use crate::frame;
use crate::gate::is_refused;
use crate::node::Node;
use crate::peers::CONTROL;

/// How soon a gateway that cannot be reached is tried again, at first and at most.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// Refusals one after the other before they are logged: a gateway may not have heard of a new node yet.
const REFUSALS: u32 = 4;

/// How long changes of the GPU's memory are gathered: a job changes it hundreds of times a second.
const TOGETHER: Duration = Duration::from_millis(20);

/// All that is reported.
pub struct Reporter {
    pub hosting: bool,
    /// How busy the node is now.
    pub load: Arc<dyn Fn() -> Load + Send + Sync>,
    pub residents: Residents,
}

/// The blobs of which something is in the memory of this node's GPU. Without a GPU its sender is gone.
pub type Residents = watch::Receiver<Arc<HashSet<Digest>>>;

/// Waits until there is news of the GPU, and tells what came into its memory and what went, if anything did. Changes that follow
/// each other are told together. Dropped in between, it has lost nothing: what was told is compared, not what was seen.
pub async fn changed(
    residents: &mut Residents,
    told: &mut Arc<HashSet<Digest>>,
) -> (Vec<Digest>, Vec<Digest>) {
    while Arc::ptr_eq(&residents.borrow(), told) {
        if residents.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
    sleep(TOGETHER).await;
    let now = residents.borrow().clone();
    let before = std::mem::replace(told, now.clone());
    let added = now.difference(&before).copied().collect();
    let removed = before.difference(&now).copied().collect();
    (added, removed)
}

impl Reporter {
    /// Keeps a stream to every gateway until `stop`.
    pub async fn run(self, node: Node, stop: CancellationToken) {
        let reporter = Arc::new(self);
        let (mut streams, tasks) = (HashMap::<NodeId, CancellationToken>::new(), TaskTracker::new());
        let mut changed = node.changes();
        loop {
            changed.mark_unchanged();
            let records = node.records();
            let gateways: Vec<NodeId> = records
                .nodes()
                .map(|member| member.node.id)
                .filter(|id| *id != node.id() && records.is_gateway(id))
                .collect();
            streams.retain(|id, stop| {
                let stays = gateways.contains(id);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            for id in gateways {
                streams.entry(id).or_insert_with(|| {
                    let stop = stop.child_token();
                    let keeping = keep(reporter.clone(), node.clone(), id);
                    let stopping = stop.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            () = stopping.cancelled() => {}
                            () = keeping => {}
                        }
                    });
                    stop
                });
            }
            tokio::select! {
                () = stop.cancelled() => break,
                changed = changed.changed() => if changed.is_err() { break },
            }
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Keeps a stream to one gateway, for ever.
async fn keep(reporter: Arc<Reporter>, node: Node, gateway: NodeId) {
    let (mut wait, mut refusals) = (FIRST_WAIT, 0);
    loop {
        let connection = node.peers().connection(gateway, CONTROL).await;
        match report(&reporter, &node, gateway, &mut wait).await {
            Ok(()) => tracing::debug!(gateway = gateway.short(), "the gateway ended the report"),
            Err(error) => tracing::debug!(gateway = gateway.short(), %error, "no report"),
        }
        refusals = match connection.is_ok_and(|connection| is_refused(&connection)) {
            true => refusals + 1,
            false => 0,
        };
        if refusals == REFUSALS {
            tracing::warn!(
                gateway = gateway.short(),
                "a gateway refuses this node as no member of its network: it was expelled, or removed while it was away. \
                 A new invitation and an empty data folder bring the machine back"
            );
        }
        // Apart from each other, so that a gateway that comes back is not met by all at once.
        sleep(wait.mul_f32(rand::random_range(0.5..1.0))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

async fn report(
    reporter: &Reporter,
    node: &Node,
    gateway: NodeId,
    wait: &mut Duration,
) -> Result<(), NetError> {
    let (mut send, mut receive) = node.peers().open(gateway, CONTROL).await?;
    let hello = Hello {
        addresses: node.addresses(),
        hosting: reporter.hosting,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    frame::write(&mut send, &Opening::Report(hello)).await?;
    let welcome = timeout(SILENCE, frame::read::<Welcome>(&mut receive, MESSAGE_BYTES));
    let welcome = welcome.await.map_err(io::Error::from)??;
    welcome
        .known
        .iter()
        .for_each(|contact| node.peers().learn(contact));
    node.remember_peers();
    node.sync(&[gateway]).await?;
    *wait = FIRST_WAIT;
    let _here = node.met(gateway);

    // Listened to before what is there is read, so that no change falls between.
    let mut changes = node.store().changes();
    let mut held = Vec::new();
    if reporter.hosting {
        let records = node.record_blobs();
        held = node.store().live()?;
        held.retain(|digest| !records.contains(digest));
    }
    frame::write(&mut send, &Report::Beat((reporter.load)())).await?;
    for some in held.chunks(HOLDINGS) {
        holds(&mut send, some, &[]).await?;
    }
    let (mut residents, mut told) = (reporter.residents.clone(), Arc::default());
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beat.tick() => frame::write(&mut send, &Report::Beat((reporter.load)())).await?,
            (added, removed) = changed(&mut residents, &mut told) => {
                // Whether there is a GPU is in the load, and may be what changed.
                frame::write(&mut send, &Report::Beat((reporter.load)())).await?;
                for some in added.chunks(HOLDINGS) {
                    report_residents(&mut send, some, &[]).await?;
                }
                for some in removed.chunks(HOLDINGS) {
                    report_residents(&mut send, &[], some).await?;
                }
            }
            change = changes.recv() => match change {
                _ if !reporter.hosting => {}
                Ok(nearfield_store::Change::Added(added)) => {
                    for some in added.chunks(HOLDINGS) {
                        holds(&mut send, some, &[]).await?;
                    }
                }
                Ok(nearfield_store::Change::Removed(removed)) => {
                    for some in removed.chunks(HOLDINGS) {
                        holds(&mut send, &[], some).await?;
                    }
                }
                // Too many to follow: all is told again on a new stream.
                Err(broadcast::error::RecvError::Lagged(_)) => return Ok(()),
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            },
            // The gateway says nothing more; this ends when it does.
            ended = receive.read_chunk(1) => return ended.map(drop).map_err(|error| io::Error::other(error).into()),
        }
    }
}

async fn holds(
    send: &mut iroh::endpoint::SendStream,
    added: &[Digest],
    removed: &[Digest],
) -> io::Result<()> {
    let counts = Report::Holds {
        added: added.len() as u32,
        removed: removed.len() as u32,
    };
    with_digests(send, &counts, added, removed).await
}

async fn report_residents(
    send: &mut iroh::endpoint::SendStream,
    added: &[Digest],
    removed: &[Digest],
) -> io::Result<()> {
    let counts = Report::Residents {
        added: added.len() as u32,
        removed: removed.len() as u32,
    };
    with_digests(send, &counts, added, removed).await
}

async fn with_digests(
    send: &mut iroh::endpoint::SendStream,
    counts: &Report,
    added: &[Digest],
    removed: &[Digest],
) -> io::Result<()> {
    frame::write(send, counts).await?;
    let bytes: Vec<u8> = added
        .iter()
        .chain(removed)
        .flat_map(|digest| *digest.as_bytes())
        .collect();
    AsyncWriteExt::write_all(send, &bytes).await
}
