//! A host for native tests: datasets, environment and other servers, as a test sets them up.
//!
//! ```
//! use nearfield::{Dataset, IntoResponse, Request, Result, mock};
//!
//! #[nearfield::http]
//! fn size(_: Request) -> Result<impl IntoResponse> {
//!     let level = nearfield::env("LEVEL").unwrap_or_default();
//!     let file = Dataset::open("logs")?.file("app.log")?;
//!     Ok(format!("{level} {}", file.map_or(0, |file| file.len())))
//! }
//!
//! let host = mock::Host::new()
//!     .dataset("logs", mock::Dataset::new("lines").shard_bytes(4).file("app.log", "a\nb\nc\nd\n"))
//!     .env("LEVEL", "info");
//! let answer = host.run(|| mock::call(size, mock::get("/")));
//! assert_eq!((answer.status().as_u16(), answer.body().as_str()), (200, "info 8"));
//! ```
//!
//! [`Host::job`] runs a whole job over a dataset. `nearfield replay JOB --shard N --native` runs a crate's
//! [`map`](macro@crate::map) on a shard of a real job, under a debugger if you like.

mod dataset;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub(crate) mod host;
mod job;
mod keys;
mod replay;

use std::collections::HashMap;
use std::rc::Rc;

use crate::body::BodyWriter;
use crate::handler::Handler;
use crate::{Body, Error, Request, Response, Result};

pub use dataset::Dataset;
pub use job::{Done, Failed};
#[doc(hidden)]
pub use replay::replay;

/// What a function under test may see. Without a host nothing is granted.
#[derive(Default)]
pub struct Host {
    pub(crate) datasets: HashMap<String, Rc<Dataset>>,
    pub(crate) env: HashMap<String, String>,
    #[cfg(feature = "gpu")]
    pub(crate) gpu: bool,
    pub(crate) outgoing: Option<Box<dyn Fn(Request) -> Result<Response>>>,
}

impl Host {
    pub fn new() -> Self {
        Self::default()
    }

    /// Grants a dataset under a name, as the manifest's `inputs` does.
    pub fn dataset(mut self, input: &str, dataset: Dataset) -> Self {
        self.datasets.insert(input.to_owned(), Rc::new(dataset));
        self
    }

    /// Sets a value of the manifest's `env`.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Grants a GPU, as `require = { gpu = "any" }` does: the software adapter where there is one, so that tests come to the
    /// same on every machine.
    #[cfg(feature = "gpu")]
    pub fn gpu(mut self) -> Self {
        self.gpu = true;
        self
    }

    /// Answers what the function fetches.
    pub fn outgoing(mut self, answer: impl Fn(Request) -> Result<Response> + 'static) -> Self {
        self.outgoing = Some(Box::new(answer));
        self
    }

    /// Runs `test` with this host, on this thread.
    pub fn run<T>(self, test: impl FnOnce() -> T) -> T {
        host::with(self, test)
    }
}

/// Calls a handler as a host would, and gathers the body.
///
/// # Panics
///
/// Where a client would see a broken transfer: the body failed after the headers, or is not UTF-8 (then
/// [`call_bytes`] is the one to use).
pub fn call<Arguments>(
    handler: impl Handler<Arguments>,
    request: http::Request<impl Into<Body>>,
) -> http::Response<String> {
    call_bytes(handler, request).map(|body| String::from_utf8(body).expect("the body is text"))
}

/// [`call`] for bodies of any bytes.
///
/// # Panics
///
/// Where a client would see a broken transfer.
pub fn call_bytes<Arguments>(
    handler: impl Handler<Arguments>,
    request: http::Request<impl Into<Body>>,
) -> http::Response<Vec<u8>> {
    handler.answer(|| request.map(Into::into)).map(|body| {
        let mut out = BodyWriter::new(host::Sink::memory());
        body.write_to(&mut out).expect("the body is sent whole");
        out.into_bytes()
    })
}

/// A GET of a path and query.
///
/// # Panics
///
/// When `path` is none.
pub fn get(path: &str) -> Request {
    http::Request::get(path)
        .body(Body::empty())
        .expect("a path and query")
}

/// A request as it reaches a function whose manifest says `route`: its parameters told, the path below the route left.
///
/// ```
/// use nearfield::{RequestExt, mock};
///
/// let request = mock::routed("/users/{id}", mock::get("/users/7/posts"));
/// assert_eq!(request.param("id"), Some("7"));
/// assert_eq!(request.path().unwrap(), "posts");
/// ```
///
/// # Panics
///
/// When the route does not answer for the request's path.
pub fn routed(route: &str, mut request: Request) -> Request {
    let not_its = "the route answers for the path";
    let path = request.uri().path().to_owned();
    let mut left = path.as_str();
    for segment in route.split('/').skip(1) {
        let inner = segment
            .strip_prefix('{')
            .and_then(|inner| inner.strip_suffix('}'));
        let below = left.strip_prefix('/').expect(not_its);
        let value = match inner {
            // All that is left is told, and left to the function as well.
            Some(inner) if inner.starts_with('*') => below,
            _ => below.split('/').next().unwrap_or_default(),
        };
        let Some(inner) = inner else {
            assert_eq!(value, segment, "{not_its}");
            left = &below[value.len()..];
            continue;
        };
        assert!(!value.is_empty(), "{not_its}");
        let name = match inner.strip_prefix('*') {
            Some(name) => name,
            None => {
                left = &below[value.len()..];
                inner
            }
        };
        let value = crate::request::percent_decode(value).expect("a parameter is UTF-8");
        let name = http::HeaderName::try_from([crate::request::PARAMETER, name].concat());
        let value = http::HeaderValue::try_from(value);
        let told = (
            name.expect("a parameter's name"),
            value.expect("a value without control characters"),
        );
        request.headers_mut().insert(told.0, told.1);
    }
    let query = request
        .uri()
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    let below = if left.is_empty() { "/" } else { left };
    *request.uri_mut() = format!("{below}{query}").parse().expect("a path and query");
    request
}

/// The error a real host gives for a server that is not granted.
fn not_granted(uri: &http::Uri) -> Error {
    let detail = format!("{uri}: not granted; list its host:port under allow.http");
    Error::new(http::StatusCode::BAD_GATEWAY, detail)
}
