//! Requests that guests send: only to what the manifest allows, to addresses that were looked at.
//!
//! A name is resolved once and the connection goes to the very address that was checked, so a name
//! cannot mean another address a moment later. Redirects are not followed: where one leads is the
//! guest's next request and is checked like any other.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nearfield_protocol::limits;
use nearfield_protocol::manifest::HostPort;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::exchange::{EXCHANGE_BYTES, exchange};
use crate::logs::CallLog;
use crate::lookups::{HostLookups, Lookups};
use crate::memory::BODY_CHUNK_BYTES;

/// Longest that resolving and connecting may take, whatever the guest asks for.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for the response's head, whatever the guest asks for.
const FIRST_BYTE: Duration = Duration::from_secs(60);
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

pub(crate) type Sent = (
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
pub(crate) enum Refusal {
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

#[cfg(test)]
mod tests {
    use super::*;

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
