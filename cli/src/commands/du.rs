use anyhow::Result;
use nearfield_protocol::units::format_bytes;
use serde::Deserialize;

use super::Session;
use crate::output::{counted, table};

#[derive(Deserialize)]
struct Usage {
    store: Store,
    datasets: Vec<Dataset>,
    remembered: Remembered,
}

#[derive(Deserialize)]
struct Store {
    used_bytes: u64,
    max_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Dataset {
    name: String,
    versions: u64,
    size_bytes: u64,
    held_bytes: u64,
    own_bytes: u64,
}

#[derive(Deserialize)]
struct Remembered {
    results: u64,
    bytes: u64,
}

pub fn run(session: &Session) -> Result<()> {
    let usage = session.client.get("/v1/usage")?;
    session.out.show(&usage, |usage: Usage| {
        let row = |dataset: Dataset| {
            [
                dataset.name,
                dataset.versions.to_string(),
                format_bytes(dataset.size_bytes),
                format_bytes(dataset.held_bytes),
                format_bytes(dataset.own_bytes),
            ]
        };
        let datasets = table(
            [
                "dataset",
                "versions",
                "newest",
                "all versions",
                "held by it alone",
            ],
            usage.datasets.into_iter().map(row),
        );
        let of = match usage.store.max_bytes {
            Some(max_bytes) => format!(" of {}", format_bytes(max_bytes)),
            None => String::new(),
        };
        format!(
            "{datasets}\n{} remembered by jobs: {}\nused in all: {}{of}",
            counted(usage.remembered.results, "result"),
            format_bytes(usage.remembered.bytes),
            format_bytes(usage.store.used_bytes),
        )
    })
}
