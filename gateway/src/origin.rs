//! Who a request comes from: the other end of its connection, or whom a proxy that we trust names.

use std::net::IpAddr;
use std::str::FromStr;

use http::{HeaderMap, HeaderName};
use ipnet::{IpNet, Ipv6Net};

use crate::fields::list;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What one customer of a provider has at least of IPv6, and may take any number of addresses from.
const IPV6_PREFIX: u8 = 64;

/// Addresses of proxies whose word on where a request comes from is taken.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

/// An address, or a network as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyRange(IpNet);

impl FromStr for ProxyRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => Ok(IpNet::from(address)),
            Err(_) => text.parse::<IpNet>(),
        };
        net.map(ProxyRange)
            .map_err(|_| format!("`{text}` is no address and no network such as 10.0.0.0/8"))
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub address: IpAddr,
    /// Whether the client spoke TLS.
    pub tls: bool,
}

impl Proxies {
    pub fn new(ranges: impl IntoIterator<Item = ProxyRange>) -> Self {
        Proxies(ranges.into_iter().map(|range| range.0).collect())
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }

    /// Where a request comes from that a trusted proxy at `address` sent. Of the chain that it tells, the last who is no
    /// trusted proxy: what stands before may be that client's own invention.
    pub fn origin(&self, address: IpAddr, tls: bool, headers: &HeaderMap) -> Origin {
        let mut from = address.to_canonical();
        for named in list(headers, &FORWARDED_FOR).rev() {
            if !self.trusts(from) {
                break;
            }
            match address_of(named) {
                Some(named) => from = named.to_canonical(),
                // Nobody knows who that is: it is the proxy's own.
                None => break,
            }
        }
        // The last proxy speaks to us, and knows what the first was spoken to in.
        let tls = match list(headers, &FORWARDED_PROTO).next_back() {
            Some(proto) => proto.eq_ignore_ascii_case("https"),
            None => tls,
        };
        Origin { address: from, tls }
    }
}

/// An address as proxies write it: also in brackets, and with a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || {
        text.parse::<std::net::SocketAddr>()
            .ok()
            .map(|address| address.ip())
    };
    text.parse().ok().or_else(bare).or_else(with_port)
}

/// Whose share of what is bounded an address takes from: its own, or that of its network of IPv6.
pub fn sharer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Net::new_assert(address, IPV6_PREFIX).network().into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn proxies(ranges: &[&str]) -> Proxies {
        Proxies::new(ranges.iter().map(|range| range.parse().unwrap()))
    }

    fn from(proxies: &Proxies, address: &str, lines: &[(&'static str, &'static str)]) -> (String, bool) {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let headers: HeaderMap = lines.iter().map(line).collect();
        let origin = proxies.origin(address.parse().unwrap(), false, &headers);
        (origin.address.to_string(), origin.tls)
    }

    #[test]
    fn a_trusted_proxy_names_the_client_and_nobody_else_does() {
        let proxies = proxies(&["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]);
        let said = |address, value| from(&proxies, address, &[("x-forwarded-for", value)]).0;
        for (address, value, client) in [
            ("10.1.2.3", "203.0.113.7", "203.0.113.7"),
            ("::ffff:10.1.2.3", "203.0.113.7", "203.0.113.7"),
            ("10.1.2.3", "1.1.1.1, 203.0.113.7", "203.0.113.7"),
            ("10.1.2.3", "203.0.113.7, 10.9.9.9", "203.0.113.7"),
            ("10.1.2.3", "203.0.113.7:4711", "203.0.113.7"),
            ("10.1.2.3", "[2001:470::1]:4711", "2001:470::1"),
            ("10.1.2.3", "[2001:470::1]", "2001:470::1"),
            ("10.1.2.3", "203.0.113.7, unknown", "10.1.2.3"),
            ("10.1.2.3", "", "10.1.2.3"),
            ("192.0.2.1", "203.0.113.7", "203.0.113.7"),
            ("192.0.2.2", "203.0.113.7", "192.0.2.2"),
            ("2001:db8::1", "::ffff:203.0.113.7", "203.0.113.7"),
        ] {
            assert_eq!(said(address, value), client, "{address} {value}");
        }
        let lines = [
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(
            from(&proxies, "10.0.0.1", &lines),
            ("203.0.113.7".to_owned(), true)
        );
    }

    #[test]
    fn ranges_are_read() {
        for good in ["10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::/32", "0.0.0.0/0"] {
            assert!(good.parse::<ProxyRange>().is_ok(), "{good}");
        }
        for bad in ["", "10.0.0", "10.0.0.0/33", "proxy.example", "10.0.0.0/"] {
            assert!(bad.parse::<ProxyRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_of_ipv6_shares_as_one() {
        let sharer = |address: &str| super::sharer(address.parse().unwrap()).to_string();
        assert_eq!(sharer("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(sharer("2001:db8:1:2::9"), "2001:db8:1:2::");
        assert_ne!(sharer("2001:db8:1:3::9"), "2001:db8:1:2::");
        assert_eq!(sharer("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(sharer("192.0.2.1"), "192.0.2.1");
    }
}
