//! Opens all that a node has: its listeners, what lies in its data folder, its place in the network, its host.

use std::sync::Arc;

use anyhow::{Context, bail};
use nearfield_gpu::client::Gpu;
use nearfield_host::{CompilerCommand, Host, HostOptions, LogWriter, Logs};
use nearfield_net::{Identity, Inbox, Network, Node, NodeOptions};
use nearfield_protocol::node::Role;
use nearfield_remote::{Remote, RemoteObjects};
use nearfield_store::{Objects, Remembered, Store, StoreOptions};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::config::Config;
use crate::gpu::gpu_options;
use crate::listeners::{bind, keep_peers_address, peers_address};
use crate::machine;
use crate::runtimes::Runtimes;

/// What is open, and does not know each other yet.
pub struct Opened {
    pub config: Config,
    pub runtimes: Runtimes,
    pub role: Role,
    /// None for a host alone, which takes no requests: gateways bring them.
    pub functions: Option<TcpListener>,
    pub admin: TcpListener,
    pub store: Store,
    pub remembered: Remembered,
    pub identity: Identity,
    pub node: Node,
    pub inbox: Inbox,
    pub gpu: Option<Gpu>,
    pub host: Host,
    pub log_writer: LogWriter,
}

impl Opened {
    /// Opens it, the listeners first: what is taken is said before anything is touched.
    pub async fn open(config: Config, runtimes: Runtimes) -> anyhow::Result<Self> {
        let data_dir = &config.data_dir;
        let role = Network::load(data_dir.root())?.map_or(Role::Gateway, |network| network.role);
        if role == Role::Host && !config.hosting {
            bail!("this node joined as a host: --no-host is for gateways");
        }
        let functions = match role {
            Role::Gateway => Some(bind(config.listen, "--listen").await?),
            Role::Host => None,
        };
        let admin = bind(config.admin, "--admin").await?;
        let store = open_store(&config).await?;
        let identity = data_dir.identity()?;
        let options = NodeOptions {
            listen: peers_address(&config)?,
            advertise: config.advertise.clone(),
        };
        let (node, inbox) = Node::open(data_dir.root(), &identity, store.clone(), &options).await?;
        keep_peers_address(data_dir, &node)?;
        let remembered = Remembered::open(data_dir.root(), store.clone(), config.max_remembered)?;
        let (logs, log_writer) = Logs::open(data_dir.logs())?;
        let gpu = match &config.gpu {
            Some(choice) if config.hosting => {
                let options = gpu_options(choice.clone(), config.gpu_memory)?;
                Some(Gpu::start(options).context("starting the GPU's thread")?)
            }
            _ => None,
        };
        let host = open_host(&config, &runtimes, &store, &remembered, logs, gpu.clone())?;
        Ok(Opened {
            role,
            functions,
            admin,
            store,
            remembered,
            identity,
            node,
            inbox,
            gpu,
            host,
            log_writer,
            config,
            runtimes,
        })
    }
}

async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let options = StoreOptions {
        max_bytes: config.max_bytes,
        allow_paths: config.allow_path.clone(),
        objects: remote_objects(&config.allow_source)?,
        max_cached_bytes: config.max_cached,
        ..StoreOptions::default()
    };
    let store = Store::open(config.data_dir.root(), options).await?;
    // The store is opened by one process at a time.
    let left = config
        .data_dir
        .remove_leftovers()
        .context("removing what an earlier process left half written")?;
    if left > 0 {
        tracing::info!(files = left, "removed what an earlier process left half written");
    }
    Ok(store)
}

/// What of other servers may be put in place.
fn remote_objects(allowed: &[Remote]) -> anyhow::Result<Option<Arc<dyn Objects>>> {
    if let Some(secret) = allowed.iter().find(|url| url.has_secrets()) {
        bail!("--allow-source {secret} holds a password or a query, and it would be kept and shown");
    }
    Ok(match allowed {
        [] => None,
        some => Some(Arc::new(RemoteObjects::new(some.to_vec(), Handle::current()))),
    })
}

fn open_host(
    config: &Config,
    runtimes: &Runtimes,
    store: &Store,
    remembered: &Remembered,
    logs: Logs,
    gpu: Option<Gpu>,
) -> anyhow::Result<Host> {
    let program = std::env::current_exe().context("finding this executable, which compiles components")?;
    let options = HostOptions {
        code_dir: config.data_dir.code(),
        compiler: CompilerCommand {
            program,
            arguments: vec!["compile-component".into()],
        },
        guests: runtimes.guests.clone(),
        jobs: runtimes.jobs.clone(),
        job_workers: runtimes.job_workers,
        remembered: remembered.clone(),
        logs,
        gpu,
        memory_bytes: config.guest_memory.unwrap_or_else(|| machine::memory_bytes() / 2),
    };
    Ok(Host::new(store.clone(), options)?)
}
