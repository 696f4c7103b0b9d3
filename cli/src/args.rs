//! What can be typed. Raw text becomes checked values here, so that verbs never parse.

mod data;
mod functions;
mod jobs;
mod nodes;
mod values;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use nearfield_protocol::DatasetName;

pub use data::{GetArgs, PinArgs, PruneArgs, PutArgs};
pub use functions::{
    CallArgs, CrateArgs, DeployArgs, DevArgs, ExplainArgs, LogsArgs, NewArgs, RollbackArgs, Template,
    TestArgs, TokenArgs, TokenVerb,
};
pub use jobs::{CancelArgs, ReplayArgs, RunArgs, WaitArgs};
pub use nodes::{DrainArgs, InviteArgs, JoinArgs, UpArgs};
pub use values::digest_or_beginning;
pub use values::{Gpu, Logged, RolledBack, Thing, TokenScope};

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
    pub what: ListSubject,
}

/// What is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListSubject {
    All(Listing),
    /// The files of a dataset.
    Files(DatasetName),
}

impl std::str::FromStr for ListSubject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("dataset/") {
            return name
                .parse()
                .map(ListSubject::Files)
                .map_err(|error| format!("{error}"));
        }
        Listing::from_str(text, true).map(ListSubject::All).map_err(|_| {
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
