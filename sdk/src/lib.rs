//! Write functions that run where their data is.
//!
//! A function is a WebAssembly component that answers HTTP, runs over a whole dataset as a [`job`](mod@job), or both. This
//! crate gives it the types of the [`http`](mod@http) crate over `wasi:http`, the datasets that its `nearfield.toml` grants,
//! and the shards that a job is run over. There is no runtime in between: a function blocks, and the host runs as
//! many of them as it has calls and shards.
//!
//! A handler without an argument costs least: the request is then not read at all.
//!
//! ```
//! use nearfield::{Dataset, IntoResponse, Request, RequestExt, Result};
//!
//! #[derive(serde::Deserialize)]
//! struct Search { q: String }
//!
//! #[nearfield::http]
//! fn count(request: Request) -> Result<impl IntoResponse> {
//!     let Search { q } = request.query()?;
//!     let mut found = 0;
//!     for shard in Dataset::open("logs")?.shards() {
//!         let mut lines = shard?.lines();
//!         while let Some(line) = lines.next_line()? {
//!             found += usize::from(line.windows(q.len()).any(|part| part == q.as_bytes()));
//!         }
//!     }
//!     Ok(format!("{found}\n"))
//! }
//!
//! // The same function in a native test: no Wasm, no server.
//! use nearfield::mock;
//! let logs = mock::Dataset::new("lines").file("app.log", "ok\nerror: disk\nok\n");
//! let answer = mock::Host::new().dataset("logs", logs).run(|| mock::call(count, mock::get("/?q=error")));
//! assert_eq!(answer.body(), "1\n");
//! ```
//!
//! | to do | with |
//! | --- | --- |
//! | answer a request | [`http`](macro@http), [`Request`], [`IntoResponse`], [`Error`] |
//! | run over a dataset | [`map`](macro@map), [`reduce`](macro@reduce), [`finish`](macro@finish); see [`job`](mod@job) |
//! | make files in a job | [`output`] |
//! | read its query or JSON | [`RequestExt`] |
//! | read or write a body bit by bit | [`Body`], [`stream`] |
//! | read granted data | [`Dataset`], [`File`] |
//! | read a shard | [`Shard`]: bytes, [`Lines`], [`Csv`], [`Ndjson`], [`Files`], [`Fixed`] |
//! | ask another server | [`fetch`] |
//! | compute on a GPU | `gpu`, with the feature of that name |
//! | log | [`info!`], [`warn!`], [`error!`], [`debug!`] |
//! | test natively | `nearfield::mock` |

mod body;
mod dataset;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
#[doc(hidden)]
pub mod handler;
pub mod job;
pub mod log;
pub mod output;
mod records;
mod request;
mod response;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod guest;
#[cfg(not(target_family = "wasm"))]
pub mod mock;

// The one place that chooses between a real host and the mock: both offer the same few items.
#[cfg(target_family = "wasm")]
use guest as host;
#[cfg(not(target_family = "wasm"))]
use mock::host;

pub use ::{csv, http};
pub use body::{Body, BodyWriter, stream};
pub use bytes::Bytes;
pub use dataset::{DataError, Dataset, Digest, File, Location, Records, Shard};
pub use error::{Error, Result};
pub use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
pub use nearfield_macros::{finish, http, map, reduce};
pub use records::{Csv, Files, Fixed, Lines, Ndjson};
pub use request::{Request, RequestExt};
pub use response::{IntoResponse, Json, Response};

/// Sends a request to another server and returns its response once the headers are there.
///
/// The manifest must grant the server's `host:port` under `allow.http`. The request's body is sent as it is read,
/// the response's body arrives as it is read. An error (a server that can't be reached, one that is not granted)
/// has status 502 and says why.
///
/// ```no_run
/// # fn main() -> nearfield::Result<()> {
/// let request = http::Request::get("https://api.example.org/now").body("".into())?;
/// let now = nearfield::fetch(request)?.into_body().text(4096)?;
/// # Ok(()) }
/// ```
pub fn fetch(request: Request) -> Result<Response> {
    host::fetch(request)
}

/// A value from the manifest's `env`.
pub fn env(name: &str) -> Option<String> {
    host::env(name)
}
