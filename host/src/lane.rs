//! The ways in which a component is run.

/// Which engine runs a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// `wasi:http/incoming-handler@0.2`. Without concurrency support, which makes it a third faster.
    LiveP2,
    /// `wasi:http/handler@0.3`.
    LiveP3,
    /// `nearfield:compute/mapper`: jobs, deterministic.
    Pure,
}

impl Lane {
    /// Its name in file names and on the compiler's command line.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::LiveP2 => "live-p2",
            Lane::LiveP3 => "live-p3",
            Lane::Pure => "pure",
        }
    }
}
