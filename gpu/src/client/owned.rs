//! Buffers of calls in a worker's memory, by whose they are. Pure.

use std::collections::HashMap;

use super::Account;
use crate::wire::Id;
use crate::{GpuError, limits};

#[derive(Default)]
pub(super) struct Owned {
    buffers: HashMap<Id, (Account, u64)>,
    /// Of each function that has any: what each of its calls has.
    functions: HashMap<String, Vec<(Account, u64)>>,
}

impl Owned {
    /// Whether a call may have a buffer more. One call may have all that it was granted; calls of one function together have half of
    /// what there is, so that others have a place beside however many of them there are.
    pub fn admit(&self, account: &Account, bytes: u64, budget_bytes: u64) -> Result<(), GpuError> {
        let calls = self.functions.get(account.who()).map_or(&[][..], Vec::as_slice);
        let held: u64 = calls.iter().map(|(_, held)| held).sum();
        let others = calls.iter().any(|(other, _)| !other.is(account));
        // What can never be is told by who gives the room.
        match others && bytes <= budget_bytes && held + taken(bytes) > budget_bytes / 2 {
            false => Ok(()),
            true => Err(GpuError::Unavailable(format!(
                "{bytes} bytes of GPU memory are wanted, and calls of `{}` have {held} already: together they have half of {budget_bytes}",
                account.who()
            ))),
        }
    }

    pub fn add(&mut self, id: Id, account: &Account, bytes: u64) {
        self.buffers.insert(id, (account.clone(), bytes));
        let calls = self.functions.entry(account.who().to_owned()).or_default();
        match calls.iter_mut().find(|(call, _)| call.is(account)) {
            Some((_, held)) => *held += taken(bytes),
            None => calls.push((account.clone(), taken(bytes))),
        }
    }

    /// The buffer's size, if it was there.
    pub fn remove(&mut self, id: Id) -> Option<u64> {
        let (account, bytes) = self.buffers.remove(&id)?;
        if let Some(calls) = self.functions.get_mut(account.who()) {
            if let Some((_, held)) = calls.iter_mut().find(|(call, _)| call.is(&account)) {
                *held -= taken(bytes);
            }
            calls.retain(|(_, held)| *held > 0);
            if calls.is_empty() {
                self.functions.remove(account.who());
            }
        }
        Some(bytes)
    }
}

fn taken(bytes: u64) -> u64 {
    bytes.max(limits::LEAST_BUFFER_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn calls_of_a_function_have_half_together() {
        const MIB: u64 = 1 << 20;
        let of = |who: &str| Account::new(who, Duration::from_secs(1), Instant::now());
        let (first, second, other) = (of("f"), of("f"), of("g"));
        let mut owned = Owned::default();
        assert!(owned.admit(&first, 8 * MIB, 8 * MIB).is_ok(), "one call, all");
        owned.add(1, &first, 3 * MIB);
        assert!(owned.admit(&second, MIB, 8 * MIB).is_ok());
        assert!(owned.admit(&first, 5 * MIB, 8 * MIB).is_ok());
        owned.add(2, &second, MIB);
        for account in [&first, &second] {
            let refused = owned.admit(account, 4, 8 * MIB).unwrap_err().to_string();
            assert!(refused.contains("calls of `f`"), "{refused}");
        }
        assert!(owned.admit(&other, 4 * MIB, 8 * MIB).is_ok());
        assert_eq!((owned.remove(1), owned.remove(1)), (Some(3 * MIB), None));
        assert!(owned.admit(&second, 7 * MIB, 8 * MIB).is_ok(), "it is alone now");
        assert_eq!(owned.remove(2), Some(MIB));
        assert!(owned.functions.is_empty() && owned.buffers.is_empty());
    }
}
