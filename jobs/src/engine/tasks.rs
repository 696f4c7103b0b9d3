//! What an engine has under way, as data: runs, checks, questions to all hosts and files.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey};
use nearfield_protocol::{Digest, NodeId};

use super::action::Ticket;
use super::claims::Claim;
use crate::order::TreeStep;
use crate::record::Checked;

/// Names a run of the engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// A step on its way to an end.
pub struct Run {
    pub task: Task,
    pub spec: PureSpec,
    pub key: ResultKey,
    pub size_bytes: u64,
    /// Hosts on which it came to nothing, or that are not to be asked.
    pub tried: Vec<NodeId>,
    /// How it failed on the last of them.
    pub failure: Option<PureFailure>,
    pub waits: u32,
    pub stage: Stage,
}

/// What a run is for.
pub enum Task {
    TreeStep(TreeStep),
    Finish,
    /// It is made once more, to see whether it comes to the same.
    Check(Box<Check>),
}

pub enum Stage {
    /// No host was chosen.
    Idle,
    Brings(Bringing),
    Runs {
        first: (Ticket, NodeId),
        begun: Duration,
        second: Second,
    },
}

/// The results that a run is over, on their way to its host.
pub struct Bringing {
    pub host: NodeId,
    /// Those that were not asked for yet, or were asked for in vain.
    pub missing: VecDeque<Part>,
    pub under_way: BTreeMap<Ticket, Moving>,
}

/// A result that a run's host lacks.
pub struct Part {
    pub key: ResultKey,
    /// Who has it and was not asked yet.
    pub holders: VecDeque<NodeId>,
}

/// A result on its way.
pub struct Moving {
    pub part: Part,
    pub from: NodeId,
    /// What came, and the bytes of its output, while it is given to the host.
    pub taken: Option<(PureReport, u64)>,
}

/// A second host for a map that lags.
#[derive(Clone, Copy)]
pub enum Second {
    /// It may get one.
    None,
    Runs(Ticket, NodeId),
    /// It gets none any more.
    Never,
}

/// What one host came to; `None` if its guest failed.
pub type Outcome = Option<PureReport>;

/// A run that may be made once more.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub spec: PureSpec,
    pub key: ResultKey,
    pub size_bytes: u64,
    /// How far above the maps it stands.
    pub level: usize,
}

/// What is to be checked, and what that came to.
pub struct Checks {
    /// What comes after this level. What lies below comes first: of parts that are wrong nobody can make the right whole.
    pub later: VecDeque<Vec<Candidate>>,
    /// What of this level waits.
    pub waits: VecDeque<(Arc<Candidate>, Claim)>,
    pub checked: Checked,
}

/// One claim that is checked.
pub struct Check {
    /// What it is about, after "it was".
    pub what: String,
    /// The shard that it is over, or what stands for one.
    pub near: Digest,
    pub claim: PureReport,
    pub maker: NodeId,
    /// What the second host came to, once it has.
    pub second: Option<(NodeId, Outcome)>,
    /// Hosts that could not make it, of those that were asked for this answer.
    pub failed: usize,
    /// Its maker itself is asked: there is no third.
    pub asks_maker: bool,
}

/// A question to all hosts.
pub struct Recall {
    pub keys: Vec<ResultKey>,
    pub found: Vec<Option<PureReport>>,
    /// Keys from here on were not asked for yet.
    pub next: usize,
    /// Who has yet to answer for the keys from where on.
    pub waits: BTreeMap<Ticket, (NodeId, usize)>,
    /// How many were asked.
    pub hosts: usize,
}

impl Recall {
    /// Of the questions that nobody answered yet.
    pub fn tickets(self) -> Vec<Ticket> {
        self.waits.into_keys().collect()
    }
}

/// The files of all runs that wrote some.
pub struct Files {
    /// Runs whose files were not asked for yet, or were asked for in vain.
    pub left: VecDeque<Wanted>,
    pub asked: BTreeMap<Ticket, (NodeId, Wanted)>,
    /// Those that were read.
    pub read: Vec<ResultKey>,
    /// All were read, and are being put.
    pub puts: Option<Ticket>,
}

/// The files of one run.
pub struct Wanted {
    pub report: PureReport,
    /// Makers that were asked in vain.
    pub tried: Vec<NodeId>,
}

impl Files {
    /// Of the questions that nobody answered yet.
    pub fn tickets(&self) -> Vec<Ticket> {
        self.asked.keys().copied().chain(self.puts).collect()
    }
}
