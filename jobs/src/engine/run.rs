//! One step on its way to an end: on the host where its data is, on another if that one fails, on two if the first lags.

use std::collections::BTreeMap;
use std::time::Duration;

use nearfield_net::control::BEAT;
use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey, Work};
use nearfield_protocol::problem::{Blame, Elsewhere};
use nearfield_protocol::{NodeId, Problem, ProblemKind};

use super::action::{Action, Ticket};
use super::claims::Worth;
use super::restart::{Leave, Restart};
use super::sites::View;
use super::state::Engine;
use super::tasks::{Bringing, Part, Run, RunId, Second, Stage, Task};
use crate::order::TreeStep;

/// Hosts that one run is tried on before it waits a beat and begins with all of them again.
const MAX_HOSTS_TRIED: usize = 4;
/// How many beats a run waits for some host to be there.
const MAX_WAITS: u32 = 10;
/// A map lags that takes so many times as long as the others did on average, and so long at least.
const LAGGING: u32 = 3;
const LAGGING_MIN: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn add(&mut self, task: Task, spec: PureSpec, size_bytes: u64) -> RunId {
        self.last_run += 1;
        let id = RunId(self.last_run);
        let run = Run {
            task,
            key: spec.key(),
            spec,
            size_bytes,
            tried: Vec::new(),
            failure: None,
            waits: MAX_WAITS,
            stage: Stage::Idle,
        };
        self.runs.insert(id, run);
        id
    }

    /// Looks at what was to be looked at by now.
    pub(super) fn wake(&mut self, view: View<'_>, now: Duration) -> Result<(), Leave> {
        while let Some((at, id)) = self.wakes.first().copied()
            && at <= now
        {
            self.wakes.pop_first();
            match self.runs.get(&id).map(|run| &run.stage) {
                Some(Stage::Idle) => self.choose(id, view, now)?,
                Some(Stage::Runs { .. }) => self.back_up(id, view, now),
                Some(Stage::Brings(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Chooses a host for a run, and begins there.
    pub(super) fn choose(&mut self, id: RunId, view: View<'_>, now: Duration) -> Result<(), Leave> {
        let Some(run) = self.runs.get(&id) else {
            return Ok(());
        };
        if matches!(run.task, Task::Check(_)) {
            return self.choose_for_check(id, view, now);
        }
        let host = match &run.spec.work {
            Work::Map { subject, .. } => {
                let (shard, with_files) = ((subject.shard, run.size_bytes), self.setting.may_write);
                self.sites.for_map(view, &run.key, with_files, shard, &run.tried)
            }
            Work::Reduce { .. } | Work::Finish { .. } => {
                let parts = run.spec.work.parts();
                Some(self.sites.for_parts(view, &run.key, parts, &run.tried)?)
            }
        };
        if let Some(host) = host {
            return self.begin_on(id, host, view, now);
        }
        let text = "no host can run this now: none is there that holds the data or may fetch it";
        let nobody = || Problem::new(ProblemKind::HostUnreachable, text).into();
        let failure = run.failure.clone().unwrap_or_else(nobody);
        self.wait_for_hosts(id, failure, view, now)
    }

    /// Has a run look for a host again with the next beat, when a host that was missed is heard of; it fails with `failure` once it
    /// has waited for long.
    fn wait_for_hosts(
        &mut self,
        id: RunId,
        failure: PureFailure,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        if run.waits == 0 {
            return self.run_ended(id, Err(failure), view, now);
        }
        run.waits -= 1;
        run.tried.clear();
        run.stage = Stage::Idle;
        self.wakes.insert((now + BEAT, id));
        Ok(())
    }

    /// Begins a run on a host: what it is over is brought there first.
    pub(super) fn begin_on(
        &mut self,
        id: RunId,
        host: NodeId,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        self.sites.take(host);
        let checks = matches!(run.task, Task::Check(_));
        let remembered = !checks && self.sites.remembering(view, &run.key).contains(&host);
        let missing = match remembered {
            true => Vec::new(),
            false => self.sites.missing(view, run.spec.work.parts(), host),
        };
        if missing.is_empty() {
            self.run_on(id, host, now);
            return Ok(());
        }
        let part = |(key, holders): (ResultKey, Vec<NodeId>)| Part {
            key,
            holders: holders.into(),
        };
        run.stage = Stage::Brings(Bringing {
            host,
            missing: missing.into_iter().map(part).collect(),
            under_way: BTreeMap::new(),
        });
        self.bring(id, view, now)
    }

    pub(super) fn run_on(&mut self, id: RunId, host: NodeId, now: Duration) {
        let ticket = self.ticket();
        let Some(run) = self.runs.get_mut(&id) else { return };
        let spec = run.spec.clone();
        run.stage = Stage::Runs {
            first: (ticket, host),
            begun: now,
            second: Second::None,
        };
        self.tickets.insert(ticket, id);
        self.actions.push(match run.task {
            Task::Check(_) => Action::Replay { ticket, host, spec },
            Task::TreeStep(_) | Task::Finish => Action::Run { ticket, host, spec },
        });
        // Two GPUs need not come to the same bits.
        if matches!(run.task, Task::TreeStep(TreeStep::Map(_))) && run.spec.setting.gpu.is_none() {
            self.wakes.insert((now + self.patience(), id));
        }
    }

    /// How long a map may take.
    fn patience(&self) -> Duration {
        let (count, took) = self.maps;
        match count {
            0 => LAGGING_MIN,
            count => (took / count * LAGGING).max(LAGGING_MIN),
        }
    }

    /// Starts a map on a second host as well, if it lags: who ends first counts, and the other stops.
    fn back_up(&mut self, id: RunId, view: View<'_>, now: Duration) {
        let patience = self.patience();
        let ticket = self.ticket();
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Stage::Runs { first, begun, second } = &mut run.stage else {
            return;
        };
        let (Second::None, Work::Map { subject, .. }) = (&second, &run.spec.work) else {
            return;
        };
        let due = match self.maps.0 {
            // Nobody knows yet how long a map takes.
            0 => now + LAGGING_MIN,
            _ => *begun + patience,
        };
        if due > now {
            self.wakes.insert((due, id));
            return;
        }
        let host = self
            .sites
            .for_shard(view, subject.shard, run.size_bytes, &[first.1])
            .filter(|other| self.sites.is_busier(&first.1, other));
        let Some(host) = host else {
            *second = Second::Never;
            return;
        };
        tracing::info!(
            run = run.key.0.short(),
            host = first.1.short(),
            "a map that lags is started twice"
        );
        *second = Second::Runs(ticket, host);
        let spec = run.spec.clone();
        self.sites.take(host);
        self.tickets.insert(ticket, id);
        self.actions.push(Action::Run { ticket, host, spec });
    }

    /// A run has ended on a host.
    pub(super) fn ran(
        &mut self,
        id: RunId,
        ticket: Ticket,
        ended: Result<PureReport, PureFailure>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        let Stage::Runs { first, begun, second } = &mut run.stage else {
            return Ok(());
        };
        let begun = *begun;
        let (host, other) = match *second {
            Second::Runs(of_second, host) if of_second == ticket => (host, Some(*first)),
            Second::Runs(of_second, other) => (first.1, Some((of_second, other))),
            Second::None | Second::Never => (first.1, None),
        };
        if let Some((other_ticket, other)) = other {
            if let Err(failure) = ended {
                tracing::warn!(host = host.short(), problem = %failure.problem, "one of two hosts that run a map failed");
                // The other one may do better.
                (*first, *second) = ((other_ticket, other), Second::Never);
                self.sites.release(&host);
                self.sites.failed(host, &failure.problem);
                return Ok(());
            }
            self.tickets.remove(&other_ticket);
            self.actions.push(Action::Stop(other_ticket));
            self.sites.release(&other);
        }
        if ended.is_ok()
            && matches!(run.task, Task::TreeStep(TreeStep::Map(_)))
            && run.spec.setting.gpu.is_none()
        {
            self.maps = (self.maps.0 + 1, self.maps.1 + now.saturating_sub(begun));
        }
        self.ended_on(id, host, ended, view, now)
    }

    /// What a run came to on a host is judged: it counts, it goes to another host, or it failed.
    pub(super) fn ended_on(
        &mut self,
        id: RunId,
        host: NodeId,
        ended: Result<PureReport, PureFailure>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        self.sites.release(&host);
        let is_of_other_parts = ended
            .as_ref()
            .is_ok_and(|report| self.is_of_other_parts(id, report));
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        run.stage = Stage::Idle;
        match ended {
            Ok(report) => match self.sites.judge(view, &report, &run.key, host) {
                Worth::Counts if is_of_other_parts => self.made_of_others(id, host, &report, view, now),
                Worth::Counts => {
                    self.sites.claims.made(&report, host);
                    self.run_ended(id, Ok(report), view, now)
                }
                Worth::False if self.input.record.check.is_some() => {
                    let what = self.what(&report.key);
                    self.quarantine(host, &what);
                    Ok(())
                }
                worth => {
                    run.tried.push(host);
                    if worth == Worth::False {
                        self.sites.shun(host);
                    }
                    match run.tried.len() < MAX_HOSTS_TRIED {
                        true => self.choose(id, view, now),
                        false => Err(Restart::PartsLost.into()),
                    }
                }
            },
            Err(failure) if failure.problem.kind.elsewhere() != Elsewhere::Never => {
                tracing::warn!(host = host.short(), problem = %failure.problem, "a run goes to another host");
                run.tried.push(host);
                let is_tried_enough = run.tried.len() >= MAX_HOSTS_TRIED;
                let kind = failure.problem.kind;
                let passes = kind.blame() == Blame::LostHost || kind == ProblemKind::Overload;
                run.failure = Some(failure.clone());
                self.sites.failed(host, &failure.problem);
                match is_tried_enough {
                    false => self.choose(id, view, now),
                    true if passes => self.wait_for_hosts(id, failure, view, now),
                    true => self.run_ended(id, Err(failure), view, now),
                }
            }
            Err(failure) => self.run_ended(id, Err(failure), view, now),
        }
    }

    /// Whether a result was made of other parts than the job knows.
    fn is_of_other_parts(&self, id: RunId, report: &PureReport) -> bool {
        let run = self.runs.get(&id);
        let made_of = run.and_then(|run| self.sites.made_of(&run.spec.work));
        made_of.is_some_and(|parts| parts != report.parts)
    }

    /// A host gave a result that it made of other parts than the job knows. A host that remembered the result is asked again, with
    /// the parts brought there. A host that had the parts did not use them: another host is asked.
    fn made_of_others(
        &mut self,
        id: RunId,
        host: NodeId,
        report: &PureReport,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        tracing::warn!(
            run = run.key.0.short(),
            host = host.short(),
            "a result was made of other parts than the job knows: it is made again"
        );
        let had_the_parts = !self.sites.remembering(view, &run.key).contains(&host);
        self.sites.outdate(&run.key, report.parts);
        // The result that the host remembers may differ from the one that it gave.
        self.sites.claims.lost_one(&host, &run.key);
        if had_the_parts {
            run.tried.push(host);
        }
        match run.tried.len() < MAX_HOSTS_TRIED {
            true => self.choose(id, view, now),
            false => Err(Restart::PartsChanged.into()),
        }
    }

    fn run_ended(
        &mut self,
        id: RunId,
        ended: Result<PureReport, PureFailure>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        match self.runs.remove(&id).map(|run| run.task) {
            Some(Task::TreeStep(step)) => self.step_ended(step, ended, now),
            Some(Task::Finish) => self.finished(ended, view, now),
            Some(Task::Check(_)) | None => Ok(()),
        }
    }

    /// A run that is made once more has ended on its host.
    pub(super) fn replayed(
        &mut self,
        id: RunId,
        ended: Result<Result<PureReport, PureFailure>, Problem>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        let (Task::Check(check), Stage::Runs { first, .. }) = (&run.task, &run.stage) else {
            return Ok(());
        };
        let host = first.1;
        let outcome = check.outcome(host, ended);
        run.stage = Stage::Idle;
        self.sites.release(&host);
        self.checked_on(id, host, outcome, view, now)
    }
}
