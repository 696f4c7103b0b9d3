//! Tells what it was asked, and answers as it is told: what crosses a gateway unharmed can be seen on both sides.
//!
//! `?status=304&length=5&body=text` makes an answer of that status, declared length and body; `type` and `allow-origin` set
//! those headers. Without `status` the answer is the request as JSON: method, path, host, the route's `id`, all headers.

use std::collections::BTreeMap;

use nearfield::{HeaderValue, IntoResponse, Json, Request, RequestExt, Response, Result, StatusCode, header};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Asked {
    status: Option<u16>,
    length: Option<u64>,
    body: Option<String>,
    r#type: Option<String>,
    allow_origin: Option<String>,
}

#[derive(Serialize)]
struct Seen {
    method: String,
    path: String,
    host: Option<String>,
    id: Option<String>,
    headers: BTreeMap<String, Vec<String>>,
}

/// One answer a call.
#[nearfield::http]
fn mirror(request: Request) -> Result<Response> {
    let asked: Asked = request.query()?;
    let Some(status) = asked.status else {
        return Ok(Json(seen(&request)?).into_response());
    };
    let mut response = Response::new(asked.body.unwrap_or_default().into());
    *response.status_mut() = StatusCode::from_u16(status)?;
    let headers = response.headers_mut();
    if let Some(length) = asked.length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    for (name, value) in [
        (header::CONTENT_TYPE, asked.r#type),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, asked.allow_origin),
    ] {
        if let Some(value) = value {
            headers.insert(name, HeaderValue::try_from(value)?);
        }
    }
    Ok(response)
}

fn seen(request: &Request) -> Result<Seen> {
    let mut headers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.entry(name.to_string()).or_default().push(value);
    }
    Ok(Seen {
        method: request.method().to_string(),
        path: request.path()?,
        host: request.host().map(str::to_owned),
        id: request.param("id").map(str::to_owned),
        headers,
    })
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    #[test]
    fn a_request_is_told() {
        let mut request = mock::routed("/mirror/{id}", mock::get("/mirror/7/a%20b"));
        request.headers_mut().insert("host", "a.example".parse().unwrap());
        let answer = mock::call(super::mirror, request);
        assert_eq!(answer.headers()["content-type"], "application/json");
        let seen: serde_json::Value = serde_json::from_str(answer.body()).unwrap();
        assert_eq!(seen["method"], "GET");
        assert_eq!(seen["path"], "a b");
        assert_eq!(seen["id"], "7");
        assert_eq!(seen["host"], "a.example");
        assert_eq!(seen["headers"]["nearfield-param-id"][0], "7");
    }

    #[test]
    fn an_answer_is_what_was_asked_for() {
        let answer = mock::call(
            super::mirror,
            mock::get("/?status=404&length=2&body=no&type=text/x"),
        );
        assert_eq!((answer.status().as_u16(), answer.body().as_str()), (404, "no"));
        assert_eq!(answer.headers()["content-length"], "2");
        assert_eq!(answer.headers()["content-type"], "text/x");
    }
}
