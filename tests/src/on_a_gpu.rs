//! Functions on a GPU: the software adapter, so that all of this runs everywhere. `NEARFIELD_TEST_GPU=none` leaves it out.

use std::time::{Duration, Instant};

use nearfield_testkit::noise_bytes;
use serde_json::{Value, json};

use crate::harness::{Node, Reply, until};
use crate::network::Network;

const SOFTWARE: [&str; 2] = ["--gpu", "software"];
const ANY: &str = "public = true\nrequire = { gpu = \"any\" }";
const DOUBLE: &str = "
    @group(0) @binding(0) var<storage, read> x: array<u32>;
    @group(0) @binding(1) var<storage, read_write> y: array<u32>;
    @compute @workgroup_size(64)
    fn main(@builtin(global_invocation_id) id: vec3<u32>) {
        if id.x < arrayLength(&x) { y[id.x] = 2u * x[id.x] + 1u; }
    }";

fn left_out() -> bool {
    std::env::var_os("NEARFIELD_TEST_GPU").is_some_and(|value| value == "none")
}

/// A node whose GPU is known.
fn node(more: &[&str]) -> Node {
    let node = Node::start_in(tempfile::tempdir().unwrap(), &[&SOFTWARE, more].concat());
    has_gpus(&node, 1);
    node
}

fn has_gpus(node: &Node, count: usize) {
    until("the GPUs are known", || {
        let nodes = node.json(&["ls", "nodes"]);
        let nodes = nodes["nodes"].as_array().unwrap().iter();
        nodes.filter(|node| !node["load"]["gpu"].is_null()).count() == count
    });
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|word| u32::from_le_bytes(*word)).collect()
}

/// Counts by the highest eight bits, as `histogram` does.
fn counted(bytes: &[u8]) -> Value {
    let mut counts = vec![0_u64; 256];
    numbers(bytes)
        .iter()
        .for_each(|number| counts[(number >> 24) as usize] += 1);
    json!(counts)
}

/// Whether a call was placed where a GPU has its data.
fn was_resident(gateway: &Node, reply: &Reply) -> bool {
    let reason = &gateway.record(reply.id())["placement"]["candidates"][0]["reason"];
    reason == "has all of the call's data in its GPU's memory"
}

/// One of the figures of a call's record. Its headers say them only if the answer came at once.
fn figure(node: &Node, reply: &Reply, name: &str) -> u64 {
    let figures = &node.record(reply.id())["report"]["gpu"];
    figures[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} in {figures}"))
}

/// Puts files of numbers as a dataset; each is a shard.
fn put_numbers(node: &Node, files: &[Vec<u8>]) {
    let folder = tempfile::tempdir().unwrap();
    for (index, bytes) in files.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{index:02}")), bytes).unwrap();
    }
    let path = folder.path().to_str().unwrap();
    node.json(&[
        "put",
        path,
        "--name",
        "numbers",
        "--split",
        "fixed:4",
        "--shard-size",
        "4MiB",
    ]);
}

const OVER_NUMBERS: &str = "public = true\nrequire = { gpu = \"any\" }\ninputs = { numbers = \"numbers\" }\n\
    locate = { input = \"numbers\", path = \"{rest}\" }";

/// What `shader` came to.
fn run(node: &Node, query: &str, wgsl: &str) -> Value {
    let reply = node.post(&format!("/fn/shader?{query}"), wgsl.as_bytes());
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()
}

#[test]
fn functions_compute_and_say_what_they_took() {
    if left_out() {
        return;
    }
    let node = node(&[]);
    node.deploy("saxpy", "saxpy", ANY);
    let reply = node.post("/fn/saxpy", br#"{"a": 2, "x": [1, 2, 3], "y": [10, 20, 30.5]}"#);
    assert_eq!((reply.status, reply.text().as_str()), (200, "[12.0,24.0,36.5]"));
    assert!(figure(&node, &reply, "gpu_ns") > 0 && figure(&node, &reply, "compile_us") > 0);
    assert_eq!(
        (
            figure(&node, &reply, "uploaded_bytes"),
            figure(&node, &reply, "downloaded_bytes")
        ),
        (28, 12)
    );
    // Compiled once, whoever asks.
    let again = node.post("/fn/saxpy", br#"{"a": 0.5, "x": [8], "y": [1]}"#);
    assert_eq!(
        (again.text().as_str(), figure(&node, &again, "compile_us")),
        ("[5.0]", 0)
    );
    assert_eq!(
        node.fuel(&again),
        node.fuel(&node.post("/fn/saxpy", br#"{"a": 0.5, "x": [8], "y": [1]}"#))
    );
    // Said with the answer: by a header, or by a trailer if it took longer than it is held back for.
    let body = r#"{"a": 1, "x": [1], "y": [1]}"#;
    let raw = node.raw(
        format!(
            "POST /fn/saxpy HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: close, te\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .as_bytes(),
    );
    let raw = String::from_utf8_lossy(&raw).to_lowercase();
    assert!(
        raw.contains("nearfield-gpu: ns=")
            && raw.contains(" compile_us=0 uploaded=12 downloaded=4 hits=0 misses=0"),
        "{raw}"
    );
    let id = again.header("nearfield-id").unwrap();
    let explained = String::from_utf8(node.ok(&["explain", id])).unwrap();
    assert!(
        explained.contains("gpu: ") && explained.contains("in 1 dispatches"),
        "{explained}"
    );
    let metrics = node.admin("GET", "/metrics", &[]).text();
    assert!(
        metrics.contains("nearfield_gpu_seconds_total{function=\"saxpy\"}"),
        "{metrics}"
    );

    node.deploy("julia", "julia", ANY);
    let image = node.get("/fn/julia?width=200&height=100");
    assert_eq!(
        (image.status, image.header("content-type")),
        (200, Some("image/png"))
    );
    assert!(
        image.body.starts_with(b"\x89PNG") && image.body.len() > 5_000,
        "{}",
        image.body.len()
    );
}

#[test]
fn a_shard_is_uploaded_once() {
    if left_out() {
        return;
    }
    let node = node(&[]);
    let files: Vec<_> = (0..3).map(|seed| noise_bytes(seed, 1 << 20)).collect();
    put_numbers(&node, &files);
    node.deploy("histogram", "histogram", OVER_NUMBERS);
    for (uploads, file) in [(1, 0), (0, 0), (1, 1), (0, 1), (0, 0)] {
        let reply = node.get(&format!("/fn/histogram/{file:02}"));
        assert_eq!(reply.json(), counted(&files[file]), "{file}");
        assert_eq!(figure(&node, &reply, "uploaded_bytes"), uploads << 20, "{file}");
        assert_eq!(
            (
                figure(&node, &reply, "resident_hits"),
                figure(&node, &reply, "resident_misses")
            ),
            (1 - uploads, uploads)
        );
    }
    // Another function finds it there, too.
    node.deploy(
        "shader",
        "shader",
        "public = true\nrequire = { gpu = \"any\" }\ninputs = { data = \"numbers\" }",
    );
    let ran = run(
        &node,
        "shard=0&buffers=1048576&workgroups=4096,1,1&read=1048576",
        DOUBLE,
    );
    let expected: Vec<u32> = numbers(&files[0])
        .iter()
        .map(|x| x.wrapping_mul(2).wrapping_add(1))
        .collect();
    assert!(ran["numbers"] == json!(expected));
    assert_eq!(
        (&ran["usage"]["uploaded_bytes"], &ran["usage"]["resident_hits"]),
        (&json!(0), &json!(1))
    );
    // It is read-only.
    let written = DOUBLE.replace("var<storage, read> x", "var<storage, read_write> x");
    let refused = run(&node, "shard=0&buffers=1048576", &written);
    assert_eq!(refused["error"], "invalid");
    assert!(
        refused["text"].as_str().unwrap().contains("read-only"),
        "{refused}"
    );
}

#[test]
fn jobs_compute_and_are_not_remembered() {
    if left_out() {
        return;
    }
    let node = node(&[]);
    let files: Vec<_> = (0..5)
        .map(|seed| noise_bytes(seed, 300_000 + 4 * seed as usize))
        .collect();
    put_numbers(&node, &files);
    node.deploy("histogram", "histogram", OVER_NUMBERS);
    let run = || node.json(&["run", "histogram", "--over", "numbers"]);
    let (first, second) = (run(), run());
    assert_eq!(first["output"], counted(&files.concat()), "{first}");
    assert_eq!(
        (&first["digest"], &first["fuel"]),
        (&second["digest"], &second["fuel"])
    );
    assert_eq!(second["remembered"], 0, "{second}");
    let checked = node.cli(&["run", "histogram", "--over", "numbers", "--check", "100%"]);
    assert!(
        String::from_utf8_lossy(&checked.stderr).contains("GPUs differ"),
        "{checked:?}"
    );
}

#[test]
fn the_nearest_rows_as_a_call_and_as_a_job() {
    if left_out() {
        return;
    }
    let node = node(&[]);
    const DIM: usize = 24;
    // Rows of small integers, so that sums are exact and no two scores are nearly equal by chance of rounding.
    let bytes: Vec<u8> = noise_bytes(7, DIM * 3_000)
        .iter()
        .flat_map(|byte| (f32::from(*byte) - 128.0).to_le_bytes())
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bytes).unwrap();
    let split = format!("fixed:{}", DIM * 4);
    let path = file.path().to_str().unwrap();
    let put = node.json(&[
        "put",
        path,
        "--name",
        "embeddings",
        "--split",
        &split,
        "--shard-size",
        "64KiB",
    ]);
    assert!(put["shards"].as_u64().unwrap() >= 3, "{put}");
    let manifest = format!("{ANY}\ninputs = {{ vectors = \"embeddings\" }}");
    node.deploy("nearest", "nearest", &manifest);
    let row = |at: usize| -> Vec<f32> {
        let row = bytes[at * DIM * 4..][..DIM * 4].as_chunks::<4>().0.iter();
        row.map(|number| f32::from_le_bytes(*number)).collect()
    };
    let rows = [0, 1_234, 2_999];
    let asked = json!({ "queries": rows.map(row), "k": 5 }).to_string();
    let call = node.post("/fn/nearest", asked.as_bytes());
    assert_eq!(call.status, 200, "{}", call.text());
    let found = call.json();
    for (index, row) in rows.iter().enumerate() {
        assert_eq!(
            found[index][0]["row"],
            json!(row),
            "each is nearest to itself: {found}"
        );
        assert!((found[index][0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
        assert_eq!(found[index].as_array().unwrap().len(), 5);
    }
    let job = node.json(&["run", "nearest", "--over", "embeddings", "--args", &asked]);
    assert_eq!(job["output"], found);
    let again = node.post("/fn/nearest", asked.as_bytes());
    assert_eq!(
        (again.json(), figure(&node, &again, "resident_misses")),
        (found, 0)
    );
}

#[test]
fn nobody_gets_a_gpu_that_was_not_asked_for_or_another_than_was() {
    if left_out() {
        return;
    }
    let node = node(&[]);
    node.deploy("shader", "shader", "public = true\ninputs = {}");
    assert_eq!(run(&node, "", DOUBLE)["error"], "denied");
    node.deploy(
        "shader",
        "shader",
        "public = true\nrequire = { gpu = \"hardware\" }",
    );
    let refused = node.post("/fn/shader", DOUBLE.as_bytes());
    assert_eq!((refused.status, refused.problem().as_str()), (503, "no-gpu"));
    let none = Node::start();
    none.deploy("shader", "shader", ANY);
    assert_eq!(none.post("/fn/shader", DOUBLE.as_bytes()).problem(), "no-gpu");
}

#[test]
fn hostile_shaders_end_and_others_are_answered() {
    if left_out() {
        return;
    }
    let node = node(&[]);
    node.deploy("hello", "hello", "public = true");
    node.deploy(
        "shader",
        "shader",
        &format!("{ANY}\nlimits = {{ memory = \"64MiB\", timeout = \"30s\" }}"),
    );
    let head = "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) i: u32) {";
    let body = |statements: &str| format!("{head} {statements} }}");
    let long = body("loop { if out[0] == 4000000000u { break; } out[i] += 1u; }");
    let deep = body(&format!(
        "out[0] = {}1u{};",
        "(".repeat(10_000),
        ")".repeat(10_000)
    ));
    let wide = body(&"out[0] += 1u; ".repeat(100_000));
    let beyond = body("out[i + 4000000000u] = out[i + 3000000000u] + 1u; out[0] = 5u;");
    let calls: String = (1..40)
        .map(|n| format!("fn f{n}() {{ f{0}(); f{0}(); }}\n", n - 1))
        .collect();
    let calls = format!("fn f0() {{}} {calls} {}", body("f39();"));
    for (query, wgsl, kind) in [
        ("buffers=256", long.as_str(), "quota"),
        (
            "buffers=256",
            &body("loop { workgroupBarrier(); out[i] += 1u; }"),
            "quota",
        ),
        (
            "buffers=256&workgroups=1000000000,1,1",
            &body("out[i] = i;"),
            "quota",
        ),
        (
            "buffers=256&workgroups=65536,1,1",
            &body("out[i] = i;"),
            "invalid",
        ),
        ("buffers=10000000000", &body("out[i] = i;"), "quota"),
        ("buffers=200000000,200000000", &body("out[i] = i;"), "quota"),
        ("buffers=256", &" ".repeat(5 << 20), "quota"),
        ("buffers=256", &deep, "quota"),
        ("buffers=256", &wide, "quota"),
        ("buffers=256", &calls, "quota"),
        ("buffers=256", "fn main( {", "invalid"),
        ("buffers=256&dispatches=2000", &body("out[i] = i;"), "quota"),
        ("buffers=256&entry=other", &body("out[i] = i;"), "invalid"),
        ("buffers=", &body("out[i] = i;"), "invalid"),
        // Its loops end each by itself, and there are very many of them.
        (
            "buffers=256&workgroups=60000,100,1&timeout_ms=300",
            &body("for (var j = 0u; j < 50000u; j++) { out[i] ^= j * out[(i + j) % 64u]; }"),
            "timeout",
        ),
    ] {
        let begun = Instant::now();
        let ended = run(&node, query, wgsl);
        let shader = &wgsl[..wgsl.len().min(200)];
        assert_eq!(ended["error"], kind, "{query} {shader}: {ended}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{query} {shader}: {:?}",
            begun.elapsed()
        );
        assert_eq!(node.get("/fn/hello").status, 200);
        let after = run(&node, "buffers=256&read=8", &beyond);
        assert_eq!(after["numbers"][0], 5, "after {query} {shader}: {after}");
    }
}

/// The process that drives a node's GPU.
fn worker_of(node: &Node) -> Option<u32> {
    let children = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut after_name = stat.rsplit(')').next()?.split_whitespace();
        let (state, parent) = (after_name.next()?, after_name.next()?);
        let is_ours = parent.parse() == Ok(node.pid()) && state != "Z";
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (is_ours && command.contains("gpu-worker")).then_some(pid)
    });
    let mut children = children;
    children.next()
}

#[test]
fn a_worker_that_is_killed_is_replaced() {
    if left_out() {
        return;
    }
    let node = node(&[]);
    let files = [noise_bytes(1, 1 << 20)];
    put_numbers(&node, &files);
    node.deploy("histogram", "histogram", OVER_NUMBERS);
    node.deploy("shader", "shader", ANY);
    let mut before = None;
    for round in 0..5 {
        let reply = node.get("/fn/histogram/00");
        assert_eq!(
            (reply.json(), figure(&node, &reply, "resident_misses")),
            (counted(&files[0]), 1),
            "{round}"
        );
        assert_eq!(figure(&node, &node.get("/fn/histogram/00"), "resident_hits"), 1);
        let worker = worker_of(&node).expect("a worker");
        assert_ne!(before.replace(worker), Some(worker));
        // It has other walls than its parent.
        let status = std::fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        assert!(
            status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t1"),
            "{status}"
        );
        let kill = |signal: &str| {
            let killed = std::process::Command::new("kill")
                .args([signal, &worker.to_string()])
                .status();
            assert!(killed.unwrap().success());
        };
        let long = |turns: u32| {
            format!(
                "@group(0) @binding(0) var<storage, read_write> out: array<u32>;
                @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
                    var x = id.x;
                    for (var j = 0u; j < {turns}u; j++) {{ x = x * 747796405u + j; }}
                    out[id.x % 64u] = select(7u, 8u, x == 123u);
                }}"
            )
        };
        match round {
            0 => kill("-KILL"),
            1 => kill("-ABRT"),
            // While it works: what was lost with it is done again if nothing else was.
            2 | 3 => std::thread::scope(|scope| {
                let query = match round {
                    2 => "buffers=256&workgroups=4000,1,1&read=4",
                    _ => "buffers=256&workgroups=100,1,1&read=4&submissions=200",
                };
                let busy = scope.spawn(|| run(&node, query, &long(20_000)));
                std::thread::sleep(Duration::from_millis(300));
                let waiting = scope.spawn(|| run(&node, "buffers=64,64&read=4", DOUBLE));
                kill("-KILL");
                let busy = busy.join().unwrap();
                match round {
                    2 => assert_eq!(busy["numbers"][0], 7, "{busy}"),
                    _ => assert_eq!(busy["error"], "device-lost", "{busy}"),
                }
                assert_eq!(waiting.join().unwrap()["numbers"][0], 1);
            }),
            _ => {}
        }
    }
}

#[test]
fn three_times_the_memory_stays_under_the_budget_and_right() {
    if left_out() {
        return;
    }
    let node = node(&["--gpu-memory", "4MiB"]);
    let files: Vec<_> = (0..24).map(|seed| noise_bytes(seed, 512 << 10)).collect();
    put_numbers(&node, &files);
    node.deploy("histogram", "histogram", OVER_NUMBERS);
    let order = noise_bytes(99, 100);
    let mut uploads = 0;
    for at in order.iter().map(|byte| *byte as usize % files.len()) {
        let reply = node.get(&format!("/fn/histogram/{at:02}"));
        assert_eq!(reply.json(), counted(&files[at]), "{at}");
        uploads += figure(&node, &reply, "resident_misses");
        let metrics = node.admin("GET", "/metrics", &[]).text();
        let line = metrics
            .lines()
            .find(|line| line.starts_with("nearfield_gpu_resident_bytes "));
        let bytes: u64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        assert!(bytes <= 4 << 20, "{bytes}");
    }
    assert!(uploads > 24 && uploads < 100, "some stay and some go: {uploads}");
}

#[test]
fn a_call_runs_where_the_shard_is_in_gpu_memory() {
    if left_out() {
        return;
    }
    let network = Network::start_with(2, &SOFTWARE);
    let gateway = &network.gateway;
    has_gpus(gateway, 2);
    let files: Vec<_> = (0..6).map(|seed| noise_bytes(seed, 256 << 10)).collect();
    put_numbers(gateway, &files);
    network.wait_for_replicas("numbers");
    gateway.deploy("histogram", "histogram", OVER_NUMBERS);
    for (index, bytes) in files.iter().enumerate() {
        let path = format!("/fn/histogram/{index:02}");
        let first = gateway.get(&path);
        assert_eq!(first.json(), counted(bytes));
        // Until then a call may have gone to the other host, which has it then as well.
        until("the gateway knows whose GPU has it", || {
            was_resident(gateway, &gateway.get(&path))
        });
        for _ in 0..10 {
            let reply = gateway.get(&path);
            assert!(was_resident(gateway, &reply), "{index}");
            assert_eq!(figure(gateway, &reply, "uploaded_bytes"), 0, "{index}");
        }
    }
    let ran = gateway.json(&["run", "histogram", "--over", "numbers"]);
    assert_eq!(ran["output"], counted(&files.concat()));
}
