//! What may not rest on this node leaves it.
//!
//! Rules change: a dataset is put again for fewer nodes, or a node has other labels than when it was given something. Each
//! node looks at that for itself, whenever the records change. Blobs that are only cached go at once, and so does what is
//! remembered of jobs over them; what this node keeps goes once enough of those that may keep it do, which the gateway that
//! repairs knows (`repair`).

use std::collections::HashSet;
use std::time::Duration;

use nearfield_net::control::Forget;
use nearfield_protocol::{Digest, Problem};

use super::Member;
use crate::problem::store_problem;

/// How soon a list is asked for again that nobody gave.
const AGAIN: Duration = Duration::from_secs(2);

impl Member {
    /// Follows what may rest on this node until `stop`.
    pub async fn follow_residency(self) {
        let node = &self.cluster.catalog.node;
        let mut changes = node.changes();
        let mut forgotten = HashSet::new();
        loop {
            changes.mark_unchanged();
            node.refresh_residency().await;
            let learning = async { Some(self.learn_lists().await) };
            let Some(known) = self.next(learning).await else {
                return;
            };
            if let Err(problem) = self.let_go_of_misplaced(&mut forgotten).await {
                tracing::warn!(%problem, "what may not rest on this node cannot be let go of");
            }
            let changed = async {
                match known {
                    true => changes.changed().await.ok(),
                    false => match tokio::time::timeout(AGAIN, changes.changed()).await {
                        Ok(changed) => changed.ok(),
                        Err(_) => Some(()),
                    },
                }
            };
            if self.next(changed).await.is_none() {
                return;
            }
        }
    }

    /// Has the lists pass by of datasets that may not rest here. Returns whether all did.
    async fn learn_lists(&self) -> bool {
        let catalog = &self.cluster.catalog;
        let mut all = true;
        for list in catalog.node.unread_lists() {
            match catalog.store.blob(&list).await {
                // One that came in passing before is not fetched again, so it is noted here.
                Ok(blob) => catalog.node.note_list(&list, &blob).await,
                Err(error) => {
                    tracing::debug!(%list, %error, "the list of a dataset that may not rest here cannot be had");
                    all = false;
                }
            }
        }
        all
    }

    /// `forgotten` are the datasets whose results were forgotten since the start.
    async fn let_go_of_misplaced(&self, forgotten: &mut HashSet<Digest>) -> Result<(), Problem> {
        let catalog = &self.cluster.catalog;
        let records = catalog.node.records();
        for version in records.restricted() {
            if catalog.may_keep(&version.only) || forgotten.contains(&version.digest) {
                continue;
            }
            // A job may have gone over it by its digest alone.
            for origin in [version.name.to_string(), version.digest.to_string()] {
                let results = catalog.forget(&Forget::For(origin.clone())).await?;
                if results > 0 {
                    tracing::info!(origin, results, "forgot results of data that may not rest here");
                }
            }
            forgotten.insert(version.digest);
        }
        let node = catalog.node.clone();
        let misplaced = tokio::task::spawn_blocking(move || node.misplaced()).await;
        let misplaced = misplaced.unwrap_or_default();
        match misplaced.is_empty() {
            true => Ok(()),
            false => catalog.store.drop_cached(misplaced).await.map_err(store_problem),
        }
    }

    /// Lets go of those of these blobs that may not rest here. The next sweep removes their files.
    pub(super) async fn erase(&self, mut digests: Vec<Digest>) -> Result<(), Problem> {
        let catalog = &self.cluster.catalog;
        catalog.node.keep_residency().await;
        digests.retain(|digest| !catalog.node.may_rest(digest));
        let blobs = catalog.store.erase(digests).await.map_err(store_problem)?;
        if blobs > 0 {
            tracing::info!(blobs, "let go of blobs that may not rest here");
        }
        Ok(())
    }
}
