use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nearfield_protocol::manifest::{ComponentSource, FunctionManifest};
use nearfield_protocol::records::FunctionVersion;
use nearfield_protocol::units::format_bytes;
use nearfield_protocol::{Digest, FunctionName, limits};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Session, build};
use crate::args::DeployArgs;
use crate::client::{Call, segment};
use crate::failure::{Exit, Failure};
use crate::project;
use crate::visible::visible_line;

pub fn run(session: &Session, args: DeployArgs) -> Result<()> {
    let functions = functions(&args)?;
    let make = if args.dry_run { Make::Never } else { Make::Always };
    let deployed: Vec<Deployed> = functions
        .into_iter()
        .map(|function| deploy(session, function, make))
        .collect::<Result<_>>()?;
    let mut values: Vec<Value> = deployed.iter().map(Deployed::to_json).collect();
    let value = if values.len() == 1 {
        values.remove(0)
    } else {
        Value::Array(values)
    };
    let notices = deployed.iter().flat_map(|function| &function.reply.notices);
    notices.for_each(|notice| session.out.report(&format!("note: {notice}")));
    let texts: Result<Vec<String>> = deployed
        .iter()
        .map(|function| function.describe(args.dry_run))
        .collect();
    let text = texts?.join("\n");
    session.out.show_as(&value, || text)
}

/// A function as its author has it.
pub struct Function {
    name: FunctionName,
    source: Source,
    manifest: FunctionManifest,
}

enum Source {
    Crate(PathBuf),
    Component(PathBuf),
}

/// How often the spinner turns while a node compiles.
const SPIN: Duration = Duration::from_millis(100);

/// What each component and module begins with.
const WASM_MAGIC: &[u8] = b"\0asm";

/// Which functions `deploy` means: those of a manifest, or the one component.
pub fn functions(args: &DeployArgs) -> Result<Vec<Function>> {
    let mut functions = match args.path.extension() {
        Some(extension) if extension == "wasm" => vec![of_component(&args.path, args.name.clone())?],
        _ => of_project(&args.path, args.name.as_ref())?,
    };
    for function in &mut functions {
        function.manifest.public |= args.public;
    }
    Ok(functions)
}

/// When a deployment makes a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    Always,
    /// Not if the newest version has the same component and manifest.
    IfChanged,
    /// Everything is checked, and nothing changes.
    Never,
}

/// Builds and uploads the component, and puts the function into service.
pub fn deploy(session: &Session, function: Function, make: Make) -> Result<Deployed> {
    let name = function.name;
    let component = match &function.source {
        Source::Crate(dir) => build::component(session, dir)?,
        Source::Component(path) => path.clone(),
    };
    let bytes = read_component(&component)?;
    let put = || -> Result<Reply> {
        if make == Make::IfChanged
            && let Some(reply) = newest(session, &name)
            && reply.component == Digest::of(&bytes)
            && let Some(newest) = &reply.previous
            && newest.manifest == function.manifest
        {
            return Ok(reply);
        }
        let stored = session.client.send(
            Call::new("POST", "/v1/blobs").header("content-type", "application/wasm"),
            bytes.as_slice(),
        )?;
        let Stored { digest } = stored
            .into_body()
            .read_json()
            .context("reading the component's digest")?;
        let body =
            json!({ "component": digest, "manifest": function.manifest, "dry_run": make == Make::Never });
        let spinner = session.out.spinner();
        spinner.set_message(format!(
            "{name}: checking and compiling {}",
            format_bytes(bytes.len() as u64)
        ));
        spinner.enable_steady_tick(SPIN);
        let reply = session
            .client
            .change("PUT", format!("/v1/functions/{}", segment(name.as_str())), &body);
        spinner.finish_and_clear();
        let reply = reply?;
        serde_json::from_value(reply).context("reading what became of the function")
    };
    let reply = put().with_context(|| format!("deploying `{name}`"))?;
    Ok(Deployed {
        reply,
        manifest: function.manifest,
    })
}

/// The bytes of a component's file, as far as they may be one. A manifest may be a stranger's and name any file.
fn read_component(path: &Path) -> Result<Vec<u8>> {
    let (doing, file) = (|| format!("reading {}", path.display()), path.display());
    let refused = |exit, what: String, next: &str| Err(Failure::new(exit, what).next(next).into());
    // Before it is opened, which would wait for whoever writes to a FIFO.
    if !fs::metadata(path).with_context(doing)?.is_file() {
        let what = format!("{file} is no plain file, and no component");
        return refused(Exit::Failed, what, "name the .wasm file of a component");
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .with_context(doing)?
        .take(limits::COMPONENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(doing)?;
    if !bytes.starts_with(WASM_MAGIC) {
        let what = format!("{file} is no valid WebAssembly: it does not begin with `\\0asm`");
        return refused(Exit::Failed, what, "name the .wasm file of a component");
    }
    if bytes.len() as u64 > limits::COMPONENT_BYTES {
        let most = format_bytes(limits::COMPONENT_BYTES);
        let what = format!("{file} is too large: a component has at most {most}");
        return refused(
            Exit::OverLimit,
            what,
            "build it for release, and strip it of its debug information",
        );
    }
    Ok(bytes)
}

/// The newest version as if it had just been deployed. Whatever keeps it from being read is for the deployment to say.
fn newest(session: &Session, name: &FunctionName) -> Option<Reply> {
    #[derive(Deserialize)]
    struct Described {
        current: FunctionVersion,
        url: Option<String>,
    }
    let value = session
        .client
        .get(format!("/v1/functions/{}", segment(name.as_str())));
    let Described { current, url } = serde_json::from_value(value.ok()?).ok()?;
    Some(Reply {
        name: current.name.clone(),
        version: current.version,
        component: current.component,
        url,
        notices: Vec::new(),
        imports: Vec::new(),
        code_bytes: 0,
        compiled_in_ms: None,
        previous: Some(current),
    })
}

/// A function in service, and what it was given.
pub struct Deployed {
    pub reply: Reply,
    manifest: FunctionManifest,
}

#[derive(Deserialize)]
struct Stored {
    digest: Digest,
}

/// What the node answers to a deployment and to a rollback.
#[derive(Deserialize)]
pub struct Reply {
    pub name: FunctionName,
    pub version: u64,
    pub component: Digest,
    /// None for what is a job alone.
    url: Option<String>,
    /// What it will lack.
    #[serde(default)]
    notices: Vec<String>,
    imports: Vec<String>,
    #[serde(default)]
    code_bytes: u64,
    #[serde(default)]
    compiled_in_ms: Option<u64>,
    previous: Option<FunctionVersion>,
}

impl Reply {
    /// How it is reached.
    pub fn reached(&self) -> String {
        match &self.url {
            Some(url) => format!("at {}", visible_line(url)),
            None => format!("for jobs: `nearfield run {} --over DATASET`", self.name),
        }
    }
}

impl Deployed {
    fn to_json(&self) -> Value {
        let Reply {
            name,
            version,
            component,
            url,
            code_bytes,
            compiled_in_ms,
            ..
        } = &self.reply;
        json!({
            "name": name,
            "version": version,
            "component": component,
            "url": url,
            "code_bytes": code_bytes,
            "compiled_in_ms": compiled_in_ms,
            "notices": self.reply.notices,
        })
    }

    /// What it may do, what that changes, and where it is.
    fn describe(&self, dry_run: bool) -> Result<String> {
        let Reply {
            name,
            version,
            component,
            imports,
            code_bytes,
            compiled_in_ms,
            previous,
            ..
        } = &self.reply;
        let granted = project::grants(&self.manifest);
        let mut lines = vec![format!("{name} imports{}", indented(&by_package(imports)))];
        lines.push(format!("is granted{}", indented(&granted)));
        let callers = if self.manifest.public {
            "anybody may call it"
        } else {
            "callers need a token"
        };
        lines.push(callers.to_owned());
        match previous {
            None => lines.push("first version".to_owned()),
            Some(previous) => {
                let mut changes = project::changes(&previous.manifest, &self.manifest)?;
                if previous.component != *component {
                    changes.insert(0, format!("component: {:?} → {component:?}", previous.component));
                }
                lines.push(format!(
                    "changed since v{}{}",
                    previous.version,
                    indented(&changes)
                ));
            }
        }
        // What takes no time is not worth a line.
        if let Some(ms) = compiled_in_ms.as_ref().filter(|ms| **ms >= 1_000) {
            let (code, seconds) = (format_bytes(*code_bytes), *ms as f64 / 1e3);
            lines.push(format!("compiled {code} of code in {seconds:.1} s"));
        }
        let would = if dry_run { "would be " } else { "" };
        lines.push(format!("{would}{name} v{version} {}", self.reply.reached()));
        Ok(lines.join("\n"))
    }
}

/// What follows a heading: a line each, or that there is nothing.
fn indented(lines: &[String]) -> String {
    match lines {
        [] => " nothing".to_owned(),
        lines => lines
            .iter()
            .map(|line| format!("\n  {}", visible_line(line)))
            .collect(),
    }
}

/// A line a package, `wasi:http@0.2.12: outgoing-handler, types`: components import a dozen interfaces of a few.
fn by_package(imports: &[String]) -> Vec<String> {
    let mut packages: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for import in imports {
        let (path, version) = import.split_once('@').unwrap_or((import, ""));
        let (package, interface) = path.split_once('/').unwrap_or((path, ""));
        let at = if version.is_empty() { "" } else { "@" };
        packages
            .entry(format!("{package}{at}{version}"))
            .or_default()
            .push(interface);
    }
    packages
        .iter()
        .map(|(package, interfaces)| format!("{package}: {}", interfaces.join(", ")))
        .collect()
}

fn of_project(dir: &Path, only: Option<&FunctionName>) -> Result<Vec<Function>> {
    let file = project::read(dir)?;
    let functions: Vec<Function> = file
        .function
        .into_iter()
        .filter(|(name, _)| only.is_none_or(|only| only == name))
        .map(|(name, entry)| Function {
            name,
            source: match entry.source {
                ComponentSource::Crate(path) => Source::Crate(dir.join(path)),
                ComponentSource::File(path) => Source::Component(dir.join(path)),
            },
            manifest: entry.manifest,
        })
        .collect();
    if functions.is_empty() {
        let wanted = only.map(|name| format!(" `{name}`")).unwrap_or_default();
        let manifest = dir.join(project::MANIFEST);
        return Err(Failure::new(
            Exit::NotFound,
            format!("{} has no function{wanted}", manifest.display()),
        )
        .next("add a [function.NAME] to it")
        .into());
    }
    Ok(functions)
}

fn of_component(path: &Path, name: Option<FunctionName>) -> Result<Function> {
    let name = name.or_else(|| name_of(path)).ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("the name of {} can name no function", path.display()),
        )
        .next("give one with --name")
    })?;
    Ok(Function {
        name,
        source: Source::Component(path.to_owned()),
        manifest: FunctionManifest::default(),
    })
}

/// cargo writes `my-fn` as `my_fn.wasm`.
fn name_of(component: &Path) -> Option<FunctionName> {
    component.file_stem()?.to_str()?.replace('_', "-").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_components_file_names_its_function_if_it_can() {
        let name = |path: &str| name_of(Path::new(path)).map(String::from);
        assert_eq!(name("target/my_fn.wasm").as_deref(), Some("my-fn"));
        assert_eq!(name("_.wasm"), None);
    }

    #[test]
    fn what_can_be_no_component_is_not_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let refused = |path: &Path| {
            let error = read_component(path).unwrap_err();
            (Exit::of(&error), crate::failure::message(&error))
        };
        for endless in ["/dev/zero", dir.path().to_str().unwrap()] {
            let (exit, said) = refused(Path::new(endless));
            assert_eq!(exit, Exit::Failed);
            assert!(said.contains(&format!("{endless} is no plain file")), "{said}");
            assert!(said.contains("\n next: "), "{said}");
        }
        for (name, bytes) in [("empty", ""), ("script", "#!/bin/sh\n"), ("short", "\0as")] {
            fs::write(at(name), bytes).unwrap();
            let (_, said) = refused(&at(name));
            assert!(
                said.contains(name) && said.contains("no valid WebAssembly"),
                "{said}"
            );
        }
        fs::write(at("whole"), b"\0asm\x0d\0\x01\0").unwrap();
        assert_eq!(read_component(&at("whole")).unwrap(), b"\0asm\x0d\0\x01\0");
        // Larger than any component, with nothing in it.
        let file = fs::File::options().write(true).open(at("whole")).unwrap();
        file.set_len(1 << 32).unwrap();
        let (exit, said) = refused(&at("whole"));
        assert_eq!(exit, Exit::OverLimit);
        assert!(said.contains("64.0 MiB"), "{said}");
    }

    #[test]
    fn what_a_manifest_says_stays_on_its_line() {
        let granted = ["sees A=x\nanybody may call it".to_owned()];
        assert_eq!(indented(&granted), "\n  sees A=x\\u{a}anybody may call it");
    }

    #[test]
    fn imports_are_told_by_package() {
        let imports = [
            "wasi:http/types@0.2.12",
            "wasi:io/poll@0.2.12",
            "wasi:http/outgoing-handler@0.2.12",
        ];
        let lines = by_package(&imports.map(str::to_owned));
        assert_eq!(
            lines,
            [
                "wasi:http@0.2.12: types, outgoing-handler",
                "wasi:io@0.2.12: poll"
            ]
        );
    }
}
