//! What a handler may return.

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::{Body, Error};

/// A response: the status and headers go out first, then the body as it is produced.
///
/// The SDK adds no headers of its own to text and bytes; the gateway sets `content-length` where it knows it.
pub type Response = http::Response<Body>;

/// Anything that can be an answer: text, bytes, [`Json`], a [`Body`], a [`Response`], an [`Error`], a status, a
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

bodies!(Body, &'static str, String, Vec<u8>, bytes::Bytes, ());

/// A whole body with its type.
pub(crate) fn typed(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(bytes.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
