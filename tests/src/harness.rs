//! A node of one's own for each test, and the ways to speak with it: `nearfield_testkit` for tests, where whatever fails panics.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nearfield_testkit::{Answer, Log, Patience, Start, noise_bytes, root};
use serde_json::Value;
use tempfile::TempDir;

/// Longest that anything in a test may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node. Killed when dropped; its folder goes with it.
pub struct Node {
    kit: nearfield_testkit::Node,
    pub data: TempDir,
    pub token: String,
}

impl Deref for Node {
    type Target = nearfield_testkit::Node;

    fn deref(&self) -> &Self::Target {
        &self.kit
    }
}

/// An HTTP response, whole.
#[derive(Debug)]
pub struct Reply(Answer);

impl Deref for Reply {
    type Target = Answer;

    fn deref(&self) -> &Answer {
        &self.0
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// The id of its call.
    pub fn id(&self) -> &str {
        self.call().unwrap()
    }

    /// The last part of a problem's type; panics with the whole reply if it is none.
    pub fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{}: {}",
            self.status,
            self.text()
        );
        let json = self.json();
        assert_eq!(json["status"], self.status);
        let kind = json["type"].as_str().unwrap();
        kind.strip_prefix("urn:nearfield:problem:")
            .unwrap_or_else(|| panic!("{kind}"))
            .to_owned()
    }
}

impl Node {
    /// A fresh node with a fresh folder.
    pub fn start() -> Node {
        Node::start_in(fresh(), &[])
    }

    /// A node on a folder that may have been used before.
    pub fn start_in(data: TempDir, flags: &[&str]) -> Node {
        Node::of(start(&data, flags), data)
    }

    /// A node with these variables in its environment.
    pub fn start_with(variables: &[(&str, String)], flags: &[&str]) -> Node {
        let data = fresh();
        Node::of(start(&data, flags).variables(&owned(variables)), data)
    }

    /// A node whose disk can be made to refuse writes, by [`limit_files`](Node::limit_files).
    pub fn start_on_fragile_disk(data: TempDir) -> Node {
        let mut start = start(&data, &[]);
        // Beyond the limit the kernel sends a signal that ends a process, unless it is ignored.
        start.runner = ["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]
            .map(Into::into)
            .into();
        Node::of(start, data)
    }

    /// A node on a folder that may have been used before, whose log goes to a file.
    pub fn start_in_logging_to(data: TempDir, log: &Path) -> Node {
        let mut start = start(&data, &[]);
        start.log = Log::File(log.to_owned());
        Node::of(start, data)
    }

    /// A new node that joins the network of `gateway`, as `invite` says.
    pub fn join(gateway: &Node, invite: &[&str], flags: &[&str]) -> Node {
        let invited = gateway.json(&[&["invite"], invite].concat());
        Node::join_with(invited["ticket"].as_str().unwrap(), flags)
    }

    /// A new node that joins with a ticket.
    pub fn join_with(ticket: &str, flags: &[&str]) -> Node {
        let data = fresh();
        let mut start = start(&data, flags);
        start.ticket = Some(ticket.to_owned());
        Node::of(start, data)
    }

    /// A node on a folder that it may refuse: what it says then.
    pub fn try_start_in(data: TempDir) -> Result<Node, String> {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut start = start(&data, &[]);
        start.log = Log::File(log.path().to_owned());
        Node::try_of(start, data)
    }

    fn of(start: Start, data: TempDir) -> Node {
        Node::try_of(start, data)
            .unwrap_or_else(|error| panic!("{error}; is it built? `cargo xtask test` does"))
    }

    fn try_of(start: Start, data: TempDir) -> Result<Node, String> {
        let kit = start.run().map_err(|error| format!("{error:#}"))?;
        let token = std::fs::read_to_string(data.path().join("admin.token")).unwrap();
        Ok(Node { kit, data, token })
    }

    /// What `/readyz` says.
    pub fn ready(&self) -> Reply {
        self.request("GET", &format!("{}/readyz", self.admin_url), &[], &[])
    }

    /// This node's id.
    pub fn id(&self) -> String {
        self.json(&["ls", "nodes"])["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .find(|node| node["this"] == true)
            .unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Where other nodes reach this one.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let nodes = self.json(&["ls", "nodes"]);
        let this = nodes["nodes"].as_array().unwrap().iter();
        let this = this.into_iter().find(|node| node["this"] == true).unwrap();
        let addresses = this["addresses"].as_array().unwrap().iter();
        addresses
            .map(|address| address.as_str().unwrap().parse().unwrap())
            .collect()
    }

    /// `kill -9`. Its folder stays until it is dropped.
    pub fn kill(&mut self) {
        self.kit.child().kill().unwrap();
        self.kit.child().wait().unwrap();
    }

    /// `kill -9`, then a new process on the same folder.
    pub fn crash_and_restart(mut self) -> Node {
        self.kill();
        let Node { kit, data, .. } = self;
        let mut start = kit.started().clone();
        start.ticket = None;
        Node::of(start, data)
    }

    /// Stops it, and starts it on the same folder with other variables and flags.
    pub fn restart_with(self, variables: &[(&str, String)], flags: &[&str]) -> Node {
        let (data, code) = self.stop();
        assert_eq!(code, Some(0));
        Node::of(start(&data, flags).variables(&owned(variables)), data)
    }

    /// SIGTERM, and waits for the end. Returns the exit code.
    pub fn stop(self) -> (TempDir, Option<i32>) {
        let Node { mut kit, data, .. } = self;
        kit.terminate().unwrap();
        let mut code = None;
        until("the node stops", || {
            let status = kit.child().try_wait().unwrap();
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        (data, code)
    }

    /// Processor time that the node has used, in the kernel's ticks (a hundredth of a second each).
    pub fn cpu_ticks(&self) -> u64 {
        self.kit.cpu_ticks().unwrap()
    }

    /// From now on the node's writes past the first `bytes` of any file fail, until it is `None`.
    pub fn limit_files(&self, bytes: Option<u64>) {
        self.kit.limit_files(bytes).unwrap();
    }

    /// Runs a verb of the command line against this node.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with_input(arguments, &[])
    }

    /// A verb with this node as its node, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.nearfield();
        command.args(arguments);
        command
    }

    pub fn cli_with_input(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // A verb that fails early does not read to the end.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        output
    }

    /// A verb that must succeed; its stdout.
    pub fn ok(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.cli(arguments);
        assert!(
            output.status.success(),
            "nearfield {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// A verb with `--json` that must succeed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_slice(&output).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output)))
    }

    /// Deploys an example function's component under `manifest` (the body of its table).
    pub fn deploy(&self, name: &str, component: &str, manifest: &str) -> Value {
        self.deploy_file(name, &component_file(component), manifest)
    }

    /// Deploys a component that was made by hand.
    pub fn deploy_bytes(&self, name: &str, component: &[u8], manifest: &str) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("component.wasm");
        std::fs::write(&file, component).unwrap();
        self.deploy_file(name, &file, manifest)
    }

    fn deploy_file(&self, name: &str, file: &Path, manifest: &str) -> Value {
        let crate_dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[function.{name}]\nbuild = {{ component = \"{}\" }}\n{manifest}\n",
            file.display()
        );
        std::fs::write(crate_dir.path().join("nearfield.toml"), text).unwrap();
        self.json(&["deploy", crate_dir.path().to_str().unwrap()])
    }

    /// GET on the functions' listener, without a token.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", &format!("{}{path}", self.functions_url), &[], &[])
    }

    /// GET with the admin token.
    pub fn get_as_admin(&self, path: &str) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        self.request(
            "GET",
            &format!("{}{path}", self.functions_url),
            &[("authorization", &bearer)],
            &[],
        )
    }

    pub fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.request("POST", &format!("{}{path}", self.functions_url), &[], body)
    }

    /// A request of the admin API.
    pub fn admin(&self, method: &str, path: &str, body: &[u8]) -> Reply {
        let bearer = format!("Bearer {}", self.token);
        self.request(
            method,
            &format!("{}{path}", self.admin_url),
            &[("authorization", &bearer)],
            body,
        )
    }

    /// As [`get`](Node::get), of an answer that may break off: why it did.
    pub fn try_get(&self, path: &str) -> Result<Reply, String> {
        self.try_request("GET", &format!("{}{path}", self.functions_url), &[], &[])
    }

    /// The record of the call that has this id.
    pub fn record(&self, call: &str) -> Value {
        self.kit.record(call).unwrap()
    }

    /// What the call of this reply burned. Where the answer took long, that follows the head, and the call's record has it.
    pub fn fuel(&self, reply: &Reply) -> u64 {
        match reply.header("nearfield-fuel") {
            Some(fuel) => fuel.parse().unwrap(),
            None => {
                let follows = reply
                    .header("trailer")
                    .is_some_and(|names| names.contains("nearfield-fuel"));
                assert!(follows || reply.header("content-length").is_some());
                self.record(reply.id())["report"]["fuel"].as_u64().unwrap()
            }
        }
    }

    pub fn request(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_request(method, url, headers, body).unwrap()
    }

    fn try_request(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, String> {
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.send(request.body(body.to_vec()).unwrap());
        answer.map(Reply).map_err(|error| format!("{error:#}"))
    }

    /// Sends raw bytes to the functions' listener and reads until the other side closes.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        raw(&self.functions_url, bytes)
    }

    /// The same to the admin listener.
    pub fn raw_admin(&self, bytes: &[u8]) -> Vec<u8> {
        raw(&self.admin_url, bytes)
    }
}

/// A verb that must fail with this exit code and say so.
pub fn fails(output: &Output, code: i32, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(says), "does not say `{says}`: {text}");
}

/// Asks until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fresh() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn owned(variables: &[(&str, String)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, String)| ((*name).to_owned(), value.clone());
    variables.iter().map(own).collect()
}

/// How a test's node starts.
fn start(data: &TempDir, flags: &[&str]) -> Start {
    let mut start = Start::new(&binary(), data.path());
    start.patience = Patience(PATIENCE);
    start.log = Log::Inherited;
    // Starting a driver for each node of each test would take longer than most tests.
    if !flags.contains(&"--gpu") {
        start = start.flags(&["--gpu", "off"]);
    }
    start.flags(flags)
}

/// The built command line.
pub fn binary() -> PathBuf {
    std::env::var_os("NEARFIELD_BIN").map_or_else(|| root().join("target/debug/nearfield"), PathBuf::from)
}

/// An example function's component.
pub fn component_file(name: &str) -> PathBuf {
    let folder = std::env::var_os("NEARFIELD_FUNCTIONS").map_or_else(
        || root().join("functions/target/wasm32-wasip2/release"),
        PathBuf::from,
    );
    let file = folder.join(format!("{name}.wasm"));
    assert!(
        file.is_file(),
        "{} is not there: run `cargo xtask test`",
        file.display()
    );
    file
}

fn raw(url: &str, bytes: &[u8]) -> Vec<u8> {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The node may refuse before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// Lines of text of about `len` bytes, the same every time.
pub fn lines(seed: u64, len: usize) -> Vec<u8> {
    let noise = noise_bytes(seed, len / 8 + 64);
    let mut text = Vec::with_capacity(len + 64);
    for (number, chunk) in noise.chunks(7).cycle().enumerate() {
        if text.len() >= len {
            break;
        }
        writeln!(
            text,
            "{number} {}",
            chunk.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        )
        .unwrap();
    }
    text.truncate(len);
    text
}
