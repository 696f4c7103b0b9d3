//! What a job came to, and why it failed.

use std::time::Duration;

use nearfield_protocol::{Digest, Problem};

use super::restart::{End, Leave, MAX_LISTED_FAILURES};
use super::state::{Engine, Phase};
use crate::plan::Leaf;
use crate::record::{JobRecord, JobReport, JobState, Prediction, Selection, ShardFailure};

impl Engine {
    /// The job has ended well.
    pub(super) fn end(&mut self, now: Duration) {
        let mut failures = self.sorted_failures();
        let failed = failures.len() as u64;
        failures.truncate(MAX_LISTED_FAILURES);
        let (output, spent) = (self.output, &self.spent);
        let report = JobReport {
            output_key: output.map(|output| output.key),
            digest: output.map_or(Digest::of(b"null"), |output| output.output),
            output_bytes: output.map_or(4, |output| output.output_bytes),
            shards: self.progress.shards,
            remembered: self.progress.remembered,
            fuel: output.map_or(0, |output| output.total_fuel),
            fuel_spent: spent.fuel,
            bytes_read: spent.bytes_read,
            shard_bytes_moved: spent.moved_bytes,
            partial_bytes_moved: self.partial_bytes_moved,
            seconds: now.as_secs_f64(),
            hosts: self.sites.used() as u64,
            predicted: self.predict(),
            failed,
            failures,
            checked: self.checked,
            quarantined: self.quarantined.clone(),
            into: self.into.clone(),
        };
        self.phase = Phase::Ended(JobState::Done(Box::new(report)));
    }

    /// What the whole dataset would take, by these of its shards.
    fn predict(&self) -> Option<Prediction> {
        if self.input.record.selection != Selection::DryRun || self.leaves.is_empty() {
            return None;
        }
        let (shards, spent) = (&self.input.shards, &self.spent);
        let sampled: u64 = self.leaves.iter().map(|leaf| leaf.size_bytes).sum();
        let scale = shards.all_bytes as f64 / sampled.max(1) as f64;
        Some(Prediction {
            shards: shards.all,
            bytes: shards.all_bytes,
            fuel: (spent.all_fuel as f64 * scale) as u64,
            // Of what was remembered the time is not known: it goes by the fuel of what ran.
            seconds: (spent.fuel > 0).then(|| {
                let all_us = spent.run_us as f64 * spent.all_fuel as f64 / spent.fuel as f64;
                all_us / 1e6 * scale / self.input.workers as f64
            }),
        })
    }
}

pub(super) fn shard_failure(leaf: &Leaf, problem: Problem) -> ShardFailure {
    ShardFailure {
        shard: leaf.index,
        digest: leaf.shard,
        source: leaf.source.as_deref().map(str::to_owned),
        problem,
    }
}

pub(super) fn too_many(mut failures: Vec<ShardFailure>, record: &JobRecord) -> Leave {
    let first = &failures[0];
    let from = first
        .source
        .as_ref()
        .map(|source| format!(" of {source}"))
        .unwrap_or_default();
    let what = match record.skip {
        0 => format!("shard {}{from} failed: {}", first.shard, first.problem.detail),
        skip => format!(
            "{} shards failed, {skip} may; the first is shard {}{from}: {}",
            failures.len(),
            first.shard,
            first.problem.detail
        ),
    };
    let problem = Problem {
        kind: first.problem.kind,
        detail: format!(
            "{what}; look into it with `nearfield replay {} --shard {}`",
            record.id, first.shard
        ),
        limit: first.problem.limit.clone(),
    };
    failures.truncate(MAX_LISTED_FAILURES);
    Leave::End(Box::new(End { problem, failures }))
}
