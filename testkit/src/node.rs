//! A node of ours, driven as a user would: its command line, its HTTP.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, prlimit, waitid};
use serde_json::Value;
use ureq::http::Request;
use ureq::{Agent, RequestExt};

use crate::cleanup::Process;
use crate::http::{self, Answer};
use crate::programs::{memory_of, output};
use crate::start::Start;

/// A running node. Dropped, it is killed.
#[derive(Debug)]
pub struct Node {
    process: Process,
    started: Start,
    agent: Agent,
    pub functions_url: String,
    pub admin_url: String,
}

impl Node {
    /// Starts the first node of a network, or a node again, over the data folder.
    pub fn start(binary: &Path, data: &Path) -> Result<Node> {
        Start::new(binary, data).run()
    }

    pub(crate) fn new(process: Process, started: Start, functions_url: String, admin_url: String) -> Node {
        Node {
            process,
            agent: http::agent(started.patience),
            started,
            functions_url,
            admin_url,
        }
    }

    /// How it was started.
    pub fn started(&self) -> &Start {
        &self.started
    }

    /// `nearfield` with this node as its node.
    pub fn nearfield(&self) -> Command {
        let Start {
            place, binary, data, ..
        } = &self.started;
        let mut nearfield = place.command(binary);
        nearfield
            .env("NEARFIELD_URL", &self.admin_url)
            .env("NEARFIELD_DATA", data)
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
        http::send(&self.agent, request)
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

    /// What `authorization` says for the admin API.
    pub fn bearer(&self) -> Result<String> {
        let token = fs::read_to_string(self.started.data.join("admin.token"))?;
        Ok(format!("Bearer {}", token.trim()))
    }

    /// The record of the call that has this id: placement, stages, fuel.
    pub fn record(&self, call: &str) -> Result<Value> {
        let (bearer, start) = (self.bearer()?, Instant::now());
        // A node writes it when the response has ended, which can be a moment after the client has it all.
        while start.elapsed() < self.started.patience.0 {
            let request = Request::get(format!("{}/v1/calls/{call}", self.admin_url));
            let told = self.send(request.header("authorization", &bearer).body(Vec::new())?)?;
            if told.status == 200 {
                return Ok(serde_json::from_slice(&told.body)?);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("the node knows nothing of call {call}")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A line of `/proc/PID/status` in bytes, such as `VmRSS`.
    pub fn memory(&self, field: &str) -> Result<u64> {
        memory_of(self.pid(), field)
    }

    /// Lets the peak of its memory begin anew from what it holds now.
    pub fn reset_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("resetting the memory's peak")
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
        // Its end stays to be waited for, by whoever drops it.
        waitid(
            WaitId::Pid(self.raw_pid()?),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        )?;
        Ok(())
    }

    /// From now on the node's writes past the first `bytes` of any file fail, until it is `None`.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(self.raw_pid()?), Resource::Fsize, limit).context("limiting the node's files")?;
        Ok(())
    }

    /// Processor time that it has used, in the kernel's ticks (a hundredth of a second each).
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // After the command's name in parentheses: utime and stime are the 12th and 13th field.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |field: usize| -> Result<u64> {
            fields
                .get(field)
                .context("a field of /proc/PID/stat")?
                .parse()
                .context("ticks")
        };
        Ok(ticks(11)? + ticks(12)?)
    }

    /// Its process.
    pub fn child(&mut self) -> &mut Child {
        self.process.child()
    }

    /// Asks it to end.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Asks it to end and waits until it has.
    pub fn stop(mut self) -> Result<()> {
        self.terminate()?;
        let status = self.process.child().wait()?;
        ensure!(status.success(), "the node ended with {status}");
        Ok(())
    }

    /// Lets it run on after this process.
    pub fn leave(self) {
        self.process.leave();
    }

    fn raw_pid(&self) -> Result<Pid> {
        Pid::from_raw(self.pid() as i32).context("the node's process id")
    }
}
