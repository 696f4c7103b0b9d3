//! How much at once, and how much a day: bounds per function and per token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use nearfield_protocol::records::TokenVersion;
use nearfield_protocol::{FunctionName, Problem, ProblemKind, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Functions whose counts are kept; the least used are forgotten, which only forgets idle counts.
const MAX_FUNCTIONS: u64 = 10_000;
const DAY_MS: u64 = 86_400_000;

/// Counts what runs.
pub struct Admission {
    functions: moka::sync::Cache<FunctionName, Arc<Semaphore>>,
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
    pub fn places(&self, function: &FunctionName) -> Arc<Semaphore> {
        self.functions
            .get_with_by_ref(function, || Arc::new(Semaphore::new(limits::CALLS_PER_FUNCTION)))
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
        .with_limit(format!("fuel per day = {max}")))
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

/// A place among a function's calls at once, held until the call has ended.
pub fn enter(places: &Arc<Semaphore>, function: &FunctionName) -> Result<OwnedSemaphorePermit, Problem> {
    places.clone().try_acquire_owned().map_err(|_| {
        Problem::new(
            ProblemKind::Overload,
            format!("function `{function}` has too many calls at once"),
        )
        .with_limit(format!(
            "calls at once per function = {}",
            limits::CALLS_PER_FUNCTION
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_has_its_places_and_gets_them_back() {
        let admission = Admission::default();
        let (f, g): (FunctionName, FunctionName) = ("f".parse().unwrap(), "g".parse().unwrap());
        let held: Vec<_> = (0..limits::CALLS_PER_FUNCTION)
            .map(|_| enter(&admission.places(&f), &f).unwrap())
            .collect();
        let refused = enter(&admission.places(&f), &f).unwrap_err();
        assert_eq!(refused.kind, ProblemKind::Overload);
        assert!(enter(&admission.places(&g), &g).is_ok(), "others are not held up");
        drop(held);
        assert!(enter(&admission.places(&f), &f).is_ok());
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
