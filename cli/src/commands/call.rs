use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearfield_protocol::call::CallReport;
use nearfield_protocol::units::format_count;
use serde_json::{Map, Value, json};
use ureq::http::header::HeaderMap;
use ureq::http::response::Parts;
use ureq::{Body, SendBody};

use super::Session;
use crate::args::CallArgs;
use crate::client::{self, Call, header, segment, typed_path};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::visible::visible;

/// A call's record is written once its response has ended, which the client may see a little earlier.
const RECORD_TRIES: u32 = 5;
const RECORD_WAIT: Duration = Duration::from_millis(20);

/// Most of a failed response that is searched for a problem.
const PROBLEM_BYTES: u64 = 64 << 10;
/// Longest piece of a line that is shown at once.
const SHOWN_BYTES: u64 = 64 << 10;

pub fn run(session: &Session, args: CallArgs) -> Result<()> {
    let function = session
        .client
        .get(format!("/v1/functions/{}", segment(args.function.as_str())))?;
    let url = function["url"]
        .as_str()
        .context("the node does not say where the function is")?;
    let started = Instant::now();
    let response = send(session, url, &args)?;
    let (parts, body) = response.into_parts();
    let status = parts.status.as_u16();
    let mut body = body.into_reader();

    // A failure may be ours to explain: its body is read first, and shown all the same.
    let mut head = Vec::new();
    if status >= 400 {
        body.by_ref()
            .take(PROBLEM_BYTES)
            .read_to_end(&mut head)
            .context("reading the response")?;
    }
    let problem = client::problem(&String::from_utf8_lossy(&head));
    let mut body = head.as_slice().chain(body);
    if session.out.json {
        let mut text = Vec::new();
        body.read_to_end(&mut text)
            .map_err(|error| cut_short(session, &parts.headers, error))?;
        let value = json!({
            "id": header(&parts.headers, "nearfield-id"),
            "host": header(&parts.headers, "nearfield-host"),
            "status": status,
            "headers": fields(&parts.headers),
            "fuel": cost(session, &parts.headers).0,
            "body": String::from_utf8_lossy(&text),
        });
        session.out.show_as(&value, String::new)?;
    } else if problem.is_none() {
        let mut stdout = output::stdout();
        let copied = match io::stdout().is_terminal() {
            true => show(body, &mut stdout),
            false => io::copy(&mut body, &mut stdout).map(drop),
        };
        copied.map_err(|error| cut_short(session, &parts.headers, error))?;
        stdout.flush()?;
    }
    let (fuel, timing) = cost(session, &parts.headers);
    session
        .out
        .report(&summary(&parts, fuel, timing.as_deref(), started.elapsed()));
    match problem {
        Some(problem) => Err(anyhow::Error::new(problem).context(format!("calling `{}`", args.function))),
        None if status >= 500 => {
            let what = format!("`{}` answered {}", args.function, parts.status);
            Err(Failure::new(Exit::FunctionFailed, what)
                .next(format!("see `nearfield logs {}`", args.function))
                .into())
        }
        None => Ok(()),
    }
}

/// A body as a terminal may show it, a line or a piece of one at a time.
fn show(body: impl Read, out: &mut impl Write) -> io::Result<()> {
    let mut body = io::BufReader::new(body);
    loop {
        let mut line = Vec::new();
        if (&mut body).take(SHOWN_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        out.write_all(visible(&String::from_utf8_lossy(&line)).as_bytes())?;
    }
}

/// One line: how it ended, what it cost, where it ran and its id, for `explain`.
fn summary(parts: &Parts, fuel: Option<u64>, timing: Option<&str>, took: Duration) -> String {
    let mut said = vec![parts.status.to_string()];
    said.extend(fuel.map(|fuel| format!("{} fuel", format_count(fuel))));
    let timing = timing.map(|timing| format!(" ({timing})")).unwrap_or_default();
    said.push(format!("{} ms{timing}", took.as_millis()));
    said.extend(header(&parts.headers, "nearfield-host").map(|host| format!("host {host}")));
    said.extend(header(&parts.headers, "nearfield-id").map(|id| format!("id {id}")));
    said.join(", ")
}

fn send(session: &Session, url: &str, args: &CallArgs) -> Result<ureq::http::Response<Body>> {
    let method = args
        .method
        .clone()
        .unwrap_or_else(|| if args.data.is_some() { "POST" } else { "GET" }.to_owned());
    let method = method.to_ascii_uppercase();
    let (url, path) = filled(url, &path(&args.path))?;
    let url = url.as_str();
    let call = args
        .headers
        .iter()
        .fold(Call::new(&method, path), |call, (key, value)| {
            call.header(key, value.as_str())
        });
    match &args.data {
        None => session.client.send_to(url, call, ()),
        Some(data) => match data.strip_prefix('@') {
            Some("-") => session
                .client
                .send_to(url, call, SendBody::from_owned_reader(io::stdin())),
            Some(file) => {
                let file = std::fs::File::open(file).with_context(|| format!("reading {file}"))?;
                // Only a real file's size is known beforehand.
                if file.metadata()?.is_file() {
                    session.client.send_to(url, call, file)
                } else {
                    session
                        .client
                        .send_to(url, call, SendBody::from_owned_reader(file))
                }
            }
            None => session.client.send_to(url, call, data.as_str()),
        },
    }
    .with_context(|| format!("calling `{}`", args.function))
}

/// `?q` and `/below` go on from the route as they are; `below` gets its slash.
fn path(typed: &str) -> String {
    let slash = if typed.is_empty() || typed.starts_with(['/', '?']) {
        ""
    } else {
        "/"
    };
    format!("{slash}{}", typed_path(typed))
}

/// The URL of a route whose parameters `path` begins with, and what is left of it: `/users/{id}` and `/7/posts` are
/// `/users/7` and `/posts`.
fn filled(url: &str, path: &str) -> Result<(String, String)> {
    let (mut filled, mut url, mut path) = (String::new(), url, path);
    while let Some((before, parameter)) = url.split_once("/{") {
        let (name, after) = parameter.split_once('}').unwrap_or((parameter, ""));
        filled.push_str(before);
        url = after;
        // What `{*rest}` takes follows anyway.
        if !name.starts_with('*') {
            let below = path.strip_prefix('/').unwrap_or_default();
            let end = below.find(['/', '?']).unwrap_or(below.len());
            if end == 0 {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("the function's route takes `{name}`: begin the path with it, `/{name}…`"),
                )
                .into());
            }
            filled.push('/');
            filled.push_str(&below[..end]);
            path = &below[end..];
        }
    }
    filled.push_str(url);
    Ok((filled, path.to_owned()))
}

/// A function that fails after its headers breaks the response off; its record says why.
fn cut_short(session: &Session, headers: &HeaderMap, error: io::Error) -> anyhow::Error {
    // The call itself may have gone well.
    if output::is_reader_left(&error) {
        return error.into();
    }
    let problem = report(session, headers).and_then(|report| report.problem);
    let error = problem.map_or_else(|| error.into(), anyhow::Error::new);
    error.context("the response is cut short")
}

/// Fuel and timing: from headers, or of long responses from the call's record.
fn cost(session: &Session, headers: &HeaderMap) -> (Option<u64>, Option<String>) {
    let fuel = header(headers, "nearfield-fuel").and_then(|fuel| fuel.parse().ok());
    let fuel = fuel.or_else(|| Some(report(session, headers)?.fuel));
    (fuel, header(headers, "server-timing").map(str::to_owned))
}

/// The report in the call's record, if the node has it within a moment.
fn report(session: &Session, headers: &HeaderMap) -> Option<CallReport> {
    let id = header(headers, "nearfield-id")?;
    for _ in 0..RECORD_TRIES {
        let mut record = session.client.get(format!("/v1/calls/{}", segment(id))).ok()?;
        if let Ok(report) = serde_json::from_value(record["report"].take()) {
            return Some(report);
        }
        std::thread::sleep(RECORD_WAIT);
    }
    None
}

/// Repeated fields are joined, as HTTP allows.
fn fields(headers: &HeaderMap) -> Map<String, Value> {
    let joined = |name| {
        let values = headers
            .get_all(name)
            .iter()
            .map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(", ")
    };
    headers
        .keys()
        .map(|name| (name.to_string(), joined(name).into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_on_from_the_route() {
        for (typed, sent) in [
            ("", ""),
            ("/", "/"),
            ("a b", "/a%20b"),
            ("?q=1", "?q=1"),
            ("/x?y", "/x?y"),
        ] {
            assert_eq!(path(typed), sent);
        }
    }

    #[test]
    fn a_path_begins_with_the_route_s_parameters() {
        let host = "http://a.example:8080";
        let of = |route: &str, path: &str| filled(&format!("{host}{route}"), path).ok();
        let some = |url: &str, path: &str| Some((format!("{host}{url}"), path.to_owned()));
        assert_eq!(of("/hello", "/x?y"), some("/hello", "/x?y"));
        assert_eq!(of("/users/{id}", "/7"), some("/users/7", ""));
        assert_eq!(of("/users/{id}", "/a%20b/c?d"), some("/users/a%20b", "/c?d"));
        assert_eq!(
            of("/users/{id}/posts/{post}", "/7/9?q"),
            some("/users/7/posts/9", "?q")
        );
        assert_eq!(of("/files/{*rest}", "/a/b"), some("/files", "/a/b"));
        for lacks in ["", "/", "?q", "//x"] {
            assert_eq!(of("/users/{id}", lacks), None, "{lacks}");
        }
    }
}
