//! How much at once, and how much a day: bounds per function and per token.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nearfield_protocol::records::{FunctionVersion, TokenVersion};
use nearfield_protocol::{FunctionName, Problem, ProblemKind, units};

/// Functions whose counts are kept; the least used are forgotten, which only forgets idle counts.
const MAX_FUNCTIONS: u64 = 10_000;
const DAY_MS: u64 = 86_400_000;

/// Counts what runs.
pub struct Admission {
    functions: moka::sync::Cache<FunctionName, Arc<Places>>,
    /// Token id → fuel used on a UTC day. The lock is held for one look-up.
    budgets: Mutex<HashMap<String, DayFuel>>,
}

/// Fuel used within one UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct DayFuel {
    day: u64,
    used: u64,
}

impl Default for Admission {
    fn default() -> Self {
        Admission {
            functions: moka::sync::Cache::new(MAX_FUNCTIONS),
            budgets: Mutex::default(),
        }
    }
}

impl Admission {
    /// A function's places, the same ones for all its versions.
    pub fn places(&self, function: &FunctionName) -> Arc<Places> {
        self.functions.get_with_by_ref(function, Arc::default)
    }

    /// Whether the token has fuel left today.
    pub fn check_budget(&self, token: &TokenVersion, now_unix_ms: u64) -> Result<(), Problem> {
        let Some(max) = token.max_fuel_per_day else {
            return Ok(());
        };
        let budgets = self.budgets.lock().expect("no panic under this lock");
        let used = budgets
            .get(&token.id)
            .filter(|budget| budget.day == now_unix_ms / DAY_MS)
            .map_or(0, |budget| budget.used);
        if used < max {
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::TooManyRequests,
            format!("token {} has used up today's fuel", token.id),
        )
        .with_limit(format!("fuel per day = {}", units::exact_count(max))))
    }

    /// Books what a call with the token used.
    pub fn book(&self, token: &TokenVersion, fuel: u64, now_unix_ms: u64) {
        if token.max_fuel_per_day.is_none() {
            return;
        }
        let day = now_unix_ms / DAY_MS;
        let mut budgets = self.budgets.lock().expect("no panic under this lock");
        let budget = budgets
            .entry(token.id.clone())
            .or_insert(DayFuel { day, used: 0 });
        if budget.day != day {
            *budget = DayFuel { day, used: 0 };
        }
        budget.used = budget.used.saturating_add(fuel);
    }
}

/// How many calls of a function there are. Its versions share the count; the limit is each version's own.
#[derive(Debug, Default)]
pub struct Places(AtomicU32);

/// A place among a function's calls at once, held until the call has ended.
#[derive(Debug)]
pub struct Place(Arc<Places>);

/// Takes a place, unless all that the version's manifest allows are taken.
pub fn enter(places: &Arc<Places>, function: &FunctionVersion) -> Result<Place, Problem> {
    let limit = function.manifest.limits.calls;
    let more = |taken| (taken < limit).then_some(taken + 1);
    match places
        .0
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
    {
        Ok(_) => Ok(Place(places.clone())),
        Err(_) => Err(Problem::new(
            ProblemKind::Overload,
            format!(
                "function `{}` has as many calls at once as it may: try again, or raise `limits.calls` in its nearfield.toml",
                function.name
            ),
        )
        .with_limit(format!("limits.calls = {limit}"))),
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_protocol::Digest;
    use nearfield_protocol::manifest::FunctionManifest;

    #[test]
    fn a_function_has_its_places_and_gets_them_back() {
        let admission = Admission::default();
        let version = |name: &str, calls| {
            let mut manifest = FunctionManifest::default();
            manifest.limits.calls = calls;
            FunctionVersion {
                name: name.parse().unwrap(),
                version: 1,
                component: Digest::EMPTY,
                manifest,
                deployed_unix_ms: 0,
                rolled_back_to: None,
            }
        };
        let enter = |function: &FunctionVersion| enter(&admission.places(&function.name), function);
        let (f, g) = (version("f", 3), version("g", 1));
        let held: Vec<_> = (0..3).map(|_| enter(&f).unwrap()).collect();
        let refused = enter(&f).unwrap_err();
        assert_eq!(refused.kind, ProblemKind::Overload);
        assert_eq!(refused.limit.as_deref(), Some("limits.calls = 3"));
        assert!(enter(&g).is_ok(), "others are not held up");
        let fourth = enter(&version("f", 4)).unwrap();
        assert!(enter(&f).is_err(), "versions share the count");
        drop((held, fourth));
        assert!(enter(&f).is_ok());
    }

    #[test]
    fn a_budget_lasts_a_day() {
        let admission = Admission::default();
        let token = TokenVersion {
            id: "t".into(),
            function: "f".parse().unwrap(),
            component: None,
            max_fuel_per_day: Some(100),
            expires_unix_ms: None,
            issued_unix_ms: 0,
        };
        admission.book(&token, 99, 0);
        assert!(admission.check_budget(&token, 1).is_ok());
        admission.book(&token, 50, 1);
        assert_eq!(
            admission.check_budget(&token, 2).unwrap_err().kind,
            ProblemKind::TooManyRequests
        );
        assert!(admission.check_budget(&token, DAY_MS).is_ok(), "a new day");
    }
}
