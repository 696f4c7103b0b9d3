//! Data and records together: what must happen in one order.
//!
//! Removal decides what nothing refers to any more. A put that has sealed its shards but not yet written its record would look
//! like that, so sealing and recording happen under the read side of a lock, removal under the write side. The long part of a
//! put, cutting and importing, needs no lock: what is imported is held until it is sealed.

mod forget;
mod guards;
mod held;
mod kept;
mod put;
mod release;
mod remaining;
mod removed;
mod state;

pub use guards::{DataHold, Granted};
pub use put::{Keeping, PutInput, Target};
pub use remaining::Remaining;
pub use removed::Removed;
pub use state::Catalog;
