//! Component → native code, in a child process that can be killed.
//!
//! A component of 147 KB can keep the compiler busy for minutes or take all memory, so it never
//! compiles in the host. The child is this same executable, started with [`CompilerCommand`]; it
//! limits its own CPU time and address space before it looks at the component. Only what our own
//! child wrote is ever loaded, and only if its hash is still right: native code is trusted code.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nearfield_protocol::{Digest, Problem, ProblemKind, limits};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::sync::Semaphore;

use crate::engine::{Lane, compiling_engine};

/// Wall time of one compilation: twice its CPU time, for a machine that is busy.
const WALL: Duration = Duration::from_secs(60);
/// Compilations at once: each uses all cores.
const AT_ONCE: usize = 1;
/// What of the child's complaint is passed on.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// How the compiler's process is started; lane, input and output follow as arguments.
#[derive(Debug, Clone)]
pub struct CompilerCommand {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// Compiles components and keeps the code on disk.
pub(crate) struct Compiler {
    command: CompilerCommand,
    /// Only this process writes here.
    dir: PathBuf,
    at_once: Semaphore,
}

impl Compiler {
    pub fn new(command: CompilerCommand, dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Compiler {
            command,
            dir,
            at_once: Semaphore::new(AT_ONCE),
        })
    }

    /// The file of native code for `component`, compiled if it is not there or not whole.
    /// `key` names the engine that will run it.
    pub async fn code(
        &self,
        digest: Digest,
        component: &[u8],
        lane: Lane,
        key: &str,
    ) -> Result<PathBuf, Problem> {
        let code = self.dir.join(format!("{}-{key}.cwasm", digest.to_hex()));
        let check = code.clone();
        let whole = tokio::task::spawn_blocking(move || is_whole(&check))
            .await
            .unwrap_or(false);
        if whole {
            return Ok(code);
        }
        let _permit = self.at_once.acquire().await.map_err(internal)?;
        let input = tempfile::NamedTempFile::new_in(&self.dir).map_err(internal)?;
        input.as_file().write_all(component).map_err(internal)?;
        let output = tempfile::NamedTempFile::new_in(&self.dir).map_err(internal)?;
        self.run_child(lane, input.path(), output.path()).await?;
        let target = code.clone();
        tokio::task::spawn_blocking(move || keep(output, &target))
            .await
            .map_err(internal)?
            .map_err(internal)?;
        Ok(code)
    }

    async fn run_child(&self, lane: Lane, input: &Path, output: &Path) -> Result<(), Problem> {
        let mut child = tokio::process::Command::new(&self.command.program);
        child
            .args(&self.command.arguments)
            .arg(lane.name())
            .args([input, output])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let running = child.spawn().map_err(internal)?.wait_with_output();
        let too_long = || {
            Problem::new(
                ProblemKind::RefusedComponent,
                "the component takes too long to compile",
            )
            .with_limit(format!(
                "compile time = {} s of CPU",
                limits::COMPILE_CPU.as_secs()
            ))
        };
        let finished = tokio::time::timeout(WALL, running)
            .await
            .map_err(|_| too_long())?
            .map_err(internal)?;
        if finished.status.success() {
            return Ok(());
        }
        use std::os::unix::process::ExitStatusExt;
        const SIGABRT: i32 = 6;
        const SIGXCPU: i32 = 24;
        let message =
            String::from_utf8_lossy(&finished.stderr[..finished.stderr.len().min(MAX_MESSAGE_BYTES)]);
        Err(match (finished.status.signal(), finished.status.code()) {
            (Some(SIGXCPU | 9), _) => too_long(),
            (Some(SIGABRT), _) if message.contains("memory") => Problem::new(
                ProblemKind::RefusedComponent,
                "the component takes too much memory to compile",
            )
            .with_limit(format!("compile memory = {} bytes", limits::COMPILE_MEMORY_BYTES)),
            (None, Some(EXIT_REFUSED)) => {
                Problem::new(ProblemKind::RefusedComponent, message.trim().to_owned())
            }
            _ => Problem::new(
                ProblemKind::RefusedComponent,
                format!("the compiler ended with {}: {}", finished.status, message.trim()),
            ),
        })
    }
}

/// The exit code of a child that refused a component, with the reason on stderr.
const EXIT_REFUSED: i32 = 3;

/// The child's whole life: limit itself, compile `input`, write `output`. Returns its exit code.
pub fn compiler_main(lane: &str, input: &Path, output: &Path) -> i32 {
    let Some(lane) = Lane::from_name(lane) else {
        eprintln!("`{lane}` is no lane");
        return 2;
    };
    limit(Resource::Cpu, limits::COMPILE_CPU.as_secs());
    limit(Resource::As, limits::COMPILE_MEMORY_BYTES);
    limit(Resource::Core, 0);
    let compiled = fs::read(input)
        .map_err(wasmtime::Error::from)
        .and_then(|component| compiling_engine(lane)?.precompile_component(&component));
    match compiled {
        Ok(code) => match fs::write(output, code) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("writing the code: {error}");
                1
            }
        },
        Err(error) => {
            eprintln!("{error:#}");
            EXIT_REFUSED
        }
    }
}

fn limit(resource: Resource, value: u64) {
    // A hard limit that is lower already stays; the parent's wall time bounds the rest.
    let _ = setrlimit(
        resource,
        Rlimit {
            current: Some(value),
            maximum: Some(value),
        },
    );
}

/// Where the hash of a code file is kept.
fn hash_path(code: &Path) -> PathBuf {
    code.with_extension("b3")
}

fn is_whole(code: &Path) -> bool {
    let (Ok(bytes), Ok(hash)) = (fs::read(code), fs::read_to_string(hash_path(code))) else {
        return false;
    };
    hash.parse::<Digest>()
        .is_ok_and(|hash| hash == Digest::of(&bytes))
}

/// Moves fresh code into place. The hash goes first: code without its hash is compiled again.
fn keep(output: tempfile::NamedTempFile, code: &Path) -> io::Result<()> {
    let digest = Digest::of(&fs::read(output.path())?);
    output.as_file().sync_all()?;
    let hash = hash_path(code);
    let mut file = File::create(&hash)?;
    file.write_all(digest.to_string().as_bytes())?;
    file.sync_all()?;
    output.persist(code).map_err(|error| error.error)?;
    Ok(())
}

fn internal(error: impl std::fmt::Display) -> Problem {
    Problem::new(ProblemKind::Internal, format!("compiling: {error}"))
}
