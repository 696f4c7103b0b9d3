//! `--check`: runs of a job that are made once more, each on a host that did not make it, to find hosts whose results
//! are not what the function returns.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey, Work};
use nearfield_protocol::problem::Blame;
use nearfield_protocol::units::format_count;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};
use rand::RngExt;

use super::action::{Action, Ticket};
use super::restart::{Leave, Restart};
use super::sites::View;
use super::state::{Engine, Phase};
use super::tasks::{Candidate, Check, Checks, Outcome, RunId, Task};
use crate::plan;
use crate::record::Checked;

/// Runs that are checked at once.
const AT_ONCE: usize = 16;
/// Hosts that one run is tried on before it goes unchecked.
const MAX_HOSTS_TRIED: usize = 3;

/// What the hosts that made one run say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Agreed,
    /// This one alone says what it says.
    Wrong(NodeId),
    /// Nobody can tell which of the two is right.
    Disagreed,
}

/// Which host is wrong, by what was remembered of `maker`, what `second` came to and what a third one did, or `maker`
/// itself once more.
fn judge(
    remembered: &PureReport,
    maker: NodeId,
    second: (NodeId, &Outcome),
    last: Option<(NodeId, &Outcome)>,
) -> Verdict {
    let says_the_same = |outcome: &Outcome| outcome.is_some_and(|report| report.agrees(remembered));
    if says_the_same(second.1) {
        return Verdict::Agreed;
    }
    match last {
        Some((host, again)) if host == maker => match says_the_same(again) {
            true => Verdict::Disagreed,
            // It does not say itself what it said before.
            false => Verdict::Wrong(maker),
        },
        Some((_, third)) if says_the_same(third) => Verdict::Wrong(second.0),
        Some((_, third)) if same(second.1, third) => Verdict::Wrong(maker),
        _ => Verdict::Disagreed,
    }
}

fn same(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.agrees(other),
        (None, None) => true,
        _ => false,
    }
}

impl Check {
    /// What a host came to, if that says something of the guest.
    pub(super) fn outcome(
        &self,
        host: NodeId,
        ended: Result<Result<PureReport, PureFailure>, Problem>,
    ) -> Option<Outcome> {
        let (parts, problem) = match ended {
            Ok(Ok(report)) if report.parts == self.claim.parts => return Some(Some(report)),
            // Of other parts another result is right.
            Ok(Ok(_)) => {
                tracing::warn!(run = %self.what, host = host.short(), "a host made a run that is checked of other parts");
                return None;
            }
            Ok(Err(failure)) => (failure.parts, failure.problem),
            Err(problem) => (Digest::EMPTY, problem),
        };
        // Running out of time or fuel says something of the host, or of today's limits, not of the guest.
        let limits = matches!(problem.kind, ProblemKind::Timeout | ProblemKind::OutOfFuel);
        if problem.kind.blame() == Blame::Guest && !limits && parts == self.claim.parts {
            return Some(None);
        }
        tracing::warn!(run = %self.what, host = host.short(), %problem, "a run cannot be checked there");
        None
    }
}

impl Engine {
    /// The keys of all runs that the job's output stems from.
    pub(super) fn all_keys(&self) -> Vec<ResultKey> {
        self.candidates()
            .into_iter()
            .map(|candidate| candidate.key)
            .collect()
    }

    fn candidates(&self) -> Vec<Candidate> {
        let mut all: Vec<Candidate> = self
            .leaves
            .iter()
            .map(|leaf| Candidate {
                spec: leaf.spec.clone(),
                key: leaf.key,
                size_bytes: leaf.size_bytes,
                level: 0,
            })
            .collect();
        let mut below: Vec<ResultKey> = self.leaves.iter().map(|leaf| leaf.key).collect();
        let above = |spec: PureSpec, level| Candidate {
            key: spec.key(),
            spec,
            size_bytes: 0,
            level,
        };
        for (at, level) in self.levels.iter().enumerate() {
            let reduced = level.iter().filter(|node| node.parts.len() > 1);
            all.extend(reduced.map(|node| {
                let spec = plan::reduce(&self.setting, &below[node.parts.clone()]);
                above(spec, at + 1)
            }));
            below = level.iter().map(|node| node.key).collect();
        }
        let root = self.root();
        all.extend(root.map(|root| above(plan::finish(&self.setting, root), self.levels.len() + 1)));
        all
    }

    /// Picks each run with the same probability, one at least, and all of which hosts say different things.
    pub(super) fn begin_checks(&mut self) -> Result<(), Leave> {
        let candidates = self.candidates();
        if self.outdates(&candidates) {
            return Err(Restart::PartsChanged.into());
        }
        let fraction = self.input.record.check.unwrap_or_default();
        let one = self.draw.random_range(0..candidates.len().max(1));
        let mut later: VecDeque<Vec<Candidate>> = VecDeque::new();
        for (at, candidate) in candidates.into_iter().enumerate() {
            let disputed = self.sites.claims.of(&candidate.key).len() > 1;
            if at != one && !disputed && self.draw.random::<f64>() >= fraction {
                continue;
            }
            match later.back_mut() {
                Some(level) if level[0].level == candidate.level => level.push(candidate),
                _ => later.push_back(vec![candidate]),
            }
        }
        self.phase = Phase::Checks(Checks {
            later,
            waits: VecDeque::new(),
            checked: Checked::default(),
        });
        Ok(())
    }

    /// Leaves out of what hosts say all that was made of other parts than those that count, and what stands on that. Whether
    /// some of it counted. Each of them may be right: a part that was wrong may have been made rightly since.
    fn outdates(&mut self, candidates: &[Candidate]) -> bool {
        let mut outdated = HashSet::new();
        for candidate in candidates {
            let (key, work) = (&candidate.key, &candidate.spec.work);
            let stands_on_outdated = work.parts().iter().any(|part| outdated.contains(part));
            let made_of = self.sites.made_of(work);
            let is_outdated = |parts| stands_on_outdated || made_of.is_some_and(|made_of| made_of != parts);
            let claims = self.sites.claims.of(key).iter();
            let claimed: Vec<Digest> = claims.map(|claim| claim.report.parts).collect();
            if claimed.first().is_some_and(|parts| is_outdated(*parts)) {
                outdated.insert(*key);
            }
            for parts in claimed.into_iter().filter(|parts| is_outdated(*parts)) {
                self.sites.outdate(key, parts);
            }
        }
        !outdated.is_empty()
    }

    /// Starts the next check, or goes on to the next level once all of this one have ended.
    pub(super) fn next_check(&mut self, view: View<'_>, now: Duration) -> Result<bool, Leave> {
        let Phase::Checks(checks) = &mut self.phase else {
            return Ok(false);
        };
        if self.runs.len() >= AT_ONCE {
            return Ok(false);
        }
        if let Some((candidate, claim)) = checks.waits.pop_front() {
            let Some(maker) = claim.maker() else {
                checks.checked.unchecked += 1;
                return Ok(true);
            };
            let near = match &candidate.spec.work {
                Work::Map { subject, .. } => subject.shard,
                Work::Reduce { .. } | Work::Finish { .. } => candidate.key.0,
            };
            let check = Check {
                what: candidate.to_string(),
                near,
                claim: claim.report,
                maker,
                second: None,
                failed: 0,
                asks_maker: false,
            };
            let spec = candidate.spec.clone();
            let run = self.add(Task::Check(Box::new(check)), spec, candidate.size_bytes);
            if let Some(run) = self.runs.get_mut(&run) {
                run.tried.push(maker);
            }
            self.choose(run, view, now)?;
            return Ok(true);
        }
        if !self.runs.is_empty() {
            return Ok(false);
        }
        match checks.later.pop_front() {
            Some(level) => {
                for candidate in level {
                    let claims = self.sites.claims.of(&candidate.key);
                    // Forgotten since: what stands above it is remembered.
                    checks.checked.unchecked += u64::from(claims.is_empty());
                    let candidate = Arc::new(candidate);
                    let waits = claims.iter().map(|claim| (candidate.clone(), claim.clone()));
                    checks.waits.extend(waits);
                }
            }
            None => {
                self.checked = Some(checks.checked);
                self.after_checks(view, now)?;
            }
        }
        Ok(true)
    }

    /// Chooses a host that makes a run once more: none that was asked already, or its maker if there is no other.
    pub(super) fn choose_for_check(&mut self, id: RunId, view: View<'_>, now: Duration) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        let Task::Check(check) = &mut run.task else {
            return Ok(());
        };
        let other = match check.failed < MAX_HOSTS_TRIED {
            true => self.sites.for_shard(view, check.near, run.size_bytes, &run.tried),
            false => None,
        };
        match (other, check.second) {
            (Some(host), _) => self.begin_on(id, host, view, now),
            (None, Some(_)) if !check.asks_maker => {
                check.asks_maker = true;
                let maker = check.maker;
                self.begin_on(id, maker, view, now)
            }
            (None, Some(_)) => self.judged(id, None),
            (None, None) => {
                self.runs.remove(&id);
                if let Phase::Checks(checks) = &mut self.phase {
                    checks.checked.unchecked += 1;
                }
                Ok(())
            }
        }
    }

    /// A host came to something, or could not make the run.
    pub(super) fn checked_on(
        &mut self,
        id: RunId,
        host: NodeId,
        outcome: Option<Outcome>,
        view: View<'_>,
        now: Duration,
    ) -> Result<(), Leave> {
        let Some(run) = self.runs.get_mut(&id) else {
            return Ok(());
        };
        let Task::Check(check) = &mut run.task else {
            return Ok(());
        };
        match (outcome, check.second) {
            (outcome, Some(_)) if check.asks_maker => self.judged(id, outcome.map(|outcome| (host, outcome))),
            (Some(outcome), Some(_)) => self.judged(id, Some((host, outcome))),
            (Some(outcome), None) => {
                check.second = Some((host, outcome));
                check.failed = 0;
                if judge(&check.claim, check.maker, (host, &outcome), None) == Verdict::Agreed {
                    return self.judged(id, None);
                }
                run.tried = vec![check.maker, host];
                self.choose_for_check(id, view, now)
            }
            (None, _) => {
                check.failed += 1;
                run.tried.push(host);
                self.choose_for_check(id, view, now)
            }
        }
    }

    /// All that can be known of a claim is known.
    fn judged(&mut self, id: RunId, last: Option<(NodeId, Outcome)>) -> Result<(), Leave> {
        let Some(Task::Check(check)) = self.runs.remove(&id).map(|run| run.task) else {
            return Ok(());
        };
        let Some((second, outcome)) = check.second else {
            return Ok(());
        };
        let last = last.as_ref().map(|(host, outcome)| (*host, outcome));
        let (what, maker) = (&check.what, check.maker);
        let verdict = judge(&check.claim, maker, (second, &outcome), last);
        match verdict {
            Verdict::Agreed => {
                if let Phase::Checks(checks) = &mut self.phase {
                    checks.checked.runs += 1;
                    checks.checked.fuel += outcome.map_or(0, |report| report.fuel);
                }
                Ok(())
            }
            Verdict::Wrong(host) => {
                tracing::error!(
                    run = what,
                    maker = maker.short(),
                    second = second.short(),
                    wrong = host.short(),
                    "a host came to what no other does"
                );
                self.quarantine(host, what);
                Ok(())
            }
            Verdict::Disagreed => {
                let text = format!(
                    "two hosts came to different results as they were {what}, and there is no third to tell which is right: \
                     add a host and run the job again with --check"
                );
                Err(Problem::new(ProblemKind::ResultsDiffer, text).into())
            }
        }
    }

    /// Has a host that was wrong run nothing more. All else is left off until that is written down: what it made is made again.
    pub(super) fn quarantine(&mut self, host: NodeId, what: &str) {
        self.leave_off();
        let ticket = self.ticket();
        self.quarantines = Some((ticket, host));
        self.actions.push(Action::Quarantine {
            ticket,
            host,
            reason: format!("job {}: it was wrong {what}", self.input.record.id),
        });
    }

    pub(super) fn was_quarantined(
        &mut self,
        ticket: Ticket,
        quarantined: Result<(), Problem>,
    ) -> Result<(), Leave> {
        let Some((_, host)) = self.quarantines.take_if(|(waits, _)| *waits == ticket) else {
            return Ok(());
        };
        quarantined?;
        self.quarantined.push(host);
        Err(Restart::TrustChanged.into())
    }

    /// What the run with this key is, after "it was wrong".
    pub(super) fn what(&self, key: &ResultKey) -> String {
        match self.leaves.iter().find(|leaf| leaf.key == *key) {
            Some(leaf) => format!("mapping shard {}", leaf.index),
            None => "reducing".to_owned(),
        }
    }
}

/// What it is about, after "it was".
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.spec.work {
            Work::Map { index, .. } => write!(f, "mapping shard {index}"),
            Work::Reduce { parts } => write!(f, "reducing {} parts", format_count(parts.len() as u64)),
            Work::Finish { .. } => f.write_str("finishing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn report(output: &[u8], fuel: u64) -> PureReport {
        PureReport {
            key: ResultKey(Digest::of(b"key")),
            remembered: false,
            output_bytes: output.len() as u64,
            output: Digest::of(output),
            parts: Digest::EMPTY,
            fuel,
            total_fuel: fuel,
            data_bytes: 0,
            moved_bytes: 0,
            written_files: 0,
            written_bytes: 0,
            written: Digest::of(b""),
            run_us: 0,
            made: None,
        }
    }

    #[test]
    fn who_stands_alone_is_wrong() {
        let (right, wrong) = (Some(report(b"5", 10)), Some(report(b"6", 10)));
        let judged = |remembered: &Outcome, second: &Outcome, last: Option<(u8, &Outcome)>| {
            let last = last.map(|(host, outcome)| (id(host), outcome));
            judge(&remembered.unwrap(), id(1), (id(2), second), last)
        };
        assert_eq!(judged(&right, &right, None), Verdict::Agreed);
        assert_eq!(judged(&wrong, &right, Some((3, &right))), Verdict::Wrong(id(1)));
        assert_eq!(judged(&right, &wrong, Some((3, &right))), Verdict::Wrong(id(2)));
        // Two hosts: one that contradicts itself is wrong, one that insists may be right.
        assert_eq!(judged(&wrong, &right, Some((1, &right))), Verdict::Wrong(id(1)));
        assert_eq!(judged(&wrong, &right, Some((1, &wrong))), Verdict::Disagreed);
        assert_eq!(judged(&wrong, &right, None), Verdict::Disagreed);
        // Three that all say something else.
        let other = Some(report(b"7", 10));
        assert_eq!(judged(&wrong, &right, Some((3, &other))), Verdict::Disagreed);
        // The same output for other fuel is another result; a guest that fails twice is none at all.
        let dearer = Some(report(b"5", 11));
        assert_eq!(judged(&dearer, &right, Some((3, &right))), Verdict::Wrong(id(1)));
        assert_eq!(judged(&right, &None, Some((3, &None))), Verdict::Wrong(id(1)));
    }
}
