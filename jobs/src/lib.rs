//! Jobs: started, watched, cancelled, and taken up again after a restart.
//!
//! `record` is what is kept of a job, `plan` what it has to run, `order` what of that runs next. `engine` decides all that a job
//! does, `driver` does it, `aside` keeps what its runs wrote and `into` makes a dataset of that. `request` makes a job of what somebody asks for, `results`
//! finds what it came to. `replay` looks at one shard by itself, `parcel` packs it up for a native run. A job has no other state
//! than its record and what hosts remember: recovery is running it again. Knows hosts and data by `nearfield_cluster`, and
//! nothing of HTTP requests.

mod aside;
mod driver;
mod engine;
mod into;
mod jobs;
mod order;
mod parcel;
mod plan;
mod record;
mod replay;
mod request;
mod results;
#[cfg(test)]
mod simulation;

pub use jobs::{Jobs, RunningJob};
pub use parcel::Parcel;
pub use record::{JobRecord, JobReport, JobState, Progress, Selection, unknown as unknown_job};
pub use replay::{JobShard, runs};
pub use request::JobRequest;
pub use results::{find as find_result, output};
