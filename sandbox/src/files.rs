//! Which files a process may open, and which processes it may speak with past the network.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest interface whose rights are asked for; an older kernel holds what it knows of them.
const INTERFACE: ABI = ABI::V6;

/// Devices that do nothing but give and take bytes.
pub const USUAL_DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// What may be done with a file, or with all that a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Files {
    /// Read them and list them.
    Read,
    /// Read them and start them as programs.
    Run,
    /// All but start them: make, change and remove them as well.
    Write,
    /// Use a device: read, write, and what else it can be asked.
    Device,
}

/// What a process may open, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    pub path: PathBuf,
    pub files: Files,
}

impl Allowed {
    /// All of `paths` that are there.
    pub fn all<P: Into<PathBuf>>(
        files: Files,
        paths: impl IntoIterator<Item = P>,
    ) -> impl Iterator<Item = Self> {
        paths.into_iter().map(move |path| Allowed {
            path: path.into(),
            files,
        })
    }
}

/// How much of a wall the kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enforced {
    Whole,
    /// It is older than what was asked for.
    Partly,
    Not,
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Enforced::Whole => "whole",
            Enforced::Partly => "in part: this kernel knows only older rules",
            Enforced::Not => "not: this kernel has no Landlock",
        })
    }
}

/// From here on the calling thread, and every thread and process that it starts, opens nothing but what is `allowed`, and sends
/// signals to nobody else. What is open already stays open. Paths that are not there are left out.
pub fn confine(allowed: impl IntoIterator<Item = Allowed>) -> io::Result<Enforced> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(INTERFACE))
        // It signals none but those that it starts, and finds none by a name without a file.
        .and_then(|rules| rules.scope(Scope::from_all(INTERFACE)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    for Allowed { path, files } in allowed {
        let Ok(metadata) = fs::metadata(&path) else {
            continue;
        };
        let access = match metadata.is_dir() {
            true => of_folder(files),
            false => of_folder(files) & AccessFs::from_file(INTERFACE),
        };
        if let Ok(path) = PathFd::new(&path) {
            rules = rules
                .add_rule(PathBeneath::new(path, access))
                .map_err(io::Error::other)?;
        }
    }
    let status = rules.restrict_self().map_err(io::Error::other)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforced::Whole,
        RulesetStatus::PartiallyEnforced => Enforced::Partly,
        RulesetStatus::NotEnforced => Enforced::Not,
    })
}

/// How much this machine's kernel would hold. Tried by a thread that ends.
pub fn held_here() -> io::Result<Enforced> {
    std::thread::spawn(|| confine([]))
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that tried it panicked")))
}

fn of_folder(files: Files) -> BitFlags<AccessFs> {
    let read = AccessFs::from_read(INTERFACE);
    match files {
        Files::Read => read & !AccessFs::Execute,
        Files::Run => read,
        Files::Write => {
            AccessFs::from_all(INTERFACE)
                & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev)
        }
        Files::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev | AccessFs::ReadDir,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::path::Path;
    use std::process::Command;

    /// Runs in a thread of its own, which alone is confined, and ends.
    fn confined<T: Send>(allowed: Vec<Allowed>, work: impl FnOnce() -> T + Send) -> Option<T> {
        std::thread::scope(|scope| {
            scope
                .spawn(|| (confine(allowed).unwrap() == Enforced::Whole).then(work))
                .join()
                .unwrap()
        })
    }

    #[test]
    fn what_is_not_allowed_cannot_be_opened() {
        let folder = std::env::temp_dir().join(format!("nearfield-sandbox-{}", std::process::id()));
        let at = |name: &str| folder.join(name);
        for name in ["own", "read", "other"] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(at(name).join("file"), name).unwrap();
        }
        let allowed = Allowed::all(Files::Write, [at("own")])
            .chain(Allowed::all(Files::Read, [at("read"), at("gone")]))
            .chain(Allowed::all(
                Files::Run,
                ["/lib", "/lib64", "/usr/lib", "/usr/bin/true"],
            ))
            .chain(Allowed::all(Files::Device, USUAL_DEVICES));
        let abstract_name = SocketAddr::from_abstract_name(folder.as_os_str().as_encoded_bytes()).unwrap();
        let _listener = UnixListener::bind_addr(&abstract_name).unwrap();
        let parent = rustix::process::getppid().unwrap();
        let write = |path: &Path| fs::write(path, "new").is_ok();
        let read = |path: &Path| fs::read(path).is_ok();
        let outcome = confined(allowed.collect(), || {
            let own = at("own").join("file");
            std::os::unix::fs::symlink(at("other").join("file"), at("own").join("link")).unwrap();
            [
                ("writes its own", read(&own) && write(&own), true),
                (
                    "renames its own",
                    fs::rename(&own, at("own").join("renamed")).is_ok(),
                    true,
                ),
                ("reads", read(&at("read").join("file")), true),
                ("writes what it may read", write(&at("read").join("file")), false),
                ("reads others", read(&at("other").join("file")), false),
                ("follows a link", read(&at("own").join("link")), false),
                ("reads the machine's", read(Path::new("/etc/passwd")), false),
                ("uses a device", write(Path::new("/dev/null")), true),
                (
                    "runs what it may",
                    Command::new("/usr/bin/true").status().is_ok(),
                    true,
                ),
                (
                    "signals others",
                    rustix::process::test_kill_process(parent).is_ok(),
                    false,
                ),
                (
                    "connects to others",
                    UnixStream::connect_addr(&abstract_name).is_ok(),
                    false,
                ),
                (
                    "runs others",
                    Command::new("/usr/bin/env").status().is_ok(),
                    false,
                ),
            ]
        });
        fs::remove_dir_all(&folder).unwrap();
        // An older kernel holds less; there is nothing to see then.
        for (what, is, should) in outcome.into_iter().flatten() {
            assert_eq!(is, should, "{what}");
        }
    }
}
