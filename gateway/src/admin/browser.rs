//! Browsers that were sent here by somebody else's page.
//!
//! A page can make its own name point at this machine (DNS rebinding), and then read what needs no token. Its requests
//! still name its own host. So a request is answered only for a host that no stranger can point elsewhere, one that the
//! node's owner named, or with the admin token, which no page has; and only if it comes from no page or one of ours.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderValue, Request, header};
use nearfield_protocol::{Problem, ProblemKind, said};

/// Names under which the admin API may be asked for, beside addresses and this machine's own name for itself.
#[derive(Debug, Clone, Default)]
pub struct AdminHosts(Vec<String>);

impl AdminHosts {
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        AdminHosts(names.into_iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    /// Whether no stranger's page is at this host: an address is no name, and browsers resolve `localhost` themselves.
    fn is_own(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        bare.unwrap_or(&host).parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.0.contains(&host)
    }
}

/// Refuses what a page of another origin sent, whatever it brings.
pub fn check_origin<B>(request: &Request<B>, tls: bool) -> Result<(), Problem> {
    let asked = asked(request)?;
    for origin in request.headers().get_all(header::ORIGIN) {
        let own = asked
            .as_ref()
            .is_some_and(|asked| is_origin_of(origin.as_bytes(), asked, tls));
        if !own {
            return Err(refused(format!(
                "the page at `{}` may not use the admin API",
                said(String::from_utf8_lossy(origin.as_bytes()))
            )));
        }
    }
    Ok(())
}

/// Refuses a request for a host that a stranger's page may have. Asked of what is told without a token: no page has that.
/// Over TLS no name is this machine's but those of its certificate.
pub fn check_host<B>(hosts: &AdminHosts, request: &Request<B>, tls: bool) -> Result<(), Problem> {
    match asked(request)? {
        // Browsers always name a host.
        None => Ok(()),
        Some(asked) if tls || hosts.is_own(asked.host()) => Ok(()),
        Some(asked) => Err(refused(format!(
            "the admin API does not answer for the host `{0}` without the admin token: use its address, or start the node \
             with `--admin-host {0}`",
            asked.host()
        ))),
    }
}

/// Which host was asked; none in HTTP/1.0.
fn asked<B>(request: &Request<B>) -> Result<Option<Authority>, Problem> {
    let bad = |detail: &str| Problem::new(ProblemKind::BadRequest, detail);
    let mut named = request.headers().get_all(header::HOST).iter();
    let host = named
        .next()
        .map(HeaderValue::as_bytes)
        .filter(|host| !host.is_empty());
    if named.next().is_some() {
        return Err(bad("the request names two hosts"));
    }
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => Some(authority.clone()),
        (None, None) => return Ok(None),
        (None, Some(host)) => Authority::try_from(host).ok(),
    };
    authority
        .filter(|authority| !authority.as_str().contains('@'))
        .map(Some)
        .ok_or_else(|| bad("the request's `host` is no host"))
}

/// Whether a page of this origin is of the host that was asked.
fn is_origin_of(origin: &[u8], asked: &Authority, tls: bool) -> bool {
    let scheme: &[u8] = if tls { b"https://" } else { b"http://" };
    let host = origin.strip_prefix(scheme);
    host.is_some_and(|host| host.eq_ignore_ascii_case(asked.as_str().as_bytes()))
}

fn refused(detail: String) -> Problem {
    Problem::new(ProblemKind::NotPermitted, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kind of the refusal, if it is one.
    fn of(host: &str, origin: Option<&str>, tls: bool) -> Option<ProblemKind> {
        let hosts = AdminHosts::new(["node.example".to_owned()]);
        let mut request = Request::builder().uri("/metrics").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let request = request.body(()).unwrap();
        let checked = check_origin(&request, tls).and_then(|()| check_host(&hosts, &request, tls));
        checked.err().map(|problem| problem.kind)
    }

    #[test]
    fn a_name_that_a_stranger_may_own_is_refused() {
        for own in [
            "127.0.0.1:8081",
            "127.0.0.1",
            "[::1]:8081",
            "192.0.2.7:8081",
            "localhost",
            "localhost:8081",
            "LocalHost",
            "a.localhost:1",
            "node.example",
            "Node.Example:8081",
            "",
        ] {
            assert_eq!(of(own, None, false), None, "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8081",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "xlocalhost",
            "node.example.evil.example",
        ] {
            assert_eq!(
                of(foreign, None, false),
                Some(ProblemKind::NotPermitted),
                "{foreign}"
            );
            assert_eq!(of(foreign, None, true), None, "no stranger has its certificate");
        }
        for none in ["user@localhost", "a b", "/", "localhost@evil.example"] {
            assert_eq!(of(none, None, true), Some(ProblemKind::BadRequest), "{none}");
        }
    }

    #[test]
    fn a_stranger_s_page_is_refused_whatever_it_brings() {
        for (origin, tls, own) in [
            ("http://localhost:8081", false, true),
            ("http://LOCALHOST:8081", false, true),
            ("https://localhost:8081", true, true),
            ("https://localhost:8081", false, false),
            ("http://localhost:8080", false, false),
            ("http://localhost", false, false),
            ("http://evil.example", false, false),
            ("null", false, false),
            ("", false, false),
        ] {
            let refused = of("localhost:8081", Some(origin), tls);
            assert_eq!(refused.is_none(), own, "{origin}");
        }
    }
}
