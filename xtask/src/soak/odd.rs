//! Files that are not what they seem, through the store (`store/src/odd`), and tables as other readers of CSV read them.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::Folder;
use serde_json::Value;

use super::{Finding, Setting};
use crate::bench::peers;
use crate::workspace::{self, root};

/// Cases of each of the five properties of the whole store, and of those of its parts: 100,000 and more.
const CASES: u32 = 20_000;
const QUICK_CASES: u32 = 500;
/// Where a put need not wait for a disk: what is durable is another soak's to show.
const MEMORY: &str = "/dev/shm";

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let cases = if setting.quick { QUICK_CASES } else { CASES };
    let folder = Folder::new("odd")?;
    let tables = folder.path().join("tables");
    fs::create_dir(&tables)?;
    let mut tests = workspace::cargo();
    // All of them, or their dependencies would be built anew with other features.
    tests
        .args(["test", "--quiet", "--workspace", "--bins", "--tests", "odd::"])
        .env("PROPTEST_CASES", cases.to_string())
        .env("NEARFIELD_ODD_TABLES", &tables);
    if Path::new(MEMORY).is_dir() {
        tests.env("TMPDIR", MEMORY);
    }
    workspace::run(&mut tests)?;
    Ok(vec![
        (
            format!("{cases} odd files each put, appended, in place, in folders, and as many tables by key"),
            "the bytes come back, or an error names the file".to_owned(),
        ),
        read_by_others(&tables)?,
    ])
}

/// Each table, read by Python's csv and by DuckDB, has the records that its shards have.
fn read_by_others(tables: &Path) -> Result<Finding> {
    let what = "the same tables and their shards, read by others".to_owned();
    if !workspace::has("python3") {
        return Ok((what, "left out: there is no python3".to_owned()));
    }
    let mut reader = Command::new("python3");
    reader.arg(root().join("benches/odd/read_tables.py")).arg(tables);
    let duckdb = peers::python(&["duckdb"]);
    if let Some(path) = &duckdb {
        reader.env("PYTHONPATH", path);
    }
    let told: Value = serde_json::from_slice(&workspace::output(&mut reader)?)?;
    let number = |field: &str| told[field].as_u64().with_context(|| format!("`{field}`: {told}"));
    let differ = told["differ"].as_array().context("`differ`")?;
    ensure!(differ.is_empty(), "others read other records in {differ:?}");
    ensure!(number("tables")? > 0, "there were no tables to read");
    let duckdb = match (duckdb, number("duckdb")?) {
        (Some(_), read) => format!("DuckDB, {read}, which refuses the rest"),
        (None, _) => "no DuckDB by pip".to_owned(),
    };
    Ok((
        what,
        format!(
            "the same records: Python's csv, {} tables; {duckdb}",
            number("tables")?
        ),
    ))
}
