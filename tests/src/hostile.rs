use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Node, binary, component_file};

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

/// Functions of the host that [`HOST_CALLS`](../../functions/hostile) calls for ever.
const HOST_CALLS: [&str; 9] = [
    "random",
    "random-once",
    "insecure",
    "now",
    "wait",
    "environment",
    "print",
    "fields",
    "directories",
];

#[test]
fn whatever_of_the_host_a_guest_calls_its_time_ends() {
    let node = Node::start();
    let manifest = |fuel: &str| format!("public = true\nlimits = {{ fuel = \"{fuel}\", timeout = \"2s\" }}");
    node.deploy("endless", "hostile", &manifest("10T"));
    node.deploy("hello", "hello", "public = true");
    node.get("/fn/hello");
    for call in HOST_CALLS {
        let started = Instant::now();
        let reply = std::thread::scope(|scope| {
            // As many as a host has threads for guests, and more.
            let others: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| node.get(&format!("/fn/endless/host/{call}"))))
                .collect();
            // Whoever held the threads would hold them for two seconds. On a busy machine an answer can take one.
            assert_eq!(node.get("/fn/hello").status, 200);
            let neighbour = started.elapsed();
            assert!(
                neighbour < Duration::from_millis(1_800),
                "beside {call}: {neighbour:?}"
            );
            others.into_iter().map(|other| other.join().unwrap()).next_back()
        });
        let took = started.elapsed();
        assert_eq!(reply.unwrap().problem(), "timeout", "{call}");
        assert!(took < Duration::from_secs(4), "{call} took {took:?}");
    }
}

#[test]
fn whatever_of_the_host_a_guest_calls_it_pays() {
    let node = Node::start();
    let manifest = "public = true\nlimits = { fuel = \"100M\", timeout = \"30s\" }";
    node.deploy("endless", "hostile", manifest);
    for call in HOST_CALLS {
        let reply = node.get(&format!("/fn/endless/host/{call}"));
        assert_eq!(reply.problem(), "out-of-fuel", "{call}");
    }
}

/// Steps of a guest that are long by themselves, and no host call or check of fuel comes within them.
#[test]
fn a_long_step_ends_in_time_and_keeps_nobody_waiting() {
    let node = Node::start();
    node.deploy("hello", "hello", "public = true");
    for (name, text) in [
        ("fills", include_str!("fills.wat")),
        ("strings", include_str!("strings.wat")),
    ] {
        node.deploy_bytes(
            name,
            &wat::parse_str(text).unwrap(),
            "public = true\nlimits = { fuel = \"10T\", timeout = \"2s\" }",
        );
        node.get("/fn/hello");
        let started = Instant::now();
        let (replies, mut neighbour) = std::thread::scope(|scope| {
            let others: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| node.get(&format!("/fn/{name}"))))
                .collect();
            let mut took = Vec::new();
            while others.iter().any(|other| !other.is_finished()) {
                let begun = Instant::now();
                assert_eq!(node.get("/fn/hello").status, 200);
                took.push(begun.elapsed());
            }
            let replies: Vec<_> = others.into_iter().map(|other| other.join().unwrap()).collect();
            (replies, took)
        });
        assert!(
            started.elapsed() < Duration::from_secs(4),
            "{name}: {:?}",
            started.elapsed()
        );
        for reply in replies {
            assert_eq!(reply.problem(), "timeout", "{name}: {}", reply.text());
        }
        neighbour.sort();
        let middle = neighbour[neighbour.len() / 2];
        assert!(
            middle < Duration::from_millis(100),
            "{name}: {middle:?} of {}",
            neighbour.len()
        );
    }
}

/// Has `count` calls of a function run at once, each of which waits for the rest of its body, and then ends them well.
fn at_once(node: &Node, function: &str, count: usize) {
    let address = node.functions_url.trim_start_matches("http://");
    let calls: Vec<_> = (0..count)
        .map(|_| {
            let mut call = TcpStream::connect(address).unwrap();
            let head = format!(
                "POST /fn/{function} HTTP/1.1\r\nhost: {address}\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\
                 connection: close\r\n\r\n"
            );
            call.write_all(head.as_bytes()).unwrap();
            // The guest runs: it reads the body, for which the client is told to go on, or has begun to answer.
            let mut begun = [0; 12];
            call.read_exact(&mut begun).unwrap();
            assert!(matches!(&begun, b"HTTP/1.1 100" | b"HTTP/1.1 200"), "{}", begun.escape_ascii());
            (call, String::from_utf8_lossy(&begun).into_owned())
        })
        .collect();
    for (mut call, mut answer) in calls {
        call.write_all(b"ok").unwrap();
        call.read_to_string(&mut answer).unwrap();
        assert!(
            answer.contains("HTTP/1.1 200") && answer.contains("ok"),
            "{answer}"
        );
    }
}

#[test]
fn what_lies_idle_takes_no_place_from_calls() {
    let node = Node::start();
    // Of eight functions, and of eight versions of one: more instances than a host has places.
    for version in 0..16 {
        let name = format!("kept-{}", version.min(8));
        let manifest = format!("public = true\ninstances = \"reuse\"\nenv = {{ VERSION = \"{version}\" }}");
        node.deploy(&name, "echo", &manifest);
        at_once(&node, &name, 34);
    }
    node.deploy("echo", "echo", "public = true");
    at_once(&node, "echo", 128);
}

#[test]
fn guests_share_the_memory_that_a_node_gives_them() {
    let node = Node::start_with(&[], &["--guest-memory", "64MiB"]);
    node.deploy(
        "greedy",
        "hostile",
        "public = true\nlimits = { memory = \"1GiB\" }",
    );
    node.deploy(
        "small",
        "hostile",
        "public = true\nlimits = { memory = \"16MiB\" }",
    );
    node.deploy("hello", "hello", "public = true");
    let reply = node.get("/fn/greedy/memory");
    assert_eq!((reply.status, reply.problem().as_str()), (503, "overload"));
    let said = reply.json();
    assert_eq!(said["limit"], "guest memory = 64MiB", "{said}");
    assert!(
        said["detail"].as_str().unwrap().contains("--guest-memory"),
        "{said}"
    );
    assert_eq!(node.get("/fn/small/memory").problem(), "out-of-memory");
    assert_eq!(node.get("/fn/hello").status, 200);
}

#[test]
fn what_the_host_holds_for_a_guest_counts_as_its_own() {
    let node = Node::start();
    node.deploy(
        "hostile",
        "hostile",
        "public = true\nlimits = { memory = \"8MiB\" }",
    );
    for hoard in ["headers", "bodies"] {
        let reply = node.get(&format!("/fn/hostile/hoard/{hoard}"));
        assert_eq!(reply.problem(), "out-of-memory", "{hoard}");
    }
    for name in ["rude", "rude_p3"] {
        node.deploy(name, name, "public = true\nlimits = { memory = \"8MiB\" }");
        for hoard in ["fields", "requests"] {
            let reply = node.get(&format!("/fn/{name}?hoard={hoard}"));
            assert_eq!(
                reply.problem(),
                "out-of-memory",
                "{name}, {hoard}: {}",
                reply.text()
            );
        }
    }
}

/// What of its walls the kernel shows. What they hold is tested where they are made.
#[test]
fn a_node_is_closed_in() {
    let ours = Walls::of(std::process::id()).unwrap();
    let node = Node::start();
    // All threads are: what the kernel shows is of each.
    for task in std::fs::read_dir(format!("/proc/{}/task", node.pid())).unwrap() {
        let id = task.unwrap().file_name().to_string_lossy().parse().unwrap();
        let Some(walls) = Walls::of(id) else {
            continue;
        };
        assert!(
            walls.has_no_new_privileges && walls.filters > ours.filters,
            "{walls:?}"
        );
    }
    node.deploy("hello", "hello", "public = true");
    assert_eq!(
        node.get("/fn/hello").status,
        200,
        "it compiles and runs behind its wall"
    );
    let open = Node::start_with(&[], &["--no-sandbox"]);
    assert_eq!(Walls::of(open.pid()).unwrap(), ours);
}

/// The compiler has the component before it closes itself in, and nothing else after that.
#[test]
fn a_compiler_is_closed_in() {
    let ours = Walls::of(std::process::id()).unwrap();
    let component = std::fs::read(component_file("fetch")).unwrap();
    let mut compiler = Command::new(binary())
        .args(["compile-component", "live-p2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(&component).unwrap();
    let (mut most, mut limits) = (ours.filters, String::new());
    while compiler.try_wait().unwrap().is_none() {
        if let Some(walls) = Walls::of(compiler.id()) {
            most = most.max(walls.filters);
        }
        if most > ours.filters && limits.is_empty() {
            limits = std::fs::read_to_string(format!("/proc/{}/limits", compiler.id())).unwrap_or_default();
        }
    }
    assert!(compiler.wait().unwrap().success());
    assert!(
        most > ours.filters,
        "it compiled with as many filters as a test has"
    );
    for name in [
        "Max cpu time",
        "Max address space",
        "Max file size",
        "Max core file size",
    ] {
        let line = limits
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default();
        assert!(
            !line.is_empty() && !line.contains("unlimited"),
            "{name}: {limits}"
        );
    }
}

/// What the kernel says of a process or a thread.
#[derive(Debug, PartialEq)]
struct Walls {
    has_no_new_privileges: bool,
    filters: u32,
}

impl Walls {
    /// None if it has ended.
    fn of(id: u32) -> Option<Walls> {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let value = |name: &str| -> Option<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse().ok()
        };
        Some(Walls {
            has_no_new_privileges: value("NoNewPrivs:")? == 1,
            filters: value("Seccomp_filters:")?,
        })
    }
}
