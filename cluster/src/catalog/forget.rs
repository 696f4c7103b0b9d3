//! Remembered results that are to be forgotten, here and on other nodes.

use std::time::Duration;

use futures_util::future::join_all;
use nearfield_net::control::{Forget, Question, Reply};
use nearfield_protocol::records::RecordClock;
use nearfield_protocol::{NodeId, Problem, ProblemKind};

use super::remaining::Remaining;
use super::state::Catalog;
use crate::problem::{net_problem, store_problem};

/// How long a node may take to forget.
const FORGETTING: Duration = Duration::from_secs(20);

impl Catalog {
    /// Forgets results that this node remembers. Returns how many.
    pub async fn forget(&self, what: &Forget) -> Result<u64, Problem> {
        let forgotten = match what {
            Forget::For(origin) => self.remembered.purge(origin).await,
            Forget::All { until } => {
                // A gateway's word alone is not enough: what it says here is not forgotten again.
                let until = self.quarantined_at().filter(|at| at >= until).ok_or_else(|| {
                    let text = "no record here says that this node was quarantined then";
                    Problem::new(ProblemKind::Conflict, text)
                })?;
                self.remembered.forget_all(until).await
            }
        };
        let forgotten = forgotten.map_err(store_problem)?;
        if !forgotten.blobs.is_empty() {
            let _recording = self.recording.write().await;
            self.release_unreferenced(Vec::new(), forgotten.blobs).await?;
        }
        Ok(forgotten.results)
    }

    fn quarantined_at(&self) -> Option<RecordClock> {
        let records = self.node.records();
        records.distrusted().get(&self.node.id()).copied()
    }

    /// Forgets everything if this node was quarantined since it did so last.
    pub async fn forget_if_quarantined(&self) -> Result<(), Problem> {
        match self.quarantined_at() {
            Some(until) => self.forget(&Forget::All { until }).await.map(drop),
            None => Ok(()),
        }
    }

    /// Sees that a host that was quarantined once has forgotten what it remembered then: it may have been away.
    pub async fn see_forgotten(&self, host: NodeId) -> Result<(), Problem> {
        let Some(until) = self.node.records().distrusted().get(&host).copied() else {
            return Ok(());
        };
        let settled = || self.settled.lock();
        if settled().get(&host) == Some(&until) {
            return Ok(());
        }
        let what = Forget::All { until };
        let forgotten = match host == self.node.id() {
            true => self.forget(&what).await,
            false => self.ask_to_forget(host, what).await,
        };
        forgotten.map_err(|problem| {
            let text = format!(
                "host {} has yet to forget what it remembers: {problem}",
                host.short()
            );
            Problem::new(ProblemKind::HostUnreachable, text)
        })?;
        settled().insert(host, until);
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
