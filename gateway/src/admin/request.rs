//! A request to the admin API, taken apart.

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nearfield_protocol::job::check_integers;
use nearfield_protocol::{Problem, ProblemKind, limits, units};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::body::{BodyFault, BoundedBody};
use crate::fields::list;

/// A request whose path is taken apart, percent-decoded.
pub struct AdminRequest {
    /// GET for HEAD.
    pub method: Method,
    pub segments: Vec<String>,
    pub query: Vec<(String, String)>,
    pub request: Request<Incoming>,
}

impl AdminRequest {
    pub fn new(request: Request<Incoming>) -> Result<Self, Problem> {
        let decode = |segment: &str| {
            percent_encoding::percent_decode_str(segment)
                .decode_utf8()
                .map(|text| text.into_owned())
                .map_err(|_| Problem::new(ProblemKind::BadRequest, "the path is not UTF-8"))
        };
        let segments: Result<Vec<_>, _> = request.uri().path().split('/').skip(1).map(decode).collect();
        let query = request.uri().query().unwrap_or_default().as_bytes();
        let query = form_urlencoded::parse(query).into_owned().collect();
        // HEAD is answered as GET, and loses its body on the way out.
        let method = match *request.method() {
            Method::HEAD => Method::GET,
            ref method => method.clone(),
        };
        Ok(AdminRequest {
            method,
            segments: segments?,
            query,
            request,
        })
    }

    /// Whether the client asks for this content type.
    pub fn takes(&self, content: &str) -> bool {
        list(self.request.headers(), &http::header::ACCEPT).any(|accepted| accepted == content)
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The values of a parameter that may be given again.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let given = self.query.iter().filter(move |(key, _)| key == name);
        given.map(|(_, value)| value.as_str())
    }

    /// Whether records or data may change. The replay of a shard is a run that nobody waits for without a client.
    pub fn changes(&self) -> bool {
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        self.method != http::Method::GET && !matches!(segments[..], ["v1", "jobs", _, "shards", _, "replay"])
    }

    /// A parameter that must parse if it is there.
    pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        self.parameter(name)
            .map(|text| {
                text.parse().map_err(|error: T::Err| {
                    Problem::new(
                        ProblemKind::BadRequest,
                        format!("parameter `{name}` = `{text}`: {error}"),
                    )
                })
            })
            .transpose()
    }

    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        Ok(self.parsed::<bool>(name)?.unwrap_or(false))
    }

    /// The whole body, at most `max_bytes`, never standing still for long.
    pub async fn bytes(self, max_bytes: u64) -> Result<Bytes, Problem> {
        let mut body = BoundedBody::new(self.request.into_body(), max_bytes, BodyFault::default());
        match (&mut body).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(problem) if problem.kind == ProblemKind::BodyTooLarge => {
                body.discard(&Handle::current());
                Err(Problem::new(problem.kind, "the request body is too large")
                    .with_limit(format!("this request's body = {}", units::exact_bytes(max_bytes))))
            }
            Err(problem) => Err(problem),
        }
    }

    /// JSON whose integers are what was sent.
    pub async fn json<T: DeserializeOwned>(self) -> Result<T, Problem> {
        let bytes = self.bytes(limits::ADMIN_BODY_BYTES as u64).await?;
        let refused = |error: &dyn std::fmt::Display| {
            Problem::new(ProblemKind::BadRequest, format!("the request body: {error}"))
        };
        let text = str::from_utf8(&bytes).map_err(|error| refused(&error))?;
        let value = serde_json::from_str(text).map_err(|error| refused(&error))?;
        check_integers(text).map_err(|error| refused(&error))?;
        Ok(value)
    }
}
