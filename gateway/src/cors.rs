//! What browsers are told of other origins, by a function's manifest (the Fetch standard, "CORS protocol").
//!
//! A function with `cors` leaves this to the gateway: preflights are answered here, without a token, because browsers send
//! none with them; every other answer, problems included, says whose pages may read it. A function without `cors` says
//! what it likes, and its preflights are requests like any other.

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use nearfield_protocol::manifest::Cors;

use crate::body::{self, Body};
use crate::fields;

/// What the gateway says in a function's place.
const OURS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// Whether a browser asks if it may send a request.
pub fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight, but for what [`decorate`] says of every answer. What is allowed is told whatever was asked:
/// the browser compares, and says on its console what lacks.
pub fn preflight(cors: &Cors, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    for name in [
        header::ACCESS_CONTROL_REQUEST_METHOD,
        header::ACCESS_CONTROL_REQUEST_HEADERS,
    ] {
        headers.append(header::VARY, HeaderValue::from(name));
    }
    if !allows(cors, asked.get(header::ORIGIN)) {
        return response;
    }
    let any = |entries: &[String]| matches!(entries, [entry] if entry == "*");
    for (entries, request, answer) in [
        (
            &cors.methods,
            header::ACCESS_CONTROL_REQUEST_METHOD,
            header::ACCESS_CONTROL_ALLOW_METHODS,
        ),
        (
            &cors.headers,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
            header::ACCESS_CONTROL_ALLOW_HEADERS,
        ),
    ] {
        // `*` itself would leave out `authorization`, and mean nothing with credentials.
        let value = match any(entries) {
            true => list(
                &fields::list(asked, &request)
                    .map(str::to_owned)
                    .collect::<Vec<_>>(),
            ),
            false => list(entries),
        };
        headers.extend(value.map(|value| (answer, value)));
    }
    if let Some(age) = cors.max_age {
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from(age.0.as_secs()));
    }
    response
}

/// What every answer to a request from `origin` says, in place of what the function said.
pub fn decorate(cors: &Cors, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    vary(headers);
    if !allows(cors, origin) {
        return;
    }
    let open = cors.any_origin();
    let allowed = match (open, origin) {
        (true, _) => HeaderValue::from_static("*"),
        (false, Some(origin)) => origin.clone(),
        (false, None) => return,
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    if cors.credentials {
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
    if let Some(exposed) = list(&cors.expose) {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
}

/// Takes out what a function says of it itself: two answers are none to a browser.
pub fn strip(headers: &mut HeaderMap) {
    for name in OURS {
        headers.remove(name);
    }
}

fn allows(cors: &Cors, origin: Option<&HeaderValue>) -> bool {
    origin.map_or(cors.any_origin(), |origin| cors.allows(origin.as_bytes()))
}

/// A cache must not give one origin's answer to another.
fn vary(headers: &mut HeaderMap) {
    let named = headers.get_all(header::VARY).iter().any(|value| {
        let names = value.as_bytes().split(|byte| *byte == b',');
        names
            .map(<[u8]>::trim_ascii)
            .any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    });
    if !named {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

fn list(entries: &[String]) -> Option<HeaderValue> {
    match entries.is_empty() {
        true => None,
        false => HeaderValue::try_from(entries.join(", ")).ok(),
    }
}

#[cfg(test)]
mod tests {
    use nearfield_protocol::manifest::ManifestFile;

    use super::*;

    fn cors(text: &str) -> Cors {
        let file = ManifestFile::parse(&format!("[function.f]\ncors = {{ {text} }}\n")).unwrap();
        file.function[&"f".parse().unwrap()]
            .manifest
            .cors
            .clone()
            .unwrap()
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    /// All values of a header, joined as a client may join them.
    fn told(headers: &HeaderMap, name: &str) -> Option<String> {
        let values: Vec<_> = headers
            .get_all(name)
            .iter()
            .map(|value| value.to_str().unwrap())
            .collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    fn answered(cors: &Cors, asked: &[(&'static str, &'static str)]) -> HeaderMap {
        let asked = headers(asked);
        let mut response = preflight(cors, &asked);
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        decorate(cors, asked.get(header::ORIGIN), response.headers_mut());
        response.headers().clone()
    }

    const APP: &str = "origins = [\"https://app.example\", \"https://b.example\"], methods = [\"GET\", \"PUT\"], \
                       headers = [\"content-type\"], expose = [\"etag\"], credentials = true, max_age = \"10m\"";

    #[test]
    fn a_preflight_is_told_what_the_manifest_says() {
        let app = cors(APP);
        let asked = [
            ("origin", "https://app.example"),
            ("access-control-request-method", "DELETE"),
            ("access-control-request-headers", "x-other"),
        ];
        let told_app = answered(&app, &asked);
        for (name, value) in [
            ("access-control-allow-origin", Some("https://app.example")),
            ("access-control-allow-methods", Some("GET, PUT")),
            ("access-control-allow-headers", Some("content-type")),
            ("access-control-allow-credentials", Some("true")),
            ("access-control-max-age", Some("600")),
            (
                "vary",
                Some("access-control-request-method, access-control-request-headers, origin"),
            ),
        ] {
            assert_eq!(told(&told_app, name).as_deref(), value, "{name}");
        }
        let stranger = [
            ("origin", "https://evil.example"),
            ("access-control-request-method", "GET"),
        ];
        let told_stranger = answered(&app, &stranger);
        assert!(
            OURS.iter().all(|name| !told_stranger.contains_key(name)),
            "{told_stranger:?}"
        );
        assert!(told(&told_stranger, "vary").unwrap().contains("origin"));

        let any = cors("origins = [\"*\"], methods = [\"*\"], headers = [\"*\"]");
        let told_any = answered(&any, &asked);
        for (name, value) in [
            ("access-control-allow-origin", Some("*")),
            ("access-control-allow-methods", Some("DELETE")),
            ("access-control-allow-headers", Some("x-other")),
            ("access-control-allow-credentials", None),
            ("access-control-max-age", None),
        ] {
            assert_eq!(told(&told_any, name).as_deref(), value, "{name}");
        }
    }

    #[test]
    fn only_browsers_questions_are_preflights() {
        let is = |method: Method, lines: &[(&'static str, &'static str)]| {
            let mut request = Request::builder().method(method).body(()).unwrap();
            *request.headers_mut() = headers(lines);
            is_preflight(&request)
        };
        let (origin, method) = (
            ("origin", "https://a.example"),
            ("access-control-request-method", "GET"),
        );
        assert!(is(Method::OPTIONS, &[origin, method]));
        assert!(!is(Method::OPTIONS, &[origin]));
        assert!(!is(Method::OPTIONS, &[method]));
        assert!(!is(Method::GET, &[origin, method]));
    }

    #[test]
    fn an_answer_says_whose_pages_may_read_it() {
        let app = cors(APP);
        let decorated =
            |cors: &Cors, origin: Option<&'static str>, lines: &[(&'static str, &'static str)]| {
                let mut answer = headers(lines);
                strip(&mut answer);
                decorate(cors, origin.map(HeaderValue::from_static).as_ref(), &mut answer);
                answer
            };
        // What the function said is not said beside it.
        let own = [
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "9"),
            ("x", "y"),
        ];
        let answer = decorated(&app, Some("https://b.example"), &own);
        assert_eq!(
            told(&answer, "access-control-allow-origin").as_deref(),
            Some("https://b.example")
        );
        assert_eq!(
            told(&answer, "access-control-allow-credentials").as_deref(),
            Some("true")
        );
        assert_eq!(
            told(&answer, "access-control-expose-headers").as_deref(),
            Some("etag")
        );
        assert_eq!(told(&answer, "access-control-max-age"), None);
        assert_eq!(
            (told(&answer, "vary").as_deref(), told(&answer, "x").as_deref()),
            (Some("origin"), Some("y"))
        );
        for origin in [
            None,
            Some("https://evil.example"),
            Some("null"),
            Some("https://APP.example"),
        ] {
            let answer = decorated(&app, origin, &own);
            assert!(
                OURS.iter().all(|name| !answer.contains_key(name)),
                "{origin:?}: {answer:?}"
            );
            assert_eq!(told(&answer, "vary").as_deref(), Some("origin"));
        }
        let any = cors("origins = [\"*\"]");
        for origin in [None, Some("https://any.example"), Some("null")] {
            let answer = decorated(&any, origin, &[]);
            assert_eq!(told(&answer, "access-control-allow-origin").as_deref(), Some("*"));
        }
        for (before, after) in [
            ("accept-encoding", "accept-encoding, origin"),
            ("accept, Origin", "accept, Origin"),
            ("*", "*"),
        ] {
            assert_eq!(
                told(&decorated(&app, None, &[("vary", before)]), "vary").as_deref(),
                Some(after)
            );
        }
    }
}
