//! One job as a state machine: what hosts said goes in ([`Engine::on`]), what is to be done next comes out
//! ([`Engine::next`]). It waits for nothing, reads no clock and shares nothing, so it is the same engine in the product, where
//! `driver` does what it asks for, and in the simulation, where simulated hosts do.
//!
//! A job's life: ask hosts what they remember of the tree, from the root down; map and reduce what nobody remembers; finish;
//! make some of it once more elsewhere (`check`); put what was written (`files`). Whatever is lost on the way begins it anew
//! ([`Restart`]): what is still remembered is not run again.
//!
//! `run` is how one step gets to its end, over several hosts if need be; `recall` how all hosts are asked what they remember.

mod action;
mod bring;
mod check;
mod claims;
mod files;
mod look;
mod recall;
mod report;
mod restart;
mod run;
mod sites;
mod state;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::job::{PureFailure, PureReport, ResultKey};
use nearfield_protocol::problem::Blame;
use nearfield_protocol::{Problem, ProblemKind, limits, units};
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use self::action::{Action, Event, Ticket};
pub use self::claims::{Terms, Worth};
use self::report::{shard_failure, too_many};
pub use self::restart::Restart;
use self::restart::{End, Leave, MAX_LISTED_FAILURES, RESTARTS};
use self::sites::Sites;
pub use self::sites::{View, rule};
pub use self::state::{Engine, Input};
use self::state::{Phase, Spent};
use self::tasks::Task;
use crate::order::TreeStep;
use crate::plan;
use crate::record::{JobState, Progress, ShardFailure};

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
            remembered: HashSet::new(),
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
        let datasets = self.input.record.datasets();
        let sites = Sites::new(&self.setting, &datasets, view.records, self.input.vouches);
        let before = std::mem::replace(&mut self.sites, sites);
        self.sites.do_without(before);
        self.failures.clear();
        self.remembered.clear();
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
        let of_recall = self.recall.take().map(tasks::Recall::tickets).unwrap_or_default();
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
                let room = self.runs.len() < limits::RUNS_IN_FLIGHT * view.table.len().max(1);
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
            Phase::BeforeChecks => self.begin_checks()?,
            Phase::BeforeFiles => self.begin_files(found)?,
            // Nothing was asked for.
            phase => self.phase = phase,
        }
        Ok(())
    }

    fn start_step(&mut self, step: TreeStep, view: View<'_>, now: Duration) -> Result<(), Leave> {
        let (spec, size_bytes) = match step {
            TreeStep::Map(leaf) => (self.leaves[leaf].spec.clone(), self.leaves[leaf].size_bytes),
            TreeStep::Reduce { level, index } => {
                let parts = self.levels[level][index].parts.clone();
                let keys: Vec<ResultKey> = match level.checked_sub(1) {
                    None => self.leaves[parts].iter().map(|leaf| leaf.key).collect(),
                    Some(below) => self.levels[below][parts].iter().map(|node| node.key).collect(),
                };
                (plan::reduce(&self.setting, &keys), 0)
            }
        };
        let run = self.add(Task::TreeStep(step), spec, size_bytes);
        self.choose(run, view, now)
    }

    /// A step has come to its end.
    fn step_ended(
        &mut self,
        step: TreeStep,
        ended: Result<PureReport, PureFailure>,
        now: Duration,
    ) -> Result<(), Leave> {
        match (step, ended) {
            (_, Ok(report)) => {
                self.spent.count(&report);
                if let TreeStep::Map(leaf) = step {
                    self.advance(leaf, report.remembered, now);
                }
                if let Phase::Compute(order) = &mut self.phase {
                    order.done(step);
                }
            }
            // A shard may be left out for what its guest did, never for what a host could not do.
            (TreeStep::Map(leaf), Err(failure)) if failure.problem.kind.blame() == Blame::Guest => {
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
        if remembered {
            self.remembered.insert(self.leaves[leaf].index);
        }
        progress.remembered = self.remembered.len() as u64;
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
