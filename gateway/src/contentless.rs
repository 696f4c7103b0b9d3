//! Answers without content: those to HEAD, and those of statuses that have none (RFC 9110 §6.4.1, §15.3.6).
//!
//! hyper lets go of such an answer's body unread over HTTP/1.1, which would stop the guest that still makes it, and sends
//! it over HTTP/2, which clients take for a broken stream. So nobody hands hyper such a body: a status that never has
//! content, or a length of 0, is answered once its guest has ended, HEAD once there is enough to tell the length.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use nearfield_protocol::Problem;
use nearfield_protocol::call::never_has_content;

use crate::body::{self, Body, HeldEnd};

/// How long HEAD waits for a body whose length would be told: longer than a busy node takes for a short one, and no longer
/// than somebody waits who asks whether a stream is there. A guest that takes longer is stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// A function's answer to `method`, without a body where none is sent. Why the call failed, if it is known by then.
pub async fn settle(method: &Method, response: Response<Body>) -> Result<Response<Body>, Problem> {
    let never = never_has_content(response.status().as_u16());
    // hyper lets go of a body that is declared empty, too, and with it of a guest that is not done, or has more than it says.
    let is_empty = never || (method != Method::HEAD && declares_none(response.headers()));
    if !is_empty && method != Method::HEAD {
        return Ok(response);
    }
    let (mut parts, mut body) = response.into_parts();
    if is_empty {
        body::drain(&mut body).await?;
        if never {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        if parts.status == StatusCode::RESET_CONTENT {
            parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    } else {
        let held = body::hold(&mut body, PATIENCE).await;
        let bytes: usize = held.frames.iter().map(|frame| frame.len()).sum();
        match held.end {
            HeldEnd::Failed(problem) => return Err(problem),
            // With neither a length nor bytes the function may just not have made what GET would get.
            HeldEnd::Ended(_) if bytes > 0 => {
                let length = parts.headers.entry(header::CONTENT_LENGTH);
                length.or_insert(HeaderValue::from(bytes));
            }
            HeldEnd::Ended(_) | HeldEnd::More => {}
        }
    }
    Ok(Response::from_parts(parts, body::empty()))
}

fn declares_none(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    length.is_some_and(|length| length.as_bytes() == b"0")
}

/// An answer of ours to GET as the one to HEAD: the same headers, its length if it is known, and no body.
pub fn of_head(mut response: Response<Body>) -> Response<Body> {
    if response.body().is_end_stream() {
        return response;
    }
    if let Some(bytes) = response.body().size_hint().exact() {
        let length = response.headers_mut().entry(header::CONTENT_LENGTH);
        length.or_insert(HeaderValue::from(bytes));
    }
    *response.body_mut() = body::empty();
    response
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};

    use nearfield_protocol::ProblemKind;

    use super::*;

    /// What a function answers: pieces, then whether its call ended well.
    fn answer(status: u16, length: Option<&str>, pieces: &[&'static str], well: bool) -> Response<Body> {
        let pieces = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from(*piece))));
        let failed = (!well).then(|| Err(Problem::new(ProblemKind::Trap, "trapped")));
        let frames: Vec<_> = pieces.chain(failed).collect();
        let body = StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync();
        let mut response = Response::builder().status(status);
        if let Some(length) = length {
            response = response.header(header::CONTENT_LENGTH, length);
        }
        response.body(body).unwrap()
    }

    /// Status, `content-length`, and the body's bytes.
    async fn settled(method: Method, response: Response<Body>) -> (u16, Option<String>, Bytes) {
        let settled = settle(&method, response).await.unwrap();
        let length = settled.headers().get(header::CONTENT_LENGTH);
        let length = length.map(|length| length.to_str().unwrap().to_owned());
        let ended = settled.body().is_end_stream();
        let status = settled.status().as_u16();
        let bytes = settled.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(ended, bytes.is_empty(), "HTTP/2 ends such a stream with its head");
        (status, length, bytes)
    }

    #[tokio::test]
    async fn what_has_no_content_gets_none() {
        let some = |length: &str| Some(length.to_owned());
        let none = Bytes::new();
        for (status, length) in [(204, None), (205, some("0")), (304, None)] {
            for method in [Method::GET, Method::HEAD, Method::POST] {
                for (declared, pieces) in [
                    (None, &["a", "b"][..]),
                    (Some("2"), &["a", "b"]),
                    (Some("5"), &[]),
                    (None, &[]),
                ] {
                    let response = answer(status, declared, pieces, true);
                    let expected = (status, length.clone(), none.clone());
                    assert_eq!(settled(method.clone(), response).await, expected);
                }
            }
        }
        for status in [200, 206, 404, 500] {
            let head = |length, pieces| settled(Method::HEAD, answer(status, length, pieces, true));
            assert_eq!(head(Some("5"), &[]).await, (status, some("5"), none.clone()));
            assert_eq!(head(None, &["a", "bc"]).await, (status, some("3"), none.clone()));
            assert_eq!(head(None, &[]).await, (status, None, none.clone()));
            let empty = settled(Method::GET, answer(status, Some("0"), &[], true)).await;
            assert_eq!(empty, (status, some("0"), none.clone()));
            let get = settled(Method::GET, answer(status, None, &["a", "bc"], true)).await;
            assert_eq!(get, (status, None, Bytes::from("abc")));
        }
    }

    #[tokio::test]
    async fn a_call_that_failed_is_told_all_the_same() {
        for (method, status, length) in [
            (Method::GET, 204, None),
            (Method::GET, 304, None),
            (Method::GET, 200, Some("0")),
            (Method::HEAD, 200, None),
        ] {
            let failed = settle(&method, answer(status, length, &["a"], false)).await;
            assert_eq!(failed.unwrap_err().kind, ProblemKind::Trap, "{method} {status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_without_content_waits_for_its_guest_and_head_does_not() {
        let slow = || {
            let later = futures_util::stream::once(async {
                tokio::time::sleep(Duration::from_secs(7)).await;
                Ok(Frame::data(Bytes::from("late")))
            });
            StreamBody::new(later).boxed_unsync()
        };
        let began = tokio::time::Instant::now();
        settle(&Method::HEAD, Response::new(slow())).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(2));
        let mut reset = Response::new(slow());
        *reset.status_mut() = StatusCode::NO_CONTENT;
        settle(&Method::GET, reset).await.unwrap();
        assert!(began.elapsed() >= Duration::from_secs(8));
    }

    #[test]
    fn our_own_answers_to_head_say_their_length() {
        let length = |response: Response<Body>| {
            let head = of_head(response);
            assert!(head.body().is_end_stream());
            let length = head.headers().get(header::CONTENT_LENGTH).cloned();
            length.map(|length| length.to_str().unwrap().to_owned())
        };
        assert_eq!(length(Response::new(body::full("four"))).as_deref(), Some("4"));
        let frames = VecDeque::from([Bytes::from("ab"), Bytes::from("c")]);
        assert_eq!(
            length(Response::new(body::buffered(frames, None))).as_deref(),
            Some("3")
        );
        let mut said = Response::new(body::empty());
        said.headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(9));
        assert_eq!(length(said).as_deref(), Some("9"));
        assert_eq!(length(answer(200, None, &["streams"], true)), None);
    }
}
