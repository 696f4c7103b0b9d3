//! How a node is to run.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use nearfield_gateway::ProxyRange;
use nearfield_gpu::wire::Choice;
use nearfield_remote::Remote;

use crate::data_dir::DataDir;

/// All that is said of a node before it starts.
#[derive(Debug, Clone)]
pub struct Config {
    pub data_dir: DataDir,
    /// Where functions and bytes are served.
    pub listen: SocketAddr,
    /// Where the admin API is served.
    pub admin: SocketAddr,
    /// Where other nodes reach this one over UDP; where they did before, or the usual port, without it.
    pub peers: Option<SocketAddr>,
    /// Addresses at which others reach this node and that it cannot see itself.
    pub advertise: Vec<SocketAddr>,
    /// Whether the node runs functions and holds shards.
    pub hosting: bool,
    /// Most bytes of its store; without it all of the disk.
    pub max_bytes: Option<u64>,
    /// Most bytes of other nodes' shards that stay after they were fetched.
    pub max_cached: u64,
    /// Most bytes of remembered results.
    pub max_remembered: u64,
    /// Folders whose files may be put in place.
    pub allow_path: Vec<PathBuf>,
    /// URLs that may be put in place, with all below them.
    pub allow_source: Vec<Remote>,
    /// Runs of jobs at once; as many as there are cores without it.
    pub job_workers: Option<NonZeroUsize>,
    /// Bytes of memory of all guests together; half of what the process may use without it.
    pub guest_memory: Option<u64>,
    /// The GPU that functions may use, if they may use one.
    pub gpu: Option<Choice>,
    /// Bytes of the GPU's memory.
    pub gpu_memory: Option<u64>,
    /// PEM files of the certificate chain and its key, for both listeners.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whether plain text may be served on addresses that others can reach.
    pub insecure: bool,
    /// Whether the process closes itself in.
    pub sandbox: bool,
    /// Who may say where a request comes from.
    pub trusted_proxy: Vec<ProxyRange>,
    /// Names under which the admin API answers without its token.
    pub admin_host: Vec<String>,
}
