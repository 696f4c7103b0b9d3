//! Functions that cost the worker too often are refused for a while. Pure: time is told to it.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::time::Instant;

use crate::{GpuError, limits};

/// When each function cost a worker, lately.
#[derive(Default)]
pub(super) struct Strikes(HashMap<String, VecDeque<Instant>>);

impl Strikes {
    /// Whether a function may ask.
    pub fn admit(&self, who: &str, now: Instant) -> Result<(), GpuError> {
        let strikes = self.0.get(who).into_iter().flatten();
        let count = strikes.filter(|at| is_recent(at, now)).count();
        match count < limits::STRIKES {
            true => Ok(()),
            false => Err(GpuError::Unavailable(format!(
                "`{who}` has cost the GPU's worker {count} times within {} s, and is refused for as long",
                limits::PENALTY.as_secs()
            ))),
        }
    }

    /// A function cost a worker.
    pub fn add(&mut self, who: &str, now: Instant) {
        // Those that have done so lately are few: each cost half a second at least.
        self.0
            .retain(|_, strikes| strikes.iter().any(|at| is_recent(at, now)));
        let strikes = self.0.entry(who.to_owned()).or_default();
        strikes.push_back(now);
        if strikes.len() > limits::STRIKES {
            strikes.pop_front();
        }
    }
}

fn is_recent(at: &Instant, now: Instant) -> bool {
    now.saturating_duration_since(*at) < limits::PENALTY
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn three_within_a_minute_are_too_many() {
        let (mut strikes, begun) = (Strikes::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        for second in [0, 10, 59] {
            assert!(strikes.admit("f", at(second)).is_ok());
            strikes.add("f", at(second));
        }
        assert!(strikes.admit("f", at(59)).is_err());
        assert!(strikes.admit("g", at(59)).is_ok());
        assert!(
            strikes.admit("f", at(60)).is_ok(),
            "the first one is a minute ago"
        );
        strikes.add("f", at(61));
        assert!(strikes.admit("f", at(61)).is_err());
        assert!(strikes.admit("f", at(121)).is_ok());
        strikes.add("g", at(200));
        assert_eq!(strikes.0.len(), 1, "what is over is forgotten");
    }
}
