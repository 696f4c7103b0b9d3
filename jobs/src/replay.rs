//! One shard of a job by itself: run again, and which log lines are a job's.

use std::collections::HashMap;
use std::sync::Arc;

use nearfield_cluster::host::{Replayed, RunOf};
use nearfield_cluster::{Cluster, DataHold, store_problem};
use nearfield_protocol::problem::Blame;
use nearfield_protocol::{CallId, Problem, ProblemKind};
use nearfield_store::{Dataset, StoreError};

use crate::engine::rule;
use crate::plan::{self, Leaf};
use crate::record::{JobRecord, Selection};

/// A shard that a job maps. What it takes to map it stays as long as this.
pub struct JobShard {
    pub record: JobRecord,
    pub dataset: Arc<Dataset>,
    pub leaf: Leaf,
    _held: DataHold,
}

impl JobShard {
    /// Shard `index` of the job's dataset, whether or not the job went over it.
    pub async fn find(cluster: &Cluster, record: JobRecord, index: u32) -> Result<Self, Problem> {
        let held = cluster
            .catalog
            .hold(record.datasets(), vec![record.component])
            .await;
        let dataset = dataset(cluster, &record).await?;
        let distrusted = cluster.catalog.node.records().distrusted().clone();
        let shards = plan::shards(&dataset, &Selection::Only(index))?;
        let mut leaves = plan::leaves(&plan::setting(&record, &distrusted), &shards);
        let leaf = leaves.pop().ok_or_else(|| {
            Problem::new(ProblemKind::Internal, format!("shard {index} is not in the plan"))
        })?;
        Ok(JobShard {
            record,
            dataset,
            leaf,
            _held: held,
        })
    }

    /// The file or part that it was cut from.
    pub fn source(&self) -> Option<&str> {
        self.leaf.source.as_deref()
    }

    /// Maps it again. What its guest did is in the answer; an error is this node's.
    pub async fn replay(&self, cluster: &Cluster) -> Result<Replayed, Problem> {
        let only = rule(&cluster.catalog.node.records(), &self.record.datasets());
        let gpu = self.record.gpu.as_ref().map(|grant| grant.kind);
        let host = cluster.host_for(&self.leaf.shard, &only, gpu)?;
        let replayed = cluster.dispatch.to(host).replay(self.leaf.spec.clone()).await?;
        match replayed.outcome {
            Err(failure) if failure.problem.kind.blame() != Blame::Guest => Err(failure.problem),
            outcome => Ok(Replayed { outcome, ..replayed }),
        }
    }
}

/// The runs of a job, or of one shard of it, by what their log lines carry.
pub async fn runs(
    cluster: &Cluster,
    record: JobRecord,
    only: Option<u32>,
) -> Result<HashMap<CallId, RunOf>, Problem> {
    let dataset = dataset(cluster, &record).await?;
    let distrusted = cluster.catalog.node.records().distrusted().clone();
    // A hash for each shard.
    let runs = tokio::task::spawn_blocking(move || plan::runs(&record, &distrusted, &dataset, only)).await;
    runs.unwrap_or_else(|error| {
        Err(Problem::new(
            ProblemKind::Internal,
            format!("a job's plan: {error}"),
        ))
    })
}

async fn dataset(cluster: &Cluster, record: &JobRecord) -> Result<Arc<Dataset>, Problem> {
    let digest = &record.dataset_digest;
    cluster.catalog.store.dataset(digest).await.map_err(|error| match error {
        StoreError::Missing(_) => Problem::new(
            ProblemKind::UnknownDataset,
            format!(
                "the data that job {} went over is no longer here ({digest}): put it again as it was, and it is found",
                record.id
            ),
        ),
        error => store_problem(error),
    })
}
