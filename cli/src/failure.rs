//! What went wrong, as a message for people and an exit code for scripts.

use std::io;
use std::process::ExitCode;

use nearfield_protocol::problem::Blame;
use nearfield_protocol::{Problem, ProblemKind};
use nearfield_remote::{Cause, RemoteError};
use serde_json::{Value, json};

use crate::output::ReaderLeft;
use crate::project::BadManifest;
use crate::visible::{visible, visible_json};

/// Exit codes; part of the contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Failed = 1,
    Usage = 2,
    FunctionFailed = 3,
    NotFound = 4,
    Unreachable = 5,
    NotAllowed = 6,
    OverLimit = 7,
    TimedOut = 124,
    Interrupted = 130,
}

impl Exit {
    /// A refusal that names a limit is one over a limit, whatever its kind's usual cause.
    pub fn of_problem(problem: &Problem) -> Exit {
        match (problem.kind.blame(), problem.kind) {
            (Blame::Guest, _) => Exit::FunctionFailed,
            (_, ProblemKind::StoreFull) => Exit::OverLimit,
            (_, ProblemKind::SourceUnreachable | ProblemKind::HostUnreachable) => Exit::Unreachable,
            (
                _,
                ProblemKind::BadRequest
                | ProblemKind::BadInput
                | ProblemKind::BadManifest
                | ProblemKind::RefusedComponent,
            ) if problem.limit.is_some() => Exit::OverLimit,
            (_, kind) => Exit::of_status(kind.status()),
        }
    }

    /// For an answer that is no problem of ours, such as a proxy's.
    pub fn of_status(status: u16) -> Exit {
        match status {
            401 | 403 => Exit::NotAllowed,
            404 => Exit::NotFound,
            408 => Exit::TimedOut,
            413 | 429 | 431 => Exit::OverLimit,
            _ => Exit::Failed,
        }
    }

    fn of_remote(cause: Cause) -> Exit {
        match cause {
            Cause::Failed | Cause::Changed => Exit::Failed,
            Cause::Usage => Exit::Usage,
            Cause::NotFound => Exit::NotFound,
            Cause::Unreachable => Exit::Unreachable,
            Cause::NotAllowed => Exit::NotAllowed,
            Cause::OverLimit => Exit::OverLimit,
            Cause::TimedOut => Exit::TimedOut,
        }
    }

    pub fn of(error: &anyhow::Error) -> Exit {
        error.chain().find_map(known).unwrap_or(Exit::Failed)
    }
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    let failure = find::<Failure>(cause).map(|failure| failure.exit);
    failure
        .or_else(|| find::<RemoteError>(cause).map(|error| Exit::of_remote(error.cause)))
        .or_else(|| cause.downcast_ref::<Problem>().map(Exit::of_problem))
}

/// Also one that came through `Read`: an `io::Error` is not the cause of itself, but holds it.
fn find<'a, E: std::error::Error + 'static>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    cause
        .downcast_ref()
        .or_else(|| cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref())
}

/// An error whose exit code and next step are known where it arises.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    next: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Failure {
            exit,
            what: what.into(),
            next: None,
        }
    }

    /// The command or change that helps.
    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Failure {}

/// Says it on stderr, as text or as one JSON value, and returns the exit code.
pub fn report(error: &anyhow::Error, json: bool) -> ExitCode {
    if reader_left(error) {
        return ExitCode::SUCCESS;
    }
    match json {
        true => eprintln!("{}", visible_json(&value(error).to_string())),
        false => eprintln!("{}", visible(&message(error))),
    }
    ExitCode::from(Exit::of(error) as u8)
}

/// `{"error": {"message", "exit"}}`, with `next`, `type` and `limit` where they are known.
fn value(error: &anyhow::Error) -> Value {
    let mut said = json!({ "message": format!("{error:#}"), "exit": Exit::of(error) as u8 });
    if let Some(step) = error.chain().find_map(next_step) {
        said["next"] = step.into();
    }
    if let Some(problem) = error.chain().find_map(|cause| cause.downcast_ref::<Problem>()) {
        said["type"] = format!("urn:nearfield:problem:{}", problem.kind.slug()).into();
        if let Some(limit) = &problem.limit {
            said["limit"] = limit.as_str().into();
        }
    }
    json!({ "error": said })
}

/// `error: ` with the thing and its causes, then the next step on a line of its own.
pub fn message(error: &anyhow::Error) -> String {
    if let Some(bad) = error.downcast_ref::<BadManifest>() {
        return bad.render();
    }
    let text = format!("error: {error:#}");
    match error.chain().find_map(next_step) {
        Some(step) => format!("{text}\n next: {step}"),
        None => text,
    }
}

fn next_step(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(failure) = find::<Failure>(cause) {
        return failure.next.clone();
    }
    if let Some(remote) = find::<RemoteError>(cause) {
        return remote.next.clone();
    }
    // Other problems say in their detail what helps; the node cannot know where this side takes its token from.
    let refused = cause.downcast_ref::<Problem>()?.kind == ProblemKind::Unauthorized;
    refused.then(|| "pass --token, set NEARFIELD_TOKEN, or name the node's folder with --data-dir".to_owned())
}

/// Whether all that went wrong is that nobody reads on.
pub fn reader_left(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| find::<ReaderLeft>(cause).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_the_exit_code_that_the_manual_says() {
        for &kind in ProblemKind::ALL {
            let expected = match (kind.slug(), kind.status()) {
                ("out-of-fuel" | "timeout" | "trap" | "no-response" | "bad-response", _) => 3,
                ("host-call-too-large" | "out-of-memory" | "too-many-handles" | "function-failed", _) => 3,
                ("source-unreachable" | "host-unreachable", _) => 5,
                ("store-full", _) | (_, 413 | 429 | 431) => 7,
                (_, 401 | 403) => 6,
                (_, 404) => 4,
                (_, 408) => 124,
                _ => 1,
            };
            assert_eq!(
                Exit::of_problem(&Problem::new(kind, "")) as u8,
                expected,
                "{}",
                kind.slug()
            );
        }
        let too_long =
            Problem::new(ProblemKind::BadInput, "a record is too long").with_limit("record = 64 MiB");
        assert_eq!(Exit::of_problem(&too_long), Exit::OverLimit);
    }

    #[test]
    fn only_a_reader_that_left_ends_quietly() {
        let broken = |error: io::Error| anyhow::Error::new(error).context("writing");
        let left = io::Error::new(io::ErrorKind::BrokenPipe, ReaderLeft);
        assert!(reader_left(&broken(left)));
        // Such as a node's that went away in the middle of a put.
        assert!(!reader_left(&broken(io::ErrorKind::BrokenPipe.into())));
    }

    #[test]
    fn context_keeps_the_code_and_the_next_step() {
        let failure = Failure::new(Exit::Unreachable, "no node answers").next("start one");
        let error = anyhow::Error::new(failure).context("putting `logs`");
        assert_eq!(Exit::of(&error), Exit::Unreachable);
        assert_eq!(
            message(&error),
            "error: putting `logs`: no node answers\n next: start one"
        );
        let said = value(&error);
        assert_eq!(said["error"]["exit"], 5);
        assert_eq!(said["error"]["next"], "start one");
        let problem = Problem::new(ProblemKind::OutOfFuel, "it stopped").with_limit("fuel = 5");
        let said = value(&anyhow::Error::new(problem).context("calling `f`"));
        assert_eq!(said["error"]["type"], "urn:nearfield:problem:out-of-fuel");
        assert_eq!(said["error"]["limit"], "fuel = 5");

        let failure = Failure::new(Exit::NotAllowed, "no right").next("ask");
        let error = anyhow::Error::new(io::Error::other(failure)).context("reading");
        assert_eq!(Exit::of(&error), Exit::NotAllowed);
        assert_eq!(message(&error), "error: reading: no right\n next: ask");
    }
}
