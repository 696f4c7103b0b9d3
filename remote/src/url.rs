//! What a URL means.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use reqwest::Url;

/// Something that is read over HTTP.
#[derive(Clone, PartialEq, Eq)]
pub enum Remote {
    /// An object; all objects below `key` if it is empty or ends with `/`.
    S3 { bucket: String, key: String },
    /// `http` or `https`.
    Web(Url),
}

impl Remote {
    /// Whether `other` is this, or below it if this ends with `/`.
    pub fn holds(&self, other: &Remote) -> bool {
        let (own, other) = match (self, other) {
            (
                Remote::S3 { bucket, key },
                Remote::S3 {
                    bucket: other,
                    key: below,
                },
            ) if bucket == other => (key.as_str(), below.as_str()),
            (Remote::Web(url), Remote::Web(other)) if !climbs(other.path()) => (url.as_str(), other.as_str()),
            _ => return false,
        };
        own == other || own.ends_with('/') && other.starts_with(own) || own.is_empty()
    }

    /// What names the place that it is read from: a bucket, or the URL itself.
    pub fn site(&self) -> String {
        match self {
            Remote::S3 { bucket, .. } => format!("s3://{bucket}/"),
            Remote::Web(url) => url.to_string(),
        }
    }

    /// Whether it says more than where something is: a password, or a query, which may be one.
    pub fn has_secrets(&self) -> bool {
        match self {
            Remote::S3 { .. } => false,
            Remote::Web(url) => {
                !url.username().is_empty() || url.password().is_some() || url.query().is_some()
            }
        }
    }

    /// The last part of its path, or where it is if it has none.
    pub fn name(&self) -> String {
        let last = |path: &str| path.rsplit('/').find(|part| !part.is_empty()).map(str::to_owned);
        match self {
            Remote::S3 { bucket, key } => last(key).unwrap_or_else(|| bucket.clone()),
            Remote::Web(url) => match last(url.path()) {
                Some(part) => decoded(&part).unwrap_or(part),
                None => url.host_str().unwrap_or_default().to_owned(),
            },
        }
    }
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or("this is no URL")?;
        match scheme.to_ascii_lowercase().as_str() {
            "s3" => s3(rest),
            "http" | "https" => web(text),
            other => Err(format!(
                "s3://, https:// and http:// can be read, not {other}://; a file of that name is ./{other}://…"
            )),
        }
    }
}

/// Without what may be secret: user, password and query.
impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remote::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Remote::Web(url) => f.write_str(&shown(url)),
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A URL without user, password and query.
pub fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    // Both refuse only URLs without a host, which hold neither.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    shown.set_query(None);
    format!("{shown}{}", if url.query().is_some() { "?…" } else { "" })
}

/// Whether some server may take a path for one that leads upwards: dots that stand alone are out of URLs already, but not
/// those beside an encoded slash, a backslash or a parameter (`..%2f`, `..%5c`, `..;`), however often they are encoded.
fn climbs(path: &str) -> bool {
    let mut path = path.to_owned();
    loop {
        let segments = path.split(['/', '\\']);
        let mut names = segments.map(|segment| segment.split(';').next().unwrap_or_default());
        if names.any(|name| matches!(name, "." | "..")) {
            return true;
        }
        let decoded = percent_decode_str(&path).decode_utf8_lossy().into_owned();
        if decoded == path {
            return false;
        }
        path = decoded;
    }
}

/// `name://…`, as no path begins that anybody means.
pub fn has_scheme(text: &str) -> bool {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    text.split_once("://")
        .is_some_and(|(scheme, _)| is_scheme(scheme))
}

/// Whether what travels can be read and changed on its way.
pub fn is_exposed(url: &Url) -> bool {
    url.scheme() == "http" && !is_loopback(url)
}

pub fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse();
    host == "localhost" || address.is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Longest key, as long as a path of a dataset may be. Amazon's have 1,024 bytes.
pub const KEY_BYTES: usize = 4_096;

/// Why a key is no path of a file, if it is none.
pub fn no_path(key: &str) -> Option<&'static str> {
    if key.len() > KEY_BYTES {
        return Some("is longer than 4096 bytes");
    }
    if key.starts_with('/') {
        return Some("begins with a slash");
    }
    if key.ends_with('/') {
        return Some("ends with a slash");
    }
    if key.chars().any(char::is_control) {
        return Some("holds a control character");
    }
    key.split('/').find_map(|segment| match segment {
        "" => Some("holds an empty segment (`//`)"),
        "." | ".." => Some("holds a segment `.` or `..`"),
        _ => None,
    })
}

fn s3(rest: &str) -> Result<Remote, String> {
    let Some((bucket, key)) = rest.split_once('/') else {
        return Err("name an object, s3://BUCKET/KEY, or all below a prefix with a / at its end".to_owned());
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if bucket.is_empty() || bucket.starts_with('.') || !bucket.bytes().all(fits) {
        return Err(format!("`{bucket}` is no bucket's name"));
    }
    let path = key.strip_suffix('/').unwrap_or(key);
    match no_path(path) {
        Some(why) if !key.is_empty() => Err(format!("the key `{key}` {why}: it cannot be put")),
        _ => Ok(Remote::S3 {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
        }),
    }
}

fn web(text: &str) -> Result<Remote, String> {
    // The text itself stays out of messages: it may hold a password.
    let mut url = Url::parse(text).map_err(|error| format!("this is no URL: {error}"))?;
    url.set_fragment(None);
    Ok(Remote::Web(url))
}

fn decoded(part: &str) -> Option<String> {
    let name = percent_decode_str(part).decode_utf8().ok()?;
    let fits = !name.contains('/') && !name.contains(char::is_control);
    fits.then(|| name.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(text: &str) -> Remote {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn names_are_the_last_part() {
        for (url, name) in [
            ("s3://b/x.csv.gz", "x.csv.gz"),
            ("s3://b/a/photos/", "photos"),
            ("s3://b/", "b"),
            ("https://host/a/x%20y.csv?X-Amz-Signature=1", "x y.csv"),
            ("https://host/a/x%2Fy", "x%2Fy"),
            ("https://host/dir/", "dir"),
            ("https://host", "host"),
        ] {
            assert_eq!(remote(url).name(), name, "{url}");
        }
    }

    #[test]
    fn what_is_allowed_ends_at_a_slash() {
        for (allowed, url, holds) in [
            ("s3://b/logs/", "s3://b/logs/a/b", true),
            ("s3://b/logs/", "s3://b/logs/", true),
            ("s3://b/", "s3://b/x", true),
            ("s3://b/x", "s3://b/x", true),
            ("s3://b/logs/", "s3://b/logs", false),
            ("s3://b/logs", "s3://b/logs-other", false),
            ("s3://b/logs", "s3://b/logs/x", false),
            ("s3://b/", "s3://bb/x", false),
            ("https://h/a/", "https://h/a/b", true),
            ("https://h/a/", "https://h/a/../b", false),
            ("https://h/a/", "https://h/a/%2e%2e/b", false),
            ("https://h/a/", "https://h/a/..%2fb", false),
            ("https://h/a/", "https://h/a/..%5Cb", false),
            ("https://h/a/", "https://h/a/..;x/b", false),
            ("https://h/a/", "https://h/a/%252e%252e/b", false),
            ("https://h/a/", "https://h/a/x;..y/%25", true),
            ("https://h/a/", "http://h/a/b", false),
            ("https://h/a/", "https://h:444/a/b", false),
            ("https://h/a/", "https://h@evil/a/b", false),
            ("https://h/", "https://h.evil/x", false),
            ("https://b/", "s3://b/x", false),
        ] {
            assert_eq!(remote(allowed).holds(&remote(url)), holds, "{allowed} {url}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let url = remote("https://ada:hunter2@host/x?token=hunter2#hunter2");
        assert_eq!(url.to_string(), "https://host/x?…");
        assert!(!format!("{url:?}").contains("hunter2"));
        let error = "https://ada:hunter2@:x/".parse::<Remote>().unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn keys_that_are_no_paths_are_refused() {
        for bad in [
            "s3://b",
            "s3:///k",
            "s3://../k",
            "s3://b/a//c",
            "s3://b//a",
            "s3://b/../a",
            "s3://b/a/./c",
            "s3://b/a//",
            "s3://b/a\tb",
            "ftp://h/x",
            "https://",
        ] {
            assert!(bad.parse::<Remote>().is_err(), "{bad}");
        }
        for good in [
            "s3://b/",
            "s3://b/a/",
            "s3://b/a b/ü?#%",
            "s3://my.bucket-1/..a/b..",
            "S3://b/k",
        ] {
            assert!(good.parse::<Remote>().is_ok(), "{good}");
        }
    }

    #[test]
    fn only_loopback_is_not_exposed() {
        for (url, exposed) in [
            ("http://127.0.0.1:9/x", false),
            ("http://127.8.8.8/x", false),
            ("http://[::1]:9/x", false),
            ("http://localhost/x", false),
            ("https://example.org/x", false),
            ("http://example.org/x", true),
            ("http://localhost.example.org/x", true),
            ("http://10.0.0.1/x", true),
            ("http://0.0.0.0/x", true),
        ] {
            assert_eq!(is_exposed(&Url::parse(url).unwrap()), exposed, "{url}");
        }
    }
}
