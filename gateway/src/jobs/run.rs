//! One job: recall what is remembered, map what is not, reduce, finish.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nearfield_net::control::BEAT;
use nearfield_protocol::job::{MAPPER, PureFailure, PureReport, PureSetting, PureSpec, ResultKey, Work};
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind, units};
use nearfield_store::Dataset;
use tokio::sync::watch;

use super::order::{Known, Order, Step};
use super::plan::{self, Leaf, Node};
use super::record::{JobRecord, JobReport, JobState, Prediction, Selection, ShardFailure, Written};
use super::sites::Sites;
use super::{Progress, into};
use crate::reply::store_problem;
use crate::server::Gateway;

/// Hosts that one run is tried on before the job fails for it.
const MAX_HOSTS_TRIED: usize = 4;
/// How often a job starts over because partial results were evicted under it, or went with their host.
const FORGOTTEN_RETRIES: usize = 8;
/// How many beats a run waits for some host to be there.
const MAX_WAITS: u32 = 10;
/// Failed shards that a job's report lists.
const MAX_LISTED_FAILURES: usize = 100;

/// Why a job ended early.
pub(super) struct Stop {
    problem: Problem,
    failures: Vec<ShardFailure>,
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Stop {
            problem,
            failures: Vec::new(),
        }
    }
}

/// Runs a job to its end.
pub async fn run(gateway: &Arc<Gateway>, record: &JobRecord, progress: &watch::Sender<Progress>) -> JobState {
    let (tally, started, mut spent) = (Tally::default(), Instant::now(), Spent::default());
    let mut retries = FORGOTTEN_RETRIES;
    loop {
        // Anew each time: who is trusted may have changed, and what hosts said before with it.
        let setting = plan::setting(record, gateway.catalog.node.records().distrusted());
        let job = Job {
            gateway,
            record,
            sites: Sites::new(gateway, &setting, &datasets(record), &tally.shunned),
            setting,
            tally: &tally,
            progress,
            started,
        };
        match job.run(&mut spent).await {
            Ok(report) => return JobState::Done(Box::new(report)),
            // What is still remembered is not run again.
            Err(stop) if stop.problem.kind == ProblemKind::ForgottenResult && retries > 0 => {
                retries -= 1;
                progress.send_replace(Progress::default());
            }
            Err(stop) => {
                return JobState::Failed {
                    problem: stop.problem,
                    failures: stop.failures,
                };
            }
        }
    }
}

/// What a job keeps as it starts over. The locks are held for one look-up or sum.
#[derive(Default)]
pub(super) struct Tally {
    /// Bytes of partial results that went to another host.
    moved: Mutex<u64>,
    /// Hosts that a check found to be wrong.
    pub(super) quarantined: Mutex<Vec<NodeId>>,
    /// Hosts that this job does without: they did not give what they said they had.
    pub(super) shunned: Mutex<HashSet<NodeId>>,
    /// Results of which a host had no files, though it said so.
    without_files: Mutex<HashSet<(ResultKey, NodeId)>>,
    /// Maps that ran to their end, and how long they took together.
    pub(super) maps: Mutex<(u32, Duration)>,
}

pub(super) struct Job<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) record: &'a JobRecord,
    pub(super) setting: Arc<PureSetting>,
    pub(super) sites: Sites<'a>,
    pub(super) tally: &'a Tally,
    progress: &'a watch::Sender<Progress>,
    started: Instant,
}

/// What the runs of this job came to so far.
#[derive(Default)]
struct Spent {
    fuel: u64,
    /// With what remembered results once took.
    all_fuel: u64,
    bytes_read: u64,
    moved_bytes: u64,
    run_us: u64,
}

impl Job<'_> {
    async fn run(&self, spent: &mut Spent) -> Result<JobReport, Stop> {
        let store = &self.gateway.catalog.store;
        let dataset = store
            .dataset(&self.record.dataset_digest)
            .await
            .map_err(store_problem)?;
        let mut leaves = plan::leaves(&self.setting, &dataset, &self.record.selection)?;
        if leaves.is_empty() {
            return Err(self.over_nothing().await?.into());
        }
        self.progress.send_modify(|progress| {
            progress.shards = leaves.len() as u64;
            progress.bytes = leaves.iter().map(|leaf| leaf.size_bytes).sum();
        });
        let shards = leaves.len() as u64;
        let mut levels = plan::tree(&self.setting, &leaves);
        let mut known = self.known(&leaves, &levels).await?;

        let remembered = leaves.iter().zip(&known.leaves).filter(|(_, known)| **known);
        remembered.for_each(|(leaf, _)| self.advance(leaf, true, 0));
        let mut failures = self.compute(&dataset, &leaves, &levels, &known, spent).await?;
        let failed = failures.len() as u64;
        if !failures.is_empty() {
            // The tree of what is left is another one.
            leaves.retain(|leaf| failures.iter().all(|failure| failure.shard != leaf.index));
            if leaves.is_empty() {
                let detail =
                    format!("all {failed} shards failed and were skipped: there is no total to finish");
                failures.truncate(MAX_LISTED_FAILURES);
                return Err(Stop {
                    problem: Problem::new(ProblemKind::FunctionFailed, detail),
                    failures,
                });
            }
            levels = plan::tree(&self.setting, &leaves);
            known = self.known(&leaves, &levels).await?;
            self.know_leaves(&leaves, &mut known).await?;
            self.compute(&dataset, &leaves, &levels, &known, spent).await?;
        }
        let root = match levels.last() {
            Some(top) => top.first().map(|root| root.key),
            None => leaves.first().map(|leaf| leaf.key),
        };
        let output = match root {
            Some(root) => Some(self.finish(root, spent).await?),
            None => None,
        };
        let checked = match self.record.check {
            Some(fraction) => Some(self.check(fraction, &leaves, &levels, root).await?),
            None => None,
        };
        self.is_still_trusted()?;
        let into = match &self.record.into {
            Some(name) => Some(self.write(name, &leaves).await?),
            None => None,
        };
        failures.truncate(MAX_LISTED_FAILURES);
        let progress = *self.progress.borrow();
        let seconds = self.started.elapsed().as_secs_f64();
        Ok(JobReport {
            output_key: output.map(|output| output.key),
            digest: output.map_or(Digest::of(b"null"), |output| output.output),
            output_bytes: output.map_or(4, |output| output.output_bytes),
            shards,
            remembered: progress.remembered,
            fuel: output.map_or(0, |output| output.total_fuel),
            fuel_spent: spent.fuel,
            bytes_read: spent.bytes_read,
            shard_bytes_moved: spent.moved_bytes,
            partial_bytes_moved: *self.tally.moved.lock().expect("no panic under this lock"),
            seconds,
            hosts: self.sites.used() as u64,
            predicted: self.predict(&dataset, &leaves, spent, shards - failed),
            failed,
            failures,
            checked,
            quarantined: self
                .tally
                .quarantined
                .lock()
                .expect("no panic under this lock")
                .clone(),
            into,
        })
    }

    /// Why a job without shards has no result: a `finish` is over a total, and there is none. What is no job is refused first, as it
    /// is over shards.
    async fn over_nothing(&self) -> Result<Problem, Problem> {
        let component = self.record.component;
        let host = self.gateway.host_for(&component)?;
        let surface = self.gateway.dispatch.check(host, component).await?;
        if !surface.exports.iter().any(|export| export.starts_with(MAPPER)) {
            let detail = format!(
                "`{}` is no job: a job's function exports {MAPPER} (use #[nearfield::map])",
                self.record.function
            );
            return Err(Problem::new(ProblemKind::RefusedComponent, detail));
        }
        let over = match &self.record.dataset {
            Some(name) => name.to_string(),
            None => self.record.dataset_digest.to_string(),
        };
        let detail =
            format!("`{over}` has no shards, so there is no total to finish: put something into it first");
        Ok(Problem::new(ProblemKind::BadInput, detail))
    }

    /// What has a remembered node above it, so that nobody will ask for its own result. From the root
    /// down: nothing below a remembered node is looked at.
    async fn known(&self, leaves: &[Leaf], levels: &[Vec<Node>]) -> Result<Known, Problem> {
        let mut known = Known {
            leaves: vec![false; leaves.len()],
            nodes: levels.iter().map(|level| vec![true; level.len()]).collect(),
        };
        // Files that a shard wrote are its own result's, so each leaf is needed.
        if self.record.into.is_some() {
            known.nodes.iter_mut().for_each(|level| level.fill(false));
            return Ok(known);
        }
        let Some(top) = levels.len().checked_sub(1) else {
            return Ok(known);
        };
        let mut open = vec![0];
        for level in (0..=top).rev() {
            let keys: Vec<_> = open.iter().map(|&index| levels[level][index].key).collect();
            let found = self.recall(&keys).await?;
            let mut below = Vec::new();
            for (index, found) in open.into_iter().zip(found) {
                let node = &levels[level][index];
                if node.parts.len() > 1 && found.is_some() {
                    known.leaves[node.leaves.clone()].fill(true);
                    continue;
                }
                known.nodes[level][index] = false;
                below.extend(node.parts.clone());
            }
            open = below;
        }
        // Among several hosts a map goes to the one that remembers it.
        if self.gateway.hosts.alone().is_none() {
            let keys: Vec<_> = open.iter().map(|&leaf| leaves[leaf].key).collect();
            self.recall(&keys).await?;
        }
        Ok(known)
    }

    /// In another tree than the one that was run other leaves are needed: those that are remembered need not run.
    async fn know_leaves(&self, leaves: &[Leaf], known: &mut Known) -> Result<(), Problem> {
        let has = |leaf: &Leaf| !self.sites.claims(&leaf.key).is_empty();
        let open: Vec<ResultKey> = leaves
            .iter()
            .zip(&known.leaves)
            .filter(|(leaf, known)| !**known && !has(leaf))
            .map(|(leaf, _)| leaf.key)
            .collect();
        self.recall(&open).await?;
        for (leaf, known) in leaves.iter().zip(&mut known.leaves) {
            *known |= has(leaf);
            if !*known {
                // It stood below a result that was remembered, and counted as done.
                self.progress.send_modify(|progress| {
                    progress.done -= 1;
                    progress.remembered -= 1;
                    progress.bytes_done -= leaf.size_bytes;
                });
            }
        }
        Ok(())
    }

    pub(super) async fn recall(&self, keys: &[ResultKey]) -> Result<Vec<Option<PureReport>>, Problem> {
        self.sites.recall(keys, &self.setting.origins).await
    }

    /// Runs one step where its data is; on another host if that one is lost.
    async fn run_pure(&self, spec: PureSpec, size_bytes: u64) -> Result<PureReport, PureFailure> {
        let (key, mut tried, mut waits) = (spec.key(), Vec::new(), MAX_WAITS);
        loop {
            let taken = match &spec.work {
                Work::Map { subject, .. } => {
                    let with_files = spec.setting.may_write;
                    match self
                        .sites
                        .for_map(&key, with_files, subject.shard, size_bytes, &tried)
                    {
                        // A host that was missed is heard of again with its next beat.
                        Err(problem) if problem.kind == ProblemKind::HostUnreachable && waits > 0 => {
                            waits -= 1;
                            tried.clear();
                            tokio::time::sleep(BEAT).await;
                            continue;
                        }
                        taken => taken?,
                    }
                }
                Work::Reduce { parts } => self.sites.for_parts(&key, parts, &tried)?,
                Work::Finish { total } => self.sites.for_parts(&key, &[*total], &tried)?,
            };
            let host = taken.host;
            let remembered = self.sites.remembering(&key).contains(&host);
            let brought = match self.gateway.catalog.see_forgotten(host).await {
                Ok(()) if remembered => Ok(()),
                Ok(()) => self.bring(&spec, host).await,
                Err(problem) => Err(problem),
            };
            let ended = match brought {
                Ok(()) => self.run_or_back_up(&spec, taken, size_bytes).await,
                Err(problem) => (host, Err(problem.into())),
            };
            let (host, ended) = ended;
            match ended {
                Ok(report) if !self.sites.counts(&report, &key, host) => {
                    tried.push(host);
                    if tried.len() >= MAX_HOSTS_TRIED {
                        return Err(forgotten().into());
                    }
                }
                Ok(report) => {
                    self.sites.made(&report, host);
                    return Ok(report);
                }
                Err(failure) if is_hosts(failure.problem.kind) && tried.len() + 1 < MAX_HOSTS_TRIED => {
                    tracing::warn!(host = host.short(), problem = %failure.problem, "a run goes to another host");
                    if !matches!(
                        failure.problem.kind,
                        ProblemKind::Corrupt | ProblemKind::NoGpu | ProblemKind::Overload
                    ) {
                        self.sites.lost(&host);
                    }
                    tried.push(host);
                }
                ended => return ended,
            }
        }
    }

    /// Sees that `host` has the results that a run is over.
    pub(super) async fn bring(&self, spec: &PureSpec, host: NodeId) -> Result<(), Problem> {
        let parts = match &spec.work {
            Work::Map { .. } => return Ok(()),
            Work::Reduce { parts } => parts.as_slice(),
            Work::Finish { total } => std::slice::from_ref(total),
        };
        let dispatch = &self.gateway.dispatch;
        for (key, holders) in self.sites.missing(parts, host) {
            self.is_still_trusted()?;
            let mut brought = false;
            for holder in holders {
                let given = dispatch.take(holder, key).await;
                let given = match given {
                    Ok(Some(given))
                        if given.report.made.is_some() && self.sites.counts(&given.report, &key, holder) =>
                    {
                        given
                    }
                    Ok(_) => continue,
                    Err(problem) => {
                        tracing::warn!(host = holder.short(), %problem, "a partial result cannot be had");
                        self.sites.lost(&holder);
                        continue;
                    }
                };
                let (report, bytes) = (given.report, given.output.len() as u64);
                dispatch.give(host, given, &self.setting.origins).await?;
                *self.tally.moved.lock().expect("no panic under this lock") += bytes;
                self.sites.made(&report, host);
                brought = true;
                break;
            }
            if !brought {
                return Err(forgotten());
            }
        }
        Ok(())
    }

    async fn run_step(
        &self,
        step: Step,
        spec: PureSpec,
        size_bytes: u64,
    ) -> (Step, Result<PureReport, PureFailure>) {
        (step, self.run_pure(spec, size_bytes).await)
    }

    /// Runs what is not known of the tree. Returns the leaves that failed, if the job may go on without them; what stands
    /// above them did not run.
    async fn compute(
        &self,
        dataset: &Dataset,
        leaves: &[Leaf],
        levels: &[Vec<Node>],
        known: &Known,
        spent: &mut Spent,
    ) -> Result<Vec<ShardFailure>, Stop> {
        let mut order = Order::new(levels, known);
        let mut runs = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            while runs.len() < self.sites.in_flight()
                && let Some(step) = order.next()
            {
                let mut size_bytes = 0;
                let spec = match step {
                    Step::Map(leaf) => {
                        size_bytes = leaves[leaf].size_bytes;
                        leaves[leaf].spec.clone()
                    }
                    Step::Reduce { level, index } => {
                        let parts = levels[level][index].parts.clone();
                        let keys: Vec<ResultKey> = match level.checked_sub(1) {
                            None => leaves[parts].iter().map(|leaf| leaf.key).collect(),
                            Some(below) => levels[below][parts].iter().map(|node| node.key).collect(),
                        };
                        plan::reduce(&self.setting, &keys)
                    }
                };
                runs.push(self.run_step(step, spec, size_bytes));
            }
            let Some((step, ended)) = runs.next().await else {
                break;
            };
            match (step, ended) {
                (_, Ok(report)) => {
                    spent.count(&report);
                    if let Step::Map(leaf) = step {
                        self.advance(&leaves[leaf], report.remembered, spent.fuel);
                    }
                    order.done(step);
                }
                // A shard may be left out for what its guest did, never for what this host could not do.
                (Step::Map(leaf), Err(failure)) if is_guests(failure.problem.kind) => {
                    // What a host says of a run that came to nothing.
                    spent.fuel += failure.fuel.min(self.setting.limits.fuel);
                    failures.push(shard_failure(dataset, &leaves[leaf], failure.problem));
                    self.progress.send_modify(|progress| {
                        progress.failed += 1;
                        progress.fuel_spent = spent.fuel;
                    });
                    if failures.len() > self.record.skip as usize {
                        failures.sort_by_key(|failure| failure.shard);
                        return Err(too_many(failures, self.record));
                    }
                }
                (_, Err(failure)) => return Err(failure.problem.into()),
            }
            self.check_fuel(spent)?;
        }
        failures.sort_by_key(|failure| failure.shard);
        Ok(failures)
    }

    fn advance(&self, leaf: &Leaf, remembered: bool, fuel_spent: u64) {
        self.progress.send_modify(|progress| {
            progress.done += 1;
            progress.remembered += u64::from(remembered);
            progress.bytes_done += leaf.size_bytes;
            progress.fuel_spent = progress.fuel_spent.max(fuel_spent);
            progress.seconds = self.started.elapsed().as_secs_f64();
        });
    }

    async fn finish(&self, root: ResultKey, spent: &mut Spent) -> Result<PureReport, Stop> {
        let spec = plan::finish(&self.setting, root);
        // Who remembers it need not have the root.
        self.recall(&[spec.key()]).await?;
        let report = self.run_pure(spec, 0).await.map_err(|failure| failure.problem)?;
        spent.count(&report);
        Ok(report)
    }

    /// Makes a dataset of what the leaves wrote.
    async fn write(
        &self,
        name: &nearfield_protocol::DatasetName,
        leaves: &[Leaf],
    ) -> Result<Written, Problem> {
        let (mut written, mut seen) = (Vec::new(), HashSet::new());
        // Equal shards have one result, and wrote its files once.
        let keys = leaves.iter().map(|leaf| leaf.key);
        let keys: Vec<ResultKey> = keys.filter(|key| seen.insert(*key)).collect();
        for report in self.recall(&keys).await? {
            let report = report.ok_or_else(forgotten)?;
            if report.written_files == 0 {
                continue;
            }
            written.push(self.written_by(&report).await?);
        }
        self.is_still_trusted()?;
        into::put(self.gateway, name, written, self.sites.only.clone()).await
    }

    /// What another job found to be wrong may be in this one, too: then it starts over.
    fn is_still_trusted(&self) -> Result<(), Problem> {
        match *self.gateway.catalog.node.records().distrusted() == self.setting.distrusted {
            true => Ok(()),
            false => Err(forgotten()),
        }
    }

    /// The files that a run wrote. Of those that remember its result, only who made it has them.
    async fn written_by(&self, report: &PureReport) -> Result<Bytes, Problem> {
        for host in self.sites.makers(&report.key) {
            match self.gateway.dispatch.written(host, report.key).await {
                Ok(Some(files)) if Digest::of(&files) == report.written => return Ok(files),
                Ok(given) => {
                    let result = report.key.0.short();
                    tracing::error!(
                        host = host.short(),
                        result,
                        "a host has not the files that it says it wrote"
                    );
                    // They may have been evicted meanwhile, once.
                    let mut without = self.tally.without_files.lock().expect("no panic under this lock");
                    if !without.insert((report.key, host)) || given.is_some() {
                        self.sites.shun(host);
                    }
                }
                Err(problem) => {
                    tracing::warn!(host = host.short(), %problem, "files that a host wrote cannot be had");
                    self.sites.lost(&host);
                }
            }
        }
        // They are written again.
        Err(forgotten())
    }

    fn check_fuel(&self, spent: &Spent) -> Result<(), Problem> {
        if spent.fuel <= self.record.max_fuel {
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::OutOfFuel,
            format!(
                "the job has burned {} fuel; what is done is remembered: run it again with a higher --max-fuel \
                 to go on",
                spent.fuel
            ),
        )
        .with_limit(format!("max-fuel = {}", units::exact_count(self.record.max_fuel))))
    }

    fn predict(&self, dataset: &Dataset, leaves: &[Leaf], spent: &Spent, ran: u64) -> Option<Prediction> {
        if self.record.selection != Selection::DryRun || ran == 0 {
            return None;
        }
        let bytes = dataset.meta.size_bytes;
        let sampled: u64 = leaves.iter().map(|leaf| leaf.size_bytes).sum();
        let scale = bytes as f64 / sampled.max(1) as f64;
        Some(Prediction {
            shards: dataset.shards.len() as u64,
            bytes,
            fuel: (spent.all_fuel as f64 * scale) as u64,
            // Of what was remembered the time is not known: it goes by the fuel of what ran.
            seconds: (spent.fuel > 0).then(|| {
                let all_us = spent.run_us as f64 * spent.all_fuel as f64 / spent.fuel as f64;
                all_us / 1e6 * scale / self.gateway.job_workers as f64
            }),
        })
    }
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

fn forgotten() -> Problem {
    Problem::new(
        ProblemKind::ForgottenResult,
        "what a shard wrote was forgotten before it was put; if that goes on, raise --max-remembered",
    )
}

/// Whether a host is to blame: another may do better.
fn is_hosts(kind: ProblemKind) -> bool {
    use ProblemKind::{
        Corrupt, Draining, HostLost, HostUnreachable, NoGpu, Overload, SourceUnreachable, UnknownBlob,
        UnknownDataset,
    };
    matches!(
        kind,
        Corrupt
            | Draining
            | HostLost
            | HostUnreachable
            | NoGpu
            | Overload
            | SourceUnreachable
            | UnknownBlob
            | UnknownDataset
    )
}

/// All that a job reads.
pub(super) fn datasets(record: &JobRecord) -> Vec<Digest> {
    record
        .inputs
        .values()
        .copied()
        .chain([record.dataset_digest])
        .collect()
}

/// Whether a guest is to blame: such a failure comes again however often it is run.
pub(super) fn is_guests(kind: ProblemKind) -> bool {
    use ProblemKind::{
        FunctionFailed, HostCallTooLarge, OutOfFuel, OutOfMemory, Timeout, TooManyHandles, Trap,
    };
    matches!(
        kind,
        FunctionFailed | HostCallTooLarge | OutOfFuel | OutOfMemory | Timeout | TooManyHandles | Trap
    )
}

fn shard_failure(dataset: &Dataset, leaf: &Leaf, problem: Problem) -> ShardFailure {
    ShardFailure {
        shard: leaf.index,
        digest: leaf.shard,
        source: plan::source(dataset, leaf.index).cloned(),
        problem,
    }
}

fn too_many(mut failures: Vec<ShardFailure>, record: &JobRecord) -> Stop {
    let first = &failures[0];
    let from = first
        .source
        .as_ref()
        .map(|source| format!(" of {source}"))
        .unwrap_or_default();
    let what = match record.skip {
        0 => format!("shard {}{from} failed: {}", first.shard, first.problem.detail),
        skip => format!(
            "{} shards failed, {skip} may; the first is shard {}{from}: {}",
            failures.len(),
            first.shard,
            first.problem.detail
        ),
    };
    let problem = Problem {
        kind: first.problem.kind,
        detail: format!(
            "{what}; look into it with `nearfield replay {} --shard {}`",
            record.id, first.shard
        ),
        limit: first.problem.limit.clone(),
    };
    failures.truncate(MAX_LISTED_FAILURES);
    Stop { problem, failures }
}
