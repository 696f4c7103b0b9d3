//! Describes the columns of a CSV dataset: `GET /stats`, or one of them with `?column=distance`. With variance and
//! quantiles, by groups, on all hosts at once: `nearfield run stats --over flights --args '{"by": "carrier"}'` (`job.rs`).

mod job;

pub use job::stats_by;

use nearfield::{Dataset, Error, Json, Request, RequestExt, Result};

#[derive(serde::Deserialize)]
struct Choice {
    column: Option<String>,
}

/// What is known of a column. Its numbers are described where it has any.
#[derive(Debug, PartialEq, serde::Serialize)]
struct Column {
    column: String,
    /// Fields that are not empty.
    count: u64,
    /// Fields that are finite numbers.
    numbers: u64,
    mean: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
}

/// Reads all shards once, and answers with a column or a list of them.
#[nearfield::http]
fn stats(request: Request) -> Result<Json<Vec<Column>>> {
    let Choice { column: wanted } = request.query()?;
    let mut totals: Vec<(String, Total)> = Vec::new();
    for shard in Dataset::open("table")?.shards() {
        let mut csv = shard?.csv()?;
        // Files may differ in the order of their columns, so each shard's are looked up by name.
        let mut places = Vec::new();
        for (field, name) in csv.headers()?.iter().enumerate() {
            if wanted.as_deref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            let known = totals.iter().position(|(known, _)| known == name);
            places.push((field, known.unwrap_or(totals.len())));
            if known.is_none() {
                totals.push((name.to_owned(), Total::default()));
            }
        }
        let mut record = nearfield::csv::StringRecord::new();
        while csv.read_record(&mut record)? {
            for &(field, place) in &places {
                totals[place].1.add(&record[field]);
            }
        }
    }
    match wanted {
        Some(wanted) if totals.is_empty() => Err(Error::not_found(format!("there is no column {wanted}"))),
        _ => Ok(Json(
            totals
                .into_iter()
                .map(|(column, total)| total.describe(column))
                .collect(),
        )),
    }
}

#[derive(Default)]
struct Total {
    count: u64,
    numbers: u64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Total {
    fn add(&mut self, field: &str) {
        let field = field.trim();
        self.count += u64::from(!field.is_empty());
        let Some(number) = field.parse::<f64>().ok().filter(|number| number.is_finite()) else {
            return;
        };
        (self.min, self.max) = match self.numbers {
            0 => (number, number),
            _ => (self.min.min(number), self.max.max(number)),
        };
        self.numbers += 1;
        self.sum += number;
    }

    fn describe(self, column: String) -> Column {
        let known = |value| (self.numbers > 0).then_some(value);
        let mean = known(self.sum / self.numbers as f64);
        let (min, max) = (known(self.min), known(self.max));
        Column {
            column,
            count: self.count,
            numbers: self.numbers,
            mean,
            min,
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    fn answer(query: &str) -> (u16, String) {
        // Cut after the header and a record: the second shard has no header of its own.
        let data = mock::Dataset::new("csv")
            .shard_bytes(12)
            .file("a.csv", "name,n\nab,1\ncd,\n\"e,f\",4\n")
            .file("b.csv", "n,name\n-2,x\n");
        let answer = mock::Host::new()
            .dataset("table", data)
            .run(|| mock::call(super::stats, mock::get(query)));
        (answer.status().as_u16(), answer.into_body())
    }

    #[test]
    fn every_column_is_described() {
        let names = r#"{"column":"name","count":4,"numbers":0,"mean":null,"min":null,"max":null}"#;
        let numbers = r#"{"column":"n","count":3,"numbers":3,"mean":1.0,"min":-2.0,"max":4.0}"#;
        assert_eq!(answer("/"), (200, format!("[{names},{numbers}]")));
        assert_eq!(answer("/?column=n"), (200, format!("[{numbers}]")));
    }

    #[test]
    fn an_unknown_column_is_told() {
        assert_eq!(answer("/?column=m").0, 404);
    }
}
