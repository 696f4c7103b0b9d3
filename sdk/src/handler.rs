//! What `#[nearfield::http]` accepts.

use crate::{IntoResponse, Request, Response};

/// A function that answers a request: `fn(Request) -> R`, or `fn() -> R` when the request does not matter.
/// `Arguments` only keeps the two apart. The second never asks for its request, so that reading one is not even
/// part of its component.
pub trait Handler<Arguments> {
    fn answer(self, request: impl FnOnce() -> Request) -> Response;
}

impl<F: FnOnce(Request) -> R, R: IntoResponse> Handler<Request> for F {
    fn answer(self, request: impl FnOnce() -> Request) -> Response {
        self(request()).into_response()
    }
}

impl<F: FnOnce() -> R, R: IntoResponse> Handler<()> for F {
    fn answer(self, _: impl FnOnce() -> Request) -> Response {
        self().into_response()
    }
}

/// Compiles only for handlers, so that a wrong signature fails in `cargo test` already.
pub const fn check<Arguments>(_: &impl Handler<Arguments>) {}
