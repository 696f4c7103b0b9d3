//! What changes: members come, go and report, this node's own host holds more or less, and records are written.

use std::sync::Arc;
use std::time::Duration;

use nearfield_net::control::{Load, MemberEvent, Residents, changed};
use nearfield_protocol::Digest;
use nearfield_store::Change;
use tokio::sync::{broadcast, mpsc, watch};

use super::Member;

/// How often this node's own host tells how busy it is.
const BEAT: Duration = Duration::from_secs(1);

impl Member {
    /// Takes in what members report.
    pub async fn follow_members(self, mut members: mpsc::Receiver<MemberEvent>) {
        let node = &self.cluster.catalog.node;
        while let Some(event) = self.next(members.recv()).await {
            match &event {
                MemberEvent::Up(id, _) => tracing::info!(node = id.short(), "a member is connected"),
                MemberEvent::Gone(id) => {
                    tracing::info!(node = id.short(), "a member is not connected any more")
                }
                _ => {}
            }
            self.cluster.hosts.take(event, &node.records());
        }
    }

    /// Takes in what this node's own host holds, as if it had reported that.
    pub async fn follow_own(self, load: Arc<dyn Fn() -> Load + Send + Sync>, mut residents: Residents) {
        let (cluster, id) = (&self.cluster, self.cluster.hosts.local());
        let mut beat = tokio::time::interval(BEAT);
        loop {
            // Listened to before what is there is read, so that no change falls between.
            let mut changes = cluster.catalog.store.changes();
            cluster.hosts.enter_local(load(), &cluster.catalog.node.records());
            match cluster.catalog.store.live() {
                Ok(held) => cluster.hosts.holds(&id, &held, &[]),
                Err(error) => tracing::error!(%error, "what this node holds cannot be listed"),
            }
            let mut told = Arc::default();
            loop {
                let change = tokio::select! {
                    (added, removed) = changed(&mut residents, &mut told) => {
                        let records = cluster.catalog.node.records();
                        cluster.hosts.take(MemberEvent::Beat(id, load()), &records);
                        let event = MemberEvent::Residents { node: id, added, removed };
                        cluster.hosts.take(event, &records);
                        continue;
                    }
                    () = self.stop.cancelled() => return,
                    _ = beat.tick() => {
                        let event = MemberEvent::Beat(id, load());
                        cluster.hosts.take(event, &cluster.catalog.node.records());
                        continue;
                    }
                    change = changes.recv() => change,
                };
                match change {
                    Ok(Change::Added(added)) => cluster.hosts.holds(&id, &added, &[]),
                    Ok(Change::Removed(removed)) => cluster.hosts.holds(&id, &[], &removed),
                    // Too many to follow: all is read again.
                    Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        }
    }

    /// Does what a change of the records asks for.
    pub async fn follow_records(self) {
        let catalog = &self.cluster.catalog;
        let mut changes = catalog.node.changes();
        let mut before = catalog.node.records();
        loop {
            changes.mark_unchanged();
            let records = catalog.node.records();
            self.cluster.hosts.refresh(&records);
            catalog.node.shut_out().await;
            let gone = records.ended_since(&before);
            before = records;
            if !gone.is_empty() && self.next(self.let_go(gone, &mut changes)).await.is_none() {
                return;
            }
            let releasing = async { Some(catalog.release_held_back().await) };
            let Some(released) = self.next(releasing).await else {
                return;
            };
            if let Err(problem) = released {
                tracing::warn!(%problem, "what nothing refers to any more cannot be let go of");
            }
            if let Err(problem) = catalog.forget_if_quarantined().await {
                tracing::warn!(%problem, "what this node remembers cannot be forgotten");
            }
            if self.next(async { changes.changed().await.ok() }).await.is_none() {
                return;
            }
        }
    }

    /// Lets go of versions that are no more. That may wait for puts under way; who was expelled meanwhile is shut out at once.
    async fn let_go(&self, gone: Vec<Digest>, changes: &mut watch::Receiver<u64>) -> Option<()> {
        let catalog = &self.cluster.catalog;
        let letting_go = catalog.let_go(gone);
        tokio::pin!(letting_go);
        let mut is_changed = false;
        let done = loop {
            tokio::select! {
                done = &mut letting_go => break done,
                changed = changes.changed() => {
                    changed.ok()?;
                    is_changed = true;
                    self.cluster.hosts.refresh(&catalog.node.records());
                    catalog.node.shut_out().await;
                }
            }
        };
        if let Err(problem) = done {
            tracing::warn!(%problem, "blobs that no record names any more cannot be let go of");
        }
        if is_changed {
            // All else that the changes ask for is yet to be done.
            changes.mark_changed();
        }
        Some(())
    }
}
