use anyhow::{Context, Result};
use nearfield_protocol::Digest;
use nearfield_protocol::call::CallReport;
use nearfield_protocol::units::{format_bytes, format_count};
use serde::Deserialize;

use super::Session;
use crate::client::segment;
use crate::output::utc;
use crate::visible::visible_line;

#[derive(Deserialize)]
struct Record {
    id: String,
    function: String,
    version: u64,
    component: Digest,
    host: Option<String>,
    started_unix_ms: u64,
    status: Option<u16>,
    placement: Placement,
    report: Option<CallReport>,
}

#[derive(Deserialize)]
struct Placement {
    chosen: Option<String>,
    candidates: Vec<Candidate>,
    local: u64,
    inputs: u64,
    moved_bytes: u64,
}

#[derive(Deserialize)]
struct Candidate {
    host: String,
    cost_ms: Option<f64>,
    reason: String,
}

pub fn run(session: &Session, id: &str) -> Result<()> {
    let record = session
        .client
        .get(format!("/v1/calls/{}", segment(id)))
        .with_context(|| format!("explaining call {id}"))?;
    session.out.show(&record, |record: Record| text(&record))
}

/// What ran, how it ended, why there, what it cost and where the time went.
fn text(record: &Record) -> String {
    let mut lines = vec![
        format!(
            "call {} of {} v{} ({:?})",
            visible_line(&record.id),
            visible_line(&record.function),
            record.version,
            record.component
        ),
        format!(
            "  started {} UTC, {}",
            utc(record.started_unix_ms),
            outcome(record)
        ),
        placement(record),
    ];
    for candidate in &record.placement.candidates {
        let chosen = record.placement.chosen.as_ref() == Some(&candidate.host);
        let mark = if chosen { "→" } else { " " };
        let cost = candidate
            .cost_ms
            .map(|ms| format!("{ms:.1} ms, "))
            .unwrap_or_default();
        lines.push(format!(
            "  {mark} {}: {cost}{}",
            short(&candidate.host),
            visible_line(&candidate.reason)
        ));
    }
    if let Some(report) = &record.report {
        lines.extend(costs(report));
    }
    lines.join("\n")
}

fn outcome(record: &Record) -> String {
    let status = record.status.map(|status| format!("answered {status}"));
    match &record.report {
        None => status.unwrap_or_else(|| "still running".to_owned()),
        Some(CallReport {
            problem: Some(problem),
            ..
        }) => format!("failed: {}", visible_line(&problem.to_string())),
        Some(CallReport { cancelled: true, .. }) => "the client left before its end".to_owned(),
        Some(_) => status.unwrap_or_else(|| "ended".to_owned()),
    }
}

fn placement(record: &Record) -> String {
    let Placement {
        chosen,
        local,
        inputs,
        moved_bytes,
        ..
    } = &record.placement;
    let host = chosen
        .as_deref()
        .or(record.host.as_deref())
        .map_or("no host".to_owned(), short);
    let data = match inputs {
        0 => "it reads no dataset".to_owned(),
        _ => format!(
            "{local} of {inputs} inputs local, {} moved",
            format_bytes(*moved_bytes)
        ),
    };
    format!("  ran on {host}: {data}")
}

fn costs(report: &CallReport) -> Vec<String> {
    let stages = &report.stages;
    let ms = |us: u64| us as f64 / 1000.0;
    let warmth = if report.cold {
        "compiled or read from disk"
    } else {
        "already loaded"
    };
    let mut lines = vec![
        format!(
            "  fuel {}, memory grown {}, outgoing requests {}",
            format_count(report.fuel),
            format_bytes(report.pages_grown.saturating_mul(64 << 10)),
            report.outgoing_requests,
        ),
        format!(
            "  bytes: request {}, response {}, data {}",
            format_bytes(report.request_bytes),
            format_bytes(report.response_bytes),
            format_bytes(report.data_bytes),
        ),
        format!(
            "  time: queue {:.2} ms, load {:.2} ms ({warmth}), run {:.2} ms",
            ms(stages.queue_us),
            ms(stages.load_us),
            ms(stages.run_us),
        ),
    ];
    lines.extend(report.gpu.as_ref().map(|usage| {
        format!(
            "  gpu: {:.3} ms in {} dispatches, compile {:.2} ms, up {}, down {}; {} of {} shards were in its memory",
            usage.gpu_ns as f64 / 1e6,
            usage.dispatches,
            ms(usage.compile_us),
            format_bytes(usage.uploaded_bytes),
            format_bytes(usage.downloaded_bytes),
            usage.resident_hits,
            usage.resident_hits.saturating_add(usage.resident_misses),
        )
    }));
    lines
}

/// Node ids as everywhere else: their first ten digits.
fn short(id: &str) -> String {
    let first: String = id.chars().take(10).collect();
    visible_line(&first).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_reads_as_text() {
        let record = json!({
            "id": "0f", "function": "grep", "version": 2, "component": Digest::EMPTY, "host": "aaaa",
            "started_unix_ms": 0, "status": 200,
            "placement": {
                "chosen": "aaaa", "local": 1, "inputs": 1, "moved_bytes": 0,
                "candidates": [
                    { "host": "aaaa", "cost_ms": 0.5, "reason": "holds logs" },
                    { "host": "bbbb", "cost_ms": null, "reason": "full" },
                ],
            },
            "report": {
                "fuel": 1200, "problem": null, "cancelled": false, "request_bytes": 0, "response_bytes": 10,
                "data_bytes": 4096, "pages_grown": 1, "outgoing_requests": 0, "cold": false,
                "stages": { "queue_us": 10, "load_us": 0, "run_us": 1500 },
            },
        });
        let text = text(&serde_json::from_value(record).unwrap());
        for part in [
            "call 0f of grep v2",
            "answered 200",
            "ran on aaaa: 1 of 1 inputs local, 0 B moved",
            "→ aaaa: 0.5 ms, holds logs",
            "  bbbb: full",
            "fuel 1.2 K",
            "memory grown 64.0 KiB",
            "run 1.50 ms",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn any_number_that_a_host_says_has_its_line() {
        let report: CallReport = serde_json::from_value(json!({
            "fuel": u64::MAX, "problem": null, "cancelled": false, "request_bytes": 0, "response_bytes": 0,
            "data_bytes": u64::MAX, "pages_grown": u64::MAX, "outgoing_requests": 0, "cold": false,
            "stages": { "queue_us": u64::MAX, "load_us": 0, "run_us": u64::MAX },
            "gpu": {
                "gpu_ns": u64::MAX, "compile_us": u64::MAX, "dispatches": u64::MAX, "uploaded_bytes": u64::MAX,
                "downloaded_bytes": u64::MAX, "resident_hits": u64::MAX, "resident_misses": 1,
            },
        }))
        .unwrap();
        let text = costs(&report).join("\n");
        for part in [
            format!("memory grown {}", format_bytes(u64::MAX)),
            format!("{0} of {0} shards", u64::MAX),
        ] {
            assert!(text.contains(&part), "{part} in\n{text}");
        }
    }
}
