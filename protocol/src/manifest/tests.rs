use std::time::Duration;

use super::*;

const WHOLE: &str = r#"
[function.errors]
build     = { crate = "." }
route     = "/errors"
public    = true
inputs    = { logs = "app-logs" }
locate    = { input = "logs", path = "{rest}" }
limits    = { fuel = 5_000_000_000, memory = "256MiB", timeout = "30s" }
allow     = { http = ["api.example.org:443", "[::1]:80"] }
instances = "reuse"
env       = { LEVEL = "info" }
"#;

#[test]
fn the_whole_of_it() {
    let file = ManifestFile::parse(WHOLE).unwrap();
    let manifest = &file.function[&"errors".parse().unwrap()].manifest;
    assert_eq!(manifest.limits.fuel, 5_000_000_000);
    assert_eq!(manifest.limits.memory, ByteSize(256 << 20));
    assert_eq!(manifest.limits.timeout, Timeout(Duration::from_secs(30)));
    assert_eq!(manifest.instances, Instances::Reuse);
    let json = serde_json::to_string(manifest).unwrap();
    assert_eq!(
        serde_json::from_str::<FunctionManifest>(&json).unwrap(),
        *manifest
    );
}

#[test]
fn errors_name_the_place() {
    let place = |text: &str| ManifestFile::parse(text).unwrap_err().at;
    assert_eq!(place("[function.a]\npubic = true"), Some((2, 1)));
    assert_eq!(place("[function.a]\nroute = \"/v1/x\""), Some((2, 9)));
    assert_eq!(place("\n[function.a]\nlimits = { fuel = 0 }"), Some((2, 1)));
    assert_eq!(place("[function.\"a b\"]"), Some((1, 11)));
    assert!(place("[function.a]\nlocate = { input = \"x\", path = \"{rest}\" }").is_some());
    let locate = |sought: &str| {
        ManifestFile::parse(&format!(
            "[function.a]\ninputs = {{ x = \"d\" }}\nlocate = {{ input = \"x\"{sought} }}"
        ))
    };
    assert!(locate(", key = \"{query.id}\"").is_ok());
    assert!(
        locate("")
            .unwrap_err()
            .to_string()
            .contains("either a `path` or a `key`")
    );
    assert!(locate(", key = \"{rest}\", path = \"{rest}\"").is_err());
}

#[test]
fn templates_fill() {
    let template = Template::try_from("logs/{rest}-{query.day}".to_owned()).unwrap();
    let query = |name: &str| (name == "day").then_some("1".into());
    assert_eq!(template.fill("a/b", query).as_deref(), Some("logs/a/b-1"));
    assert_eq!(template.fill("a", |_| None), None);
    assert!(Template::try_from("{else}".to_owned()).is_err());
    assert!(Template::try_from("{rest".to_owned()).is_err());
}

#[test]
fn routes_keep_off_the_gateway_s_paths() {
    for bad in [
        "", "/", "x", "/v1", "/v1/x", "/fn/x", "/a/", "/a//b", "/a/../b", "/a?b", "/{x}",
    ] {
        assert!(Route::try_from(bad.to_owned()).is_err(), "{bad}");
    }
    assert!(Route::try_from("/v1x/y".to_owned()).is_ok());
}

#[test]
fn a_component_comes_from_a_crate_or_a_file() {
    let source = |build: &str| {
        let file = ManifestFile::parse(&format!("[function.a]\n{build}"))?;
        Ok::<_, ManifestError>(file.function[&"a".parse().unwrap()].source.clone())
    };
    let (here, there) = (
        ComponentSource::Crate(".".to_owned()),
        ComponentSource::Crate("x".to_owned()),
    );
    assert_eq!(source(""), Ok(here));
    assert_eq!(source("build = { crate = \"x\" }"), Ok(there));
    let file = ComponentSource::File("a.wasm".to_owned());
    assert_eq!(source("build = { component = \"a.wasm\" }"), Ok(file));
    for bad in [
        "component = \"a.wasm\"",
        "build = {}",
        "build = { crate = \".\", component = \"a.wasm\" }",
        "build = { wasm = \"a.wasm\" }",
    ] {
        assert!(source(bad).is_err(), "{bad}");
    }
}

#[test]
fn quantities_are_refused_in_plain_words() {
    let refused = |limits: &str| {
        let text = format!("[function.a]\nlimits = {{ {limits} }}\n");
        let error = ManifestFile::parse(&text).unwrap_err();
        (error.message, error.at)
    };
    let count = "is not a count, such as 10G, 500M or 5000000";
    assert_eq!(refused("fuel = -1"), (format!("`-1` {count}"), Some((2, 19))));
    assert_eq!(refused("fuel = 1.5"), (format!("`1.5` {count}"), Some((2, 19))));
    assert_eq!(
        refused("fuel = \"much\""),
        (format!("`much` {count}"), Some((2, 19)))
    );
    let size = "is not a size, such as 256MiB, 4G or 1048576";
    assert_eq!(refused("memory = -5"), (format!("`-5` {size}"), Some((2, 21))));
    let time = "is not a time with a unit, such as 500ms, 30s, 5m, 12h or 30d";
    assert_eq!(refused("timeout = 30"), (format!("`30` {time}"), Some((2, 22))));
    let (message, at) = refused("fuel = true");
    assert!(
        message.contains("boolean `true`") && message.contains("a number"),
        "{message}"
    );
    assert_eq!(at, Some((2, 19)));
}

#[test]
fn lists_and_texts_have_bounds() {
    let manifest = |text: String| ManifestFile::parse(&format!("[function.a]\n{text}\n"));
    let list =
        |count: usize, entry: fn(usize) -> String| (0..count).map(entry).collect::<Vec<_>>().join(", ");
    let inputs = |count| {
        manifest(format!(
            "inputs = {{ {} }}",
            list(count, |n| format!("i{n} = \"data\""))
        ))
    };
    let hosts = |count| {
        manifest(format!(
            "allow = {{ http = [{}] }}",
            list(count, |n| format!("\"h{n}:80\""))
        ))
    };
    let env = |count| manifest(format!("env = {{ {} }}", list(count, |n| format!("E{n} = \"\""))));
    let value = |bytes: usize| manifest(format!("env = {{ E = \"{}\" }}", "x".repeat(bytes - 1)));
    let route = |bytes: usize| manifest(format!("route = \"/{}\"", "x".repeat(bytes - 1)));
    type Try<'a> = &'a dyn Fn(usize) -> Result<ManifestFile, ManifestError>;
    let bounds: [(&str, usize, Try<'_>); 5] = [
        ("inputs", limits::INPUTS, &inputs),
        ("allow.http", limits::ALLOWED_HOSTS, &hosts),
        ("env", limits::ENV_VARIABLES, &env),
        ("env", limits::ENV_BYTES, &value),
        ("route", limits::ROUTE_BYTES, &route),
    ];
    for (key, max, with) in bounds {
        assert_eq!(with(max).err(), None, "{key}");
        let error = with(max + 1).unwrap_err();
        assert!(error.message.contains(key), "{error}");
        assert!(error.message.contains(&max.to_string()), "{error}");
        assert!(error.at.is_some(), "{error}");
    }
}
