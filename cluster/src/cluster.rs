//! The network as this node uses it.

use std::sync::Arc;

use nearfield_protocol::gpu::GpuKind;
use nearfield_protocol::node::Label;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};
use tokio::sync::Mutex;

use crate::catalog::Catalog;
use crate::dispatch::Dispatch;
use crate::hosts::Hosts;
use crate::place::{Ask, Need, Standing, place};

/// What it takes to have things done in the network. Made once, by the composition root.
pub struct Cluster {
    /// Data and the records that name it.
    pub catalog: Catalog,
    /// Who is there and holds what.
    pub hosts: Arc<Hosts>,
    /// The handle of each host.
    pub dispatch: Dispatch,
    /// Held from the check whether a node may leave until its leave is recorded.
    pub(crate) leaving: Mutex<()>,
}

impl Cluster {
    pub fn new(catalog: Catalog, hosts: Arc<Hosts>, dispatch: Dispatch) -> Self {
        Cluster {
            catalog,
            hosts,
            dispatch,
            leaving: Mutex::default(),
        }
    }

    /// A host that holds a blob, or else one that may fetch it. It has the labels of `only`, and the GPU that is asked for.
    pub fn host_for(&self, digest: &Digest, only: &[Label], gpu: Option<GpuKind>) -> Result<NodeId, Problem> {
        let needs = [Need::Blob {
            digest: *digest,
            size_bytes: 1,
        }];
        let ask = Ask {
            key: *digest,
            component: *digest,
            component_bytes: 0,
            located: Some(*digest),
            needs: &needs,
            only,
            gpu,
        };
        let ranked = place(&ask, &self.hosts.table());
        match ranked.first() {
            Some(best) if matches!(best.standing, Standing::Costs { .. }) => Ok(best.host),
            _ => Err(Problem::new(
                ProblemKind::Overload,
                "no host is there: start one, or invite one with `nearfield invite --role host`",
            )),
        }
    }
}
