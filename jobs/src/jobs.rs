//! The jobs of one gateway: those that run, and the records of all.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use nearfield_cluster::{Cluster, DataHold};
use nearfield_protocol::{JobId, Problem, ProblemKind};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::record::{JobRecord, JobRecords, JobState, Progress, unknown};
use crate::{driver, engine};

/// Jobs at once: they share the same workers, so more would only take longer each.
const MAX_RUNNING: usize = 64;

/// The jobs of one gateway.
pub struct Jobs {
    cluster: Arc<Cluster>,
    /// Runs that this node's host works on at once.
    workers: usize,
    records: JobRecords,
    /// Held while a record is read and written: a job ends once.
    ending: Mutex<()>,
    /// Those that run. The lock is held for one look-up.
    running: Mutex<HashMap<JobId, Arc<RunningJob>>>,
    /// The node stops: jobs end, and their records go on saying that they run.
    stopping: CancellationToken,
    /// What the last stop interrupted has been taken up.
    resumed: CancellationToken,
    tasks: TaskTracker,
}

/// A job under way.
pub struct RunningJob {
    pub progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

impl Jobs {
    /// Opens the folder of job records. At `stopping` all jobs end; they go on after the next start.
    pub fn open(
        dir: PathBuf,
        cluster: Arc<Cluster>,
        workers: usize,
        stopping: CancellationToken,
    ) -> io::Result<Self> {
        Ok(Jobs {
            cluster,
            workers,
            records: JobRecords::open(dir)?,
            ending: Mutex::default(),
            running: Mutex::default(),
            stopping,
            resumed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// What the last stop or a crash interrupted, the oldest first. Asked before anybody can start jobs.
    pub fn interrupted(&self) -> Result<Vec<JobRecord>, Problem> {
        let mut records = self.list()?;
        records.retain(|record| record.state == JobState::Running);
        records.reverse();
        Ok(records)
    }

    /// Keeps what a job works on, whatever happens to its name.
    pub async fn hold(&self, record: &JobRecord) -> DataHold {
        self.cluster
            .catalog
            .hold(record.datasets(), vec![record.component])
            .await
    }

    /// Starts a job. Its record is on disk when this returns.
    pub fn start(self: &Arc<Self>, record: JobRecord, held: DataHold) -> Result<(), Problem> {
        self.start_among(MAX_RUNNING, record, held)
    }

    fn start_among(self: &Arc<Self>, most: usize, record: JobRecord, held: DataHold) -> Result<(), Problem> {
        let id = record.id().ok_or_else(|| unknown(&record.id))?;
        let running = Arc::new(RunningJob {
            progress: watch::Sender::new(Progress::default()),
            cancel: CancellationToken::new(),
        });
        {
            let mut all = self.running.lock();
            if all.len() >= most {
                return Err(Problem::new(ProblemKind::Overload, "too many jobs run already")
                    .with_limit(format!("jobs at once = {MAX_RUNNING}")));
            }
            if all.contains_key(&id) {
                return Ok(());
            }
            all.insert(id, running.clone());
        }
        let under_way = UnderWay {
            jobs: self.clone(),
            id,
        };
        // One that was interrupted may have been cancelled before it could go on.
        {
            let _ending = self.ending.lock();
            let before = self.records.read(&id).map_err(record_problem)?;
            if before.is_some_and(|before| before.state != JobState::Running) {
                return Ok(());
            }
            self.records.write(&record).map_err(record_problem)?;
        }
        if let Err(error) = self.records.prune() {
            tracing::warn!(%error, "old job records cannot be forgotten");
        }
        self.tasks.clone().spawn(async move {
            let jobs = &under_way.jobs;
            let state = tokio::select! {
                biased;
                () = running.cancel.cancelled() => Some(JobState::Cancelled),
                // The record goes on saying that it runs.
                () = jobs.stopping.cancelled() => None,
                state = driver::run(&jobs.cluster, jobs.workers, &record, &running.progress) => Some(state),
            };
            let state = state.map(|state| {
                let rule = engine::rule(&jobs.cluster.catalog.node.records(), &record.datasets());
                match jobs.cluster.catalog.may_keep(&rule) {
                    true => state,
                    false => state.without_data(&record.id),
                }
            });
            if let Some(state) = state
                && let Err(problem) = jobs.end(&id, state)
            {
                tracing::error!(job = %id, %problem, "a job's end cannot be written; the next start runs the job again");
            }
            drop(held);
            drop(under_way);
        });
        Ok(())
    }

    pub fn running(&self, id: &JobId) -> Option<Arc<RunningJob>> {
        self.running.lock().get(id).cloned()
    }

    /// The job, if it runs. One that a stop interrupted runs again a while after the next start: that is waited for.
    pub async fn taken_up(&self, id: &JobId) -> Result<Option<Arc<RunningJob>>, Problem> {
        let interrupted = self.get(id)?.state == JobState::Running && self.running(id).is_none();
        if interrupted {
            tokio::select! {
                () = self.resumed.cancelled() => {}
                () = self.stopping.cancelled() => {}
            }
        }
        Ok(self.running(id))
    }

    pub fn get(&self, id: &JobId) -> Result<JobRecord, Problem> {
        let found = self.records.read(id).map_err(record_problem)?;
        found.ok_or_else(|| unknown(&id.to_string()))
    }

    /// The newest first.
    pub fn list(&self) -> Result<Vec<JobRecord>, Problem> {
        self.records.all().map_err(record_problem)
    }

    /// Stops a job: no crash after this runs it again. Its guests end at once. Returns the job as it was.
    pub fn cancel(&self, id: &JobId) -> Result<JobRecord, Problem> {
        let before = self.end(id, JobState::Cancelled)?;
        if before.state == JobState::Running
            && let Some(running) = self.running(id)
        {
            running.cancel.cancel();
        }
        Ok(before)
    }

    /// Writes down how a job ended, unless that is written down already. Returns the job as it was.
    fn end(&self, id: &JobId, state: JobState) -> Result<JobRecord, Problem> {
        let _ending = self.ending.lock();
        let before = self.get(id)?;
        if before.state == JobState::Running {
            let ended = JobRecord {
                state,
                ..before.clone()
            };
            self.records.write(&ended).map_err(record_problem)?;
        }
        Ok(before)
    }

    /// Takes up what the last stop or a crash interrupted, each job with what it works on.
    pub fn resume(self: &Arc<Self>, interrupted: Vec<(JobRecord, DataHold)>) {
        for (record, held) in interrupted {
            let id = record.id.clone();
            tracing::info!(job = id, "an interrupted job runs again");
            // They ran at once before: those that were started since do not keep them out.
            if let Err(problem) = self.start_among(usize::MAX, record, held) {
                tracing::error!(job = id, %problem, "an interrupted job cannot run again");
            }
        }
        self.resumed.cancel();
    }

    /// Waits for all jobs to have ended. They do once the node stops.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// A job's place among the running ones, given back however the job ends.
struct UnderWay {
    jobs: Arc<Jobs>,
    id: JobId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut running = self.jobs.running.lock();
        running.remove(&self.id);
    }
}

fn record_problem(error: io::Error) -> Problem {
    let text = format!("the job's record cannot be read or written: {error}");
    Problem::new(ProblemKind::Internal, text)
}
