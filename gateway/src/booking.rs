//! What is written down of a call once it has ended: metrics, the token's budget, the recent calls.
//!
//! The host tells it, whether or not a client still waits for the response; so a client that hangs up
//! saves neither fuel nor its place among the function's calls.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nearfield_protocol::call::{CallReport, OnReport, Stages};
use nearfield_protocol::gpu::GpuUsage;
use nearfield_protocol::{CallId, NodeId, Problem, ProblemKind};
use tokio::sync::oneshot;

use crate::admit::Places;
use crate::body::BodyFault;
use crate::budget::Allowance;
use crate::calls::{CallPlacement, CallRecord};
use crate::route::Served;
use crate::state::Gateway;

/// A call that is not booked yet.
pub struct Booking {
    pub gateway: Arc<Gateway>,
    pub served: Arc<Served>,
    pub id: CallId,
    /// The host that had it in the end.
    pub chosen: Arc<OnceLock<NodeId>>,
    pub placement: Arc<CallPlacement>,
    /// What the call may burn of its token's day.
    pub allowance: Option<Allowance>,
    /// What to say if it burns all of it and its function's limit is more.
    pub scarce: Option<Problem>,
    pub started: Instant,
    pub started_unix_ms: u64,
    /// What the client did wrong with its body: it explains more than what the function made of it.
    pub fault: BodyFault,
    /// Why the gateway answered something else than the guest did.
    pub refused: Arc<OnceLock<Problem>>,
    /// The call's places among its function's and its hosts', held until it has ended.
    pub places: Places,
}

impl Booking {
    /// What to give the host with the call, and where its report can be had for the response.
    pub fn begin(self) -> (OnReport, oneshot::Receiver<Cost>) {
        let (reported, receiver) = oneshot::channel();
        let mut open = OpenBooking(Some((self, reported)));
        (Box::new(move |report| open.close(report)), receiver)
    }

    fn write(self, report: CallReport) -> Places {
        let gateway = &self.gateway;
        gateway
            .metrics
            .call(&self.served.metrics, &report, self.started.elapsed());
        if let Some(allowance) = self.allowance {
            allowance.book(report.fuel);
        }
        let status = report.problem.as_ref().map(|problem| problem.kind.status());
        gateway.calls.insert(CallRecord {
            id: self.id,
            status: status.or(report.status).unwrap_or_default(),
            function: self.served.function.clone(),
            host: self
                .chosen
                .get()
                .copied()
                .or_else(|| self.placement.hosts().next()),
            started_unix_ms: self.started_unix_ms,
            placement: self.placement,
            report,
        });
        self.places
    }
}

/// A call's problem as its client is told: one whose fuel was cut to what its token had left ran out of that.
pub fn told(problem: Problem, scarce: Option<&Problem>) -> Problem {
    match scarce {
        Some(scarce) if problem.kind == ProblemKind::OutOfFuel => scarce.clone(),
        _ => problem,
    }
}

/// What a response says of its call.
pub struct Cost {
    pub fuel: u64,
    pub gpu: Option<GpuUsage>,
    pub stages: Stages,
    /// The call's places, for as long as its response waits for its client.
    pub places: Places,
}

/// Books its call when the host reports, and also when the host is gone without a report.
struct OpenBooking(Option<(Booking, oneshot::Sender<Cost>)>);

impl OpenBooking {
    fn close(&mut self, mut report: CallReport) {
        if let Some((booking, reported)) = self.0.take() {
            if report.problem.is_some()
                && let Some(fault) = booking.fault.problem()
            {
                report.problem = Some(fault);
            }
            report.problem = report
                .problem
                .map(|problem| told(problem, booking.scarce.as_ref()));
            if let Some(problem) = booking.refused.get() {
                report.problem = Some(problem.clone());
                report.cancelled = false;
            }
            let (fuel, gpu, stages) = (report.fuel, report.gpu, report.stages);
            // Written first: whoever has the response may ask for the call at once.
            let places = booking.write(report);
            // The response may be gone.
            let _ = reported.send(Cost {
                fuel,
                gpu,
                stages,
                places,
            });
        }
    }
}

impl Drop for OpenBooking {
    fn drop(&mut self) {
        self.close(CallReport::without_guest(None, Stages::default()));
    }
}
