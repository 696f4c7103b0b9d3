//! Server-sent events of the admin API: a name and one JSON value each.

use std::io::{BufRead, BufReader};

use anyhow::Result;
use ureq::Body;
use ureq::http::Response;

pub const CONTENT: &str = "text/event-stream";

/// Gives each event's name and data to `on`, until that has something to return; `None` if they end before.
pub fn follow<T>(
    response: Response<Body>,
    mut on: impl FnMut(&str, &str) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let mut name = String::new();
    for line in BufReader::new(response.into_body().into_reader()).lines() {
        let line = line?;
        if let Some(next) = line.strip_prefix("event: ") {
            name = next.to_owned();
        } else if let Some(data) = line.strip_prefix("data: ")
            && let Some(done) = on(&name, data)?
        {
            return Ok(Some(done));
        }
    }
    Ok(None)
}
