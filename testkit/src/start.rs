//! How a node starts.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cleanup::Process;
use crate::http::Patience;
use crate::node::Node;
use crate::programs::tail;

/// The network that a node runs in.
#[derive(Debug, Clone)]
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

    pub(crate) fn command(&self, binary: &Path) -> Command {
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

/// Where a node's log goes.
#[derive(Debug, Clone)]
pub enum Log {
    /// To its end. What the node says when it does not start is in the error.
    File(PathBuf),
    /// To this process's standard error.
    Inherited,
}

/// How a node starts: which binary over which folder, on free ports. As the first of a network, or again over its folder, if
/// it has no [`ticket`](Start::ticket).
#[derive(Debug, Clone)]
pub struct Start {
    pub binary: PathBuf,
    pub data: PathBuf,
    pub place: Place,
    /// More flags of `up` or `join`.
    pub flags: Vec<String>,
    /// More variables.
    pub variables: Vec<(String, String)>,
    /// A program that runs the binary, and its first arguments.
    pub runner: Vec<OsString>,
    /// What an invitation gave.
    pub ticket: Option<String>,
    pub log: Log,
    pub patience: Patience,
}

impl Start {
    /// Over this folder, with its log beside that.
    pub fn new(binary: &Path, data: &Path) -> Start {
        Start {
            binary: binary.to_owned(),
            data: data.to_owned(),
            place: Place::loopback(),
            flags: Vec::new(),
            variables: Vec::new(),
            runner: Vec::new(),
            ticket: None,
            log: Log::File(data.with_extension("log")),
            patience: Patience::default(),
        }
    }

    pub fn flags(mut self, flags: &[&str]) -> Start {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }

    pub fn variables(mut self, variables: &[(String, String)]) -> Start {
        self.variables.extend_from_slice(variables);
        self
    }

    pub fn at(mut self, place: Place) -> Start {
        self.place = place;
        self
    }

    /// On one core.
    pub fn on_core(mut self, core: usize) -> Start {
        self.runner = ["taskset", "--cpu-list", &core.to_string()]
            .map(OsString::from)
            .into();
        self
    }

    /// As a member of the network of `gateway`, as `invite` says.
    pub fn join(mut self, gateway: &Node, invite: &[&str]) -> Result<Node> {
        let invited = gateway.json(&[&["invite"], invite].concat())?;
        self.ticket = Some(invited["ticket"].as_str().context("a ticket")?.to_owned());
        self.run()
    }

    /// Starts it, and returns when it has said where it is.
    pub fn run(&self) -> Result<Node> {
        let mut process = Process::start(&mut self.command()?)?;
        let stdout = process.child().stdout.take().context("the node's stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| match &self.log {
            Log::File(log) => {
                if line.is_empty() {
                    // It is about to end, and its log with it.
                    let _ = process.child().wait();
                }
                format!("the node did not start: {line}{}", tail(log))
            }
            Log::Inherited => format!("the node did not start: {line}"),
        })?;
        let url = |name: &str| {
            said[name]
                .as_str()
                .map(str::to_owned)
                .context("a URL of the node's")
        };
        Ok(Node::new(
            process,
            self.clone(),
            url("functions_url")?,
            url("admin_url")?,
        ))
    }

    fn command(&self) -> Result<Command> {
        let mut command = match &self.runner[..] {
            [] => self.place.command(&self.binary),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
        };
        match &self.ticket {
            None => command.arg("up"),
            Some(ticket) => command.args(["join", ticket]),
        };
        let peers = format!("{}:0", self.place.address);
        command
            .args(["--json", "--peers", &peers])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(&self.flags)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("NEARFIELD_DATA", &self.data)
            .env_remove("NEARFIELD_URL")
            .env_remove("NEARFIELD_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(match &self.log {
                Log::File(log) => Stdio::from(File::options().create(true).append(true).open(log)?),
                Log::Inherited => Stdio::inherit(),
            });
        Ok(command)
    }
}
