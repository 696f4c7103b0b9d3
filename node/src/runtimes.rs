//! The threads of guests. Listeners, control and the admin API have others, which no guest can delay.

use std::io;
use std::num::NonZeroUsize;

use tokio::runtime::{Builder, Handle, Runtime};

/// How much guests stand back behind listeners and control, as a nice value, and jobs behind calls.
const GUEST_NICE: i32 = 5;
const JOB_NICE: i32 = 15;

/// Two runtimes: for calls, with the connections that they come on, and for runs of jobs.
pub struct Threads {
    guests: Runtime,
    jobs: Runtime,
    job_workers: usize,
}

/// Where guests run.
pub struct Runtimes {
    pub guests: Handle,
    pub jobs: Handle,
    pub job_workers: usize,
}

impl Threads {
    /// Starts one thread a core for calls, and as many for jobs unless `job_workers` says otherwise.
    pub fn start(job_workers: Option<NonZeroUsize>) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let job_workers = job_workers.map_or(cores, NonZeroUsize::get);
        Ok(Threads {
            guests: runtime("nearfield-guest", cores, GUEST_NICE)?,
            jobs: runtime("nearfield-job", job_workers, JOB_NICE)?,
            job_workers,
        })
    }

    pub fn handles(&self) -> Runtimes {
        Runtimes {
            guests: self.guests.handle().clone(),
            jobs: self.jobs.handle().clone(),
            job_workers: self.job_workers,
        }
    }

    /// Waits for no guest that still runs.
    pub fn leave(self) {
        self.guests.shutdown_background();
        self.jobs.shutdown_background();
    }
}

/// Threads that run guests and nothing else, less urgent than ours.
fn runtime(name: &str, threads: usize, nice: i32) -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .worker_threads(threads)
        .thread_name(name)
        .on_thread_start(move || {
            // On Linux this concerns the calling thread alone. If it is refused, guests are as urgent.
            let _ = rustix::process::setpriority_process(None, nice);
        })
        .build()
}
