//! A simulated job: the product's own engine, over hosts that crash, lag, forget, lie and lose files. A map comes to its
//! blob's number and a reduction to the sum of its parts, so what a job must come to is known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::job::{
    Made, PureFailure, PureLimits, PureReport, PureSpec, ResultKey, Signature, Work, digest_of_parts,
};
use nearfield_protocol::node::NodeRecord;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};
use serde_json::json;

use super::world::{Event, Lie, Millis, World};
use crate::engine::{Action, Engine, Event as Came, Input, Ticket, View};
use crate::plan::{Shard, Shards};
use crate::record::{JobRecord, JobReport, JobState, Selection, WrittenDataset};

/// Fuel of any run.
const FUEL: u64 = 7;
/// How long a call takes to fail that does not reach its host.
const UNREACHABLE: std::ops::Range<u64> = 50..900;

/// What a host remembers of a run.
#[derive(Debug, Clone, Copy)]
pub struct Remembered {
    value: u64,
    report: PureReport,
    /// It has the files that the run wrote.
    pub files: bool,
}

/// A job over all blobs without a rule.
pub struct Job {
    engine: Engine,
    pub number: u64,
    /// The gateway that runs it.
    gateway: usize,
    started: Millis,
    /// What hosts were asked for: which one, as it was started how often, and what.
    asked: BTreeMap<Ticket, (usize, u64, Action)>,
    /// Results on their way from one host to another.
    taken: BTreeMap<Ticket, (u64, PureReport)>,
    /// Blobs by their digests.
    blobs: BTreeMap<Digest, u64>,
    looks_at: Option<Millis>,
    writes: bool,
    mutation: Option<Mutation>,
    /// Runs that came to nothing.
    failed: BTreeSet<ResultKey>,
}

/// A fault of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// It believes whatever a host says that another made.
    BelievesEveryWord,
    /// It never asks again for a run that came to nothing.
    DropsRetries,
}

/// Whether a simulated host signed this. Nobody forges another's signature, but anybody may give a wrong one.
fn vouches(by: &NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    sign(by, message).0 == *signature
}

fn sign(by: &NodeId, message: &[u8]) -> Signature {
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(Digest::of(&[by.as_bytes(), message].concat()).as_bytes());
    Signature(signature)
}

impl Job {
    pub fn new(world: &mut World, number: u64, gateway: usize, mutation: Option<Mutation>) -> Job {
        let plain = (0..world.blobs.len()).filter(|&blob| world.blobs[blob].only.is_empty());
        let plain: Vec<usize> = plain.collect();
        let writes = world.draw.chance(300);
        let lies = world.hosts.iter().any(|host| host.lies.is_some());
        let shard = |(index, blob): (usize, &usize)| Shard {
            index: index as u32,
            digest: world.blobs[*blob].digest,
            size_bytes: world.blobs[*blob].size_bytes,
            header: Arc::default(),
            source: None,
        };
        let shards = Shards {
            dataset: Digest::of(b"all"),
            format: "files".to_owned(),
            chosen: plain.iter().enumerate().map(shard).collect(),
            all: plain.len() as u64,
            all_bytes: 1,
        };
        let blobs = plain.iter().map(|blob| (world.blobs[*blob].digest, *blob as u64));
        let input = Input {
            record: Arc::new(record(number, lies.then_some(1.0), writes)),
            shards,
            workers: 2,
            vouches: match mutation {
                Some(Mutation::BelievesEveryWord) => |_, _, _| true,
                _ => vouches,
            },
            seed: number,
        };
        let view = View {
            table: &world.gateways[gateway].table,
            records: &world.records,
        };
        Job {
            engine: Engine::new(input, view),
            number,
            gateway,
            started: world.now,
            asked: BTreeMap::new(),
            taken: BTreeMap::new(),
            blobs: blobs.collect(),
            looks_at: None,
            writes,
            mutation,
            failed: BTreeSet::new(),
        }
    }

    /// Whether a report has the output of honest hosts. It may have another one where a host computes something wrong and no
    /// other host was there to check that: then the report says so.
    pub fn check(&self, report: &JobReport, world: &World) -> bool {
        let sum: u64 = self.blobs.values().sum();
        let right = report.digest == Digest::of(&sum.to_le_bytes());
        let computes = world.hosts.iter().any(|host| host.lies == Some(Lie::Computes));
        let unchecked = report.checked.is_some_and(|checked| checked.unchecked > 0);
        assert!(
            right || (computes && unchecked),
            "a shard was lost, or counted twice, or a lie believed"
        );
        assert_eq!(report.fuel % FUEL, 0);
        assert_eq!(report.shards, self.blobs.len() as u64);
        let progress = self.engine.progress();
        assert_eq!(
            (progress.done, progress.failed),
            (report.shards, 0),
            "all is done"
        );
        assert_eq!(report.into.is_some(), self.writes);
        right
    }

    /// What it waits for, for whoever looks why it never ends.
    pub fn state(&self) -> String {
        let waits: Vec<_> = self
            .asked
            .values()
            .map(|(host, _, action)| (host, action))
            .collect();
        format!(
            "{:?}, waits for {waits:?}, wakes at {:?}",
            self.engine.progress(),
            self.engine.wakes_at()
        )
    }

    fn now(&self, world: &World) -> Duration {
        Duration::from_millis(world.now - self.started)
    }

    /// Does what the engine asks for. What became of the job, once it has ended.
    pub fn go_on(&mut self, world: &mut World) -> Option<JobState> {
        loop {
            let now = self.now(world);
            let view = View {
                table: &world.gateways[self.gateway].table,
                records: &world.records,
            };
            let actions = self.engine.next(view, now);
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.begin(action, world);
            }
        }
        if let Some(ended) = self.engine.ended() {
            return Some(ended.clone());
        }
        let wakes_at = self.engine.wakes_at();
        assert!(
            wakes_at.is_some() || !self.asked.is_empty(),
            "a job waits for nothing and has not ended"
        );
        if let Some(at) = wakes_at {
            let at = self.started + at.as_millis() as u64 + 1;
            if self.looks_at.is_none_or(|looks| looks > at || looks <= world.now) {
                self.looks_at = Some(at);
                world.after(at.saturating_sub(world.now), Event::Look);
            }
        }
        None
    }

    fn begin(&mut self, action: Action, world: &mut World) {
        if let (Some(Mutation::DropsRetries), Action::Run { spec, .. }) = (self.mutation, &action)
            && self.failed.contains(&spec.key())
        {
            return;
        }
        let (ticket, host) = match &action {
            Action::Missed(host) => return world.gateways[self.gateway].table.missed(host),
            Action::Stop(ticket) => {
                self.taken.remove(ticket);
                self.asked.remove(ticket);
                return;
            }
            Action::Recall { ticket, host, .. }
            | Action::Run { ticket, host, .. }
            | Action::Replay { ticket, host, .. }
            | Action::Take { ticket, host, .. }
            | Action::Give { ticket, host }
            | Action::Files { ticket, host, .. }
            | Action::Quarantine { ticket, host, .. } => (*ticket, world.number(host)),
            Action::Put { ticket, .. } => (*ticket, 0),
        };
        let mut takes = world.latency(host);
        let by_itself = matches!(action, Action::Put { .. } | Action::Quarantine { .. });
        if !by_itself && !world.reaches(self.gateway, host) {
            takes = world.draw.within(UNREACHABLE);
        } else if matches!(action, Action::Run { .. } | Action::Replay { .. }) {
            takes += world.draw.within(5..60) * if world.hosts[host].slow { 20 } else { 1 };
        }
        let boots = world.hosts[host].boots;
        self.asked.insert(ticket, (host, boots, action));
        world.after(
            takes,
            Event::Did {
                job: self.number,
                ticket,
            },
        );
    }

    /// What was asked for with this ticket is done, or came to nothing.
    pub fn did(&mut self, job: u64, ticket: Ticket, world: &mut World) {
        if job != self.number {
            return;
        }
        let Some((host, boots, action)) = self.asked.remove(&ticket) else {
            return;
        };
        let reached = world.reaches(self.gateway, host) && world.hosts[host].boots == boots;
        let came = match reached {
            true => self.come(ticket, host, action, world),
            false => {
                if let Action::Run { spec, .. } = &action {
                    self.failed.insert(spec.key());
                }
                self.come_to_nothing(action, world, host)
            }
        };
        let now = self.now(world);
        let view = View {
            table: &world.gateways[self.gateway].table,
            records: &world.records,
        };
        self.engine.on(ticket, came, view, now);
    }

    fn come_to_nothing(&self, action: Action, world: &mut World, host: usize) -> Came {
        let kind = match world.draw.chance(500) {
            true => ProblemKind::HostUnreachable,
            false => ProblemKind::HostLost,
        };
        let problem = Problem::new(kind, "simulated");
        match action {
            Action::Recall { .. } => Came::Recalled(Err(problem)),
            Action::Run { .. } => Came::Ran(Err(problem.into())),
            Action::Replay { .. } => Came::Replayed(Err(problem)),
            Action::Take { .. } => Came::Taken(Err(problem)),
            Action::Give { .. } => Came::Given(Err(problem)),
            Action::Files { .. } => Came::Files(Err(problem)),
            // These need no host.
            Action::Put { keys, .. } => self.written(&keys),
            Action::Quarantine { .. } => quarantined(world, host),
            Action::Missed(_) | Action::Stop(_) => unreachable!("nothing is asked for"),
        }
    }

    fn come(&mut self, ticket: Ticket, host: usize, action: Action, world: &mut World) -> Came {
        match action {
            Action::Recall { keys, .. } => {
                let forges = world.hosts[host].lies == Some(Lie::Forges);
                let mut answer = Vec::with_capacity(keys.len());
                for key in keys.iter() {
                    let found = world.hosts[host].results.get(key).copied();
                    let forged = forges && world.draw.chance(100);
                    let found = found.map(|found| if forged { forge(found, world) } else { found });
                    answer.push(found.map(|found| PureReport {
                        remembered: true,
                        ..found.report
                    }));
                }
                Came::Recalled(Ok(answer))
            }
            Action::Run { spec, .. } => Came::Ran(self.run(&spec, host, world)),
            Action::Replay { spec, .. } => {
                let made = self.make(&spec, host, world);
                Came::Replayed(Ok(made.map(|made| made.report)))
            }
            Action::Take { key, .. } => {
                let id = world.hosts[host].id;
                let found = world.hosts[host].results.get(&key).copied();
                let forges = world.hosts[host].lies == Some(Lie::Forges) && world.draw.chance(300);
                Came::Taken(Ok(found.map(|mut given| {
                    let (claim, made) = (given.report.claim(), given.report.made);
                    given.report.made = made.or(Some(Made {
                        by: id,
                        signature: sign(&id, claim.as_bytes()),
                    }));
                    if forges {
                        given = forge(given, world);
                    }
                    self.taken.insert(ticket, (given.value, given.report));
                    (given.report, 8)
                })))
            }
            Action::Give { .. } => {
                let (value, report) = self.taken.remove(&ticket).expect("it was taken");
                let node = &mut world.hosts[host];
                // As the product's hosts do.
                let here = node.results.get(&report.key).map(|here| here.report);
                Came::Given(match here.filter(|here| here.made.is_none()) {
                    Some(here) if here.agrees(&report) => Ok(()),
                    Some(here) if here.parts == report.parts => {
                        Err(Problem::new(ProblemKind::Corrupt, "it made another one itself"))
                    }
                    _ => {
                        let files = false;
                        node.results
                            .insert(report.key, Remembered { value, report, files });
                        Ok(())
                    }
                })
            }
            Action::Files { key, .. } => {
                let found = world.hosts[host].results.get(&key).filter(|found| found.files);
                Came::Files(Ok(found.map(|found| found.report.written)))
            }
            Action::Put { keys, .. } => self.written(&keys),
            Action::Quarantine { .. } => quarantined(world, host),
            Action::Missed(_) | Action::Stop(_) => unreachable!("nothing is asked for"),
        }
    }

    fn written(&self, keys: &[ResultKey]) -> Came {
        assert_eq!(keys.len(), self.blobs.len(), "each shard's files are put once");
        Came::Put(Ok(WrittenDataset {
            name: "written".parse().expect("a name"),
            version: 1,
            digest: Digest::EMPTY,
            files: keys.len() as u64,
            bytes: 0,
        }))
    }

    /// What a host remembers, or makes and remembers.
    fn run(&self, spec: &PureSpec, host: usize, world: &mut World) -> Result<PureReport, PureFailure> {
        let trusted = |report: &PureReport| {
            let distrusted = &spec.setting.distrusted;
            report.made.is_none_or(|made| !distrusted.contains_key(&made.by))
        };
        let results = &world.hosts[host].results;
        let is_of_its_parts = |report: &PureReport| {
            let parts = spec.work.parts().iter().map(|part| results.get(part));
            let parts: Option<Vec<&PureReport>> = parts.map(|part| Some(&part?.report)).collect();
            parts.is_none_or(|parts| digest_of_parts(parts) == report.parts)
        };
        if let Some(found) = results.get(&spec.key())
            && is_of_its_parts(&found.report)
            && trusted(&found.report)
            && (found.files || found.report.written_files == 0)
        {
            return Ok(PureReport {
                remembered: true,
                ..found.report
            });
        }
        let made = self.make(spec, host, world)?;
        world.hosts[host].results.insert(spec.key(), made);
        Ok(made.report)
    }

    fn make(&self, spec: &PureSpec, host: usize, world: &World) -> Result<Remembered, PureFailure> {
        let node = &world.hosts[host];
        let of = |part: &ResultKey| {
            let found = node.results.get(part);
            found.ok_or_else(|| Problem::new(ProblemKind::ForgottenResult, "a part was evicted"))
        };
        let (mut value, mut total_fuel) = (0, FUEL);
        let mut made_of = Vec::new();
        match &spec.work {
            Work::Map { subject, .. } => {
                let shard = subject.shard;
                let has = |other: &&super::world::HostNode| {
                    other.up && other.island == node.island && other.disk.contains(&shard)
                };
                let staged = |gateway: &&super::world::GatewayNode| {
                    gateway.island == node.island && gateway.staged.contains(&shard)
                };
                if !world.hosts.iter().any(|other| has(&other))
                    && !world.gateways.iter().any(|it| staged(&it))
                {
                    return Err(Problem::new(ProblemKind::UnknownBlob, "nobody gives the shard").into());
                }
                value = self.blobs[&shard];
            }
            Work::Reduce { parts } => {
                for part in parts {
                    let part = of(part)?;
                    value += part.value;
                    total_fuel += part.report.total_fuel;
                    made_of.push(&part.report);
                }
            }
            Work::Finish { total } => {
                let total = of(total)?;
                value = total.value;
                total_fuel += total.report.total_fuel;
                made_of.push(&total.report);
            }
        }
        if node.lies == Some(Lie::Computes) {
            value += 1;
        }
        let files = spec.setting.may_write && matches!(spec.work, Work::Map { .. });
        let written = match files {
            true => Digest::of(&[b"files", value.to_le_bytes().as_slice()].concat()),
            false => Digest::EMPTY,
        };
        Ok(Remembered {
            value,
            report: PureReport {
                key: spec.key(),
                remembered: false,
                output_bytes: 8,
                output: Digest::of(&value.to_le_bytes()),
                parts: digest_of_parts(made_of),
                fuel: FUEL,
                total_fuel,
                data_bytes: 0,
                moved_bytes: 0,
                written_files: u64::from(files),
                written_bytes: 0,
                written,
                run_us: 0,
                made: None,
            },
            files,
        })
    }
}

/// What a host says that another came to, which did not.
fn forge(mut found: Remembered, world: &mut World) -> Remembered {
    found.value += 1;
    found.report.output = Digest::of(&found.value.to_le_bytes());
    let other = world.draw.within(0..world.hosts.len() as u64) as usize;
    found.report.made = Some(Made {
        by: world.hosts[other].id,
        signature: Signature([7; 64]),
    });
    found
}

/// A host is found to be wrong: it forgets what it made.
fn quarantined(world: &mut World, host: usize) -> Came {
    let reason = "it was wrong".to_owned();
    world.record(host, &NodeRecord::Quarantined { reason });
    world.hosts[host].results.clear();
    Came::Quarantined(Ok(()))
}

fn record(number: u64, check: Option<f64>, writes: bool) -> JobRecord {
    JobRecord {
        id: format!("{number:032x}"),
        function: "sum".parse().expect("a name"),
        version: 1,
        component: Digest::EMPTY,
        dataset: None,
        dataset_digest: Digest::of(b"all"),
        // Another job each time: nothing of the last one is remembered for it.
        args: json!({ "number": number }),
        inputs: BTreeMap::new(),
        limits: PureLimits {
            fuel: FUEL,
            memory_bytes: 1 << 20,
            timeout: Duration::from_secs(1),
        },
        gpu: None,
        max_fuel: u64::MAX,
        selection: Selection::All,
        skip: 0,
        check,
        into: writes.then(|| "written".parse().expect("a name")),
        started_unix_ms: 0,
        state: JobState::Running,
    }
}
