//! Makes the parts of a node know each other.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use nearfield_cluster::host::Host;
use nearfield_cluster::{Catalog, Cluster, Dispatch, Hosts, PeerBlobs};
use nearfield_gateway::{
    AdminHosts, Admission, Auth, Calls, Gateway, Metrics, Proxies, Routes, load_or_create_admin_token,
};
use nearfield_jobs::Jobs;
use nearfield_net::Node;
use nearfield_net::control::{Load, Residents};
use nearfield_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::gpu::advert;
use crate::local::LocalHost;
use crate::open::Opened;

/// What a secret derived from the node's key is for.
const TOKEN_PURPOSE: &str = "nearfield 2026-11 function tokens";

/// How busy this node's host is, asked again for each beat.
pub type Measure = Arc<dyn Fn() -> Load + Send + Sync>;

/// A node that is ready to serve.
pub struct Wired {
    pub opened: Opened,
    pub gateway: Arc<Gateway>,
    /// This node's own host.
    pub here: Arc<dyn Host>,
    pub load: Measure,
    pub residents: Residents,
    pub admin_url: String,
    /// Cancelled once the node is to stop.
    pub stop: CancellationToken,
}

impl Wired {
    pub fn wire(opened: Opened) -> anyhow::Result<Self> {
        let config = &opened.config;
        let (store, node) = (&opened.store, &opened.node);
        let hosts = Arc::new(Hosts::new(node.id()));
        let rate = Arc::<AtomicU64>::default();
        store.connect(Arc::new(PeerBlobs {
            node: node.clone(),
            hosts: hosts.clone(),
            rate: rate.clone(),
        }));
        let load = measure(&opened, rate);
        let here: Arc<dyn Host> = Arc::new(LocalHost {
            id: node.id(),
            host: opened.host.clone(),
            identity: opened.identity.clone(),
        });
        if config.hosting {
            hosts.enter_local(load(), &node.records());
        }
        let cluster = Arc::new(Cluster::new(
            Catalog::new(store.clone(), node.clone(), opened.remembered.clone()),
            hosts,
            Dispatch::new(
                node.id(),
                config.hosting.then(|| here.clone()),
                node.peers().clone(),
            ),
        ));
        let (stop, workers) = (CancellationToken::new(), opened.runtimes.job_workers);
        let jobs = Jobs::open(config.data_dir.jobs(), cluster.clone(), workers, stop.clone())?;
        let residents = match &opened.gpu {
            Some(gpu) => gpu.residents(),
            // Nothing ever comes of it.
            None => watch::channel(Arc::default()).1,
        };
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let admin_url = format!("{scheme}://{}", opened.admin.local_addr()?);
        let gateway = Arc::new(gateway(&opened, cluster, Arc::new(jobs), scheme)?);
        Ok(Wired {
            opened,
            gateway,
            here,
            load,
            residents,
            admin_url,
            stop,
        })
    }
}

fn gateway(opened: &Opened, cluster: Arc<Cluster>, jobs: Arc<Jobs>, scheme: &str) -> anyhow::Result<Gateway> {
    let config = &opened.config;
    let token_file = config.data_dir.admin_token();
    let token = load_or_create_admin_token(&token_file)
        .with_context(|| format!("the admin token {}", token_file.display()))?;
    let auth =
        Auth::new(&token, opened.identity.derive(TOKEN_PURPOSE)).context("the key for function tokens")?;
    let functions_url = match &opened.functions {
        Some(functions) => format!("{scheme}://{}", functions.local_addr()?),
        None => String::new(),
    };
    Ok(Gateway {
        cluster,
        jobs,
        auth,
        admission: Admission::default(),
        routes: Routes::default(),
        calls: Calls::default(),
        metrics: Metrics::default(),
        started: Instant::now(),
        max_store_bytes: config.max_bytes,
        proxies: Proxies::new(config.trusted_proxy.clone()),
        admin_hosts: AdminHosts::new(config.admin_host.clone()),
        functions_url,
        leaving: CancellationToken::new(),
    })
}

fn measure(opened: &Opened, rate: Arc<AtomicU64>) -> Measure {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u32;
    let job_workers = opened.runtimes.job_workers as u32;
    let (host, store) = (opened.host.clone(), opened.store.clone());
    let (node, gpu) = (opened.node.clone(), opened.gpu.clone());
    Arc::new(move || Load {
        calls: host.calls() as u32,
        fuel_per_ms: host.fuel_per_ms(),
        link_bytes_per_ms: rate.load(Ordering::Relaxed),
        cores,
        job_workers,
        free_bytes: free_bytes(&store, &node),
        gpu: gpu.as_ref().and_then(advert),
    })
}

/// What the store can still take for others: its own bounds, and what the node was invited for.
fn free_bytes(store: &Store, node: &Node) -> Option<u64> {
    let free = store.free_bytes().ok()?;
    let records = node.records();
    let offered = records.node(&node.id()).and_then(|member| member.node.max_bytes);
    let Some(offered) = offered else { return Some(free) };
    Some(free.min(offered.saturating_sub(store.lasting_bytes().ok()?)))
}
