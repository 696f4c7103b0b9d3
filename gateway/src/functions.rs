//! The life of a call, top-down: route, auth, admit, locate, place, dispatch, finish.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nearfield_protocol::call::never_has_content;
use nearfield_protocol::{CallId, Problem, unix_ms};

use crate::attempts;
use crate::body::{self, Body, DeclaredBody, HeldEnd};
use crate::booking;
use crate::breaks_late::BreaksLate;
use crate::client::Peer;
use crate::contentless;
use crate::cors;
use crate::finish::FinishingBody;
use crate::heads;
use crate::own_fields::{ID, set_cost, set_placement, text_value};
use crate::prepare::{Prepared, prepare};
use crate::reply;
use crate::route::Served;
use crate::state::Gateway;
use crate::untaken;

/// How long a response may be read ahead while its guest is still working on it.
const HOLD: Duration = Duration::from_millis(5);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Methods that functions take, beside any that only a function knows.
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// How many headers a response gets from us: room for all of them is made at once.
const OUR_HEADERS: usize = 9;

/// Answers a request for a function.
pub async fn call(gateway: &Arc<Gateway>, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return reply::not_allowed("a function", request.method(), METHODS);
    }
    let started_unix_ms = unix_ms(SystemTime::now());
    let id = CallId::new(started_unix_ms, rand::random());
    let traceparent = request.headers().get(TRACEPARENT).cloned();
    let records = gateway.cluster.catalog.node.records();
    let routed = gateway.route_table(&records).find(request.uri().path());
    // Kept aside for the answer, whatever that is.
    let function = routed.as_ref().map(|routed| routed.served.function.clone());
    let cors = function
        .as_ref()
        .and_then(|function| function.manifest.cors.as_ref());
    let origin = cors.and_then(|_| request.headers().get(header::ORIGIN).cloned());
    let mut response = match cors.filter(|_| cors::is_preflight(&request)) {
        // A browser asks without a token whether it may ask with one.
        Some(cors) => cors::preflight(cors, request.headers()),
        None => {
            let prepared = prepare(gateway, &records, routed, request, peer, id, started_unix_ms).await;
            let mut response = match prepared {
                Ok(prepared) => run(gateway, prepared).await,
                Err(problem) => reply::problem(&problem),
            };
            if cors.is_some() {
                cors::strip(response.headers_mut());
            }
            response
        }
    };
    let headers = response.headers_mut();
    if let Some(cors) = cors {
        cors::decorate(cors, origin.as_ref(), headers);
    }
    headers.insert(ID, text_value(id.to_string()));
    if let Some(traceparent) = traceparent {
        headers.insert(TRACEPARENT, traceparent);
    }
    response
}

/// Gives the call to a host and makes a response of what comes back.
async fn run(gateway: &Arc<Gateway>, prepared: Prepared) -> Response<Body> {
    let Prepared {
        booking,
        hosts,
        spec,
        request,
    } = prepared;
    let (served, placement, chosen) = (
        booking.served.clone(),
        booking.placement.clone(),
        booking.chosen.clone(),
    );
    let (fault, refused) = (booking.fault.clone(), booking.refused.clone());
    let scarce = booking.scarce.clone();
    let (method, version) = (request.method().clone(), request.version());
    let (on_report, report) = booking.begin();
    let (chosen, response) = match hosts[..] {
        [host] if host == gateway.cluster.hosts.local() => {
            let _ = chosen.set(host);
            (
                host,
                gateway
                    .cluster
                    .dispatch
                    .to(host)
                    .call(spec, request, on_report)
                    .await,
            )
        }
        _ => {
            let cluster = &gateway.cluster;
            let handle = |host| cluster.dispatch.to(host);
            let attempts = attempts::call(&cluster.hosts, handle, &hosts, &chosen, spec, request, on_report);
            Box::pin(attempts).await
        }
    };
    let mut response = match read_ahead(&served, &method, response, &refused).await {
        Ok((parts, frames, Rest::Ended(trailers))) => {
            let mut response = Response::from_parts(parts, body::buffered(frames, trailers));
            if let Ok(cost) = report.await {
                set_cost(response.headers_mut(), &cost);
                // Over HTTP/1.1 a client that takes nothing stops its own connection alone.
                if version > Version::HTTP_11 {
                    response = response.map(|body| untaken::holding(body, cost.places));
                }
            }
            response
        }
        Ok((mut parts, frames, Rest::Streams(rest))) => {
            let trailer = match served.function.manifest.require.gpu {
                None => HeaderValue::from_static("nearfield-fuel, server-timing"),
                Some(_) => HeaderValue::from_static("nearfield-fuel, nearfield-gpu, server-timing"),
            };
            // HTTP/1.1 has trailers behind chunks alone.
            if version > Version::HTTP_11 || !parts.headers.contains_key(header::CONTENT_LENGTH) {
                parts.headers.insert(header::TRAILER, trailer);
            }
            let body = FinishingBody::new(frames, rest, report);
            Response::from_parts(parts, BreaksLate::new(body).boxed_unsync())
        }
        Err(problem) => {
            let problem = fault
                .problem()
                .unwrap_or_else(|| booking::told(problem, scarce.as_ref()));
            let mut response = reply::problem(&problem);
            if let Ok(cost) = report.await {
                set_cost(response.headers_mut(), &cost);
            }
            response
        }
    };
    let host = gateway.cluster.hosts.header(&chosen);
    set_placement(response.headers_mut(), host, &placement);
    response
}

/// What is left of a response after reading ahead.
enum Rest {
    Ended(Option<HeaderMap>),
    Streams(DeclaredBody),
}

type ReadAhead = (http::response::Parts, VecDeque<Bytes>, Rest);

/// Checks the head and reads ahead. Everything of the response that is not returned is dropped here,
/// which tells the host that nobody wants it; why is in `refused` by then.
async fn read_ahead(
    served: &Served,
    method: &Method,
    response: Result<Response<Body>, Problem>,
    refused: &Arc<OnceLock<Problem>>,
) -> Result<ReadAhead, Problem> {
    let mut response = response?;
    let checked = heads::check_response(&served.function.name, &mut response);
    // What a guest answered is judged after its call, so nobody else speaks for that.
    let length = checked.inspect_err(|problem| drop(refused.set(problem.clone())))?;
    response.headers_mut().reserve(OUR_HEADERS);
    let contentless = *method == Method::HEAD || never_has_content(response.status().as_u16());
    let (parts, rest) = contentless::settle(method, response).await?.into_parts();
    let length = length.filter(|_| !contentless);
    let mut rest = DeclaredBody::new(rest, served.function.clone(), length, refused.clone());
    let held = body::hold(&mut rest, HOLD).await;
    match held.end {
        HeldEnd::Failed(problem) => Err(problem),
        HeldEnd::Ended(trailers) => Ok((parts, held.frames, Rest::Ended(trailers))),
        HeldEnd::More => Ok((parts, held.frames, Rest::Streams(rest))),
    }
}
