//! A node of one's own for each test, and the ways to speak with it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Longest that anything in a test may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running node. Killed when dropped; its folder goes with it.
pub struct Node {
    child: Child,
    pub data: TempDir,
    pub functions_url: String,
    pub admin_url: String,
    pub token: String,
    /// What it was started with.
    flags: Vec<String>,
}

/// An HTTP response, whole.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn fuel(&self) -> u64 {
        self.header("nearfield-fuel")
            .expect("every response says its fuel")
            .parse()
            .unwrap()
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
        Node::start_in(tempfile::tempdir().unwrap(), &[])
    }

    /// A node on a folder that may have been used before.
    pub fn start_in(data: TempDir, flags: &[&str]) -> Node {
        Node::start_as(Command::new(binary()), data, flags)
    }

    /// A node with these variables in its environment.
    pub fn start_with(variables: &[(&str, String)], flags: &[&str]) -> Node {
        let mut command = Command::new(binary());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Node::start_as(command, tempfile::tempdir().unwrap(), flags)
    }

    /// A node whose disk can be made to refuse writes; see [`limit_files`](Node::limit_files).
    pub fn start_on_fragile_disk(data: TempDir) -> Node {
        // Beyond the limit the kernel sends a signal that ends a process, unless it is ignored.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(binary());
        Node::start_as(shell, data, &[])
    }

    /// A fresh node whose log goes to a file.
    pub fn start_logging_to(log: &Path) -> Node {
        Node::start_in_logging_to(tempfile::tempdir().unwrap(), log)
    }

    /// A node on a folder that may have been used before, whose log goes to a file.
    pub fn start_in_logging_to(data: TempDir, log: &Path) -> Node {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec \"$0\" \"$@\" 2>\"$LOG\""])
            .arg(binary())
            .env("LOG", log);
        Node::start_as(shell, data, &[])
    }

    /// A new node that joins the network of `gateway`, as `invite` says.
    pub fn join(gateway: &Node, invite: &[&str], flags: &[&str]) -> Node {
        let invited = gateway.json(&[&["invite"], invite].concat());
        Node::join_with(invited["ticket"].as_str().unwrap(), flags)
    }

    /// A new node that joins with a ticket.
    pub fn join_with(ticket: &str, flags: &[&str]) -> Node {
        let mut command = Command::new(binary());
        command.args(["join", ticket]);
        Node::launch(command, tempfile::tempdir().unwrap(), flags)
    }

    /// A node on a folder that it may refuse: what it says then.
    pub fn try_start_in(data: TempDir) -> Result<Node, String> {
        let mut command = Command::new(binary());
        command.arg("up").stderr(Stdio::piped());
        let (mut child, line) = Node::spawn(command, &data, &[]);
        if !line.is_empty() {
            // What it still says is read by nobody, and must not stop it.
            let mut said = child.stderr.take().unwrap();
            std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
            return Ok(Node::of(child, &line, data, &[]));
        }
        let said = child.wait_with_output().unwrap().stderr;
        Err(String::from_utf8_lossy(&said).into_owned())
    }

    fn start_as(mut command: Command, data: TempDir, flags: &[&str]) -> Node {
        command.arg("up");
        Node::launch(command, data, flags)
    }

    fn launch(mut command: Command, data: TempDir, flags: &[&str]) -> Node {
        command.stderr(Stdio::inherit());
        let (child, line) = Node::spawn(command, &data, flags);
        Node::of(child, &line, data, flags)
    }

    /// The process, and the first line that it says: none if it ends before.
    fn spawn(mut command: Command, data: &TempDir, flags: &[&str]) -> (Child, String) {
        // Starting a driver for each node of each test would take longer than most tests.
        let gpu: &[&str] = if flags.contains(&"--gpu") {
            &[]
        } else {
            &["--gpu", "off"]
        };
        let mut child = command
            .args(gpu)
            .args([
                "--peers",
                "127.0.0.1:0",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--json",
            ])
            .args(flags)
            .env("NEARFIELD_DATA", data.path())
            .env_remove("NEARFIELD_URL")
            .env_remove("NEARFIELD_TOKEN")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask test`", binary().display()));
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (child, line)
    }

    fn of(child: Child, line: &str, data: TempDir, flags: &[&str]) -> Node {
        let up: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("the node did not start: {line:?}"));
        let url = |name: &str| up[name].as_str().unwrap().to_owned();
        let token = std::fs::read_to_string(data.path().join("admin.token")).unwrap();
        Node {
            functions_url: url("functions_url"),
            admin_url: url("admin_url"),
            child,
            data,
            token,
            flags: flags.iter().map(|flag| flag.to_string()).collect(),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From now on the node's writes past the first `bytes` of any file fail, until it is `None`.
    pub fn limit_files(&self, bytes: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, prlimit};
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        let pid = Pid::from_raw(self.pid() as i32).unwrap();
        prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    }

    /// What `/readyz` says.
    pub fn ready(&self) -> Reply {
        self.request("GET", &format!("{}/readyz", self.admin_url), &[], &[])
    }

    /// Processor time that the node has used, in the kernel's ticks (a hundredth of a second each).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // After the command's name in parentheses: utime and stime are the 12th and 13th field.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
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
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `kill -9`, then a new process on the same folder.
    pub fn crash_and_restart(mut self) -> Node {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let data = std::mem::replace(&mut self.data, tempfile::tempdir().unwrap());
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        Node::start_in(data, &flags)
    }

    /// Stops it, and starts it on the same folder with other variables and flags.
    pub fn restart_with(self, variables: &[(&str, String)], flags: &[&str]) -> Node {
        let (data, code) = self.stop();
        assert_eq!(code, Some(0));
        let mut command = Command::new(binary());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Node::start_as(command, data, flags)
    }

    /// SIGTERM, and waits for the end. Returns the exit code.
    pub fn stop(mut self) -> (TempDir, Option<i32>) {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &pid])
                .status()
                .unwrap()
                .success()
        );
        let started = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed() > PATIENCE => panic!("the node does not stop"),
                None => std::thread::yield_now(),
            }
        };
        (
            std::mem::replace(&mut self.data, tempfile::tempdir().unwrap()),
            status.code(),
        )
    }

    /// Runs a verb of the command line against this node.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with_input(arguments, &[])
    }

    /// A verb with this node as its node, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env("NEARFIELD_URL", &self.admin_url)
            .env("NEARFIELD_DATA", self.data.path())
            .env_remove("NEARFIELD_TOKEN");
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

    pub fn request(&self, method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match method {
            "GET" | "HEAD" | "DELETE" => agent.run(request.body(()).unwrap()),
            _ => agent.run(request.body(body).unwrap()),
        };
        let (parts, mut body) = response
            .unwrap_or_else(|error| panic!("{method} {url}: {error}"))
            .into_parts();
        let mut bytes = Vec::new();
        body.as_reader().read_to_end(&mut bytes).unwrap();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        Reply {
            status: parts.status.as_u16(),
            headers,
            body: bytes,
        }
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

impl Drop for Node {
    fn drop(&mut self) {
        // It may have been stopped already.
        let _ = self.child.kill();
        let _ = self.child.wait();
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

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
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

/// Bytes that look random and are the same every time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines of text of about `len` bytes, the same every time.
pub fn lines(seed: u64, len: usize) -> Vec<u8> {
    let noise = noise(seed, len / 8 + 64);
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
