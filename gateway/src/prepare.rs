//! Everything before a host gets to see a call: route, auth, admit, locate, place.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, Uri, request};
use http_body::Body as _;
use hyper::body::Incoming;
use nearfield_cluster::unknown_function;
use nearfield_net::Records;
use nearfield_protocol::call::CallSpec;
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{CallId, NodeId, Problem, ProblemKind, limits};

use crate::admit::Client;
use crate::auth::{CallTarget, Caller};
use crate::body::{self, Body, BodyFault, BoundedBody};
use crate::booking::Booking;
use crate::budget::{self, Allowance};
use crate::choose::{choose, nobody, only};
use crate::client::Peer;
use crate::heads;
use crate::locate::{Filling, locate_shard};
use crate::origin::Origin;
use crate::paths;
use crate::route::Routed;
use crate::state::Gateway;

const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A call that is ready to be given to its host.
pub struct Prepared {
    pub booking: Booking,
    /// Where it may run, the best first.
    pub hosts: Vec<NodeId>,
    pub spec: CallSpec,
    pub request: Request<Body>,
}

/// Everything before a host gets to see the call.
pub async fn prepare(
    gateway: &Arc<Gateway>,
    records: &Records,
    routed: Option<Routed>,
    request: Request<Incoming>,
    peer: &Peer,
    id: CallId,
    started_unix_ms: u64,
) -> Result<Prepared, Problem> {
    let started = Instant::now();
    let length = heads::check_request(&request)?;
    let (parts, incoming) = request.into_parts();
    let path = parts.uri.path();
    paths::check(path)?;
    let routed = routed.ok_or_else(|| no_route(path))?;
    paths::check_below(routed.below(path))?;
    let served = &routed.served;
    let function = &served.function;
    let rest = routed.rest(path)?;
    let values = routed.values(path)?;

    let asked = CallTarget {
        function,
        method: parts.method.as_str(),
        path: &rest,
    };
    let origin = peer.origin(&gateway.proxies, &parts.headers);
    let caller = gateway
        .auth
        .caller(&parts.headers, &asked, records, origin.address)
        .await?;
    let client = Client::of(&caller, &origin);
    if incoming.size_hint().lower() > limits::REQUEST_BODY_BYTES {
        return Err(body::too_large());
    }
    let fault = BodyFault::default();
    let body = match incoming.is_end_stream() {
        true => body::empty(),
        false => {
            let body = BoundedBody::new(incoming, limits::REQUEST_BODY_BYTES, fault.clone());
            let body = body.declared(length);
            Box::pin(gateway.admission.begun(&client, body)).await?
        }
    };
    let hosts = gateway.cluster.hosts.count();
    let places = gateway
        .admission
        .enter(&served.pool, &client, function, hosts)
        .await?;
    let (allowance, scarce) = set_aside(gateway, &caller, function, started_unix_ms)?;
    // What the token has left of its day bounds the call, if that is less.
    let function = match &allowance {
        Some(allowance) if scarce.is_some() => {
            let mut bounded = FunctionVersion::clone(function);
            bounded.manifest.limits.fuel = allowance.fuel();
            &Arc::new(bounded)
        }
        _ => function,
    };

    let inputs = served.inputs.clone()?;
    let located = match &function.manifest.locate {
        Some(locate) => {
            let filling = Filling {
                rest: &rest,
                query: parts.uri.query().unwrap_or_default(),
                parameters: &served.parameters,
                values: &values,
            };
            // Boxed, like all that not every call waits for: each call's future would be as large, and is moved.
            Some(Box::pin(locate_shard(&gateway.cluster, locate, &inputs, &filling)).await?)
        }
        None => None,
    };
    // Whether the only host has the GPU that is asked for has to be looked at.
    let cluster = &gateway.cluster;
    let alone = cluster
        .hosts
        .alone()
        .filter(|_| function.manifest.require.gpu.is_none());
    let placement = match (alone, &located, inputs.is_empty()) {
        // Nothing to look for and nowhere else to go: the same for every call.
        (Some(host), None, true) => served
            .placement
            .get_or_init(|| Arc::new(only(cluster, host, None, &inputs)))
            .clone(),
        (Some(host), located, _) => Arc::new(only(cluster, host, located.as_ref(), &inputs)),
        (None, located, _) => {
            let chosen = Box::pin(choose(cluster, records, served, located.as_ref(), &inputs));
            Arc::new(chosen.await?)
        }
    };
    let hosts: Vec<NodeId> = placement.hosts().collect();
    if hosts.is_empty() {
        return Err(nobody(cluster, &placement, function.manifest.require.gpu));
    }

    let by_trusted_proxy = gateway.proxies.trusts(peer.address.ip().to_canonical());
    let request = forward(parts, body, &routed, &values, peer, &origin, by_trusted_proxy)?;
    let booking = Booking {
        gateway: gateway.clone(),
        served: served.clone(),
        id,
        chosen: Arc::default(),
        placement,
        allowance,
        scarce,
        started,
        started_unix_ms,
        fault,
        refused: Arc::default(),
        places,
    };
    let spec = CallSpec {
        id,
        function: function.clone(),
        inputs,
    };
    Ok(Prepared {
        booking,
        hosts,
        spec,
        request,
    })
}

/// What a call may burn of its token's day, and what to say if that is less than its function's limit and does not do.
fn set_aside(
    gateway: &Gateway,
    caller: &Caller,
    function: &FunctionVersion,
    now_unix_ms: u64,
) -> Result<(Option<Allowance>, Option<Problem>), Problem> {
    let Caller::Token(token) = caller else {
        return Ok((None, None));
    };
    let limit = function.manifest.limits.fuel;
    let allowance = gateway.admission.budgets.set_aside(token, limit, now_unix_ms)?;
    let scarce = allowance.as_ref().filter(|allowance| allowance.fuel() < limit);
    let scarce = scarce.map(|_| budget::used_up(token));
    Ok((allowance, scarce))
}

fn no_route(path: &str) -> Problem {
    match path.strip_prefix("/fn/") {
        Some(rest) => unknown_function(rest.split('/').next().unwrap_or_default()),
        None => Problem::new(
            ProblemKind::UnknownRoute,
            format!("no function answers for `{path}`; `nearfield ls functions` lists their URLs"),
        ),
    }
}

/// The request as the guest gets to see it: its path below the route, headers that are its own.
fn forward(
    mut parts: request::Parts,
    body: Body,
    routed: &Routed,
    values: &[String],
    peer: &Peer,
    origin: &Origin,
    by_trusted_proxy: bool,
) -> Result<Request<Body>, Problem> {
    let path = parts.uri.path();
    let prefix = HeaderValue::from_str(routed.prefix(path)).unwrap_or(HeaderValue::from_static(""));
    // As the token's checks saw it, for who does not decode it as well.
    let below = paths::plain(routed.below(path));
    let below = if below.is_empty() {
        Cow::Borrowed("/")
    } else {
        below
    };
    let refused = |error: &dyn std::fmt::Display| Problem::new(ProblemKind::BadRequest, error.to_string());
    let authority = heads::authority(&parts, peer)?;
    let host = HeaderValue::from_str(authority.as_str());
    let path = match (&*below, parts.uri.query()) {
        ("/", None) => PathAndQuery::from_static("/"),
        (below, None) => PathAndQuery::try_from(below).map_err(|error| refused(&error))?,
        (below, Some(query)) => {
            PathAndQuery::try_from(format!("{below}?{query}")).map_err(|error| refused(&error))?
        }
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if origin.tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(authority);
    uri.path_and_query = Some(path);
    parts.uri = Uri::from_parts(uri).map_err(|error| refused(&error))?;

    heads::clean_request(&mut parts.headers, by_trusted_proxy);
    // One word for it, whichever a guest or another node looks at.
    if let Ok(host) = host {
        parts.headers.insert(header::HOST, host);
    }
    parts.headers.insert(FORWARDED_PREFIX, prefix);
    for ((_, name), value) in routed.served.parameters.iter().zip(values) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            parts.headers.insert(name.clone(), value);
        }
    }
    parts.headers.insert(FORWARDED_FOR, peer.forwarded_for(origin));
    parts.headers.insert(
        FORWARDED_PROTO,
        HeaderValue::from_static(if origin.tls { "https" } else { "http" }),
    );

    Ok(Request::from_parts(parts, body))
}
