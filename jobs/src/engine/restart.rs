//! Why a job begins anew, and why it ends without a result.

use nearfield_protocol::{Problem, ProblemKind};

use super::sites::PartsLost;
use crate::record::ShardFailure;

/// How often a job begins anew before it fails.
pub const RESTARTS: usize = 8;
/// Failed shards that a job's report lists.
pub const MAX_LISTED_FAILURES: usize = 100;

/// Why a job begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Restart {
    /// Partial results were evicted under it, or went with their hosts.
    PartsLost,
    /// Partial results are others by now than those that what stands on them was made of.
    PartsChanged,
    /// Other hosts are trusted now: what those said before is not used.
    TrustChanged,
    /// Who made a result has not the files any more that it wrote.
    FilesLost,
}

impl Restart {
    /// Why a job ends that began anew for this too often.
    pub fn problem(self) -> Problem {
        let text = match self {
            Restart::PartsLost => format!(
                "partial results were evicted as the job ran, or went with their hosts, {RESTARTS} times: see to the hosts \
                 (`nearfield nodes`), or raise --max-remembered where they evict"
            ),
            Restart::PartsChanged => format!(
                "hosts remembered other partial results than those that the total was made of, {RESTARTS} times: run it again with \
                 --check 100% to find out whether one of them is wrong"
            ),
            Restart::TrustChanged => format!(
                "hosts were quarantined as the job ran, {RESTARTS} times: `nearfield nodes` tells which; run it again once \
                 the others can be trusted"
            ),
            Restart::FilesLost => format!(
                "what shards wrote was evicted before it could be put, {RESTARTS} times: raise --max-remembered on the hosts"
            ),
        };
        Problem::new(ProblemKind::ForgottenResult, text)
    }
}

/// Why the engine leaves off what it does.
pub enum Leave {
    Restart(Restart),
    End(Box<End>),
}

/// Why a job failed.
pub struct End {
    pub problem: Problem,
    pub failures: Vec<ShardFailure>,
}

impl From<Restart> for Leave {
    fn from(why: Restart) -> Self {
        Leave::Restart(why)
    }
}

impl From<PartsLost> for Leave {
    fn from(_: PartsLost) -> Self {
        Leave::Restart(Restart::PartsLost)
    }
}

impl From<Problem> for Leave {
    fn from(problem: Problem) -> Self {
        // A host says that a part is gone which it remembered.
        if problem.kind == ProblemKind::ForgottenResult {
            return Leave::Restart(Restart::PartsLost);
        }
        Leave::End(Box::new(End {
            problem,
            failures: Vec::new(),
        }))
    }
}
