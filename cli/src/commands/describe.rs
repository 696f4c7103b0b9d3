//! All about one thing: what people look for first, first. `--json` shows the node's own words.

use anyhow::{Context, Result};
use nearfield_protocol::units::{exact_bytes, exact_count, exact_duration, format_bytes, parse_duration};
use serde_json::{Value, json};

use super::Session;
use crate::args::DescribeArgs;
use crate::args::Thing;
use crate::client::segment;
use crate::failure::{Exit, Failure};
use crate::output::{page, short_digest, utc_minute};

/// A line of a page, and what stands there.
type Field = (&'static str, Value);

pub fn run(session: &Session, args: DescribeArgs) -> Result<()> {
    let client = &session.client;
    if args.shards && !matches!(args.thing, Thing::Dataset(_)) {
        let failure = Failure::new(Exit::Usage, "--shards goes with a dataset alone");
        return Err(failure.next("nearfield describe dataset/NAME --shards").into());
    }
    let (value, page_of): (Value, fn(&Value) -> Vec<Field>) = match args.thing {
        Thing::Function(name) => (
            client.get(format!("/v1/functions/{}", segment(name.as_str())))?,
            function,
        ),
        Thing::Dataset(name) => {
            let path = format!("/v1/datasets/{}?shards={}", segment(name.as_str()), args.shards);
            (client.get(path)?, dataset)
        }
        Thing::Job(id) => (client.get(format!("/v1/jobs/{id}"))?, job),
        Thing::Token(id) => (one_of(client.get("/v1/tokens")?, "tokens", &id)?, token),
        Thing::Node(id) => (client.get(format!("/v1/nodes/{}", segment(&id)))?, node),
    };
    session.out.show_as(&value, || page(&page_of(&value)))
}

fn dataset(value: &Value) -> Vec<Field> {
    let (meta, versions) = (&value["meta"], list(&value["versions"]));
    let newest = versions.last().unwrap_or(&Value::Null);
    let replicas = &value["replicas"];
    let line = |version: &Value| {
        format!(
            "v{}, {}, {}, {}",
            version["version"],
            put(version),
            size(version),
            short(&version["digest"])
        )
    };
    let shown_shards = value["shards"].as_array().map(|shards| {
        let shown = |(at, shard): (usize, &Value)| {
            let mut line = format!("{at}: {}, {}", short(&shard["digest"]), size(shard));
            if let Some(source) = shard["source"].as_str() {
                line.push_str(&format!(", of {source}"));
            }
            if let [Some(first), Some(last)] = [0, 1].map(|end| shard["keys"][end].as_str()) {
                line.push_str(&format!(", keys {first:?} to {last:?}"));
            }
            match words(&shard["holders"]) {
                holders if holders.is_empty() => line.push_str(", held by nobody"),
                holders => line.push_str(&format!(", held by {holders}")),
            }
            line
        };
        shards.iter().enumerate().map(shown).collect::<Vec<_>>()
    });
    let shards = match &shown_shards {
        Some(_) => newest["shards"].to_string(),
        None => format!("{} (--shards lists them)", newest["shards"]),
    };
    vec![
        ("name", value["name"].clone()),
        ("version", newest["version"].clone()),
        ("put", put(newest).into()),
        ("size", size(newest).into()),
        ("shards", shards.into()),
        ("digest", newest["digest"].clone()),
        ("split", meta["split"].clone()),
        ("key", meta["key"].clone()),
        ("header", meta["headers"].clone()),
        ("folder", only_if(meta["folder"] == true)),
        ("sources", meta["sources"].clone()),
        ("parts", meta["parts"].clone()),
        (
            "replicas",
            format!(
                "{} wanted, each shard has {} or more",
                replicas["wanted"], replicas["least"]
            )
            .into(),
        ),
        ("only", value["only"].clone()),
        ("shard size", bytes(&meta["shard_size_bytes"]).into()),
        ("versions", versions.iter().rev().map(line).collect()),
        ("list of shards", json!(shown_shards)),
    ]
}

fn function(value: &Value) -> Vec<Field> {
    let current = &value["current"];
    let mut manifest = current["manifest"].clone();
    let mut take = |field: &str| manifest[field].take();
    let callers = match take("public") == true {
        true => "anybody",
        false => "whoever has a token",
    };
    let fields = [
        "inputs",
        "locate",
        "limits",
        "allow",
        "require",
        "instances",
        "env",
        "cors",
    ];
    let [inputs, locate, limits, allow, require, instances, env, cors] = fields.map(&mut take);
    let line = |version: &Value| {
        let back = match &version["rolled_back_to"] {
            Value::Null => String::new(),
            to => format!(", as v{to}"),
        };
        format!(
            "v{}, {}, {}{back}",
            version["version"],
            minute(&version["deployed_unix_ms"]),
            short(&version["component"])
        )
    };
    vec![
        ("name", current["name"].clone()),
        ("url", value["url"].clone()),
        ("version", current["version"].clone()),
        ("deployed", minute(&current["deployed_unix_ms"]).into()),
        ("callers", callers.into()),
        ("component", current["component"].clone()),
        ("inputs", inputs),
        ("locate", locate),
        ("limits", in_one_notation(limits)),
        ("allow", allow),
        ("require", require),
        ("instances", instances),
        ("env", env),
        ("cors", cors),
        (
            "versions",
            list(&value["versions"]).iter().rev().map(line).collect(),
        ),
    ]
}

/// Limits as a manifest writes them.
fn in_one_notation(mut limits: Value) -> Value {
    for (name, limit) in limits.as_object_mut().into_iter().flatten() {
        let exact = match (name.as_str(), limit.as_u64(), limit.as_str()) {
            ("fuel", Some(count), _) => exact_count(count),
            ("memory" | "gpu_memory", Some(bytes), _) => exact_bytes(bytes),
            (_, _, Some(time)) => match parse_duration(time) {
                Ok(time) => exact_duration(time),
                Err(_) => continue,
            },
            _ => continue,
        };
        *limit = exact.into();
    }
    limits
}

fn job(value: &Value) -> Vec<Field> {
    let mut report = value["state"].clone();
    let state = report["state"].take();
    let over = match &value["dataset"] {
        Value::Null => value["dataset_digest"].clone(),
        name => format!("{}, {}", text(name), short(&value["dataset_digest"])).into(),
    };
    let mut limits = value["limits"].clone();
    limits["max_fuel"] = value["max_fuel"].clone();
    let fields = ["output_bytes", "digest", "seconds", "problem", "failures"];
    let [output_bytes, digest, seconds, problem, failures] = fields.map(|field| report[field].take());
    vec![
        ("job", value["id"].clone()),
        ("state", state),
        ("problem", problem),
        ("progress", value["progress"].clone()),
        ("function", value["function"].clone()),
        ("over", over),
        ("args", args(&value["args"])),
        ("into", value["into"].clone()),
        ("started", minute(&value["started_unix_ms"]).into()),
        ("seconds", seconds),
        (
            "output",
            output_bytes
                .as_u64()
                .map(|bytes| format!("{}, {}", format_bytes(bytes), text(&digest)))
                .into(),
        ),
        ("failures", failures),
        ("came to", report),
        ("version", value["version"].clone()),
        ("component", value["component"].clone()),
        ("inputs", value["inputs"].clone()),
        ("selection", value["selection"].clone()),
        ("limits", limits),
    ]
}

fn node(value: &Value) -> Vec<Field> {
    let state = match (value["there"] == true, value["draining"] == true) {
        (false, _) => "away",
        (true, true) if !value["quarantined"].is_null() => "quarantined",
        (true, true) => "draining",
        (true, false) => "there",
    };
    vec![
        ("id", value["id"].clone()),
        ("state", state.into()),
        ("quarantined", value["quarantined"].clone()),
        ("drain", value["drain"].clone()),
        ("role", value["role"].clone()),
        ("hosting", value["hosting"].clone()),
        ("this node", only_if(value["this"] == true)),
        ("labels", value["labels"].clone()),
        ("addresses", value["addresses"].clone()),
        ("joined", minute(&value["joined_unix_ms"]).into()),
        ("may put", value["may_put"].clone()),
        ("most bytes", bytes(&value["max_bytes"]).into()),
        ("load", value["load"].clone()),
    ]
}

fn token(value: &Value) -> Vec<Field> {
    let expires = match &value["expires_unix_ms"] {
        Value::Null => "never".to_owned(),
        at => minute(at),
    };
    vec![
        ("id", value["id"].clone()),
        ("function", value["function"].clone()),
        ("component", value["component"].clone()),
        ("fuel a day", value["max_fuel_per_day"].clone()),
        ("expires", expires.into()),
        ("issued", minute(&value["issued_unix_ms"]).into()),
    ]
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn words(value: &Value) -> String {
    list(value).iter().map(text).collect::<Vec<_>>().join(" ")
}

fn minute(unix_ms: &Value) -> String {
    unix_ms
        .as_u64()
        .map(|unix_ms| format!("{} UTC", utc_minute(unix_ms)))
        .unwrap_or_default()
}

fn put(version: &Value) -> String {
    minute(&version["put_unix_ms"])
}

fn bytes(value: &Value) -> String {
    value.as_u64().map(format_bytes).unwrap_or_default()
}

fn size(of: &Value) -> String {
    bytes(&of["size_bytes"])
}

fn short(digest: &Value) -> String {
    text(digest)
        .parse()
        .map(|digest| short_digest(&digest))
        .unwrap_or_default()
}

/// Arguments as they were given: on one line.
fn args(args: &Value) -> Value {
    match args {
        Value::Null => Value::Null,
        args => args.to_string().into(),
    }
}

/// `yes`, or no line at all.
fn only_if(holds: bool) -> Value {
    holds.then_some("yes").into()
}

/// Tokens have no page of their own: the list holds all that is known of each.
fn one_of(mut found: Value, kind: &str, id: &str) -> Result<Value> {
    let items = found[kind]
        .as_array_mut()
        .with_context(|| format!("the node lists no {kind}"))?;
    items.retain(|item| text(&item["id"]).starts_with(id));
    let failure = match items.len() {
        0 => Failure::new(
            Exit::NotFound,
            format!("no id among the {kind} starts with `{id}`"),
        ),
        1 => return Ok(items.swap_remove(0)),
        _ => Failure::new(
            Exit::Usage,
            format!("several ids among the {kind} start with `{id}`"),
        ),
    };
    Err(failure.next(format!("see `nearfield ls {kind}`")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_begins_with_what_it_is_and_lists_no_shards_unasked() {
        let version = |version: u64| {
            json!({
                "version": version, "put_unix_ms": 1_795_405_000_123_u64, "size_bytes": 2048, "shards": 2,
                "digest": format!("b3:{}", "ab".repeat(32)),
            })
        };
        let mut value = json!({
            "name": "logs", "versions": [version(1), version(2)],
            "meta": { "split": "lines", "folder": false, "shard_size_bytes": 4 << 20, "headers": [], "sources": ["a"] },
            "replicas": { "wanted": 2, "least": 1 }, "only": [],
        });
        let text = page(&dataset(&value));
        let first = "name: logs\nversion: 2\nput: 2026-11-23 03:36 UTC\nsize: 2.0 KiB\nshards: 2 (--shards lists them)\n";
        assert!(text.starts_with(first), "{text}");
        assert!(
            text.contains("- v1, 2026-11-23 03:36 UTC, 2.0 KiB, b3:ababababab\n"),
            "{text}"
        );
        assert!(!text.contains("folder") && !text.contains("unix_ms"), "{text}");
        value["shards"] =
            json!([{ "digest": version(1)["digest"], "size_bytes": 1, "source": "a", "holders": ["x"] }]);
        let text = page(&dataset(&value));
        assert!(
            text.contains("- 0: b3:ababababab, 1 B, of a, held by x\n"),
            "{text}"
        );
    }

    #[test]
    fn limits_are_written_as_in_a_manifest() {
        let limits =
            json!({ "fuel": 10_000_000_000_u64, "memory": 268_435_456, "timeout": "30000ms", "calls": 256 });
        let expected = json!({ "fuel": "10G", "memory": "256MiB", "timeout": "30s", "calls": 256 });
        assert_eq!(in_one_notation(limits), expected);
    }

    #[test]
    fn the_beginning_of_an_id_is_that_of_one() {
        let tokens = || json!({ "tokens": [{ "id": "ab1" }, { "id": "ab2" }] });
        assert_eq!(one_of(tokens(), "tokens", "ab2").unwrap()["id"], "ab2");
        let several = one_of(tokens(), "tokens", "ab").unwrap_err();
        assert!(several.to_string().contains("several"), "{several:#}");
        assert!(one_of(tokens(), "tokens", "c").is_err());
    }
}
