//! Failures as the outside sees them: one kind a cause, stable, with its HTTP status (RFC 9457).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::said::{SAID_BYTES, cut_string};

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// Who asked: the same request fails again.
    Caller,
    /// The function's code: it fails again wherever it runs.
    Guest,
    /// The host that it ran on, or was to run on.
    Host,
    /// The same, and that host is not there any more: nothing is sent to it before it is heard of again.
    LostHost,
    /// Nearfield itself, or the network as a whole.
    Node,
}

/// Whether what failed on one host may be tried on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elsewhere {
    /// It would fail there, too.
    Never,
    /// Only what may run twice, as runs of jobs may.
    Repeatable,
    /// Nothing ran, so anything may.
    Always,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $slug:literal, $status:literal, $blame:ident, $elsewhere:ident, $title:literal;)*) => {
        /// A cause of failure. The slug is part of the contract; new kinds may be added, none renamed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProblemKind { $($(#[$doc])* $variant,)* }

        impl ProblemKind {
            pub const ALL: &'static [ProblemKind] = &[$(ProblemKind::$variant),*];

            /// The last part of the problem's `type`.
            pub const fn slug(self) -> &'static str {
                match self { $(ProblemKind::$variant => $slug),* }
            }

            /// The HTTP status it is answered with.
            pub const fn status(self) -> u16 {
                match self { $(ProblemKind::$variant => $status),* }
            }

            pub const fn title(self) -> &'static str {
                match self { $(ProblemKind::$variant => $title),* }
            }

            /// Whose fault it is.
            pub const fn blame(self) -> Blame {
                match self { $(ProblemKind::$variant => Blame::$blame),* }
            }

            /// Whether another host may be tried.
            pub const fn elsewhere(self) -> Elsewhere {
                match self { $(ProblemKind::$variant => Elsewhere::$elsewhere),* }
            }
        }
    };
}

kinds! {
    /// The request itself is wrong.
    BadRequest = "bad-request", 400, Caller, Never, "The request cannot be understood";
    /// No or no valid token.
    Unauthorized = "unauthorized", 401, Caller, Never, "A token is needed";
    /// A valid token that does not grant this.
    Forbidden = "forbidden", 403, Caller, Never, "The token does not allow this";
    NotPermitted = "not-permitted", 403, Caller, Never, "This node may not do that";
    UnknownFunction = "unknown-function", 404, Caller, Never, "No such function";
    UnknownDataset = "unknown-dataset", 404, Caller, Repeatable, "No such dataset";
    UnknownBlob = "unknown-blob", 404, Caller, Repeatable, "No such blob";
    UnknownPath = "unknown-path", 404, Caller, Never, "No such path in the dataset";
    UnknownRoute = "unknown-route", 404, Caller, Never, "Nothing is served at this path";
    UnknownJob = "unknown-job", 404, Caller, Never, "No such job";
    UnknownCall = "unknown-call", 404, Caller, Never, "No such call, or one too long ago";
    UnknownNode = "unknown-node", 404, Caller, Never, "There is no such node";
    UnknownToken = "unknown-token", 404, Caller, Never, "No such token";
    MethodNotAllowed = "method-not-allowed", 405, Caller, Never, "The path does not take this method";
    /// The client sent its headers or body too slowly.
    RequestTimeout = "request-timeout", 408, Caller, Never, "The request did not arrive in time";
    /// `--if-version` or a name that is taken.
    Conflict = "conflict", 409, Caller, Never, "It has changed since";
    /// `If-Match` or another precondition of the request.
    PreconditionFailed = "precondition-failed", 412, Caller, Never, "A precondition of the request does not hold";
    BodyTooLarge = "body-too-large", 413, Caller, Never, "The request body is too large";
    RangeNotSatisfiable = "range-not-satisfiable", 416, Caller, Never, "The range lies outside the content";
    /// The component is no component, imports what no host has, or cannot be compiled in bounds.
    RefusedComponent = "refused-component", 422, Caller, Never, "The component is refused";
    BadManifest = "bad-manifest", 422, Caller, Never, "The manifest is refused";
    /// The input cannot be cut: a record too long, an unclosed quote, an archive that is none.
    BadInput = "bad-input", 422, Caller, Never, "The input cannot be cut into shards";
    TooManyRequests = "too-many-requests", 429, Caller, Never, "A rate or a token's budget is used up";
    HeadersTooLarge = "headers-too-large", 431, Caller, Never, "The request headers are too large";
    /// A remembered result that a job counted on is gone: the job makes it again.
    ForgottenResult = "forgotten-result", 503, Node, Never, "A partial result was forgotten";
    /// One of them is wrong, and nobody can tell which.
    ResultsDiffer = "results-differ", 502, Node, Never, "Two hosts came to different results";
    /// Ours to mend.
    Internal = "internal", 500, Node, Repeatable, "Nearfield failed";
    /// A blob on disk no longer matches its digest.
    Corrupt = "corrupt", 500, Host, Repeatable, "Stored bytes no longer match their digest";
    /// A file that was put in place holds something else now.
    SourceChanged = "source-changed", 409, Node, Never, "A file is no longer what was put";
    /// The server of what was put in place does not answer, or not soon enough.
    SourceUnreachable = "source-unreachable", 503, Host, Repeatable, "Data that lies elsewhere cannot be read now";
    /// The guest trapped.
    Trap = "trap", 502, Guest, Never, "The function trapped";
    /// The guest itself said that it failed.
    FunctionFailed = "function-failed", 502, Guest, Never, "The function returned an error";
    /// The guest passed more bytes to one host call than may be copied.
    HostCallTooLarge = "host-call-too-large", 502, Guest, Never, "The function passed too much to a host call";
    /// The guest ended without a response.
    NoResponse = "no-response", 502, Guest, Never, "The function gave no response";
    /// The guest's response breaks a limit or HTTP.
    BadResponse = "bad-response", 502, Guest, Never, "The function gave a response that cannot be sent";
    /// No host has one, of the kind that the manifest requires.
    NoGpu = "no-gpu", 503, Host, Repeatable, "No host has the GPU that the function requires";
    Overload = "overload", 503, Host, Repeatable, "No host has room for this call now";
    /// Nothing ran there: any request may go elsewhere.
    HostUnreachable = "host-unreachable", 503, LostHost, Always, "The host cannot be reached";
    /// It may have run: only what may run twice is sent elsewhere.
    HostLost = "host-lost", 502, LostHost, Repeatable, "The host was lost while it worked on this";
    Draining = "draining", 503, LostHost, Repeatable, "This node is shutting down";
    OutOfFuel = "out-of-fuel", 504, Guest, Never, "The function used up its fuel";
    Timeout = "timeout", 504, Guest, Never, "The function ran out of time";
    OutOfMemory = "out-of-memory", 507, Guest, Never, "The function needed more memory than its limit";
    TooManyHandles = "too-many-handles", 507, Guest, Never, "The function held more handles than its limit";
    StoreFull = "store-full", 507, Host, Repeatable, "The store is full";
}

/// What every problem's `type` begins with.
const TYPE_PREFIX: &str = "urn:nearfield:problem:";

impl ProblemKind {
    fn of_slug(slug: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.slug() == slug)
    }
}

/// One failure: its kind, which thing, what to do next. Its texts may be a guest's or a peer's, so however one is made,
/// they are cut to [`SAID_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Wire", try_from = "Wire")]
pub struct Problem {
    pub kind: ProblemKind,
    /// What failed, on which thing, and what to do.
    pub detail: String,
    /// The limit that was hit, as `name = value`.
    pub limit: Option<String>,
}

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Problem {
            kind,
            detail: cut_string(SAID_BYTES, detail.into()),
            limit: None,
        }
    }

    pub fn with_limit(mut self, limit: impl Into<String>) -> Self {
        self.limit = Some(cut_string(SAID_BYTES, limit.into()));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match &self.limit {
            Some(limit) => write!(f, " ({limit})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// The `application/problem+json` body.
#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    r#type: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
}

impl From<Problem> for Wire {
    fn from(problem: Problem) -> Self {
        Wire {
            r#type: format!("{TYPE_PREFIX}{}", problem.kind.slug()),
            title: problem.kind.title().to_owned(),
            status: problem.kind.status(),
            detail: problem.detail,
            limit: problem.limit,
        }
    }
}

impl TryFrom<Wire> for Problem {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let slug = wire
            .r#type
            .strip_prefix(TYPE_PREFIX)
            .ok_or_else(|| format!("`{}` is no problem type", wire.r#type))?;
        // What a newer build says is passed on as what it is to this one, so that no message, and no job's record, is lost for it.
        let problem = match ProblemKind::of_slug(slug) {
            Some(kind) => Problem::new(kind, wire.detail),
            None => Problem::new(
                ProblemKind::Internal,
                format!("{} (`{slug}`, which this build does not know)", wire.detail),
            ),
        };
        Ok(match wire.limit {
            Some(limit) => problem.with_limit(limit),
            None => problem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_kind_has_its_own_slug_and_an_error_status() {
        let slugs: HashSet<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        assert!(
            ProblemKind::ALL
                .iter()
                .all(|kind| (400..600).contains(&kind.status()))
        );
    }

    #[test]
    fn what_a_guest_or_a_caller_did_wrong_comes_again_on_any_host() {
        let of = |kind: &&ProblemKind| matches!(kind.blame(), Blame::Guest | Blame::Caller);
        let elsewhere = |kind: &&ProblemKind| kind.elsewhere() != Elsewhere::Never;
        // A host may lack what another has.
        let lacking = [ProblemKind::UnknownDataset, ProblemKind::UnknownBlob];
        let kinds = ProblemKind::ALL.iter().filter(of).filter(elsewhere);
        assert!(kinds.eq(&lacking));
        // A host's fault says something of no other host.
        let hosts = |kind: &&ProblemKind| matches!(kind.blame(), Blame::Host | Blame::LostHost);
        assert!(ProblemKind::ALL.iter().filter(hosts).all(|kind| elsewhere(&kind)));
    }

    #[test]
    fn json_comes_back() {
        let problem = Problem::new(ProblemKind::OutOfFuel, "function `f` stopped").with_limit("fuel = 5");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["type"], "urn:nearfield:problem:out-of-fuel");
        assert_eq!(json["status"], 504);
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }

    #[test]
    fn a_kind_of_a_newer_build_is_read_as_a_failure() {
        let of = |kind: &str| {
            let json = serde_json::json!({ "type": kind, "detail": "the flux has no capacity", "limit": "flux = 5" });
            serde_json::from_value::<Problem>(json)
        };
        let problem = of("urn:nearfield:problem:flux").unwrap();
        assert_eq!(problem.kind, ProblemKind::Internal);
        assert!(
            problem.detail.contains("capacity") && problem.detail.contains("flux"),
            "{problem}"
        );
        assert_eq!(problem.limit.as_deref(), Some("flux = 5"));
        assert!(of("about:blank").is_err());
    }
}
