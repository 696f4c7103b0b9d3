//! One error for handlers, in two faces: what the client sees, and what the log says.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use serde::Serialize;

use crate::{IntoResponse, Response, log, response::typed};

/// The result of a handler and of what it calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure with the HTTP status it becomes, rendered as `application/problem+json` (RFC 9457).
///
/// Errors made here say their text to the client. Errors of others, converted by `?`, are status 500 and may hold
/// anything, so the client learns only that the function failed, and the log gets the cause. Of a GPU the client learns what it
/// can act on: 507 for a limit, 504 for too much time, 503 where another attempt may do.
///
/// ```
/// use nearfield::{Error, Result};
///
/// fn page(number: &str) -> Result<u32> {
///     let page = number.parse().map_err(|_| Error::bad_request("page is a number"))?;
///     if page > 9 { Err(Error::not_found("there are ten pages")) } else { Ok(page) }
/// }
/// assert_eq!(page("x").unwrap_err().status(), 400);
/// assert_eq!(page("10").unwrap_err().status(), 404);
/// ```
pub struct Error {
    status: StatusCode,
    detail: Cow<'static, str>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure whose text the client may read.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            detail: detail.into(),
            cause: None,
        }
    }

    /// 400: the request can't be understood.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 404: nothing is there.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// The status the client sees.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The same failure under another status.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(cause: E) -> Self {
        let (status, detail) = known(&cause).unwrap_or((
            StatusCode::INTERNAL_SERVER_ERROR,
            Cow::Borrowed("the function failed; its log has the cause"),
        ));
        Self {
            status,
            detail,
            cause: Some(Box::new(cause)),
        }
    }
}

/// What the client may learn of a failure that is not the function's own fault.
#[cfg(feature = "gpu")]
fn known(cause: &dyn std::any::Any) -> Option<(StatusCode, Cow<'static, str>)> {
    use crate::gpu::GpuError;

    let error: &GpuError = cause.downcast_ref()?;
    let status = match error {
        GpuError::Quota(_) => StatusCode::INSUFFICIENT_STORAGE,
        GpuError::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
        GpuError::DeviceLost(_) | GpuError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        GpuError::Denied(_) | GpuError::Invalid(_) | GpuError::NotFound(_) => return None,
    };
    Some((status, error.to_string().into()))
}

#[cfg(not(feature = "gpu"))]
fn known(_: &dyn std::any::Any) -> Option<(StatusCode, Cow<'static, str>)> {
    None
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: &'a str,
            title: &'a str,
            status: u16,
            detail: &'a str,
        }

        if self.cause.is_some() {
            log::write(log::Level::Error, format_args!("{self}"), &[]);
        }
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
        };
        let bytes = serde_json::to_vec(&problem).unwrap_or_default();
        typed(self.status, "application/problem+json", bytes)
    }
}

/// The whole story, for logs: the cause and its causes where there is one, else the detail.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(cause) = &self.cause else {
            return f.write_str(&self.detail);
        };
        write!(f, "{cause}")?;
        let mut next = cause.source();
        while let Some(deeper) = next {
            write!(f, ": {deeper}")?;
            next = deeper.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(error: Error) -> (u16, serde_json::Value) {
        let response = error.into_response();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let status = response.status().as_u16();
        let body = response.into_body().bytes(1000).unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn our_own_errors_reach_the_client() {
        let (status, problem) = rendered(Error::not_found("no such \"page\""));
        assert_eq!((status, &problem["detail"]), (404, &"no such \"page\"".into()));
        assert_eq!(problem["title"], "Not Found");
    }

    #[test]
    fn causes_stay_in_the_log() {
        let error = Error::from(std::io::Error::other("password is hunter2"));
        assert_eq!(error.to_string(), "password is hunter2");
        let (status, problem) = rendered(error);
        assert_eq!(status, 500);
        assert!(!problem.to_string().contains("hunter2"));
    }

    #[cfg(feature = "gpu")]
    #[test]
    fn what_a_gpu_refuses_is_told() {
        use crate::gpu::GpuError;

        let told = |error: GpuError| {
            let (status, problem) = rendered(Error::from(error));
            (status, problem["detail"].as_str().unwrap_or_default().to_owned())
        };
        let text = || "8 of 4".to_owned();
        assert_eq!(told(GpuError::Quota(text())), (507, text()));
        assert_eq!(told(GpuError::Timeout(text())), (504, text()));
        assert_eq!(told(GpuError::DeviceLost(text())), (503, text()));
        assert_eq!(told(GpuError::Unavailable(text())), (503, text()));
        let (status, detail) = told(GpuError::Invalid(text()));
        assert_eq!(status, 500);
        assert!(!detail.contains("8 of 4"));
    }
}
