//! The real host: `wasi:http` through the `wasip2` crate, and our own interfaces.
//!
//! Whatever is here is part of every function that uses it, and of every call's start. So a hello must reach no
//! formatting, no `std::io` and no JSON from here: what can't fail aborts without a text.

mod data;
#[cfg(feature = "gpu")]
pub(crate) mod gpu;
pub mod job;
mod outgoing;
mod stream;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use wasip2::http::types::{Fields, OutgoingBody, OutgoingResponse};

pub use wasip2;
pub use wasip2::exports::http::incoming_handler::Guest;
pub use wasip2::http::types::{IncomingRequest, ResponseOutparam};

pub(crate) use data::{Dataset, Shard, write};
pub(crate) use outgoing::fetch;
pub(crate) use stream::{Incoming, Sink};

use crate::body::{BodyWriter, Content};
use crate::handler::Handler;
use crate::{Body, Request, Response};

pub(crate) fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Runs `handler` for one call.
pub fn serve<Arguments>(handler: impl Handler<Arguments>, request: IncomingRequest, out: ResponseOutparam) {
    send(handler.answer(|| receive(request)), out);
}

fn receive(incoming: IncomingRequest) -> Request {
    use http::Method;
    use wasip2::http::types::Method as Wasi;

    let method = match incoming.method() {
        Wasi::Get => Method::GET,
        Wasi::Head => Method::HEAD,
        Wasi::Post => Method::POST,
        Wasi::Put => Method::PUT,
        Wasi::Delete => Method::DELETE,
        Wasi::Connect => Method::CONNECT,
        Wasi::Options => Method::OPTIONS,
        Wasi::Trace => Method::TRACE,
        Wasi::Patch => Method::PATCH,
        Wasi::Other(name) => Method::from_bytes(name.as_bytes()).unwrap_or_default(),
    };
    // A path that the host let through and `http` does not take is unheard of: the root then.
    let path = incoming.path_with_query().unwrap_or_default();
    let uri = PathAndQuery::from_maybe_shared(Bytes::from(path))
        .map(Uri::from)
        .unwrap_or_default();
    let mut headers = headers(&incoming.headers());
    // Hosts keep `host` out of a guest's headers, and tell it beside them.
    let host = incoming
        .authority()
        .map(Bytes::from)
        .map(HeaderValue::from_maybe_shared);
    if let Some(Ok(host)) = host {
        headers.insert(header::HOST, host);
    }

    let mut request = Request::new(Body::from_reader(Incoming::new(incoming)));
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    request
}

fn send(response: Response, out: ResponseOutparam) {
    let (head, body) = response.into_parts();
    let outgoing = OutgoingResponse::new(fields(&head.headers));
    if outgoing.set_status_code(head.status.as_u16()).is_err() {
        std::process::abort();
    }
    let Ok(sender) = outgoing.body() else {
        std::process::abort()
    };
    ResponseOutparam::set(out, Ok(outgoing));
    // Unfinished, a body is a broken transfer to the host and the client: what a failure should look like.
    if write_body(body, &sender) {
        let _ = OutgoingBody::finish(sender, None);
    }
}

/// Whether all of `body` was sent. A failure that is not the client's going away is in the log.
fn write_body(body: Body, sender: &OutgoingBody) -> bool {
    let Ok(stream) = sender.write() else {
        std::process::abort()
    };
    match body.0 {
        Content::Whole(bytes) => stream::write_whole(&stream, &bytes),
        _ => match body.write_to(&mut BodyWriter::new(Sink::stream(stream))) {
            Ok(()) => true,
            Err(error) => {
                crate::error!("the body could not be sent whole", cause = error.to_string());
                false
            }
        },
    }
}

/// The host's headers as ours. One that `http` does not take is left out.
fn headers(fields: &Fields) -> HeaderMap {
    let entries = fields.entries();
    let mut headers = HeaderMap::with_capacity(entries.len());
    for (name, value) in entries {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_maybe_shared(Bytes::from(value));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

/// Our headers as the host's. One that the host keeps for itself (`connection`, `transfer-encoding`) is left out.
fn fields(headers: &HeaderMap) -> Fields {
    if headers.is_empty() {
        return Fields::new();
    }
    let entry =
        |(name, value): (&HeaderName, &HeaderValue)| (name.as_str().to_owned(), value.as_bytes().to_vec());
    let entries: Vec<_> = headers.iter().map(entry).collect();
    Fields::from_list(&entries).unwrap_or_else(|_| {
        let fields = Fields::new();
        for (name, value) in &entries {
            let _ = fields.append(name, value);
        }
        fields
    })
}
