//! What is kept of a job: what was asked, and what became of it. One small file a job, replaced whole.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nearfield_protocol::gpu::GpuGrant;
use nearfield_protocol::job::PureLimits;
use nearfield_protocol::problem::Blame;
use nearfield_protocol::{DatasetName, Digest, FunctionName, JobId, NodeId, Problem, ProblemKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Ended jobs that are kept; older ones are forgotten as new ones start.
const MAX_ENDED: usize = 1_000;

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

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// 32 hexadecimal digits.
    pub id: String,
    pub function: FunctionName,
    pub version: u64,
    pub component: Digest,
    /// The dataset's name, if it was asked for by name.
    pub dataset: Option<DatasetName>,
    pub dataset_digest: Digest,
    pub args: Value,
    /// Datasets that the function may open, each one version.
    pub inputs: BTreeMap<String, Digest>,
    pub limits: PureLimits,
    /// What each run may use of a GPU, if the function requires one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuGrant>,
    /// Fuel of all runs together that are not remembered.
    pub max_fuel: u64,
    pub selection: Selection,
    /// Shards that may fail.
    pub skip: u32,
    /// A fraction of the runs, above 0 and up to 1, that are made once more on another host.
    #[serde(default)]
    pub check: Option<f64>,
    pub into: Option<DatasetName>,
    pub started_unix_ms: u64,
    pub state: JobState,
}

/// Which shards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    All,
    Only(u32),
    /// A fraction between 0 and 1.
    Sample(f64),
    /// A few, to predict from.
    DryRun,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum JobState {
    Running,
    Done(Box<JobReport>),
    Failed {
        problem: Problem,
        failures: Vec<ShardFailure>,
    },
    Cancelled,
}

/// What a finished job came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobReport {
    /// The key under which the output is remembered. `None`: there were no shards.
    pub output_key: Option<nearfield_protocol::job::ResultKey>,
    /// BLAKE3 of the output.
    pub digest: Digest,
    pub output_bytes: u64,
    pub shards: u64,
    /// Shards whose result was there.
    pub remembered: u64,
    /// All that the result took, ever: the same however much of it was remembered.
    pub fuel: u64,
    /// What this job burned.
    pub fuel_spent: u64,
    /// Bytes of shards that this job read.
    pub bytes_read: u64,
    /// Bytes of shards, and of partial results, that went to another host.
    pub shard_bytes_moved: u64,
    pub partial_bytes_moved: u64,
    pub seconds: f64,
    pub hosts: u64,
    /// Shards that were skipped, and the first of them.
    pub failed: u64,
    pub failures: Vec<ShardFailure>,
    /// What was made once more on other hosts.
    #[serde(default)]
    pub checked: Option<Checked>,
    /// Hosts that were found to be wrong.
    #[serde(default)]
    pub quarantined: Vec<NodeId>,
    /// The dataset that was written.
    pub into: Option<WrittenDataset>,
    /// What the whole dataset would take, if this was a dry run.
    pub predicted: Option<Prediction>,
}

/// A shard whose run failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardFailure {
    pub shard: u32,
    pub digest: Digest,
    /// The file or part that it comes from.
    pub source: Option<String>,
    pub problem: Problem,
}

/// Runs that were made once more, and came to the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    pub runs: u64,
    /// Those that no other host could make.
    pub unchecked: u64,
    /// What that took; it does not count against the job's most.
    pub fuel: u64,
}

/// What `--into` made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenDataset {
    pub name: DatasetName,
    pub version: u64,
    pub digest: Digest,
    pub files: u64,
    pub bytes: u64,
}

/// What a whole job would take, by a few of its shards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    pub shards: u64,
    pub bytes: u64,
    pub fuel: u64,
    /// On this host's workers; not known if all of the sample was remembered.
    pub seconds: Option<f64>,
}

impl JobState {
    /// The same without words of guests and names of files: they are data, which may not rest everywhere. `id` is the job's.
    pub fn without_data(mut self, id: &str) -> JobState {
        let unsaid = |problem: &mut Problem| {
            problem.detail = format!(
                "what it said may not rest on this node, nor may the data: `nearfield replay {id} --shard N` tells it"
            );
        };
        let failures = match &mut self {
            JobState::Done(report) => &mut report.failures,
            JobState::Failed { problem, failures } => {
                if problem.kind.blame() == Blame::Guest {
                    unsaid(problem);
                }
                failures
            }
            JobState::Running | JobState::Cancelled => return self,
        };
        for failure in failures {
            unsaid(&mut failure.problem);
            failure.source = None;
        }
        self
    }

    /// The shards that are known to have failed, at most a hundred.
    pub fn failures(&self) -> &[ShardFailure] {
        match self {
            JobState::Done(report) => &report.failures,
            JobState::Failed { failures, .. } => failures,
            JobState::Running | JobState::Cancelled => &[],
        }
    }
}

impl JobRecord {
    pub fn id(&self) -> Option<JobId> {
        self.id.parse().ok()
    }

    /// All that the job reads.
    pub fn datasets(&self) -> Vec<Digest> {
        let inputs = self.inputs.values().copied();
        inputs.chain([self.dataset_digest]).collect()
    }
}

/// No job has this id.
pub fn unknown(id: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownJob,
        format!("no job `{id}`; `nearfield ls jobs` lists them"),
    )
}

/// The folder of job records.
pub struct JobRecords {
    dir: PathBuf,
}

impl JobRecords {
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(JobRecords { dir })
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }

    /// Writes a record. On disk when this returns.
    pub fn write(&self, record: &JobRecord) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        file.as_file().sync_all()?;
        file.persist(self.path(&record.id)).map_err(|error| error.error)?;
        File::open(&self.dir)?.sync_all()
    }

    pub fn read(&self, id: &JobId) -> io::Result<Option<JobRecord>> {
        read(&self.path(&id.to_string()))
    }

    /// All records, the newest first.
    pub fn all(&self) -> io::Result<Vec<JobRecord>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                // One that is torn or of a newer build is left alone.
                records.extend(read(&path)?);
            }
        }
        records.sort_by(|a, b| b.id.cmp(&a.id));
        Ok(records)
    }

    /// Forgets the oldest ended jobs beyond [`MAX_ENDED`].
    pub fn prune(&self) -> io::Result<()> {
        // Counted before anything is read.
        if fs::read_dir(&self.dir)?.count() <= MAX_ENDED {
            return Ok(());
        }
        let ended = self
            .all()?
            .into_iter()
            .filter(|record| record.state != JobState::Running);
        for record in ended.skip(MAX_ENDED) {
            match fs::remove_file(self.path(&record.id)) {
                // Somebody else pruned, too.
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Option<JobRecord>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)
            .inspect_err(
                |error| tracing::warn!(path = %path.display(), %error, "a job's record is unreadable"),
            )
            .ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
