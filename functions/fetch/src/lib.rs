//! Fetches a URL for its caller: `GET /fetch?url=http://127.0.0.1:9000/now`. The manifest's `allow.http` says which
//! servers may be asked.

use nearfield::{Body, Error, IntoResponse, Request, RequestExt, Result, Uri, header::CONTENT_TYPE};

#[derive(serde::Deserialize)]
struct Target {
    url: String,
}

/// Answers with the other server's status, content type and body; with 502 and the reason where it can't.
#[nearfield::http]
fn fetch(request: Request) -> Result<impl IntoResponse> {
    let Target { url } = request.query()?;
    let url: Uri = url
        .parse()
        .map_err(|error| Error::bad_request(format!("the URL {url}: {error}")))?;
    let mut outgoing = Request::new(Body::empty());
    *outgoing.uri_mut() = url;
    let mut answer = nearfield::fetch(outgoing)?;
    // The connection's own headers stay behind, and whatever else the caller did not ask for.
    let content_type = answer.headers_mut().remove(CONTENT_TYPE);
    answer.headers_mut().clear();
    answer
        .headers_mut()
        .extend(content_type.map(|value| (CONTENT_TYPE, value)));
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use nearfield::{IntoResponse, StatusCode, mock};

    fn ask(host: mock::Host, query: &str) -> (u16, String) {
        let answer = host.run(|| mock::call(super::fetch, mock::get(query)));
        (answer.status().as_u16(), answer.into_body())
    }

    #[test]
    fn the_other_servers_answer_is_passed_on() {
        let host = mock::Host::new().outgoing(|request| {
            assert_eq!(request.uri(), "http://127.0.0.1:9000/now?a=1");
            Ok((StatusCode::IM_A_TEAPOT, "now").into_response())
        });
        assert_eq!(
            ask(host, "/?url=http://127.0.0.1:9000/now?a%3D1"),
            (418, "now".into())
        );
    }

    #[test]
    fn what_is_not_granted_says_so() {
        let (status, problem) = ask(mock::Host::new(), "/?url=http://example.org/");
        assert_eq!(status, 502);
        assert!(problem.contains("allow.http"), "{problem}");
        assert_eq!(ask(mock::Host::new(), "/").0, 400);
    }
}
