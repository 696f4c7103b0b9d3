//! `nearfield up`: the composition root. Every long-lived task of a node starts here.

use std::fs;
use std::io::{self, BufReader, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nearfield_gateway::{
    AdminHosts, Admission, Auth, Calls, Catalog, Cluster, Dispatch, Gateway, Host, Hosts, JobRecord, Jobs,
    Metrics, PeerBlobs, Proxies, Routes, Serving, Side, load_or_create_admin_token, serve, serve_calls,
};
use nearfield_gpu::client::{self, GpuOptions, WorkerCommand};
use nearfield_gpu::wire::Choice;
use nearfield_host::{CompilerCommand, HostOptions, Logs};
use nearfield_net::control::{Load, Reporter};
use nearfield_net::remote::{Remote, RemoteObjects};
use nearfield_net::{Identity, Network, Node, NodeOptions};
use nearfield_protocol::Digest;
use nearfield_protocol::gpu::{AdapterKind, GpuAdvert};
use nearfield_protocol::node::Role;
use nearfield_store::{Objects, Remembered, Store, StoreOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{self, pki_types};
use tokio_util::sync::CancellationToken;

use crate::args::{Gpu, JoinArgs, UpArgs};
use crate::data_dir;
use crate::local::LocalHost;
use crate::machine;
use crate::walls;

/// How much guests stand back behind listeners and control, as a nice value, and jobs behind calls.
const GUEST_NICE: i32 = 5;
const JOB_NICE: i32 = 15;
/// One blob is hashed again this often: 4 MiB a second, a terabyte in three days.
const SCRUB_INTERVAL: Duration = Duration::from_secs(1);
/// How often remembered results are looked through: they may exceed their limit for as long.
const EVICT_INTERVAL: Duration = Duration::from_secs(60);
/// Where other nodes reach a node that says nothing else.
const USUAL_PEERS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8082);
/// How often a node looks whether it has heard from another gateway since its start, and how long.
const HEARING: Duration = Duration::from_millis(100);
const LONGEST_HEARING: Duration = Duration::from_secs(60);
/// What a secret derived from the node's key is for.
const TOKEN_PURPOSE: &str = "nearfield 2026-11 function tokens";

/// Redeems a ticket, then runs a node until it is told to stop.
pub fn join(args: JoinArgs, up: UpArgs, json: bool) -> anyhow::Result<()> {
    let data_dir = up.data_dir.as_path();
    data_dir::prepare(data_dir)?;
    if args.forget {
        Network::forget(data_dir).context("forgetting the folder's network")?;
    }
    if Network::load(data_dir)?.is_some() {
        bail!(
            "{} belongs to a network already, and `nearfield up` starts it there; to join another, choose another \
             --data-dir, or give up that network with --forget",
            data_dir.display()
        );
    }
    let identity = identity(data_dir)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a thread")?;
    let listen = peers_address(&up)?;
    let joined = nearfield_net::join(data_dir, &identity, listen, &up.advertise, &args.ticket);
    let network = runtime.block_on(joined).context("joining the network")?;
    drop(runtime);
    eprintln!("joined as a {} by {}", network.role, args.ticket.issuer.short());
    run(up, json)
}

/// Runs a node until it is told to stop.
pub fn run(args: UpArgs, json: bool) -> anyhow::Result<()> {
    start_logs();
    raise_open_files();
    let tls = acceptor(&args)?;
    for (name, address) in [("--listen", args.listen), ("--admin", args.admin)] {
        if !address.ip().is_loopback() && tls.is_none() && !args.insecure {
            bail!(
                "{name} {address} would serve tokens in plain text to the network: give --tls-cert and \
                 --tls-key, or --insecure if something in front of it encrypts"
            );
        }
    }
    data_dir::prepare(&args.data_dir)?;
    // Landlock holds this thread and those that it starts, so the node closes itself in before it starts any.
    walls::close_in(&args)?;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let job_workers = args.job_workers.map_or(cores, NonZeroUsize::get);
    let guests =
        guest_runtime("nearfield-guest", cores, GUEST_NICE).context("starting the guests' threads")?;
    let jobs = guest_runtime("nearfield-job", job_workers, JOB_NICE).context("starting the jobs' threads")?;
    let runtimes = Runtimes {
        guests: guests.handle().clone(),
        jobs: jobs.handle().clone(),
        job_workers,
    };
    let control = Builder::new_multi_thread()
        .enable_all()
        .thread_name("nearfield")
        .build()
        .context("starting threads")?;
    let ended = control.block_on(node(args, json, tls, runtimes));
    // Guests that still run have no listener any more.
    guests.shutdown_background();
    jobs.shutdown_background();
    ended
}

/// Where guests run.
struct Runtimes {
    guests: Handle,
    jobs: Handle,
    job_workers: usize,
}

async fn node(args: UpArgs, json: bool, tls: Option<TlsAcceptor>, runtimes: Runtimes) -> anyhow::Result<()> {
    let data_dir = args.data_dir.as_path();
    let role = Network::load(data_dir)?.map_or(Role::Gateway, |network| network.role);
    if role == Role::Host && args.no_host {
        bail!("this node joined as a host: --no-host is for gateways");
    }
    // A host alone takes no requests: gateways bring them.
    let functions = match role {
        Role::Gateway => Some(bind(args.listen, "--listen").await?),
        Role::Host => None,
    };
    let admin = bind(args.admin, "--admin").await?;

    let store_options = StoreOptions {
        max_bytes: args.max_bytes,
        allow_paths: args.allow_path.clone(),
        objects: remote_objects(&args.allow_source)?,
        max_cached_bytes: args.max_cached,
        ..StoreOptions::default()
    };
    let store = Store::open(data_dir, store_options).await?;
    // The store is opened by one process at a time.
    let left =
        data_dir::remove_leftovers(data_dir).context("removing what an earlier process left half written")?;
    if left > 0 {
        tracing::info!(files = left, "removed what an earlier process left half written");
    }
    let identity = identity(data_dir)?;
    let options = NodeOptions {
        listen: peers_address(&args)?,
        advertise: args.advertise.clone(),
    };
    let (node, inbox) = Node::open(data_dir, &identity, store.clone(), &options).await?;
    keep_peers_address(data_dir, &node)?;
    let remembered = Remembered::open(data_dir, store.clone(), args.max_remembered)?;
    let (logs, log_writer) = Logs::open(data_dir.join("logs"))?;
    let hosting = !args.no_host;
    let gpu = match (&args.gpu, hosting) {
        (Gpu::Off, _) | (_, false) => None,
        (Gpu::On(choice), true) => {
            let options = gpu_options(choice.clone(), args.gpu_memory)?;
            Some(client::Gpu::start(options).context("starting the GPU's thread")?)
        }
    };
    let host = nearfield_host::Host::new(
        store.clone(),
        HostOptions {
            code_dir: data_dir.join("code"),
            compiler: CompilerCommand {
                program: std::env::current_exe()
                    .context("finding this executable, which compiles components")?,
                arguments: vec!["compile-component".into()],
            },
            guests: runtimes.guests.clone(),
            jobs: runtimes.jobs,
            job_workers: runtimes.job_workers,
            remembered: remembered.clone(),
            logs,
            gpu: gpu.clone(),
            memory_bytes: args.guest_memory.unwrap_or_else(|| machine::memory_bytes() / 2),
        },
    )?;
    let token_file = data_dir.join("admin.token");
    let token = load_or_create_admin_token(&token_file)
        .with_context(|| format!("the admin token {}", token_file.display()))?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let functions_url = match &functions {
        Some(functions) => format!("{scheme}://{}", functions.local_addr()?),
        None => String::new(),
    };
    let admin_url = format!("{scheme}://{}", admin.local_addr()?);

    let stop = CancellationToken::new();
    let hosts = Arc::new(Hosts::new(node.id()));
    let rate = Arc::<AtomicU64>::default();
    store.connect(Arc::new(PeerBlobs {
        node: node.clone(),
        hosts: hosts.clone(),
        rate: rate.clone(),
    }));
    let (load, here): (Arc<dyn Fn() -> Load + Send + Sync>, Arc<dyn Host>) = {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get) as u32;
        let job_workers = runtimes.job_workers as u32;
        let (measured, kept, member, gpu) = (host.clone(), store.clone(), node.clone(), gpu.clone());
        let load = move || Load {
            calls: measured.calls() as u32,
            fuel_per_ms: measured.fuel_per_ms(),
            link_bytes_per_ms: rate.load(Ordering::Relaxed),
            cores,
            job_workers,
            free_bytes: free_bytes(&kept, &member),
            gpu: gpu.as_ref().and_then(advert),
        };
        let here = LocalHost {
            id: node.id(),
            host,
            identity: identity.clone(),
        };
        (Arc::new(load), Arc::new(here))
    };
    if hosting {
        hosts.enter_local(load(), &node.records());
    }
    let leaving = CancellationToken::new();
    let gateway = Arc::new(Gateway {
        auth: Auth::new(&token, identity.derive(TOKEN_PURPOSE)).context("the key for function tokens")?,
        admission: Admission::default(),
        routes: Routes::default(),
        hosts,
        calls: Calls::default(),
        metrics: Metrics::default(),
        dispatch: Dispatch::new(node.id(), hosting.then(|| here.clone()), node.peers().clone()),
        leaving: leaving.clone(),
        started: Instant::now(),
        max_store_bytes: args.max_bytes,
        proxies: Proxies::new(args.trusted_proxy),
        admin_hosts: AdminHosts::new(args.admin_host),
        functions_url: functions_url.clone(),
        catalog: Catalog::new(store.clone(), node.clone(), remembered),
        jobs: Jobs::open(data_dir.join("jobs"), stop.clone())?,
        job_workers: runtimes.job_workers,
    });

    let residents = match &gpu {
        Some(gpu) => gpu.residents(),
        // Nothing ever comes of it.
        None => watch::channel(Arc::default()).1,
    };
    // Listed before anybody can write; looked through while the node already serves.
    let sealed = store.live()?;
    let interrupted = gateway.jobs.interrupted()?;
    let log_writer = tokio::spawn(log_writer.run());
    let scrubber = tokio::spawn(scrub(store.clone(), stop.clone()));
    let cluster = Cluster {
        gateway: gateway.clone(),
        stop: stop.clone(),
    };
    let mut among_nodes = vec![
        tokio::spawn(follow_records(node.clone(), stop.clone())),
        tokio::spawn(cluster.clone().follow_members(inbox.members)),
        tokio::spawn(cluster.clone().follow_records()),
        tokio::spawn(cluster.clone().follow_residency()),
        tokio::spawn(cluster.clone().answer(inbox.questions)),
        tokio::spawn(
            Reporter {
                hosting,
                load: load.clone(),
                residents: residents.clone(),
            }
            .run(node.clone(), stop.clone()),
        ),
    ];
    if hosting {
        among_nodes.push(tokio::spawn(cluster.clone().follow_own(load, residents)));
        let serving = Arc::new(Serving::new(here, gateway.clone()));
        let calls = serve_calls(serving, inbox.calls, runtimes.guests.clone(), stop.clone());
        among_nodes.push(tokio::spawn(calls));
    }
    if role == Role::Gateway {
        among_nodes.push(tokio::spawn(cluster.repair()));
    }
    for task in among_nodes.iter_mut() {
        let ended = std::mem::replace(task, tokio::spawn(async {}));
        *task = tokio::spawn(needed(ended, stop.clone()));
    }
    node.admitted().await?;
    // Function connections live where guests run, which saves handing each call to another thread and
    // its answer back. The admin API keeps threads that no guest can delay.
    let mut serving = vec![tokio::spawn(serve(
        gateway.clone(),
        Side::Admin,
        admin,
        tls.clone(),
        stop.clone(),
    ))];
    if let Some(functions) = functions {
        let functions = serve(gateway.clone(), Side::Functions, functions, tls, stop.clone());
        serving.push(runtimes.guests.spawn(functions));
    }
    let orphans = tokio::spawn(settle(gateway.clone(), sealed, interrupted));
    let evictor = tokio::spawn(evict(gateway.clone(), stop.clone()));
    // Before anybody is told that there is a node to stop.
    let asked = stopped()?;
    announce(json, &node, &functions_url, &admin_url, data_dir);

    tokio::select! {
        () = asked => {}
        () = leaving.cancelled() => {}
    }
    let asked_again = stopped()?;
    tokio::spawn(async {
        // Whoever asks twice does not want to wait.
        asked_again.await;
        std::process::exit(130);
    });
    eprintln!(
        "stopping: no new connections; open ones have {} s",
        nearfield_gateway::DRAIN.as_secs()
    );
    stop.cancel();
    store.stop();
    for listener in serving {
        listener.await?;
    }
    for task in among_nodes {
        task.await?;
    }
    scrubber.await?;
    evictor.await?;
    orphans.abort();
    gateway.jobs.ended().await;
    drop(gateway);
    node.shutdown().await;
    store.shutdown().await;
    // The writer ends with the last guest's log; a guest that never ends must not hold the node.
    log_writer.abort();
    Ok(())
}

/// What the store can still take for others: its own bounds, and what the node was invited for.
fn free_bytes(store: &Store, node: &Node) -> Option<u64> {
    let free = store.free_bytes().ok()?;
    let records = node.records();
    let offered = records.node(&node.id()).and_then(|member| member.node.max_bytes);
    let Some(offered) = offered else { return Some(free) };
    Some(free.min(offered.saturating_sub(store.lasting_bytes().ok()?)))
}

/// How the GPU's worker is started: as this same program.
pub fn gpu_options(choice: Choice, budget_bytes: Option<u64>) -> anyhow::Result<GpuOptions> {
    Ok(GpuOptions {
        worker: WorkerCommand {
            program: std::env::current_exe().context("finding this executable, which drives the GPU")?,
            arguments: vec!["gpu-worker".into()],
        },
        choice,
        budget_bytes,
    })
}

/// What others are told of the GPU, once it is known.
fn advert(gpu: &client::Gpu) -> Option<GpuAdvert> {
    let description = gpu.known()?;
    Some(GpuAdvert {
        name: description.name.as_str().into(),
        kind: match description.software {
            true => AdapterKind::Software,
            false => AdapterKind::Hardware,
        },
        resident_bytes: gpu.resident_bytes(),
    })
}

fn identity(data_dir: &Path) -> anyhow::Result<Identity> {
    let key = data_dir.join("node.key");
    Identity::load_or_create(&key).with_context(|| format!("the node's key {}", key.display()))
}

/// Where this node keeps the address at which others reach it.
fn peers_file(data_dir: &Path) -> PathBuf {
    data_dir.join("peers.address")
}

/// Where other nodes reach this one: as asked, else as before, else at the usual port if that is free.
fn peers_address(args: &UpArgs) -> anyhow::Result<SocketAddr> {
    let before = fs::read_to_string(peers_file(&args.data_dir)).ok();
    let before: Option<SocketAddr> = before.and_then(|text| text.trim().parse().ok());
    Ok(match (args.peers, before) {
        // Any port is the one that others know.
        (Some(asked), Some(before)) if asked.port() == 0 && asked.ip() == before.ip() => before,
        (Some(asked), _) => asked,
        (None, Some(before)) => before,
        (None, None) => match std::net::UdpSocket::bind(USUAL_PEERS) {
            Ok(_) => USUAL_PEERS,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => SocketAddr::new(USUAL_PEERS.ip(), 0),
            Err(error) => return Err(error).with_context(|| format!("listening on UDP {USUAL_PEERS}")),
        },
    })
}

/// After a restart this node is where others look for it.
fn keep_peers_address(data_dir: &Path, node: &Node) -> anyhow::Result<()> {
    if let Some(address) = node.listening().first() {
        fs::write(peers_file(data_dir), address.to_string())
            .context("writing down the address for other nodes")?;
    }
    Ok(())
}

/// Takes in what other nodes write. Without that a node must not go on: what it says would be old.
async fn follow_records(node: Node, stop: CancellationToken) {
    if let Err(error) = node.follow_records(stop).await {
        tracing::error!(%error, "the records cannot be followed");
        std::process::exit(1);
    }
}

/// A task without which a node must not go on: what it shows would be old.
async fn needed(task: JoinHandle<()>, stop: CancellationToken) {
    let ended = task.await;
    if !stop.is_cancelled() {
        tracing::error!(
            ?ended,
            "a task that a node cannot do without has ended; so does the node"
        );
        std::process::exit(1);
    }
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

/// Where everything is, on stdout: people read it, scripts parse it.
fn announce(json: bool, node: &Node, functions_url: &str, admin_url: &str, data_dir: &Path) {
    if json {
        let value = json!({
            "node": node.id().to_string(),
            "role": node.role(),
            "peers": node.addresses(),
            "functions_url": functions_url,
            "admin_url": admin_url,
            "data_dir": data_dir,
        });
        println!("{value}");
        return;
    }
    println!("nearfield {} is up", env!("CARGO_PKG_VERSION"));
    if !functions_url.is_empty() {
        println!("  functions  {functions_url}");
    }
    println!("  admin      {admin_url}");
    println!("  data       {}", data_dir.display());
    println!("  node       {} ({})", node.id(), node.role());
    let peers: Vec<String> = node
        .addresses()
        .iter()
        .map(|address| format!("UDP {address}"))
        .collect();
    println!("  peers      {}", peers.join(", "));
    println!("Put data with `nearfield put PATH --name NAME`, make a function with `nearfield new NAME`.");
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!(
                "{address} is taken, perhaps by another nearfield: stop that, or choose another with {flag}"
            )
        }
        Err(error) => Err(error).with_context(|| format!("listening on {address}")),
    }
}

/// Threads that run guests and nothing else, less urgent than ours.
fn guest_runtime(name: &str, threads: usize, nice: i32) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .worker_threads(threads)
        .thread_name(name)
        .on_thread_start(move || {
            // On Linux this concerns the calling thread alone. If it is refused, guests are as urgent.
            let _ = rustix::process::setpriority_process(None, nice);
        })
        .build()
}

/// Forgets remembered results beyond their limit, now and then, for as long as the node runs.
async fn evict(gateway: Arc<Gateway>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVICT_INTERVAL) => {}
        }
        match gateway.catalog.evict_remembered().await {
            Ok(0) => {}
            Ok(results) => tracing::info!(results, "forgot the least used remembered results"),
            Err(problem) => tracing::warn!(%problem, "forgetting remembered results"),
        }
    }
}

/// Lets go of what a crash left sealed but unnamed; then jobs that it interrupted go on, which may make the
/// same blobs again.
async fn settle(gateway: Arc<Gateway>, sealed: Vec<Digest>, interrupted: Vec<JobRecord>) {
    // First: the name of what they work on may be gone.
    let mut held = Vec::new();
    for record in interrupted {
        let hold = Jobs::hold(&gateway, &record).await;
        held.push((record, hold));
    }
    // What was put last may stand in records that this node has yet to hear of.
    let node = &gateway.catalog.node;
    let heard = async {
        while !node.gateways().is_empty() && !node.heard() {
            tokio::time::sleep(HEARING).await;
        }
    };
    let sealed = match tokio::time::timeout(LONGEST_HEARING, heard).await {
        Ok(()) => sealed,
        // Nothing is let go of before the next start.
        Err(_) => Vec::new(),
    };
    match gateway.catalog.release_orphans(sealed).await {
        Ok(0) => {}
        Ok(bytes) => tracing::info!(bytes, "released blobs that nothing refers to"),
        Err(problem) => tracing::warn!(%problem, "cannot tell which blobs nothing refers to"),
    }
    nearfield_gateway::resume_jobs(&gateway, held);
}

/// Hashes one blob after another, slowly, for as long as the node runs.
async fn scrub(store: Store, stop: CancellationToken) {
    let start = Digest::from_bytes([0; 32]);
    let mut after = start;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SCRUB_INTERVAL) => {}
        }
        after = match store.scrub_next(after).await {
            Ok(next) => next.unwrap_or(start),
            Err(error) => {
                tracing::error!(%error, "scrubbing");
                start
            }
        };
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

fn acceptor(args: &UpArgs) -> anyhow::Result<Option<TlsAcceptor>> {
    let (cert, key) = match (&args.tls_cert, &args.tls_key) {
        (Some(cert), Some(key)) => (cert, key),
        (None, None) => return Ok(None),
        _ => bail!("--tls-cert and --tls-key go together"),
    };
    let open = |path: &Path| {
        fs::File::open(path)
            .map(BufReader::new)
            .with_context(|| format!("opening {}", path.display()))
    };
    use pki_types::pem::PemObject;
    let chain: Vec<_> = pki_types::CertificateDer::pem_reader_iter(open(cert)?)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is no PEM certificate chain", cert.display()))?;
    let key = pki_types::PrivateKeyDer::from_pem_reader(open(key)?)
        .with_context(|| format!("{} is no PEM private key", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate and key do not fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// Logs go to stderr: text for people, JSON lines otherwise. `RUST_LOG` chooses what.
fn start_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "warn,iroh_docs=error,nearfield=info".into());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    // A second subscriber is only possible in a process that has one already.
    let _ = if io::stderr().is_terminal() {
        subscriber.try_init()
    } else {
        subscriber.json().try_init()
    };
}
