//! What of a folder is left out of a put: by `--exclude`, by the folder's `.nearfieldignore`, by git's files if asked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

/// A folder's own list, in the syntax of `.gitignore`.
const IGNORE_FILE: &str = ".nearfieldignore";

/// The user's choice of files that a put leaves out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Excludes {
    /// As lines of a `.gitignore` in the folder that is put.
    pub globs: Vec<String>,
    /// Whether what git leaves out is left out, and `.git` with it.
    pub git: bool,
}

/// The rules of one folder.
pub(super) struct Rules {
    root: PathBuf,
    given: Gitignore,
    own: Gitignore,
    /// By folder, read when first asked for; none without `--gitignore`.
    git: Option<HashMap<PathBuf, Gitignore>>,
}

impl Rules {
    pub fn read(root: &Path, excludes: &Excludes) -> Result<Self> {
        let mut given = GitignoreBuilder::new(root);
        for glob in &excludes.globs {
            given
                .add_line(None, glob)
                .with_context(|| format!("--exclude {glob}"))?;
        }
        Ok(Rules {
            given: given.build().context("--exclude")?,
            own: file(root, IGNORE_FILE)?,
            root: root.to_owned(),
            git: excludes.git.then(HashMap::new),
        })
    }

    /// Whether an entry stays out, and a folder with all that is in it.
    pub fn leave_out(&mut self, path: &Path, is_dir: bool) -> Result<bool> {
        // `--exclude` decides before the folder's own list, and that before git's.
        for rules in [&self.given, &self.own] {
            let matched = rules.matched(path, is_dir);
            if !matched.is_none() {
                return Ok(matched.is_ignore());
            }
        }
        let Some(git) = &mut self.git else {
            return Ok(false);
        };
        if is_dir && path.ends_with(".git") {
            return Ok(true);
        }
        // The nearest file that has something to say decides.
        let above = path.ancestors().skip(1);
        for folder in above.take_while(|folder| folder.starts_with(&self.root)) {
            if !git.contains_key(folder) {
                git.insert(folder.to_owned(), file(folder, ".gitignore")?);
            }
            let matched = git[folder].matched(path, is_dir);
            if !matched.is_none() {
                return Ok(matched.is_ignore());
            }
        }
        Ok(false)
    }
}

/// The rules in a folder's file; none if it has no such file.
fn file(folder: &Path, name: &str) -> Result<Gitignore> {
    let mut rules = GitignoreBuilder::new(folder);
    let path = folder.join(name);
    if path.is_file()
        && let Some(error) = rules.add(&path)
    {
        return Err(error).with_context(|| format!("reading {}", path.display()));
    }
    rules
        .build()
        .with_context(|| format!("reading {}", path.display()))
}
