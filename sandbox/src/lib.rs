//! Walls around a process that works on what strangers made: which files it may open (Landlock), what it may ask of the
//! kernel (seccomp), what it may use up. The engine is the first wall; whoever gets through it stands before these.

mod calls;
mod files;

pub use calls::{Calls, refuse};
pub use files::{Allowed, Enforced, Files, USUAL_DEVICES, confine, held_here};
pub use rustix::process::Resource;

use std::io;

use rustix::process::{Rlimit, setrlimit};

/// Sets a limit that this process cannot raise again. A lower one that it has stays.
pub fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let before = rustix::process::getrlimit(resource).maximum;
    let most = before.map_or(most, |before| before.min(most));
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, limit)?)
}
