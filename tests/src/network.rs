//! Several nodes that are one network.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nearfield_testkit::noise_bytes;
use serde_json::Value;

use crate::harness::{Node, fails, lines, until};

/// A gateway without a host, and hosts.
pub struct Network {
    pub gateway: Node,
    pub hosts: Vec<Node>,
}

impl Network {
    pub fn start(hosts: usize) -> Network {
        Network::start_with(hosts, &[])
    }

    /// Hosts with flags of their own.
    pub fn start_with(hosts: usize, flags: &[&str]) -> Network {
        let gateway = Node::start_in(tempfile::tempdir().unwrap(), &["--no-host"]);
        let hosts = (0..hosts)
            .map(|index| Node::join(&gateway, &["--label", &format!("n={index}")], flags))
            .collect();
        let network = Network { gateway, hosts };
        network.wait_for(network.hosts.len());
        network
    }

    /// Waits until the gateway has so many hosts.
    pub fn wait_for(&self, hosts: usize) {
        until("the hosts are there", || {
            let nodes = self.gateway.json(&["ls", "nodes"]);
            let nodes = nodes["nodes"].as_array().unwrap();
            nodes.iter().filter(|node| node["hosting"] == true).count() == hosts
        });
    }

    /// Puts lines and waits until enough hosts keep them.
    pub fn put(&self, name: &str, bytes: &[u8], more: &[&str]) -> Value {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let path = file.path().to_str().unwrap();
        let put = self
            .gateway
            .json(&[&["put", path, "--name", name, "--split", "lines"], more].concat());
        self.wait_for_replicas(name);
        put
    }

    pub fn wait_for_replicas(&self, name: &str) {
        until("enough hosts keep it", || {
            let described = self.gateway.json(&["describe", &format!("dataset/{name}")]);
            described["replicas"]["least"].as_u64() >= described["replicas"]["wanted"].as_u64()
        });
    }
}

#[test]
fn a_job_runs_where_the_shards_are_and_moves_none() {
    let network = Network::start(3);
    let gateway = &network.gateway;
    let text = lines(1, 6 << 20);
    let put = network.put("logs", &text, &["--shard-size", "256KiB"]);
    assert!(put["shards"].as_u64().unwrap() > 10, "{put}");
    assert!(
        gateway.ok(&["get", "logs"]) == text,
        "read back through the gateway"
    );
    gateway.deploy("wordcount", "wordcount", "");
    let ran = gateway.json(&["run", "wordcount", "--over", "logs"]);
    assert_eq!(ran["shard_bytes_moved"], 0, "{ran}");
    assert_eq!(ran["bytes_read"], text.len() as u64);
    assert_eq!(ran["hosts"], 3, "all of them worked: {ran}");

    // One node alone comes to the same, to the last unit of fuel.
    let alone = Node::start();
    let output = alone.cli_with_input(
        &[
            "put",
            "-",
            "--name",
            "logs",
            "--split",
            "lines",
            "--shard-size",
            "256KiB",
        ],
        &text,
    );
    assert!(output.status.success());
    alone.deploy("wordcount", "wordcount", "");
    let same = alone.json(&["run", "wordcount", "--over", "logs"]);
    assert_eq!((&same["digest"], &same["fuel"]), (&ran["digest"], &ran["fuel"]));

    let again = gateway.json(&["run", "wordcount", "--over", "logs"]);
    assert_eq!(
        (&again["digest"], &again["fuel_spent"]),
        (&ran["digest"], &0.into())
    );
}

#[test]
fn a_located_call_runs_on_a_holder() {
    let network = Network::start(3);
    let folder = tempfile::tempdir().unwrap();
    for index in 0..40 {
        let text = format!("file {index}\n").repeat(2_000 + index);
        std::fs::write(folder.path().join(format!("{index}.txt")), text).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    let gateway = &network.gateway;
    gateway.json(&["put", path, "--name", "files", "--shard-size", "64KiB"]);
    network.wait_for_replicas("files");
    gateway.deploy(
        "cat",
        "cat",
        "public = true\ninputs = { data = \"files\" }\nlocate = { input = \"data\", path = \"{rest}\" }",
    );
    let described = gateway.json(&["describe", "dataset/files", "--shards"]);
    let shards = described["shards"].as_array().unwrap();
    for round in 0..200 {
        let reply = gateway.get(&format!("/fn/cat/{}.txt", round % 40));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().starts_with(&format!("file {}\n", round % 40)));
        assert_eq!(reply.header("nearfield-placement"), Some("local=1/1 moved=0"));
        let host = reply.header("nearfield-host").unwrap();
        let call = gateway.record(reply.id());
        let located = &call["placement"]["located"];
        let shard = shards.iter().find(|shard| shard["digest"] == *located).unwrap();
        let holders = shard["holders"].as_array().unwrap();
        assert!(
            holders.iter().any(|holder| holder == host),
            "{host} of {holders:?}"
        );
        assert_eq!(call["report"]["moved_bytes"], 0);
    }
}

#[test]
fn a_host_that_is_killed_costs_nobody_an_answer_and_its_shards_are_kept_elsewhere() {
    let mut network = Network::start(3);
    let text = lines(2, 4 << 20);
    network.put("logs", &text, &["--shard-size", "128KiB"]);
    let gateway = &network.gateway;
    gateway.deploy("hello", "hello", "public = true");
    gateway.deploy("job", "hostile_job", "");
    let run = |pad: &str, more: &[&str]| {
        // Each shard takes some tens of milliseconds, so that the job is under way for a while.
        let args = format!("{{\"spin\": 20000000, \"pad\": {pad}}}");
        gateway.json(&[&["run", "job", "--over", "logs", "--args", &args], more].concat())
    };
    let expected = run("0", &[]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also where the test fails.
        let _done = Done(&done);
        let callers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut calls = 0;
                    while !done.load(Ordering::Relaxed) {
                        let reply = gateway.get("/fn/hello");
                        assert_eq!(reply.status, 200, "{}", reply.text());
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        let started = run("1", &["--detach"]);
        let id = started["job"].as_str().unwrap();
        let job = || gateway.admin("GET", &format!("/v1/jobs/{id}"), &[]).json();
        let shards = expected["shards"].as_u64().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while job()["progress"]["done"]
            .as_u64()
            .is_none_or(|done| done < shards / 4)
        {
            assert!(
                Instant::now() < until && job()["state"]["state"] == "running",
                "{}",
                job()
            );
            std::thread::yield_now();
        }
        network.hosts[0].kill();
        let hit = job();
        assert_eq!(hit["state"]["state"], "running", "the job met the loss: {hit}");
        assert!(hit["progress"]["done"].as_u64().unwrap() < shards, "{hit}");
        let ran = gateway.json(&["wait", id]);
        // Its steps count, or were made again once the job had begun anew.
        let again = ran["fuel_spent"].as_u64() > ran["fuel"].as_u64();
        assert!(again || ran["hosts"] == 3, "the lost host worked for it: {ran}");
        assert_eq!(
            ran["output"], expected["output"],
            "no shard is lost, none counts twice"
        );
        done.store(true, Ordering::Relaxed);
        let calls: u32 = callers.into_iter().map(|caller| caller.join().unwrap()).sum();
        assert!(calls > 20, "{calls}");
    });
    network.wait_for(2);
    // Nobody was told to.
    network.wait_for_replicas("logs");
    assert!(network.gateway.ok(&["get", "logs"]) == text);
}

/// Ends whoever looks at it when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Whoever was given a result has not got the files that its run wrote.
#[test]
fn files_go_with_the_host_that_wrote_them_and_are_written_again() {
    let mut network = Network::start(3);
    let text = lines(13, 2 << 20);
    network.put("text", &text, &["--shard-size", "64KiB"]);
    let gateway = &network.gateway;
    gateway.deploy("job", "hostile_job", "");
    let run = |into: &str, more: &[&str]| {
        let args = ["run", "job", "--over", "text", "--args", r#"{"write": "counts"}"#];
        gateway.json(&[&args[..], &["--into", into], more].concat())
    };
    let before = run("before", &["--check", "100%"]);
    assert_eq!(before["checked"]["unchecked"], 0, "{before}");
    assert!(before["partial_bytes_moved"].as_u64().unwrap() > 0, "{before}");
    network.hosts[0].kill();
    network.wait_for(2);
    let after = run("after", &[]);
    assert_eq!(after["into"]["digest"], before["into"]["digest"], "{after}");
    assert_eq!(after["digest"], before["digest"]);
    // Now they are there.
    let last = run("last", &[]);
    assert_eq!(
        (&last["into"]["digest"], &last["fuel_spent"]),
        (&before["into"]["digest"], &0.into())
    );
}

#[test]
fn what_a_gateway_acknowledged_another_serves_after_its_death() {
    let network = Network::start(2);
    let second = Node::join(&network.gateway, &["--role", "gateway"], &["--no-host"]);
    let token = network.gateway.deploy("early", "hello", "");
    assert_eq!(token["version"], 1);
    let secret = network.gateway.json(&["token", "create", "--function", "early"])["token"].clone();
    let put = network.put("logs", &lines(3, 100_000), &[]);
    network.gateway.deploy("wordcount", "wordcount", "");
    let ran = network.gateway.json(&["run", "wordcount", "--over", "logs"]);
    network.gateway.deploy("late", "hello", "public = true");
    let Network {
        mut gateway,
        hosts: _hosts,
    } = network;
    gateway.kill();
    until("the second gateway has the hosts", || {
        second.get("/fn/late").status == 200
    });
    let bearer = format!("Bearer {}", secret.as_str().unwrap());
    let url = format!("{}/fn/early", second.functions_url);
    let reply = second.request("GET", &url, &[("authorization", &bearer)], &[]);
    assert_eq!(
        reply.status,
        200,
        "a token of one gateway opens all: {}",
        reply.text()
    );
    assert_eq!(
        second.json(&["ls", "datasets"])["datasets"][0]["digest"],
        put["digest"]
    );
    assert_eq!(
        second.ok(&["get", "logs"]).len() as u64,
        put["put_bytes"].as_u64().unwrap()
    );
    // A job of the first one is taken over by running it again: what the hosts made is remembered by them.
    let again = second.json(&["run", "wordcount", "--over", "logs"]);
    assert_eq!(
        (&again["digest"], &again["fuel_spent"]),
        (&ran["digest"], &0.into())
    );
    // It writes, too, though nobody is there to confirm but hosts.
    second.deploy("later", "hello", "public = true");
    until("it is served", || second.get("/fn/later").status == 200);
}

#[test]
fn hosts_put_parts_of_one_dataset_and_nothing_else() {
    let network = Network::start(0);
    let gateway = &network.gateway;
    let hosts: Vec<_> = (0..3)
        .map(|_| Node::join(gateway, &["--may-put", "logs"], &[]))
        .collect();
    network.wait_for(3);
    let texts: Vec<_> = (0..3).map(|seed| lines(seed, 300_000)).collect();
    std::thread::scope(|scope| {
        for (index, (host, text)) in hosts.iter().zip(&texts).enumerate() {
            scope.spawn(move || {
                let part = format!("web-{index}");
                let arguments = ["put", "-", "--name", "logs", "--split", "lines", "--part", &part];
                let output = host.cli_with_input(&arguments, text);
                assert!(
                    output.status.success(),
                    "{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            });
        }
    });
    until("the gateway knows of all parts", || {
        let described = gateway.json(&["describe", "dataset/logs"]);
        described["meta"]["parts"].as_array().unwrap().len() == 3
    });
    assert!(gateway.ok(&["get", "logs"]) == texts.concat());
    let refused = hosts[0].cli_with_input(&["put", "-", "--name", "others"], b"text\n");
    fails(&refused, 6, "may not put `others`");
    let refused = hosts[0].cli(&["rm", "dataset/logs"]);
    fails(&refused, 6, "a gateway writes records");
}

#[test]
fn bytes_stay_where_their_labels_say() {
    let network = Network::start(3);
    let gateway = &network.gateway;
    let text = noise_bytes(5, 3 << 20);
    network.put("private", &text, &["--only", "n=1", "--replicas", "1"]);
    let described = gateway.json(&["describe", "dataset/private", "--shards"]);
    let host = &network.hosts[1].id()[..10];
    for shard in described["shards"].as_array().unwrap() {
        assert_eq!(shard["holders"], serde_json::json!([host]), "{shard}");
    }
    // Another host asks for it by its digest: whoever has it refuses.
    let digest = described["shards"][0]["digest"].as_str().unwrap();
    let refused = network.hosts[2].cli(&["get", digest]);
    assert!(
        !refused.status.success(),
        "{}",
        String::from_utf8_lossy(&refused.stdout).len()
    );
    gateway.deploy("cat", "cat", "public = true\ninputs = { data = \"private\" }");
    let reply = gateway.get("/fn/cat");
    assert_eq!(reply.header("nearfield-host"), Some(host));
}

#[test]
fn a_node_that_drains_hands_over_and_one_that_leaves_is_forgotten() {
    let network = Network::start(3);
    let gateway = &network.gateway;
    let text = lines(7, 1 << 20);
    network.put("logs", &text, &["--shard-size", "64KiB"]);
    let id = network.hosts[0].id();
    gateway.ok(&["drain", &id[..10]]);
    gateway.deploy("hello", "hello", "public = true");
    for _ in 0..20 {
        assert_ne!(gateway.get("/fn/hello").header("nearfield-host"), Some(&id[..10]));
    }
    let drained = gateway.json(&["drain", &id[..10], "--wait"]);
    assert_eq!(drained["drain"]["blobs_left"], 0, "{drained}");
    assert!(drained["drain"]["blobs_held"].as_u64().unwrap() > 10, "{drained}");
    let described = gateway.json(&["describe", "dataset/logs", "--shards"]);
    for shard in described["shards"].as_array().unwrap() {
        let holders = shard["holders"].as_array().unwrap().iter();
        let others = holders.filter(|holder| **holder != id[..10]);
        assert!(others.count() >= 2, "{shard}");
    }
    network.hosts[0].ok(&["leave"]);
    until("it is no member", || {
        gateway.json(&["ls", "nodes"])["nodes"].as_array().unwrap().len() == 3
    });
    assert!(gateway.ok(&["get", "logs"]) == text);

    let expelled = network.hosts[1].id();
    gateway.ok(&["rm", &format!("node/{expelled}")]);
    network.wait_for(1);
    assert!(gateway.ok(&["get", "logs"]) == text, "the third has it");
    fails(&gateway.cli(&["rm", &format!("node/{expelled}")]), 4, "no node");
}

/// A gateway mostly hosts as well: what it alone keeps would go with it.
#[test]
fn a_gateway_that_alone_keeps_data_does_not_leave() {
    let network = Network::start(0);
    let hosting = Node::join(&network.gateway, &["--role", "gateway"], &[]);
    network.wait_for(1);
    let text = lines(11, 1 << 16);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    let path = file.path().to_str().unwrap();
    hosting.ok(&[
        "put",
        path,
        "--name",
        "logs",
        "--split",
        "lines",
        "--replicas",
        "1",
    ]);
    fails(&hosting.cli(&["leave"]), 1, "kept by this node alone");

    let _other = Node::join(&network.gateway, &[], &[]);
    network.wait_for(2);
    network.gateway.json(&["drain", &hosting.id()[..10], "--wait"]);
    hosting.ok(&["leave"]);
    until("it is no member", || {
        network.gateway.json(&["ls", "nodes"])["nodes"]
            .as_array()
            .unwrap()
            .len()
            == 2
    });
    assert!(network.gateway.ok(&["get", "logs"]) == text);
}

#[test]
fn a_remote_call_is_like_one_here() {
    let network = Network::start(1);
    let gateway = &network.gateway;
    gateway.deploy("echo", "echo", "public = true");
    for body in [
        noise_bytes(1, 0),
        noise_bytes(2, 100),
        noise_bytes(3, 100_000),
        noise_bytes(4, 5 << 20),
    ] {
        let reply = gateway.post("/fn/echo", &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.body == body, "{} of {}", reply.body.len(), body.len());
    }
    gateway.deploy(
        "hostile",
        "hostile",
        "public = true\nlimits = { fuel = 100_000_000 }",
    );
    let looped = gateway.get("/fn/hostile/loop");
    assert_eq!((looped.status, looped.problem().as_str()), (504, "out-of-fuel"));
    assert!(gateway.fuel(&looped) > 90_000_000, "what it burned is told");
    let panicked = gateway.get("/fn/hostile/panic");
    assert_eq!((panicked.status, panicked.problem().as_str()), (502, "trap"));
    let logs = String::from_utf8(gateway.ok(&["logs", "hostile"])).unwrap();
    assert!(logs.contains("panicked"), "{logs}");
    let calls = gateway.admin("GET", "/v1/calls", &[]).json();
    assert_eq!(calls["calls"].as_array().unwrap().len(), 6);
}

#[test]
fn a_network_comes_back_by_itself() {
    let network = Network::start(2);
    let text = lines(9, 500_000);
    network.put("logs", &text, &[]);
    network.gateway.deploy("hello", "hello", "public = true");
    let Network { gateway, hosts } = network;
    let ids: Vec<_> = hosts.iter().map(Node::id).collect();
    let gateway = gateway.crash_and_restart();
    let hosts: Vec<_> = hosts.into_iter().map(Node::crash_and_restart).collect();
    assert_eq!(ids, hosts.iter().map(Node::id).collect::<Vec<_>>());
    let started = Instant::now();
    until("the hosts are back", || gateway.get("/fn/hello").status == 200);
    assert!(gateway.ok(&["get", "logs"]) == text);
    assert!(started.elapsed() < Duration::from_secs(20));
}
