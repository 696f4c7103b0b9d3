//! `nearfield up` and `nearfield join`: what is typed becomes a node's configuration, and where the node is gets printed.

use std::io::{self, IsTerminal};

use anyhow::bail;
use nearfield_node::{Config, DataDir, Up};
use serde_json::json;

use crate::args::{Gpu, JoinArgs, UpArgs};

/// Redeems a ticket, then runs a node until it is told to stop.
pub fn join(args: JoinArgs, up: UpArgs, json: bool) -> anyhow::Result<()> {
    let config = config(up)?;
    let network = nearfield_node::join(&config, &args.ticket, args.forget)?;
    eprintln!("joined as a {} by {}", network.role, args.ticket.issuer.short());
    run_with(config, json)
}

/// Runs a node until it is told to stop.
pub fn run(args: UpArgs, json: bool) -> anyhow::Result<()> {
    run_with(config(args)?, json)
}

fn run_with(config: Config, json: bool) -> anyhow::Result<()> {
    start_logs();
    let data_dir = config.data_dir.clone();
    nearfield_node::run(config, |up| announce(json, up, &data_dir))
}

fn config(args: UpArgs) -> anyhow::Result<Config> {
    let tls = match (args.tls_cert, args.tls_key) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => bail!("--tls-cert and --tls-key go together"),
    };
    Ok(Config {
        data_dir: DataDir::new(args.data_dir),
        listen: args.listen,
        admin: args.admin,
        peers: args.peers,
        advertise: args.advertise,
        hosting: !args.no_host,
        max_bytes: args.max_bytes,
        max_cached: args.max_cached,
        max_remembered: args.max_remembered,
        allow_path: args.allow_path,
        allow_source: args.allow_source,
        job_workers: args.job_workers,
        guest_memory: args.guest_memory,
        gpu: match args.gpu {
            Gpu::Off => None,
            Gpu::On(choice) => Some(choice),
        },
        gpu_memory: args.gpu_memory,
        tls,
        insecure: args.insecure,
        sandbox: !args.no_sandbox,
        trusted_proxy: args.trusted_proxy,
        admin_host: args.admin_host,
    })
}

/// Where everything is, on stdout: people read it, scripts parse it.
fn announce(json: bool, up: &Up, data_dir: &DataDir) {
    let Up {
        node,
        role,
        peers,
        functions_url,
        admin_url,
    } = up;
    if json {
        let value = json!({
            "node": node.to_string(),
            "role": role,
            "peers": peers,
            "functions_url": functions_url,
            "admin_url": admin_url,
            "data_dir": data_dir.root(),
        });
        println!("{value}");
        return;
    }
    println!("nearfield {} is up", env!("CARGO_PKG_VERSION"));
    if !functions_url.is_empty() {
        println!("  functions  {functions_url}");
    }
    println!("  admin      {admin_url}");
    println!("  data       {}", data_dir.root().display());
    println!("  node       {node} ({role})");
    let peers: Vec<String> = peers.iter().map(|address| format!("UDP {address}")).collect();
    println!("  peers      {}", peers.join(", "));
    println!("Put data with `nearfield put PATH --name NAME`, make a function with `nearfield new NAME`.");
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
