//! The state of one job's engine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::NodeId;
use nearfield_protocol::job::{PureReport, PureSetting, ResultKey};
use rand::rngs::SmallRng;

use super::action::{Action, Ticket};
use super::claims::Vouches;
use super::sites::Sites;
use super::tasks::{Checks, Files, Recall, Run, RunId};
use crate::order::{Known, Order};
use crate::plan::{Leaf, PlanNode, Shards};
use crate::record::{Checked, JobRecord, JobState, Progress, ShardFailure, WrittenDataset};

/// What an engine works on.
pub struct Input {
    pub record: Arc<JobRecord>,
    pub shards: Shards,
    /// Runs that this node's host works on at once, for predictions.
    pub workers: usize,
    pub vouches: Vouches,
    /// What a check picks follows from this.
    pub seed: u64,
}

/// How far a job is.
pub enum Phase {
    /// Nothing was asked for yet.
    Start,
    /// What is remembered of the tree is asked for: of these nodes of this level.
    Nodes {
        level: usize,
        open: Vec<usize>,
        known: Known,
    },
    /// The same of the leaves below.
    Leaves {
        known: Known,
    },
    /// The same of leaves that another tree needs.
    OtherLeaves {
        known: Known,
    },
    Compute(Order),
    /// Whether the end is remembered is asked for.
    End(ResultKey),
    Finish,
    /// What is remembered of all runs is asked for, to check some.
    BeforeChecks,
    Checks(Checks),
    /// Who has the files is asked for.
    BeforeFiles,
    Files(Files),
    Ended(JobState),
}

/// A job under way.
pub struct Engine {
    pub(super) input: Input,
    /// Anew with each restart: who is trusted may have changed, and what hosts said before with it.
    pub(super) setting: Arc<PureSetting>,
    pub(super) leaves: Vec<Leaf>,
    /// The shards that count as remembered in `progress`.
    pub(super) remembered: HashSet<u32>,
    pub(super) levels: Arc<[Vec<PlanNode>]>,
    pub(super) sites: Sites,
    pub(super) phase: Phase,
    pub(super) recall: Option<Recall>,
    /// Steps on their way to an end.
    pub(super) runs: BTreeMap<RunId, Run>,
    /// Whose the answer to an action is.
    pub(super) tickets: HashMap<Ticket, RunId>,
    /// When which run is to be looked at again.
    pub(super) wakes: BTreeSet<(Duration, RunId)>,
    /// What is to be done and was not handed out yet.
    pub(super) actions: Vec<Action>,
    pub(super) last_ticket: u64,
    pub(super) last_run: u64,
    pub(super) restarts: usize,
    pub(super) spent: Spent,
    pub(super) progress: Progress,
    /// Shards that failed and may.
    pub(super) failures: Vec<ShardFailure>,
    pub(super) output: Option<PureReport>,
    pub(super) checked: Option<Checked>,
    pub(super) into: Option<WrittenDataset>,
    /// Bytes of partial results that went to another host.
    pub(super) partial_bytes_moved: u64,
    /// Hosts that were found to be wrong.
    pub(super) quarantined: Vec<NodeId>,
    /// One that is being quarantined: until then the job stands still.
    pub(super) quarantines: Option<(Ticket, NodeId)>,
    /// Results of which a host had no files, though it said so.
    pub(super) without_files: HashSet<(ResultKey, NodeId)>,
    /// Maps that ran to their end, and how long they took together.
    pub(super) maps: (u32, Duration),
    pub(super) draw: SmallRng,
}

/// What the runs of a job came to so far.
#[derive(Default)]
pub struct Spent {
    pub fuel: u64,
    /// With what remembered results once took.
    pub all_fuel: u64,
    pub bytes_read: u64,
    pub moved_bytes: u64,
    pub run_us: u64,
}

impl Spent {
    pub fn count(&mut self, report: &PureReport) {
        // What hosts say is bounded for each run, and not for all of them.
        let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
        add(&mut self.all_fuel, report.fuel);
        if !report.remembered {
            add(&mut self.fuel, report.fuel);
            add(&mut self.bytes_read, report.data_bytes);
            add(&mut self.moved_bytes, report.moved_bytes);
            add(&mut self.run_us, report.run_us);
        }
    }
}
