//! What can be typed about jobs.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use nearfield_protocol::units::parse_bytes;
use nearfield_protocol::{DatasetName, FunctionName, JobId};

use super::values::{job_id, json_argument, on_error, parse_fuel, percentage};

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield run wordcount --over logs
  nearfield run wordcount --over logs --args '{\"top\": 5}'
  nearfield run thumbnail --over photos --into thumbnails --on-error skip:100
  nearfield run wordcount --over logs --dry-run        what it would take
  nearfield run wordcount --over logs --check 2%       compare some runs with another host's
  nearfield run wordcount --over logs --only 17        one shard; `replay` shows why one failed")]
pub struct RunArgs {
    /// A deployed function with #[nearfield::map]
    pub function: FunctionName,
    /// DATASET or b3:…; of a digest its beginning will do
    #[arg(long, value_name = "DATASET")]
    pub over: String,
    /// JSON for the function, or @FILE
    #[arg(long, value_parser = json_argument, value_name = "JSON|@FILE")]
    pub args: Option<serde_json::Value>,
    /// Make a dataset of the files that the function writes
    #[arg(long, value_name = "DATASET")]
    pub into: Option<DatasetName>,
    /// Most fuel to burn in all
    #[arg(long, value_parser = parse_fuel, value_name = "FUEL")]
    pub max_fuel: Option<u64>,
    /// Say how the job is called and leave it running
    #[arg(long)]
    pub detach: bool,
    /// Run a few shards and predict the rest
    #[arg(long, conflicts_with_all = ["into", "sample", "only"])]
    pub dry_run: bool,
    /// Run over a part of the shards, evenly spread
    #[arg(long, value_parser = percentage, value_name = "PERCENT")]
    pub sample: Option<f64>,
    /// Run over one shard, counted from 0
    #[arg(long, value_name = "SHARD", conflicts_with = "sample")]
    pub only: Option<u32>,
    /// Make a random part of the runs once more, each on another host, and quarantine a host that was wrong
    #[arg(long, value_parser = percentage, value_name = "PERCENT")]
    pub check: Option<f64>,
    /// `fail` at the first shard that fails, or `skip:N` of them
    #[arg(long, value_parser = on_error, default_value = "fail", value_name = "fail|skip:N")]
    pub on_error: u32,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield wait 019ab1f04c3d7e52a8c06b9d2f41e730")]
pub struct WaitArgs {
    /// The job's id, as `nearfield ls jobs` shows it
    #[arg(value_parser = job_id)]
    pub job: JobId,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield cancel 019ab1f04c3d7e52a8c06b9d2f41e730")]
pub struct CancelArgs {
    /// The job's id, as `nearfield ls jobs` shows it
    #[arg(value_parser = job_id)]
    pub job: JobId,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  nearfield replay 019ab1f04c3d7e52a8c06b9d2f41e730 --shard 17
  nearfield replay 019ab1f0… --shard 17 -o part.bin            keep what the map returned
  cd functions/wordcount && nearfield replay 019ab1f0… --shard 17 --native
  nearfield replay 019ab1f0… --shard 17 --native --debugger \"rust-gdb --args\"

Without --native the node runs the job's own component on the shard once more, with the
job's arguments, whatever is remembered of it; that stays as it is. With --native the crate
in front of you runs here, as it is now, on the SDK's mock host, so that a debugger works:
break at CRATE::FUNCTION, or at rust_panic.

Exit codes: 0 the map succeeded, 3 it failed.")]
pub struct ReplayArgs {
    /// The job's id, as `nearfield ls jobs` shows it
    #[arg(value_parser = job_id)]
    pub job: JobId,
    /// Which shard, counted from 0
    #[arg(long, value_name = "N")]
    pub shard: u32,
    /// Write what the map returned to a file, as it is: MessagePack from functions made with the SDK
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Run the function's crate natively, on this machine
    #[arg(long)]
    pub native: bool,
    /// The crate's folder, or its Cargo.toml; the current folder without it
    #[arg(long, value_name = "DIR", requires = "native")]
    pub manifest_path: Option<PathBuf>,
    /// A command that is given the executable and its arguments
    #[arg(long, value_name = "COMMAND", requires = "native")]
    pub debugger: Option<String>,
    /// Fetch the shard into this new or empty folder, and keep it
    #[arg(long, value_name = "DIR", requires = "native")]
    pub folder: Option<PathBuf>,
    /// Most bytes to fetch of the datasets that the job may open
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE", default_value = "1GiB", requires = "native")]
    pub max_inputs: u64,
}
