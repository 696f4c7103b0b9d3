//! The body of every request and response that crosses a node.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use nearfield_protocol::Problem;

/// A body as bytes come. An error resets the stream, so it is never taken for an end.
pub type Body = UnsyncBoxBody<Bytes, Problem>;

/// A body without a byte.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body that is there already.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
