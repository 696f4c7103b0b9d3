//! Remembered results that are to be forgotten, here and on other nodes.

use std::time::Duration;

use futures_util::future::join_all;
use nearfield_net::control::{Forget, Question, Reply};
use nearfield_protocol::{NodeId, Problem, ProblemKind};

use crate::catalog::{Catalog, net_problem};
use crate::remaining::Remaining;
use crate::reply::store_problem;

/// How long a node may take to forget.
const FORGETTING: Duration = Duration::from_secs(20);

impl Catalog {
    /// Forgets results that this node remembers. Returns how many.
    pub async fn forget(&self, what: &Forget) -> Result<u64, Problem> {
        let forgotten = match what {
            Forget::For(origin) => self.remembered.purge(origin).await,
            Forget::MadeBy { maker, until } => {
                let own = *maker == self.node.id();
                self.remembered.distrust(*maker, own, *until).await
            }
        };
        let forgotten = forgotten.map_err(store_problem)?;
        if !forgotten.blobs.is_empty() {
            let _recording = self.recording.write().await;
            self.release_unreferenced(Vec::new(), forgotten.blobs).await?;
        }
        Ok(forgotten.results)
    }

    /// Forgets all that the records say is not to be used.
    pub async fn forget_distrusted(&self) -> Result<(), Problem> {
        for what in distrusted(&self.node.records()) {
            self.forget(&what).await?;
        }
        Ok(())
    }

    /// Sees that `host` has forgotten all that the records here say is not to be used: it may have been away.
    pub async fn see_forgotten(&self, host: NodeId) -> Result<(), Problem> {
        let records = self.node.records();
        let known = records.distrusted();
        let settled = || self.settled.lock().expect("no panic under this lock");
        if known.is_empty() || settled().get(&host) == Some(known) {
            return Ok(());
        }
        for what in distrusted(&records) {
            match host == self.node.id() {
                true => self.forget(&what).await?,
                false => self.ask_to_forget(host, what).await?,
            };
        }
        settled().insert(host, known.clone());
        Ok(())
    }

    async fn ask_to_forget(&self, node: NodeId, what: Forget) -> Result<u64, Problem> {
        match self.node.ask(node, Question::Forget(what), FORGETTING).await {
            Ok(Reply::Forgotten(count)) => Ok(count),
            Ok(Reply::Failed(problem)) => Err(problem),
            Ok(_) => Err(Problem::new(
                ProblemKind::Internal,
                format!("node/{} does not know how to forget results", node.short()),
            )),
            Err(error) => Err(net_problem(error)),
        }
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
                    let asked = self.ask_to_forget(node, what.clone()).await;
                    forgotten += asked.map_err(|problem| (node, problem))?;
                }
                Ok(forgotten)
            }
        });
        let (mut forgotten, mut away) = (0, Vec::new());
        for answer in join_all(asked).await {
            match answer {
                Ok(count) => forgotten += count,
                Err((node, problem)) => {
                    tracing::warn!(node = node.short(), %problem, "a node could not be asked to forget results");
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

/// What the records say is to be forgotten.
fn distrusted(records: &nearfield_net::Records) -> impl Iterator<Item = Forget> {
    records.distrusted().iter().map(|(maker, until)| Forget::MadeBy {
        maker: *maker,
        until: *until,
    })
}
