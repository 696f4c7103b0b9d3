//! Speaks with a node's admin API, and knows what each way of failing means to the user.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_protocol::Problem;
use serde_json::Value;
use ureq::http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use ureq::http::{Request, Response};
use ureq::{AsSendBody, Body, SendBody};

use crate::failure::{Exit, Failure};
use crate::listener;

/// A node that has not taken a connection by then is not there; requests themselves take as long as they take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that has a port but does not speak HTTP may never answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes kept of an answer that ought to be a small JSON object.
const ERROR_BYTES: u64 = 1 << 20;

pub struct Client {
    agent: ureq::Agent,
    /// Without a `/` at its end.
    url: String,
    token: Option<String>,
}

/// A request, method first: `Call::get("/v1/status")`.
pub struct Call<'a> {
    method: &'a str,
    path: String,
    headers: Vec<(&'a str, String)>,
}

impl<'a> Call<'a> {
    pub fn new(method: &'a str, path: impl Into<String>) -> Self {
        Call {
            method,
            path: path.into(),
            headers: Vec::new(),
        }
    }

    pub fn get(path: impl Into<String>) -> Self {
        Call::new("GET", path)
    }

    pub fn header(mut self, key: &'a str, value: impl Into<String>) -> Self {
        self.headers.push((key, value.into()));
        self
    }
}

impl Client {
    /// Nothing is sent yet. Without `token`, the one that a node on this machine keeps in `data_dir` is shown.
    pub fn new(url: &str, token: Option<String>, data_dir: &Path) -> Result<Self> {
        let token = match token {
            Some(token) => Some(token),
            None => {
                let file = data_dir.join("admin.token");
                let kept = std::fs::read_to_string(&file).ok();
                if kept.is_some() {
                    listener::check(url, &file)?;
                }
                kept
            }
        };
        let token = token.map(|token| token.trim().to_owned());
        Ok(Client::with_timeout(url, token, None))
    }

    /// Asks whoever is there, showing no token and waiting only shortly.
    pub fn probe(url: &str) -> Self {
        Client::with_timeout(url, None, Some(PROBE_TIMEOUT))
    }

    fn with_timeout(url: &str, token: Option<String>, timeout: Option<Duration>) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            // What a function answers is shown, not followed.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // The admin API is on loopback, where no proxy reaches.
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(timeout)
            .user_agent(concat!("nearfield/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Client {
            agent,
            url: url.trim_end_matches('/').to_owned(),
            token,
        }
    }

    /// The node that is asked.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn get(&self, path: impl Into<String>) -> Result<Value> {
        json(self.send(Call::get(path), ())?)
    }

    pub fn delete(&self, path: impl Into<String>) -> Result<Value> {
        json(self.send(Call::new("DELETE", path), ())?)
    }

    /// `method` with a JSON body, or an empty one for null.
    pub fn change(&self, method: &str, path: impl Into<String>, body: &Value) -> Result<Value> {
        let call = Call::new(method, path);
        json(if body.is_null() {
            self.send(call, SendBody::none())?
        } else {
            self.send(
                call.header(CONTENT_TYPE.as_str(), "application/json"),
                body.to_string(),
            )?
        })
    }

    /// Streams `body`, chunked, after the node has agreed to read it.
    pub fn upload(&self, path: impl Into<String>, body: impl Read + 'static) -> Result<Value> {
        let call = Call::new("POST", path)
            // So that a refusal arrives before gigabytes leave.
            .header("expect", "100-continue")
            .header(CONTENT_TYPE.as_str(), "application/octet-stream");
        json(self.send(call, SendBody::from_owned_reader(Ours(body)))?)
    }

    /// Sends to the admin API; any status but success is an error.
    pub fn send(&self, call: Call<'_>, body: impl AsSendBody) -> Result<Response<Body>> {
        let mut response = self.send_to(&self.url, call, body)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let mut text = String::new();
        response
            .body_mut()
            .as_reader()
            .take(ERROR_BYTES)
            .read_to_string(&mut text)
            .context("reading an error")?;
        Err(refusal(response.status().as_u16(), &text))
    }

    /// Sends below `base`; every answer counts, whatever its status.
    pub fn send_to(&self, base: &str, call: Call<'_>, body: impl AsSendBody) -> Result<Response<Body>> {
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("{base}{}", call.path));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        for (key, value) in &call.headers {
            request = request.header(*key, value);
        }
        let request = request.body(body).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("`{base}{}` cannot be requested: {error}", call.path),
            )
            .next("check --url (http://HOST:PORT), the token and the headers")
        })?;
        self.agent.run(request).map_err(|error| explain(error, base))
    }
}

/// The problem in an answer that is none of success, or what the status alone says.
pub fn refusal(status: u16, text: &str) -> anyhow::Error {
    match problem(text) {
        Some(problem) => problem.into(),
        None => Failure::new(
            Exit::of_status(status),
            format!("the node answered {status}: {}", text.trim()),
        )
        .into(),
    }
}

/// The problem that a body holds, if it is one of ours.
pub fn problem(text: &str) -> Option<Problem> {
    serde_json::from_str(text).ok()
}

/// One header's text.
pub fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A name as one segment of a path, or a value in a query.
pub fn segment(text: &str) -> String {
    escape(text, |byte| {
        byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte)
    })
}

/// A path and query as typed, with only what no URL may hold escaped.
pub fn typed_path(text: &str) -> String {
    escape(text, |byte| {
        byte.is_ascii_graphic() && !b"\"<>\\^`{|}#".contains(&byte)
    })
}

/// All bytes but `plain` ones as `%XX`.
pub fn escape(text: &str, plain: impl Fn(u8) -> bool) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if plain(byte) {
            escaped.push(byte.into());
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

/// An answer's JSON; null if it is empty.
pub fn json(mut response: Response<Body>) -> Result<Value> {
    let mut text = String::new();
    response
        .body_mut()
        .as_reader()
        .read_to_string(&mut text)
        .context("reading the node's answer")?;
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).context("the node's answer is not JSON; is --url a node's admin address?")
}

fn explain(error: ureq::Error, base: &str) -> anyhow::Error {
    match error {
        // The input failed, not the node.
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::Other => error.into(),
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => Failure::new(
            Exit::Unreachable,
            format!("{base} stopped listening before it had everything"),
        )
        .next("see the node's own output")
        .into(),
        ureq::Error::Io(error) => unreachable(base, &error),
        error @ (ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed) => unreachable(base, &error),
        ureq::Error::Timeout(_) => Failure::new(Exit::TimedOut, format!("{base}: {error}")).into(),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            Failure::new(Exit::Usage, format!("`{base}` is no URL to send to: {error}"))
                .next("write it as http://HOST:PORT")
                .into()
        }
        error => anyhow::Error::new(error).context(format!("talking with {base}")),
    }
}

fn unreachable(base: &str, cause: &dyn std::error::Error) -> anyhow::Error {
    Failure::new(Exit::Unreachable, format!("no node answers at {base} ({cause})"))
        .next("start one with `nearfield up`, or name another with --url")
        .into()
}

/// Marks errors of our own input, so that `explain` can tell them from the connection's.
struct Ours<R>(R);

impl<R: Read> Read for Ours<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ => io::Error::other(Unreadable(error)),
        })
    }
}

#[derive(Debug)]
struct Unreadable(io::Error);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("reading the input")
    }
}

impl std::error::Error for Unreadable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_segment_and_typed_paths_stay_as_typed() {
        assert_eq!(segment("app/logs 1"), "app%2Flogs%201");
        assert_eq!(typed_path("/a b?q=ü&x=%20"), "/a%20b?q=%C3%BC&x=%20");
    }

    #[test]
    fn nobody_listening_is_unreachable() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let client = Client::new(
            &format!("http://{free}/"),
            Some("t".into()),
            Path::new("/nonexistent"),
        )
        .unwrap();
        let error = client.get("/v1/status").unwrap_err();
        let message = crate::failure::message(&error);
        assert!(
            message.contains("no node answers") && message.contains("nearfield up"),
            "{message}"
        );
    }
}
