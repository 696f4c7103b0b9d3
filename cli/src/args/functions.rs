//! Arguments of the verbs about functions, their calls and their tokens.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use nearfield_protocol::FunctionName;
use nearfield_protocol::units::parse_duration;

use super::values::{Logged, RolledBack, TokenScope, fuel_per_day, header};

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
