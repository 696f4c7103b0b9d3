//! The author's crate, run natively on a shard of a job: fetch, build, run, compare.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use nearfield_protocol::Digest;
use nearfield_protocol::units::format_bytes;
use serde::Deserialize;
use serde_json::json;

use super::Known;
use crate::archive;
use crate::args::ReplayArgs;
use crate::client::Call;
use crate::commands::{Session, build};
use crate::deliver;
use crate::failure::{Exit, Failure};
use crate::guest;
use crate::interrupt::{Left, Partial};

/// The test that `#[nearfield::map]` makes, in the module of the map.
const TEST: &str = "__nearfield_replay";
/// Names the folder to it.
const FOLDER: &str = "NEARFIELD_REPLAY";

/// The stack of the map's thread: memory is taken only as it is used.
const STACK_BYTES: usize = 64 << 20;

/// What the command line needs to know of the folder.
#[derive(Deserialize)]
struct Fetched {
    function: String,
    remembered: Option<Known>,
}

pub fn run(session: &Session, args: ReplayArgs) -> Result<()> {
    let crate_dir = crate_dir(args.manifest_path.as_deref());
    // First, since it costs the node nothing.
    let tests = build::watched(session, &crate_dir, build_tests)?;
    let test = the_test(&tests, &crate_dir)?;

    let temporary = tempfile::Builder::new().prefix("nearfield-replay-").tempdir()?;
    let _partial = Partial::new(temporary.path());
    let folder = match &args.folder {
        Some(folder) => folder.clone(),
        None => temporary.path().join("shard"),
    };
    fetch(session, &args, &folder)?;
    let folder = folder.canonicalize()?;
    let fetched: Fetched = serde_json::from_slice(&fs::read(folder.join("replay.json"))?)?;

    let mut command = command(&tests, &test, args.debugger.as_deref());
    command.current_dir(&crate_dir).env(FOLDER, &folder);
    let status = start(command, args.debugger.is_some())?;
    if args.folder.is_some() {
        session.out.notice(&format!(
            "again, without the node: {FOLDER}={} cargo test --lib -- --ignored --exact {test} --nocapture",
            folder.display()
        ));
    }
    tell(session, &args, &folder, &fetched, status)
}

/// The folder of the crate, however it was named.
fn crate_dir(named: Option<&Path>) -> PathBuf {
    let named = named.unwrap_or(Path::new("."));
    match named.file_name() {
        // A parent of "" is the current folder, which commands know by another name.
        Some(name) if name == "Cargo.toml" => named.with_file_name("."),
        _ => named.to_owned(),
    }
}

/// Builds the tests of the library in `crate_dir` for this machine, and returns their executable.
fn build_tests(crate_dir: &Path, progress: &mut dyn FnMut(&str)) -> Result<PathBuf> {
    let mut cargo = guest::clean(Command::new("cargo"));
    cargo.args(["test", "--lib", "--no-run"]);
    let found = guest::artifact(cargo, crate_dir, executable, progress)?;
    found.with_context(|| format!("the library of {} has no tests to build", crate_dir.display()))
}

fn executable(message: &str) -> Option<PathBuf> {
    guest::text_after(message, "\"executable\":\"").map(PathBuf::from)
}

/// The one test that runs the crate's map.
fn the_test(tests: &Path, crate_dir: &Path) -> Result<String> {
    let listed = Command::new(tests)
        .args(["--list", "--ignored", "--format", "terse"])
        .output()
        .with_context(|| format!("starting {}", tests.display()))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let is_it = |name: &&str| name.rsplit("::").next() == Some(TEST);
    let mut found = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(is_it);
    match (found.next(), found.next()) {
        (Some(test), None) => Ok(test.to_owned()),
        (Some(one), Some(other)) => Err(Failure::new(
            Exit::Failed,
            format!("{} has several maps: {one}, {other}", crate_dir.display()),
        )
        .next("a component has one job: leave one #[nearfield::map] in its library")
        .into()),
        (None, _) => Err(Failure::new(
            Exit::NotFound,
            format!(
                "the library of {} has no function with #[nearfield::map]",
                crate_dir.display()
            ),
        )
        .next("name the crate that the job's function is made of with --manifest-path")
        .into()),
    }
}

fn fetch(session: &Session, args: &ReplayArgs, folder: &Path) -> Result<()> {
    let path = format!(
        "/v1/jobs/{}/shards/{}?max-input-bytes={}",
        args.job, args.shard, args.max_inputs
    );
    let response = session.client.send(Call::get(path), ())?;
    let bar = session.out.bytes_bar(None);
    let unpacked = archive::unpack(bar.wrap_read(response.into_body().into_reader()), folder);
    bar.finish_and_clear();
    unpacked.context("fetching the shard")
}

fn command(tests: &Path, test: &str, debugger: Option<&str>) -> Command {
    let mut words = debugger.unwrap_or_default().split_whitespace();
    let mut command = match words.next() {
        Some(debugger) => {
            let mut command = Command::new(debugger);
            command.args(words).arg(tests);
            command
        }
        None => Command::new(tests),
    };
    // The author's code runs here, and the node's own secrets are none of its business.
    for name in ["NEARFIELD_TOKEN", "NEARFIELD_URL", "NEARFIELD_DATA"] {
        command.env_remove(name);
    }
    // A debug build's frames are larger than those of the component.
    command.env("RUST_MIN_STACK", STACK_BYTES.to_string());
    command.args(["--ignored", "--exact", test, "--nocapture", "--quiet"]);
    command
}

/// Runs it on this terminal. stdout is for our own result, and a debugger's for the debugger.
fn start(mut command: Command, debugger: bool) -> Result<ExitStatus> {
    if !debugger {
        command.stdin(Stdio::null()).stdout(io::stderr());
    }
    let _left = debugger.then(Left::to_child);
    command.status().map_err(|error| {
        let name = command.get_program().display().to_string();
        Failure::new(Exit::Failed, format!("starting {name}: {error}"))
            .next(
                "is it installed? --debugger \"gdb --args\", \"rust-gdb --args\" and \"lldb --\" are common",
            )
            .into()
    })
}

/// What the run left in the folder.
fn tell(
    session: &Session,
    args: &ReplayArgs,
    folder: &Path,
    fetched: &Fetched,
    status: ExitStatus,
) -> Result<()> {
    let output = folder.join("output");
    let error = match fs::read_to_string(folder.join("error")) {
        Ok(error) => Some(error),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context("reading what the map said"),
    };
    let failed = |what: String| {
        let failure = Failure::new(Exit::FunctionFailed, what);
        match args.debugger {
            Some(_) => failure,
            None => failure.next("under a debugger: the same with --debugger \"rust-gdb --args\""),
        }
    };
    if !output.exists() {
        let message = match error {
            Some(message) => format!("`{}` failed: {message}", fetched.function),
            None => format!("`{}` did not come to its end ({status})", fetched.function),
        };
        if session.out.json {
            let value = json!({
                "job": args.job.to_string(),
                "function": fetched.function,
                "shard": args.shard,
                "native": true,
                "failed": message,
            });
            session.out.show_as(&value, String::new)?;
        }
        return Err(failed(message).into());
    }
    let bytes = fs::read(&output)?;
    let digest = Digest::of(&bytes);
    if let Some(file) = &args.output {
        deliver::write(&mut &bytes[..], file, false)?;
    }
    let same = fetched.remembered.as_ref().map(|known| known.output == digest);
    let value = json!({
        "job": args.job.to_string(),
        "function": fetched.function,
        "shard": args.shard,
        "native": true,
        "output": digest,
        "output_bytes": bytes.len(),
        "remembered": fetched.remembered.as_ref().map(|known| json!({
            "output": known.output,
            "output_bytes": known.output_bytes,
            "fuel": known.fuel,
        })),
        "same": same,
        "folder": args.folder.as_ref().map(|_| folder),
    });
    session.out.show_as(&value, || {
        let compared = match (same, &fetched.remembered) {
            (Some(true), _) => "the same as what is remembered of it".to_owned(),
            (_, Some(known)) => format!(
                "remembered is another result, {}: is this the crate as it was deployed, and nothing in the result \
                 that depends on the machine?",
                known.output
            ),
            (_, None) => "nothing is remembered of it".to_owned(),
        };
        format!(
            "shard {}, mapped natively by {}: ok\noutput   {digest} ({})\n{compared}",
            args.shard,
            fetched.function,
            format_bytes(bytes.len() as u64)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debugger_comes_before_the_executable() {
        let words = |debugger| {
            let command = command(Path::new("/t/f-1"), "job::__nearfield_replay", debugger);
            let words: Vec<_> = [command.get_program()]
                .into_iter()
                .chain(command.get_args())
                .collect();
            words
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        };
        let rest = "/t/f-1 --ignored --exact job::__nearfield_replay --nocapture --quiet";
        assert_eq!(words(None), rest);
        assert_eq!(words(Some("rust-gdb --args")), format!("rust-gdb --args {rest}"));
    }

    #[test]
    fn a_crate_is_named_by_its_folder_or_its_manifest() {
        assert_eq!(crate_dir(None), Path::new("."));
        assert_eq!(crate_dir(Some(Path::new("a/b"))), Path::new("a/b"));
        assert_eq!(crate_dir(Some(Path::new("a/Cargo.toml"))), Path::new("a/."));
        assert_eq!(crate_dir(Some(Path::new("Cargo.toml"))), Path::new("."));
    }

    #[test]
    fn the_executable_is_in_cargos_message() {
        let message = r#"{"manifest_path":"/c/Cargo.toml","filenames":[],"executable":"/t/debug/deps/f-1"}"#;
        assert_eq!(executable(message), Some(PathBuf::from("/t/debug/deps/f-1")));
        assert_eq!(executable(r#"{"executable":null}"#), None);
    }
}
