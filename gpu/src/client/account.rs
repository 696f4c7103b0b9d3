//! What one call may use of the GPU, and what it has used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::wire::Usage;
use crate::{GpuError, limits};

/// One call's account, whether or not it asks what came of its submissions.
#[derive(Clone)]
pub struct Account(Arc<Inner>);

struct Inner {
    /// Whose call it is. Who costs the worker too often is refused for a while.
    who: String,
    time: Duration,
    deadline: Instant,
    /// The lock is held for one addition or a copy.
    books: Mutex<Books>,
    /// Submissions that wait or are worked on.
    pending: AtomicUsize,
    /// The call has ended: nothing is begun for it any more.
    closed: AtomicBool,
}

#[derive(Default)]
struct Books {
    usage: Usage,
    /// How long the GPU and its worker were busy for it.
    busy: Duration,
}

impl Account {
    /// For a call of `who`, which may keep the GPU and its worker busy for `time`, and nothing of which runs after `deadline`.
    pub fn new(who: impl Into<String>, time: Duration, deadline: Instant) -> Self {
        Account(Arc::new(Inner {
            who: who.into(),
            time,
            deadline,
            books: Mutex::default(),
            pending: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }))
    }

    pub fn usage(&self) -> Usage {
        self.0.books.lock().usage
    }

    /// The call has ended.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }

    /// What it has left, if it may still begin something.
    pub fn time_left(&self) -> Result<Duration, GpuError> {
        if self.0.closed.load(Ordering::Relaxed) {
            return Err(GpuError::Timeout("the call has ended".to_owned()));
        }
        let busy = self.0.books.lock().busy;
        let left = self.0.time.saturating_sub(busy);
        if left.is_zero() {
            return Err(GpuError::Quota(format!(
                "the time on the GPU is used up (limits.gpu_time = {}ms)",
                self.0.time.as_millis()
            )));
        }
        let until = self.0.deadline.saturating_duration_since(Instant::now());
        match until.is_zero() {
            false => Ok(left.min(until)),
            true => Err(GpuError::Timeout("the call's time is over".to_owned())),
        }
    }

    /// Whether it is this call's.
    pub(super) fn is(&self, other: &Account) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn who(&self) -> &str {
        &self.0.who
    }

    pub(super) fn book(&self, usage: &Usage, busy: Duration) {
        let mut books = self.0.books.lock();
        books.usage.add(usage);
        books.busy += busy;
    }

    /// Takes a place for a submission.
    pub(super) fn enter(&self) -> Result<Place, GpuError> {
        if self.0.pending.fetch_add(1, Ordering::Relaxed) < limits::PENDING {
            return Ok(Place(self.clone()));
        }
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
        Err(GpuError::Quota(format!(
            "a call has at most {} submissions under way: wait for one",
            limits::PENDING
        )))
    }
}

/// A submission's place among those of its call.
pub(super) struct Place(Account);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_up_or_over_begins_nothing() {
        let later = Instant::now() + Duration::from_secs(60);
        let account = Account::new("f", Duration::from_secs(5), later);
        assert_eq!(account.time_left(), Ok(Duration::from_secs(5)));
        account.book(&Usage::default(), Duration::from_secs(4));
        assert_eq!(account.time_left(), Ok(Duration::from_secs(1)));
        account.book(&Usage::default(), Duration::from_secs(4));
        assert!(matches!(account.time_left(), Err(GpuError::Quota(_))));
        let over = Account::new("f", Duration::from_secs(5), Instant::now());
        assert!(matches!(over.time_left(), Err(GpuError::Timeout(_))));
        let ended = Account::new("f", Duration::from_secs(5), later);
        ended.close();
        assert!(matches!(ended.time_left(), Err(GpuError::Timeout(_))));
        let places: Vec<_> = (0..limits::PENDING)
            .map(|_| ended.enter().ok().unwrap())
            .collect();
        assert!(ended.enter().is_err());
        drop(places);
        assert!(ended.enter().is_ok());
    }
}
