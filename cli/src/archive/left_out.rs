//! What of a folder is left out of a put: by `--exclude`, by the folder's `.nearfieldignore`, by git's files if asked.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use nearfield_store::{IGNORE_FILE, LeftOut};

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
    given_and_own: LeftOut,
    /// By folder, read when first asked for; none without `--gitignore`.
    git: Option<HashMap<PathBuf, Gitignore>>,
}

impl Rules {
    pub fn read(root: &Path, excludes: &Excludes) -> Result<Self> {
        let path = root.join(IGNORE_FILE);
        let own = match path.is_file() {
            true => std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?,
            false => String::new(),
        };
        Ok(Rules {
            given_and_own: LeftOut::new(&excludes.globs, &own)?,
            root: root.to_owned(),
            git: excludes.git.then(HashMap::new),
        })
    }

    /// Whether an entry stays out, and a folder with all that is in it.
    pub fn leave_out(&mut self, path: &Path, is_dir: bool) -> Result<bool> {
        // The patterns of this put go before git's files.
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        if let Some(stays_out) = self.given_and_own.says(below, is_dir) {
            return Ok(stays_out);
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
                git.insert(folder.to_owned(), gitignore(folder)?);
            }
            let matched = git[folder].matched(path, is_dir);
            if !matched.is_none() {
                return Ok(matched.is_ignore());
            }
        }
        Ok(false)
    }
}

/// The rules in a folder's `.gitignore`; none if it has no such file.
fn gitignore(folder: &Path) -> Result<Gitignore> {
    let mut rules = GitignoreBuilder::new(folder);
    let path = folder.join(".gitignore");
    if path.is_file()
        && let Some(error) = rules.add(&path)
    {
        return Err(error).with_context(|| format!("reading {}", path.display()));
    }
    rules
        .build()
        .with_context(|| format!("reading {}", path.display()))
}
