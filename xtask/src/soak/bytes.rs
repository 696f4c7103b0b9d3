//! What goes in comes out, and putting it takes little memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use walkdir::WalkDir;

use super::inputs::{digest, write_folder, write_noise, write_text};
use super::{Finding, Setting};
use crate::report::bytes;
use crate::workspace::output;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let (text, binary, files) = if setting.quick {
        (30 << 20, 64 << 20, 2_000)
    } else {
        (300 << 20, 1 << 30, 20_000)
    };
    let folder = Folder::new("bytes")?;
    let node = Node::start(&setting.nearfield, &folder.path().join("data"))?;
    let trips = Trips {
        node: &node,
        folder: folder.path(),
    };
    let mut findings = Vec::new();
    for size in [0, 1, (16 << 10) - 1, 16 << 10, (16 << 10) + 1] {
        let path = trips.input("small");
        write_noise(&path, size, size)?;
        trips.file(&path, &path, "bytes")?;
    }
    findings.push(("0 B, 1 B, 16 KiB ± 1".to_owned(), "identical".to_owned()));

    let path = trips.input("text.txt");
    write_text(&path, text)?;
    findings.push(trips.file(&path, &path, "lines")?);
    for (name, compress) in [
        ("text.txt.gz", gzip as fn(&Path, &Path) -> Result<()>),
        ("text.txt.zst", zstd),
    ] {
        let compressed = trips.input(name);
        compress(&path, &compressed)?;
        // What is stored is what was compressed.
        findings.push(trips.file(&compressed, &path, "lines")?);
    }

    let path = trips.input("binary");
    write_noise(&path, 1, binary)?;
    findings.push(trips.file(&path, &path, "bytes")?);

    let path = trips.input("folder");
    write_folder(&path, files)?;
    findings.push(trips.directory(&path, files)?);
    node.stop()?;
    Ok(findings)
}

/// There and back again.
struct Trips<'a> {
    node: &'a Node,
    folder: &'a Path,
}

impl Trips<'_> {
    fn input(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Puts `path`, gets it, and compares that with `expected`.
    fn file(&self, path: &Path, expected: &Path, split: &str) -> Result<Finding> {
        let extra = self.put(path, split)?;
        let back = self.get()?;
        let size = fs::metadata(expected)?.len();
        ensure!(
            fs::metadata(&back)?.len() == size && digest(&back)? == digest(expected)?,
            "{} came back different",
            path.display()
        );
        fs::remove_file(back)?;
        let name = path.file_name().unwrap_or_default().display();
        Ok((
            format!("{name}, {}, {split}", bytes(size)),
            format!("identical; put took {extra}"),
        ))
    }

    fn directory(&self, path: &Path, files: u64) -> Result<Finding> {
        let extra = self.put(path, "files")?;
        let back = self.get()?;
        let (sent, got) = (entries(path)?, entries(&back)?);
        if let Some((name, entry)) = sent.iter().find(|(name, entry)| got.get(*name) != Some(entry)) {
            anyhow::bail!(
                "{} was {entry:?}, came back as {:?}",
                name.display(),
                got.get(name)
            );
        }
        ensure!(
            sent.len() == got.len(),
            "{} entries became {}",
            sent.len(),
            got.len()
        );
        Ok((
            format!("a folder of {files} files, links, empty folders"),
            format!("identical; put took {extra}"),
        ))
    }

    /// Puts it; says how far the node's resident memory rose meanwhile above what it held before.
    fn put(&self, path: &Path, split: &str) -> Result<String> {
        let before = self.node.memory("VmRSS")?;
        self.node.reset_peak()?;
        self.node.put(path, "trip", split)?;
        let extra = self.node.memory("VmHWM")?.saturating_sub(before);
        Ok(format!("{} more memory at its peak", bytes(extra)))
    }

    fn get(&self) -> Result<PathBuf> {
        let back = self.folder.join("back");
        let target = back.to_str().context("a path that is not UTF-8")?;
        output(self.node.nearfield().args(["get", "trip", "-o", target]))?;
        Ok(back)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Entry {
    Folder,
    Link(PathBuf),
    File { digest: String, executable: bool },
}

/// All below a folder, by its path there.
fn entries(folder: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut entries = BTreeMap::new();
    for entry in WalkDir::new(folder).min_depth(1) {
        let entry = entry?;
        let kind = entry.file_type();
        let what = if kind.is_dir() {
            Entry::Folder
        } else if kind.is_symlink() {
            Entry::Link(fs::read_link(entry.path())?)
        } else {
            Entry::File {
                digest: digest(entry.path())?,
                executable: entry.metadata()?.permissions().mode() & 0o100 != 0,
            }
        };
        entries.insert(entry.path().strip_prefix(folder)?.to_owned(), what);
    }
    Ok(entries)
}

fn gzip(from: &Path, to: &Path) -> Result<()> {
    let mut encoder = flate2::write::GzEncoder::new(File::create(to)?, flate2::Compression::fast());
    io::copy(&mut File::open(from)?, &mut encoder)?;
    encoder.finish()?;
    Ok(())
}

fn zstd(from: &Path, to: &Path) -> Result<()> {
    zstd::stream::copy_encode(File::open(from)?, File::create(to)?, 1)?;
    Ok(())
}
