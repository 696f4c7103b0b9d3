//! What is asked of a host, whichever node it is on, and what it answers.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use nearfield_protocol::call::{CallSpec, OnReport};
use nearfield_protocol::job::{PureFailure, PureReport, PureSpec, ResultKey};
use nearfield_protocol::said::{SAID_BYTES, cut_string};
use nearfield_protocol::{CallId, Digest, FunctionName, Problem, limits};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::body::Body;

/// Imports or exports that are told of a component: several times what WASI has.
const MAX_NAMES: usize = 1_024;

/// A boxed future: dispatch is chosen at run time.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a job asks of a host: runs, and what the host remembers of them. Dropping a future stops its guest.
pub trait Runs: Send + Sync + 'static {
    /// One run of a job: remembered, or made.
    fn run_pure(&self, spec: PureSpec) -> Boxed<'_, Result<PureReport, PureFailure>>;

    /// Makes the same run once more. The host neither uses nor changes what it remembers of it.
    fn replay(&self, spec: PureSpec) -> Boxed<'_, Result<Replayed, Problem>>;

    /// What the host remembers under each of `keys`, used for the datasets `origins`.
    fn recall<'a>(
        &'a self,
        keys: &'a [ResultKey],
        origins: &'a [String],
    ) -> Boxed<'a, Result<Vec<Option<PureReport>>, Problem>>;

    /// The output of a result that the host remembers.
    fn output(&self, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>>;

    /// The files that such a run wrote, encoded as [`nearfield_store::written`] says.
    fn written(&self, key: ResultKey) -> Boxed<'_, Result<Option<Bytes>, Problem>>;

    /// A result that the host remembers, to be given to another.
    fn take(&self, key: ResultKey) -> Boxed<'_, Result<Option<Given>, Problem>>;

    /// Has the host remember a result that another made, used for the datasets `origins`.
    fn give<'a>(&'a self, given: Given, origins: &'a [String]) -> Boxed<'a, Result<(), Problem>>;
}

/// One host: the one in this same process, or another node's.
pub trait Host: Runs {
    /// Runs one call. Ends with the response's head; the body streams. `report` is told what became of the call even if
    /// this future or the body is dropped.
    fn call(
        &self,
        spec: CallSpec,
        request: Request<Body>,
        report: OnReport,
    ) -> Boxed<'_, Result<Response<Body>, Problem>>;

    /// Compiles and links a component as the host would run it.
    fn check(&self, component: Digest) -> Boxed<'_, Result<Surface, Problem>>;

    /// The last log lines that `query` asks for, then, if it follows, those that come.
    /// The channel is bounded: a slow reader holds nobody up and misses lines.
    fn logs(&self, query: LogQuery) -> Boxed<'_, Result<mpsc::Receiver<Logged>, Problem>>;
}

/// A result on its way from one host to another.
#[derive(Debug, Clone)]
pub struct Given {
    pub report: PureReport,
    pub output: Bytes,
}

/// Which log lines.
#[derive(Debug, Clone)]
pub struct LogQuery {
    pub function: FunctionName,
    /// Only those of these runs of the pure lane, told as what they are here.
    pub runs: Option<Arc<HashMap<CallId, RunOf>>>,
    /// How many of the past.
    pub lines: usize,
    pub follow: bool,
}

/// What of a job a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOf {
    Shard(u32),
    Reduce,
    Finish,
}

impl fmt::Display for RunOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunOf::Shard(index) => write!(f, "shard {index}"),
            RunOf::Reduce => f.write_str("reduce"),
            RunOf::Finish => f.write_str("finish"),
        }
    }
}

/// What a run that was made once more came to.
#[derive(Debug)]
pub struct Replayed {
    pub outcome: Result<(PureReport, Bytes), PureFailure>,
    /// What is remembered of the same run.
    pub remembered: Option<PureReport>,
    /// What the guest printed, line by line.
    pub log: Vec<String>,
}

/// What a component imports and exports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Surface {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// Bytes of code in its core modules.
    #[serde(default)]
    pub code_bytes: u64,
    /// How long its host took to compile it, in milliseconds; none if the code was there.
    #[serde(default)]
    pub compiled_in_ms: Option<u64>,
}

/// One line that a function printed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Logged {
    pub unix_ms: u64,
    pub function: String,
    pub call: String,
    /// What of a job the call was, where a job's lines were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    pub line: String,
}

impl Surface {
    /// As much of its names as anybody reads: they are the component's author's.
    pub fn cut(self) -> Surface {
        let names = |names: Vec<String>| {
            let names = names.into_iter().take(MAX_NAMES);
            names.map(|name| cut_string(SAID_BYTES, name)).collect()
        };
        Surface {
            imports: names(self.imports),
            exports: names(self.exports),
            ..self
        }
    }
}

impl Logged {
    /// Each text at most as long as a host makes it.
    pub fn cut(self) -> Logged {
        let name = |text| cut_string(SAID_BYTES, text);
        Logged {
            unix_ms: self.unix_ms,
            function: name(self.function),
            call: name(self.call),
            run: self.run.map(name),
            // A line end within a line would make two of one.
            line: cut_string(limits::LOG_LINE_BYTES, self.line).replace('\n', " "),
        }
    }
}
