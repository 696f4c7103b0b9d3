//! Data that changes: a job over its next version costs what changed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::Node;
use nearfield_testkit::cleanup::Folder;
use redb::{ReadableDatabase, ReadableTableMetadata, TableHandle};
use walkdir::WalkDir;

use super::rig::{self, Ended, deploy, put};
use crate::report::{bytes, count};
use crate::soak::{Finding, Setting};
use crate::sources;

/// What this is worth showing on, and what a quick run looks at.
const SOURCES_BYTES: u64 = 500 << 20;
const QUICK_BYTES: u64 = 16 << 20;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let folder = Folder::new("jobs")?;
    let (data, crates) = (folder.path().join("data"), folder.path().join("crates"));
    sources::write(&crates, if setting.quick { QUICK_BYTES } else { SOURCES_BYTES })?;
    let shard_size = if setting.quick { "256KiB" } else { "4MiB" };
    let mut node = Node::start(&setting.nearfield, &data)?;
    deploy(
        setting,
        &node,
        folder.path(),
        "audit",
        "limits = { fuel = 50_000_000_000 }",
    )?;
    // Compiled before anything is timed, by a job with another key.
    put(&node, &crates, "crates", "files", shard_size)?;
    rig::run(
        &node,
        &[
            "audit",
            "--over",
            "crates",
            "--args",
            r#"{"top":1}"#,
            "--only",
            "0",
        ],
    )?;

    let mut findings = Vec::new();
    let mut first: Option<(Ended, u64)> = None;
    for step in [Step::First, Step::Again, Step::Append, Step::Edit] {
        let changed = step.change(&crates)?;
        let stored = put(&node, &crates, "crates", "files", shard_size)?;
        let size = rig::number(&stored, "bytes")?;
        let (before, restarted) = remembered(node, setting, &data)?;
        let ended = rig::run(&restarted, &["audit", "--over", "crates"])?.done()?;
        let (after, restarted) = remembered(restarted, setting, &data)?;
        node = restarted;
        // The finish is remembered, too.
        let reduces = (after - before).saturating_sub(ended.ran()? + 1);
        findings.push(match &first {
            None => (
                format!("audit over {} in {} shards", bytes(size), ended.number("shards")?),
                format!("{:.2} s; {reduces} reductions", ended.seconds()?),
            ),
            Some(first) => step.judge(setting, first, &ended, reduces, changed)?,
        });
        first.get_or_insert((ended, reduces));
    }
    node.stop()?;
    Ok(findings)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    First,
    Again,
    /// A crate more, behind all others.
    Append,
    /// Other content in files that follow each other, 1 % of all bytes.
    Edit,
}

impl Step {
    /// Changes the data; returns the bytes that differ.
    fn change(self, crates: &Path) -> Result<u64> {
        match self {
            Step::First | Step::Again => Ok(0),
            Step::Append => {
                let source = crates.join("zzz-1.0.0/src");
                fs::create_dir_all(&source)?;
                let code = "fn main() { unsafe { f().unwrap() } }\n".repeat(1_000);
                fs::write(source.join("main.rs"), &code)?;
                Ok(code.len() as u64)
            }
            Step::Edit => edit(crates),
        }
    }

    fn judge(
        self,
        setting: &Setting,
        (first, all_reduces): &(Ended, u64),
        ended: &Ended,
        reduces: u64,
        changed: u64,
    ) -> Result<Finding> {
        let part = |now: f64, then: f64| now / then * 100.0;
        let took = part(ended.seconds()?, first.seconds()?);
        let fuel = part(
            ended.number("fuel_spent")? as f64,
            first.number("fuel_spent")? as f64,
        );
        let (ran, shards) = (ended.ran()?, ended.number("shards")?);
        let told = format!(
            "{took:.2} % of the first run's time, {fuel:.2} % of its fuel; {ran} of {} shards, {reduces} of \
             {all_reduces} reductions ran",
            count(shards)
        );
        let most = match self {
            Step::First | Step::Again => 1.0,
            Step::Append | Step::Edit => 5.0,
        };
        // A quick run's first job takes hardly longer than asking for one.
        ensure!(setting.quick || took < most, "{self:?} took {told}");
        ensure!(setting.quick || fuel < most, "{self:?} took {told}");
        let (most_shards, what) = match self {
            Step::First | Step::Again => (0, "again".to_owned()),
            // The last pack grows or ends.
            Step::Append => (2, format!("after {} appended", bytes(changed))),
            // A part of 1 %, and the packs at its ends.
            Step::Edit => (
                shards / 40 + 3,
                format!("after a change of {} in one place", bytes(changed)),
            ),
        };
        ensure!(ran <= most_shards, "{self:?}: {told}");
        // Above neighbours stands one path to the root; their groups may end anew on its way.
        let levels = u64::from((shards.max(2) - 1).ilog(8)) + 1;
        let most_reduces = if ran == 0 { 0 } else { 2 * levels + ran / 4 + 1 };
        ensure!(reduces <= most_reduces, "{self:?}: {told}");
        Ok((what, told))
    }
}

/// The number of remembered results, read from the database of a node that is stopped for it and started again.
fn remembered(node: Node, setting: &Setting, data: &Path) -> Result<(u64, Node)> {
    node.stop()?;
    let rows = {
        let database = redb::Database::open(data.join("remembered.redb"))?;
        let read = database.begin_read()?;
        let tables: Vec<_> = read.list_tables()?.collect();
        let rows = tables.into_iter().find(|table| table.name() == "rows");
        read.open_untyped_table(rows.context("no results in remembered.redb")?)?
            .len()?
    };
    Ok((rows, Node::start(&setting.nearfield, data)?))
}

/// Writes files anew whose paths follow each other, from the middle, until these are 1 % of all bytes.
fn edit(crates: &Path) -> Result<u64> {
    // Sorted as a put sorts them: by the whole path.
    let mut files = Vec::new();
    for entry in WalkDir::new(crates) {
        let entry = entry?;
        if entry.file_type().is_file() {
            files.push((entry.path().to_owned(), entry.metadata()?.len()));
        }
    }
    files.sort();
    let all: u64 = files.iter().map(|(_, size)| size).sum();
    let (mut passed, mut changed) = (0, 0);
    for (path, size) in files {
        passed += size;
        if passed > all / 2 && changed < all / 100 {
            let mut content = fs::read(&path)?;
            // Lines stay as long as they were.
            content
                .iter_mut()
                .filter(|byte| **byte == b'e')
                .for_each(|byte| *byte = b'a');
            fs::write(&path, content)?;
            changed += size;
        }
    }
    Ok(changed)
}
