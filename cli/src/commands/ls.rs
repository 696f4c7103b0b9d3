use std::io::Write;

use anyhow::{Context, Result};
use nearfield_protocol::gpu::GpuAdvert;
use nearfield_protocol::node::Labels;
use nearfield_protocol::records::TokenVersion;
use nearfield_protocol::units::{format_bytes, format_count};
use nearfield_protocol::{DatasetName, Digest, FunctionName};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Session, jobs};
use crate::args::{ListSubject, Listing};
use crate::client::segment;
use crate::output::{short_digest, table, utc_minute};
use crate::visible::visible_line;

pub fn run(session: &Session, what: ListSubject) -> Result<()> {
    match what {
        ListSubject::All(what) => all(session, what),
        ListSubject::Files(name) => files(session, &name),
    }
}

#[derive(Deserialize)]
struct Page {
    version: u64,
    files: Vec<File>,
    next: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct File {
    path: String,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

/// A line for each file as its page comes, or one value in all.
fn files(session: &Session, name: &DatasetName) -> Result<()> {
    let (mut after, mut all, mut out) = (String::new(), Vec::new(), crate::output::stdout());
    loop {
        let path = format!(
            "/v1/datasets/{}/files?after={}",
            segment(name.as_str()),
            segment(&after)
        );
        let page = session.client.get(path);
        let page: Page =
            serde_json::from_value(page.with_context(|| format!("listing the files of `{name}`"))?)?;
        match session.out.json {
            true => all.extend(page.files),
            false => {
                for file in &page.files {
                    writeln!(out, "{}", line(file))?;
                }
            }
        }
        match page.next {
            Some(next) => after = next,
            None => {
                let value = json!({ "name": name, "version": page.version, "files": all });
                return match session.out.json {
                    true => session.out.show_as(&value, String::new),
                    false => Ok(()),
                };
            }
        }
    }
}

/// Its path and its symlink's target are the putter's.
fn line(file: &File) -> String {
    let what = match (file.bytes, &file.target) {
        (Some(bytes), _) => format_bytes(bytes),
        (None, Some(target)) => format!("→ {target}"),
        (None, None) => file.kind.clone(),
    };
    format!("{:>12}  {}", visible_line(&what), visible_line(&file.path))
}

fn all(session: &Session, what: Listing) -> Result<()> {
    let Session { client, out } = session;
    match what {
        Listing::Functions => out.show(&client.get("/v1/functions")?, functions),
        Listing::Datasets => out.show(&client.get("/v1/datasets")?, datasets),
        Listing::Nodes => out.show(&client.get("/v1/nodes")?, nodes),
        Listing::Jobs => jobs::list(session),
        Listing::Tokens => out.show(&client.get("/v1/tokens")?, tokens),
        Listing::Pins => out.show(&client.get("/v1/pins")?, pins),
    }
}

#[derive(Deserialize)]
struct Functions {
    functions: Vec<Function>,
}

#[derive(Deserialize)]
struct Function {
    name: FunctionName,
    version: u64,
    component: Digest,
    public: bool,
    deployed_unix_ms: u64,
    url: String,
}

fn functions(list: Functions) -> String {
    let row = |function: Function| {
        [
            function.name.into(),
            format!("v{}", function.version),
            short_digest(&function.component),
            if function.public { "public" } else { "token" }.to_owned(),
            utc_minute(function.deployed_unix_ms),
            function.url,
        ]
    };
    table(
        ["name", "version", "component", "callers", "deployed (UTC)", "url"],
        list.functions.into_iter().map(row),
    )
}

#[derive(Deserialize)]
struct Datasets {
    datasets: Vec<Dataset>,
}

#[derive(Deserialize)]
struct Dataset {
    name: String,
    version: u64,
    digest: Digest,
    size_bytes: u64,
    shards: u64,
    put_unix_ms: u64,
}

fn datasets(list: Datasets) -> String {
    let row = |dataset: Dataset| {
        [
            dataset.name,
            format!("v{}", dataset.version),
            short_digest(&dataset.digest),
            format_bytes(dataset.size_bytes),
            dataset.shards.to_string(),
            utc_minute(dataset.put_unix_ms),
        ]
    };
    table(
        ["name", "version", "digest", "size", "shards", "put (UTC)"],
        list.datasets.into_iter().map(row),
    )
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    role: String,
    this: bool,
    there: bool,
    hosting: bool,
    draining: bool,
    quarantined: Option<String>,
    labels: Labels,
    addresses: Vec<String>,
    load: Option<Load>,
}

#[derive(Deserialize)]
struct Load {
    gpu: Option<GpuAdvert>,
}

fn nodes(list: Nodes) -> String {
    let row = |node: Node| {
        let state = match (node.there, node.draining) {
            (false, _) => "away",
            (true, true) if node.quarantined.is_some() => "quarantined",
            (true, true) => "draining",
            (true, false) if node.this => "this one",
            (true, false) => "there",
        };
        let labels: Vec<String> = node
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        [
            node.id.chars().take(10).collect(),
            node.role,
            if node.hosting { "yes" } else { "no" }.to_owned(),
            state.to_owned(),
            node.load
                .and_then(|load| load.gpu)
                .map_or("no".to_owned(), |gpu| gpu.name.to_string()),
            labels.join(" "),
            node.addresses.join(" "),
        ]
    };
    table(
        ["id", "role", "hosts", "state", "gpu", "labels", "addresses"],
        list.nodes.into_iter().map(row),
    )
}

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<TokenVersion>,
}

fn tokens(list: Tokens) -> String {
    let row = |token: TokenVersion| {
        let component = token
            .component
            .map(|component| format!("@{component:?}"))
            .unwrap_or_default();
        [
            token.id,
            format!("{}{component}", token.function),
            token
                .max_fuel_per_day
                .map_or("any".to_owned(), |fuel| format!("{}/day", format_count(fuel))),
            token.expires_unix_ms.map_or("never".to_owned(), utc_minute),
            utc_minute(token.issued_unix_ms),
        ]
    };
    table(
        ["id", "function", "fuel", "expires (UTC)", "issued (UTC)"],
        list.tokens.into_iter().map(row),
    )
}

#[derive(Deserialize)]
struct Pins {
    pins: Vec<Digest>,
    /// What each of them is, as far as records tell.
    #[serde(default)]
    names: Vec<Vec<String>>,
}

fn pins(list: Pins) -> String {
    let names = list.names.into_iter().map(|names| names.join(", "));
    let rows = list
        .pins
        .into_iter()
        .zip(names.chain(std::iter::repeat(String::new())));
    table(
        ["digest", "of"],
        rows.map(|(digest, names)| [digest.to_string(), names]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_line_whatever_its_names_hold() {
        let mut file = File {
            path: "a\nb".into(),
            kind: "symlink".into(),
            bytes: None,
            executable: None,
            target: Some("c\n\x1b[2Jd".into()),
        };
        assert_eq!(line(&file), "→ c\\u{a}\\u{1b}[2Jd  a\\u{a}b");
        (file.path, file.target) = ("a".into(), Some("b".into()));
        assert_eq!(line(&file), "         → b  a");
    }
}
