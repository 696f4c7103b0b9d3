//! The end of a call: its guest has ended, and its response is on its way out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use nearfield_protocol::Problem;
use nearfield_protocol::call::{CallReport, OnReport, Stages};
use nearfield_protocol::gpu::GpuUsage;
use nearfield_protocol::records::FunctionVersion;

use crate::failure::{no_response, out_of_fuel, refused};
use crate::guest::Guest;
use crate::shared::Shared;

/// A call whose guest has ended. What is left is its response, on its way out.
pub(crate) struct Closing {
    pub function: Arc<FunctionVersion>,
    pub fuel: u64,
    pub figures: Figures,
    pub problem: Option<Problem>,
    /// Nobody wanted the response while the guest still ran.
    pub cancelled: bool,
    pub deadline: Instant,
    pub cold: bool,
    pub stages: Stages,
    pub shared: Arc<Shared>,
    pub report: OnReport,
}

impl Closing {
    /// Waits for the response to be read, but not beyond the call's time.
    pub async fn close_when_read(self) -> Option<Problem> {
        let read = !self.cancelled
            && tokio::time::timeout_at(self.deadline.into(), self.shared.read()).await == Ok(true);
        self.close(read)
    }

    /// Reports the call. Why it failed, if it did.
    pub fn close(self, read: bool) -> Option<Problem> {
        let Closing {
            function,
            mut fuel,
            mut problem,
            shared,
            ..
        } = self;
        let cancelled = self.cancelled || !read;
        let request_bytes = shared.request_bytes.load(Ordering::Relaxed);
        let response_bytes = shared.response_bytes.load(Ordering::Relaxed);
        fuel += shared.fuel();
        let most = function.manifest.limits.fuel;
        if problem.is_none() && fuel > most {
            problem = Some(out_of_fuel(&function));
        }
        let status = Some(shared.status.load(Ordering::Relaxed)).filter(|status| *status > 0);
        if problem.is_none() {
            problem = match shared.refused.get() {
                Some(code) => Some(refused(&function.name, code)),
                None if status.is_none() && !cancelled => Some(no_response(&function.name)),
                None => shared.broken.get().cloned(),
            };
        }
        (self.report)(CallReport {
            fuel: fuel.min(most),
            status,
            cancelled: cancelled && problem.is_none(),
            problem: problem.clone(),
            request_bytes,
            response_bytes,
            data_bytes: self.figures.data_bytes,
            moved_bytes: self.figures.moved_bytes,
            pages_grown: self.figures.pages_grown,
            outgoing_requests: self.figures.outgoing_requests,
            gpu: self.figures.gpu.map(|usage| *usage),
            cold: self.cold,
            stages: self.stages,
        });
        problem
    }
}

/// Figures that a guest's store holds.
#[derive(Default)]
pub(crate) struct Figures {
    data_bytes: u64,
    moved_bytes: u64,
    pages_grown: u64,
    outgoing_requests: u32,
    /// Few calls have it.
    gpu: Option<Box<GpuUsage>>,
}

impl Figures {
    pub fn of(guest: &Guest) -> Self {
        Figures {
            data_bytes: guest.data.bytes,
            moved_bytes: guest.data.moved_bytes,
            pages_grown: guest.limiter.pages_grown,
            outgoing_requests: guest.outgoing.sent(),
            gpu: guest.gpu.usage().map(Box::new),
        }
    }
}
