//! Serves the files of a dataset: content types by extension, single byte ranges, HEAD.

mod range;

use std::io::{Read, Seek, SeekFrom};

use nearfield::{
    Body, Dataset, Error, HeaderValue, Method, Request, RequestExt, Response, Result, StatusCode, header,
};
use range::Range;

/// Answers with a file, or with the part of it that is asked for.
#[nearfield::http]
fn cat(request: Request) -> Result<Response> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Err(Error::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "files are read with GET and HEAD",
        ));
    }
    let path = request.path()?;
    let Some(mut file) = Dataset::open("data")?.file(&path)? else {
        return Err(Error::not_found(format!("there is no file {path}")));
    };

    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(content_type(&path)),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));

    let size = file.len();
    let (status, start, length) = match range::parse(request.headers().get(header::RANGE), size) {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part { first, last } => {
            headers.insert(
                header::CONTENT_RANGE,
                format!("bytes {first}-{last}/{size}").parse()?,
            );
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Range::Outside => {
            headers.insert(header::CONTENT_RANGE, format!("bytes */{size}").parse()?);
            (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0)
        }
    };
    // WASI hosts hold a body to the length that is declared, so HEAD declares none.
    let wants_body = request.method() == Method::GET;
    if wants_body {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    *response.status_mut() = status;
    if wants_body && length > 0 {
        file.seek(SeekFrom::Start(start))?;
        *response.body_mut() = Body::from_reader(file.take(length));
    }
    Ok(response)
}

/// By the path's extension; what is not known is bytes, which a browser saves rather than shows.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "css" => "text/css; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "gif" => "image/gif",
        "html" => "text/html; charset=utf-8",
        "jpg" | "jpeg" => "image/jpeg",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "md" => "text/markdown; charset=utf-8",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "log" | "rs" | "toml" | "txt" => "text/plain; charset=utf-8",
        "wasm" => "application/wasm",
        "webp" => "image/webp",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use nearfield::{Method, mock};

    /// Status, `content-range`, `content-length`, body.
    type Answer = (u16, String, String, String);

    fn ask(method: Method, path: &str, range: &str) -> Answer {
        let data = mock::Dataset::new("bytes")
            .shard_bytes(4)
            .file("a/b.txt", "0123456789");
        let mut request = mock::get(path);
        *request.method_mut() = method;
        if !range.is_empty() {
            request.headers_mut().insert("range", range.parse().unwrap());
        }
        let answer = mock::Host::new()
            .dataset("data", data)
            .run(|| mock::call(super::cat, request));
        let header = |name| {
            answer
                .headers()
                .get(name)
                .map_or("", |value| value.to_str().unwrap())
                .to_owned()
        };
        (
            answer.status().as_u16(),
            header("content-range"),
            header("content-length"),
            answer.body().clone(),
        )
    }

    fn expected(status: u16, range: &str, length: &str, body: &str) -> Answer {
        (status, range.into(), length.into(), body.into())
    }

    #[test]
    fn a_file_is_served_whole_or_in_part() {
        assert_eq!(
            ask(Method::GET, "/a/b.txt", ""),
            expected(200, "", "10", "0123456789")
        );
        assert_eq!(
            ask(Method::GET, "/a/b.txt", "bytes=3-5"),
            expected(206, "bytes 3-5/10", "3", "345")
        );
        assert_eq!(
            ask(Method::GET, "/a/b.txt", "bytes=-2"),
            expected(206, "bytes 8-9/10", "2", "89")
        );
        assert_eq!(
            ask(Method::GET, "/a/b.txt", "bytes=10-"),
            expected(416, "bytes */10", "0", "")
        );
    }

    #[test]
    fn head_has_the_headers_alone() {
        assert_eq!(ask(Method::HEAD, "/a/b.txt", ""), expected(200, "", "", ""));
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(ask(Method::GET, "/a", "").0, 404);
        assert_eq!(ask(Method::POST, "/a/b.txt", "").0, 405);
        assert_eq!(super::content_type("a.b/c.svg"), "image/svg+xml");
        assert_eq!(super::content_type("Makefile"), "application/octet-stream");
    }
}
