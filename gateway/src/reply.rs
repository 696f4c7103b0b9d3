//! Answers that the gateway itself gives.

use http::{HeaderValue, Method, Response, StatusCode, header};
use nearfield_protocol::{Problem, ProblemKind, limits};
use serde::Serialize;

use crate::body::{self, Body};

/// A problem as `application/problem+json`.
pub fn problem(problem: &Problem) -> Response<Body> {
    let status = StatusCode::from_u16(problem.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = serde_json::to_vec(problem).unwrap_or_default();
    let mut response = Response::new(body::full(json));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    // Caches may otherwise keep a 404 or 405 as long as they like (RFC 9111 §4.2.2).
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    match problem.kind {
        ProblemKind::Overload | ProblemKind::Draining | ProblemKind::TooManyRequests => {
            let wait = limits::QUEUE_WAIT.as_secs();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        ProblemKind::Unauthorized => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// 405, with the methods that are taken.
pub fn not_allowed(what: &str, method: &Method, allow: &str) -> Response<Body> {
    let mut response = problem(&Problem::new(
        ProblemKind::MethodNotAllowed,
        format!("{what} takes no {method}; it takes {allow}"),
    ));
    if let Ok(allow) = HeaderValue::from_str(allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(body::full(bytes));
            *response.status_mut() = status;
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => problem(&Problem::new(
            ProblemKind::Internal,
            format!("writing JSON: {error}"),
        )),
    }
}

pub fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
