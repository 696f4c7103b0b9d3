//! A node's life.

use anyhow::{Context, bail};
use nearfield_net::{Network, Ticket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;

use crate::config::Config;
use crate::listeners::{check_encrypted, peers_address};
use crate::open::Opened;
use crate::runtimes::Threads;
use crate::serve::serve;
use crate::tls;
use crate::up::Up;
use crate::walls;
use crate::wire::Wired;

/// Redeems a ticket: from then on the folder belongs to a network, and [`run`] starts it there. `forget` gives up the network
/// that it belonged to.
pub fn join(config: &Config, ticket: &Ticket, forget: bool) -> anyhow::Result<Network> {
    let data_dir = &config.data_dir;
    data_dir.prepare()?;
    if forget {
        Network::forget(data_dir.root()).context("forgetting the folder's network")?;
    }
    if Network::load(data_dir.root())?.is_some() {
        bail!(
            "{} belongs to a network already, and `nearfield up` starts it there; to join another, choose another \
             --data-dir, or give up that network with --forget",
            data_dir.root().display()
        );
    }
    let identity = data_dir.identity()?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a thread")?;
    let listen = peers_address(config)?;
    let joined = nearfield_net::join(data_dir.root(), &identity, listen, &config.advertise, ticket);
    runtime.block_on(joined).context("joining the network")
}

/// Runs a node until it is told to stop, by a signal or because it left its network. `up` is told where it is.
pub fn run(config: Config, up: impl FnOnce(&Up)) -> anyhow::Result<()> {
    raise_open_files();
    let acceptor = match &config.tls {
        Some((cert, key)) => Some(tls::acceptor(cert, key)?),
        None => None,
    };
    check_encrypted(&config)?;
    config.data_dir.prepare()?;
    // Landlock holds this thread and those that it starts, so the node closes itself in before it starts any.
    walls::close_in(&config)?;
    let threads = Threads::start(config.job_workers).context("starting the guests' threads")?;
    let control = Builder::new_multi_thread()
        .enable_all()
        .thread_name("nearfield")
        .build()
        .context("starting threads")?;
    let ended = control.block_on(async {
        let opened = Opened::open(config, threads.handles()).await?;
        let wired = Wired::wire(opened)?;
        serve(wired, acceptor).await?.until_told(up).await
    });
    // Guests that still run have no listener any more.
    threads.leave();
    ended
}

/// As many open files as the system gives this user: connections, mapped shards and files in place add up to more than the
/// usual soft limit of 1,024.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, soft_limit = limit.current, "the limit on open files stays as it is");
    }
}
