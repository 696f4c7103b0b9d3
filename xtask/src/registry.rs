//! Real data that every machine has which built this: the sources of our dependencies.

use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memchr::{memchr_iter, memmem};
use walkdir::WalkDir;

/// What was found on the way through the sources: the answers that the functions must come to.
pub struct Facts {
    pub files: u64,
    pub bytes: u64,
    /// The Rust file with the most lines that hold `unsafe`, and how many these are.
    pub unsafest: (String, u64),
}

/// The folder with the unpacked crates: cargo's largest registry.
pub fn folder() -> Result<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let src = home.join("registry/src");
    let registries = fs::read_dir(&src).with_context(|| format!("reading {}", src.display()))?;
    let crates = |path: &PathBuf| fs::read_dir(path).map_or(0, Iterator::count);
    registries
        .flatten()
        .map(|entry| entry.path())
        .max_by_key(crates)
        .with_context(|| format!("{} is empty", src.display()))
}

/// Writes a CSV with a row for each file: `crate,file,extension,bytes,lines`.
pub fn describe(folder: &Path, csv: &Path) -> Result<Facts> {
    let mut out = BufWriter::new(File::create(csv)?);
    out.write_all(b"crate,file,extension,bytes,lines\n")?;
    let mut facts = Facts {
        files: 0,
        bytes: 0,
        unsafest: (String::new(), 0),
    };
    let search = memmem::Finder::new("unsafe");
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path().strip_prefix(folder)?;
        let Some((name, file)) = path.to_str().and_then(|path| path.split_once('/')) else {
            continue;
        };
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        let content = fs::read(entry.path())?;
        let lines = memchr_iter(b'\n', &content).count();
        writeln!(
            out,
            "{},{},{},{},{lines}",
            field(name),
            field(file),
            field(&extension),
            content.len(),
        )?;
        facts.files += 1;
        facts.bytes += content.len() as u64;
        if extension == "rs" && search.find(&content).is_some() {
            let found = content
                .split(|byte| *byte == b'\n')
                .filter(|line| search.find(line).is_some());
            let found = found.count() as u64;
            if found > facts.unsafest.1 {
                facts.unsafest = (format!("{name}/{file}"), found);
            }
        }
    }
    out.flush()?;
    Ok(facts)
}

/// Makes `to` a copy of `from` whose files share their bytes where the disk allows it.
pub fn linked_copy(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target)?;
        } else if entry.file_type().is_file() && fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("copying {} to {}", entry.path().display(), target.display()))?;
        }
    }
    Ok(())
}

/// A CSV field, quoted where it must be.
fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(super::field("lib.rs"), "lib.rs");
        assert_eq!(super::field("a,\"b\".rs"), "\"a,\"\"b\"\".rs\"");
    }
}
