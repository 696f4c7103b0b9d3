use std::time::{Duration, Instant};

use crate::harness::Node;

/// What each behaviour must end as.
const FAILURES: [(&str, u16, &str); 8] = [
    ("loop", 504, "out-of-fuel"),
    ("memory", 507, "out-of-memory"),
    ("recurse", 502, "trap"),
    ("panic", 502, "trap"),
    ("never", 502, "no-response"),
    ("half", 502, "trap"),
    ("handles", 507, "too-many-handles"),
    ("header", 502, "host-call-too-large"),
];

#[test]
fn every_failure_is_a_value_in_bounded_time() {
    let node = Node::start();
    node.deploy(
        "hostile",
        "hostile",
        "public = true\nlimits = { fuel = \"1G\", timeout = \"5s\" }",
    );
    node.deploy("hello", "hello", "public = true");
    for (path, status, kind) in FAILURES {
        let started = Instant::now();
        let reply = node.get(&format!("/fn/hostile/{path}"));
        assert_eq!((reply.status, reply.problem().as_str()), (status, kind), "{path}");
        assert!(reply.header("nearfield-fuel").is_some(), "{path}");
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{path} took {:?}",
            started.elapsed()
        );
        assert_eq!(node.get("/fn/hello").status, 200, "the neighbour after {path}");
    }
}

#[test]
fn a_sleeper_meets_its_deadline() {
    let node = Node::start();
    node.deploy(
        "hostile",
        "hostile",
        "public = true\nlimits = { timeout = \"500ms\" }",
    );
    let started = Instant::now();
    let reply = node.get("/fn/hostile/sleep");
    assert_eq!(reply.problem(), "timeout");
    let limit = reply.json()["limit"].as_str().unwrap().to_owned();
    assert_eq!(limit, "limits.timeout = 500ms");
    assert!((Duration::from_millis(450)..Duration::from_secs(5)).contains(&started.elapsed()));
}

#[test]
fn a_start_function_runs_under_the_call_s_limits() {
    let node = Node::start();
    node.deploy(
        "start",
        "hostile_start",
        "public = true\nlimits = { fuel = \"1G\" }",
    );
    assert_eq!(node.get("/fn/start").problem(), "out-of-fuel");
}

#[test]
fn a_flood_of_logs_is_cut() {
    let node = Node::start();
    node.deploy(
        "hostile",
        "hostile",
        "public = true\nlimits = { fuel = \"100G\" }",
    );
    node.get("/fn/hostile/logs");
    let bytes: u64 = std::fs::read_dir(node.data.path().join("logs"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 1 << 20, "{bytes} bytes of logs");
}

#[test]
fn neighbours_of_endless_loops_are_answered() {
    let node = Node::start();
    node.deploy(
        "hostile",
        "hostile",
        "public = true\nlimits = { fuel = \"10T\", timeout = \"3s\" }",
    );
    node.deploy("hello", "hello", "public = true");
    node.get("/fn/hello");
    std::thread::scope(|scope| {
        let loops: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| node.get("/fn/hostile/loop").problem()))
            .collect();
        // While they run (3 s), the neighbour is answered again and again.
        let started = Instant::now();
        let mut answered = 0;
        while started.elapsed() < Duration::from_secs(2) {
            assert_eq!(node.get("/fn/hello").status, 200);
            answered += 1;
        }
        assert!(
            answered > 20,
            "{answered} answers in 2 s beside four endless loops"
        );
        for ended in loops {
            assert_eq!(ended.join().unwrap(), "timeout");
        }
    });
}
