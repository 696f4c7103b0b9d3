use std::time::Instant;

use anyhow::{Context, Result, bail};
use nearfield_protocol::Problem;
use nearfield_protocol::units::format_bytes;
use nearfield_store::left_out_notice;
use serde::Deserialize;
use serde_json::Value;
use ureq::SendBody;
use ureq::http::header::{ACCEPT, CONTENT_TYPE};

use super::Session;
use crate::archive::Excludes;
use crate::args::PutArgs;
use crate::client::{Call, header, json, segment};
use crate::events;
use crate::failure::{Exit, Failure};
use crate::output::counted;
use crate::source::Source;

#[derive(Deserialize)]
struct Stored {
    name: String,
    version: u64,
    digest: String,
    split: String,
    put_bytes: u64,
    shards: u64,
    new_shards: u64,
    new_bytes: u64,
}

/// Of a put in place.
#[derive(Deserialize)]
struct Progress {
    bytes: u64,
    bytes_done: u64,
}

pub fn run(session: &Session, args: PutArgs) -> Result<()> {
    let started = Instant::now();
    let mut path = format!(
        "/v1/datasets/{}?split={}",
        segment(args.name.as_str()),
        segment(&args.split),
    );
    if let Some(bytes) = args.shard_size {
        path.push_str(&format!("&shard-size={bytes}"));
    }
    if let Some(key) = &args.key {
        path.push_str(&format!("&key={}", segment(key)));
    }
    if args.append {
        path.push_str("&append=true");
    }
    if let Some(part) = &args.part {
        path.push_str(&format!("&part={}", segment(part.as_str())));
    }
    if let Some(version) = args.if_version {
        path.push_str(&format!("&if-version={version}"));
    }
    if let Some(replicas) = args.replicas {
        path.push_str(&format!("&replicas={replicas}"));
    }
    for label in &args.only {
        path.push_str(&format!("&only={}", segment(&label.to_string())));
    }
    let stored = match args.in_place {
        true => in_place(session, &args, path),
        false => upload(session, &args, path),
    };
    let stored = stored.with_context(|| format!("putting {} as `{}`", args.source, args.name))?;
    let notices = stored["notices"].as_array().into_iter().flatten();
    for notice in notices.filter_map(Value::as_str) {
        session.out.warn(notice);
    }
    session.out.show(&stored, |stored: Stored| {
        let seconds = started.elapsed().as_secs_f64();
        session.out.notice(&format!(
            "{} in {seconds:.1} s; {} of {} new, {} stored",
            format_bytes(stored.put_bytes),
            stored.new_shards,
            counted(stored.shards, "shard"),
            format_bytes(stored.new_bytes),
        ));
        format!(
            "{} v{} {} ({}, {})",
            stored.name,
            stored.version,
            stored.digest,
            stored.split,
            counted(stored.shards, "shard")
        )
    })
}

fn upload(session: &Session, args: &PutArgs, mut path: String) -> Result<Value> {
    let excludes = Excludes {
        globs: args.exclude.clone(),
        git: args.gitignore,
    };
    let input = args.source.open(args.insecure_source, &excludes)?;
    if let Some(text) = left_out_notice(&input.left_out) {
        session.out.report(&text);
    }
    let name = encoded_name(args.source.name()?, input.encoding.as_deref());
    path.push_str(&format!("&folder={}&source={}", input.folder, segment(&name)));
    let bar = session.out.bytes_bar(input.bytes);
    let stored = session.client.upload(path, bar.wrap_read(input.read));
    bar.finish_and_clear();
    if let Some(text) = encoded(&input.site.map(|site| site.encoded()).unwrap_or_default()) {
        session.out.warn(&text);
    }
    stored
}

/// The notice about objects of a folder that their server sends encoded.
fn encoded(objects: &[String]) -> Option<String> {
    let more = match objects.len() {
        0 => return None,
        1 => String::new(),
        len => format!(" and {} more", len - 1),
    };
    Some(format!(
        "{}{more}: kept as the server encodes them (content-encoding: br or deflate), which their names do not tell",
        objects[0]
    ))
}

/// The name of what a server sends encoded, as the file would be called that holds these bytes. Most encodings are told by their bytes,
/// but not brotli.
fn encoded_name(name: String, encoding: Option<&str>) -> String {
    match encoding {
        Some("br") if !name.to_ascii_lowercase().ends_with(".br") => format!("{name}.br"),
        _ => name,
    }
}

/// Only the path or URL goes to the node, which reads it itself.
fn in_place(session: &Session, args: &PutArgs, mut path: String) -> Result<Value> {
    let source = &args.source;
    let usage = |what: String, next: &str| Err(Failure::new(Exit::Usage, what).next(next).into());
    let place = match source {
        Source::Path(path) => {
            let full = path
                .canonicalize()
                .with_context(|| format!("finding {}", path.display()))?;
            let Some(full) = full.to_str() else {
                bail!("the path of {} is not UTF-8: rename it", full.display());
            };
            full.to_owned()
        }
        Source::Stdin => {
            let what = "--in-place leaves data where it is, and standard input is nowhere".to_owned();
            return usage(what, "name a file or folder, or leave out --in-place");
        }
        Source::Remote(remote) if remote.has_secrets() => {
            let what = format!("--in-place keeps and shows {remote}, and that holds a password or a query");
            return usage(what, "put it without --in-place, as a copy");
        }
        Source::Remote(remote) => remote.to_string(),
    };
    path.push_str(&format!(
        "&source={}&in-place={}",
        segment(&source.name()?),
        segment(&place)
    ));
    for glob in &args.exclude {
        path.push_str(&format!("&exclude={}", segment(glob)));
    }
    let call = Call::new("POST", path).header(ACCEPT.as_str(), events::CONTENT);
    let response = session.client.send(call, SendBody::none())?;
    if header(response.headers(), CONTENT_TYPE.as_str()) != Some(events::CONTENT) {
        return json(response);
    }
    let bar = session.out.bytes_bar(Some(0));
    let stored = events::follow(response, |event, data| match event {
        "progress" => {
            let progress: Progress = serde_json::from_str(data)?;
            bar.set_length(progress.bytes.max(progress.bytes_done));
            bar.set_position(progress.bytes_done);
            Ok(None)
        }
        "error" => Err(serde_json::from_str::<Problem>(data)?.into()),
        _ => Ok(Some(serde_json::from_str(data)?)),
    });
    bar.finish_and_clear();
    const EARLY: &str =
        "the node's answer ended early, and the put may go on: see its log, and `nearfield ls datasets`";
    match stored {
        Err(error) if error.downcast_ref::<Problem>().is_none() => Err(error.context(EARLY)),
        stored => stored?.context(EARLY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_encodes_is_named_so() {
        let named = |name: &str, encoding| encoded_name(name.to_owned(), encoding);
        assert_eq!(named("t.csv", Some("br")), "t.csv.br");
        assert_eq!(named("t.csv.br", Some("br")), "t.csv.br");
        assert_eq!(named("t.csv", Some("gzip")), "t.csv");
        assert_eq!(named("t.csv", None), "t.csv");
    }
}
