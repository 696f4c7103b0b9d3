//! Requests that guests send: only to what the manifest allows, to addresses that were looked at.
//!
//! A name is resolved once and the connection goes to the very address that was checked, so a name
//! cannot mean another address a moment later. Redirects are not followed: where one leads is the
//! guest's next request and is checked like any other.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use nearfield_protocol::http::named_by_connection;
use nearfield_protocol::limits;
use nearfield_protocol::manifest::HostPort;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::logs::CallLog;
use crate::lookups::{HostLookups, Lookups};
use crate::memory::{BODY_CHUNK_BYTES, FIELD_BYTES};

/// Longest that resolving and connecting may take, whatever the guest asks for.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for the response's head, whatever the guest asks for.
const FIRST_BYTE: Duration = Duration::from_secs(60);
/// Longest head of a response, and what hyper reads ahead of it.
const HEAD_BYTES: usize = 64 << 10;
/// What may come before a response's head is whole: itself, and interim responses, which nobody asked for.
const BYTES_BEFORE_HEAD: u64 = 2 * HEAD_BYTES as u64;
/// What the host holds for an exchange: hyper's buffers, of which the response's head is made, and what that has as fields.
const EXCHANGE_BYTES: u64 = 2 * HEAD_BYTES as u64 + FIELD_BYTES as u64;
/// Connections that the guests of one function's version have at once: a file each.
const CONNECTIONS: usize = 256;

/// Whom the guests of one function's version may ask.
pub(crate) struct Allowed {
    hosts: BTreeSet<HostPort>,
    lookups: Lookups,
    connections: Arc<Semaphore>,
}

impl Allowed {
    pub fn new(hosts: BTreeSet<HostPort>, lookups: HostLookups) -> Arc<Self> {
        Arc::new(Allowed {
            hosts,
            lookups: Lookups::new(lookups),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        })
    }
}

/// What one guest may send, and has sent.
pub(crate) struct Outgoing {
    allowed: Arc<Allowed>,
    log: CallLog,
    sent: u32,
    bytes: Arc<AtomicU64>,
    /// Exchanges under way: each has a clone.
    open: Arc<()>,
}

type Sent = (
    http::Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl Outgoing {
    pub fn new(allowed: Arc<Allowed>, log: CallLog) -> Self {
        Outgoing {
            allowed,
            log,
            sent: 0,
            bytes: Arc::default(),
            open: Arc::default(),
        }
    }

    /// Bytes that the host holds for exchanges under way.
    pub fn held_bytes(&self) -> u64 {
        (Arc::strong_count(&self.open) as u64 - 1) * EXCHANGE_BYTES
    }

    pub fn renew(&mut self) {
        self.sent = 0;
        self.bytes = Arc::default();
    }

    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Bytes of bodies, both ways.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the request may go out as far as the manifest says, and to which host.
    fn admit(&mut self, uri: &http::Uri) -> Result<HostPort, Refusal> {
        let host = target(uri).ok_or(Refusal::NoHost)?;
        if !self.allowed.hosts.contains(&host) {
            return Err(Refusal::NotAllowed(host));
        }
        if self.sent >= limits::OUTGOING_REQUESTS {
            return Err(Refusal::TooMany);
        }
        self.sent += 1;
        Ok(host)
    }
}

impl WasiHttpHooks for Outgoing {
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        // Nothing is to be told to the response's producer.
        drop(processed);
        let admitted = self.admit(request.uri());
        let (allowed, log, bytes) = (self.allowed.clone(), self.log.clone(), self.bytes.clone());
        let open = self.open.clone();
        Box::new(async move {
            let sending = async {
                let host = admitted?;
                send(
                    host,
                    &allowed,
                    request,
                    options.unwrap_or_default(),
                    (bytes, open),
                )
                .await
            };
            sending.await.map_err(|refusal: Refusal| {
                log.note(&format!("outgoing request refused: {refusal}"));
                refusal.into()
            })
        })
    }
}

/// Why a request did not go out, or got no answer.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("its URI names no host")]
    NoHost,
    #[error("`{0}` is not in the manifest's allow.http")]
    NotAllowed(HostPort),
    #[error("a call may send {} requests", limits::OUTGOING_REQUESTS)]
    TooMany,
    #[error("`{0}` cannot be resolved")]
    Unresolved(HostPort),
    #[error(
        "`{0}` is at {1}, which is no public address; list the address itself in allow.http if it is meant"
    )]
    NotPublic(HostPort, IpAddr),
    #[error("`{0}` did not accept a connection in time")]
    ConnectTimeout(HostPort),
    #[error("connecting to `{0}`: {1}")]
    Connect(HostPort, std::io::Error),
    #[error("TLS with `{0}`: {1}")]
    Tls(HostPort, std::io::Error),
    #[error("`{0}` did not answer in time")]
    AnswerTimeout(HostPort),
    #[error("talking to `{0}`: {1}")]
    Http(HostPort, hyper::Error),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::NoHost => Error::HttpRequestUriInvalid,
            Refusal::NotAllowed(_) | Refusal::TooMany => Error::HttpRequestDenied,
            Refusal::Unresolved(_) => Error::DnsError {
                rcode: None,
                info_code: None,
            },
            Refusal::NotPublic(..) => Error::DestinationIpProhibited,
            Refusal::ConnectTimeout(_) => Error::ConnectionTimeout,
            Refusal::Connect(_, error) => Error::Connect(error),
            Refusal::Tls(_, error) => Error::Tls(error),
            Refusal::AnswerTimeout(_) => Error::HttpResponseTimeout,
            Refusal::Http(_, error) => Error::Hyper(error),
        }
    }
}

/// Host and port that a request is for.
pub(crate) fn target(uri: &http::Uri) -> Option<HostPort> {
    let host = uri
        .host()?
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    let port = uri
        .port_u16()
        .unwrap_or(if uri.scheme() == Some(&http::uri::Scheme::HTTP) {
            80
        } else {
            443
        });
    // An IPv6 address has many spellings and one meaning.
    let host = host
        .parse::<Ipv6Addr>()
        .map_or(host, |address| address.to_string());
    Some(HostPort { host, port })
}

async fn send(
    host: HostPort,
    allowed: &Allowed,
    request: http::Request<WasiBody>,
    options: RequestOptions,
    (bytes, open): (Arc<AtomicU64>, Arc<()>),
) -> Result<Sent, Refusal> {
    let connect = options.connect_timeout.unwrap_or(CONNECT).min(CONNECT);
    let connecting = async {
        let place = allowed.connections.clone().acquire_owned().await;
        Ok((connect_checked(&host, allowed).await?, place.ok()))
    };
    let (stream, place) = tokio::time::timeout(connect, connecting)
        .await
        .map_err(|_| Refusal::ConnectTimeout(host.clone()))??;
    let held = (open, place);
    let first_byte = options.first_byte_timeout.unwrap_or(FIRST_BYTE).min(FIRST_BYTE);
    let tls = request.uri().scheme() != Some(&http::uri::Scheme::HTTP);
    let exchange = async {
        if tls {
            let stream = handshake_tls(&host, stream).await?;
            exchange(&host, stream, request, bytes, held).await
        } else {
            exchange(&host, stream, request, bytes, held).await
        }
    };
    tokio::time::timeout(first_byte, exchange)
        .await
        .map_err(|_| Refusal::AnswerTimeout(host.clone()))?
}

/// The addresses of a host, which may be one itself.
async fn resolve(host: &HostPort, lookups: &Lookups) -> Result<Vec<SocketAddr>, Refusal> {
    if let Ok(address) = host.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, host.port)]);
    }
    let found = lookups.resolve(host).await;
    found.ok_or_else(|| Refusal::Unresolved(host.clone()))
}

/// Resolves once and connects to the first address that may be talked to.
async fn connect_checked(host: &HostPort, allowed: &Allowed) -> Result<TcpStream, Refusal> {
    let resolved = resolve(host, &allowed.lookups).await?;
    let mut refusal = Refusal::Unresolved(host.clone());
    for address in resolved {
        if !may_connect(address, &allowed.hosts) {
            refusal = Refusal::NotPublic(host.clone(), address.ip());
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = Refusal::Connect(host.clone(), error),
        }
    }
    Err(refusal)
}

/// Public addresses, and those that the manifest lists as addresses.
fn may_connect(address: SocketAddr, allow: &BTreeSet<HostPort>) -> bool {
    let listed = HostPort {
        host: address.ip().to_string(),
        port: address.port(),
    };
    is_public(address.ip()) || allow.contains(&listed)
}

/// Whether an address is one of the whole internet's, by the IANA special-purpose registries.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped().or_else(|| embedded_v4(v6)) {
            Some(v4) => is_public_v4(v4),
            // Global unicast is 2000::/3; of it, documentation and the benchmarking range are not.
            None => {
                let first = v6.segments();
                (0x2000..0x4000).contains(&first[0])
                    && !(first[0] == 0x2001 && first[1] == 0x0db8)
                    && !(first[0] == 0x2001 && first[1] < 0x0200)
                    && !(first[0] == 0x3fff && first[1] < 0x1000)
            }
        },
    }
}

/// The IPv4 address inside a NAT64 or 6to4 one: those lead to it.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let from = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match (a, b) {
        (0x64, 0xff9b) if [c, d, e, f] == [0; 4] => Some(from(g, h)),
        (0x2002, high) => Some(from(high, c)),
        _ => None,
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_broadcast()
        || v4.is_documentation()
        || v4.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b)))
}

async fn handshake_tls(
    host: &HostPort,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Refusal> {
    let roots = rustls::RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let failed = |error: std::io::Error| Refusal::Tls(host.clone(), error);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(std::io::Error::other(error)))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        ServerName::try_from(host.host.clone()).map_err(|error| failed(std::io::Error::other(error)))?;
    tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(failed)
}

/// One HTTP/1.1 exchange. The connection lives as long as the returned future is polled, and `held` with it.
async fn exchange(
    host: &HostPort,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: http::Request<WasiBody>,
    bytes: Arc<AtomicU64>,
    held: impl Send + 'static,
) -> Result<Sent, Refusal> {
    let failed = |error| Refusal::Http(host.clone(), error);
    // The connection is to the host already; HTTP/1.1 wants the path alone in the request line.
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    *request.uri_mut() = path.parse().map_err(|_| Refusal::NoHost)?;
    let up = bytes.clone();
    let request = request.map(|body| count(body, up));
    let has_head = Arc::new(AtomicBool::new(false));
    let stream = UntilHead {
        stream,
        left_bytes: BYTES_BEFORE_HEAD,
        has_head: has_head.clone(),
    };
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let mut connection = Box::pin(connection);
    let response = {
        let answer = sender.send_request(request);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // The connection may end first with its answer already delivered.
            _ = &mut connection => answer.await,
        }
    }
    .map_err(failed)?;
    has_head.store(true, Ordering::Relaxed);
    let response = without_connections_own(response);
    let response = response.map(|body| count(body.map_err(Error::Hyper).boxed_unsync(), bytes));
    // What comes after the response, or breaks then, is no fault of the response: a body that is too short says so itself.
    let rest = async move {
        let _ = connection.await;
        drop(held);
        Ok(())
    };
    Ok((response, Box::new(rest)))
}

/// Removes what the response names as its connection's own: the engine keeps `connection` from the guest, which could not tell
/// these fields from those that are meant for it.
fn without_connections_own<B>(mut response: http::Response<B>) -> http::Response<B> {
    let connection = response.headers().get_all(http::header::CONNECTION).iter();
    let named: Vec<_> = named_by_connection(connection.map(http::HeaderValue::as_bytes))
        .filter_map(|name| http::HeaderName::from_bytes(name).ok())
        .collect();
    for name in named {
        response.headers_mut().remove(name);
    }
    response
}

/// A stream that fails once more came than may before a response's head. hyper reads over interim responses (1xx) by itself, and
/// without an end.
struct UntilHead<S> {
    stream: S,
    left_bytes: u64,
    has_head: Arc<AtomicBool>,
}

impl<S: AsyncRead + Unpin> AsyncRead for UntilHead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if !self.has_head.load(Ordering::Relaxed) {
            let read = (buffer.filled().len() - before) as u64;
            self.left_bytes = self.left_bytes.checked_sub(read).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "too much comes before the response's head",
                )
            })?;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for UntilHead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Counts a body's data bytes.
fn count(body: WasiBody, bytes: Arc<AtomicU64>) -> WasiBody {
    body.map_frame(move |frame| {
        if let Some(data) = frame.data_ref() {
            bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        frame
    })
    .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_response_is_whole_without_what_concerns_its_connection() {
        let (guest, mut origin) = tokio::io::duplex(4_096);
        tokio::spawn(async move {
            let _ = origin.read(&mut [0; 1_024]).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close, X-Gone, content-length\r\nx-gone: 1\r\n\
                           x-stays: 1\r\n\r\nthere, and what nobody asked for";
            origin.write_all(answer).await
        });
        let host: HostPort = "example.org:80".parse().unwrap();
        let body = http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
        let request = http::Request::get("http://example.org/").body(body).unwrap();
        let sent = exchange(&host, guest, request, Arc::default(), ()).await;
        let Ok((response, rest)) = sent else {
            panic!("it was refused")
        };
        let names: Vec<_> = response.headers().keys().map(|name| name.as_str()).collect();
        assert_eq!(names, ["content-length", "connection", "x-stays"]);
        let (body, rest) = tokio::join!(response.into_body().collect(), Box::into_pin(rest));
        assert_eq!(body.unwrap().to_bytes(), "there");
        assert!(rest.is_ok(), "{rest:?}");
    }

    #[tokio::test]
    async fn interim_responses_end() {
        let (guest, mut origin) = tokio::io::duplex(4_096);
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while origin
                .write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                .await
                .is_ok()
            {
                sent += 28;
            }
            sent
        });
        let host: HostPort = "example.org:80".parse().unwrap();
        let body = http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync();
        let request = http::Request::get("http://example.org/").body(body).unwrap();
        let held = Arc::new(());
        let sent = exchange(&host, guest, request, Arc::default(), held.clone()).await;
        assert!(matches!(sent, Err(Refusal::Http(..))));
        assert_eq!(Arc::strong_count(&held), 1, "what was held for it is given back");
        let came = sending.await.unwrap();
        assert!(
            (BYTES_BEFORE_HEAD..BYTES_BEFORE_HEAD * 2).contains(&came),
            "{came}"
        );
    }

    #[test]
    fn only_public_addresses() {
        for refused in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(!is_public(refused.parse().unwrap()), "{refused}");
        }
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn a_listed_address_is_meant_a_name_for_it_is_not() {
        let allow: BTreeSet<HostPort> = ["127.0.0.1:9000", "localhost:9001"]
            .iter()
            .map(|host| host.parse().unwrap())
            .collect();
        assert!(may_connect("127.0.0.1:9000".parse().unwrap(), &allow));
        assert!(!may_connect("127.0.0.1:9001".parse().unwrap(), &allow));
    }

    #[test]
    fn targets_have_one_spelling() {
        let target = |uri: &str| target(&uri.parse().unwrap()).unwrap().to_string();
        assert_eq!(target("https://API.example.org/x"), "api.example.org:443");
        assert_eq!(target("http://example.org/x"), "example.org:80");
        assert_eq!(target("http://[0:0:0:0:0:0:0:1]:8080/"), "[::1]:8080");
    }
}
