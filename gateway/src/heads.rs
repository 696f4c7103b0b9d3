//! What of a message's head passes: from clients to guests, and from guests to clients.

mod names;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Request, Response, StatusCode, Version, request};
use nearfield_protocol::http::{DeclaredLength, named_by_connection};
use nearfield_protocol::{FunctionName, Problem, ProblemKind, limits, units};

use self::names::{is_claim, is_order, is_user, is_whole_origin, not_forwarded};
use crate::client::Peer;
use crate::own_fields::SERVER_TIMING;

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
    let length = length.map_err(|fault| fault.of_function(function))?;
    let headers = response.headers_mut();
    strip_hop_by_hop(headers);
    remove_where(headers, |name| {
        is_order(name) || is_whole_origin(name) || *name == SERVER_TIMING
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
            || is_whole_origin(name)
            || *name == SERVER_TIMING
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
    let connection = headers.get_all(header::CONNECTION).iter();
    let named: Vec<HeaderName> = named_by_connection(connection.map(HeaderValue::as_bytes))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
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

#[cfg(test)]
mod tests;
