//! Server-sent events: a name and one JSON value each.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use nearfield_protocol::Problem;
use serde_json::Value;

use crate::body::Body;

pub const CONTENT: &str = "text/event-stream";
/// How often progress is told at most.
pub const PROGRESS_STEP: Duration = Duration::from_millis(100);

pub fn event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

pub fn response(events: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let frames = events.map(|event| Ok::<_, Problem>(Frame::data(event)));
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
