//! Jobs: started, watched, cancelled, and taken up again after a restart.
//!
//! `record` is what is kept of a job, `plan` what it has to run, `run` runs it, `into` makes a dataset of
//! what it wrote. A job has no other state than its record and what hosts remember: recovery is
//! running it again.

mod into;
mod plan;
mod record;
mod run;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nearfield_protocol::{JobId, Problem, ProblemKind};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use record::Records;
pub use record::{JobRecord, JobState, Selection};

use crate::server::Gateway;

/// Jobs at once: they share the same workers, so more would only take longer each.
const MAX_RUNNING: usize = 64;

/// How far a job is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Progress {
    pub shards: u64,
    pub done: u64,
    pub remembered: u64,
    pub failed: u64,
    /// Bytes of the shards that are done, and of all.
    pub bytes_done: u64,
    pub bytes: u64,
    pub fuel_spent: u64,
    pub seconds: f64,
}

/// The jobs of one gateway.
pub struct Jobs {
    records: Records,
    /// Those that run. The lock is held for one look-up.
    running: Mutex<HashMap<JobId, Arc<Running>>>,
    /// The node stops: jobs end without an end, and go on after the next start.
    stopping: CancellationToken,
    tasks: TaskTracker,
}

/// A job under way.
pub struct Running {
    pub progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

impl Jobs {
    /// Opens the folder of job records.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        Ok(Jobs {
            records: Records::open(dir)?,
            running: Mutex::default(),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Starts a job. Its record is on disk when this returns.
    pub fn start(gateway: &Arc<Gateway>, record: JobRecord) -> Result<(), Problem> {
        let jobs = &gateway.jobs;
        let id = record.id().ok_or_else(|| unknown(&record.id))?;
        let running = Arc::new(Running {
            progress: watch::Sender::new(Progress::default()),
            cancel: CancellationToken::new(),
        });
        {
            let mut all = jobs.running.lock().expect("no panic under this lock");
            if all.len() >= MAX_RUNNING {
                return Err(Problem::new(ProblemKind::Overload, "too many jobs run already")
                    .with_limit(format!("jobs at once = {MAX_RUNNING}")));
            }
            all.insert(id, running.clone());
        }
        if let Err(error) = jobs.records.write(&record).and_then(|()| jobs.records.prune()) {
            jobs.forget(&id);
            return Err(record_problem(error));
        }
        let gateway = gateway.clone();
        jobs.tasks.clone().spawn(async move {
            let stopping = gateway.jobs.stopping.clone();
            let state = tokio::select! {
                biased;
                // The record goes on saying that it runs.
                () = stopping.cancelled() => None,
                () = running.cancel.cancelled() => Some(JobState::Cancelled),
                state = run::run(&gateway, &record, &running.progress) => Some(state),
            };
            if let Some(state) = state
                && let Err(error) = gateway.jobs.records.write(&JobRecord { state, ..record })
            {
                tracing::error!(job = %id, %error, "a job's end cannot be written; it will be run again");
            }
            gateway.jobs.forget(&id);
        });
        Ok(())
    }

    fn forget(&self, id: &JobId) {
        self.running.lock().expect("no panic under this lock").remove(id);
    }

    pub fn running(&self, id: &JobId) -> Option<Arc<Running>> {
        self.running
            .lock()
            .expect("no panic under this lock")
            .get(id)
            .cloned()
    }

    pub fn get(&self, id: &JobId) -> Result<JobRecord, Problem> {
        let found = self.records.read(id).map_err(record_problem)?;
        found.ok_or_else(|| unknown(&id.to_string()))
    }

    /// The newest first.
    pub fn list(&self) -> Result<Vec<JobRecord>, Problem> {
        self.records.all().map_err(record_problem)
    }

    /// Stops a job. Its guests end at once.
    pub fn cancel(&self, id: &JobId) -> Result<JobRecord, Problem> {
        if let Some(running) = self.running(id) {
            running.cancel.cancel();
        }
        self.get(id)
    }

    /// Ends all jobs; they go on after the next start.
    pub async fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Takes up what the last stop or a crash interrupted.
pub async fn resume_jobs(gateway: Arc<Gateway>) {
    let records = match gateway.jobs.list() {
        Ok(records) => records,
        Err(problem) => return tracing::error!(%problem, "jobs cannot be taken up again"),
    };
    // The oldest first, as they were started.
    for record in records.into_iter().rev() {
        if record.state == JobState::Running {
            tracing::info!(job = record.id, "goes on");
            if let Err(problem) = Jobs::start(&gateway, record) {
                tracing::error!(%problem, "a job cannot be taken up again");
            }
        }
    }
}

pub fn unknown(id: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownJob,
        format!("no job `{id}`; `nearfield jobs` lists them"),
    )
}

fn record_problem(error: io::Error) -> Problem {
    Problem::new(ProblemKind::Internal, format!("the record of a job: {error}"))
}
