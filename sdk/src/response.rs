//! What a handler may return.

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::{Body, Error};

/// A response: the status and headers go out first, then the body as it is produced.
///
/// What a handler returns as text, JSON or bytes has that type; a response that the author makes says its own. The gateway sets
/// `content-length` where it knows it.
pub type Response = http::Response<Body>;

/// Anything that can be an answer: text (`text/plain; charset=utf-8`), bytes (`application/octet-stream`), [`Json`], a [`Body`], a [`Response`], an [`Error`], a status, a
/// pair of a status and any of them, or a `Result`.
///
/// ```
/// use nearfield::{IntoResponse, Json, StatusCode};
///
/// assert_eq!("hello".into_response().status(), 200);
/// assert_eq!((StatusCode::CREATED, Json(7)).into_response().status(), 201);
/// assert_eq!(StatusCode::NO_CONTENT.into_response().status(), 204);
/// ```
pub trait IntoResponse {
    fn into_response(self) -> Response;
}

/// A value that is sent as JSON.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => typed(StatusCode::OK, "application/json", bytes),
            Err(error) => Error::from(error).into_response(),
        }
    }
}

impl<B: Into<Body>> IntoResponse for http::Response<B> {
    fn into_response(self) -> Response {
        self.map(Into::into)
    }
}

impl<T: IntoResponse> IntoResponse for (StatusCode, T) {
    fn into_response(self) -> Response {
        let mut response = self.1.into_response();
        *response.status_mut() = self.0;
        response
    }
}

impl IntoResponse for StatusCode {
    fn into_response(self) -> Response {
        (self, Body::empty()).into_response()
    }
}

impl<T: IntoResponse, E: Into<Error>> IntoResponse for std::result::Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(answer) => answer.into_response(),
            Err(error) => error.into().into_response(),
        }
    }
}

macro_rules! bodies {
    ($($body:ty),*) => {$(
        impl IntoResponse for $body {
            fn into_response(self) -> Response {
                Response::new(self.into())
            }
        }
    )*};
}

bodies!(Body, ());

macro_rules! typed_bodies {
    ($($body:ty: $content_type:literal),*) => {$(
        impl IntoResponse for $body {
            fn into_response(self) -> Response {
                let mut response = Response::new(self.into());
                let content_type = HeaderValue::from_static($content_type);
                response.headers_mut().insert(header::CONTENT_TYPE, content_type);
                response
            }
        }
    )*};
}

typed_bodies!(
    &'static str: "text/plain; charset=utf-8",
    String: "text/plain; charset=utf-8",
    Vec<u8>: "application/octet-stream",
    bytes::Bytes: "application/octet-stream"
);

/// A whole body with its type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(answer: impl IntoResponse) -> Option<String> {
        let response = answer.into_response();
        let content_type = response.headers().get(header::CONTENT_TYPE)?;
        Some(content_type.to_str().unwrap().to_owned())
    }

    #[test]
    fn what_is_returned_has_its_type_unless_it_says_another() {
        let (text, bytes) = (
            Some("text/plain; charset=utf-8"),
            Some("application/octet-stream"),
        );
        assert_eq!(content_type("text").as_deref(), text);
        assert_eq!(content_type("text".to_owned()).as_deref(), text);
        assert_eq!(content_type((StatusCode::CREATED, "text")).as_deref(), text);
        assert_eq!(
            content_type(crate::Result::<_, Error>::Ok("text")).as_deref(),
            text
        );
        assert_eq!(content_type(vec![1]).as_deref(), bytes);
        assert_eq!(content_type(bytes::Bytes::from_static(b"b")).as_deref(), bytes);
        assert_eq!(content_type(Json(1)).as_deref(), Some("application/json"));
        assert_eq!(
            content_type(Error::not_found("no")).as_deref(),
            Some("application/problem+json")
        );
        let own = http::Response::builder()
            .header("content-type", "text/html")
            .body("<p>");
        assert_eq!(content_type(own.unwrap()).as_deref(), Some("text/html"));
        assert_eq!(content_type(http::Response::new("unsaid")), None);
        assert_eq!(content_type(StatusCode::NO_CONTENT), None);
        assert_eq!(content_type(()), None);
        assert_eq!(content_type(Body::from("unsaid")), None);
    }
}
