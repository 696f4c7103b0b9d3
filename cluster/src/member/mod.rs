//! This node as a member of its network: what others report and ask, what becomes of it here, and what changes with the
//! records. `repair` sees that enough hosts keep each blob, `residency` that none keeps what it may not.

mod answer;
mod follow;
mod leave;
mod lists;
mod patience;
pub(crate) mod repair;
mod residency;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// The loops of a node among others. Each runs until `stop`.
#[derive(Clone)]
pub struct Member {
    pub cluster: Arc<Cluster>,
    pub stop: CancellationToken,
}

impl Member {
    async fn next<T>(&self, event: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            event = event => event,
        }
    }
}
