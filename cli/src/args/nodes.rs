//! Verbs about the nodes of a network.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use nearfield_gateway::ProxyRange;
use nearfield_net::Ticket;
use nearfield_protocol::DatasetName;
use nearfield_protocol::node::{Label, Role};
use nearfield_protocol::units::{parse_bytes, parse_duration};
use nearfield_remote::Remote;

use super::address;
use super::values::Gpu;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield join nearfield1aeaq…                          with what `nearfield invite` printed
  nearfield join nearfield1aeaq… --data-dir /srv/nearfield --allow-path /var/log
  nearfield up                                            the next time: the folder knows its network")]
pub struct JoinArgs {
    /// What `nearfield invite` printed at a gateway
    pub ticket: Ticket,
    /// Forget the network that the folder belongs to first: its names are gone, its bytes are let go
    #[arg(long)]
    pub forget: bool,
    #[command(flatten)]
    pub up: UpArgs,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield invite                                        a host
  nearfield invite --label region=eu --max-bytes 500G
  nearfield invite --may-put logs                         a host that has data of its own
  nearfield invite --role gateway --expires 1d")]
pub struct InviteArgs {
    /// What the new node may do: a host holds shards and runs functions, a gateway also takes requests and decides
    #[arg(long, default_value = "host")]
    pub role: Role,
    /// What is true of the new node, for `put --only`; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// Most bytes of others' shards that it is to keep
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub max_bytes: Option<u64>,
    /// A dataset that the host may put; repeatable
    #[arg(long, value_name = "DATASET")]
    pub may_put: Vec<DatasetName>,
    /// How long the ticket can be used
    #[arg(long, default_value = "1h", value_parser = parse_duration, value_name = "TIME")]
    pub expires: Duration,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield drain 3f9a2c
  nearfield drain 3f9a2c --wait
  nearfield drain 3f9a2c --undo")]
pub struct DrainArgs {
    /// The node's id, or its beginning
    pub node: String,
    /// Let it take calls and shards again
    #[arg(long, conflicts_with = "wait")]
    pub undo: bool,
    /// Follow it until others keep all that the node holds
    #[arg(long)]
    pub wait: bool,
}

#[derive(Debug, Clone, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield up
  nearfield up --data-dir /srv/nearfield --max-bytes 500G
  nearfield up --listen 0.0.0.0:443 --tls-cert cert.pem --tls-key key.pem
  nearfield up --gpu hardware --gpu-memory 60G
  nearfield up --no-host                     a gateway for other machines' hosts")]
pub struct UpArgs {
    /// Where functions and bytes are served
    #[arg(long, value_parser = address, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where the admin API is served
    #[arg(long, value_parser = address, default_value = "127.0.0.1:8081", value_name = "ADDRESS")]
    pub admin: SocketAddr,
    /// Most bytes to keep; all of the disk without it
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub max_bytes: Option<u64>,
    /// A folder whose files may be put in place: read where they are, never written; repeatable
    #[arg(long, value_name = "FOLDER")]
    pub allow_path: Vec<PathBuf>,
    /// A URL that may be put in place, or all below it if it ends with /; s3://, https:// or http://; repeatable
    #[arg(long, value_name = "URL")]
    pub allow_source: Vec<Remote>,
    /// Where other nodes reach this one, UDP; port 8082 on all addresses without it, or another one if that is taken
    #[arg(long, value_parser = address, value_name = "ADDRESS")]
    pub peers: Option<SocketAddr>,
    /// An address at which others reach this node and that it cannot see itself; repeatable
    #[arg(long, value_parser = address, value_name = "ADDRESS")]
    pub advertise: Vec<SocketAddr>,
    /// Run no functions and hold no shards here: only take requests and decide where they run
    #[arg(long)]
    pub no_host: bool,
    /// Most bytes of other nodes' shards that may stay here after they were fetched
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", default_value = "8GiB")]
    pub max_cached: u64,
    /// Most bytes that remembered results of jobs may take; the least used go first
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", default_value = "16GiB")]
    pub max_remembered: u64,
    /// Shards that jobs work on at once; as many as there are cores without it
    #[arg(long, value_name = "N")]
    pub job_workers: Option<NonZeroUsize>,
    /// Memory of all guests together; half of what this machine, or the group of processes that the node is in, may use
    /// without it
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub guest_memory: Option<u64>,
    /// The GPU that functions may use: auto (hardware, or else the software adapter), hardware, software, off, or a
    /// part of an adapter's name
    #[arg(long, value_name = "GPU", default_value = "auto")]
    pub gpu: Gpu,
    /// Memory of the GPU for shards and calls; 4 GiB without it, 512 MiB on the software adapter
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub gpu_memory: Option<u64>,
    /// Certificate chain for the listeners, PEM
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, PEM
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Leave the node able to open all that this user may open, and to ask the kernel for anything
    #[arg(long)]
    pub no_sandbox: bool,
    /// Serve plain text on addresses that others can reach
    #[arg(long)]
    pub insecure: bool,
    /// A proxy before this node, as an address or a network such as 10.0.0.0/8, whose x-forwarded-for is believed; repeatable
    #[arg(long, value_name = "CIDR")]
    pub trusted_proxy: Vec<ProxyRange>,
    /// A name under which the admin API answers without its token, beside addresses and localhost; repeatable
    #[arg(long, value_name = "NAME")]
    pub admin_host: Vec<String>,
    /// The global `--data-dir` or its default; `commands::run` fills it in.
    #[arg(skip)]
    pub data_dir: PathBuf,
}
