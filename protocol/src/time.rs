//! Times as records and answers carry them.

use std::time::SystemTime;

/// Milliseconds since 1970 in UTC; 0 for a time before.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}
