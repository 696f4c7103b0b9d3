//! One HTTP exchange, bounded in time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ureq::http::{HeaderMap, Method, Request};
use ureq::{Agent, RequestExt};

/// How long one exchange, or one wait, may take, so that nothing hangs for ever.
#[derive(Debug, Clone, Copy)]
pub struct Patience(pub Duration);

impl Default for Patience {
    fn default() -> Self {
        Patience(Duration::from_secs(300))
    }
}

/// The response to one request, whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// From the request's first byte to the response's last.
    pub took: Duration,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The id of the call that answered so.
    pub fn call(&self) -> Result<&str> {
        self.header("nearfield-id")
            .context("an answer without nearfield-id")
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Waits until a server says 200, and gives the time that took.
pub fn until_ready(url: &str) -> Result<Duration> {
    let (patience, start) = (Patience::default(), Instant::now());
    let agent = agent(patience);
    while start.elapsed() < patience.0 {
        if send(&agent, Request::get(url).body(Vec::new())?).is_ok_and(|answer| answer.status == 200) {
            return Ok(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("{url} never said 200")
}

/// A client that keeps connections, follows no redirect and takes every status for an answer.
pub fn agent(patience: Patience) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(patience.0))
        .build()
        .into()
}

/// Sends a request and reads the response to its end. It is an error that the response breaks off.
pub fn send(agent: &Agent, request: Request<Vec<u8>>) -> Result<Answer> {
    let start = Instant::now();
    let what = format!("{} {}", request.method(), request.uri());
    let sent = match *request.method() {
        // A body of no bytes would be announced, which these must not do.
        Method::GET | Method::HEAD | Method::DELETE => request.map(|_| ()).with_agent(agent).run(),
        _ => request.with_agent(agent).run(),
    };
    let (head, body) = sent.with_context(|| what.clone())?.into_parts();
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut body.into_reader(), &mut bytes).with_context(|| what)?;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes,
        took: start.elapsed(),
    })
}
