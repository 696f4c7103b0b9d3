//! HTTP as clients expect it: methods, what has no content, which host, browsers' questions.

use serde_json::Value;

use crate::harness::{Node, Reply};
use crate::network::Network;

/// A raw answer, its head taken apart.
struct Raw {
    head: String,
    body: String,
}

impl Raw {
    fn of(bytes: Vec<u8>) -> Raw {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        Raw {
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn says(&self, line: &str) -> bool {
        self.head.lines().any(|said| said == line)
    }
}

impl Node {
    pub fn asks(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.request(method, &format!("{}{path}", self.functions_url), headers, b"")
    }

    /// With the admin token, on the side that `path` belongs to.
    pub fn admin_asks(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let url = if path.starts_with("/b3") {
            &self.functions_url
        } else {
            &self.admin_url
        };
        let bearer = format!("Bearer {}", self.token);
        let headers = [&[("authorization", bearer.as_str())], headers].concat();
        self.request(method, &format!("{url}{path}"), &headers, b"")
    }
}

#[test]
fn every_path_says_what_it_takes_and_head_is_wherever_get_is() {
    let node = Node::start();
    let document = node.admin("GET", "/v1/openapi.json", &[]).json();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let documented = item.as_object().unwrap();
        let path = path
            .replace("{id}", "none")
            .replace("{name}", "none")
            .replace("{digest}", "none");
        let path = path.replace("{shard}", "0");
        let reply = node.admin_asks("PATCH", &path, &[]);
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (405, "method-not-allowed"),
            "{path}"
        );
        let allow: Vec<_> = reply
            .header("allow")
            .unwrap()
            .split(", ")
            .map(str::to_lowercase)
            .collect();
        for method in ["get", "post", "put", "delete"] {
            assert_eq!(
                allow.contains(&method.to_owned()),
                documented.contains_key(method),
                "{path}"
            );
        }
        if !documented.contains_key("get") {
            assert_eq!(node.admin_asks("HEAD", &path, &[]).status, 405, "{path}");
            continue;
        }
        let (get, head) = (
            node.admin_asks("GET", &path, &[]),
            node.admin_asks("HEAD", &path, &[]),
        );
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
        assert_eq!(
            head.header("cache-control"),
            get.header("cache-control"),
            "{path}"
        );
        let length: Option<usize> = head
            .header("content-length")
            .map(|length| length.parse().unwrap());
        assert!(length.is_none_or(|length| length > 0), "{path}");
        tried += 1;
    }
    assert!(tried > 15, "{tried}");
    for path in ["/healthz", "/b3/00"] {
        let reply = node.admin_asks("POST", path, &[]);
        assert_eq!(
            (reply.status, reply.header("allow")),
            (405, Some("GET, HEAD")),
            "{path}"
        );
    }
    node.deploy("mirror", "mirror", "public = true");
    let reply = Raw::of(node.raw(b"TRACE /fn/mirror HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    assert_eq!(reply.status(), "405");
    assert!(
        reply.head.contains("\r\nallow: get, head, post, "),
        "{}",
        reply.head
    );
}

/// A node alone, and a gateway with a host of its own.
fn alone_and_far() -> (Node, Network) {
    (Node::start(), Network::start(1))
}

#[test]
fn what_has_no_content_is_whole_without_it() {
    let (alone, network) = alone_and_far();
    for node in [&alone, &network.gateway] {
        node.deploy("mirror", "mirror", "public = true");
        let ask = |method, query: &str| node.asks(method, &format!("/fn/mirror?{query}"), &[]);
        for (query, status) in [
            ("status=304&length=5", 304),
            ("status=304&length=5&body=hello", 304),
            ("status=304&body=hello", 304),
            ("status=204&length=5", 204),
            ("status=204&body=hello", 204),
            ("status=205&length=5", 205),
            ("status=205&length=5&body=hello", 205),
            ("status=205&body=hello", 205),
        ] {
            for method in ["GET", "HEAD"] {
                let reply = ask(method, query);
                assert_eq!((reply.status, reply.body.len()), (status, 0), "{method} {query}");
                let length = (status == 205).then_some("0");
                assert_eq!(reply.header("content-length"), length, "{method} {query}");
                assert!(node.fuel(&reply) > 0, "its guest ran to its end");
            }
        }
        for (query, status, length) in [
            ("status=200&length=5", 200, Some("5")),
            ("status=200&length=5&body=hello", 200, Some("5")),
            ("status=200&body=hello", 200, Some("5")),
            ("status=404&length=7", 404, Some("7")),
        ] {
            let reply = ask("HEAD", query);
            assert_eq!((reply.status, reply.body.len()), (status, 0), "{query}");
            assert_eq!(reply.header("content-length"), length, "{query}");
        }
        for status in [100, 101, 103, 199] {
            let reply = ask("GET", &format!("status={status}"));
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (502, "bad-response"),
                "{status}"
            );
        }
        assert_eq!(
            ask("GET", "status=200&length=5").problem(),
            "bad-response",
            "a body that is missing is a fault"
        );
        // A guest of another toolchain traps where the host says that its body is too short.
        node.deploy("rude", "rude", "public = true");
        let strict = "strict=yes&times=0&field=content-length:5";
        for (method, status) in [("HEAD", 200), ("GET", 304), ("HEAD", 304)] {
            let reply = node.asks(method, &format!("/fn/rude?{strict}&status={status}"), &[]);
            assert_eq!(reply.status, status, "{method} {status}: {}", reply.text());
        }
        let missing = node.asks("GET", &format!("/fn/rude?{strict}"), &[]);
        assert_eq!(missing.problem(), "bad-response");
        // One connection goes on after all of these.
        let request =
            |method: &str, query: &str| format!("{method} /fn/mirror?{query} HTTP/1.1\r\nhost: x\r\n");
        let raw = [
            request("GET", "status=205&body=hello") + "\r\n",
            request("HEAD", "status=200&body=hello") + "\r\n",
            request("GET", "status=304&length=9") + "\r\n",
            request("GET", "status=200&body=done") + "connection: close\r\n\r\n",
        ];
        let answer = String::from_utf8_lossy(&node.raw(raw.concat().as_bytes())).into_owned();
        let statuses: Vec<_> = answer
            .match_indices("HTTP/1.1 ")
            .map(|(at, _)| &answer[at + 9..at + 12])
            .collect();
        assert_eq!(statuses, ["205", "200", "304", "200"], "{answer}");
        assert!(answer.ends_with("done") && !answer.contains("hello"), "{answer}");
    }
}

#[test]
fn a_status_without_a_phrase_has_none() {
    let node = Node::start();
    node.deploy("mirror", "mirror", "public = true");
    for (status, line) in [(299, "http/1.1 299 "), (418, "http/1.1 418 i'm a teapot")] {
        let target =
            format!("GET /fn/mirror?status={status} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let raw = Raw::of(node.raw(target.as_bytes()));
        assert_eq!(raw.head.lines().next(), Some(line));
    }
}

#[test]
fn an_answer_that_ends_its_connection_says_so() {
    let node = Node::start();
    node.deploy("mirror", "mirror", "public = true");
    node.deploy("private", "mirror", "");
    let post =
        |path: &str, length: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n");
    for (path, length, status) in [
        ("/nowhere", "100000000", "404"),
        ("/fn/nowhere", "100000000", "404"),
        ("/fn/private", "100000000", "401"),
        ("/b3/00", "100000000", "405"),
        ("/healthz", "100000000", "405"),
        ("/fn/mirror", "999999999999", "413"),
        ("/fn/mirror?status=200&body=early", "100000000", "200"),
        ("/fn/mirror/%ff", "100000000", "400"),
    ] {
        let answer = Raw::of(node.raw((post(path, length) + "\r\n").as_bytes()));
        assert_eq!(answer.status(), status, "{path}");
        assert!(answer.says("connection: close"), "{path}: {}", answer.head);
    }
    for (path, status) in [("/v1/nowhere", "401"), ("/readyz", "405"), ("/metrics", "405")] {
        let answer = Raw::of(node.raw_admin((post(path, "100000000") + "\r\n").as_bytes()));
        assert_eq!(answer.status(), status, "{path}");
        assert!(answer.says("connection: close"), "{path}: {}", answer.head);
    }
    let chunked = "POST /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let answer = Raw::of(node.raw(chunked.as_bytes()));
    assert!(answer.says("connection: close"), "{}", answer.head);
    // A short body is taken, and the connection goes on.
    let both =
        post("/nowhere", "5") + "\r\nhello" + "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = String::from_utf8_lossy(&node.raw(both.as_bytes())).into_owned();
    assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
}

#[test]
fn the_host_that_was_asked_reaches_the_guest() {
    let (alone, network) = alone_and_far();
    for node in [&alone, &network.gateway] {
        node.deploy("mirror", "mirror", "public = true");
        let seen = |request: &str| {
            let answer = Raw::of(node.raw(request.as_bytes()));
            assert_eq!(answer.status(), "200", "{request}: {}", answer.head);
            // The body may come in chunks.
            let start = answer.body.find('{').unwrap();
            let end = answer.body.rfind('}').unwrap();
            let seen: Value = serde_json::from_str(&answer.body[start..=end]).unwrap();
            assert_eq!(seen["host"], seen["headers"]["host"][0]);
            seen["host"].as_str().unwrap().to_owned()
        };
        let close = "connection: close\r\n\r\n";
        assert_eq!(
            seen(&format!(
                "GET /fn/mirror HTTP/1.1\r\nhost: a.example:81\r\n{close}"
            )),
            "a.example:81"
        );
        assert_eq!(
            seen(&format!(
                "GET http://b.example/fn/mirror HTTP/1.1\r\nhost: a.example\r\n{close}"
            )),
            "b.example"
        );
        assert_eq!(
            seen(&format!("GET /fn/mirror HTTP/1.0\r\nhost: c.example\r\n{close}")),
            "c.example"
        );
        let own = node.functions_url.strip_prefix("http://").unwrap();
        assert_eq!(seen("GET /fn/mirror HTTP/1.0\r\n\r\n"), own);
        assert_eq!(seen("GET /fn/mirror HTTP/1.0\r\nhost:\r\n\r\n"), own);
        let nobody = Raw::of(node.raw(format!("GET /fn/mirror HTTP/1.1\r\n{close}").as_bytes()));
        assert_eq!(nobody.status(), "400");
        let health = Raw::of(node.raw(b"GET /healthz HTTP/1.0\r\n\r\n"));
        assert_eq!(health.status(), "200");
        assert!(health.head.contains("cache-control: no-store"), "{}", health.head);
        // One host, that can be one: whoever stands in between may take another of two.
        for hosts in [
            "host: a\r\nhost: b",
            "host: a\r\nhost: a",
            "host: a b",
            "host: a/x",
        ] {
            let request = format!("GET /fn/mirror HTTP/1.1\r\n{hosts}\r\n{close}");
            let refused = Raw::of(node.raw(request.as_bytes()));
            assert_eq!(refused.status(), "400", "{hosts}");
        }
    }
}

#[test]
fn parameters_of_a_route_reach_the_guest() {
    let (alone, network) = alone_and_far();
    for node in [&alone, &network.gateway] {
        node.deploy("mirror", "mirror", "public = true\nroute = \"/users/{id}\"");
        node.deploy(
            "posts",
            "mirror",
            "public = true\nroute = \"/users/{id}/posts/{post-id}\"",
        );
        node.deploy("all", "mirror", "public = true\nroute = \"/all/{*id}\"");
        node.deploy("users", "hello", "public = true\nroute = \"/users\"");
        let seen = |path: &str| {
            node.asks(
                "GET",
                path,
                &[("nearfield-param-id", "forged"), ("nearfield-param-x", "forged")],
            )
            .json()
        };
        for (path, id, below, prefix) in [
            ("/users/7", "7", "", "/users/7"),
            ("/users/J%C3%BC%20r/a%20b", "Jü r", "a b", "/users/J%C3%BC%20r"),
            ("/users/a%2Fb/", "a/b", "", "/users/a%2Fb"),
            ("/users/7/posts", "7", "posts", "/users/7"),
            ("/users/7/posts/9", "7", "", "/users/7/posts/9"),
            ("/all/a/b%20c", "a/b c", "a/b c", "/all"),
        ] {
            let seen = seen(path);
            assert_eq!(
                (seen["id"].as_str(), seen["path"].as_str()),
                (Some(id), Some(below)),
                "{path}"
            );
            assert_eq!(seen["headers"]["nearfield-param-id"][0], id, "{path}");
            assert_eq!(seen["headers"]["nearfield-param-x"], Value::Null, "{path}");
            assert_eq!(seen["headers"]["x-forwarded-prefix"][0], prefix, "{path}");
        }
        assert_eq!(
            seen("/users/7/posts/9")["headers"]["nearfield-param-post-id"][0],
            "9"
        );
        assert_eq!(node.get("/users").text(), "Hello, world!");
        assert_eq!(node.get("/all/").status, 404);
        for bad in ["/users/%ff", "/users/a%0ab", "/users/%20"] {
            assert_eq!(node.get(bad).problem(), "bad-request", "{bad}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let component = crate::harness::component_file("mirror");
    let deploy = |route: &str| {
        let build = format!("build = {{ component = \"{}\" }}", component.display());
        let manifest = format!("[function.other]\n{build}\nroute = \"{route}\"\n");
        std::fs::write(dir.path().join("nearfield.toml"), manifest).unwrap();
        alone.cli(&["deploy", dir.path().to_str().unwrap()])
    };
    for (route, says) in [
        ("/users/{name}", "`/users/{id}` of function `mirror`"),
        ("/users/{*name}", "`/users/{id}` of function `mirror`"),
        ("/users/{a}/posts/{b}", "of function `posts`"),
        ("/all/{one}", "`/all/{*id}` of function `all`"),
        ("/users", "belongs to function `users`"),
        ("/x/{a}b", "is no route"),
    ] {
        crate::harness::fails(&deploy(route), 1, says);
    }
}

#[test]
fn a_call_runs_where_the_record_of_its_parameter_is() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    node.json(&["put", dir.path().to_str().unwrap(), "--name", "files"]);
    let located = "inputs = { data = \"files\" }\nlocate = { input = \"data\", path = \"{id}\" }";
    node.deploy(
        "mirror",
        "mirror",
        &format!("public = true\nroute = \"/f/{{id}}\"\n{located}"),
    );
    let reply = node.get("/f/b");
    let call = node.record(reply.id());
    let files = node.admin("GET", "/v1/datasets/files?shards=true", &[]).json();
    assert_eq!(call["placement"]["located"], files["shards"][0]["digest"]);
}

#[test]
fn browsers_are_told_what_the_manifest_says() {
    let node = Node::start();
    let cors = "cors = { origins = [\"https://app.example\"], methods = [\"GET\", \"PUT\"], headers = [\"authorization\"], \
                expose = [\"nearfield-id\"], credentials = true, max_age = \"10m\" }";
    node.deploy("private", "mirror", cors);
    node.deploy("silent", "mirror", "");
    node.deploy("open", "mirror", "public = true");
    let asked = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization"),
    ];
    let allowed = |reply: &Reply| reply.header("access-control-allow-origin").map(str::to_owned);
    let preflight = node.asks("OPTIONS", "/fn/private/x", &asked);
    assert_eq!((preflight.status, preflight.body.len()), (204, 0));
    assert_eq!(allowed(&preflight).as_deref(), Some("https://app.example"));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, PUT"));
    assert_eq!(
        preflight.header("access-control-allow-headers"),
        Some("authorization")
    );
    assert_eq!(preflight.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(preflight.header("access-control-max-age"), Some("600"));
    let stranger = node.asks(
        "OPTIONS",
        "/fn/private",
        &[("origin", "https://evil.example"), asked[1]],
    );
    assert_eq!((stranger.status, allowed(&stranger)), (204, None));
    assert_eq!(
        node.asks("OPTIONS", "/fn/silent", &asked).status,
        401,
        "without `cors` it is a call"
    );
    assert_eq!(
        node.asks("OPTIONS", "/fn/private", &asked[..1]).status,
        401,
        "no preflight"
    );

    // Answers, problems included.
    let bearer = format!("Bearer {}", node.token);
    let with_token = [asked[0], ("authorization", bearer.as_str())];
    let answer = node.asks("GET", "/fn/private?status=200&allow-origin=*", &with_token);
    assert_eq!(
        (answer.status, allowed(&answer).as_deref()),
        (200, Some("https://app.example"))
    );
    assert_eq!(answer.header("vary"), Some("origin"));
    assert_eq!(
        answer.header("access-control-expose-headers"),
        Some("nearfield-id")
    );
    let refused = node.asks("GET", "/fn/private", &asked[..1]);
    assert_eq!(
        (refused.status, allowed(&refused).as_deref()),
        (401, Some("https://app.example"))
    );
    assert_eq!(refused.header("vary"), Some("origin"));
    let elsewhere = node.asks("GET", "/fn/private", &[("origin", "https://evil.example")]);
    assert_eq!(
        (allowed(&elsewhere), elsewhere.header("vary")),
        (None, Some("origin"))
    );

    // A function without `cors` speaks for itself.
    let own = node.asks(
        "GET",
        "/fn/open?status=200&allow-origin=https://x.example",
        &asked[..1],
    );
    assert_eq!(
        (allowed(&own).as_deref(), own.header("vary")),
        (Some("https://x.example"), None)
    );
    assert_eq!(
        node.asks("OPTIONS", "/fn/open?status=200&body=mine", &asked)
            .text(),
        "mine"
    );
}
