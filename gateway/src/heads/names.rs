//! Names of fields that do not pass, and why.

use http::header::{self, HeaderName};
use nearfield_protocol::http::is_reserved;

/// What a client may say of itself only through a proxy that we trust, because guests believe it: where a request comes
/// from, what was asked for first, and who a proxy found the client to be.
pub(super) const CLAIMS: [&str; 29] = [
    "forwarded",
    "x-real-ip",
    "x-real-port",
    "x-client-ip",
    "x-client-port",
    "x-cluster-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "fastly-client-ip",
    "fly-client-ip",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-host",
    "x-rewrite-url",
    "x-proxyuser-ip",
    "x-remote-addr",
    "x-remote-ip",
    "front-end-https",
    "proxy-client-ip",
    "remote-addr",
    "remote-host",
    "wl-proxy-client-ip",
    "x-forwarded",
    "x-scheme",
    "x-url-scheme",
];

/// Beginnings of names that are such claims.
pub(super) const CLAIMS_BEGIN: [&str; 3] = ["x-forwarded-", "x-original-", "x-envoy-"];

/// Who a proxy found the client to be. Only a proxy that we trust may say it.
const USERS: [&str; 6] = [
    "client-cert",
    "client-cert-chain",
    "remote-user",
    "ssl-client-cert",
    "x-client-cert",
    "x-remote-user",
];
/// Beginnings of names that say so.
const USERS_BEGIN: [&str; 4] = ["x-ssl-client-", "ssl-client-", "x-auth-request-", "x-remote-"];

/// What speaks for a whole origin, which all functions share: one function's word would change what browsers do with the
/// others. Cookies are not here, because functions need them: their `Path` keeps them apart from friends, not from foes.
pub(super) const WHOLE_ORIGIN: [(&str, &str); 18] = [
    ("accept-ch", "asks for client hints with every later request"),
    ("activate-storage-access", "opens unpartitioned storage"),
    ("alt-svc", "moves the origin to another server (RFC 7838)"),
    (
        "attribution-reporting-register-source",
        "reports clicks in the origin's name",
    ),
    (
        "attribution-reporting-register-trigger",
        "reports clicks in the origin's name",
    ),
    (
        "clear-site-data",
        "deletes the origin's cookies, caches and storage",
    ),
    ("critical-ch", "the same as accept-ch, with a second request"),
    ("expect-ct", "refuses the origin's certificates"),
    ("nel", "reports the origin's network errors elsewhere"),
    ("observe-browsing-topics", "notes topics for the origin"),
    (
        "origin-agent-cluster",
        "decides for all of the origin's pages which process they share",
    ),
    ("public-key-pins", "refuses the origin's certificates"),
    ("report-to", "names where the origin's reports go"),
    (
        "secure-session-registration",
        "binds the origin's sessions to a device",
    ),
    (
        "service-worker-allowed",
        "lets a worker answer for paths above its own",
    ),
    (
        "set-login",
        "tells browsers that the origin's user is signed in or out",
    ),
    (
        "strict-transport-security",
        "keeps browsers off the origin without TLS",
    ),
    (
        "use-as-dictionary",
        "decompresses the origin's later answers with this one",
    ),
];

/// What a proxy before this node takes for its own orders: to send a file of its own, or to treat the answer otherwise.
const PROXY_ORDERS: [&str; 4] = [
    "x-sendfile",
    "x-lighttpd-send-file",
    "x-lighttpd-send-tempfile",
    "x-reproxy-url",
];
/// Beginnings of names that are such orders.
const PROXY_ORDERS_BEGIN: [&str; 2] = ["x-accel-", "x-litespeed-"];

/// A claim about where a request comes from, or what was asked for first.
pub fn is_claim(name: &HeaderName) -> bool {
    is_of(name, &CLAIMS, &CLAIMS_BEGIN)
}

/// A claim about who the client is.
pub fn is_user(name: &HeaderName) -> bool {
    is_of(name, &USERS, &USERS_BEGIN)
}

/// An order to a proxy.
pub fn is_order(name: &HeaderName) -> bool {
    is_of(name, &PROXY_ORDERS, &PROXY_ORDERS_BEGIN)
}

/// What speaks for a whole origin.
pub fn is_whole_origin(name: &HeaderName) -> bool {
    WHOLE_ORIGIN.iter().any(|(known, _)| name == *known)
}

/// What concerns one connection only, and names that are nodes' to set.
pub fn not_forwarded(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TE
            | header::TRAILER
            | header::TRANSFER_ENCODING
            | header::UPGRADE
    ) || matches!(
        name.as_str(),
        "keep-alive" | "proxy-connection" | "http2-settings"
    ) || is_reserved(name.as_str())
}

/// Whether it is one of these names, or a name of nodes, for somebody who reads `_` as `-`: whoever makes variables of names does
/// (RFC 3875 §4.1.18).
fn is_of(name: &HeaderName, names: &[&str], beginnings: &[&str]) -> bool {
    let is = |name: &str| names.contains(&name) || beginnings.iter().any(|begin| name.starts_with(begin));
    match name.as_str() {
        name if name.contains('_') => {
            let name = name.replace('_', "-");
            is(&name) || is_reserved(&name)
        }
        name => is(name),
    }
}
