//! What became of recent calls, for `/v1/calls` and `nearfield explain`.

use std::collections::VecDeque;
use std::sync::Arc;

use nearfield_cluster::place::{Candidate, Standing};
use nearfield_protocol::call::CallReport;
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{CallId, Digest, NodeId};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Calls remembered: about two megabytes, and twenty if each has a long problem.
pub const MAX_CALLS: usize = 4_096;

/// One finished call.
#[derive(Clone)]
pub struct CallRecord {
    pub id: CallId,
    pub function: Arc<FunctionVersion>,
    pub host: Option<NodeId>,
    pub started_unix_ms: u64,
    pub status: u16,
    pub placement: Arc<CallPlacement>,
    pub report: CallReport,
}

/// How a call's host was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPlacement {
    pub candidates: Vec<Candidate>,
    /// Inputs, and of them those that the host held whole.
    pub inputs: usize,
    pub local: usize,
    pub moved_bytes: u64,
    /// What the manifest's `locate` came to: a shard, or the dataset where it has no such path or key.
    pub located: Option<Digest>,
}

/// The last 4,096 calls, oldest first. Looked through whole when somebody asks, which is seldom;
/// written for every call.
#[derive(Default)]
pub struct Calls {
    /// The lock is held for one insertion or one pass.
    recent: Mutex<VecDeque<CallRecord>>,
}

impl Calls {
    pub fn insert(&self, record: CallRecord) {
        let mut recent = self.recent.lock();
        if recent.len() == MAX_CALLS {
            recent.pop_front();
        }
        recent.push_back(record);
    }

    /// The call with this id, or the one whose id ends so: logs print ends of ids.
    pub fn find(&self, id: &str) -> Result<CallRecord, NotFound> {
        let recent = self.recent.lock();
        let whole = id.parse().ok();
        let is_end = whole.is_none() && ends_an_id(id);
        let mut found = recent.iter().rev().filter(|record| match whole {
            Some(whole) => record.id == whole,
            None => is_end && record.id.to_string().ends_with(id),
        });
        match (found.next(), found.next()) {
            (None, _) => Err(NotFound::Unknown),
            (Some(record), None) => Ok(record.clone()),
            (Some(_), Some(_)) => Err(NotFound::Several),
        }
    }

    /// The newest first, of one function if it is named.
    pub fn list(&self, function: Option<&str>, limit: usize) -> Vec<CallRecord> {
        let recent = self.recent.lock();
        recent
            .iter()
            .rev()
            .filter(|record| function.is_none_or(|name| record.function.name.as_str() == name))
            .take(limit)
            .cloned()
            .collect()
    }
}

/// Why no call was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotFound {
    Unknown,
    /// More than one id ends so.
    Several,
}

/// Digits that a shortened id has at least: fewer would soon mean several calls.
const LEAST_DIGITS: usize = 6;

fn ends_an_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() >= LEAST_DIGITS && text.bytes().all(is_digit)
}

impl CallPlacement {
    /// The hosts that may run the call, the best first.
    pub fn hosts(&self) -> impl Iterator<Item = NodeId> + '_ {
        let can = self
            .candidates
            .iter()
            .filter(|candidate| matches!(candidate.standing, Standing::Costs { .. }));
        can.map(|candidate| candidate.host)
    }
}

impl CallRecord {
    /// With every other host's reason, as far as `others` tells.
    pub fn to_json(&self, others: &[Candidate]) -> Value {
        let candidates = self.placement.candidates.iter().chain(others);
        let candidates: Vec<_> = candidates.map(candidate_json).collect();
        let host = self.host.map(|host| host.to_string());
        json!({
            "id": self.id.to_string(),
            "function": self.function.name,
            "version": self.function.version,
            "component": self.function.component,
            "host": host,
            "started_unix_ms": self.started_unix_ms,
            "status": self.status,
            "placement": {
                "chosen": host,
                "candidates": candidates,
                "local": self.placement.local,
                "inputs": self.placement.inputs,
                "moved_bytes": self.placement.moved_bytes,
                "located": self.placement.located,
            },
            "report": self.report,
        })
    }
}

fn candidate_json(candidate: &Candidate) -> Value {
    let cost_ms = match candidate.standing {
        Standing::Costs { ms, .. } => Some(ms),
        _ => None,
    };
    json!({
        "host": candidate.host.to_string(),
        "cost_ms": cost_ms,
        "reason": candidate.standing.to_string(),
    })
}
