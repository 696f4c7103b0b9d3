//! Streams a request's body back as it arrives, whatever its size: nothing is gathered.

use nearfield::{Request, Response, header::CONTENT_TYPE};

/// Answers with the request's body under its content type.
#[nearfield::http]
fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    let mut response = Response::new(body);
    if let Some(content_type) = head.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use nearfield::{Body, Request, mock};

    #[test]
    fn the_body_and_its_type_come_back() {
        let body = Body::from_reader(std::io::repeat(7).take(1 << 20));
        let request = Request::new(body);
        let (mut head, body) = request.into_parts();
        head.headers.insert("content-type", "image/png".parse().unwrap());
        let answer = mock::call_bytes(super::echo, Request::from_parts(head, body));
        assert_eq!(answer.headers()["content-type"], "image/png");
        assert_eq!(answer.body(), &[7; 1 << 20]);
    }
}
