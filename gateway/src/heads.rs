//! What of a message's head passes: from clients to guests, and from guests to clients.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version, request};
use nearfield_protocol::http::{DeclaredLength, is_reserved};
use nearfield_protocol::{FunctionName, Problem, ProblemKind, limits, units};

use crate::client::Peer;

/// What a client may say of itself only through a proxy that we trust, because guests believe it: where a request comes
/// from, what was asked for first, and who a proxy found the client to be.
const CLAIMS: [&str; 29] = [
    "forwarded",
    "x-real-ip",
    "x-real-port",
    "x-client-ip",
    "x-client-port",
    "x-cluster-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "fastly-client-ip",
    "fly-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-host",
    "x-rewrite-url",
    "x-proxyuser-ip",
    "x-remote-addr",
    "x-remote-ip",
    "front-end-https",
    "proxy-client-ip",
    "remote-addr",
    "remote-host",
    "wl-proxy-client-ip",
    "x-forwarded",
    "x-scheme",
    "x-url-scheme",
];

/// Beginnings of names that are such claims.
const CLAIMS_BEGIN: [&str; 3] = ["x-forwarded-", "x-original-", "x-envoy-"];

/// Who a proxy found the client to be. Only a proxy that we trust may say it.
const USERS: [&str; 6] = [
    "client-cert",
    "client-cert-chain",
    "remote-user",
    "ssl-client-cert",
    "x-client-cert",
    "x-remote-user",
];
/// Beginnings of names that say so.
const USERS_BEGIN: [&str; 4] = ["x-ssl-client-", "ssl-client-", "x-auth-request-", "x-remote-"];

/// What speaks for a whole origin, which all functions share: one function's word would change what browsers do with the
/// others. Cookies are not here, because functions need them: their `Path` keeps them apart from friends, not from foes.
const WHOLE_ORIGIN: [(&str, &str); 18] = [
    ("accept-ch", "asks for client hints with every later request"),
    ("activate-storage-access", "opens unpartitioned storage"),
    ("alt-svc", "moves the origin to another server (RFC 7838)"),
    (
        "attribution-reporting-register-source",
        "reports clicks in the origin's name",
    ),
    (
        "attribution-reporting-register-trigger",
        "reports clicks in the origin's name",
    ),
    (
        "clear-site-data",
        "deletes the origin's cookies, caches and storage",
    ),
    ("critical-ch", "the same as accept-ch, with a second request"),
    ("expect-ct", "refuses the origin's certificates"),
    ("nel", "reports the origin's network errors elsewhere"),
    ("observe-browsing-topics", "notes topics for the origin"),
    (
        "origin-agent-cluster",
        "decides for all of the origin's pages which process they share",
    ),
    ("public-key-pins", "refuses the origin's certificates"),
    ("report-to", "names where the origin's reports go"),
    (
        "secure-session-registration",
        "binds the origin's sessions to a device",
    ),
    (
        "service-worker-allowed",
        "lets a worker answer for paths above its own",
    ),
    (
        "set-login",
        "tells browsers that the origin's user is signed in or out",
    ),
    (
        "strict-transport-security",
        "keeps browsers off the origin without TLS",
    ),
    (
        "use-as-dictionary",
        "decompresses the origin's later answers with this one",
    ),
];

/// What a proxy before this node takes for its own orders: to send a file of its own, or to treat the answer otherwise.
const PROXY_ORDERS: [&str; 4] = [
    "x-sendfile",
    "x-lighttpd-send-file",
    "x-lighttpd-send-tempfile",
    "x-reproxy-url",
];
/// Beginnings of names that are such orders.
const PROXY_ORDERS_BEGIN: [&str; 2] = ["x-accel-", "x-litespeed-"];

/// Refuses a request that HTTP allows in principle and no function should have to think about. What it says of its length.
pub fn check_request<B>(request: &Request<B>) -> Result<Option<DeclaredLength>, Problem> {
    let headers = request.headers();
    let bytes = size_bytes(headers);
    if headers.len() > limits::REQUEST_HEADER_FIELDS || bytes > limits::REQUEST_HEADER_BYTES {
        return Err(
            Problem::new(ProblemKind::HeadersTooLarge, "the request headers are too large").with_limit(
                format!(
                    "request headers = {} fields, {} bytes",
                    limits::REQUEST_HEADER_FIELDS,
                    limits::REQUEST_HEADER_BYTES
                ),
            ),
        );
    }
    let refused = |detail: String| Problem::new(ProblemKind::BadRequest, detail);
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !is_chunked(coding)) || codings.next().is_some() {
        return Err(refused(
            "the request's `transfer-encoding` is not `chunked` alone, and a function would get the body still encoded".to_owned(),
        ));
    }
    for (name, what) in [(header::HOST, "hosts"), (header::AUTHORIZATION, "tokens")] {
        if headers.get_all(&name).iter().nth(1).is_some() {
            return Err(refused(format!(
                "the request names two {what}: send one `{name}`"
            )));
        }
    }
    let length = DeclaredLength::of(
        headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .map(HeaderValue::as_bytes),
    );
    length.map_err(|fault| refused(format!("the request's `content-length` {fault}")))
}

/// Takes out of a request's head what is not the client's to say, and what concerns one connection only.
/// `by_trusted_proxy`: a proxy that we trust sent it.
pub fn clean_request(headers: &mut HeaderMap, by_trusted_proxy: bool) {
    strip_hop_by_hop(headers);
    join_cookies(headers);
    // The token was for us; a guest that could read it could use it.
    headers.remove(header::AUTHORIZATION);
    remove_where(headers, |name| {
        is_claim(name) || (!by_trusted_proxy && is_user(name))
    });
}

/// Which host was asked. The target goes before `host` (RFC 9112 §3.2.2); HTTP/1.0 may name none, and then it is the
/// address that was connected to, because guests count on having one.
pub fn authority(parts: &request::Parts, peer: &Peer) -> Result<Authority, Problem> {
    let refused = |detail: String| Problem::new(ProblemKind::BadRequest, detail);
    let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let authority = match (parts.uri.authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, None | Some(b"")) if parts.version <= Version::HTTP_10 => {
            Authority::try_from(peer.listener.to_string()).map_err(|error| refused(error.to_string()))?
        }
        (None, None) => return Err(refused("the request names no host".to_owned())),
        (None, Some(host)) => Authority::try_from(host)
            .map_err(|error| refused(format!("the request's `host` is no host: {error}")))?,
    };
    // RFC 9110 §4.2.1: who reads `http://:80/` otherwise is told no host.
    if authority.host().is_empty() {
        return Err(refused("the request's host is empty".to_owned()));
    }
    // RFC 9110 §4.2.4: it is there to make one host look like another.
    match authority.as_str().contains('@') {
        true => Err(refused(
            "the request's host has user information before it".to_owned(),
        )),
        false => Ok(authority),
    }
}

/// Refuses a function's head that is too large or ends no request, and takes out what is not the function's to say. What it
/// says of its length.
pub fn check_response<B>(
    function: &FunctionName,
    response: &mut Response<B>,
) -> Result<Option<DeclaredLength>, Problem> {
    let refused = |detail: String| Problem::new(ProblemKind::BadResponse, detail);
    let headers = response.headers();
    let (fields, bytes) = (headers.len(), size_bytes(headers));
    if fields > limits::RESPONSE_HEADER_FIELDS || bytes > limits::RESPONSE_HEADER_BYTES {
        let detail = format!("function `{function}` set {fields} headers of {bytes} bytes");
        return Err(refused(detail).with_limit(format!(
            "response headers = {} fields, {}",
            limits::RESPONSE_HEADER_FIELDS,
            units::exact_bytes(limits::RESPONSE_HEADER_BYTES as u64)
        )));
    }
    check_status(function, response.status())?;
    let length = DeclaredLength::of(
        headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .map(HeaderValue::as_bytes),
    );
    let length = length
        .map_err(|fault| refused(format!("function `{function}` answered with a body that {fault}")))?;
    let headers = response.headers_mut();
    strip_hop_by_hop(headers);
    remove_where(headers, |name| {
        is_order(name) || WHOLE_ORIGIN.iter().any(|(known, _)| name == *known)
    });
    if let Some(length) = length {
        // One word for it, however it was said.
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length.declared()));
    }
    Ok(length)
}

/// Refuses a status that ends no request, or that HTTP does not have (RFC 9110 §15).
fn check_status(function: &FunctionName, status: StatusCode) -> Result<(), Problem> {
    let what = match status.as_u16() {
        200..=599 => return Ok(()),
        100..=199 => "ends no request",
        _ => "is no status of HTTP",
    };
    Err(Problem::new(
        ProblemKind::BadResponse,
        format!(
            "function `{function}` answered with status {}, which {what}",
            status.as_u16()
        ),
    ))
}

/// Takes out of trailers what they may not say: what heads may not say, and what decides how a message is read or who
/// sent it (RFC 9110 §6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| {
        not_forwarded(name)
            || is_claim(name)
            || is_user(name)
            || is_order(name)
            || WHOLE_ORIGIN.iter().any(|(known, _)| name == *known)
            || matches!(
                *name,
                header::AUTHORIZATION
                    | header::CONTENT_ENCODING
                    | header::CONTENT_LENGTH
                    | header::CONTENT_RANGE
                    | header::CONTENT_TYPE
                    | header::COOKIE
                    | header::HOST
                    | header::LOCATION
                    | header::SET_COOKIE
            )
    });
}

fn is_claim(name: &HeaderName) -> bool {
    is_of(name, &CLAIMS, &CLAIMS_BEGIN)
}

fn is_user(name: &HeaderName) -> bool {
    is_of(name, &USERS, &USERS_BEGIN)
}

/// Whether it is one of these names, or a name of nodes, for somebody who reads `_` as `-`: whoever makes variables of names does
/// (RFC 3875 §4.1.18).
fn is_of(name: &HeaderName, names: &[&str], beginnings: &[&str]) -> bool {
    let is = |name: &str| names.contains(&name) || beginnings.iter().any(|begin| name.starts_with(begin));
    match name.as_str() {
        name if name.contains('_') => {
            let name = name.replace('_', "-");
            is(&name) || is_reserved(&name)
        }
        name => is(name),
    }
}

fn is_order(name: &HeaderName) -> bool {
    is_of(name, &PROXY_ORDERS, &PROXY_ORDERS_BEGIN)
}

fn size_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum()
}

/// Makes one field of several: HTTP/2 clients send one cookie each, which is for HTTP/2 alone (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.nth(1).is_none() {
        return;
    }
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    let cookies: Vec<&[u8]> = cookies.into_iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Removes what concerns one connection only (RFC 9110 §7.6.1), and names that are ours to set.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // What routes a message or frames it concerns everybody on its way (RFC 9110 §7.6.1).
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
        .collect();
    remove_where(headers, not_forwarded);
    for name in named {
        headers.remove(name);
    }
}

/// Removes the fields with these names. Few heads have any, so they are only read.
fn remove_where(headers: &mut HeaderMap, is_out: impl Fn(&HeaderName) -> bool) {
    let names: Vec<_> = headers.keys().filter(|name| is_out(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn not_forwarded(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(
        name.as_str(),
        "keep-alive" | "proxy-connection" | "http2-settings"
    ) || is_reserved(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer::new(
            "192.0.2.7:4000".parse().unwrap(),
            "192.0.2.1:8080".parse().unwrap(),
            false,
        )
    }

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_host_is_what_the_target_says_then_the_header_then_where_it_came_in() {
        let of = |version, uri: &str, host: Option<&str>| {
            let mut request = Request::builder().version(version).uri(uri);
            if let Some(host) = host {
                request = request.header(header::HOST, host);
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            authority(&parts, &peer())
                .map(|authority| authority.to_string())
                .ok()
        };
        let some = |text: &str| Some(text.to_owned());
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert_eq!(
                of(version, "http://a.example:1/x", Some("b")),
                some("a.example:1")
            );
            assert_eq!(of(version, "/x", Some("b.example")), some("b.example"));
            assert_eq!(of(version, "/x", Some("b c")), None);
            assert_eq!(of(version, "/x", Some("a.example@b.example")), None);
            assert_eq!(of(version, "/x", Some(":80")), None);
            assert_eq!(of(version, "http://:80/x", Some("b")), None);
            assert_eq!(of(version, "http://a.example@b.example/x", Some("b")), None);
            let old = version == Version::HTTP_10;
            let fallback = some("192.0.2.1:8080").filter(|_| old);
            assert_eq!(of(version, "/x", None), fallback, "{version:?}");
            assert_eq!(of(version, "/x", Some("")), fallback, "{version:?}");
        }
    }

    #[test]
    fn cookies_are_one_field() {
        for (sent, joined) in [
            (&[][..], None),
            (&["a=1"], Some("a=1")),
            (&["a=1; b=2"], Some("a=1; b=2")),
            (&["a=1", "b=2"], Some("a=1; b=2")),
            (&["a=1", "b=2; c=3", "d=\"4\""], Some("a=1; b=2; c=3; d=\"4\"")),
        ] {
            let mut headers = HeaderMap::new();
            for cookie in sent {
                headers.append(header::COOKIE, HeaderValue::from_static(cookie));
            }
            join_cookies(&mut headers);
            let fields: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
            let expected: Vec<_> = joined
                .iter()
                .map(|joined| HeaderValue::from_static(joined))
                .collect();
            assert_eq!(fields, expected.iter().collect::<Vec<_>>(), "{sent:?}");
        }
    }

    #[test]
    fn a_request_s_claims_and_its_connection_s_fields_stop_here() {
        let mut sent = headers(&[
            ("host", "a.example"),
            ("accept", "*/*"),
            ("connection", "keep-alive, x-one"),
            ("connection", "X-Two , host,content-length"),
            ("content-length", "3"),
            ("x-one", "1"),
            ("x-two", "2"),
            ("x-three", "3"),
            ("authorization", "Bearer t"),
            ("nearfield-param-id", "forged"),
            ("x-forwarded-for", "203.0.113.1"),
            ("forwarded", "for=203.0.113.1"),
            ("x-real-ip", "203.0.113.1"),
            ("x-original-url", "/admin"),
            ("x-ssl-client-verify", "SUCCESS"),
        ]);
        clean_request(&mut sent, false);
        assert_eq!(names(&sent), ["accept", "content-length", "host", "x-three"]);
        for list in [&CLAIMS[..], &CLAIMS_BEGIN] {
            for name in list {
                let name = HeaderName::from_bytes(name.trim_end_matches('-').as_bytes()).unwrap();
                assert_eq!(name.as_str(), name.as_str().to_lowercase());
            }
        }
    }

    fn answer(status: u16, lines: &[(&'static str, &'static str)]) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = status.try_into().unwrap();
        *response.headers_mut() = headers(lines);
        response
    }

    fn checked(response: &mut Response<()>) -> Result<Option<u64>, Problem> {
        let length = check_response(&"f".parse().unwrap(), response)?;
        Ok(length.map(|length| length.declared()))
    }

    #[test]
    fn a_response_says_nothing_for_its_host_its_connection_or_its_origin() {
        let mut response = answer(
            200,
            &[
                ("content-type", "text/plain"),
                ("set-cookie", "a=1"),
                ("nearfield-problem", "1"),
                ("nearfield-fuel", "0"),
                ("connection", "close, x-one"),
                ("x-one", "1"),
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
                ("content-length", "5"),
            ],
        );
        for (name, _) in WHOLE_ORIGIN {
            response
                .headers_mut()
                .insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        assert_eq!(checked(&mut response).unwrap(), Some(5));
        assert_eq!(
            names(response.headers()),
            ["content-length", "content-type", "set-cookie"]
        );
        assert_eq!(
            response.headers().get_all(header::CONTENT_LENGTH).iter().count(),
            1
        );
    }

    #[test]
    fn a_response_that_cannot_be_sent_is_refused() {
        for status in [100, 101, 103, 199, 600, 700, 999] {
            assert!(checked(&mut answer(status, &[])).is_err(), "{status}");
        }
        for status in [200, 204, 299, 304, 418, 500, 599] {
            assert!(checked(&mut answer(status, &[])).is_ok(), "{status}");
        }
        for lengths in [
            &[("content-length", "5"), ("content-length", "6")][..],
            &[("content-length", "5, 6")],
            &[("content-length", "+5")],
            &[("content-length", "")],
        ] {
            assert!(checked(&mut answer(200, lengths)).is_err(), "{lengths:?}");
        }
        let mut many = answer(200, &[]);
        for number in 0..=limits::RESPONSE_HEADER_FIELDS {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            many.headers_mut().insert(name, HeaderValue::from_static("x"));
        }
        assert!(checked(&mut many).is_err());
    }

    #[test]
    fn trailers_say_no_more_than_heads() {
        let mut trailers = headers(&[
            ("grpc-status", "0"),
            ("nearfield-fuel", "0"),
            ("nearfield-param-id", "forged"),
            ("x-forwarded-for", "203.0.113.1"),
            ("content-length", "5"),
            ("set-cookie", "a=1"),
            ("clear-site-data", "\"*\""),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["grpc-status"]);
    }

    #[test]
    fn no_status_that_ends_nothing_gets_through() {
        let name = "f".parse().unwrap();
        for status in 100..1000 {
            let checked = check_status(&name, StatusCode::from_u16(status).unwrap());
            assert_eq!(checked.is_ok(), (200..600).contains(&status), "{status}");
        }
    }

    #[test]
    fn what_a_proxy_found_is_for_a_trusted_one_to_say() {
        let sent = || -> HeaderMap {
            let names = [
                "x-forwarded-for",
                "x_forwarded_for",
                "x-real_ip",
                "nearfield_param_id",
                "x-forwarded",
                "x-original-url",
                "remote-user",
                "x-remote-user",
                "x-auth-request-email",
                "client-cert",
                "x_ssl_client_cert",
                "x_note",
                "x-note",
            ];
            let fields = names.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v")));
            fields.into_iter().collect()
        };
        let left = |by_trusted_proxy| {
            let mut headers = sent();
            clean_request(&mut headers, by_trusted_proxy);
            let mut left: Vec<String> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            left.sort();
            left
        };
        assert_eq!(left(false), ["x-note", "x_note"]);
        let users = [
            "client-cert",
            "remote-user",
            "x-auth-request-email",
            "x-note",
            "x-remote-user",
            "x_note",
            "x_ssl_client_cert",
        ];
        assert_eq!(left(true), users);
    }

    #[test]
    fn a_function_gives_no_orders_to_a_proxy() {
        let response = Response::builder()
            .header("x-accel-redirect", "/internal/x")
            .header("X-Sendfile", "/etc/passwd");
        let mut response = response
            .header("x_accel_buffering", "no")
            .header("x-note", "v")
            .body(())
            .unwrap();
        check_response(&"f".parse().unwrap(), &mut response).unwrap();
        assert_eq!(
            response
                .headers()
                .keys()
                .map(HeaderName::as_str)
                .collect::<Vec<_>>(),
            ["x-note"]
        );
    }

    #[test]
    fn a_request_is_chunked_or_it_is_not() {
        let check = |codings: &[&str]| {
            let mut request = Request::builder().uri("/");
            for coding in codings {
                request = request.header("transfer-encoding", *coding);
            }
            check_request(&request.body(()).unwrap()).is_ok()
        };
        assert!(check(&[]) && check(&["chunked"]) && check(&["Chunked"]));
        for codings in [
            &["gzip, chunked"][..],
            &["chunked, chunked"],
            &["identity", "chunked"],
            &["identity"],
            &[""],
        ] {
            assert!(!check(codings), "{codings:?}");
        }
    }
}
