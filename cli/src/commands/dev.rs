use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use walkdir::WalkDir;

use super::{Session, deploy, logs};
use crate::args::{DeployArgs, DevArgs};
use crate::failure;
use crate::project::MANIFEST;
use crate::visible::visible;

/// How often the project's files are looked at: below what a person notices after saving.
const POLL: Duration = Duration::from_millis(300);

/// Runs until Ctrl-C; whatever fails is said, and the next change tries again.
pub fn run(session: &Session, args: DevArgs) -> Result<()> {
    let deploy_args = DeployArgs {
        path: args.path.clone(),
        name: None,
        public: false,
        dry_run: false,
    };
    let mut followed = HashSet::new();
    std::thread::scope(|scope| {
        loop {
            // Before the build: what changes during it must start another.
            let seen = files(&args.path);
            match deploy_all(session, &deploy_args) {
                Err(error) => eprintln!("{}", visible(&failure::message(&error))),
                Ok(deployed) => {
                    for reply in deployed {
                        // A closed stdout is no reason to stop deploying.
                        let _ = session.out.text(&format!(
                            "{} v{} {}",
                            reply.name,
                            reply.version,
                            reply.reached()
                        ));
                        if followed.insert(reply.name.clone()) {
                            scope.spawn(move || logs::follow_for_ever(session, &reply.name));
                        }
                    }
                }
            }
            while files(&args.path) == seen {
                std::thread::sleep(POLL);
            }
        }
    })
}

fn deploy_all(session: &Session, args: &DeployArgs) -> Result<Vec<deploy::Reply>> {
    let functions = deploy::functions(args)?;
    functions
        .into_iter()
        .map(|function| Ok(deploy::deploy(session, function, deploy::Make::IfChanged)?.reply))
        .collect()
}

/// What a build depends on, as far as its author edits it, with the times of the last change.
fn files(dir: &Path) -> Vec<(PathBuf, Option<SystemTime>)> {
    ["src", "Cargo.toml", MANIFEST]
        .iter()
        .flat_map(|part| WalkDir::new(dir.join(part)).sort_by_file_name())
        .flatten()
        .map(|entry| {
            let changed = entry
                .metadata()
                .ok()
                .and_then(|metadata| metadata.modified().ok());
            (entry.into_path(), changed)
        })
        .collect()
}
