//! What is read from elsewhere over HTTP: objects of S3, and files behind `https://`.
//!
//! `url` says what a URL means, `transport` asks until there is an answer, `s3` signs and lists. `site` reads
//! pieces, `object` says whether they fit together, `ahead` makes one stream of them; `prefix` knows what below a prefix
//! is a folder. `stream` is for servers without ranges, `trouble` turns failures into messages. `in_place` is how the
//! store reads objects that stay where they are.

mod ahead;
mod in_place;
mod object;
mod prefix;
mod s3;
mod site;
mod stream;
mod transport;
mod trouble;
mod url;

#[cfg(any(test, fuzzing))]
pub(crate) use self::{object::content_range, prefix::folder, s3::page, transport::code, url::no_path};

pub use self::ahead::Ahead;
pub use self::in_place::RemoteObjects;
pub use self::object::Object;
pub use self::prefix::Found;
pub use self::site::{Encoded, First, Pins, Site, Trust, encoding};
pub use self::stream::Stream;
pub use self::url::{Remote, has_scheme};

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
    fn of_status(status: u16) -> Cause {
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
    fn new(cause: Cause, what: impl Into<String>) -> Self {
        RemoteError {
            cause,
            what: what.into(),
            next: None,
        }
    }

    fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }
}
