//! `stats` over a large CSV against the same figures computed here, in another way.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::flights::{BY, COLUMNS, LEAST_ROWS, flights};
use super::rig::{self, Rig, put};
use crate::report::{bytes, count};
use crate::soak::{Finding, Setting};

/// Rows of the part that is one shard: its floats come out to the last bit.
const SHARD_ROWS: usize = 10_000;
const CLOSE: f64 = 1e-12;
/// What the sketch promises, and the last bits.
const QUANTILE_CLOSE: f64 = 0.01 + 1e-9;

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let place = Rig::new(setting)?;
    place.deploy("stats", "limits = { fuel = 50_000_000_000 }")?;
    let (csv, origin) = flights(place.folder.path())?;
    let size = fs::metadata(&csv)?.len();
    let mut findings = Vec::new();

    let table = Table::read(&csv, usize::MAX)?;
    ensure!(table.rows >= LEAST_ROWS, "only {} rows", table.rows);
    for shard_size in if setting.quick {
        &["1MiB"][..]
    } else {
        &["64KiB", "4MiB"]
    } {
        let stored = put(&place.node, &csv, "flights", "csv", shard_size)?;
        for by in [Some(BY), None] {
            let rows = describe(&place, by)?;
            let (worst, worst_quantile) = table.compare(&rows, by.is_some(), Exactly::Close)?;
            findings.push((
                format!(
                    "stats of {}, {} rows, {}, {} shards{}",
                    origin,
                    count(table.rows),
                    bytes(size),
                    stored["shards"],
                    by.map(|by| format!(", by {by}")).unwrap_or_default()
                ),
                format!(
                    "{} rows as the reference: counts, least and most equal, mean and variance off by {worst:.1e}, \
                     quantiles by {:.2} %",
                    rows.len(),
                    worst_quantile * 100.0
                ),
            ));
        }
    }

    // Where there is one shard there is one order to add in.
    let part = Table::read(&csv, SHARD_ROWS)?;
    let part_csv = place.folder.path().join("part.csv");
    let text: Vec<String> = BufReader::new(File::open(&csv)?)
        .lines()
        .take(SHARD_ROWS + 1)
        .collect::<Result<_, _>>()?;
    fs::write(&part_csv, text.join("\n") + "\n")?;
    let stored = put(&place.node, &part_csv, "flights", "csv", "4MiB")?;
    ensure!(stored["shards"] == 1, "{stored}");
    let rows = describe(&place, Some(BY))?;
    part.compare(&rows, true, Exactly::Equal)?;
    findings.push((
        format!("its first {} rows, one shard", count(SHARD_ROWS as u64)),
        "every mean and variance equal to the last bit".to_owned(),
    ));
    place.node.stop()?;
    Ok(findings)
}

/// Runs the job and takes its result apart. Floats are read from their own text: a JSON reader may round.
fn describe(place: &Rig, by: Option<&str>) -> Result<Vec<Row>> {
    let columns = COLUMNS.map(|column| format!("\"{column}\"")).join(",");
    let by = by.map(|by| format!(",\"by\":\"{by}\"")).unwrap_or_default();
    let args = format!("{{\"columns\":[{columns}]{by}}}");
    let ended = rig::run(&place.node, &["stats", "--over", "flights", "--args", &args])?.done()?;
    let text = String::from_utf8(ended.output(&place.node)?)?;
    text.split('{').skip(1).map(Row::read).collect()
}

#[derive(Debug)]
struct Row {
    group: String,
    column: String,
    count: u64,
    mean: f64,
    min: f64,
    max: f64,
    variance: Option<f64>,
    quantiles: [f64; 3],
}

const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];

impl Row {
    fn read(text: &str) -> Result<Row> {
        let field = |name: &str| -> Option<&str> {
            let (_, value) = text.split_once(&format!("\"{name}\":"))?;
            Some(value[..value.find([',', '}'])?].trim_matches('"'))
        };
        let float = |name: &str| -> Result<f64> {
            let text = field(name).with_context(|| format!("no {name} in {text}"))?;
            Ok(text.parse()?)
        };
        Ok(Row {
            group: field("group").unwrap_or_default().to_owned(),
            column: field("column").context("no column")?.to_owned(),
            count: field("count").context("no count")?.parse()?,
            mean: float("mean")?,
            min: float("min")?,
            max: float("max")?,
            variance: float("variance").ok(),
            quantiles: [
                float(QUANTILES[0].0)?,
                float(QUANTILES[1].0)?,
                float(QUANTILES[2].0)?,
            ],
        })
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Exactly {
    /// By the plain formulas, in two passes.
    Close,
    /// By the same steps in the same order.
    Equal,
}

/// The numbers of each group and column, in the order of the rows.
struct Table {
    rows: u64,
    numbers: BTreeMap<(String, String), Vec<f64>>,
}

impl Table {
    fn read(csv: &Path, most: usize) -> Result<Table> {
        let mut lines = BufReader::new(File::open(csv)?).lines();
        let header = lines.next().context("an empty table")??;
        let header: Vec<&str> = header.split(',').collect();
        let place = |name: &str| header.iter().position(|column| *column == name);
        let by = place(BY).context("no column to group by")?;
        let columns: Vec<(&str, usize)> = COLUMNS
            .iter()
            .map(|name| Some((*name, place(name)?)))
            .collect::<Option<_>>()
            .context("a column is missing")?;
        let mut table = Table {
            rows: 0,
            numbers: BTreeMap::new(),
        };
        for line in lines.take(most) {
            let line = line?;
            ensure!(!line.contains('"'), "a quoted field: this reader knows none");
            let fields: Vec<&str> = line.split(',').collect();
            table.rows += 1;
            for (name, place) in &columns {
                if let Ok(number) = fields[*place].parse::<f64>() {
                    let group = (fields[by].to_owned(), (*name).to_owned());
                    table.numbers.entry(group).or_default().push(number);
                }
            }
        }
        Ok(table)
    }

    /// Compares with what the job said. Returns how far mean or variance are off at most, and quantiles.
    fn compare(&self, rows: &[Row], grouped: bool, exactly: Exactly) -> Result<(f64, f64)> {
        let mut expected: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
        for ((group, column), numbers) in &self.numbers {
            let group = if grouped { group.clone() } else { String::new() };
            expected
                .entry((group, column.clone()))
                .or_default()
                .extend(numbers);
        }
        ensure!(
            rows.len() == expected.len(),
            "{} rows, not {}",
            rows.len(),
            expected.len()
        );
        let (mut worst, mut worst_quantile) = (0.0_f64, 0.0_f64);
        for (row, ((group, column), mut numbers)) in rows.iter().zip(expected) {
            let (mean, squares) = match exactly {
                Exactly::Close => two_passes(&numbers),
                Exactly::Equal => welford(&numbers),
            };
            let variance = (numbers.len() > 1).then(|| squares / (numbers.len() - 1) as f64);
            numbers.sort_by(f64::total_cmp);
            ensure!(
                (&row.group, &row.column, row.count) == (&group, &column, numbers.len() as u64)
                    && Some(&row.min) == numbers.first()
                    && Some(&row.max) == numbers.last(),
                "{row:?} is not that of {group} {column}"
            );
            let mut off = apart(row.mean, mean);
            if let (Some(is), Some(should)) = (row.variance, variance) {
                off = off.max(apart(is, should));
            }
            ensure!(row.variance.is_some() == variance.is_some(), "{row:?}");
            ensure!(
                off == 0.0 || exactly == Exactly::Close && off <= CLOSE,
                "{row:?}: off by {off:e} from mean {mean}, variance {variance:?}"
            );
            worst = worst.max(off);
            for (is, (name, quantile)) in row.quantiles.iter().zip(QUANTILES) {
                let should = numbers[(quantile * (numbers.len() - 1) as f64) as usize];
                let off = apart(*is, should);
                ensure!(off <= QUANTILE_CLOSE, "{name} should be {should}: {row:?}");
                worst_quantile = worst_quantile.max(off);
            }
        }
        Ok((worst, worst_quantile))
    }
}

/// How far two numbers are from each other, as a part of the second.
fn apart(is: f64, should: f64) -> f64 {
    match is == should {
        true => 0.0,
        false => (is - should).abs() / should.abs(),
    }
}

/// Mean and sum of squared differences, each sum with what its additions lost (Neumaier's).
fn two_passes(numbers: &[f64]) -> (f64, f64) {
    let sum = |numbers: &mut dyn Iterator<Item = f64>| {
        let (mut sum, mut lost) = (0.0_f64, 0.0);
        for number in numbers {
            let next = sum + number;
            lost += match sum.abs() >= number.abs() {
                true => (sum - next) + number,
                false => (number - next) + sum,
            };
            sum = next;
        }
        sum + lost
    };
    let mean = sum(&mut numbers.iter().copied()) / numbers.len() as f64;
    let squares = sum(&mut numbers.iter().map(|number| (number - mean).powi(2)));
    (mean, squares)
}

/// The same, number by number.
fn welford(numbers: &[f64]) -> (f64, f64) {
    let (mut mean, mut squares) = (0.0, 0.0);
    for (index, number) in numbers.iter().enumerate() {
        let before = number - mean;
        mean += before / (index + 1) as f64;
        squares += before * (number - mean);
    }
    (mean, squares)
}
