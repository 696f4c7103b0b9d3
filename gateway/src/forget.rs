//! Remembered results that are to be forgotten, here and on other nodes.

use std::time::Duration;

use futures_util::future::join_all;
use nearfield_net::control::{Forget, Question, Reply};
use nearfield_protocol::{NodeId, Problem};

use crate::catalog::Catalog;
use crate::remaining::Remaining;
use crate::reply::store_problem;

/// How long a node may take to forget.
const FORGETTING: Duration = Duration::from_secs(20);

impl Catalog {
    /// Forgets results that this node remembers. Returns how many.
    pub async fn forget(&self, what: &Forget) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        let forgotten = match what {
            Forget::For(origin) => self.remembered.purge(origin).await,
            // What it made itself does not say so.
            Forget::MadeBy(maker) if *maker == self.node.id() => self.remembered.forget_all().await,
            Forget::MadeBy(maker) => self.remembered.distrust(*maker).await,
        };
        let (count, blobs) = forgotten.map_err(store_problem)?;
        if !blobs.is_empty() {
            self.release_unreferenced(Vec::new(), blobs).await?;
        }
        Ok(count)
    }

    /// Has all other nodes forget. Returns how many results they forgot, and which nodes could not be asked.
    pub async fn forget_elsewhere(&self, what: Vec<Forget>) -> (u64, Vec<Remaining>) {
        let records = self.node.records();
        let others: Vec<NodeId> = records
            .nodes()
            .map(|member| member.node.id)
            .filter(|id| *id != self.node.id())
            .collect();
        let asked = others.into_iter().map(|node| {
            let what = &what;
            async move {
                let mut forgotten = 0;
                for what in what {
                    let question = Question::Forget(what.clone());
                    match self.node.ask(node, question, FORGETTING).await {
                        Ok(Reply::Forgotten(count)) => forgotten += count,
                        Ok(reply) => return Err((node, format!("{reply:?}"))),
                        Err(error) => return Err((node, error.to_string())),
                    }
                }
                Ok(forgotten)
            }
        });
        let (mut forgotten, mut away) = (0, Vec::new());
        for answer in join_all(asked).await {
            match answer {
                Ok(count) => forgotten += count,
                Err((node, why)) => {
                    tracing::warn!(
                        node = node.short(),
                        why,
                        "a node could not be asked to forget results"
                    );
                    away.push(Remaining {
                        held_by: format!(
                            "node/{}, which could not be asked to forget results",
                            node.short()
                        ),
                        shards: 0,
                        bytes: 0,
                    });
                }
            }
        }
        (forgotten, away)
    }
}
