//! Listeners and connections: who may connect, how long a connection may stay silent, how it ends.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nearfield_protocol::{Problem, ProblemKind, limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::client::Peer;
use crate::connections::{Connections, Proof};
use crate::content::{self, Content, NamedBy};
use crate::contentless;
use crate::first_bytes::FirstBytes;
use crate::line_ends::LineEnds;
use crate::origin::sharer;
use crate::pace::{self, PacedStreams};
use crate::stall::StallGuard;
use crate::state::Gateway;
use crate::untaken;
use crate::{admin, functions, reply};

/// How long open connections may go on once the node is asked to stop.
pub const DRAIN: Duration = Duration::from_secs(30);
/// Streams that one HTTP/2 connection may have open.
const HTTP2_STREAMS: u32 = 128;
/// How often the first bytes of a connection are looked at again while they are too few to tell.
const SNIFF_STEP: Duration = Duration::from_millis(5);
/// How long a stop waits for what a new connection has sent already.
const LAST_LOOK: Duration = Duration::from_millis(100);
/// What HTTP/2 begins with, as far as it differs from any HTTP/1.1 request line.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Which of the two listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Functions and bytes.
    Functions,
    /// `/v1`, metrics, health.
    Admin,
}

/// Serves one listener until `stop`, then lets open connections end within [`DRAIN`].
pub async fn serve(
    gateway: Arc<Gateway>,
    side: Side,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    let connections = Arc::new(Connections::default());
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: wait for some connection to end.
                tracing::warn!(%error, "a connection cannot be accepted now");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // A trusted proxy brings many clients, whose shares are of calls.
        let is_proxy = gateway.proxies.trusts(address.ip());
        let Some(place) = connections.enter((!is_proxy).then(|| sharer(address.ip()))) else {
            continue;
        };
        let (gateway, tls, stop) = (gateway.clone(), tls.clone(), stop.clone());
        tracker.spawn(async move {
            gateway.metrics.connections.inc();
            tokio::select! {
                () = connection(&gateway, side, stream, place.proof.clone(), address, tls, stop) => {}
                () = place.pushed_out.cancelled() => {}
            }
            gateway.metrics.connections.dec();
        });
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!(
            connections = tracker.len(),
            "connections still open after draining"
        );
    }
}

async fn connection(
    gateway: &Arc<Gateway>,
    side: Side,
    stream: TcpStream,
    proof: Arc<Proof>,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    // Small responses must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    // A socket that cannot tell its own address is already broken.
    let Ok(listener) = stream.local_addr() else {
        return;
    };
    let peer = Arc::new(Peer::new(address, listener, tls.is_some()));
    match tls {
        None => match begun(speaks_http2(&stream), &stop).await {
            Ok(http2) => speak(gateway, side, StallGuard::new(stream), http2, proof, peer, stop).await,
            Err(error) => tracing::debug!(%address, %error, "the connection said nothing"),
        },
        Some(acceptor) => match begun(acceptor.accept(StallGuard::new(stream)), &stop).await {
            Ok(stream) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                speak(gateway, side, stream, http2, proof, peer, stop).await;
            }
            Err(error) => tracing::debug!(%address, %error, "the TLS handshake failed"),
        },
    }
}

/// What a client must begin with, in time. Whoever says nothing does not hold up a stop.
async fn begun<T>(beginning: impl Future<Output = io::Result<T>>, stop: &CancellationToken) -> io::Result<T> {
    let stopped = async {
        stop.cancelled().await;
        // What has arrived is looked at.
        tokio::time::sleep(LAST_LOOK).await;
    };
    tokio::select! {
        biased;
        begun = tokio::time::timeout(limits::HEADER_TIMEOUT, beginning) => begun?,
        () = stopped => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

/// Looks at the first bytes without taking them.
async fn speaks_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; HTTP2_PREFACE.len()];
    loop {
        let seen = stream.peek(&mut first).await?;
        if seen == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if !HTTP2_PREFACE.starts_with(&first[..seen]) {
            return Ok(false);
        }
        if seen == HTTP2_PREFACE.len() {
            return Ok(true);
        }
        tokio::time::sleep(SNIFF_STEP).await;
    }
}

async fn speak(
    gateway: &Arc<Gateway>,
    side: Side,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    http2: bool,
    proof: Arc<Proof>,
    peer: Arc<Peer>,
    stop: CancellationToken,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (gateway, peer, proof) = (gateway.clone(), peer.clone(), proof.clone());
        async move {
            let under_way = proof.request();
            let path = request.uri().path();
            let is_open = path == admin::HEALTH || (side == Side::Admin && admin::is_open(path));
            let open = is_open.then(|| {
                let origin = peer.origin(&gateway.proxies, request.headers());
                gateway.admission.open_answers.enter(sharer(origin.address))
            });
            let response = match open {
                None => finished(&gateway, side, request, &peer).await,
                Some(Some(share)) => {
                    let response = finished(&gateway, side, request, &peer).await;
                    response.map(|body| untaken::holding(body, share))
                }
                Some(None) => reply::problem(&too_many_open()),
            };
            // Whoever got what not everybody gets has shown that it is a client.
            if !is_open && response.status().as_u16() < 400 {
                proof.give();
            }
            // What streams is under way until it has ended.
            let streams = response.body().size_hint().exact().is_none();
            Ok::<_, Infallible>(match streams {
                true => response.map(|body| untaken::holding(body, under_way)),
                false => response,
            })
        }
    });
    let ended = if http2 {
        let io = TokioIo::new(FirstBytes::new(stream, stop.clone()));
        let connection = http2::Builder::new(PacedStreams)
            .timer(TokioTimer::new())
            .max_header_list_size(limits::REQUEST_HEADER_BYTES as u32)
            .max_concurrent_streams(HTTP2_STREAMS)
            .keep_alive_interval(limits::BODY_IDLE)
            .keep_alive_timeout(limits::HEADER_TIMEOUT)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            // A request that has arrived is read before the connection is told to end.
            biased;
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    } else {
        let io = TokioIo::new(LineEnds::new(stream));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEADER_TIMEOUT)
            .max_headers(limits::REQUEST_HEADER_FIELDS)
            .max_buf_size(limits::REQUEST_HEADER_BYTES)
            .serve_connection(io, service);
        tokio::pin!(connection);
        tokio::select! {
            // A request that has arrived is read before the connection is told to end.
            biased;
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(address = %peer.address, %error, "the connection ended early");
    }
}

fn too_many_open() -> Problem {
    Problem::new(
        ProblemKind::TooManyRequests,
        "as many answers that need no token are on their way to this address as may be: take those first",
    )
    .with_limit(format!("answers without a token = {}", limits::OPEN_ANSWERS))
}

/// An answer in the form that its request's method and version take.
async fn finished(
    gateway: &Arc<Gateway>,
    side: Side,
    request: Request<Incoming>,
    peer: &Peer,
) -> Response<Body> {
    let head = request.method() == Method::HEAD;
    let old = request.version() <= Version::HTTP_11;
    let has_body = !request.body().is_end_stream();
    let mut response = answer(gateway, side, request, peer).await;
    if response.status().canonical_reason().is_none() {
        // hyper would say `<none>`.
        response.extensions_mut().insert(ReasonPhrase::from_static(b""));
    }
    if old && has_body {
        if matches!(
            response.status(),
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT
        ) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        // A body that nobody read to its end ends the connection. hyper finds out when it is polled next, and says
        // `connection: close` only if the head is not written by then.
        tokio::task::yield_now().await;
    }
    match head {
        true => contentless::of_head(response),
        false => response.map(pace::paced),
    }
}

/// The one place where a path is first looked at.
async fn answer(
    gateway: &Arc<Gateway>,
    side: Side,
    request: Request<Incoming>,
    peer: &Peer,
) -> Response<Body> {
    let path = request.uri().path();
    if path == admin::HEALTH {
        return match *request.method() {
            Method::GET | Method::HEAD => {
                let mut response = reply::text(StatusCode::OK, "ok\n");
                // It is so now: a cache that keeps it would hide a node's end.
                let fresh = HeaderValue::from_static("no-store");
                response.headers_mut().insert(header::CACHE_CONTROL, fresh);
                response
            }
            _ => reply::not_allowed("`/healthz`", request.method(), content::METHODS),
        };
    }
    match side {
        // Boxed, because every request's future would be as large as the largest of these.
        Side::Admin => Box::pin(admin::answer(gateway, request, peer.tls)).await,
        Side::Functions if path.starts_with("/b3/") => Box::pin(bytes(gateway, &request)).await,
        Side::Functions => functions::call(gateway, request, peer).await,
    }
}

/// `/b3/{hex}` and `/b3/{dataset hex}/{path}`.
async fn bytes(gateway: &Gateway, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return reply::not_allowed("`/b3`", request.method(), content::METHODS);
    }
    let found = async {
        gateway.auth.admin(request.headers())?;
        let rest = &request.uri().path()["/b3/".len()..];
        let (hex, path) = match rest.split_once('/') {
            Some((hex, path)) => (hex, Some(path)),
            None => (rest, None),
        };
        let digest = nearfield_protocol::Digest::from_hex(hex)
            .map_err(|error| Problem::new(ProblemKind::BadRequest, error.to_string()))?;
        let Some(path) = path else {
            return Content::blob(&gateway.cluster.catalog.store, digest).await;
        };
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| Problem::new(ProblemKind::BadRequest, "the path is not UTF-8"))?;
        match gateway.cluster.dataset_or_blob(&digest).await? {
            Some(dataset) => Content::file(&dataset, &path),
            None => Err(content::no_folder(&digest)),
        }
    };
    match found.await {
        Ok(content) => {
            let store = &gateway.cluster.catalog.store;
            let named = NamedBy::ByDigest;
            content::respond(store, &content, named, request.method(), request.headers()).await
        }
        Err(problem) => reply::problem(&problem),
    }
}
