//! What a token may burn a day.
//!
//! A call's fuel is known when it has ended, so what it may burn at most is set aside when it begins: calls at once cannot
//! burn together what each of them alone would be allowed. A call that begins with less left than its function's limit gets
//! what is left as its limit. What a call may burn beyond its limit is what is only settled at its end (docs/decisions/0041).

use std::collections::HashMap;
use std::sync::Arc;

use nearfield_protocol::records::TokenVersion;
use nearfield_protocol::{Problem, ProblemKind, units};
use parking_lot::Mutex;

const DAY_MS: u64 = 86_400_000;
/// Tokens whose use is kept before those of earlier days are looked for and forgotten.
const MANY_TOKENS: usize = 4_096;

/// Token id → what it used. A restart forgets it.
#[derive(Default)]
pub struct Budgets {
    /// The lock is held for one look-up.
    days: Mutex<HashMap<String, DayFuel>>,
}

/// Fuel of one token within one UTC day.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct DayFuel {
    day: u64,
    used: u64,
    /// What calls under way may still burn, whichever day they began.
    set_aside: u64,
}

/// Fuel that is set aside for one call, until it is dropped.
pub struct Allowance {
    budgets: Arc<Budgets>,
    token: String,
    set_aside: u64,
    burned: u64,
}

/// Why a token's call is not let in, or ended.
pub fn used_up(token: &TokenVersion) -> Problem {
    let max = token.max_fuel_per_day.unwrap_or(u64::MAX);
    Problem::new(
        ProblemKind::TooManyRequests,
        format!(
            "token {} has used up today's fuel, or its calls under way may: wait for those, or until tomorrow (UTC)",
            token.id
        ),
    )
    .with_limit(format!("fuel per day = {}", units::exact_count(max)))
}

impl Budgets {
    /// Sets aside what a call may burn: `fuel`, or less if less is left. None if the token has no bound.
    pub fn set_aside(
        self: &Arc<Self>,
        token: &TokenVersion,
        fuel: u64,
        now_unix_ms: u64,
    ) -> Result<Option<Allowance>, Problem> {
        let Some(max) = token.max_fuel_per_day else {
            return Ok(None);
        };
        let day = now_unix_ms / DAY_MS;
        let mut days = self.days.lock();
        if days.len() >= MANY_TOKENS {
            days.retain(|_, fuel| fuel.day == day || fuel.set_aside > 0);
        }
        let budget = days.entry(token.id.clone()).or_default();
        if budget.day != day {
            *budget = DayFuel {
                day,
                used: 0,
                ..*budget
            };
        }
        let left = max.saturating_sub(budget.used).saturating_sub(budget.set_aside);
        if left == 0 {
            return Err(used_up(token));
        }
        let set_aside = fuel.min(left);
        budget.set_aside += set_aside;
        Ok(Some(Allowance {
            budgets: self.clone(),
            token: token.id.clone(),
            set_aside,
            burned: 0,
        }))
    }
}

impl Allowance {
    /// What the call may burn.
    pub fn fuel(&self) -> u64 {
        self.set_aside
    }

    /// The call has ended, and burned so much.
    pub fn book(mut self, burned: u64) {
        self.burned = burned;
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        let mut days = self.budgets.days.lock();
        if let Some(budget) = days.get_mut(&self.token) {
            budget.set_aside = budget.set_aside.saturating_sub(self.set_aside);
            budget.used = budget.used.saturating_add(self.burned);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(max: Option<u64>) -> TokenVersion {
        TokenVersion {
            key: String::new(),
            id: "t".into(),
            function: "f".parse().unwrap(),
            component: None,
            max_fuel_per_day: max,
            expires_unix_ms: None,
            issued_unix_ms: 0,
        }
    }

    #[test]
    fn a_budget_lasts_a_day() {
        let budgets = Arc::new(Budgets::default());
        let token = token(Some(100));
        let begin = |now| budgets.set_aside(&token, 50, now).map(Option::unwrap);
        begin(0).unwrap().book(99);
        let last = begin(1).unwrap();
        assert_eq!(last.fuel(), 1, "what is left");
        let refused = begin(1).err().unwrap();
        assert_eq!(
            refused.kind,
            ProblemKind::TooManyRequests,
            "the last is under way"
        );
        drop(last);
        begin(1).unwrap().book(1);
        assert!(begin(2).is_err());
        assert_eq!(begin(DAY_MS).unwrap().fuel(), 50, "a new day");
        assert!(budgets.set_aside(&self::token(None), 50, 0).unwrap().is_none());
    }

    proptest! {
        /// However many calls are under way, what they burn within their allowances is no more than the token's.
        #[test]
        fn calls_at_once_burn_no_more_than_the_day_s(
            max in 1u64..1_000,
            calls in proptest::collection::vec((1u64..400, 0u64..=100, any::<bool>()), 1..40),
        ) {
            let budgets = Arc::new(Budgets::default());
            let token = token(Some(max));
            let (mut under_way, mut burned) = (Vec::new(), 0);
            for (fuel, percent, ends_one) in calls {
                if let Ok(allowance) = budgets.set_aside(&token, fuel, 0) {
                    under_way.push((allowance.unwrap(), percent));
                }
                if ends_one && !under_way.is_empty() {
                    let (allowance, percent) = under_way.remove(0);
                    let burns = allowance.fuel() * percent / 100;
                    burned += burns;
                    allowance.book(burns);
                }
                let may: u64 = under_way.iter().map(|(allowance, _)| allowance.fuel()).sum();
                prop_assert!(burned + may <= max);
            }
        }
    }
}
