//! Places for calls: bounded for the host and for each function, with bounded queues, so that the calls of one leave room for
//! those of others, whether they run or wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearfield_protocol::{Problem, ProblemKind, limits, units};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A host's places.
pub(crate) struct Places {
    all: u32,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The calls of one function's version.
pub(crate) struct Queue {
    /// Places that they may still take.
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// What a call holds while its guest runs.
pub(crate) struct Place {
    _of_function: OwnedSemaphorePermit,
    _of_host: OwnedSemaphorePermit,
}

impl Queue {
    /// Of calls that take `places` each: one of them always fits.
    pub fn new(places: u32) -> Self {
        Queue {
            free: Arc::new(Semaphore::new(limits::PLACES_PER_FUNCTION.max(places) as usize)),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Places {
    pub fn new(all: u32) -> Self {
        Places {
            all,
            free: Arc::new(Semaphore::new(all as usize)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Places that calls hold.
    pub fn taken(&self) -> usize {
        self.all as usize - self.free.available_permits()
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes `places` for a call of `queue`: at once, or after a bounded wait in a bounded queue.
    pub async fn take(&self, queue: &Queue, places: u32) -> Result<Place, Problem> {
        let now = |of: &Arc<Semaphore>| of.clone().try_acquire_many_owned(places);
        if let (Ok(of_function), Ok(of_host)) = (now(&queue.free), now(&self.free)) {
            return Ok(Place::new(of_function, of_host));
        }
        Box::pin(self.wait(queue, places)).await
    }

    async fn wait(&self, queue: &Queue, places: u32) -> Result<Place, Problem> {
        let waiting = [
            (&queue.waiting, limits::QUEUED_CALLS_PER_FUNCTION, "function's"),
            (&self.waiting, limits::QUEUED_CALLS, "host's"),
        ];
        let mut waits = Vec::with_capacity(waiting.len());
        for (count, most, whose) in waiting {
            waits.push(Waiting::enter(count));
            if count.load(Ordering::Relaxed) > most {
                let text = format!("this {whose} queue is full on this host: call again in a moment");
                let limit = format!("queued calls of a {} = {most}", whose.trim_end_matches("'s"));
                return Err(Problem::new(ProblemKind::Overload, text).with_limit(limit));
            }
        }
        // The function's first: who waits for it stands in nobody else's way.
        let wait = async {
            let of_function = queue.free.clone().acquire_many_owned(places).await;
            let of_host = self.free.clone().acquire_many_owned(places).await;
            Some(Place::new(of_function.ok()?, of_host.ok()?))
        };
        match tokio::time::timeout(limits::QUEUE_WAIT, wait).await {
            Ok(Some(place)) => Ok(place),
            _ => Err(Problem::new(
                ProblemKind::Overload,
                "this host had no place for the call in time: call again in a moment",
            )
            .with_limit(format!(
                "queue wait = {}",
                units::exact_duration(limits::QUEUE_WAIT)
            ))),
        }
    }
}

impl Place {
    fn new(of_function: OwnedSemaphorePermit, of_host: OwnedSemaphorePermit) -> Self {
        Place {
            _of_function: of_function,
            _of_host: of_host,
        }
    }
}

/// Counts a waiting call while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all that it can get at once.
    fn fill(places: &Places, queue: &Queue, each: u32) -> Vec<Place> {
        use futures_util::FutureExt;
        std::iter::from_fn(|| places.take(queue, each).now_or_never())
            .map_while(Result::ok)
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_function_leaves_places_to_others() {
        let places = Places::new(512);
        let (greedy, other) = (Queue::new(1), Queue::new(8));
        let held = fill(&places, &greedy, 1);
        assert_eq!(held.len(), 256);
        let others = fill(&places, &other, 8);
        assert_eq!(others.len(), 256 / 8, "places are counted, not calls");
        assert_eq!((places.taken(), places.waiting()), (512, 0));
        let full = places.take(&Queue::new(1), 1).await.err().unwrap();
        assert_eq!(full.kind, ProblemKind::Overload);
        drop(held);
        assert_eq!(places.taken(), 256);
        assert!(places.take(&Queue::new(1), 1).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn one_function_leaves_the_queue_to_others() {
        let places = Places::new(512);
        let (greedy, other) = (Queue::new(1), Queue::new(1));
        let _held = (fill(&places, &greedy, 1), fill(&places, &other, 1));
        let many = (0..2_000).map(|_| places.take(&greedy, 1));
        let refused = futures_util::future::join_all(many);
        let mut refused = std::pin::pin!(refused);
        assert!(futures_util::poll!(refused.as_mut()).is_pending());
        assert_eq!(places.waiting(), limits::QUEUED_CALLS_PER_FUNCTION);
        let mut waits = std::pin::pin!(places.take(&other, 1));
        assert!(
            futures_util::poll!(waits.as_mut()).is_pending(),
            "there is room to wait"
        );
        let refused = refused.await;
        let of_queue =
            |problem: &Problem| problem.limit.as_deref() == Some("queued calls of a function = 256");
        let problems = refused.iter().filter_map(|taken| taken.as_ref().err());
        assert_eq!(problems.filter(|problem| of_queue(problem)).count(), 2_000 - 256);
        assert!(waits.await.is_err(), "its time is over, too");
        assert_eq!(places.waiting(), 0);
    }
}
