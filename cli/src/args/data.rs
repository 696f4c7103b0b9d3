//! Arguments of the verbs about datasets and blobs.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use nearfield_protocol::node::Label;
use nearfield_protocol::units::parse_bytes;
use nearfield_protocol::{DatasetName, PartName};

use super::values::{source, split};
use crate::source::Source;

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
