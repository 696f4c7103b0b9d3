//! What bytes from outside are read by here, each as a function of any bytes that panics where something does not hold.

mod http1;

use std::sync::OnceLock;
use std::time::{Duration, UNIX_EPOCH};

use biscuit_auth::format::schema;
use biscuit_auth::{Biscuit, UnverifiedBiscuit};
use futures_util::FutureExt;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use nearfield_cluster::peer::message::{Answer, Op};
use nearfield_net::frame;
use nearfield_protocol::http::is_reserved;
use nearfield_protocol::manifest::{ManifestFile, Route};
use nearfield_protocol::records::TokenVersion;
use nearfield_protocol::{Problem, ProblemKind};
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::admin::{AdminHosts, browser};
use crate::client::Peer;
use crate::origin::Proxies;
use crate::preconditions::{self, EntityTag, Modified, Validators};
use crate::route::{self, Tree};
use crate::{cors, heads, paths, tokens};

pub use http1::line_ends;

/// Longest message that is looked at: no input is longer.
const MESSAGE_BYTES: usize = 1 << 20;
/// Routes that paths are looked up in.
const ROUTES: [&str; 6] = [
    "/a",
    "/a/{id}",
    "/a/{id}/b",
    "/a/{id}/c/{*rest}",
    "/f",
    "/files/{*path}",
];

/// A request's head, and what a function answers with the same fields: what must not pass does not.
pub fn head(bytes: &[u8]) {
    let Some(request) = request(bytes) else { return };
    let peer = Peer::new(
        ([192, 0, 2, 7], 4000).into(),
        ([192, 0, 2, 1], 8080).into(),
        false,
    );
    if heads::check_request(&request).is_ok() {
        assert!(request.headers().get_all(header::HOST).iter().count() <= 1);
        assert!(request.headers().get_all(header::AUTHORIZATION).iter().count() <= 1);
    }
    for hosts in [
        AdminHosts::default(),
        AdminHosts::new(["node.example".to_owned()]),
    ] {
        if browser::check_host(&hosts, &request, false).is_ok() {
            let _ = browser::check_origin(&request, true);
        }
    }
    let proxies = Proxies::new(["192.0.2.0/24".parse().unwrap(), "::/0".parse().unwrap()]);
    let _ = proxies.origin(peer.address.ip(), false, request.headers());
    told_to_browsers(request.headers());

    let (mut parts, ()) = request.into_parts();
    if let Ok(authority) = heads::authority(&parts, &peer) {
        assert!(!authority.as_str().contains('@') && !authority.host().is_empty());
    }
    let mut response = Response::new(());
    *response.headers_mut() = parts.headers.clone();
    if let Ok(length) = heads::check_response(&"f".parse().unwrap(), &mut response) {
        let declared = response.headers().get(header::CONTENT_LENGTH);
        assert_eq!(declared.is_some(), length.is_some());
        assert_clean(response.headers());
    }
    let mut trailers = parts.headers.clone();
    heads::clean_trailers(&mut trailers);
    assert_clean(&trailers);
    assert!(!trailers.contains_key(header::CONTENT_LENGTH) && !trailers.contains_key(header::HOST));
    heads::clean_request(&mut parts.headers, false);
    assert_clean(&parts.headers);
    assert!(!parts.headers.contains_key(header::AUTHORIZATION));
    assert!(parts.headers.get_all(header::COOKIE).iter().count() <= 1);
    assert!(
        !parts
            .headers
            .keys()
            .any(|name| name.as_str().starts_with("x-forwarded-"))
    );
}

/// What concerns one connection only, and what only nodes say, is gone.
fn assert_clean(headers: &HeaderMap) {
    for name in [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
    ] {
        assert!(!headers.contains_key(name));
    }
    assert!(!headers.keys().any(|name| is_reserved(name.as_str())));
}

fn told_to_browsers(asked: &HeaderMap) {
    for rules in [
        "origins = ['*'], headers = ['*'], methods = ['*']",
        "origins = ['https://app.example'], credentials = true",
    ] {
        let manifest = ManifestFile::parse(&format!("[function.f]\ncors = {{ {rules} }}\n")).unwrap();
        let rules = manifest
            .function
            .values()
            .next()
            .and_then(|entry| entry.manifest.cors.as_ref())
            .unwrap();
        let mut response = cors::preflight(rules, asked);
        cors::decorate(rules, asked.get(header::ORIGIN), response.headers_mut());
        let allowed = response.headers().get_all(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        assert!(allowed.iter().count() <= 1);
        assert!(
            allowed
                .iter()
                .all(|origin| origin == "*" || origin == "https://app.example")
        );
    }
}

/// The target of a request: a path that passes means one thing to all who read it.
pub fn path(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    let path = uri.path();
    if paths::check(path).is_err() {
        return;
    }
    let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
    let segments = || decoded.split(|&byte| matches!(byte, b'/' | b'\\'));
    assert!(!segments().any(|segment| matches!(segment, b"." | b"..")) && !decoded.contains(&0));
    let mut tree = Tree::default();
    for (index, text) in ROUTES.into_iter().enumerate() {
        assert!(tree.insert(&Route::try_from(text.to_owned()).unwrap(), index));
    }
    let Some(found) = tree.find(path) else { return };
    let below = &path[found.prefix_bytes..];
    assert!(below.is_empty() || below.starts_with('/') || path[..found.prefix_bytes].ends_with('/'));
    for value in found.values {
        let value = &path[value];
        assert!(!value.is_empty());
        if let Ok(told) = route::told("id", value) {
            assert!(HeaderValue::from_bytes(told.as_bytes()).is_ok());
        }
    }
    if paths::check_below(below).is_ok() {
        let slashes = |text: &[u8]| text.iter().filter(|&&byte| byte == b'/').count();
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(below).collect();
        assert_eq!(slashes(&decoded), slashes(below.as_bytes()));
    }
}

/// The preconditions and ranges of a request, as lines of its head: what is answered lies in the content.
pub fn preconditions(bytes: &[u8]) {
    let Some(headers) = fields(bytes) else { return };
    let modified = Modified {
        unix_s: 784_111_777,
        strong: true,
    };
    for tag in [EntityTag::strong("xyzzy"), EntityTag::weak("xyzzy")] {
        let current = Validators {
            tag,
            modified: Some(modified),
        };
        for (method, size_bytes) in [
            (Method::GET, 0),
            (Method::GET, 10_000),
            (Method::GET, u64::MAX),
            (Method::PUT, 10),
        ] {
            match preconditions::evaluate(&method, &headers, &current, Some(size_bytes)) {
                preconditions::Answer::Part(part) => {
                    assert!(part.start < part.end && part.end <= size_bytes && method == Method::GET);
                }
                preconditions::Answer::NotModified => assert!(method == Method::GET),
                preconditions::Answer::Failed(name) => assert!(headers.contains_key(name)),
                preconditions::Answer::Whole | preconditions::Answer::Unsatisfiable => {}
            }
        }
    }
}

/// A function token, as anybody may send it.
pub fn token(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(token) = read_token(text) {
        judge(&token);
    }
}

fn read_token(text: &str) -> Result<tokens::Token, Problem> {
    let key = tokens::keys(&[7; 32]).unwrap().public().to_bytes_hex();
    tokens::read(tokens::parse(text)?, &key)
}

/// What a holder appends to a token: any bytes, signed as they must be.
pub fn token_block(bytes: &[u8]) {
    let Some((token, objection)) = with_block(bytes) else {
        return;
    };
    match read_token(&token) {
        Ok(token) => {
            assert_eq!(objection, None);
            judge(&token);
        }
        Err(problem) => assert_eq!(problem.kind, ProblemKind::Unauthorized),
    }
}

/// A token of ours with a block of these bytes behind it, signed as a holder signs one, and what is wrong with that block. None
/// where the library does not take it for a block.
fn with_block(bytes: &[u8]) -> Option<(String, Option<&'static str>)> {
    static ISSUED: OnceLock<Biscuit> = OnceLock::new();
    let issued = ISSUED.get_or_init(|| {
        let keys = tokens::keys(&[7; 32]).unwrap();
        let grant = TokenVersion {
            id: "t1".into(),
            key: keys.public().to_bytes_hex(),
            function: "f".parse().unwrap(),
            component: None,
            max_fuel_per_day: None,
            expires_unix_ms: None,
            issued_unix_ms: 0,
        };
        Biscuit::from_base64(tokens::issue(&grant, &keys).unwrap(), keys.public()).unwrap()
    });
    let block = schema::Block::decode(bytes).ok()?;
    let next = tokens::keys(&[9; 32]).unwrap();
    let container = issued.container();
    let appended = container.append_serialized(&next, bytes.to_vec(), None).ok()?;
    let token = UnverifiedBiscuit::from(&appended.to_vec().ok()?).ok()?;
    Some((token.to_base64().ok()?, tokens::objection(&block, false)))
}

fn judge(token: &tokens::Token) {
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for (method, path) in [("GET", ""), ("POST", "a/b"), ("GET", "public/x")] {
        let judged = token.check(&tokens::Facts { now, method, path });
        assert!(judged.is_ok() || !token.is_plain());
    }
}

/// What a gateway asks of a host, and what it is answered.
pub fn op(bytes: &[u8]) {
    message::<Op>(bytes);
    message::<Answer>(bytes);
}

/// `METHOD TARGET VERSION`, then fields. As hyper would hand it over.
fn request(bytes: &[u8]) -> Option<Request<()>> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let mut line = bytes[..end].split(|&byte| byte == b' ');
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(line.next()?).ok()?;
    *request.uri_mut() = Uri::try_from(line.next()?).ok()?;
    *request.version_mut() = match line.next()? {
        b"1.0" => Version::HTTP_10,
        b"2" => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    *request.headers_mut() = fields(&bytes[end + 1..])?;
    Some(request)
}

/// `name: value`, a line each.
fn fields(bytes: &[u8]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
        headers.try_append(name, value).ok()?;
    }
    Some(headers)
}

/// The message that `bytes` are. What is read is written so that it is read as the same.
fn message<T: Serialize + DeserializeOwned>(mut bytes: &[u8]) {
    let read = frame::read::<T>(&mut bytes, MESSAGE_BYTES)
        .now_or_never()
        .unwrap();
    let Ok(message) = read else { return };
    let written = serde_json::to_vec(&message).unwrap();
    let again: T = serde_json::from_slice(&written).unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
}

#[cfg(test)]
nearfield_mutate::targets!(head, path, preconditions, line_ends, token, token_block, op);
