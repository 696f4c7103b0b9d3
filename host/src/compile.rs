//! Component → native code, in a child process that can be killed.
//!
//! A component of 147 KB can keep the compiler busy for minutes or take all memory, so it never
//! compiles in the host. The child is this same executable, started with [`CompilerCommand`]; it has the component as its
//! standard input and the code as its standard output. Before it looks into the component it limits what it may use, by the
//! component's size, and gives up all other files, sockets, programs and processes. Only what our own
//! child wrote is ever loaded, and only if its hash is still right: native code is trusted code.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nearfield_protocol::{Digest, Problem, ProblemKind, limits, units};
use nearfield_sandbox::{Calls, Resource, confine, limit, refuse};
use tokio::sync::Semaphore;

use crate::engine::{Target, compiling_engine};

/// Compilations at once of components that are compiled without inlining, because they are large, and of others. Each uses
/// all cores, so more would gain nothing; a small one does not wait for a large one.
const LARGE_AT_ONCE: usize = 1;
const SMALL_AT_ONCE: usize = 1;
/// Compilations that run or wait. Beyond that a deployment or a call is told to come again.
const MAX_WAITING: usize = 64;
/// How much less urgent a large compilation is than what the host runs meanwhile.
const LARGE_NICE: i32 = 10;
/// What of the child's complaint is passed on.
const MAX_MESSAGE_BYTES: usize = 4 << 10;

/// How the compiler's process is started; the target follows as an argument.
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
    large: Semaphore,
    small: Semaphore,
    waiting: Semaphore,
}

/// What one compilation may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget {
    cpu: Duration,
    memory_bytes: u64,
}

impl Budget {
    fn of(component_bytes: u64) -> Self {
        let mib = component_bytes.min(limits::COMPONENT_BYTES).div_ceil(1 << 20);
        Budget {
            cpu: limits::COMPILE_CPU + limits::COMPILE_CPU_PER_MIB * mib as u32,
            memory_bytes: limits::COMPILE_MEMORY_BYTES + limits::COMPILE_MEMORY_BYTES_PER_MIB * mib,
        }
    }

    /// Twice the CPU time, for a machine that is busy.
    fn wall(self) -> Duration {
        self.cpu * 2
    }
}

/// A component's native code.
pub(crate) struct Code {
    pub path: PathBuf,
    /// How long the compiler took; none if the code was there.
    pub compiled_in: Option<Duration>,
}

impl Compiler {
    pub fn new(command: CompilerCommand, dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        Ok(Compiler {
            command,
            dir,
            large: Semaphore::new(LARGE_AT_ONCE),
            small: Semaphore::new(SMALL_AT_ONCE),
            waiting: Semaphore::new(MAX_WAITING),
        })
    }

    /// The file of native code for `component`, compiled if it is not there or not whole.
    /// `key` names the engine that will run it.
    pub async fn code(
        &self,
        digest: Digest,
        component: &[u8],
        target: Target,
        key: &str,
    ) -> Result<Code, Problem> {
        let path = self.dir.join(format!("{}-{key}.cwasm", digest.to_hex()));
        let there = || {
            let path = path.clone();
            async move {
                let check = path.clone();
                let whole = tokio::task::spawn_blocking(move || is_whole(&check)).await;
                whole.unwrap_or(false).then_some(Code {
                    path,
                    compiled_in: None,
                })
            }
        };
        if let Some(code) = there().await {
            return Ok(code);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| {
            Problem::new(
                ProblemKind::Overload,
                "this host is compiling as many components as it may; try again in a minute",
            )
            .with_limit(format!("compilations that run or wait = {MAX_WAITING}"))
        })?;
        let turn = match target.inlining {
            true => &self.small,
            false => &self.large,
        };
        let _turn = turn.acquire().await.map_err(internal)?;
        // Whoever had the turn before may have compiled the same.
        if let Some(code) = there().await {
            return Ok(code);
        }
        let started = Instant::now();
        let mut input = tempfile::tempfile_in(&self.dir).map_err(internal)?;
        input.write_all(component).map_err(internal)?;
        input.rewind().map_err(internal)?;
        let output = tempfile::NamedTempFile::new_in(&self.dir).map_err(internal)?;
        let written = output.as_file().try_clone().map_err(internal)?;
        let budget = Budget::of(component.len() as u64);
        self.run_child(target, budget, input, written).await?;
        let kept = path.clone();
        tokio::task::spawn_blocking(move || keep(output, &kept))
            .await
            .map_err(internal)?
            .map_err(internal)?;
        Ok(Code {
            path,
            compiled_in: Some(started.elapsed()),
        })
    }

    async fn run_child(
        &self,
        target: Target,
        budget: Budget,
        input: File,
        output: File,
    ) -> Result<(), Problem> {
        let mut child = tokio::process::Command::new(&self.command.program);
        child
            .args(&self.command.arguments)
            .arg(target.name())
            .env_clear()
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let running = child.spawn().map_err(internal)?.wait_with_output();
        let too_long = || {
            Problem::new(
                ProblemKind::RefusedComponent,
                "the component takes too long to compile; build it in release mode, strip it, and leave out what it does \
                 not use",
            )
            .with_limit(format!("compile time = {} of CPU", units::exact_duration(budget.cpu)))
        };
        let finished = tokio::time::timeout(budget.wall(), running)
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
                "the component takes too much memory to compile; build it in release mode, strip it, and leave out what it \
                 does not use",
            )
            .with_limit(format!("compile memory = {}", units::exact_bytes(budget.memory_bytes))),
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

/// Native code is some times as large as the component: far beyond that it is a bomb.
const CODE_BYTES_PER_BYTE: u64 = 32;
/// Code of a component that is nearly nothing.
const MIN_CODE_BYTES: u64 = 16 << 20;

/// The child's whole life: limit itself, compile what it reads from its standard input, write the code to its standard output.
/// Returns its exit code.
pub fn compiler_main(target: &str) -> i32 {
    let Some(target) = Target::from_name(target) else {
        eprintln!("`{target}` is no target");
        return 2;
    };
    let mut component = Vec::new();
    if let Err(error) = io::stdin().read_to_end(&mut component) {
        eprintln!("reading the component: {error}");
        return 1;
    }
    if let Err(error) = close_in(component.len() as u64) {
        eprintln!("closing the compiler in: {error}");
        return 1;
    }
    if !target.inlining {
        // Only a courtesy to whatever else runs.
        let _ = rustix::process::nice(LARGE_NICE);
    }
    let compiled = compiling_engine(target).and_then(|engine| engine.precompile_component(&component));
    match compiled {
        Ok(code) => match io::stdout().write_all(&code).and_then(|()| io::stdout().flush()) {
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

/// Leaves the compiler what it needs: memory, time, threads, and the files that it has. Kernels without Landlock leave it others.
fn close_in(component_bytes: u64) -> io::Result<()> {
    let budget = Budget::of(component_bytes);
    limit(Resource::Cpu, budget.cpu.as_secs())?;
    limit(Resource::As, budget.memory_bytes)?;
    limit(Resource::Core, 0)?;
    limit(
        Resource::Fsize,
        MIN_CODE_BYTES + CODE_BYTES_PER_BYTE * component_bytes.min(limits::COMPONENT_BYTES),
    )?;
    confine([])?;
    refuse(&[
        Calls::Intrusion,
        Calls::Programs,
        Calls::Processes,
        Calls::Signals,
        Calls::Network,
        Calls::FileNames,
    ])
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lane::Lane;

    #[test]
    fn a_budget_grows_with_the_component_up_to_a_limit() {
        let mib = 1 << 20;
        assert_eq!(Budget::of(100_000).cpu, Duration::from_secs(34));
        assert_eq!(Budget::of(19 * mib).cpu, Duration::from_secs(106));
        assert_eq!(Budget::of(64 * mib).cpu, Duration::from_secs(286));
        assert_eq!(Budget::of(64 * mib).memory_bytes, 4 << 30);
        assert_eq!(Budget::of(u64::MAX), Budget::of(64 * mib));
    }

    #[tokio::test]
    async fn whoever_is_one_too_many_to_wait_is_refused_and_whoever_gives_up_frees_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let command = CompilerCommand {
            program: "sh".into(),
            arguments: ["-c", "sleep 60"].map(OsString::from).into(),
        };
        let compiler = Arc::new(Compiler::new(command, folder.path().to_owned()).unwrap());
        let target = Target {
            lane: Lane::LiveP2,
            inlining: true,
            timed: false,
        };
        let wait_for = async |permits: usize| {
            while compiler.waiting.available_permits() != permits {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let compile = |number: usize| {
            let compiler = compiler.clone();
            async move {
                compiler
                    .code(Digest::of(&number.to_le_bytes()), b"", target, "key")
                    .await
            }
        };
        let waiting: Vec<_> = (0..MAX_WAITING)
            .map(|number| tokio::spawn(compile(number)))
            .collect();
        wait_for(0).await;
        let problem = compile(MAX_WAITING).await.err().unwrap();
        assert_eq!(problem.kind, ProblemKind::Overload);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        wait_for(MAX_WAITING).await;
        assert!(
            fs::read_dir(folder.path()).unwrap().next().is_none(),
            "nothing is left in the folder"
        );
    }
}
