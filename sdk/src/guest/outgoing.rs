//! Requests to other servers over `wasi:http/outgoing-handler`.

use http::uri::Scheme;
use http::{Method, StatusCode};
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Method as WasiMethod, OutgoingBody, OutgoingRequest, Scheme as WasiScheme,
};

use super::{fields, headers, stream::Incoming, write_body};
use crate::{Body, Error, Request, Response, Result};

pub(crate) fn fetch(request: Request) -> Result<Response> {
    let (head, body) = request.into_parts();
    let Some(authority) = head.uri.authority() else {
        return Err(Error::bad_request(format!("{} names no server", head.uri)));
    };
    let scheme = match head.uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => WasiScheme::Http,
        Some(scheme) if *scheme == Scheme::HTTPS => WasiScheme::Https,
        _ => {
            return Err(Error::bad_request(format!(
                "{} is neither http nor https",
                head.uri
            )));
        }
    };
    let failed = |cause: ErrorCode| {
        Error::new(
            StatusCode::BAD_GATEWAY,
            format!("{}: {}", head.uri, reason(&cause)),
        )
    };

    let outgoing = OutgoingRequest::new(fields(&head.headers));
    let path = head.uri.path_and_query().map(|path| path.as_str());
    let set = outgoing
        .set_method(&method(&head.method))
        .and_then(|()| outgoing.set_scheme(Some(&scheme)))
        .and_then(|()| outgoing.set_authority(Some(authority.as_str())))
        .and_then(|()| outgoing.set_path_with_query(path));
    let (Ok(()), Ok(sender)) = (set, outgoing.body()) else {
        return Err(Error::bad_request(format!(
            "the host does not take {} {}",
            head.method, head.uri
        )));
    };

    let pending = outgoing_handler::handle(outgoing, None).map_err(failed)?;
    // A server may answer before it has read all, and then stop reading: its answer counts, not our writing.
    if write_body(body, &sender) {
        let _ = OutgoingBody::finish(sender, None);
    }
    pending.subscribe().block();
    let Some(Ok(answer)) = pending.get() else {
        return Err(failed(ErrorCode::InternalError(None)));
    };
    let incoming = answer.map_err(failed)?;

    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(incoming.status())?;
    *response.headers_mut() = headers(&incoming.headers());
    *response.body_mut() = Body::from_reader(Incoming::response(incoming));
    Ok(response)
}

fn method(method: &Method) -> WasiMethod {
    match method.as_str() {
        "GET" => WasiMethod::Get,
        "HEAD" => WasiMethod::Head,
        "POST" => WasiMethod::Post,
        "PUT" => WasiMethod::Put,
        "DELETE" => WasiMethod::Delete,
        "CONNECT" => WasiMethod::Connect,
        "OPTIONS" => WasiMethod::Options,
        "TRACE" => WasiMethod::Trace,
        "PATCH" => WasiMethod::Patch,
        other => WasiMethod::Other(other.to_owned()),
    }
}

/// What went wrong, with the next step where there is one.
fn reason(code: &ErrorCode) -> String {
    match code {
        ErrorCode::HttpRequestDenied => "not granted; list its host:port under allow.http".to_owned(),
        ErrorCode::InternalError(Some(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}
