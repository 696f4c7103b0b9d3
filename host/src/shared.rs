//! What a call's guest and its response know of each other.

use std::future::poll_fn;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use nearfield_protocol::{Problem, cost};

/// What a call's guest and its response know of each other.
#[derive(Default)]
pub(crate) struct Shared {
    pub request_bytes: AtomicU64,
    pub response_bytes: AtomicU64,
    /// The status of the guest's response, 0 until there is one.
    pub status: AtomicU16,
    /// The error that the guest gave instead of a response.
    pub refused: OnceLock<String>,
    /// How the guest's body itself broke off.
    pub broken: OnceLock<Problem>,
    /// The guest does nothing more: what is not in its body by now never comes.
    guest_ended: AtomicBool,
    /// The body, if it waits for that.
    body_waiting: AtomicWaker,
    /// What became of the response, once that is known.
    outcome: OnceLock<ResponseOutcome>,
    /// Who waits for that to be known.
    waiting: AtomicWaker,
}

/// What became of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseOutcome {
    /// It was read to its end.
    Read,
    /// Nobody wants it any more.
    Unwanted,
}

impl Shared {
    /// What the bytes of both bodies cost so far.
    pub fn fuel(&self) -> u64 {
        cost::bytes(self.request_bytes.load(Ordering::Relaxed))
            + cost::bytes(self.response_bytes.load(Ordering::Relaxed))
    }

    /// Whether the response was read to its end; false if nobody wants it any more.
    pub async fn read(&self) -> bool {
        poll_fn(|cx| {
            self.waiting.register(cx.waker());
            match self.outcome.get() {
                None => Poll::Pending,
                Some(outcome) => Poll::Ready(*outcome == ResponseOutcome::Read),
            }
        })
        .await
    }

    pub fn end_guest(&self) {
        self.guest_ended.store(true, Ordering::Release);
        self.body_waiting.wake();
    }

    /// Whether the guest has ended. If not, the body is asked again once it has.
    pub fn guest_ended(&self, cx: &mut Context<'_>) -> bool {
        self.body_waiting.register(cx.waker());
        self.guest_ended.load(Ordering::Acquire)
    }

    /// Ends when nobody wants the response any more; never, if it was read to its end.
    pub async fn gone(&self) {
        if self.read().await {
            std::future::pending::<()>().await;
        }
    }

    /// What became of the response, if that is known.
    #[cfg(test)]
    pub fn outcome(&self) -> Option<ResponseOutcome> {
        self.outcome.get().copied()
    }

    /// Says what became of the response. The first word counts.
    pub fn settle(&self, outcome: ResponseOutcome) {
        if self.outcome.set(outcome).is_ok() {
            self.waiting.wake();
        }
    }
}
