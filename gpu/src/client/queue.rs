//! What waits for the GPU's thread. Functions take turns, one ask each: however much one of them asks, another waits for at most
//! one ask of each before its own.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Ask, gone};
use crate::{GpuError, limits};

/// Filled by calls, emptied by the thread.
#[derive(Default)]
pub(super) struct Queue {
    /// The lock is held for one step in or out. Nothing is dropped under it: what is asked may hold buffers, whose end locks it.
    waiting: Mutex<QueueState>,
    news: Condvar,
}

#[derive(Default)]
struct QueueState {
    turns: Turns<Ask>,
    /// Buffers were dropped.
    tidy: bool,
    /// Nobody asks any more, or nobody answers.
    closed: bool,
}

pub(super) enum Next {
    Ask(Ask),
    /// Nobody asks anything, and buffers were dropped.
    Tidy,
    /// Nothing came.
    Nothing,
    /// Nothing will come.
    Closed,
}

impl Queue {
    pub fn push(&self, ask: Ask) -> Result<(), GpuError> {
        let mut waiting = self.lock();
        if waiting.closed {
            return Err(gone());
        }
        waiting.turns.admit(ask.who(), ask.bytes())?;
        let (who, bytes) = (ask.who().to_owned(), ask.bytes());
        waiting.turns.push(who, bytes, ask);
        self.news.notify_one();
        Ok(())
    }

    /// Buffers were dropped, which the thread is to let go of when it has nothing else to do.
    pub fn tidy(&self) {
        self.lock().tidy = true;
        self.news.notify_one();
    }

    /// Nothing is asked any more; what waits is done.
    pub fn close(&self) {
        self.lock().closed = true;
        self.news.notify_one();
    }

    /// Nothing is answered any more.
    pub fn abandon(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let unanswered = std::mem::take(&mut waiting.turns);
        drop(waiting);
        drop(unanswered);
    }

    /// Waits for the next thing to do, for so long at most.
    pub fn next(&self, patience: Duration) -> Next {
        let idle = |waiting: &mut QueueState| waiting.turns.len == 0 && !waiting.tidy && !waiting.closed;
        let mut waiting = self.lock();
        self.news.wait_while_for(&mut waiting, idle, patience);
        match waiting.turns.pop() {
            Some(ask) => Next::Ask(ask),
            None if std::mem::take(&mut waiting.tidy) => Next::Tidy,
            None if waiting.closed => Next::Closed,
            None => Next::Nothing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.waiting.lock()
    }
}

/// What waits, by whose it is. Pure.
struct Turns<T> {
    /// Those that have something waiting, in the order of their turns.
    lanes: VecDeque<Lane<T>>,
    len: usize,
    bytes: u64,
}

struct Lane<T> {
    who: String,
    /// First come, first served; with the bytes that each carries.
    asks: VecDeque<(u64, T)>,
    bytes: u64,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Turns {
            lanes: VecDeque::new(),
            len: 0,
            bytes: 0,
        }
    }
}

impl<T> Turns<T> {
    /// Whether there is a place. One function has a part of them only.
    fn admit(&self, who: &str, bytes: u64) -> Result<(), GpuError> {
        let lane = self.lanes.iter().find(|lane| lane.who == who);
        let (len, held) = lane.map_or((0, 0), |lane| (lane.asks.len(), lane.bytes));
        for (count, most, whose) in [
            (self.len, limits::QUEUED, String::new()),
            (len, limits::QUEUED_OF_ONE, format!(" of `{who}`")),
        ] {
            if count >= most {
                return Err(GpuError::Unavailable(format!(
                    "{count} submissions{whose} wait for the GPU already"
                )));
            }
        }
        for (count, most, whose) in [
            (self.bytes, limits::QUEUED_BYTES, String::new()),
            (held, limits::QUEUED_BYTES_OF_ONE, format!(" of `{who}`")),
        ] {
            if count + bytes > most {
                return Err(GpuError::Unavailable(format!(
                    "writes{whose} of {count} bytes wait for the GPU already"
                )));
            }
        }
        Ok(())
    }

    fn push(&mut self, who: String, bytes: u64, ask: T) {
        self.len += 1;
        self.bytes += bytes;
        match self.lanes.iter_mut().find(|lane| lane.who == who) {
            Some(lane) => {
                lane.asks.push_back((bytes, ask));
                lane.bytes += bytes;
            }
            None => self.lanes.push_back(Lane {
                who,
                asks: VecDeque::from([(bytes, ask)]),
                bytes,
            }),
        }
    }

    /// The next of whoever's turn it is.
    fn pop(&mut self) -> Option<T> {
        let mut lane = self.lanes.pop_front()?;
        let (bytes, ask) = lane.asks.pop_front()?;
        lane.bytes -= bytes;
        self.bytes -= bytes;
        self.len -= 1;
        if !lane.asks.is_empty() {
            self.lanes.push_back(lane);
        }
        Some(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(turns: &mut Turns<String>, who: &str, count: usize, bytes: u64) -> Result<(), GpuError> {
        for number in 0..count {
            turns.admit(who, bytes)?;
            turns.push(who.to_owned(), bytes, format!("{who}{number}"));
        }
        Ok(())
    }

    #[test]
    fn functions_take_turns() {
        let mut turns = Turns::default();
        fill(&mut turns, "a", 4, 1).unwrap();
        fill(&mut turns, "b", 2, 1).unwrap();
        assert_eq!(turns.pop().as_deref(), Some("a0"));
        fill(&mut turns, "c", 1, 1).unwrap();
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, ["b0", "a1", "c0", "b1", "a2", "a3"]);
        assert_eq!((turns.len, turns.bytes, turns.lanes.len()), (0, 0, 0));
    }

    #[test]
    fn nobody_takes_all_places() {
        let mut turns = Turns::default();
        let refused = fill(&mut turns, "a", limits::QUEUED_OF_ONE + 1, 0).unwrap_err();
        assert!(refused.to_string().contains("of `a`"), "{refused}");
        assert!(turns.admit("b", 0).is_ok());
        for who in 1..limits::QUEUED / limits::QUEUED_OF_ONE {
            fill(&mut turns, &who.to_string(), limits::QUEUED_OF_ONE, 0).unwrap();
        }
        assert!(turns.admit("b", 0).is_err(), "all of them are taken");
        turns.pop();
        assert!(turns.admit("b", 0).is_ok());

        let mut turns = Turns::default();
        fill(&mut turns, "a", 1, limits::QUEUED_BYTES_OF_ONE).unwrap();
        assert!(turns.admit("a", 1).is_err() && turns.admit("a", 0).is_ok());
        assert!(turns.admit("b", limits::QUEUED_BYTES_OF_ONE).is_ok());
        fill(&mut turns, "b", 1, limits::QUEUED_BYTES_OF_ONE).unwrap();
        fill(&mut turns, "c", 1, limits::QUEUED_BYTES_OF_ONE).unwrap_err();
    }

    #[test]
    fn what_is_closed_ends_once_all_is_done() {
        let queue = Queue::default();
        assert!(matches!(queue.next(Duration::ZERO), Next::Nothing));
        queue.tidy();
        queue.close();
        assert!(matches!(queue.next(Duration::ZERO), Next::Tidy));
        assert!(matches!(queue.next(Duration::from_secs(60)), Next::Closed));
    }
}
