use nearfield_testkit::noise_bytes;

use crate::harness::Node;

#[test]
fn the_same_answer_from_every_toolchain() {
    let node = Node::start();
    for component in ["hello", "plain_p2", "plain_p3"] {
        let name = component.replace('_', "-");
        node.deploy(&name, component, "public = true");
        let reply = node.get(&format!("/fn/{name}"));
        assert_eq!(
            (reply.status, reply.text().as_str()),
            (200, "Hello, world!"),
            "{component}"
        );
        // On a busy machine a response may take longer than it is held back for: then it streams, and its cost is in trailers.
        if reply.header("trailer").is_none() {
            assert_eq!(reply.header("content-length"), Some("13"));
            assert!(reply.header("server-timing").unwrap().contains("run;dur="));
        }
        assert!(reply.header("nearfield-id").is_some());
        assert!(reply.header("nearfield-host").is_some());
        assert_eq!(reply.header("nearfield-placement"), Some("local=0/0 moved=0"));
    }
}

#[test]
fn fuel_is_exact_across_processes() {
    let fuel = || {
        let node = Node::start();
        node.deploy("hello", "hello", "public = true");
        node.deploy("p3", "plain_p3", "public = true");
        ["/fn/hello", "/fn/hello", "/fn/p3", "/fn/p3"].map(|path| node.fuel(&node.get(path)))
    };
    let (first, second) = (fuel(), fuel());
    assert_eq!(first, second);
    assert_eq!(first[0], first[1]);
    assert!(first[0] > 0);
}

#[test]
fn bodies_stream_both_ways() {
    let node = Node::start();
    node.deploy("echo", "echo", "public = true");
    for len in [0, 1, 4_096, 4_097, 70_000, 5 << 20] {
        let body = noise_bytes(len as u64, len);
        let reply = node.post("/fn/echo", &body);
        assert_eq!(reply.status, 200);
        assert!(
            reply.body == body,
            "{len} bytes came back as {}",
            reply.body.len()
        );
    }
}

#[test]
fn a_call_is_explained_afterwards() {
    let node = Node::start();
    node.deploy("hello", "hello", "public = true");
    let reply = node.get("/fn/hello");
    let id = reply.id();
    let call = node.record(id);
    assert_eq!(call["function"], "hello");
    assert_eq!(call["status"], 200);
    assert_eq!(call["report"]["fuel"], node.fuel(&reply));
    assert_eq!(call["placement"]["chosen"], call["host"]);
    assert!(
        String::from_utf8(node.ok(&["explain", id]))
            .unwrap()
            .contains("hello")
    );
}

#[test]
fn reused_instances_answer_like_fresh_ones() {
    let node = Node::start();
    for (name, component) in [("p2", "plain_p2"), ("p3", "plain_p3")] {
        node.deploy(name, component, "public = true\ninstances = \"reuse\"");
        let fuels: Vec<_> = (0..20)
            .map(|_| {
                let reply = node.get(&format!("/fn/{name}"));
                assert_eq!(reply.text(), "Hello, world!");
                node.fuel(&reply)
            })
            .collect();
        assert!(
            fuels[2..].iter().all(|fuel| *fuel <= fuels[0]),
            "{name}: {fuels:?}"
        );
    }
}

#[test]
fn instances_that_leak_fail_no_call() {
    let node = Node::start();
    for (name, component) in [("p2", "rude"), ("p3", "rude_p3")] {
        node.deploy(
            name,
            component,
            "public = true\ninstances = \"reuse\"\nlimits = { memory = \"16MiB\" }",
        );
        // More calls than there are handles, and far more bytes than there is memory.
        for (calls, leaks) in [(1_100, "keeps=2"), (80, "leaves=1000000")] {
            let url = format!("/fn/{name}?{leaks}&body=x");
            for call in 0..calls {
                let reply = node.get(&url);
                assert_eq!(
                    (reply.status, reply.text().as_str()),
                    (200, "x"),
                    "{name}, {leaks}, call {call}"
                );
            }
        }
    }
}

#[test]
fn routes_prefixes_and_the_guest_s_path() {
    let node = Node::start();
    node.deploy("hello", "hello", "public = true\nroute = \"/greet\"");
    for path in ["/greet", "/greet/", "/greet/any/thing?x=1"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    for path in ["/", "/greeting", "/fn/hello", "/gree"] {
        let reply = node.get(path);
        assert_eq!(reply.status, 404, "{path}");
    }
    let taken = node.cli(&[
        "deploy",
        &crate::harness::component_file("hello").display().to_string(),
        "--name",
        "other",
    ]);
    assert!(taken.status.success(), "another name has another route");
}

#[test]
fn versions_roll_back() {
    let node = Node::start();
    node.deploy("f", "hello", "public = true");
    let second = node.deploy("f", "hostile", "public = true");
    assert_eq!(second["version"], 2);
    assert_eq!(node.get("/fn/f").text(), "ok");
    let back = node.json(&["rollback", "f"]);
    assert_eq!(back["version"], 3);
    assert_eq!(node.get("/fn/f").text(), "Hello, world!");
    node.ok(&["rm", "function/f"]);
    assert_eq!(node.get("/fn/f").problem(), "unknown-function");
}

#[test]
fn logs_are_kept_by_function() {
    let node = Node::start();
    node.deploy("hostile", "hostile", "public = true");
    assert_eq!(node.get("/fn/hostile/panic").problem(), "trap");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let text = String::from_utf8(node.ok(&["logs", "hostile"])).unwrap();
        if text.contains("panicked") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{text}");
    }
}

#[test]
fn a_client_that_hangs_up_is_booked_all_the_same() {
    let node = Node::start();
    node.deploy(
        "hostile",
        "hostile",
        "public = true\nlimits = { fuel = \"10T\", timeout = \"60s\" }",
    );
    let address = node.functions_url.strip_prefix("http://").unwrap().to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /fn/hostile/loop HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    // It runs once the node burns time.
    let before = node.cpu_ticks();
    while node.cpu_ticks() < before + 20 {
        assert!(std::time::Instant::now() < deadline, "the guest does not run");
        std::thread::yield_now();
    }
    drop(stream);
    let cancelled = loop {
        let calls = node.admin("GET", "/v1/calls?function=hostile", &[]).json();
        let found = calls["calls"]
            .as_array()
            .unwrap()
            .iter()
            .find(|call| call["report"]["cancelled"] == true)
            .cloned();
        match found {
            Some(call) => break call,
            None => assert!(std::time::Instant::now() < deadline, "{calls}"),
        }
    };
    assert!(
        cancelled["report"]["fuel"].as_u64().unwrap() > 1_000_000,
        "{cancelled}"
    );
}

#[test]
fn a_deployment_says_what_its_inputs_lack() {
    let node = Node::start();
    let deployed = node.deploy("hello", "hello", "");
    let component = deployed["component"].as_str().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), noise_bytes(1, 1000)).unwrap();
    let put = node.json(&["put", file.path().to_str().unwrap(), "--name", "there"]);
    let there = put["digest"].as_str().unwrap();
    let nothing = format!("b3:{}", "a1".repeat(32));
    let inputs = format!(
        "inputs = {{ absent = \"absent\", blob = \"{component}\", nothing = \"{nothing}\", named = \"there\", \
         pinned = \"{there}\" }}"
    );
    let deployed = node.deploy("lacks", "hello", &inputs);
    let notices: Vec<_> = deployed["notices"].as_array().unwrap().iter().collect();
    assert_eq!(notices.len(), 3, "{notices:?}");
    for (notice, says) in notices.iter().zip([
        "`absent`, which is not there",
        "is a blob, not a dataset",
        "no node of this network has",
    ]) {
        assert!(notice.as_str().unwrap().contains(says), "{notices:?}");
    }
}
