//! Starts all that runs for as long as a node does, and ends it.

use std::io;
use std::sync::Arc;

use nearfield_cluster::Member;
use nearfield_gateway::{DRAIN, Gateway, Serving, Side, serve as serve_listener, serve_calls};
use nearfield_net::Node;
use nearfield_net::control::Reporter;
use nearfield_protocol::node::Role;
use nearfield_store::Store;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::loops;
use crate::tasks::Tasks;
use crate::up::Up;
use crate::wire::Wired;

/// A node that is up.
pub struct RunningNode {
    tasks: Tasks,
    up: Up,
    gateway: Arc<Gateway>,
    node: Node,
    store: Store,
    /// What an earlier stop or a crash left is being settled.
    settling: JoinHandle<()>,
    log_writer: JoinHandle<()>,
}

/// Starts the tasks of a node. Everything that could go wrong was tried before, but for the network's word that this node is
/// one of its members.
pub async fn serve(wired: Wired, tls: Option<TlsAcceptor>) -> anyhow::Result<RunningNode> {
    let Wired {
        opened,
        gateway,
        here,
        load,
        residents,
        admin_url,
        stop,
    } = wired;
    let (cluster, node, store) = (gateway.cluster.clone(), opened.node, opened.store);
    // Listed before anybody can write; looked through while the node already serves.
    let sealed = store.live()?;
    let interrupted = gateway.jobs.interrupted()?;
    let log_writer = tokio::spawn(opened.log_writer.run());
    let mut tasks = Tasks::new(stop.clone());
    let (member, guests, hosting) = (
        Member {
            cluster: cluster.clone(),
            stop: stop.clone(),
        },
        opened.runtimes.guests,
        opened.config.hosting,
    );
    tasks.spawn("scrubbing", loops::scrub(store.clone(), stop.clone()));
    tasks.spawn("evicting", loops::evict(cluster.clone(), stop.clone()));
    tasks.spawn(
        "following others' records",
        loops::follow_records(node.clone(), stop.clone()),
    );
    tasks.spawn(
        "following members",
        member.clone().follow_members(opened.inbox.members),
    );
    tasks.spawn("following records", member.clone().follow_records());
    tasks.spawn("following residency", member.clone().follow_residency());
    tasks.spawn("answering members", member.clone().answer(opened.inbox.questions));
    let reporter = Reporter {
        hosting,
        load: load.clone(),
        residents: residents.clone(),
    };
    tasks.spawn("reporting", reporter.run(node.clone(), stop.clone()));
    if hosting {
        tasks.spawn(
            "following the own host",
            member.clone().follow_own(load, residents),
        );
        let serving = Arc::new(Serving::new(here, gateway.clone()));
        let calls = serve_calls(serving, opened.inbox.calls, guests.clone(), stop.clone());
        tasks.spawn("serving gateways", calls);
    }
    if opened.role == Role::Gateway {
        tasks.spawn("repairing", member.repair());
    }
    node.admitted().await?;
    let listen = |side, listener| serve_listener(gateway.clone(), side, listener, tls.clone(), stop.clone());
    // Function connections live where guests run, which saves handing each call to another thread and its answer back. The
    // admin API keeps threads that no guest can delay.
    tasks.spawn("serving the admin API", listen(Side::Admin, opened.admin));
    if let Some(functions) = opened.functions {
        tasks.spawn_on("serving functions", listen(Side::Functions, functions), &guests);
    }
    let settling = loops::settle(cluster, gateway.jobs.clone(), sealed, interrupted);
    Ok(RunningNode {
        settling: tokio::spawn(settling),
        up: Up {
            node: node.id(),
            role: node.role(),
            peers: node.addresses(),
            functions_url: gateway.functions_url.clone(),
            admin_url,
        },
        tasks,
        gateway,
        node,
        store,
        log_writer,
    })
}

impl RunningNode {
    /// Runs until a signal, or until the node has left its network; then stops. `up` is told where the node is.
    pub async fn until_told(mut self, up: impl FnOnce(&Up)) -> anyhow::Result<()> {
        // Before anybody is told that there is a node to stop.
        let asked = stopped()?;
        up(&self.up);
        tokio::select! {
            () = asked => {}
            () = self.gateway.leaving.cancelled() => {}
            ended = self.tasks.ended_early() => {
                tracing::error!(ended, "a task that a node cannot do without has ended; so does the node");
                std::process::exit(1);
            }
        }
        let asked_again = stopped()?;
        tokio::spawn(async {
            // Whoever asks twice does not want to wait.
            asked_again.await;
            std::process::exit(130);
        });
        eprintln!(
            "stopping: no new connections; open ones have {} s",
            DRAIN.as_secs()
        );
        self.stop().await;
        Ok(())
    }

    /// Ends everything, what takes work in before what does it, and what keeps data last.
    async fn stop(self) {
        self.tasks.stop.cancel();
        self.store.stop();
        self.tasks.all_ended().await;
        self.settling.abort();
        self.gateway.jobs.ended().await;
        drop(self.gateway);
        self.node.shutdown().await;
        self.store.shutdown().await;
        // The writer ends with the last guest's log; a guest that never ends must not hold the node.
        self.log_writer.abort();
    }
}

/// Ends at a SIGINT or SIGTERM that comes after this was called, if only later looked at.
fn stopped() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
