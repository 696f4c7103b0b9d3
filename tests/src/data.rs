use crate::harness::{Node, fails, lines};

/// A folder dataset `registry` with two files.
fn with_files(node: &Node) -> Vec<u8> {
    let source = tempfile::tempdir().unwrap();
    let text = lines(5, 300_000);
    std::fs::create_dir(source.path().join("logs")).unwrap();
    std::fs::write(source.path().join("logs/app.txt"), &text).unwrap();
    std::fs::write(source.path().join("page.html"), b"<h1>hello</h1>\n").unwrap();
    node.json(&["put", source.path().to_str().unwrap(), "--name", "registry"]);
    text
}

const LOCATED: &str =
    "public = true\ninputs = { data = \"registry\" }\nlocate = { input = \"data\", path = \"{rest}\" }";

#[test]
fn cat_serves_files_and_ranges() {
    let node = Node::start();
    let text = with_files(&node);
    node.deploy("cat", "cat", LOCATED);
    let whole = node.get("/fn/cat/logs/app.txt");
    assert_eq!(whole.status, 200);
    assert!(whole.body == text);
    assert_eq!(
        whole.header("nearfield-placement").unwrap_or("local=1/1 moved=0"),
        "local=1/1 moved=0"
    );
    let url = format!("{}/fn/cat/logs/app.txt", node.functions_url);
    let part = node.request("GET", &url, &[("range", "bytes=1000-1999")], &[]);
    assert_eq!(part.status, 206);
    assert!(part.body == text[1000..2000]);
    assert_eq!(
        node.request("GET", &url, &[("range", "bytes=9999999-")], &[])
            .status,
        416
    );
    let head = node.request("HEAD", &url, &[], &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    let page = node.get("/fn/cat/page.html");
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert_eq!(node.get("/fn/cat/missing.txt").status, 404);
}

#[test]
fn grep_finds_what_grep_finds() {
    let node = Node::start();
    let text = String::from_utf8(with_files(&node)).unwrap();
    node.deploy("grep", "grep", LOCATED);
    let reply = node.get("/fn/grep/logs/app.txt?q=abc");
    let expected: String = text
        .lines()
        .enumerate()
        .filter(|(_, line)| line.contains("abc"))
        .map(|(number, line)| format!("{}:{line}\n", number + 1))
        .collect();
    assert!(!expected.is_empty());
    assert_eq!(reply.text(), expected);
}

#[test]
fn stats_equal_a_native_reference() {
    let node = Node::start();
    let mut csv = String::from("name,value,note\n");
    let (mut sum, mut count) = (0f64, 0u64);
    for number in 0..60_000u64 {
        let value = (number * 7919) % 10_007;
        sum += value as f64;
        count += 1;
        csv.push_str(&format!(
            "row{number},{value},\"a \"\"quoted\"\" note,\nover two lines\"\n"
        ));
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("table.csv");
    std::fs::write(&file, &csv).unwrap();
    let path = file.to_str().unwrap();
    let put = node.json(&["put", path, "--name", "flights", "--shard-size", "256KiB"]);
    assert_eq!(put["split"], "csv");
    assert!(put["shards"].as_u64().unwrap() > 3, "{put}");
    node.deploy(
        "stats",
        "stats",
        "public = true\ninputs = { table = \"flights\" }\nlimits = { fuel = \"50G\" }",
    );
    let reply = node.get("/fn/stats?column=value");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let json = reply.json();
    let text = json.to_string();
    assert!(text.contains(&count.to_string()), "{text}");
    let mean = find_number(&json, "mean").unwrap_or_else(|| panic!("{text}"));
    assert!((mean - sum / count as f64).abs() < 1e-6, "{mean}");
    assert_eq!(find_number(&json, "min"), Some(0.0));
    assert_eq!(find_number(&json, "max"), Some(10_006.0));
}

#[test]
fn bytes_by_digest() {
    let node = Node::start();
    let text = with_files(&node);
    let digest = node.admin("GET", "/v1/datasets/registry", &[]).json()["versions"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let hex = digest.strip_prefix("b3:").unwrap();
    let reply = node.get_as_admin(&format!("/b3/{hex}/logs/app.txt"));
    assert_eq!(reply.status, 200);
    assert!(reply.body == text);
    for (name, value) in [("x-content-type-options", "nosniff"), ("accept-ranges", "bytes")] {
        assert_eq!(reply.header(name), Some(value));
    }
    assert!(
        reply
            .header("content-security-policy")
            .unwrap()
            .contains("sandbox")
    );
    let etag = reply.header("etag").unwrap().to_owned();
    let bearer = format!("Bearer {}", node.token);
    let url = format!("{}/b3/{hex}/logs/app.txt", node.functions_url);
    let cached = node.request(
        "GET",
        &url,
        &[("authorization", &bearer), ("if-none-match", &etag)],
        &[],
    );
    assert_eq!((cached.status, cached.body.len()), (304, 0));
    assert_eq!(
        node.get_as_admin(&format!("/b3/{hex}/nothing")).problem(),
        "unknown-path"
    );
    assert_eq!(
        node.get_as_admin(&format!("/b3/{}", "1".repeat(64))).problem(),
        "unknown-blob"
    );
}

#[test]
fn the_beginning_of_a_digest_is_taken_where_a_digest_is() {
    let node = Node::start();
    let text = b"to be\nor not to be\n";
    let put = |name: &str, text: &[u8]| {
        let output = node.cli_with_input(&["--json", "put", "-", "--name", name, "--split", "lines"], text);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["digest"].clone()
    };
    let digest = put("text", text);
    let digest = digest.as_str().unwrap();
    let table = String::from_utf8(node.ok(&["ls", "datasets"])).unwrap();
    let printed = table
        .split_whitespace()
        .find(|word| word.starts_with("b3:"))
        .unwrap();
    assert!(digest.starts_with(printed), "{table}");
    assert_eq!(node.ok(&["get", printed]), text);
    assert_eq!(node.json(&["pin", printed])["digest"], digest);
    assert_eq!(node.json(&["pin", printed, "--remove"])["digest"], digest);
    node.deploy("words", "wordcount", "");
    assert_eq!(node.json(&["run", "words", "--over", printed])["shards"], 1);
    let table = String::from_utf8(node.ok(&["ls", "functions"])).unwrap();
    let component = table
        .split_whitespace()
        .find(|word| word.starts_with("b3:"))
        .unwrap();
    let token = node.json(&["token", "create", "--function", &format!("words@{component}")]);
    assert!(
        token["component"].as_str().unwrap().starts_with(component),
        "{token}"
    );
    node.json(&["token", "revoke", &token["id"].as_str().unwrap()[..8]]);
    // A shard is no record's, and is found all the same.
    let shards = node.json(&["describe", "dataset/text", "--shards"]);
    let shard = shards["shards"][0]["digest"].as_str().unwrap();
    assert_eq!(node.ok(&["get", &shard[..13]]), text);
    let nobody = if digest.starts_with("b3:0000") {
        "b3:1111"
    } else {
        "b3:0000"
    };
    fails(&node.cli(&["get", nobody]), 4, "begins with");
    fails(&node.cli(&["get", "b3:12"]), 1, "is not a digest");
}

#[test]
fn a_dataset_goes_back_to_an_older_version() {
    let node = Node::start();
    for (version, text) in [b"one\n", b"two\n", b"two\n"].into_iter().enumerate() {
        let put = node.cli_with_input(&["put", "-", "--name", "a/b", "--split", "lines"], text);
        assert!(put.status.success(), "{version}");
    }
    assert_eq!(node.json(&["rollback", "dataset/a/b"])["version"], 4);
    assert_eq!(node.ok(&["get", "a/b"]), b"one\n", "the newest with other bytes");
    assert_eq!(node.json(&["rollback", "dataset/a/b", "--to", "3"])["version"], 5);
    assert_eq!(node.ok(&["get", "a/b"]), b"two\n");
    fails(
        &node.cli(&["rollback", "dataset/a/b", "--to", "9"]),
        4,
        "kept are 1, 2, 3, 4, 5",
    );
    node.json(&["prune", "a/b", "--keep", "1"]);
    assert_eq!(
        node.ok(&["get", "a/b"]),
        b"two\n",
        "what it shares with pruned versions stays"
    );
    fails(&node.cli(&["rollback", "dataset/a/b"]), 4, "no version before 5");
}

#[test]
fn files_are_listed_page_by_page() {
    let node = Node::start();
    let folder = tempfile::tempdir().unwrap();
    // An empty folder sorts as if a slash stood behind it.
    for file in ["a-b", "a0", "b/c"] {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    std::fs::create_dir(folder.path().join("a")).unwrap();
    node.json(&["put", folder.path().to_str().unwrap(), "--name", "files"]);
    let (mut after, mut paths) = (String::new(), Vec::new());
    loop {
        let path = format!("/v1/datasets/files/files?limit=1&after={after}");
        let page = node.admin("GET", &path, &[]).json();
        paths.push(page["files"][0]["path"].as_str().unwrap().to_owned());
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(paths, ["a-b", "a", "a0", "b/c"]);
}

#[test]
fn removal_lets_go_of_what_nothing_else_needs() {
    let node = Node::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.txt");
    std::fs::write(&file, lines(1, 2 << 20)).unwrap();
    let path = file.to_str().unwrap();
    let first = node.json(&["put", path, "--name", "one"]);
    node.json(&["put", path, "--name", "two"]);
    let removed = node.json(&["rm", "dataset/one"]);
    assert_eq!(
        removed["released_bytes"], 0,
        "`two` still needs all of it: {removed}"
    );
    node.ok(&["pin", first["digest"].as_str().unwrap()]);
    let removed = node.json(&["rm", "dataset/two"]);
    assert_eq!(removed["released_bytes"], 0, "it is pinned: {removed}");
    assert!(node.ok(&["get", first["digest"].as_str().unwrap()]) == std::fs::read(&file).unwrap());
}

fn find_number(value: &serde_json::Value, key: &str) -> Option<f64> {
    match value {
        serde_json::Value::Object(map) => map
            .get(key)
            .and_then(serde_json::Value::as_f64)
            .or_else(|| map.values().find_map(|inner| find_number(inner, key))),
        serde_json::Value::Array(items) => items.iter().find_map(|inner| find_number(inner, key)),
        _ => None,
    }
}

#[test]
fn removing_a_function_keeps_a_dataset_of_the_same_bytes() {
    let node = Node::start();
    let component = crate::harness::component_file("hello");
    let path = component.to_str().unwrap();
    node.json(&["put", path, "--name", "same", "--split", "none"]);
    node.deploy("hello", "hello", "public = true");
    node.ok(&["rm", "function/hello"]);
    let usage = |node: &Node| node.admin("GET", "/v1/datasets/same", &[]).status;
    assert_eq!(usage(&node), 200);
    assert!(node.ok(&["get", "same"]) == std::fs::read(&component).unwrap());
    // Whatever was let go of is gone for good after a restart's look for orphans and a sweep.
    let node = node.crash_and_restart();
    assert!(node.ok(&["get", "same"]) == std::fs::read(&component).unwrap());
}

#[test]
fn names_that_urls_must_escape() {
    let node = Node::start();
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("\u{f6} %41.txt"), b"odd\n").unwrap();
    node.json(&["put", source.path().to_str().unwrap(), "--name", "registry"]);
    node.deploy("cat", "cat", LOCATED);
    assert_eq!(node.get("/fn/cat/%C3%B6%20%2541.txt").text(), "odd\n");
}

#[test]
fn of_writers_at_once_that_expect_the_same_version_one_wins() {
    let node = Node::start();
    let put = || {
        node.admin("POST", "/v1/datasets/race?if-version=0&split=none", b"content")
            .status
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..6).map(|_| scope.spawn(put)).collect();
        let mut statuses: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 409, 409, 409, 409, 409]);
    });
}
