//! What a gateway asks of another node's host, on a stream each, and what is answered.
//!
//! A stream begins with an [`Op`]. A call goes on as HTTP/1.1 in both directions, and what became of it is asked on a
//! stream of its own, because a response that breaks off has no place for it. Everything else is one answer: a message,
//! then bytes where there are some.

use std::time::Duration;

use nearfield_protocol::call::{CallReport, CallSpec};
use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey};
use nearfield_protocol::{CallId, DatasetName, Digest, FunctionName, Problem, limits};
use serde::{Deserialize, Serialize};

use crate::host::{Logged, RunOf, Surface};

/// Longest message: a job's setting with its arguments, or the keys of 4,096 results.
pub const MESSAGE_BYTES: usize = 16 << 20;
/// Longest output that is sent.
pub const OUTPUT_BYTES: usize = 1 << 30;
/// Header fields of a call between nodes: as many as a client or a guest may set, and those that nodes add.
pub const HEADER_FIELDS: usize = {
    let fields = match limits::REQUEST_HEADER_FIELDS > limits::RESPONSE_HEADER_FIELDS {
        true => limits::REQUEST_HEADER_FIELDS,
        false => limits::RESPONSE_HEADER_FIELDS,
    };
    fields + 64
};
/// How long a peer may take to say what it wants.
pub const OPENING: Duration = Duration::from_secs(3);
/// A problem of the host's own, where the guest gave no response: its JSON, or that the body is its JSON. Guests cannot say
/// it: what they say under names of nodes is dropped by their host before anything else sees it.
pub const PROBLEM: http::HeaderName = http::HeaderName::from_static("nearfield-problem");

/// What is asked.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// HTTP follows.
    Call(CallSpec),
    /// HTTP follows: the request of a put, as the admin API takes it.
    Put {
        name: DatasetName,
        /// The newest version that the asker knows; 0 for none.
        newest: u64,
    },
    /// What became of a call, once it has ended.
    Report(CallId),
    Check(Digest),
    RunPure(PureSpec),
    Replay(PureSpec),
    Recall {
        keys: Vec<ResultKey>,
        origins: Vec<String>,
    },
    Output(ResultKey),
    Written(ResultKey),
    Take(ResultKey),
    /// The output follows.
    Give {
        report: PureReport,
        origins: Vec<String>,
    },
    Logs {
        function: FunctionName,
        runs: Option<Vec<(CallId, RunOf)>>,
        lines: usize,
        follow: bool,
    },
}

/// What is answered.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Report(Option<CallReport>),
    Surface(Surface),
    Ran(Result<PureReport, PureFailure>),
    /// The output follows, if there is one.
    Replayed {
        outcome: Box<Result<PureReport, PureFailure>>,
        remembered: Option<Box<PureReport>>,
        log: Vec<String>,
    },
    Recalled(Vec<Option<PureReport>>),
    /// The bytes follow, if they are there.
    Bytes(bool),
    /// The output follows, if it is remembered.
    Taken(Option<PureReport>),
    Done,
    Line(Logged),
    Failed(Problem),
}
