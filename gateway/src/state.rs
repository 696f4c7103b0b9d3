//! What answering a request takes.

use std::sync::Arc;
use std::time::Instant;

use nearfield_cluster::Cluster;
use nearfield_jobs::Jobs;
use nearfield_net::Records;
use tokio_util::sync::CancellationToken;

use crate::admin::browser::AdminHosts;
use crate::admit::Admission;
use crate::auth::Auth;
use crate::calls::Calls;
use crate::metrics::Metrics;
use crate::origin::Proxies;
use crate::route::{RouteTable, Routes};

/// All that answering a request takes. Made once, by the composition root.
pub struct Gateway {
    pub cluster: Arc<Cluster>,
    pub jobs: Arc<Jobs>,
    pub auth: Auth,
    pub admission: Admission,
    pub routes: Routes,
    pub calls: Calls,
    pub metrics: Metrics,
    pub started: Instant,
    pub max_store_bytes: Option<u64>,
    /// Who may say where a request comes from.
    pub proxies: Proxies,
    /// Names under which the admin API may be asked for.
    pub admin_hosts: AdminHosts,
    /// Where functions are reached from outside: `http://host:port`.
    pub functions_url: String,
    /// Cancelled once the node has left its network: it ends then.
    pub leaving: CancellationToken,
}

impl Gateway {
    /// Who answers for what, by `records`.
    pub fn route_table(&self, records: &Arc<Records>) -> Arc<RouteTable> {
        self.routes.current(records, &self.admission, &self.metrics)
    }
}
