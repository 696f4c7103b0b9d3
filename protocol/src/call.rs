//! One call, as gateway and host speak of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::gpu::GpuUsage;
use crate::records::FunctionVersion;
use crate::{CallId, Digest, Problem};

/// What a host needs to know to run a call, beside the HTTP request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CallSpec {
    pub id: CallId,
    pub function: Arc<FunctionVersion>,
    /// The manifest's inputs, each resolved to one version.
    pub inputs: Arc<BTreeMap<String, Digest>>,
}

/// What became of a call. Complete once its response has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CallReport {
    /// Guest operators and host calls by the cost table.
    pub fuel: u64,
    /// The status of the guest's response, if it gave one.
    pub status: Option<u16>,
    /// Why it failed, if it did.
    pub problem: Option<Problem>,
    /// The client went away before the response ended.
    pub cancelled: bool,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// Bytes of shards read.
    pub data_bytes: u64,
    /// Bytes that came from another node for it.
    #[serde(default)]
    pub moved_bytes: u64,
    /// Pages of 64 KiB that linear memory grew by.
    pub pages_grown: u64,
    pub outgoing_requests: u32,
    /// What it took of a GPU, if it used one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuUsage>,
    /// The component was compiled or read from disk for this call.
    pub cold: bool,
    pub stages: Stages,
}

impl CallReport {
    /// A call that ended before any guest ran.
    pub fn without_guest(problem: Option<Problem>, stages: Stages) -> Self {
        CallReport {
            fuel: 0,
            status: None,
            cancelled: problem.is_none(),
            problem,
            request_bytes: 0,
            response_bytes: 0,
            data_bytes: 0,
            moved_bytes: 0,
            pages_grown: 0,
            outgoing_requests: 0,
            gpu: None,
            cold: false,
            stages,
        }
    }
}

/// Whether an answer with this status has no content, whatever was asked (RFC 9110 §6.4.1, §15.3.6).
pub const fn never_has_content(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 205 | 304)
}

/// Told once what became of a call. Dropped untold if its host went away first.
pub type OnReport = Box<dyn FnOnce(CallReport) + Send>;

/// Where a call's time went on its host, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stages {
    /// Waiting for a place.
    pub queue_us: u64,
    /// Getting the compiled component.
    pub load_us: u64,
    /// From instantiation to the guest's end.
    pub run_us: u64,
}
