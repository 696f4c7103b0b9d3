//! Runs of jobs: looked up if they are remembered, else run on the pure lane and remembered.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey, Work, digest_of_parts};
use nearfield_protocol::{CallId, Digest, Problem, ProblemKind};
use tokio::sync::SemaphorePermit;
use tokio::task::JoinHandle;

use crate::data::ShardHandle;
use crate::host::{Host, Inner};
use crate::logs::CallLog;
use crate::problem::store_problem;
use crate::pure::{PureOutput, PureRun, Subject, out_of_fuel};

impl Host {
    /// The result of one run: remembered, or made now. Dropping the future stops the guest.
    pub async fn run_pure(&self, spec: PureSpec) -> Result<PureReport, PureFailure> {
        let inner = &self.inner;
        let key = spec.key();
        let as_of = inner.remembered.as_of().map_err(store_problem)?;
        let found = inner.recall(&key, &spec.setting.origins).await?;
        let distrusted = &spec.setting.distrusted;
        // Files that another host wrote are not here: whoever may write is asked for them.
        let has_written = |found: &PureReport| inner.remembered.has_written(found);
        if let Some(found) = found
            && found.made.is_none_or(|made| !distrusted.contains_key(&made.by))
            && has_written(&found).map_err(store_problem)?
            && inner.is_of_its_parts(&found, &spec.work)?
        {
            return match found.fuel <= spec.setting.limits.fuel {
                true => Ok(found),
                // It would need as much again.
                false => Err(out_of_fuel(&spec).into()),
            };
        }
        let function = spec.setting.function.clone();
        let log = CallLog::new(inner.logs.clone(), function, CallId::of_result(&key));
        let origins = spec.setting.origins.clone();
        let (run, _slot) = inner.run(spec, key, log).await?;
        inner
            .remembered
            .keep(run.report, &origins, run.output, run.written, as_of)
            .await
            .map_err(store_problem)?;
        Ok(run.report)
    }

    /// Runs once more what may be remembered, which stays as it is. Dropping the future stops the guest.
    pub async fn replay(&self, spec: PureSpec) -> Result<Replayed, Problem> {
        let inner = &self.inner;
        let key = spec.key();
        let remembered = inner.remembered.get(&key).map_err(store_problem)?;
        let log = CallLog::apart();
        let outcome = inner.run(spec, key, log.clone()).await;
        Ok(Replayed {
            outcome: outcome.map(|(run, _)| (run.report, run.output)),
            remembered,
            log: log.take(),
        })
    }

    /// A result that is remembered, without running anything.
    pub async fn recall(&self, key: &ResultKey, origins: &[String]) -> Result<Option<PureReport>, Problem> {
        self.inner.recall(key, origins).await
    }

    /// Remembers a result that another host made, after its bytes are checked against their digest.
    pub async fn remember(
        &self,
        report: PureReport,
        output: Bytes,
        origins: &[String],
    ) -> Result<(), Problem> {
        let is_its_output =
            Digest::of(&output) == report.output && report.output_bytes == output.len() as u64;
        if !is_its_output || !report.files_are_consistent() {
            let text = "a result's output is not what its report says";
            return Err(Problem::new(ProblemKind::Corrupt, text));
        }
        let remembered = &self.inner.remembered;
        let here = self.inner.recall(&report.key, origins).await?;
        match here.filter(|here| here.made.is_none()) {
            // One that was made here may have its files, too.
            Some(here) if here.agrees(&report) => return Ok(()),
            // Its parts were others.
            Some(here) if here.parts != report.parts => {}
            Some(_) => {
                let text = "what this host made itself is not what it was given";
                return Err(Problem::new(ProblemKind::Corrupt, text));
            }
            None => {}
        }
        // Files that it wrote stay with who made it.
        let as_of = remembered.as_of().map_err(store_problem)?;
        let kept = remembered.keep(report, origins, output, None, as_of);
        kept.await.map_err(store_problem)
    }

    /// The output of a remembered result.
    pub async fn output(&self, key: &ResultKey) -> Result<Option<Bytes>, Problem> {
        self.inner.remembered.output(key).await.map_err(store_problem)
    }

    /// The files that a remembered run wrote, as one blob.
    pub async fn written(&self, key: &ResultKey) -> Result<Option<Bytes>, Problem> {
        self.inner.remembered.written(key).await.map_err(store_problem)
    }
}

/// What a run that was made once more came to.
pub struct Replayed {
    pub outcome: Result<(PureReport, Bytes), PureFailure>,
    /// What is remembered of the same run.
    pub remembered: Option<PureReport>,
    /// What the guest printed. It stands in no log.
    pub log: Vec<String>,
}

impl Inner {
    /// Runs a guest when its turn comes. The slot is for as long as what it came to is in memory.
    async fn run(
        &self,
        spec: PureSpec,
        key: ResultKey,
        log: CallLog,
    ) -> Result<(PureOutput, SemaphorePermit<'_>), PureFailure> {
        let component = self.components.load_job(spec.setting.component).await?;
        let stopping = |_| Problem::new(ProblemKind::Draining, "this host is stopping");
        let slot = self.job_slots.acquire().await.map_err(stopping)?;
        let (subject, made_of) = self.subject(&spec.work).await?;
        let memory = self.memory.share(&spec.setting.function);
        memory.admit(component.memory_bytes()).await?;
        let place = self.job_places.clone().acquire_owned().await.map_err(stopping)?;
        let run = PureRun {
            key,
            parts: made_of.parts,
            component,
            subject,
            blobs: self.store.clone(),
            gpu: self.gpu.clone(),
            memory,
            log,
            spec,
        };
        let mut task = Stopping(self.jobs.spawn(async move {
            let ended = run.run().await;
            drop(place);
            ended
        }));
        let ended = (&mut task.0)
            .await
            .map_err(|error| Problem::new(ProblemKind::Internal, format!("a job's run: {error}")))?;
        let mut run = ended.map_err(|(problem, fuel)| PureFailure {
            problem,
            fuel,
            parts: made_of.parts,
        })?;
        self.measured(&run.report);
        // Of parts that others gave only their word is known.
        run.report.total_fuel = run.report.total_fuel.saturating_add(made_of.fuel);
        run.report.moved_bytes += made_of.moved_bytes;
        Ok((run, slot))
    }

    /// Averages how fast guests are. Short runs say more of what surrounds them.
    fn measured(&self, report: &PureReport) {
        let Some(sample) = report
            .fuel
            .checked_div(report.run_us / 1_000)
            .filter(|rate| *rate > 0)
        else {
            return;
        };
        let average = |before: u64| match before {
            0 => sample,
            before => before - before / 8 + sample / 8,
        };
        let relaxed = Ordering::Relaxed;
        let _ = self
            .fuel_per_ms
            .fetch_update(relaxed, relaxed, |before| Some(average(before)));
    }

    async fn recall(&self, key: &ResultKey, origins: &[String]) -> Result<Option<PureReport>, Problem> {
        let found = self.remembered.get(key).map_err(store_problem)?;
        if found.is_some() {
            self.remembered.used(key, origins).await.map_err(store_problem)?;
        }
        Ok(found)
    }

    /// Whether a remembered result was made of the parts that this host remembers now. If it forgot one of them, nobody can tell:
    /// then the result counts.
    fn is_of_its_parts(&self, found: &PureReport, work: &Work) -> Result<bool, Problem> {
        let keys = work.parts().iter();
        let parts: Option<Vec<PureReport>> = keys
            .map(|key| self.remembered.get(key).map_err(store_problem))
            .collect::<Result<_, Problem>>()?;
        Ok(parts.is_none_or(|parts| digest_of_parts(&parts) == found.parts))
    }

    /// What a run's guest gets.
    async fn subject(&self, work: &Work) -> Result<(Subject, MadeOf), Problem> {
        match work {
            Work::Map { dataset, index, .. } => {
                let dataset = self.store.dataset(dataset).await.map_err(store_problem)?;
                let (_, digest) = dataset.shard(*index).ok_or_else(|| {
                    let shards = dataset.shards.len();
                    Problem::new(
                        ProblemKind::BadRequest,
                        format!("there is no shard {index}: the dataset has {shards}"),
                    )
                })?;
                let opened = self.store.open_shard(&digest).await.map_err(store_problem)?;
                let (shard, moved_bytes) = (opened.shard, opened.moved_bytes);
                let index = *index;
                let shard = ShardHandle {
                    dataset,
                    index,
                    shard,
                };
                let made_of = MadeOf {
                    parts: Digest::EMPTY,
                    fuel: 0,
                    moved_bytes,
                };
                Ok((Subject::Shard(shard), made_of))
            }
            Work::Reduce { parts } => {
                let (mut outputs, mut reports) =
                    (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
                for part in parts {
                    let (output, report) = self.part(part).await?;
                    outputs.push(output);
                    reports.push(report);
                }
                Ok((Subject::Parts(outputs), MadeOf::of(&reports)))
            }
            Work::Finish { total } => {
                let (output, report) = self.part(total).await?;
                Ok((Subject::Total(output), MadeOf::of(&[report])))
            }
        }
    }

    async fn part(&self, key: &ResultKey) -> Result<(Bytes, PureReport), Problem> {
        let report = self.remembered.get(key).map_err(store_problem)?;
        let output = self.remembered.output(key).await.map_err(store_problem)?;
        // Another one may have taken its place in between.
        let is_its_output = self.remembered.get(key).map_err(store_problem)? == report;
        let part = output.zip(report).filter(|_| is_its_output);
        part.ok_or_else(forgotten)
    }
}

/// What goes into a run.
struct MadeOf {
    /// What its parts came to, as its report says it.
    parts: Digest,
    /// What its parts took.
    fuel: u64,
    /// Bytes that came from another node for it.
    moved_bytes: u64,
}

impl MadeOf {
    fn of(parts: &[PureReport]) -> Self {
        let add = |sum: u64, part: &PureReport| sum.saturating_add(part.total_fuel);
        MadeOf {
            parts: digest_of_parts(parts),
            fuel: parts.iter().fold(0, add),
            moved_bytes: 0,
        }
    }
}

fn forgotten() -> Problem {
    Problem::new(
        ProblemKind::ForgottenResult,
        "a partial result was forgotten before it was used; if that goes on, there is too little room for remembered \
         results: raise --max-remembered",
    )
}

/// A task that ends with its handle.
struct Stopping<T>(JoinHandle<T>);

impl<T> Drop for Stopping<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
