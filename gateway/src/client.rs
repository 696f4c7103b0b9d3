//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};

use crate::origin::{Origin, Proxies};

/// The other end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// This end of the connection.
    pub listener: SocketAddr,
    pub tls: bool,
    /// `x-forwarded-for` of its own requests, made once.
    forwarded_for: HeaderValue,
}

impl Peer {
    pub fn new(address: SocketAddr, listener: SocketAddr, tls: bool) -> Self {
        Peer {
            address,
            listener,
            tls,
            forwarded_for: address_value(address.ip().to_canonical()),
        }
    }

    /// `x-forwarded-for` of a request that comes from `origin`.
    pub fn forwarded_for(&self, origin: &Origin) -> HeaderValue {
        match origin.address == self.address.ip().to_canonical() {
            true => self.forwarded_for.clone(),
            false => address_value(origin.address),
        }
    }

    /// Where a request of this connection comes from.
    pub fn origin(&self, proxies: &Proxies, headers: &HeaderMap) -> Origin {
        let address = self.address.ip().to_canonical();
        match proxies.trusts(address) {
            true => proxies.origin(address, self.tls, headers),
            false => Origin {
                address,
                tls: self.tls,
            },
        }
    }
}

/// An address as a header tells it.
fn address_value(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}
