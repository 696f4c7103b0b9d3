//! `--check`: runs of a job that are made once more, each on a host that did not make it, to find hosts whose results
//! are not what the function returns.

use std::fmt;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nearfield_protocol::job::{PureReport, PureSpec, ResultKey, Work};
use nearfield_protocol::units::format_count;
use nearfield_protocol::{NodeId, Problem, ProblemKind};

use super::plan::{self, Leaf, Node};
use super::record::Checked;
use super::run::{Job, Stop, is_guests};
use super::sites::Claim;
use crate::catalog::net_problem;

/// Runs that are checked at once.
const AT_ONCE: usize = 16;
/// Hosts that one run is tried on before it goes unchecked.
const MAX_HOSTS_TRIED: usize = 3;

/// A run that may be made once more.
struct Run {
    spec: PureSpec,
    key: ResultKey,
    size_bytes: u64,
    /// How far above the maps it stands.
    level: usize,
}

/// What one host came to; `None` if its guest failed.
pub(crate) type Outcome = Option<PureReport>;

/// What the hosts that made one run say together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Agreed,
    /// This one alone says what it says.
    Wrong(NodeId),
    /// Nobody can tell which of the two is right.
    Disagreed,
}

/// Which host is wrong, by what was remembered of `maker`, what `second` came to and what a third one did, or `maker`
/// itself once more.
pub(crate) fn judge(
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

impl Job<'_> {
    /// Makes a random part of the job's runs once more. A host that is found to be wrong is quarantined; then the job's
    /// results are not to be used, and the error says that they are made again.
    pub(super) async fn check(
        &self,
        fraction: f64,
        leaves: &[Leaf],
        levels: &[Vec<Node>],
        root: Option<ResultKey>,
    ) -> Result<Checked, Stop> {
        let all = self.runs(leaves, levels, root);
        let keys: Vec<ResultKey> = all.iter().map(|run| run.key).collect();
        self.recall(&keys).await?;
        let mut checked = Checked::default();
        let mut picked = pick(all, fraction, |run| self.sites.claims(&run.key).len() > 1);
        // What lies below comes first: of parts that are wrong nobody can make the right whole.
        picked.sort_by_key(|run| run.level);
        for level in picked.chunk_by(|one, other| one.level == other.level) {
            self.check_level(level, &mut checked).await?;
        }
        Ok(checked)
    }

    async fn check_level(&self, level: &[Run], checked: &mut Checked) -> Result<(), Stop> {
        let mut claims = Vec::new();
        for run in level {
            let of_run = self.sites.claims(&run.key);
            // Forgotten since: what stands above it is remembered.
            checked.unchecked += u64::from(of_run.is_empty());
            claims.extend(of_run.into_iter().map(|claim| (run, claim)));
        }
        let (mut claims, mut checks) = (claims.into_iter(), FuturesUnordered::new());
        loop {
            while checks.len() < AT_ONCE
                && let Some((run, claim)) = claims.next()
            {
                checks.push(self.check_claim(run, claim));
            }
            let Some((run, verdict)) = checks.next().await else {
                return Ok(());
            };
            match verdict? {
                None => checked.unchecked += 1,
                Some((Verdict::Agreed, fuel)) => {
                    checked.runs += 1;
                    checked.fuel += fuel;
                }
                Some((Verdict::Wrong(host), _)) => {
                    return Err(self.quarantine(host, run).await?);
                }
                Some((Verdict::Disagreed, _)) => {
                    return Err(Problem::new(
                        ProblemKind::ResultsDiffer,
                        format!(
                            "two hosts came to different results as they were {run}, and there is no third to tell which is \
                             right: add a host and run the job again with --check"
                        ),
                    )
                    .into());
                }
            }
        }
    }

    /// All runs that the job's output stems from.
    fn runs(&self, leaves: &[Leaf], levels: &[Vec<Node>], root: Option<ResultKey>) -> Vec<Run> {
        let mut runs: Vec<Run> = leaves
            .iter()
            .map(|leaf| Run {
                spec: leaf.spec.clone(),
                key: leaf.key,
                size_bytes: leaf.size_bytes,
                level: 0,
            })
            .collect();
        let mut below: Vec<ResultKey> = leaves.iter().map(|leaf| leaf.key).collect();
        let above = |spec: PureSpec, level| Run {
            key: spec.key(),
            spec,
            size_bytes: 0,
            level,
        };
        for (at, level) in levels.iter().enumerate() {
            let reduced = level.iter().filter(|node| node.parts.len() > 1);
            runs.extend(reduced.map(|node| {
                let spec = plan::reduce(&self.setting, &below[node.parts.clone()]);
                above(spec, at + 1)
            }));
            below = level.iter().map(|node| node.key).collect();
        }
        runs.extend(root.map(|root| above(plan::finish(&self.setting, root), levels.len() + 1)));
        runs
    }

    /// What hosts say of one claim, and the fuel of the run that was made again.
    async fn check_claim<'r>(
        &self,
        run: &'r Run,
        claim: Claim,
    ) -> (&'r Run, Result<Option<(Verdict, u64)>, Problem>) {
        (run, self.verdict(run, &claim).await)
    }

    /// `None` if no other host can make the run.
    async fn verdict(&self, run: &Run, claim: &Claim) -> Result<Option<(Verdict, u64)>, Problem> {
        let (Some(maker), remembered) = (claim.maker(), &claim.report) else {
            return Ok(None);
        };
        let Some((second, outcome)) = self.again(run, vec![maker]).await? else {
            return Ok(None);
        };
        let fuel = outcome.map_or(0, |report| report.fuel);
        let verdict = judge(remembered, maker, (second, &outcome), None);
        if verdict == Verdict::Agreed {
            return Ok(Some((verdict, fuel)));
        }
        let last = match self.again(run, vec![maker, second]).await? {
            Some(third) => Some(third),
            None => self.again_on(run, maker).await?.map(|outcome| (maker, outcome)),
        };
        let last = last.as_ref().map(|(host, outcome)| (*host, outcome));
        let verdict = judge(remembered, maker, (second, &outcome), last);
        tracing::error!(%run, maker = maker.short(), second = second.short(), ?verdict, "hosts came to different results");
        Ok(Some((verdict, fuel)))
    }

    /// Makes a run on a host that is none of `but`, if one can.
    async fn again(&self, run: &Run, mut but: Vec<NodeId>) -> Result<Option<(NodeId, Outcome)>, Problem> {
        for _ in 0..MAX_HOSTS_TRIED {
            let (digest, size_bytes) = match &run.spec.work {
                Work::Map { subject, .. } => (subject.shard, run.size_bytes),
                Work::Reduce { .. } | Work::Finish { .. } => (run.key.0, 0),
            };
            let Some(taken) = self.sites.for_shard(digest, size_bytes, &but) else {
                return Ok(None);
            };
            if let Some(outcome) = self.again_on(run, taken.host).await? {
                return Ok(Some((taken.host, outcome)));
            }
            but.push(taken.host);
        }
        Ok(None)
    }

    async fn again_on(&self, run: &Run, host: NodeId) -> Result<Option<Outcome>, Problem> {
        if let Err(problem) = self.bring(&run.spec, host).await {
            tracing::warn!(%run, host = host.short(), %problem, "what a run is over cannot be brought there");
            return Ok(None);
        }
        if let Err(problem) = self.gateway.catalog.see_forgotten(host).await {
            tracing::warn!(%run, host = host.short(), %problem, "a run cannot be checked there");
            return Ok(None);
        }
        let replayed = self.gateway.dispatch.replay(host, run.spec.clone()).await;
        Ok(match replayed.map(|replayed| replayed.outcome) {
            Ok(Ok((report, _))) => Some(Some(report)),
            // Running out of time or fuel says something of the host, or of today's limits, not of the guest.
            Ok(Err(failure))
                if is_guests(failure.problem.kind)
                    && !matches!(
                        failure.problem.kind,
                        ProblemKind::Timeout | ProblemKind::OutOfFuel
                    ) =>
            {
                Some(None)
            }
            Ok(Err(failure)) => {
                tracing::warn!(%run, host = host.short(), problem = %failure.problem, "a run cannot be checked there");
                None
            }
            Err(problem) => {
                tracing::warn!(%run, host = host.short(), %problem, "a run cannot be checked there");
                None
            }
        })
    }

    /// Has `host` run nothing more, and all nodes forget what it made. Returns why the job starts over.
    async fn quarantine(&self, host: NodeId, run: &Run) -> Result<Stop, Problem> {
        let catalog = &self.gateway.catalog;
        let reason = format!("job {}: it was wrong {run}", self.record.id);
        tracing::error!(host = host.short(), reason, "a host is quarantined");
        catalog
            .node
            .quarantine(&host, reason)
            .await
            .map_err(net_problem)?;
        self.gateway.hosts.refresh(&catalog.node.records());
        self.tally
            .quarantined
            .lock()
            .expect("no panic under this lock")
            .push(host);
        let text = format!("host {} is quarantined: what it made is made again", host.short());
        Ok(Problem::new(ProblemKind::ForgottenResult, text).into())
    }
}

/// Each of `runs` with the same probability, one at least, and all that `must` be.
fn pick(runs: Vec<Run>, fraction: f64, must: impl Fn(&Run) -> bool) -> Vec<Run> {
    let one = rand::random_range(0..runs.len().max(1));
    let of = runs.into_iter().enumerate();
    of.filter(|(at, run)| *at == one || must(run) || rand::random::<f64>() < fraction)
        .map(|(_, picked)| picked)
        .collect()
}

/// What it was about, after "it was".
impl fmt::Display for Run {
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
    use nearfield_protocol::Digest;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn report(output: &[u8], fuel: u64) -> PureReport {
        PureReport {
            key: ResultKey(Digest::of(b"key")),
            remembered: false,
            output_bytes: output.len() as u64,
            output: Digest::of(output),
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
