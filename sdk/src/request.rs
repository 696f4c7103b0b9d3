//! Requests, and what handlers read from them.

use serde::de::DeserializeOwned;

use crate::{Body, Error, Result};

/// A request as the host hands it over: the path without the function's route, the body still unread.
pub type Request = http::Request<Body>;

/// The most bytes [`RequestExt::json`] reads: a document is held in memory twice, as text and as value, and the
/// default memory limit is 256 MiB. Larger ones can be streamed from the body.
const JSON_LIMIT_BYTES: usize = 16 << 20;

/// Typed reading of a request. Failures are 400, with what is wrong.
pub trait RequestExt {
    /// The query string as a value: `?q=error&limit=3`.
    fn query<T: DeserializeOwned>(&self) -> Result<T>;
    /// The body as a JSON value of at most 16 MiB.
    fn json<T: DeserializeOwned>(&mut self) -> Result<T>;
}

impl RequestExt for Request {
    fn query<T: DeserializeOwned>(&self) -> Result<T> {
        serde_urlencoded::from_str(self.uri().query().unwrap_or_default())
            .map_err(|error| Error::bad_request(format!("the query: {error}")))
    }

    fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let bytes = std::mem::take(self.body_mut()).bytes(JSON_LIMIT_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::bad_request(format!("the body: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
