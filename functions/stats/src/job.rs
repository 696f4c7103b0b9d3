//! The same as a job, with more to tell: `{"columns": ["distance"], "by": "carrier"}`.
//!
//! Of every column that is asked for, or of all, and for every value of the column `by`, where there is one: count, mean,
//! minimum, maximum, variance (of the sample) and the quantiles 0.5, 0.9 and 0.99 of the finite numbers in it. Means and
//! variances of shards are put together as Chan, Golub and LeVeque do; quantiles are those of a DDSketch, no more than
//! 1 % off. Columns without a number are left out.

use std::collections::BTreeMap;

use nearfield::csv::StringRecord;
use nearfield::{Error, Result, Shard};
use sketches_ddsketch::{Config, DDSketch};

#[derive(serde::Deserialize)]
pub struct Args {
    /// All columns unless given.
    columns: Option<Vec<String>>,
    /// The column whose values make the groups; one group unless given.
    by: Option<String>,
}

/// By group, then by column.
pub type Groups = BTreeMap<String, BTreeMap<String, Summary>>;

/// How many groups there may be: a part holds them all, and a column that has more is hardly one to group by.
const GROUPS: usize = 10_000;

/// The numbers of a column in a group.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct Summary {
    count: u64,
    mean: f64,
    /// The sum of the squares of the differences from the mean.
    squares: f64,
    min: f64,
    max: f64,
    sketch: DDSketch,
}

#[derive(serde::Serialize)]
struct Row {
    /// Absent without `by`.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    column: String,
    count: u64,
    mean: f64,
    min: f64,
    max: f64,
    /// Nothing for a single number.
    variance: Option<f64>,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
}

/// Describes a shard.
#[nearfield::map]
pub fn stats_by(shard: Shard, Args { columns, by }: Args) -> Result<Groups> {
    let mut csv = shard.csv()?;
    let headers = csv.headers()?.clone();
    let place = |name: &str| {
        let found = headers.iter().position(|header| header == name);
        found.ok_or_else(|| Error::not_found(format!("there is no column {name}")))
    };
    let by = by.as_deref().map(place).transpose()?;
    let places: Vec<usize> = match &columns {
        Some(names) => names.iter().map(|name| place(name)).collect::<Result<_>>()?,
        None => (0..headers.len()).filter(|&column| Some(column) != by).collect(),
    };

    // One summary for each place, in the order of `places`.
    let mut groups: BTreeMap<String, Vec<Summary>> = BTreeMap::new();
    let mut record = StringRecord::new();
    while csv.read_record(&mut record)? {
        let name = by.map_or("", |by| &record[by]);
        if !groups.contains_key(name) {
            let summaries = places.iter().map(|_| Summary::new()).collect();
            groups.insert(name.to_owned(), summaries);
            bounded(groups.len())?;
        }
        let Some(summaries) = groups.get_mut(name) else {
            continue;
        };
        for (&place, summary) in places.iter().zip(summaries) {
            if let Some(number) = record[place]
                .trim()
                .parse::<f64>()
                .ok()
                .filter(|number| number.is_finite())
            {
                summary.add(number);
            }
        }
    }

    let named = |summaries: Vec<Summary>| {
        let columns = places.iter().map(|&place| headers[place].to_owned());
        columns
            .zip(summaries)
            .filter(|(_, summary)| summary.count > 0)
            .collect()
    };
    Ok(groups
        .into_iter()
        .map(|(name, summaries)| (name, named(summaries)))
        .collect())
}

#[nearfield::reduce]
fn merge(mut all: Groups, more: Groups) -> Result<Groups> {
    for (name, columns) in more {
        let group = all.entry(name).or_default();
        for (column, summary) in columns {
            group.entry(column).or_insert_with(Summary::new).merge(&summary)?;
        }
    }
    bounded(all.len())?;
    Ok(all)
}

#[nearfield::finish]
fn rows(groups: Groups, Args { by, .. }: Args) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, columns) in groups {
        for (column, summary) in columns {
            rows.push(Row {
                group: by.is_some().then(|| name.clone()),
                column,
                count: summary.count,
                mean: summary.mean,
                min: summary.min,
                max: summary.max,
                variance: (summary.count > 1).then(|| summary.squares / (summary.count - 1) as f64),
                p50: summary.sketch.quantile(0.5)?,
                p90: summary.sketch.quantile(0.9)?,
                p99: summary.sketch.quantile(0.99)?,
            });
        }
    }
    Ok(rows)
}

fn bounded(groups: usize) -> Result<()> {
    match groups {
        0..=GROUPS => Ok(()),
        _ => Err(Error::bad_request(format!(
            "`by` makes more than {GROUPS} groups"
        ))),
    }
}

impl Summary {
    fn new() -> Self {
        Self {
            count: 0,
            mean: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sketch: DDSketch::new(Config::defaults()),
        }
    }

    /// Welford's step.
    fn add(&mut self, number: f64) {
        self.count += 1;
        let before = number - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (number - self.mean);
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.sketch.add(number);
    }

    /// Chan's: the mean moves by the other's share, and what the two means differ by is spread on top.
    fn merge(&mut self, other: &Self) -> Result<()> {
        let (one, two) = (self.count as f64, other.count as f64);
        let between = other.mean - self.mean;
        self.count += other.count;
        if self.count > 0 {
            self.mean += between * two / (one + two);
            self.squares += other.squares + between * between * one * two / (one + two);
        }
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sketch.merge(&other.sketch)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nearfield::mock;
    use serde_json::{Value, json};

    fn run(data: mock::Dataset, args: Value) -> Result<Value, mock::Failed> {
        let done = mock::Host::new()
            .dataset("table", data)
            .job::<super::stats_by>("table", args)?;
        Ok(done.result)
    }

    /// Records of a group, a large number with a small spread, and a skewed one that is sometimes missing.
    fn records() -> Vec<(String, f64, Option<f64>)> {
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as f64 / f64::from(1u32 << 31)
        };
        let record = |number: usize| {
            let group = format!("g, {}", number % 3);
            let spread = 1e9 + random();
            let skewed = random().powi(4) * 1000.0 - 5.0;
            (group, spread, (!number.is_multiple_of(7)).then_some(skewed))
        };
        (0..5000).map(record).collect()
    }

    fn table(shard_bytes: u64) -> mock::Dataset {
        let mut text = String::from("group,spread,skewed,word\n");
        for (group, spread, skewed) in records() {
            let skewed = skewed.map_or(String::new(), |number| number.to_string());
            text += &format!("\"{group}\",{spread}, {skewed} ,word\n");
        }
        mock::Dataset::new("csv")
            .shard_bytes(shard_bytes)
            .file("t.csv", text)
    }

    /// The plain way: all numbers, sorted, in two passes.
    fn check(row: &Value, mut numbers: Vec<f64>) {
        numbers.sort_by(f64::total_cmp);
        let close = |name: &str, should: f64, tolerance: f64| {
            let is = row[name].as_f64().unwrap();
            assert!(
                (is - should).abs() <= tolerance * should.abs(),
                "{name}: {is} and not {should} in {row}"
            );
        };
        let count = numbers.len() as f64;
        let mean = numbers.iter().sum::<f64>() / count;
        let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / (count - 1.0);
        assert_eq!(row["count"], numbers.len());
        close("mean", mean, 1e-12);
        close("variance", variance, 1e-6);
        close("min", numbers[0], 1e-15);
        close("max", numbers[numbers.len() - 1], 1e-15);
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
            close(name, numbers[(quantile * (count - 1.0)) as usize], 0.0101);
        }
    }

    #[test]
    fn groups_are_described_as_the_plain_way_describes_them() {
        let args = json!({ "columns": ["skewed", "spread"], "by": "group" });
        for shard_bytes in [1, 5000, u64::MAX] {
            let rows = run(table(shard_bytes), args.clone()).unwrap();
            let rows = rows.as_array().unwrap();
            assert_eq!(rows.len(), 6);
            for (index, row) in rows.iter().enumerate() {
                let group = format!("g, {}", index / 2);
                let column = ["skewed", "spread"][index % 2];
                assert_eq!(
                    (row["group"].as_str(), row["column"].as_str()),
                    (Some(group.as_str()), Some(column))
                );
                let of_group = records().into_iter().filter(|(name, ..)| *name == group);
                check(
                    row,
                    match column {
                        "spread" => of_group.map(|(_, spread, _)| spread).collect(),
                        _ => of_group.filter_map(|(.., skewed)| skewed).collect(),
                    },
                );
            }
        }
    }

    #[test]
    fn without_arguments_all_columns_of_numbers_are_described() {
        let rows = run(table(3000), Value::Null).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 2);
        assert!(rows[0].get("group").is_none());
        check(
            &rows[0],
            records().into_iter().filter_map(|(.., skewed)| skewed).collect(),
        );
        check(
            &rows[1],
            records().into_iter().map(|(_, spread, _)| spread).collect(),
        );
    }

    #[test]
    fn one_number_has_no_variance() {
        let data = mock::Dataset::new("csv").file("t.csv", "n\n4\nnan\ninf\nx\n");
        let rows = run(data, Value::Null).unwrap();
        assert_eq!(
            (&rows[0]["count"], &rows[0]["variance"]),
            (&json!(1), &Value::Null)
        );
    }

    #[test]
    fn mistakes_are_told() {
        let message = |args| run(table(u64::MAX), args).unwrap_err().message;
        assert_eq!(message(json!({ "columns": ["no"] })), "there is no column no");
        assert_eq!(message(json!({ "by": "no" })), "there is no column no");
        let many: String = std::iter::once("n\n".to_owned())
            .chain((0..10_001).map(|n| format!("{n}\n")))
            .collect();
        let data = mock::Dataset::new("csv").shard_bytes(10_000).file("t.csv", many);
        assert!(
            run(data, json!({ "by": "n" }))
                .unwrap_err()
                .message
                .contains("10000 groups")
        );
    }
}
