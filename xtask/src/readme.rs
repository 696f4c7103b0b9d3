//! `cargo xtask readme`: the README's commands in their order, as a new user types them.
//!
//! What stands in a block marked `sh` runs, line by line, in a fresh folder with a fresh home; `sh gpu` only where a GPU or
//! the software adapter is there. A line's `# → TEXT` says what its output has to hold. `ID` is the id of the last call,
//! as `nearfield call` told it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace::{self, root, step};
use crate::{gpu, guests};

/// How long the node may take to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// One line to run, and what its output must hold.
#[derive(Debug, PartialEq, Eq)]
struct Step<'a> {
    command: &'a str,
    expected: Option<&'a str>,
    needs_gpu: bool,
}

pub fn run() -> Result<()> {
    // Functions need a toolchain; the components themselves are built by the README's own commands.
    guests::build()?;
    let binary = workspace::nearfield_with_tests()?;
    let has_gpu = gpu::adapter(&binary).is_ok();
    let readme = std::fs::read_to_string(root().join("README.md")).context("reading README.md")?;
    let steps = steps(&readme);
    ensure!(!steps.is_empty(), "README.md has no block marked `sh`");

    let home = tempfile::tempdir()?;
    let functions = root().join("functions").canonicalize()?;
    // The README's reader stands in the checkout; here only what it names of that is at hand.
    let place = home.path().join("checkout");
    std::fs::create_dir(&place)?;
    std::os::unix::fs::symlink(&functions, place.join("functions"))?;
    let session = Session {
        home: home.path(),
        place: &place,
        binaries: binary.parent().context("the binary's folder")?,
        functions: format!("127.0.0.1:{}", free_port()?),
        admin: format!("127.0.0.1:{}", free_port()?),
    };
    let _node = session.up()?;
    let (mut id, mut ran) = (String::new(), 0);
    for step in &steps {
        if step.needs_gpu && !has_gpu {
            continue;
        }
        let started = Instant::now();
        let command = step.command.replace(" ID", &format!(" {id}"));
        let output = session.shell(&command)?;
        if let Some((_, told)) = output.rsplit_once(", id ") {
            id = told.split_whitespace().next().unwrap_or_default().to_owned();
        }
        let expected = step.expected.unwrap_or_default();
        ensure!(
            output.contains(&session.here(expected)),
            "`{}` was to print `{expected}` and printed:\n{output}",
            step.command
        );
        workspace::step(&format!(
            "{:.1} s: {}",
            started.elapsed().as_secs_f64(),
            step.command
        ));
        ran += 1;
    }
    println!(
        "{ran} commands of the README ran in their order, {} with GPUs left out",
        steps.len() - ran
    );
    Ok(())
}

/// The lines of all blocks that run.
fn steps(readme: &str) -> Vec<Step<'_>> {
    let (mut steps, mut block) = (Vec::new(), None);
    for line in readme.lines() {
        match (line.strip_prefix("```"), block) {
            (Some(mark), None) => block = Some(mark),
            (Some(_), Some(_)) => block = None,
            (None, Some(mark)) if matches!(mark, "sh" | "sh gpu") && !line.trim().is_empty() => {
                let (command, expected) = match line.split_once(" # → ") {
                    Some((command, expected)) => (command.trim(), Some(expected.trim())),
                    None => (line.trim(), None),
                };
                steps.push(Step {
                    command,
                    expected,
                    needs_gpu: mark == "sh gpu",
                });
            }
            _ => {}
        }
    }
    steps
}

/// Where commands run.
struct Session<'a> {
    home: &'a Path,
    place: &'a Path,
    binaries: &'a Path,
    /// The listeners, on ports that are free here.
    functions: String,
    admin: String,
}

/// A node that ends with its handle.
struct Node(Child);

impl Session<'_> {
    fn up(&self) -> Result<Node> {
        step("nearfield up");
        let mut command = self.command("nearfield");
        command.args(["up", "--listen", &self.functions, "--admin", &self.admin]);
        let node = Node(
            command
                .stdout(Stdio::null())
                .spawn()
                .context("starting the node")?,
        );
        let started = Instant::now();
        while !self.command("nearfield").arg("status").output()?.status.success() {
            ensure!(started.elapsed() < PATIENCE, "the node does not come up");
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(node)
    }

    /// Runs one line and gives all that it printed.
    fn shell(&self, line: &str) -> Result<String> {
        let output = self
            .command("bash")
            .args(["-c", &format!("set -o pipefail; {{ {}; }} 2>&1", self.here(line))])
            .output()
            .with_context(|| format!("starting `{line}`"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("`{line}` ended with {} and printed:\n{text}", output.status);
        }
        Ok(text)
    }

    /// The README's addresses as they are here.
    fn here(&self, text: &str) -> String {
        text.replace("127.0.0.1:8080", &self.functions)
            .replace("127.0.0.1:8081", &self.admin)
    }

    fn command(&self, program: &str) -> Command {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let paths = [self.binaries.to_owned()]
            .into_iter()
            .chain(std::env::split_paths(&path));
        let path = std::env::join_paths(paths).expect("the paths of PATH");
        let mut command = match program {
            "nearfield" => Command::new(self.binaries.join("nearfield")),
            program => Command::new(program),
        };
        // cargo and rustup keep their own homes: what was fetched and installed there is at hand.
        for (variable, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if let (None, Some(home)) = (std::env::var_os(variable), std::env::var_os("HOME")) {
                command.env(variable, Path::new(&home).join(folder));
            }
        }
        command
            .current_dir(self.place)
            .env("HOME", self.home)
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("NEARFIELD_DATA")
            .env_remove("NEARFIELD_TOKEN")
            .env("NEARFIELD_URL", format!("http://{}", self.admin))
            .env("PATH", path)
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_blocks_run() {
        let readme = "```\nno\n```\ntext\n```sh\na b  # → c\n\nd\n```\n```toml\nno\n```\n```sh gpu\ne\n```\n";
        let step = |command, expected, needs_gpu| Step {
            command,
            expected,
            needs_gpu,
        };
        let wanted = [
            step("a b", Some("c"), false),
            step("d", None, false),
            step("e", None, true),
        ];
        assert_eq!(steps(readme), wanted);
    }
}
