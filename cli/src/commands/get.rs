use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use nearfield_protocol::{Problem, ProblemKind};
use serde_json::json;
use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE};

use super::Session;
use crate::archive::{self, Unpacking};
use crate::args::{GetArgs, digest_or_beginning};
use crate::client::{Call, header, segment};
use crate::deliver;
use crate::failure::{Exit, Failure};
use crate::output;

/// What the node sends a whole folder as.
const FOLDER: &str = "application/x-tar";
/// What it says of a file that may be run.
const EXECUTABLE: &str = "nearfield-executable";
/// How many pieces of what broke off are asked for, and how large they are: the cause is most often in the first.
const MOST_ASKED: usize = 8;
const ASKED_BYTES: u64 = 8 << 20;

pub fn run(session: &Session, args: GetArgs) -> Result<()> {
    let target = match Target::of_digest(&args.target)? {
        Some(target) => target,
        None => Target::of_name(&args.target, &dataset_names(session)?)?,
    };
    let response = session
        .client
        .send(Call::get(target.url()), ())
        .with_context(|| format!("getting `{}`", args.target))?;
    let headers = response.headers();
    let folder = target.path.is_none() && header(headers, CONTENT_TYPE.as_str()) == Some(FOLDER);
    let length = header(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());

    let bar = session.out.bytes_bar(length);
    let executable = header(headers, EXECUTABLE).is_some();
    let output = args.output.filter(|path| !deliver::is_stdout(path));
    let mut content = Arriving {
        content: bar.wrap_read(response.into_body().into_reader()),
        came_bytes: 0,
        broke_off: false,
    };
    let delivered = deliver(&mut content, output.as_deref(), folder, executable);
    bar.finish_and_clear();
    let delivered = delivered.map_err(|error| {
        let unpacking = error.downcast_ref::<Unpacking>().map(|entry| entry.0.clone());
        let (missing, from) = match (folder, unpacking) {
            (false, _) => (target, content.came_bytes),
            (true, Some(path)) => (
                Target {
                    path: Some(path),
                    ..target
                },
                0,
            ),
            (true, None) => return error,
        };
        match content.broke_off {
            true => cause(session, &missing, from).unwrap_or(error),
            false => error,
        }
    });
    delivered.with_context(|| format!("getting `{}`", args.target))?;
    match output {
        // Beside content on stdout, a JSON value would be noise.
        Some(path) if session.out.json => {
            let value = json!({ "output": path, "bytes": bar.position(), "folder": folder });
            session.out.show_as(&value, String::new)
        }
        _ => Ok(()),
    }
}

/// Content on its way: how much came, and whether it broke off.
struct Arriving<R> {
    content: R,
    came_bytes: u64,
    broke_off: bool,
}

impl<R: Read> Read for Arriving<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.content.read(buffer);
        self.broke_off |= read.is_err();
        self.came_bytes += *read.as_ref().unwrap_or(&0) as u64;
        read
    }
}

/// Why the bytes from `from` on do not come. An answer that has begun cannot say it, so they are asked for by themselves.
/// None if they do come now: then the way here is to blame.
fn cause(session: &Session, missing: &Target, mut from: u64) -> Option<anyhow::Error> {
    for _ in 0..MOST_ASKED {
        let last = from + ASKED_BYTES - 1;
        let piece = Call::get(missing.url()).header(RANGE.as_str(), format!("bytes={from}-{last}"));
        let response = match session.client.send(piece, ()) {
            Ok(response) if response.status() == StatusCode::PARTIAL_CONTENT => response,
            Ok(_) => return None,
            Err(error) => {
                let problem = error.downcast_ref::<Problem>();
                let at_end = problem.is_some_and(|problem| problem.kind == ProblemKind::RangeNotSatisfiable);
                return (!at_end).then_some(error);
            }
        };
        // It may break off later than before.
        from += io::copy(&mut Until(response.into_body().into_reader()), &mut io::sink()).unwrap_or(0);
    }
    None
}

/// A stream that ends where it breaks off.
struct Until<R>(R);

impl<R: Read> Read for Until<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.0.read(buffer).unwrap_or(0))
    }
}

fn deliver(mut content: impl Read, output: Option<&Path>, folder: bool, executable: bool) -> Result<()> {
    match (output, folder) {
        (Some(path), true) => archive::unpack(content, path),
        (Some(path), false) => deliver::write(&mut content, path, executable),
        (None, true) if io::stdout().is_terminal() => {
            let failure = Failure::new(Exit::Usage, "it is a folder, no text to show");
            Err(failure
                .next("name a folder for it with -o, or pipe the tar on")
                .into())
        }
        (None, _) => {
            let mut stdout = output::stdout();
            io::copy(&mut content, &mut stdout).context("the content is cut short")?;
            Ok(stdout.flush()?)
        }
    }
}

/// What to fetch: a dataset or blob, and perhaps one file in it.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    of: String,
    path: Option<String>,
}

impl Target {
    fn url(&self) -> String {
        let path = self
            .path
            .as_deref()
            .map(|path| format!("&path={}", segment(path)));
        format!("/v1/content?of={}{}", segment(&self.of), path.unwrap_or_default())
    }

    /// `b3:…` or `b3:…/PATH`; none if it does not begin so.
    fn of_digest(text: &str) -> Result<Option<Self>> {
        if !text.starts_with("b3:") {
            return Ok(None);
        }
        let (digest, path) = split(text, text.find('/').unwrap_or(text.len()));
        let of = digest_or_beginning(&digest).map_err(|error| Failure::new(Exit::Usage, error))?;
        Ok(Some(Target { of, path }))
    }

    /// Names may hold `/` too: the longest that is a dataset's wins.
    fn of_name(text: &str, names: &[String]) -> Result<Self> {
        let is_target = |name: &&String| {
            text.strip_prefix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let Some(name) = names.iter().filter(is_target).max_by_key(|name| name.len()) else {
            let failure = Failure::new(
                Exit::NotFound,
                format!("`{text}` is no dataset, and no file in one"),
            );
            return Err(failure.next("see `nearfield ls datasets`").into());
        };
        let (of, path) = split(text, name.len());
        Ok(Target { of, path })
    }
}

fn split(text: &str, at: usize) -> (String, Option<String>) {
    let path = text[at..].trim_start_matches('/');
    (text[..at].to_owned(), (!path.is_empty()).then(|| path.to_owned()))
}

fn dataset_names(session: &Session) -> Result<Vec<String>> {
    let list = session.client.get("/v1/datasets")?;
    let datasets = list["datasets"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(datasets
        .iter()
        .filter_map(|dataset| dataset["name"].as_str())
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use nearfield_protocol::Digest;

    use super::*;

    fn target(of: &str, path: Option<&str>) -> Target {
        Target {
            of: of.into(),
            path: path.map(str::to_owned),
        }
    }

    #[test]
    fn digests_end_at_the_first_slash() {
        let digest = Digest::EMPTY.to_string();
        let parse = |text: &str| Target::of_digest(text).unwrap();
        assert_eq!(parse(&digest), Some(target(&digest, None)));
        assert_eq!(
            parse(&format!("{digest}/a/b")),
            Some(target(&digest, Some("a/b")))
        );
        assert_eq!(parse("logs/b3:x"), None);
        assert_eq!(parse("b3:12ab/a"), Some(target("b3:12ab", Some("a"))));
        assert!(Target::of_digest("b3:12x/a").is_err());
    }

    #[test]
    fn names_end_where_the_longest_dataset_does() {
        let names = ["app".to_owned(), "app/logs".to_owned()];
        let parse = |text: &str| Target::of_name(text, &names);
        assert_eq!(parse("app").unwrap(), target("app", None));
        assert_eq!(parse("app/").unwrap(), target("app", None));
        assert_eq!(parse("app/img/a.png").unwrap(), target("app", Some("img/a.png")));
        assert_eq!(parse("app/logs").unwrap(), target("app/logs", None));
        assert_eq!(
            parse("app/logs/today").unwrap(),
            target("app/logs", Some("today"))
        );
        assert!(parse("apple").is_err());
    }
}
