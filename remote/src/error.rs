//! What went wrong at a place elsewhere.

/// Why something could not be read, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct RemoteError {
    pub cause: Cause,
    what: String,
    /// The change that helps.
    pub next: Option<String>,
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Failed,
    /// It is not what it was.
    Changed,
    Usage,
    NotFound,
    Unreachable,
    NotAllowed,
    OverLimit,
    TimedOut,
}

impl Cause {
    pub fn of_status(status: u16) -> Cause {
        match status {
            401 | 403 => Cause::NotAllowed,
            404 | 410 => Cause::NotFound,
            408 => Cause::TimedOut,
            413 | 429 | 431 => Cause::OverLimit,
            _ => Cause::Failed,
        }
    }
}

impl RemoteError {
    pub fn new(cause: Cause, what: impl Into<String>) -> Self {
        RemoteError {
            cause,
            what: what.into(),
            next: None,
        }
    }

    pub fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }
}
