//! The life of a call, top-down: route, auth, admit, locate, place, dispatch, finish.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, Uri, request};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use nearfield_net::Records;
use nearfield_protocol::call::{CallSpec, Stages, never_has_content};
use nearfield_protocol::gpu::{GpuKind, GpuUsage};
use nearfield_protocol::manifest::{Locate, Sought, Template};
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::{CallId, Digest, NodeId, Problem, ProblemKind, limits};

use crate::admit::Client;
use crate::attempts;
use crate::auth::{Asked, Caller};
use crate::body::{self, Body, BodyFault, BoundedBody, DeclaredBody, HeldEnd};
use crate::booking::{self, Booking, Cost};
use crate::budget::{self, Allowance};
use crate::calls::Placement;
use crate::catalog::unix_ms;
use crate::contentless;
use crate::cors;
use crate::finish::FinishingBody;
use crate::heads;
use crate::origin::Origin;
use crate::paths;
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

    let asked = Asked {
        function,
        method: parts.method.as_str(),
        path: &rest,
    };
    let caller = gateway.auth.caller(&parts.headers, &asked, records)?;
    let origin = peer.origin(&gateway.proxies, &parts.headers);
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
    let hosts = gateway.hosts.count();
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
            Some(Box::pin(locate_shard(gateway, locate, &inputs, &filling)).await?)
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
        (None, located, _) => {
            let chosen = Box::pin(choose(gateway, records, served, located.as_ref(), &inputs));
            Arc::new(chosen.await?)
        }
    };
    let hosts: Vec<NodeId> = placement.hosts().collect();
    if hosts.is_empty() {
        return Err(nobody(gateway, &placement, function.manifest.require.gpu));
    }

    let request = forward(parts, body, &routed, &values, peer, &origin)?;
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
    records: &Records,
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
    let only: Vec<_> = inputs.values().flat_map(|input| records.rule_of(input)).collect();
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
    mut parts: request::Parts,
    body: Body,
    routed: &Routed,
    values: &[String],
    peer: &Peer,
    origin: &Origin,
) -> Result<Request<Body>, Problem> {
    let path = parts.uri.path();
    let prefix = HeaderValue::from_str(routed.prefix(path)).unwrap_or(HeaderValue::from_static(""));
    let below = routed.below(path);
    let below = if below.is_empty() { "/" } else { below };
    let refused = |error: &dyn std::fmt::Display| Problem::new(ProblemKind::BadRequest, error.to_string());
    let authority = heads::authority(&parts, peer)?;
    let host = HeaderValue::from_str(authority.as_str());
    let path = match (below, parts.uri.query()) {
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

    heads::clean_request(&mut parts.headers);
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
    let method = request.method().clone();
    let (on_report, report) = booking.begin();
    let (chosen, response) = match hosts[..] {
        [host] if host == gateway.hosts.local() => {
            let _ = chosen.set(host);
            (
                host,
                gateway.dispatch.to(host).call(spec, request, on_report).await,
            )
        }
        _ => Box::pin(attempts::call(gateway, &hosts, &chosen, spec, request, on_report)).await,
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
            let problem = fault
                .problem()
                .unwrap_or_else(|| booking::told(problem, scarce.as_ref()));
            let mut response = reply::problem(&problem);
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
