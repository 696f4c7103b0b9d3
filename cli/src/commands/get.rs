use std::fs::Permissions;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nearfield_protocol::Digest;
use serde_json::json;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_TYPE};

use super::Session;
use crate::archive;
use crate::args::GetArgs;
use crate::client::{Call, header, segment};
use crate::failure::{Exit, Failure};
use crate::interrupt::Partial;

/// What the node sends a whole folder as.
const FOLDER: &str = "application/x-tar";

pub fn run(session: &Session, args: GetArgs) -> Result<()> {
    let target = match Target::of_digest(&args.target)? {
        Some(target) => target,
        None => Target::of_name(&args.target, &dataset_names(session)?)?,
    };
    let mut path = format!("/v1/content?of={}", segment(&target.of));
    if let Some(file) = &target.path {
        path.push_str(&format!("&path={}", segment(file)));
    }
    let response = session
        .client
        .send(Call::get(path), ())
        .with_context(|| format!("getting `{}`", args.target))?;
    let headers = response.headers();
    let folder = target.path.is_none() && header(headers, CONTENT_TYPE.as_str()) == Some(FOLDER);
    let length = header(headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());

    let bar = session.out.bytes_bar(length);
    let output = args.output.filter(|path| path != Path::new("-"));
    let delivered = deliver(
        bar.wrap_read(response.into_body().into_reader()),
        output.as_deref(),
        folder,
    );
    bar.finish_and_clear();
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

fn deliver(mut content: impl Read, output: Option<&Path>, folder: bool) -> Result<()> {
    match (output, folder) {
        (Some(path), true) => archive::unpack(content, path),
        (Some(path), false) => write_whole(&mut content, path),
        (None, true) if io::stdout().is_terminal() => {
            let failure = Failure::new(Exit::Usage, "it is a folder, no text to show");
            Err(failure
                .next("name a folder for it with -o, or pipe the tar on")
                .into())
        }
        (None, _) => {
            let mut stdout = io::stdout().lock();
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
    /// `b3:…` or `b3:…/PATH`; none if it does not begin so.
    fn of_digest(text: &str) -> Result<Option<Self>> {
        if !text.starts_with("b3:") {
            return Ok(None);
        }
        let (digest, path) = split(text, text.find('/').unwrap_or(text.len()));
        digest
            .parse::<Digest>()
            .map_err(|error| Failure::new(Exit::Usage, error.to_string()))?;
        Ok(Some(Target { of: digest, path }))
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

/// Writes beside `path` and renames: whoever opens `path` sees the old file or all of the new one.
fn write_whole(content: &mut dyn Read, path: &Path) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".nearfield-")
        // What any new file gets; the umask still takes its part.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(parent)
        .with_context(writing)?;
    let _partial = Partial::new(file.path());
    io::copy(content, &mut file).context("the content is cut short, or cannot be written")?;
    file.persist(path)
        .map_err(|error| error.error)
        .with_context(writing)?;
    Ok(())
}

#[cfg(test)]
mod tests {
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
        assert!(Target::of_digest("b3:12/a").is_err());
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

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("out");
        assert!(write_whole(&mut b"half".chain(Broken), &path).is_err());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
        write_whole(&mut b"whole".as_slice(), &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}
