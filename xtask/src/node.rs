//! A node of ours, driven as a user would: its command line, its HTTP.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};
use serde_json::Value;
use ureq::http::{HeaderMap, Method, Request};
use ureq::{Agent, RequestExt};

use crate::cleanup::Process;
use crate::workspace::{output, tail};

/// How long one HTTP exchange may take, so that nothing here hangs for ever.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running `nearfield up`. Dropped, it is killed.
pub struct Node {
    process: Process,
    binary: PathBuf,
    data: PathBuf,
    place: Place,
    agent: Agent,
    pub functions_url: String,
    pub admin_url: String,
}

/// The network that a node runs in.
#[derive(Clone)]
pub struct Place {
    /// Where other nodes reach it.
    pub address: String,
    /// The network namespace, if it is not this process's own. HTTP reaches nobody there but by `nearfield call`.
    pub namespace: Option<String>,
}

impl Place {
    fn loopback() -> Place {
        Place {
            address: "127.0.0.1".to_owned(),
            namespace: None,
        }
    }

    fn command(&self, binary: &Path) -> Command {
        match &self.namespace {
            None => Command::new(binary),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(binary);
                command
            }
        }
    }
}

/// What came back of one HTTP request.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Node {
    /// Starts it on free ports over the data folder, and returns when it has said where it is.
    pub fn start(binary: &Path, data: &Path) -> Result<Node> {
        Node::start_with(&mut Command::new(binary), binary, data, &[])
    }

    /// Starts it with so many workers for jobs.
    pub fn start_with_workers(workers: &str, binary: &Path, data: &Path) -> Result<Node> {
        Node::start_with_options(&["--job-workers", workers], binary, data)
    }

    /// Starts it with more flags.
    pub fn start_with_options(options: &[&str], binary: &Path, data: &Path) -> Result<Node> {
        Node::start_with(&mut Command::new(binary), binary, data, options)
    }

    /// Starts it with more variables and flags.
    pub fn start_with_variables(
        variables: &[(String, String)],
        options: &[&str],
        binary: &Path,
        data: &Path,
    ) -> Result<Node> {
        let mut command = Command::new(binary);
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        Node::start_with(&mut command, binary, data, options)
    }

    /// Starts it as a member of the network of `gateway`, as `invite` says.
    pub fn join(gateway: &Node, invite: &[&str], binary: &Path, data: &Path) -> Result<Node> {
        let invited = gateway.json(&[&["invite"], invite].concat())?;
        let ticket = invited["ticket"].as_str().context("a ticket")?;
        let place = Place::loopback();
        let mut command = place.command(binary);
        command.args(["join", ticket]);
        Node::launch(&mut command, place, binary, data, &[])
    }

    /// Starts it in a network of its own: as the first of a network, or again over its folder.
    pub fn start_in(place: Place, options: &[&str], binary: &Path, data: &Path) -> Result<Node> {
        Node::launch(place.command(binary).arg("up"), place, binary, data, options)
    }

    /// As [`Node::join`], in a network of its own.
    pub fn join_in(
        place: Place,
        gateway: &Node,
        invite: &[&str],
        options: &[&str],
        binary: &Path,
        data: &Path,
    ) -> Result<Node> {
        let invited = gateway.json(&[&["invite"], invite].concat())?;
        let ticket = invited["ticket"].as_str().context("a ticket")?;
        let mut command = place.command(binary);
        command.args(["join", ticket]);
        Node::launch(&mut command, place, binary, data, options)
    }

    /// Starts it on one core.
    pub fn start_on_core(core: usize, binary: &Path, data: &Path) -> Result<Node> {
        let mut taskset = Command::new("taskset");
        taskset.args(["--cpu-list", &core.to_string()]).arg(binary);
        Node::start_with(&mut taskset, binary, data, &[])
    }

    fn start_with(command: &mut Command, binary: &Path, data: &Path, options: &[&str]) -> Result<Node> {
        Node::launch(command.arg("up"), Place::loopback(), binary, data, options)
    }

    fn launch(
        command: &mut Command,
        place: Place,
        binary: &Path,
        data: &Path,
        options: &[&str],
    ) -> Result<Node> {
        let peers = format!("{}:0", place.address);
        let log = data.with_extension("log");
        command
            .args([
                "--json",
                "--peers",
                &peers,
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ])
            .args(options)
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::options().create(true).append(true).open(&log)?);
        let mut process = Process::start(command)?;
        let stdout = process.child().stdout.take().context("the node's stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line)
            .with_context(|| format!("the node did not start: {line}{}", tail(&log)))?;
        let url = |name: &str| {
            said[name]
                .as_str()
                .map(str::to_owned)
                .context("a URL of the node's")
        };
        Ok(Node {
            process,
            binary: binary.to_owned(),
            data: data.to_owned(),
            place,
            agent: agent(),
            functions_url: url("functions_url")?,
            admin_url: url("admin_url")?,
        })
    }

    /// `nearfield` with this node as its node.
    pub fn nearfield(&self) -> Command {
        let mut nearfield = self.place.command(&self.binary);
        nearfield
            .env("NEARFIELD_URL", &self.admin_url)
            .env("NEARFIELD_DATA", &self.data)
            .env_remove("NEARFIELD_TOKEN");
        nearfield
    }

    /// Runs `nearfield ARGUMENTS --json` and gives the value it prints.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let printed = output(self.nearfield().args(arguments).arg("--json"))?;
        serde_json::from_slice(&printed).with_context(|| format!("nearfield {arguments:?} printed no JSON"))
    }

    /// Puts a file or folder as a dataset.
    pub fn put(&self, path: &Path, name: &str, split: &str) -> Result<Value> {
        let path = path.to_str().context("a path that is not UTF-8")?;
        self.json(&["put", path, "--name", name, "--split", split])
    }

    /// Gets a URL of the functions' listener.
    pub fn get(&self, path: &str) -> Result<Answer> {
        self.send(Request::get(format!("{}{path}", self.functions_url)).body(Vec::new())?)
    }

    /// Sends a request wherever it goes.
    pub fn send(&self, request: Request<Vec<u8>>) -> Result<Answer> {
        send(&self.agent, request)
    }

    /// Gets a path of the admin API: its body, as it comes.
    pub fn stream(&self, path: &str) -> Result<impl Read + use<>> {
        let request = Request::get(format!("{}{path}", self.admin_url))
            .header("authorization", self.bearer()?)
            .body(())?;
        let (head, body) = request.with_agent(&self.agent).run()?.into_parts();
        let mut body = body.into_reader();
        if head.status != 200 {
            let mut said = String::new();
            body.read_to_string(&mut said)?;
            bail!("{} from {path}: {said}", head.status);
        }
        Ok(body)
    }

    fn bearer(&self) -> Result<String> {
        let token = fs::read_to_string(self.data.join("admin.token"))?;
        Ok(format!("Bearer {}", token.trim()))
    }

    /// What the node wrote down about a call: placement, stages, fuel.
    pub fn explain(&self, answer: &Answer) -> Result<Value> {
        let id = answer
            .header("nearfield-id")
            .context("an answer without nearfield-id")?;
        let bearer = self.bearer()?;
        let request = || {
            Request::get(format!("{}/v1/calls/{id}", self.admin_url))
                .header("authorization", &bearer)
                .body(Vec::new())
        };
        // It is written when the body has ended, which can be a moment after the client has it all.
        for _ in 0..50 {
            let told = self.send(request()?)?;
            if told.status == 200 {
                return Ok(serde_json::from_slice(&told.body)?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the node knows nothing of call {id}")
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A line of `/proc/PID/status` in bytes, such as `VmRSS`.
    pub fn memory(&self, field: &str) -> Result<u64> {
        memory_of(self.id(), field)
    }

    /// Lets the peak of its memory begin anew from what it holds now.
    pub fn reset_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.id()), "5").context("resetting the memory's peak")
    }

    /// Kills it, as a power cut would.
    pub fn kill(&self) -> Result<()> {
        self.process.signal(Signal::KILL)
    }

    /// Stops or continues it without a word, as a machine that hangs or a cable that is pulled.
    pub fn pause(&self, paused: bool) -> Result<()> {
        self.process
            .signal(if paused { Signal::STOP } else { Signal::CONT })
    }

    /// Waits until it has ended, and with that let go of its files.
    pub fn ended(&self) -> Result<()> {
        let pid = Pid::from_raw(self.id() as i32).context("the node's process id")?;
        // Its end stays to be waited for, by whoever drops it.
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.child().wait()?;
        ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }

    /// Lets it run on after this process.
    pub fn leave(self) {
        self.process.leave();
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A line of a process's `/proc/PID/status` in bytes.
pub fn memory_of(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .context("reading a process's memory, which needs Linux")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: u64 = kib
        .with_context(|| format!("no {field} of process {pid}"))?
        .trim()
        .parse()?;
    Ok(kib << 10)
}

/// Waits until a server says 200, and gives the time that took.
pub fn until_ready(url: &str) -> Result<Duration> {
    let (agent, start) = (agent(), Instant::now());
    while start.elapsed() < PATIENCE {
        if send(&agent, Request::get(url).body(Vec::new())?).is_ok_and(|answer| answer.status == 200) {
            return Ok(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("{url} never said 200")
}

fn agent() -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_global(Some(PATIENCE))
        .build()
        .into()
}

fn send(agent: &Agent, request: Request<Vec<u8>>) -> Result<Answer> {
    let start = Instant::now();
    let what = format!("{} {}", request.method(), request.uri());
    let sent = match *request.method() {
        // A body of no bytes would be announced, which GET must not do.
        Method::GET | Method::DELETE => request.map(|_| ()).with_agent(agent).run(),
        _ => request.with_agent(agent).run(),
    };
    let (head, body) = sent.with_context(|| what.clone())?.into_parts();
    let mut bytes = Vec::new();
    body.into_reader().read_to_end(&mut bytes).with_context(|| what)?;
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: bytes,
        took: start.elapsed(),
    })
}
