//! Verbs about the nodes of a network.

use std::time::Duration;

use clap::Args as ClapArgs;
use nearfield_net::Ticket;
use nearfield_protocol::DatasetName;
use nearfield_protocol::node::{Label, Role};
use nearfield_protocol::units::{parse_bytes, parse_duration};

use super::UpArgs;

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
