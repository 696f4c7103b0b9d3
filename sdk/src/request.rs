//! Requests, and what handlers read from them.

use http::header;
use serde::de::DeserializeOwned;

use crate::{Body, Error, Result};

/// A request as the host hands it over: the path without the function's route, the body still unread.
pub type Request = http::Request<Body>;

/// The most bytes [`RequestExt::json`] reads: a document is held in memory twice, as text and as value, and the
/// default memory limit is 256 MiB. Larger ones can be streamed from the body.
const JSON_LIMIT_BYTES: usize = 16 << 20;

/// What the headers begin with that tell the route's parameters.
pub(crate) const PARAMETER: &str = "nearfield-param-";

/// Typed reading of a request. Failures are 400, with what is wrong.
pub trait RequestExt {
    /// The path below the function's route, percent-decoded, without its first `/`.
    fn path(&self) -> Result<String>;
    /// A parameter of the function's route, percent-decoded: `id` of the route `/users/{id}`. `None` if the route has no
    /// such parameter.
    fn param(&self, name: &str) -> Option<&str>;
    /// The host that was asked, with its port if one was named: `api.example.org:8443`.
    fn host(&self) -> Option<&str>;
    /// The query string as a value: `?q=error&limit=3`.
    fn query<T: DeserializeOwned>(&self) -> Result<T>;
    /// The body as a JSON value of at most 16 MiB.
    fn json<T: DeserializeOwned>(&mut self) -> Result<T>;
}

impl RequestExt for Request {
    fn path(&self) -> Result<String> {
        let raw = self.uri().path();
        percent_decode(raw.strip_prefix('/').unwrap_or(raw))
            .ok_or_else(|| Error::bad_request("the path is not UTF-8 once it is percent-decoded"))
    }

    fn param(&self, name: &str) -> Option<&str> {
        // The host tells parameters in headers of its own, which no client can set.
        let value = self.headers().get([PARAMETER, name].concat())?;
        std::str::from_utf8(value.as_bytes()).ok()
    }

    fn host(&self) -> Option<&str> {
        match self.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => self.headers().get(header::HOST)?.to_str().ok(),
        }
    }

    fn query<T: DeserializeOwned>(&self) -> Result<T> {
        serde_urlencoded::from_str(self.uri().query().unwrap_or_default())
            .map_err(|error| Error::bad_request(format!("the query: {error}")))
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let bytes = std::mem::take(self.body_mut()).bytes(JSON_LIMIT_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::bad_request(format!("the body: {error}")))
    }
}

/// A `%` that no two hexadecimal digits follow stands for itself.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_decoded_once() {
        let path = |uri: &str| crate::mock::get(uri).path().ok();
        assert_eq!(path("/a/b").as_deref(), Some("a/b"));
        assert_eq!(path("/%C3%B6%20%2541.txt?x").as_deref(), Some("ö %41.txt"));
        assert_eq!(path("/100%").as_deref(), Some("100%"));
        assert_eq!(path("/%ff"), None);
    }

    #[test]
    fn the_host_is_the_target_s_or_the_header_s() {
        assert_eq!(
            crate::mock::get("http://a.example:1/x").host(),
            Some("a.example:1")
        );
        let mut request = crate::mock::get("/x");
        assert_eq!(request.host(), None);
        request.headers_mut().insert("host", "b.example".parse().unwrap());
        assert_eq!(request.host(), Some("b.example"));
    }

    #[test]
    fn parameters_are_found_in_either_case() {
        let request = crate::mock::routed("/users/{userId}", crate::mock::get("/users/J%C3%BC%20r"));
        assert_eq!(request.param("userId"), Some("Jü r"));
        assert_eq!(request.param("userid"), Some("Jü r"));
        assert_eq!(request.param("id"), None);
        assert_eq!(request.param("no header"), None);
    }

    #[derive(serde::Deserialize)]
    struct Search {
        q: String,
        limit: Option<u32>,
    }

    #[test]
    fn a_query_is_decoded() {
        let request = crate::mock::get("/?q=a%20b&limit=3");
        let Search { q, limit } = request.query().unwrap();
        assert_eq!((q.as_str(), limit), ("a b", Some(3)));
    }

    #[test]
    fn what_is_missing_or_malformed_is_a_bad_request() {
        let error = crate::mock::get("/").query::<Search>().err().unwrap();
        assert_eq!(error.status(), 400);
        let mut request = http::Request::post("/").body(Body::from("{")).unwrap();
        assert_eq!(request.json::<Vec<u8>>().err().unwrap().status(), 400);
    }
}
