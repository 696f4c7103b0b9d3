//! Serves the files of a dataset: content types by extension, single byte ranges, HEAD, and an ETag, so that a client asks
//! whether what it has is still what is there.

mod range;

use std::io::{Read, Seek, SeekFrom};

use nearfield::{
    Body, Dataset, Error, HeaderValue, Method, Request, RequestExt, Response, Result, StatusCode, header,
};
use range::Asked;

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
    let dataset = Dataset::open("data")?;
    let Some(mut file) = dataset.file(&path)? else {
        return Err(Error::not_found(format!("there is no file {path}")));
    };
    // The URL names the file; which content it has is the dataset's.
    let etag = format!("\"{}\"", dataset.digest());

    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(content_type(&path)),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::ETAG, etag.parse()?);

    let size = file.len();
    let (status, start, length) = match range::asked(request.method(), request.headers(), &etag, size) {
        Asked::Whole => (StatusCode::OK, 0, size),
        Asked::Part { first, last } => {
            headers.insert(
                header::CONTENT_RANGE,
                format!("bytes {first}-{last}/{size}").parse()?,
            );
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Asked::Outside => {
            headers.insert(header::CONTENT_RANGE, format!("bytes */{size}").parse()?);
            (StatusCode::RANGE_NOT_SATISFIABLE, 0, 0)
        }
        Asked::NotModified => (StatusCode::NOT_MODIFIED, 0, 0),
        Asked::Changed => (StatusCode::PRECONDITION_FAILED, 0, 0),
    };
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    *response.status_mut() = status;
    if request.method() == Method::GET && length > 0 {
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
        ask_with(method, path, range, &[]).0
    }

    /// The answer and its ETag.
    fn ask_with(method: Method, path: &str, range: &str, more: &[(&'static str, &str)]) -> (Answer, String) {
        let data = mock::Dataset::new("bytes")
            .shard_bytes(4)
            .file("a/b.txt", "0123456789");
        let mut request = mock::get(path);
        *request.method_mut() = method;
        if !range.is_empty() {
            request.headers_mut().insert("range", range.parse().unwrap());
        }
        for (name, value) in more {
            request.headers_mut().insert(*name, value.parse().unwrap());
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
        let told = (
            answer.status().as_u16(),
            header("content-range"),
            header("content-length"),
            answer.body().clone(),
        );
        (told, header("etag"))
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
        assert_eq!(ask(Method::HEAD, "/a/b.txt", ""), expected(200, "", "10", ""));
        assert_eq!(
            ask(Method::HEAD, "/a/b.txt", "bytes=3-5"),
            expected(200, "", "10", "")
        );
    }

    #[test]
    fn a_stale_part_is_sent_whole() {
        let (_, etag) = ask_with(Method::GET, "/a/b.txt", "", &[]);
        let ask = |name, value: &str| {
            ask_with(Method::GET, "/a/b.txt", "bytes=3-5", &[(name, value)])
                .0
                .0
        };
        assert_eq!(ask("if-range", &etag), 206);
        assert_eq!(ask("if-range", "\"stale\""), 200);
        assert_eq!(ask("if-none-match", &etag), 304);
        assert_eq!(ask("if-match", "\"stale\""), 412);
    }

    #[test]
    fn mistakes_are_told() {
        assert_eq!(ask(Method::GET, "/a", "").0, 404);
        assert_eq!(ask(Method::POST, "/a/b.txt", "").0, 405);
        assert_eq!(super::content_type("a.b/c.svg"), "image/svg+xml");
        assert_eq!(super::content_type("Makefile"), "application/octet-stream");
    }
}
