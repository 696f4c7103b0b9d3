//! One job as a state machine: what hosts said goes in ([`Engine::on`]), what is to be done next comes out
//! ([`Engine::next`]). It waits for nothing, reads no clock and shares nothing, so it is the same engine in the product, where
//! `driver` does what it asks for, and in the simulation, where simulated hosts do.
//!
//! A job's life: ask hosts what they remember of the tree, from the root down; map and reduce what nobody remembers; finish;
//! make some of it once more elsewhere (`check`); put what was written (`files`). Whatever is lost on the way begins it anew
//! ([`Restart`]): what is still remembered is not run again.
//!
//! `run` is how one step gets to its end, over several hosts if need be; `recall` how all hosts are asked what they remember.

mod check;
mod claims;
mod files;
mod look;
mod recall;
mod report;
mod run;
mod sites;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::job::{PureFailure, PureReport, PureSetting, PureSpec, ResultKey, Work};
use nearfield_protocol::problem::Blame;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind, units};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::check::Checks;
pub use self::claims::{Terms, Vouches, Worth};
use self::files::Files;
use self::recall::Recall;
use self::report::{shard_failure, too_many};
use self::run::{Run, Task};
pub use self::sites::{IN_FLIGHT, View, rule};
use self::sites::{PartsLost, Sites};
use super::Progress;
use super::order::{Known, Order, Step};
use super::plan::{self, Leaf, Node, Shards};
use super::record::{Checked, JobRecord, JobState, ShardFailure, Written};

/// How often a job begins anew before it fails.
const RESTARTS: usize = 8;
/// Failed shards that a job's report lists.
const MAX_LISTED_FAILURES: usize = 100;

/// What is to be done, by whoever drives the engine. An action with a [`Ticket`] is answered by the event that bears it,
/// unless it is stopped before.
#[derive(Debug)]
pub enum Action {
    /// Nothing is to be sent to this host before it is heard of again.
    Missed(NodeId),
    /// Ask `host` what it remembers under these keys: [`Event::Recalled`].
    Recall {
        ticket: Ticket,
        host: NodeId,
        keys: Arc<[ResultKey]>,
    },
    /// Run on `host`: [`Event::Ran`].
    Run {
        ticket: Ticket,
        host: NodeId,
        spec: PureSpec,
    },
    /// The same once more, whatever is remembered of it: [`Event::Replayed`].
    Replay {
        ticket: Ticket,
        host: NodeId,
        spec: PureSpec,
    },
    /// Take a result from the host that remembers it, and keep it at hand: [`Event::Taken`].
    Take {
        ticket: Ticket,
        host: NodeId,
        key: ResultKey,
    },
    /// Have `host` remember the result that was taken with this ticket: [`Event::Given`].
    Give { ticket: Ticket, host: NodeId },
    /// Read the files that a run wrote, and keep them: [`Event::Files`].
    Files {
        ticket: Ticket,
        host: NodeId,
        key: ResultKey,
    },
    /// Put the files that these runs wrote as one dataset: [`Event::Put`].
    Put { ticket: Ticket, keys: Vec<ResultKey> },
    /// Have `host` run nothing more, and all nodes forget what it made: [`Event::Quarantined`].
    Quarantine {
        ticket: Ticket,
        host: NodeId,
        reason: String,
    },
    /// Nobody waits for this any more; its guest is to end.
    Stop(Ticket),
}

/// Names an action, and the event that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What came of an action.
#[derive(Debug)]
pub enum Event {
    Recalled(Result<Vec<Option<PureReport>>, Problem>),
    Ran(Result<PureReport, PureFailure>),
    Replayed(Result<Result<PureReport, PureFailure>, Problem>),
    /// With the bytes of its output.
    Taken(Result<Option<(PureReport, u64)>, Problem>),
    Given(Result<(), Problem>),
    /// BLAKE3 of the files.
    Files(Result<Option<Digest>, Problem>),
    Put(Result<Written, Problem>),
    Quarantined(Result<(), Problem>),
}

/// Why a job begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Restart {
    /// Partial results were evicted under it, or went with their hosts.
    PartsLost,
    /// Other hosts are trusted now: what those said before is not used.
    TrustChanged,
    /// Who made a result has not the files any more that it wrote.
    FilesLost,
}

impl Restart {
    /// Why a job ends that began anew for this too often.
    fn problem(self) -> Problem {
        let text = match self {
            Restart::PartsLost => format!(
                "partial results were evicted as the job ran, or went with their hosts, {RESTARTS} times: see to the hosts \
                 (`nearfield nodes`), or raise --max-remembered where they evict"
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
enum Leave {
    Restart(Restart),
    End(Box<End>),
}

/// Why a job failed.
struct End {
    problem: Problem,
    failures: Vec<ShardFailure>,
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
enum Phase {
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
    input: Input,
    /// Anew with each restart: who is trusted may have changed, and what hosts said before with it.
    setting: Arc<PureSetting>,
    leaves: Vec<Leaf>,
    levels: Arc<[Vec<Node>]>,
    sites: Sites,
    phase: Phase,
    recall: Option<Recall>,
    /// Steps on their way to an end.
    runs: BTreeMap<RunId, Run>,
    /// Whose the answer to an action is.
    tickets: HashMap<Ticket, RunId>,
    /// When which run is to be looked at again.
    wakes: BTreeSet<(Duration, RunId)>,
    /// What is to be done and was not handed out yet.
    actions: Vec<Action>,
    last_ticket: u64,
    last_run: u64,
    restarts: usize,
    spent: Spent,
    progress: Progress,
    /// Shards that failed and may.
    failures: Vec<ShardFailure>,
    output: Option<PureReport>,
    checked: Option<Checked>,
    into: Option<Written>,
    /// Bytes of partial results that went to another host.
    partial_bytes_moved: u64,
    /// Hosts that were found to be wrong.
    quarantined: Vec<NodeId>,
    /// One that is being quarantined: until then the job stands still.
    quarantines: Option<(Ticket, NodeId)>,
    /// Results of which a host had no files, though it said so.
    without_files: HashSet<(ResultKey, NodeId)>,
    /// Maps that ran to their end, and how long they took together.
    maps: (u32, Duration),
    draw: SmallRng,
}

/// Names a run of the engine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct RunId(u64);

/// What the runs of a job came to so far.
#[derive(Default)]
struct Spent {
    fuel: u64,
    /// With what remembered results once took.
    all_fuel: u64,
    bytes_read: u64,
    moved_bytes: u64,
    run_us: u64,
}

impl Spent {
    fn count(&mut self, report: &PureReport) {
        self.all_fuel += report.fuel;
        if !report.remembered {
            self.fuel += report.fuel;
            self.bytes_read += report.data_bytes;
            self.moved_bytes += report.moved_bytes;
            self.run_us += report.run_us;
        }
    }
}

impl Engine {
    /// Over one shard at least: over none there is no total to finish.
    pub fn new(input: Input, view: View<'_>) -> Self {
        let setting = plan::setting(&input.record, view.records.distrusted());
        let sites = Sites::new(&setting, &[], view.records, input.vouches);
        let draw = SmallRng::seed_from_u64(input.seed);
        let mut engine = Engine {
            input,
            setting,
            leaves: Vec::new(),
            levels: Arc::default(),
            sites,
            phase: Phase::Start,
            recall: None,
            runs: BTreeMap::new(),
            tickets: HashMap::new(),
            wakes: BTreeSet::new(),
            actions: Vec::new(),
            last_ticket: 0,
            last_run: 0,
            restarts: RESTARTS,
            spent: Spent::default(),
            progress: Progress::default(),
            failures: Vec::new(),
            output: None,
            checked: None,
            into: None,
            partial_bytes_moved: 0,
            quarantined: Vec::new(),
            quarantines: None,
            without_files: HashSet::new(),
            maps: (0, Duration::ZERO),
            draw,
        };
        engine.begin(view);
        engine
    }

    /// How far the job is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// What became of the job, once it has ended.
    pub fn ended(&self) -> Option<&JobState> {
        match &self.phase {
            Phase::Ended(state) => Some(state),
            _ => None,
        }
    }

    /// When [`Engine::next`] is to be asked again, whether or not something happens until then. Times are since the start.
    pub fn wakes_at(&self) -> Option<Duration> {
        self.wakes.first().map(|(at, _)| *at)
    }

    /// What is to be done now, in this order. Asked until there is nothing: hosts that are missed are to be known as such
    /// before anything else is chosen.
    pub fn next(&mut self, view: View<'_>, now: Duration) -> Vec<Action> {
        let missed = self.sites.take_missed();
        if !missed.is_empty() {
            let mut actions: Vec<Action> = missed.into_iter().map(Action::Missed).collect();
            actions.append(&mut self.actions);
            return actions;
        }
        loop {
            let went = self.wake(view, now).and_then(|()| self.go_on(view, now));
            match went {
                Ok(true) => {}
                Ok(false) => break,
                Err(leave) => self.leave(leave, view),
            }
        }
        std::mem::take(&mut self.actions)
    }

    /// What came of the action with this ticket.
    pub fn on(&mut self, ticket: Ticket, event: Event, view: View<'_>, now: Duration) {
        // Of what was stopped an answer may be under way already.
        if let Err(leave) = self.take(ticket, event, view, now) {
            self.leave(leave, view);
        }
    }

    fn take(&mut self, ticket: Ticket, event: Event, view: View<'_>, now: Duration) -> Result<(), Leave> {
        match event {
            Event::Recalled(answer) => self.recalled(ticket, answer, view),
            Event::Ran(ended) => match self.tickets.remove(&ticket) {
                Some(run) => self.ran(run, ticket, ended, view, now),
                None => Ok(()),
            },
            Event::Replayed(ended) => match self.tickets.remove(&ticket) {
                Some(run) => self.replayed(run, ended, view, now),
                None => Ok(()),
            },
            Event::Taken(given) => match self.tickets.get(&ticket) {
                Some(run) => self.taken(*run, ticket, given, view, now),
                None => Ok(()),
            },
            Event::Given(given) => match self.tickets.remove(&ticket) {
                Some(run) => self.given(run, ticket, given, view, now),
                None => Ok(()),
            },
            Event::Files(files) => self.got_files(ticket, files),
            Event::Put(put) => self.put(ticket, put, now),
            Event::Quarantined(quarantined) => self.was_quarantined(ticket, quarantined),
        }
    }

    fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// Begins the job, or begins it anew.
    fn begin(&mut self, view: View<'_>) {
        self.setting = plan::setting(&self.input.record, view.records.distrusted());
        self.leaves = plan::leaves(&self.setting, &self.input.shards);
        self.levels = plan::tree(&self.setting, &self.leaves).into();
        let datasets = datasets(&self.input.record);
        let sites = Sites::new(&self.setting, &datasets, view.records, self.input.vouches);
        let before = std::mem::replace(&mut self.sites, sites);
        self.sites.do_without(before);
        self.failures.clear();
        (self.output, self.checked, self.into) = (None, None, None);
        self.progress = Progress {
            shards: self.leaves.len() as u64,
            bytes: self.leaves.iter().map(|leaf| leaf.size_bytes).sum(),
            ..Progress::default()
        };
        self.look(view);
    }

    /// Leaves off what it does, and ends or begins anew.
    fn leave(&mut self, leave: Leave, view: View<'_>) {
        self.leave_off();
        let end = match leave {
            Leave::Restart(why) if self.restarts > 0 => {
                tracing::info!(job = self.input.record.id, ?why, "a job begins anew");
                self.restarts -= 1;
                return self.begin(view);
            }
            Leave::Restart(why) => End {
                problem: why.problem(),
                failures: Vec::new(),
            },
            Leave::End(end) => *end,
        };
        self.phase = Phase::Ended(JobState::Failed {
            problem: end.problem,
            failures: end.failures,
        });
    }

    /// Ends all that is under way.
    fn leave_off(&mut self) {
        let of_runs = std::mem::take(&mut self.tickets).into_keys();
        let of_recall = self.recall.take().map(Recall::tickets).unwrap_or_default();
        let of_files = match &self.phase {
            Phase::Files(files) => files.tickets(),
            _ => Vec::new(),
        };
        let stops = of_runs.chain(of_recall).chain(of_files);
        self.actions.extend(stops.map(Action::Stop));
        self.runs.clear();
        self.wakes.clear();
    }

    /// Goes one step on, if one can be gone without anything happening.
    fn go_on(&mut self, view: View<'_>, now: Duration) -> Result<bool, Leave> {
        if self.quarantines.is_some() {
            return Ok(false);
        }
        if let Some(found) = self.all_recalled(view) {
            self.knows(&found, view, now)?;
            return Ok(true);
        }
        match &mut self.phase {
            _ if self.recall.is_some() => Ok(false),
            Phase::Compute(order) => {
                let room = self.runs.len() < IN_FLIGHT * view.table.len().max(1);
                match room.then(|| order.next()).flatten() {
                    Some(step) => self.start_step(step, view, now)?,
                    None if !self.runs.is_empty() => return Ok(false),
                    None => self.computed(view)?,
                }
                Ok(true)
            }
            Phase::Checks(_) => self.next_check(view, now),
            Phase::Files(_) => self.next_files(view),
            _ => Ok(false),
        }
    }

    /// What hosts remember of what was asked for is known.
    fn knows(&mut self, found: &[Option<PureReport>], view: View<'_>, now: Duration) -> Result<(), Leave> {
        match std::mem::replace(&mut self.phase, Phase::Start) {
            Phase::Nodes { level, open, known } => self.looked_at(level, &open, known, found, view),
            Phase::Leaves { known } => self.looked(known, view),
            Phase::OtherLeaves { known } => self.looked_again(known),
            Phase::End(root) => {
                let spec = plan::finish(&self.setting, root);
                self.phase = Phase::Finish;
                let run = self.add(Task::Finish, spec, 0);
                self.choose(run, view, now)?;
            }
            Phase::BeforeChecks => self.begin_checks(),
            Phase::BeforeFiles => self.begin_files(found)?,
            // Nothing was asked for.
            phase => self.phase = phase,
        }
        Ok(())
    }

    fn start_step(&mut self, step: Step, view: View<'_>, now: Duration) -> Result<(), Leave> {
        let (spec, size_bytes) = match step {
            Step::Map(leaf) => (self.leaves[leaf].spec.clone(), self.leaves[leaf].size_bytes),
            Step::Reduce { level, index } => {
                let parts = self.levels[level][index].parts.clone();
                let keys: Vec<ResultKey> = match level.checked_sub(1) {
                    None => self.leaves[parts].iter().map(|leaf| leaf.key).collect(),
                    Some(below) => self.levels[below][parts].iter().map(|node| node.key).collect(),
                };
                (plan::reduce(&self.setting, &keys), 0)
            }
        };
        let run = self.add(Task::Step(step), spec, size_bytes);
        self.choose(run, view, now)
    }

    /// A step has come to its end.
    fn step_ended(
        &mut self,
        step: Step,
        ended: Result<PureReport, PureFailure>,
        now: Duration,
    ) -> Result<(), Leave> {
        match (step, ended) {
            (_, Ok(report)) => {
                self.spent.count(&report);
                if let Step::Map(leaf) = step {
                    self.advance(leaf, report.remembered, now);
                }
                if let Phase::Compute(order) = &mut self.phase {
                    order.done(step);
                }
            }
            // A shard may be left out for what its guest did, never for what a host could not do.
            (Step::Map(leaf), Err(failure)) if failure.problem.kind.blame() == Blame::Guest => {
                // What a host says of a run that came to nothing.
                self.spent.fuel += failure.fuel.min(self.setting.limits.fuel);
                self.progress.failed += 1;
                self.progress.fuel_spent = self.spent.fuel;
                self.failures
                    .push(shard_failure(&self.leaves[leaf], failure.problem));
                if self.failures.len() > self.input.record.skip as usize {
                    return Err(too_many(self.sorted_failures(), &self.input.record));
                }
            }
            (_, Err(failure)) => return Err(failure.problem.into()),
        }
        self.check_fuel()
    }

    fn sorted_failures(&self) -> Vec<ShardFailure> {
        let mut failures = self.failures.clone();
        failures.sort_by_key(|failure| failure.shard);
        failures
    }

    fn advance(&mut self, leaf: usize, remembered: bool, now: Duration) {
        let progress = &mut self.progress;
        progress.done += 1;
        progress.remembered += u64::from(remembered);
        progress.bytes_done += self.leaves[leaf].size_bytes;
        progress.fuel_spent = progress.fuel_spent.max(self.spent.fuel);
        progress.seconds = now.as_secs_f64();
    }

    fn check_fuel(&self) -> Result<(), Leave> {
        let (spent, most) = (self.spent.fuel, self.input.record.max_fuel);
        if spent <= most {
            return Ok(());
        }
        let text = format!(
            "the job has burned {spent} fuel; what is done is remembered: run it again with a higher --max-fuel to go on"
        );
        let limit = format!("max-fuel = {}", units::exact_count(most));
        Err(Problem::new(ProblemKind::OutOfFuel, text)
            .with_limit(limit)
            .into())
    }

    /// All that could be run has ended.
    fn computed(&mut self, view: View<'_>) -> Result<(), Leave> {
        let failed: HashSet<u32> = self.failures.iter().map(|failure| failure.shard).collect();
        if self.leaves.iter().any(|leaf| failed.contains(&leaf.index)) {
            self.leaves.retain(|leaf| !failed.contains(&leaf.index));
            if self.leaves.is_empty() {
                let text = format!(
                    "all {} shards failed and were skipped: there is no total to finish",
                    failed.len()
                );
                let mut failures = self.sorted_failures();
                failures.truncate(MAX_LISTED_FAILURES);
                return Err(Leave::End(Box::new(End {
                    problem: Problem::new(ProblemKind::FunctionFailed, text),
                    failures,
                })));
            }
            // The tree of what is left is another one.
            self.levels = plan::tree(&self.setting, &self.leaves).into();
            self.look(view);
            return Ok(());
        }
        let root = self.root().ok_or(Restart::PartsLost)?;
        let end = plan::finish(&self.setting, root).key();
        self.phase = Phase::End(root);
        // Who remembers it need not have the root.
        self.recall(vec![end], view);
        Ok(())
    }

    /// The key of the total.
    fn root(&self) -> Option<ResultKey> {
        match self.levels.last() {
            Some(top) => top.first().map(|root| root.key),
            None => self.leaves.first().map(|leaf| leaf.key),
        }
    }

    /// The end has been run.
    fn finished(
        &mut self,
        ended: Result<PureReport, PureFailure>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let report = ended.map_err(|failure| failure.problem)?;
        self.spent.count(&report);
        self.output = Some(report);
        match self.input.record.check {
            Some(_) => {
                let keys = self.all_keys();
                self.phase = Phase::BeforeChecks;
                self.recall(keys, view);
                Ok(())
            }
            None => self.after_checks(view, now),
        }
    }

    /// Nothing was found to be wrong.
    fn after_checks(&mut self, view: View<'_>, now: Duration) -> Result<(), Leave> {
        self.is_still_trusted(view)?;
        if self.input.record.into.is_none() {
            self.end(now);
            return Ok(());
        }
        // Equal shards have one result, and wrote its files once.
        let mut seen = HashSet::new();
        let keys = self.leaves.iter().map(|leaf| leaf.key);
        let keys = keys.filter(|key| seen.insert(*key)).collect();
        self.phase = Phase::BeforeFiles;
        self.recall(keys, view);
        Ok(())
    }

    /// What another job found to be wrong may be in this one, too: then it begins anew.
    fn is_still_trusted(&self, view: View<'_>) -> Result<(), Restart> {
        match *view.records.distrusted() == self.setting.distrusted {
            true => Ok(()),
            false => Err(Restart::TrustChanged),
        }
    }
}

/// All that a job reads.
pub fn datasets(record: &JobRecord) -> Vec<Digest> {
    let inputs = record.inputs.values().copied();
    inputs.chain([record.dataset_digest]).collect()
}

/// The results that a step is over.
fn parts(spec: &PureSpec) -> &[ResultKey] {
    match &spec.work {
        Work::Map { .. } => &[],
        Work::Reduce { parts } => parts,
        Work::Finish { total } => std::slice::from_ref(total),
    }
}
