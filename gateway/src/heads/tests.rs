use super::names::{CLAIMS, CLAIMS_BEGIN, WHOLE_ORIGIN};
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
            ("server-timing", "me"),
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
        ("server-timing", "me"),
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
