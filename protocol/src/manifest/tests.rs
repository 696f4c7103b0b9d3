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
    assert_eq!(
        template.fill("a/b", query, |_| None).as_deref(),
        Some("logs/a/b-1")
    );
    assert_eq!(template.fill("a", |_| None, |_| None), None);
    let template = Template::try_from("{id}/{rest}".to_owned()).unwrap();
    let parameter = |name: &str| (name == "id").then_some("7".into());
    assert_eq!(template.fill("a", |_| None, parameter).as_deref(), Some("7/a"));
    assert_eq!(template.parameters().collect::<Vec<_>>(), ["id"]);
    for bad in ["{rest", "{}", "{query.}", "{a b}", "{1}"] {
        assert!(Template::try_from(bad.to_owned()).is_err(), "{bad}");
    }
}

#[test]
fn routes_keep_off_the_gateway_s_paths() {
    for bad in [
        "",
        "/",
        "x",
        "/v1",
        "/v1/x",
        "/fn/x",
        "/a/",
        "/a//b",
        "/a/../b",
        "/a?b",
        "/{x}",
        "/{*x}",
        "/a/{}",
        "/a/{*}",
        "/a/{x",
        "/a/x}",
        "/a/b{x}",
        "/a/{x}b",
        "/a/{x}{y}",
        "/a/{*x}/b",
        "/a/{x}/{X}",
        "/a/{rest}",
        "/a/{1}",
        "/a/{x y}",
        "/a/{{x}}",
    ] {
        assert!(Route::try_from(bad.to_owned()).is_err(), "{bad}");
    }
    assert!(Route::try_from("/v1x/y".to_owned()).is_ok());
}

#[test]
fn routes_have_parameters() {
    let route = |text: &str| Route::try_from(text.to_owned()).unwrap();
    let users = route("/users/{id}/posts/{post-id}");
    assert_eq!(users.parameters().collect::<Vec<_>>(), ["id", "post-id"]);
    assert_eq!(users.shape(), route("/users/{a}/posts/{b}").shape());
    assert_eq!(users.shape(), route("/users/{a}/posts/{*b}").shape());
    assert_ne!(users.shape(), route("/users/id/posts/{b}").shape());
    let files = route("/files/{*rest}");
    assert_eq!(
        files.segments().collect::<Vec<_>>(),
        [Segment::Text("files"), Segment::Rest("rest")]
    );
}

#[test]
fn locate_names_parameters_that_the_route_has() {
    let manifest = |route: &str, locate: &str| {
        let inputs = "inputs = { x = \"d\" }";
        ManifestFile::parse(&format!(
            "[function.a]\n{route}\n{inputs}\nlocate = {{ input = \"x\", {locate} }}"
        ))
    };
    let route = "route = \"/users/{id}\"";
    assert_eq!(manifest(route, "key = \"{id}\"").err(), None);
    assert_eq!(manifest(route, "path = \"a/{id}/{rest}\"").err(), None);
    for (route, locate) in [(route, "key = \"{ix}\""), ("", "path = \"{id}\"")] {
        let error = manifest(route, locate).unwrap_err();
        assert!(error.message.contains("no parameter of the route"), "{error}");
    }
}

#[test]
fn cors_is_read_and_checked() {
    let parse = |cors: &str| ManifestFile::parse(&format!("[function.a]\ncors = {{ {cors} }}\n"));
    let cors = |text: &str| {
        parse(text).unwrap().function[&"a".parse().unwrap()]
            .manifest
            .cors
            .clone()
            .unwrap()
    };
    let whole = "origins = [\"https://app.example\", \"http://localhost:3000\", \"http://[::1]:3000\"], \
                 methods = [\"GET\", \"PUT\"], headers = [\"content-type\", \"X-Key\"], expose = [\"etag\"], \
                 credentials = true, max_age = \"10m\"";
    let read = cors(whole);
    assert!(read.allows(b"https://app.example") && read.allows(b"http://[::1]:3000"));
    assert!(!read.allows(b"https://app.example:8443") && !read.allows(b"https://other.example"));
    assert!(!read.allows(b"null") && !read.allows(b"*"));
    assert_eq!(read.max_age, Some(Timeout(Duration::from_secs(600))));
    let json = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<Cors>(&json).unwrap(), read);
    let few = cors("origins = [\"*\"]");
    assert_eq!(
        (few.methods.join(" ").as_str(), few.credentials),
        ("GET HEAD POST", false)
    );
    assert!(few.allows(b"https://any.example") && few.allows(b"null"));

    let many = |count: usize| {
        let origins: Vec<_> = (0..count).map(|n| format!("\"https://a{n}.example\"")).collect();
        parse(&format!("origins = [{}]", origins.join(", ")))
    };
    assert_eq!(many(limits::CORS_ENTRIES).err(), None);
    assert!(
        many(limits::CORS_ENTRIES + 1)
            .unwrap_err()
            .message
            .contains("cors.origins")
    );
    for (bad, named) in [
        ("", "origins"),
        ("origins = []", "cors.origins"),
        ("origins = [\"*\"], credentials = true", "cors.credentials"),
        ("origins = [\"*\", \"https://a.example\"]", "stands alone"),
        ("origins = [\"https://app.example/\"]", "is no origin"),
        ("origins = [\"https://App.example\"]", "is no origin"),
        ("origins = [\"https://*.example\"]", "is no origin"),
        ("origins = [\"https://app.example:443\"]", "is no origin"),
        ("origins = [\"http://app.example:080\"]", "is no origin"),
        ("origins = [\"app.example\"]", "is no origin"),
        ("origins = [\"null\"]", "is no origin"),
        ("origins = [\"https://\"]", "is no origin"),
        (
            "origins = [\"https://a.example\"], methods = [\"GET POST\"]",
            "cors.methods",
        ),
        (
            "origins = [\"https://a.example\"], methods = [\"TRACE\"]",
            "cors.methods",
        ),
        (
            "origins = [\"https://a.example\"], headers = [\"x:y\"]",
            "cors.headers",
        ),
        (
            "origins = [\"https://a.example\"], headers = [\"\"]",
            "cors.headers",
        ),
        (
            "origins = [\"https://a.example\"], headers = [\"*\", \"a\"]",
            "cors.headers",
        ),
        (
            "origins = [\"https://a.example\"], expose = [\"*\"], credentials = true",
            "cors.expose",
        ),
        (
            "origins = [\"https://a.example\"], max_age = \"25h\"",
            "cors.max_age",
        ),
        ("origins = [\"https://a.example\"], origin = 1", "origin"),
    ] {
        let error = parse(bad).unwrap_err();
        assert!(error.message.contains(named), "{bad}: {error}");
        assert!(error.at.is_some(), "{bad}: {error}");
    }
}

/// Records written before a manifest had `cors` are read, and those without it are written as they were.
#[test]
fn older_manifests_are_read_as_they_were() {
    let old = r#"{"route":"/greet","public":true,"inputs":{"logs":"app-logs"},"limits":{"fuel":10000000000,"memory":268435456,"timeout":"30000ms","gpu_time":"10000ms","gpu_memory":268435456},"allow":{"http":["a.example:443"]},"require":{},"instances":"reuse","env":{"LEVEL":"info"}}"#;
    let read: FunctionManifest = serde_json::from_str(old).unwrap();
    assert_eq!(read.cors, None);
    assert_eq!(read.route, Some(Route::try_from("/greet".to_owned()).unwrap()));
    assert_eq!(serde_json::to_string(&read).unwrap(), old);
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
fn a_host_that_is_taken_is_read_again() {
    for (text, written) in [
        ("API.example.org:443", "api.example.org:443"),
        ("[2001:DB8::1]:80", "[2001:db8::1]:80"),
        ("::1:80", "[::1]:80"),
    ] {
        let host: HostPort = text.parse().unwrap();
        assert_eq!((host.to_string().as_str(), written.parse()), (written, Ok(host)));
    }
    for text in ["a:b:443", "a:443:", "[a]:443", "a:+443", "a:", ":443"] {
        assert!(text.parse::<HostPort>().is_err(), "{text}");
    }
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
