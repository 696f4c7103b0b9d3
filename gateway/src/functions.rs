//! The life of a call, top-down: route, auth, admit, locate, place, dispatch, finish.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nearfield_net::Records;
use nearfield_protocol::call::{CallSpec, Stages};
use nearfield_protocol::gpu::{GpuKind, GpuUsage};
use nearfield_protocol::manifest::{Locate, Sought, Template};
use nearfield_protocol::{CallId, Digest, NodeId, Problem, ProblemKind, limits};

use crate::admit;
use crate::attempts;
use crate::auth::{Asked, Caller};
use crate::body::{self, Body, BodyFault, BoundedBody, HeldEnd};
use crate::booking::{Booking, Cost};
use crate::calls::Placement;
use crate::catalog::unix_ms;
use crate::contentless;
use crate::cors;
use crate::finish::FinishingBody;
use crate::place::table::Host;
use crate::place::{self, Ask, Candidate, Need, Standing};
use crate::reply;
use crate::route::{Routed, Served};
use crate::server::{Gateway, Peer};

/// How long a response may be read ahead while its guest is still working on it.
const HOLD: Duration = Duration::from_millis(5);

const ID: HeaderName = HeaderName::from_static("nearfield-id");
const HOST: HeaderName = HeaderName::from_static("nearfield-host");
const PLACEMENT: HeaderName = HeaderName::from_static("nearfield-placement");
pub const FUEL: HeaderName = HeaderName::from_static("nearfield-fuel");
pub const GPU: HeaderName = HeaderName::from_static("nearfield-gpu");
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
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
    let started_unix_ms = unix_ms();
    let id = CallId::new(started_unix_ms, rand::random());
    let traceparent = request.headers().get(TRACEPARENT).cloned();
    let records = gateway.catalog.node.records();
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

/// A call that is ready to be given to its host.
struct Prepared {
    booking: Booking,
    /// Where it may run, the best first.
    hosts: Vec<NodeId>,
    spec: CallSpec,
    request: Request<Body>,
}

/// Everything before a host gets to see the call.
async fn prepare(
    gateway: &Arc<Gateway>,
    records: &Records,
    routed: Option<Routed>,
    request: Request<Incoming>,
    peer: &Peer,
    id: CallId,
    started_unix_ms: u64,
) -> Result<Prepared, Problem> {
    let started = Instant::now();
    check_request(&request)?;
    let path = request.uri().path();
    let routed = routed.ok_or_else(|| no_route(path))?;
    let served = &routed.served;
    let function = &served.function;
    let rest = routed.rest(path)?;
    let values = routed.values(path)?;

    let asked = Asked {
        function,
        method: request.method().as_str(),
        path: &rest,
    };
    let caller = gateway.auth.caller(request.headers(), &asked, records)?;
    if let Caller::Token(token) = &caller {
        gateway.admission.check_budget(token, started_unix_ms)?;
    }
    if request.body().size_hint().lower() > limits::REQUEST_BODY_BYTES {
        return Err(body::too_large());
    }
    let place_in_line = admit::enter(&served.places, function)?;

    let inputs = served.inputs.clone()?;
    let located = match &function.manifest.locate {
        Some(locate) => {
            let filling = Filling {
                rest: &rest,
                query: request.uri().query().unwrap_or_default(),
                parameters: &served.parameters,
                values: &values,
            };
            Some(locate_shard(gateway, locate, &inputs, &filling).await?)
        }
        None => None,
    };
    // Whether the only host has the GPU that is asked for has to be looked at.
    let alone = gateway
        .hosts
        .alone()
        .filter(|_| function.manifest.require.gpu.is_none());
    let placement = match (alone, &located, inputs.is_empty()) {
        // Nothing to look for and nowhere else to go: the same for every call.
        (Some(host), None, true) => served
            .placement
            .get_or_init(|| Arc::new(only(gateway, host, None, &inputs)))
            .clone(),
        (Some(host), located, _) => Arc::new(only(gateway, host, located.as_ref(), &inputs)),
        (None, located, _) => Arc::new(choose(gateway, served, located.as_ref(), &inputs).await?),
    };
    let hosts: Vec<NodeId> = placement.hosts().collect();
    if hosts.is_empty() {
        return Err(nobody(gateway, &placement, function.manifest.require.gpu));
    }

    let fault = BodyFault::default();
    let request = forward(request, &routed, &values, peer, &fault)?;
    let booking = Booking {
        gateway: gateway.clone(),
        served: served.clone(),
        id,
        chosen: Arc::default(),
        placement,
        caller,
        started,
        started_unix_ms,
        fault,
        refused: Arc::default(),
        place: place_in_line,
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

/// Refuses what HTTP allows in principle and no function should have to think about.
fn check_request<B>(request: &Request<B>) -> Result<(), Problem> {
    let bytes: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if request.headers().len() > limits::REQUEST_HEADER_FIELDS || bytes > limits::REQUEST_HEADER_BYTES {
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
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        return Err(Problem::new(
            ProblemKind::BadRequest,
            "the request names two hosts",
        ));
    }
    Ok(())
}

fn no_route(path: &str) -> Problem {
    match path.strip_prefix("/fn/") {
        Some(rest) => crate::catalog::unknown_function(rest.split('/').next().unwrap_or_default()),
        None => Problem::new(
            ProblemKind::UnknownRoute,
            format!("no function answers for `{path}`; `nearfield ls functions` lists their URLs"),
        ),
    }
}

/// What fills the holes of a `locate`.
struct Filling<'a> {
    /// The path below the route, decoded.
    rest: &'a str,
    query: &'a str,
    parameters: &'a [(String, HeaderName)],
    /// Of each parameter, decoded.
    values: &'a [String],
}

impl Filling<'_> {
    fn fill(&self, template: &Template) -> Option<String> {
        let query = |name: &str| {
            form_urlencoded::parse(self.query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value)
        };
        let parameter = |name: &str| {
            let mut told = self.parameters.iter().zip(self.values);
            let (_, value) = told.find(|((known, _), _)| known.eq_ignore_ascii_case(name))?;
            Some(value.as_str().into())
        };
        template.fill(self.rest, query, parameter)
    }
}

/// The shard that the manifest's `locate` names for this request. A path or key that is not there is no
/// error here: the function decides what to answer.
async fn locate_shard(
    gateway: &Gateway,
    locate: &Locate,
    inputs: &std::collections::BTreeMap<String, Digest>,
    filling: &Filling<'_>,
) -> Result<Located, Problem> {
    let digest = inputs.get(&locate.input).ok_or_else(|| {
        Problem::new(
            ProblemKind::BadManifest,
            format!("locate names `{}`, which is no input", locate.input),
        )
    })?;
    let dataset = gateway.dataset(digest).await?;
    let shard = match locate.sought() {
        Some(Sought::Path(path)) => filling
            .fill(path)
            .and_then(|path| dataset.locate(&path))
            .map(|at| at.shard),
        Some(Sought::Key(key)) => filling
            .fill(key)
            .and_then(|key| dataset.meta.key.as_ref()?.shard_of(key.as_bytes())),
        None => None,
    };
    let shard = shard.and_then(|index| dataset.shard(index));
    Ok(match shard {
        Some((meta, shard)) => Located {
            blob: shard,
            size_bytes: meta.size_bytes,
        },
        None => Located {
            blob: *digest,
            size_bytes: 0,
        },
    })
}

/// What `locate` came to.
struct Located {
    /// A shard, or the dataset's list of them where it has no such path or key.
    blob: Digest,
    size_bytes: u64,
}

/// Why nobody takes a call.
fn nobody(gateway: &Gateway, placement: &Placement, required: Option<GpuKind>) -> Problem {
    let has = |host: &Host, kind: GpuKind| host.load.gpu.as_ref().is_some_and(|gpu| kind.takes(gpu.kind));
    if let Some(kind) = required
        && !gateway.hosts.table().iter().any(|(_, host)| has(host, kind))
    {
        let (what, next) = match kind {
            GpuKind::Any => ("GPU", "`nearfield doctor` tells what a host lacks"),
            GpuKind::Hardware => (
                "GPU that is hardware",
                "a function that requires `gpu = \"any\"` runs on the software adapter, too",
            ),
        };
        return Problem::new(ProblemKind::NoGpu, format!("no host has a {what} now; {next}"));
    }
    let reason = placement
        .candidates
        .first()
        .map(|candidate| candidate.standing.to_string());
    Problem::new(
        ProblemKind::Overload,
        match reason {
            Some(reason) => format!("no host takes this call now; the nearest one {reason}"),
            None => "no host takes calls now: none is there".to_owned(),
        },
    )
}

/// Where there is but one host.
fn only(
    gateway: &Gateway,
    host: NodeId,
    located: Option<&Located>,
    inputs: &std::collections::BTreeMap<String, Digest>,
) -> Placement {
    let store = &gateway.catalog.store;
    Placement {
        candidates: vec![Candidate {
            host,
            standing: Standing::Costs {
                ms: 0,
                missing_bytes: 0,
                upload_bytes: None,
            },
        }],
        inputs: inputs.len(),
        local: inputs.values().filter(|digest| store.has(digest)).count(),
        moved_bytes: 0,
        located: located.map(|located| located.blob),
    }
}

/// Asks placement with what this gateway knows of the hosts.
async fn choose(
    gateway: &Gateway,
    served: &Served,
    located: Option<&Located>,
    inputs: &std::collections::BTreeMap<String, Digest>,
) -> Result<Placement, Problem> {
    let (store, function) = (&gateway.catalog.store, &served.function);
    let located_in = function.manifest.locate.as_ref().map(|locate| &locate.input);
    let mut spreads = Vec::new();
    for (name, digest) in inputs {
        // Of the input that is looked into, only what was found is needed.
        if located.is_none() || Some(name) != located_in {
            let dataset = gateway.dataset(digest).await?;
            let resident = match function.manifest.require.gpu {
                Some(_) => gateway.hosts.resident(&dataset),
                None => Default::default(),
            };
            spreads.push((dataset.meta.size_bytes, gateway.hosts.spread(&dataset), resident));
        }
    }
    let mut needs: Vec<Need<'_>> = spreads
        .iter()
        .map(|(size_bytes, held, resident)| Need::Spread {
            size_bytes: *size_bytes,
            held,
            resident,
        })
        .collect();
    needs.extend(located.map(|located| Need::Blob {
        digest: located.blob,
        size_bytes: located.size_bytes,
    }));
    let records = gateway.catalog.node.records();
    let only: Vec<_> = match inputs.is_empty() {
        true => Vec::new(),
        false => {
            let used = records
                .all_dataset_versions()
                .filter(|version| inputs.values().any(|input| *input == version.digest));
            used.flat_map(|version| version.only.clone()).collect()
        }
    };
    let ask = Ask {
        key: located.map_or(function.component, |located| located.blob),
        component: function.component,
        component_bytes: store.size_of(&function.component).unwrap_or_default(),
        located: located
            .filter(|located| located.size_bytes > 0)
            .map(|located| located.blob),
        needs: &needs,
        only: &only,
        gpu: function.manifest.require.gpu,
    };
    let table = gateway.hosts.table();
    let candidates = place::place(&ask, &table);
    let (local, moved_bytes) = match candidates
        .first()
        .map(|best| (table.slot(&best.host), &best.standing))
    {
        Some((Some(slot), Standing::Costs { missing_bytes, .. })) => {
            let missing = |need: &&Need<'_>| need.missing_bytes(&table, slot) == 0;
            (needs.iter().filter(missing).count(), *missing_bytes)
        }
        _ => (0, 0),
    };
    drop(table);
    Ok(Placement {
        candidates,
        inputs: inputs.len(),
        local,
        moved_bytes,
        located: located.map(|located| located.blob),
    })
}

/// The request as the guest gets to see it: its path below the route, headers that are its own.
fn forward(
    request: Request<Incoming>,
    routed: &Routed,
    values: &[String],
    peer: &Peer,
    fault: &BodyFault,
) -> Result<Request<Body>, Problem> {
    let (mut parts, incoming) = request.into_parts();
    let path = parts.uri.path();
    let prefix = HeaderValue::from_str(routed.prefix(path)).unwrap_or(HeaderValue::from_static(""));
    let below = routed.below(path);
    let below = if below.is_empty() { "/" } else { below };
    let refused = |error: &dyn std::fmt::Display| Problem::new(ProblemKind::BadRequest, error.to_string());
    let authority = authority(&parts, peer)?;
    // One word for it, whichever a guest or another node looks at.
    if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
        parts.headers.insert(header::HOST, host);
    }
    let path = match (below, parts.uri.query()) {
        ("/", None) => PathAndQuery::from_static("/"),
        (below, None) => PathAndQuery::try_from(below).map_err(|error| refused(&error))?,
        (below, Some(query)) => {
            PathAndQuery::try_from(format!("{below}?{query}")).map_err(|error| refused(&error))?
        }
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if peer.tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(authority);
    uri.path_and_query = Some(path);
    parts.uri = Uri::from_parts(uri).map_err(|error| refused(&error))?;

    strip_hop_by_hop(&mut parts.headers);
    join_cookies(&mut parts.headers);
    // The token was for us; a guest that could read it could use it.
    parts.headers.remove(header::AUTHORIZATION);
    // Nobody before us is trusted to say where a request comes from.
    parts.headers.insert(FORWARDED_PREFIX, prefix);
    for ((_, name), value) in routed.served.parameters.iter().zip(values) {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            parts.headers.insert(name.clone(), value);
        }
    }
    parts.headers.insert(FORWARDED_FOR, peer.forwarded_for.clone());
    parts.headers.insert(
        FORWARDED_PROTO,
        HeaderValue::from_static(if peer.tls { "https" } else { "http" }),
    );

    let body = if incoming.is_end_stream() {
        body::empty()
    } else {
        BoundedBody::new(incoming, limits::REQUEST_BODY_BYTES, fault.clone()).boxed_unsync()
    };
    Ok(Request::from_parts(parts, body))
}

/// Which host was asked. The target goes before `host` (RFC 9112 §3.2.2); HTTP/1.0 may name none, and then it is the
/// address that was connected to, because guests count on having one.
fn authority(parts: &http::request::Parts, peer: &Peer) -> Result<Authority, Problem> {
    let refused = |detail: String| Problem::new(ProblemKind::BadRequest, detail);
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.clone());
    }
    let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    match host {
        None | Some(b"") if parts.version <= Version::HTTP_10 => {
            Authority::try_from(peer.listener.to_string()).map_err(|error| refused(error.to_string()))
        }
        None => Err(refused("the request names no host".to_owned())),
        Some(host) => Authority::try_from(host)
            .map_err(|error| refused(format!("the request's `host` is no host: {error}"))),
    }
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
    let named = headers.get(header::CONNECTION).cloned();
    // Few heads have any of these, so they are only read.
    if headers.keys().any(not_forwarded) {
        let names: Vec<_> = headers
            .keys()
            .filter(|name| not_forwarded(name))
            .cloned()
            .collect();
        for name in names {
            headers.remove(name);
        }
    }
    if let Some(named) = named {
        for name in named.to_str().unwrap_or_default().split(',') {
            if let Ok(name) = HeaderName::try_from(name.trim()) {
                headers.remove(name);
            }
        }
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
    ) || matches!(name.as_str(), "keep-alive")
        || name.as_str().starts_with("nearfield-")
        || name.as_str().starts_with("x-forwarded-")
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
    let method = request.method().clone();
    let (on_report, report) = booking.begin();
    let (chosen, response) = match hosts[..] {
        [host] if host == gateway.hosts.local() => {
            let _ = chosen.set(host);
            (host, gateway.dispatch.call(host, spec, request, on_report).await)
        }
        _ => attempts::call(gateway, &hosts, &chosen, spec, request, on_report).await,
    };
    let mut response = match read_ahead(&served, &method, response, &refused).await {
        Ok((parts, frames, Rest::Ended(trailers))) => {
            let mut response = Response::from_parts(parts, body::buffered(frames, trailers));
            if let Ok(cost) = report.await {
                set_cost(response.headers_mut(), cost);
            }
            response
        }
        Ok((mut parts, frames, Rest::Streams(rest))) => {
            let trailer = match served.function.manifest.require.gpu {
                None => HeaderValue::from_static("nearfield-fuel, server-timing"),
                Some(_) => HeaderValue::from_static("nearfield-fuel, nearfield-gpu, server-timing"),
            };
            parts.headers.insert(header::TRAILER, trailer);
            Response::from_parts(parts, FinishingBody::new(frames, rest, report).boxed_unsync())
        }
        Err(problem) => {
            let mut response = reply::problem(&fault.problem().unwrap_or(problem));
            if let Ok(cost) = report.await {
                set_cost(response.headers_mut(), cost);
            }
            response
        }
    };
    set_common(response.headers_mut(), gateway, chosen, &placement);
    response
}

/// What is left of a response after reading ahead.
enum Rest {
    Ended(Option<HeaderMap>),
    Streams(Body),
}

type ReadAhead = (http::response::Parts, VecDeque<Bytes>, Rest);

/// Checks the head and reads ahead. Everything of the response that is not returned is dropped here,
/// which tells the host that nobody wants it; why is in `refused` by then.
async fn read_ahead(
    served: &Served,
    method: &Method,
    response: Result<Response<Body>, Problem>,
    refused: &OnceLock<Problem>,
) -> Result<ReadAhead, Problem> {
    let checked = response.and_then(|response| check_head(served, &response).map(|()| response));
    let response = checked.inspect_err(|problem| {
        // What a guest answered is judged after its call, so nobody else speaks for that.
        if problem.kind == ProblemKind::BadResponse {
            let _ = refused.set(problem.clone());
        }
    })?;
    let response = contentless::settle(method, clean_head(response)).await?;
    let (parts, mut rest) = response.into_parts();
    let held = body::hold(&mut rest, HOLD).await;
    match held.end {
        HeldEnd::Failed(problem) => Err(problem),
        HeldEnd::Ended(trailers) => Ok((parts, held.frames, Rest::Ended(trailers))),
        HeldEnd::More => Ok((parts, held.frames, Rest::Streams(rest))),
    }
}

pub fn set_cost(headers: &mut HeaderMap, cost: Cost) {
    headers.insert(FUEL, HeaderValue::from(cost.fuel));
    if let Some(usage) = &cost.gpu {
        headers.insert(GPU, gpu_value(usage));
    }
    headers.insert(SERVER_TIMING, server_timing(&cost.stages));
}

/// What the gateway says of every call.
fn set_common(headers: &mut HeaderMap, gateway: &Gateway, host: NodeId, placement: &Placement) {
    let Placement {
        local,
        inputs,
        moved_bytes,
        ..
    } = placement;
    headers.insert(HOST, gateway.hosts.header(&host));
    headers.insert(
        PLACEMENT,
        match inputs {
            0 => HeaderValue::from_static("local=0/0 moved=0"),
            _ => text_value(format!("local={local}/{inputs} moved={moved_bytes}")),
        },
    );
}

/// Refuses a head that is too large, or that ends no request.
fn check_head(served: &Served, response: &Response<Body>) -> Result<(), Problem> {
    let bytes: usize = response
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if bytes > limits::RESPONSE_HEADER_BYTES {
        return Err(Problem::new(
            ProblemKind::BadResponse,
            format!("function `{}` set {bytes} bytes of headers", served.function.name),
        )
        .with_limit(format!(
            "response headers = {} bytes",
            limits::RESPONSE_HEADER_BYTES
        )));
    }
    contentless::check_status(&served.function.name, response.status())
}

/// Takes out what is not the guest's to say.
fn clean_head(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().reserve(OUR_HEADERS);
    strip_hop_by_hop(response.headers_mut());
    response
}

fn server_timing(stages: &Stages) -> HeaderValue {
    // Milliseconds with three places, without floating point: this is written for every call.
    let (ms, us) = (|us: u64| us / 1000, |us: u64| us % 1000);
    let Stages {
        queue_us,
        load_us,
        run_us,
    } = *stages;
    text_value(format!(
        "queue;dur={}.{:03}, load;dur={}.{:03}, run;dur={}.{:03}",
        ms(queue_us),
        us(queue_us),
        ms(load_us),
        us(load_us),
        ms(run_us),
        us(run_us)
    ))
}

/// What a call took of the GPU: time, bytes each way, and shards that were in its memory and that were not.
fn gpu_value(usage: &GpuUsage) -> HeaderValue {
    let GpuUsage {
        gpu_ns,
        compile_us,
        dispatches: _,
        uploaded_bytes,
        downloaded_bytes,
        resident_hits,
        resident_misses,
    } = usage;
    text_value(format!(
        "ns={gpu_ns} compile_us={compile_us} uploaded={uploaded_bytes} downloaded={downloaded_bytes} \
         hits={resident_hits} misses={resident_misses}"
    ))
}

/// Text of ours that is made of visible ASCII.
fn text_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Peer {
        Peer {
            address: "192.0.2.7:4000".parse().unwrap(),
            listener: "192.0.2.1:8080".parse().unwrap(),
            tls: false,
            forwarded_for: HeaderValue::from_static("192.0.2.7"),
        }
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
}
