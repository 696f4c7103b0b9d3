//! A function's version that is ready to be called.

use std::sync::Arc;

use crate::components::Loaded;
use crate::idle::InstancePool;
use crate::memory::Share;
use crate::outgoing::Allowed;
use crate::places::Queue;
use crate::turns::Turns;

/// What a function's version runs with. An instance of one never serves another.
pub(crate) struct Ready {
    pub component: Arc<Loaded>,
    pub pool: Arc<InstancePool>,
    /// Places that a call of it takes, and memory that it begins with.
    pub places: u32,
    pub begins_with: u64,
    /// What guests of its function have of the host's memory.
    pub memory: Arc<Share>,
    pub turns: Turns,
    /// Whom its guests may ask.
    pub allowed: Arc<Allowed>,
    /// Calls of it that wait for a place.
    pub queue: Queue,
}
