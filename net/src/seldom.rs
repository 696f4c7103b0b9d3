//! Log lines that strangers or members could have this node write without end.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One line in so much time.
const APART: Duration = Duration::from_secs(60);

/// Lets one line through a minute, and counts the others.
#[derive(Debug, Default)]
pub struct Seldom {
    /// When the last one was let through, and how many were not since. The lock is held for one sum.
    last: Mutex<Option<(Instant, u64)>>,
}

impl Seldom {
    /// Whether to say it now, and how often it happened since it was last said, this time included.
    pub fn say(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock();
        match &mut *last {
            Some((at, unsaid)) if now.saturating_duration_since(*at) < APART => {
                *unsaid += 1;
                None
            }
            before => {
                let unsaid = before.take().map_or(0, |(_, unsaid)| unsaid);
                *before = Some((now, 0));
                Some(unsaid + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_a_minute_and_how_often_it_was() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        assert_eq!(seldom.say(start), Some(1));
        for second in 1..60 {
            assert_eq!(seldom.say(start + Duration::from_secs(second)), None);
        }
        assert_eq!(seldom.say(start + Duration::from_secs(60)), Some(60));
        assert_eq!(seldom.say(start + Duration::from_secs(61)), None);
        assert_eq!(seldom.say(start + Duration::from_secs(500)), Some(2));
    }
}
