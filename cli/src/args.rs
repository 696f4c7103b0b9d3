//! What can be typed. Raw text becomes checked values here, so that verbs never parse.

mod jobs;
mod nodes;
mod values;

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use nearfield_gateway::ProxyRange;
use nearfield_net::remote::Remote;
use nearfield_protocol::node::Label;
use nearfield_protocol::units::{parse_bytes, parse_duration};
use nearfield_protocol::{DatasetName, FunctionName, PartName};

pub use jobs::{CancelArgs, ReplayArgs, RunArgs, WaitArgs};
pub use nodes::{DrainArgs, InviteArgs, JoinArgs};
pub use values::digest_or_beginning;
pub use values::{Gpu, Logged, RolledBack, Thing, TokenScope};
use values::{fuel_per_day, header, source, split};

use crate::source::Source;

/// Runs functions where their data is.
#[derive(Debug, Parser)]
#[command(
    name = "nearfield",
    version,
    max_term_width = 110,
    after_help = "\
Start here:
  nearfield up                               a node on this machine
  nearfield put access.log --name logs       data in
  nearfield new hello && nearfield deploy hello && nearfield call hello

Exit codes: 0 done, 1 failed, 2 usage, 3 the function failed, 4 not found, 5 unreachable, 6 not allowed,
7 over a limit, 124 timed out, 130 interrupted."
)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Debug, ClapArgs)]
pub struct Global {
    /// The node's admin URL; $NEARFIELD_URL or http://127.0.0.1:8081 without it
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    url: Option<String>,
    /// The token to show; $NEARFIELD_TOKEN or the one in DATA-DIR/admin.token without it
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    token: Option<String>,
    /// The node's folder; $NEARFIELD_DATA, $XDG_DATA_HOME/nearfield or ~/.local/share/nearfield without it
    #[arg(long, global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    data_dir: Option<PathBuf>,
    /// Print one JSON value instead of text; errors, too, on standard error
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    pub json: bool,
}

/// Where the help of each verb lists what all of them take.
const EVERYWHERE: &str = "Options of every command";

/// An address and port; a name, such as localhost, is looked up.
fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let all: Vec<SocketAddr> = text
        .to_socket_addrs()
        .map_err(|error| {
            format!("{error}; give an address and a port, such as 127.0.0.1:8080 or localhost:8080")
        })?
        .collect();
    // Of a name that has both, most clients mean the first kind.
    let chosen = all.iter().find(|address| address.is_ipv4()).or(all.first());
    chosen
        .copied()
        .ok_or_else(|| "the name has no address".to_owned())
}

/// A variable of the environment. An empty one is as good as none: scripts pass on what they were not given.
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Global {
    /// Where the node on this machine keeps everything.
    pub fn data_dir(&self) -> PathBuf {
        let path = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let named = self.data_dir.clone().or_else(|| path("NEARFIELD_DATA"));
        named.unwrap_or_else(|| {
            path("XDG_DATA_HOME")
                .or_else(|| Some(path("HOME")?.join(".local/share")))
                .unwrap_or_default()
                .join("nearfield")
        })
    }

    pub fn url(&self) -> String {
        let named = self.url.clone().or_else(|| env("NEARFIELD_URL"));
        named.unwrap_or_else(|| "http://127.0.0.1:8081".to_owned())
    }

    pub fn token(&self) -> Option<String> {
        self.token.clone().or_else(|| env("NEARFIELD_TOKEN"))
    }
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a node on this machine
    Up(UpArgs),
    /// Let this machine be part of another's network, and run a node on it
    Join(JoinArgs),
    /// Make a ticket with which a machine can join
    Invite(InviteArgs),
    /// Take this node out of its network, and end it
    Leave,
    /// Have a node hand over what it does and holds
    Drain(DrainArgs),
    /// Store a file, a folder, standard input or what a URL names as a dataset
    Put(PutArgs),
    /// Fetch a dataset, a file in one, or a blob
    Get(GetArgs),
    /// Make the crate of a new function
    New(NewArgs),
    /// Compile a crate to a component
    Build(CrateArgs),
    /// Run a crate's tests natively
    Test(TestArgs),
    /// Build, deploy and show logs, again after every change
    Dev(DevArgs),
    /// Put a function into service
    Deploy(DeployArgs),
    /// Call a function
    Call(CallArgs),
    /// Run a function over every shard of a dataset
    Run(RunArgs),
    /// The same as `ls jobs`
    #[command(hide = true)]
    Jobs,
    /// Follow a job to its end and show what it came to
    Wait(WaitArgs),
    /// Stop a job; what is done stays remembered
    Cancel(CancelArgs),
    /// Run one shard of a job again and show what it does, on the node or natively under a debugger
    Replay(ReplayArgs),
    /// List what the node has
    Ls(LsArgs),
    /// Show all about one thing
    Describe(DescribeArgs),
    /// Show the logs of a function or of a job
    Logs(LogsArgs),
    /// Bring an earlier version of a function or of a dataset back
    Rollback(RollbackArgs),
    /// Remove a function, a dataset or a token, or expel a node; asks nothing
    Rm(RmArgs),
    /// Keep a blob or a dataset's newest version even after `rm`
    Pin(PinArgs),
    /// Forget all but the newest versions of a dataset
    Prune(PruneArgs),
    /// Show what takes the store's bytes
    Du,
    /// Give out and take back tokens for calling functions
    Token(TokenArgs),
    /// Say where a call ran and why, what moved and what it cost
    Explain(ExplainArgs),
    /// Say whether the node is up, what it has and where it answers
    Status,
    /// Check what this machine has and lacks
    Doctor,
    /// Print what a shell needs to complete commands
    #[command(after_help = "\
Examples:
  nearfield completions bash > ~/.local/share/bash-completion/completions/nearfield
  nearfield completions zsh > ~/.zfunc/_nearfield")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// A node's compiling child: it closes itself in and dies with its input
    #[command(hide = true)]
    CompileComponent { target: String },
    /// A node's child that drives its GPU: it speaks with the node on its standard input and dies with it
    #[command(hide = true)]
    GpuWorker,
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

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield put access.log --name logs
  nearfield put photos/ --name photos
  nearfield put . --name sources --exclude target/ --exclude '*.tmp'
  nearfield put today.log --name logs --append
  nearfield put /var/log/app --name logs --in-place --split lines     with `up --allow-path /var/log`
  nearfield put /var/log/app.log --name logs --part web-1
  zcat events.gz | nearfield put - --name events --split ndjson
  nearfield put prices.csv --name prices --if-version 3     only over version 3
  nearfield put users.csv --name users --only region=eu --replicas 3
  nearfield put s3://bucket/2024/events.csv.gz --name events
  nearfield put s3://bucket/photos/ --name photos           all objects below, as a folder
  nearfield put https://example.org/prices.csv --name prices
  nearfield put s3://bucket/logs/ --name logs --in-place    with `up --allow-source s3://bucket/logs/`

S3 is read from here, or with --in-place by the node, as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
AWS_REGION and AWS_ENDPOINT_URL say; AWS_SKIP_SIGNATURE=true reads what everybody may.")]
pub struct PutArgs {
    /// A file, a folder, - for standard input, or a URL: s3://, https:// or http://
    #[arg(value_name = "PATH|URL", value_parser = source())]
    pub source: Source,
    /// The dataset's name
    #[arg(long)]
    pub name: DatasetName,
    /// Where shards may end: auto, lines, csv, ndjson, fixed:BYTES, files, bytes or none. lines, csv and ndjson cut text in
    /// UTF-8, gzip and zstd taken off, and refuse anything else; auto keeps that as it is, and says so
    #[arg(long, default_value = "auto", value_parser = split)]
    pub split: String,
    /// About how large a shard is: 4MiB, or as the dataset has it that this adds to
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    pub shard_size: Option<u64>,
    /// Sort the records by a CSV column or a JSON pointer, so that functions find them by it. A key is text: of a JSON number
    /// the digits as they are written (1.10 is not 1.1), of a JSON string what it says
    #[arg(long, value_name = "COLUMN|/POINTER", conflicts_with_all = ["append", "part", "in_place"])]
    pub key: Option<String>,
    /// Store no copy: index the files where they are. The node must be allowed to read them, and run here if they
    /// are not behind a URL
    #[arg(long)]
    pub in_place: bool,
    /// Leave these files or folders out, written as in a .gitignore; repeatable. A folder's .nearfieldignore holds such lines
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Leave out what git ignores, and .git
    #[arg(long, conflicts_with = "in_place")]
    pub gitignore: bool,
    /// Read a URL also over plain http from elsewhere than this machine
    #[arg(long, conflicts_with = "in_place")]
    pub insecure_source: bool,
    /// Add to what is there instead of replacing it
    #[arg(long)]
    pub append: bool,
    /// Replace, or with --append add to, this part alone: many machines put into one dataset
    #[arg(long, value_name = "NAME")]
    pub part: Option<PartName>,
    /// Fail unless this is the newest version now; 0: unless there is none
    #[arg(long, value_name = "VERSION")]
    pub if_version: Option<u64>,
    /// Hosts that are to keep each shard; 2, or as many as there are, without it
    #[arg(long, value_name = "N")]
    pub replicas: Option<u32>,
    /// Let only nodes with this label have the bytes; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub only: Vec<Label>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield get logs > access.log
  nearfield get photos -o photos/            into a new or empty folder
  nearfield get photos/2024/cat.jpg -o cat.jpg
  nearfield get b3:af1349b9…

What is there keeps its mode; new files and folders get theirs by the umask. Links are followed, and pipes and devices
written into.")]
pub struct GetArgs {
    /// DATASET, DATASET/PATH, b3:… or b3:…/PATH; of a digest its beginning will do
    pub target: String,
    /// A file, or for a folder a new or empty folder; standard output without it
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield new hello
  nearfield new squares --template gpu
  cd hello && nearfield test && nearfield dev")]
pub struct NewArgs {
    /// The function's, the crate's and the new folder's name
    pub name: FunctionName,
    /// What to start from
    #[arg(long, default_value = "http")]
    pub template: Template,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Template {
    /// Answers HTTP requests
    Http,
    /// Runs over every shard of a dataset
    Job,
    /// Computes on a GPU
    Gpu,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield build
  nearfield build functions/hello")]
pub struct CrateArgs {
    /// The crate's folder
    #[arg(default_value = ".")]
    pub path: PathBuf,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield test
  nearfield test functions/hello")]
pub struct TestArgs {
    /// The crate's folder
    #[arg(default_value = ".")]
    pub path: PathBuf,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield dev
  nearfield dev functions/hello")]
pub struct DevArgs {
    /// The folder of nearfield.toml
    #[arg(default_value = ".")]
    pub path: PathBuf,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield deploy                           all functions of ./nearfield.toml
  nearfield deploy functions/hello --public
  nearfield deploy hello.wasm --name hello   a component that was built elsewhere
  nearfield deploy --dry-run                 only check, and say what would change")]
pub struct DeployArgs {
    /// The folder of nearfield.toml, or a component
    #[arg(default_value = ".", value_name = "PATH|FILE.wasm")]
    pub path: PathBuf,
    /// Only this function of nearfield.toml; for a component, the function's name
    #[arg(long)]
    pub name: Option<FunctionName>,
    /// Let anybody call it, whatever nearfield.toml says
    #[arg(long)]
    pub public: bool,
    /// Check it and say what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield call hello
  nearfield call hello '/?name=Ada'
  nearfield call resize /photos/cat.jpg --data @cat.jpg --header content-type:image/jpeg > small.jpg")]
pub struct CallArgs {
    /// The function's name
    pub function: FunctionName,
    /// The path below the function's route, with its query; it begins with the route's parameters, if there are any
    #[arg(default_value = "")]
    pub path: String,
    /// GET, or POST with --data
    #[arg(long)]
    pub method: Option<String>,
    /// The body: text, @FILE, or @- for standard input
    #[arg(long, value_name = "TEXT|@FILE|@-")]
    pub data: Option<String>,
    /// One header; can be given again
    #[arg(long = "header", value_name = "KEY:VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield ls datasets
  nearfield ls jobs
  nearfield ls dataset/photos                the files of a dataset
  nearfield ls functions --json

`nearfield jobs` is `ls jobs`, and `nearfield token ls` is `ls tokens`. The beginnings of digests and ids that these tables
show are taken wherever a digest or an id is.")]
pub struct LsArgs {
    /// functions, datasets, nodes, jobs, tokens, pins, or dataset/NAME for the files of one
    #[arg(value_name = "WHAT")]
    pub what: Listed,
}

/// What is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    All(Listing),
    /// The files of a dataset.
    Files(DatasetName),
}

impl std::str::FromStr for Listed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("dataset/") {
            return name
                .parse()
                .map(Listed::Files)
                .map_err(|error| format!("{error}"));
        }
        Listing::from_str(text, true).map(Listed::All).map_err(|_| {
            format!("`{text}` is not functions, datasets, nodes, jobs, tokens, pins or dataset/NAME")
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Listing {
    Functions,
    Datasets,
    Nodes,
    Jobs,
    Tokens,
    Pins,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield describe function/hello
  nearfield describe dataset/app/logs
  nearfield describe dataset/app/logs --shards
  nearfield describe job/019ab1f04c3d7e52a8c06b9d2f41e730")]
pub struct DescribeArgs {
    /// Of a dataset, also list its first 1,000 shards and who holds them
    #[arg(long)]
    pub shards: bool,
    /// function/NAME, dataset/NAME, job/ID, token/ID or node/ID
    #[arg(value_name = "KIND/NAME")]
    pub thing: Thing,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield logs hello
  nearfield logs hello -f -n 10
  nearfield logs 019ab1f04c3d7e52a8c06b9d2f41e730            a job's, by its id
  nearfield logs 019ab1f04c3d7e52a8c06b9d2f41e730 --shard 17

A job's lines are those of the runs that its result is made of, whichever job ran them: a
shard that was remembered printed when it was mapped, and prints nothing again. The newest
16 MiB or so of a function's lines are kept; `nearfield replay` prints a shard's once more.")]
pub struct LogsArgs {
    /// A function's name or a job's id
    #[arg(value_name = "FUNCTION|JOB")]
    pub of: Logged,
    /// Go on with new lines as they come; of a job until it ends
    #[arg(short, long)]
    pub follow: bool,
    /// Of a job, only what the map of this shard printed
    #[arg(long, value_name = "N")]
    pub shard: Option<u32>,
    /// How many lines of the past
    #[arg(short = 'n', long, default_value_t = 100)]
    pub lines: u32,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield rollback hello                   to the version before
  nearfield rollback hello --to 3
  nearfield rollback dataset/app/logs        to the newest version with other bytes

The version that is brought back becomes the newest one; no version is lost.")]
pub struct RollbackArgs {
    /// A function's name, function/NAME or dataset/NAME
    #[arg(value_name = "FUNCTION|KIND/NAME")]
    pub thing: RolledBack,
    /// The version to bring back
    #[arg(long, value_name = "VERSION")]
    pub to: Option<u64>,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield rm function/hello
  nearfield rm dataset/app/logs
  nearfield rm token/8f2c
  nearfield rm node/4ac1 --keep-tokens       expelled, with its function tokens in force")]
pub struct RmArgs {
    /// With a dataset, also forget every result that was computed from it
    #[arg(long)]
    pub purge: bool,
    /// With a gateway, let the function tokens that it gave out go on: it can make others like them
    #[arg(long)]
    pub keep_tokens: bool,
    /// function/NAME, dataset/NAME, token/ID or node/ID
    #[arg(value_name = "KIND/NAME")]
    pub thing: Thing,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield pin photos
  nearfield pin b3:af1349b9… --remove
  nearfield ls pins")]
pub struct PinArgs {
    /// A dataset's name, or a digest or its beginning
    #[arg(value_name = "DATASET|b3:…")]
    pub target: String,
    /// Take the pin away
    #[arg(long)]
    pub remove: bool,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield prune app/logs --keep 4
  nearfield pin app/logs                     what is pinned stays whatever is pruned")]
pub struct PruneArgs {
    /// The dataset's name
    pub dataset: DatasetName,
    /// How many of the newest versions stay
    #[arg(long, value_name = "VERSIONS")]
    pub keep: NonZeroUsize,
}

#[derive(Debug, ClapArgs)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// Make a token; it is shown once and never kept
    #[command(after_help = "\
Examples:
  nearfield token create --function hello
  nearfield token create --function hello@b3:af1349b9… --max-fuel 1T/day --expires 30d")]
    Create {
        /// The function it may call, and the only component if one is named
        #[arg(long, value_name = "NAME[@b3:…]")]
        function: TokenScope,
        /// Fuel for all its calls within one UTC day
        #[arg(long, value_parser = fuel_per_day, value_name = "COUNT/day")]
        max_fuel: Option<u64>,
        /// For how long it is good; without it, until it is revoked
        #[arg(long, value_parser = parse_duration, value_name = "TIME")]
        expires: Option<Duration>,
    },
    /// Make a token that may do less than the one given; needs no node and no right but the token
    #[command(after_help = "\
Examples:
  nearfield token narrow $TOKEN --path /public --method GET
  nearfield token create --function hello | nearfield token narrow - --expires 1h")]
    Narrow {
        /// The token, or - to read it from standard input
        token: String,
        /// Only this path below the function's route, and what lies below it
        #[arg(long, value_name = "/PATH")]
        path: Option<String>,
        /// Only this method; may be given several times
        #[arg(long = "method", value_name = "METHOD")]
        methods: Vec<String>,
        /// For how long the new token is good
        #[arg(long, value_parser = parse_duration, value_name = "TIME")]
        expires: Option<Duration>,
    },
    /// Make a token useless, and all that were made of it
    Revoke {
        /// The token's id, as `nearfield ls tokens` lists it, or its beginning
        id: String,
    },
    /// The same as `ls tokens`
    #[command(hide = true)]
    Ls,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield explain 0192f3a1c5d07b3e9a64c1d2e3f40516     an id is in every response's nearfield-id
  nearfield explain e3f40516                             `nearfield logs` shows the end of it")]
pub struct ExplainArgs {
    /// A call's id, or its last six digits or more
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn addresses_may_be_names() {
        assert_eq!(address("127.0.0.1:8080"), Ok(([127, 0, 0, 1], 8080).into()));
        assert_eq!(address("localhost:8080").map(|address| address.port()), Ok(8080));
        assert!(address("localhost").is_err() && address("").is_err());
    }

    #[test]
    fn every_verb_and_argument_is_described() {
        fn look(command: &clap::Command, path: &str, lacks: &mut Vec<String>) {
            if command.get_about().is_none() {
                lacks.push(path.to_owned());
            }
            let arguments = command.get_arguments().filter(|argument| !argument.is_hide_set());
            for argument in arguments.filter(|argument| argument.get_help().is_none()) {
                lacks.push(format!("{path} {}", argument.get_id()));
            }
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                look(verb, &format!("{path} {}", verb.get_name()), lacks);
            }
        }
        let mut lacks = Vec::new();
        look(&Args::command(), "nearfield", &mut lacks);
        assert!(lacks.is_empty(), "without a description: {lacks:#?}");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
