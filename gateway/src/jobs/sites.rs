//! Where a job's work happens: which host runs a step, and which hosts remember what it came to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;

use futures_util::future::join_all;
use nearfield_protocol::gpu::GpuKind;
use nearfield_protocol::job::{PureReport, PureSetting, ResultKey};
use nearfield_protocol::node::Label;
use nearfield_protocol::records::RecordClock;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};

use crate::place::{self, Ask, Need, Standing};
use crate::server::Gateway;

/// Keys that one question names.
const RECALLED_AT_ONCE: usize = 4_096;
/// Runs that a host is given at once: more than it has workers, so that none waits for results to be kept.
pub const IN_FLIGHT: usize = 32;
/// Runs that a host may have under way beyond the least busy one's before a shard in its GPU's memory goes to another.
const RESIDENT_PATIENCE: usize = 8;

/// What hosts say that a run came to.
#[derive(Debug, Clone)]
pub struct Claim {
    pub report: PureReport,
    /// Those that remember it so.
    hosts: Vec<NodeId>,
    /// Those of them that made it, and have the files that it wrote.
    makers: Vec<NodeId>,
}

impl Claim {
    /// Who answers for it: its maker.
    pub fn maker(&self) -> Option<NodeId> {
        let vouched = self.report.made.map(|made| made.by);
        self.makers.first().copied().or(vouched)
    }
}

/// Whether a result that `host` has can be the one that was asked for, and, if another made it, what that one made.
fn is_vouched_for(report: &PureReport, key: &ResultKey, host: NodeId) -> bool {
    if report.key != *key {
        tracing::error!(
            host = host.short(),
            "a host answered with another result than it was asked for"
        );
        return false;
    }
    let files = report.written_files > 0 || report.written == Digest::EMPTY;
    if report.fuel == 0 || report.total_fuel < report.fuel || !files {
        tracing::error!(
            host = host.short(),
            "a host has a result that cannot be: it is not used"
        );
        return false;
    }
    let Some(made) = report.made else { return true };
    let vouched = nearfield_net::vouches(&made.by, report.claim().as_bytes(), &made.signature.0);
    if !vouched {
        tracing::error!(
            result = report.key.0.short(),
            host = host.short(),
            maker = made.by.short(),
            "a host has a result that its maker does not vouch for: it is not used"
        );
    }
    vouched
}

/// The hosts of one job.
pub struct Sites<'a> {
    gateway: &'a Gateway,
    component: Digest,
    /// Fuel of one run: what took more is not used.
    max_fuel: u64,
    /// The GPU that its runs require.
    gpu: Option<GpuKind>,
    /// Who was ever quarantined: what others were given of theirs is not used.
    distrusted: BTreeMap<NodeId, RecordClock>,
    /// Hosts that this job does without, since they did not give what they said they had. This lock, too, is held for one
    /// look-up.
    shunned: Option<&'a Mutex<HashSet<NodeId>>>,
    /// Labels that all of the job's data asks for.
    pub only: Vec<Label>,
    /// The locks are held for one look-up each.
    /// Of what hosts say of one run the first counts.
    results: Mutex<HashMap<ResultKey, Vec<Claim>>>,
    /// Runs under way on each host.
    busy: Mutex<HashMap<NodeId, usize>>,
    used: Mutex<HashSet<NodeId>>,
}

/// A run's place on a host, for as long as it is under way.
pub struct Taken<'a> {
    busy: &'a Mutex<HashMap<NodeId, usize>>,
    pub host: NodeId,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut busy = self.busy.lock().expect("no panic under this lock");
        if let Some(runs) = busy.get_mut(&self.host) {
            *runs -= 1;
        }
    }
}

impl<'a> Sites<'a> {
    /// For a job whose runs share `setting`, over `datasets`.
    pub fn new(
        gateway: &'a Gateway,
        setting: &PureSetting,
        datasets: &[Digest],
        shunned: &'a Mutex<HashSet<NodeId>>,
    ) -> Self {
        Sites {
            component: setting.component,
            max_fuel: setting.limits.fuel,
            gpu: setting.gpu.as_ref().map(|grant| grant.kind),
            distrusted: setting.distrusted.clone(),
            shunned: Some(shunned),
            ..Sites::of(gateway, datasets)
        }
    }

    fn of(gateway: &'a Gateway, datasets: &[Digest]) -> Self {
        Sites {
            gateway,
            component: Digest::EMPTY,
            max_fuel: u64::MAX,
            gpu: None,
            distrusted: gateway.catalog.node.records().distrusted().clone(),
            shunned: None,
            only: rule(gateway, datasets),
            results: Mutex::default(),
            busy: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// How many runs may be under way at once, on all hosts together.
    pub fn in_flight(&self) -> usize {
        IN_FLIGHT * self.gateway.hosts.table().len().max(1)
    }

    /// Hosts that ran something.
    pub fn used(&self) -> usize {
        self.used.lock().expect("no panic under this lock").len()
    }

    /// What may be used of a result that `host` has.
    pub fn counts(&self, report: &PureReport, key: &ResultKey, host: NodeId) -> bool {
        let records = self.gateway.catalog.node.records();
        let trusted = |by: &NodeId| records.node(by).is_some() && !self.distrusted.contains_key(by);
        report.fuel <= self.max_fuel
            && report
                .made
                .is_none_or(|made| made.by == host || trusted(&made.by))
            && is_vouched_for(report, key, host)
    }

    /// The job does without this host from now on.
    pub fn shun(&self, host: NodeId) {
        if let Some(shunned) = self.shunned {
            shunned.lock().expect("no panic under this lock").insert(host);
        }
    }

    /// Whether a host is there, and not known to be wrong.
    fn is_usable(&self, host: &NodeId) -> bool {
        let records = self.gateway.catalog.node.records();
        let member = records.node(host);
        member.is_some_and(|member| member.quarantined.is_none())
            // What is made of the data may rest where the data may.
            && self.gateway.catalog.node.satisfies(host, &self.only)
            && !self
                .shunned
                .is_some_and(|shunned| shunned.lock().expect("no panic under this lock").contains(host))
            && self
                .gateway
                .hosts
                .table()
                .find(host)
                .is_some_and(|host| host.there)
    }

    fn take(&self, host: NodeId) -> Taken<'_> {
        *self
            .busy
            .lock()
            .expect("no panic under this lock")
            .entry(host)
            .or_default() += 1;
        self.used.lock().expect("no panic under this lock").insert(host);
        Taken {
            busy: &self.busy,
            host,
        }
    }

    /// A host for a map over a shard: one that remembers the result, with its files if those are asked for, else the least
    /// busy of those that hold the shard, else by cost. `tried` did not come to an end.
    pub fn for_map(
        &self,
        key: &ResultKey,
        with_files: bool,
        shard: Digest,
        size_bytes: u64,
        tried: &[NodeId],
    ) -> Result<Taken<'_>, Problem> {
        let remembering = match with_files {
            true => self.makers(key),
            false => self.remembering(key),
        };
        if let Some(host) = remembering.into_iter().find(|host| !tried.contains(host)) {
            return Ok(self.take(host));
        }
        self.for_shard(shard, size_bytes, tried).ok_or_else(nobody)
    }

    /// The least busy of the hosts that hold a shard, else one by cost; none of `but`.
    pub fn for_shard(&self, shard: Digest, size_bytes: u64, but: &[NodeId]) -> Option<Taken<'_>> {
        let needs = [Need::Blob {
            digest: shard,
            size_bytes,
        }];
        let ask = Ask {
            key: shard,
            component: self.component,
            component_bytes: 0,
            located: None,
            needs: &needs,
            only: &self.only,
            gpu: self.gpu,
        };
        let ranked = place::place(&ask, &self.gateway.hosts.table());
        let busy = self.busy.lock().expect("no panic under this lock").clone();
        let can: Vec<_> = ranked
            .iter()
            .filter(|candidate| !but.contains(&candidate.host) && self.is_usable(&candidate.host))
            .filter_map(|candidate| match candidate.standing {
                Standing::Costs {
                    missing_bytes,
                    upload_bytes,
                    ms,
                } => {
                    let runs = busy.get(&candidate.host).copied().unwrap_or_default();
                    Some((
                        missing_bytes > 0,
                        upload_bytes == Some(0),
                        runs,
                        ms,
                        candidate.host,
                    ))
                }
                _ => None,
            })
            .collect();
        let least = can.iter().map(|(_, _, runs, ..)| *runs).min()?;
        // The GPU that has it, unless others have far less to do: bringing a shard takes less than some runs.
        let order = |(missing, resident, runs, ms, _): &(bool, bool, usize, u64, NodeId)| {
            (
                *missing,
                !(*resident && *runs <= least + RESIDENT_PATIENCE),
                *runs,
                *ms,
            )
        };
        let (.., host) = can.into_iter().min_by_key(order)?;
        Some(self.take(host))
    }

    /// Whether `host` has more runs under way than `other` had before it took one more.
    pub fn is_busier(&self, host: &NodeId, other: &NodeId) -> bool {
        let busy = self.busy.lock().expect("no panic under this lock");
        busy.get(host).copied().unwrap_or_default() >= busy.get(other).copied().unwrap_or_default()
    }

    /// A host for a step over results: one that remembers what it came to, else the one that has most of their bytes.
    pub fn for_parts(
        &self,
        key: &ResultKey,
        parts: &[ResultKey],
        tried: &[NodeId],
    ) -> Result<Taken<'_>, Problem> {
        let mut remembering = self.remembering(key).into_iter();
        if let Some(host) = remembering.find(|host| !tried.contains(host)) {
            return Ok(self.take(host));
        }
        let mut bytes: HashMap<NodeId, u64> = HashMap::new();
        {
            let results = self.results.lock().expect("no panic under this lock");
            for part in parts {
                let claim = results.get(part).and_then(|claims| claims.first());
                let claim = claim.ok_or_else(forgotten)?;
                for host in &claim.hosts {
                    // A part of no bytes counts, too.
                    *bytes.entry(*host).or_default() += claim.report.output_bytes + 1;
                }
            }
        }
        let can = bytes
            .into_iter()
            .filter(|(host, _)| !tried.contains(host) && self.is_usable(host));
        match can.max_by_key(|(host, bytes)| (*bytes, *host)) {
            Some((host, _)) => Ok(self.take(host)),
            None => Err(forgotten()),
        }
    }

    /// Which of `parts` `host` does not have, and who does.
    pub fn missing(&self, parts: &[ResultKey], host: NodeId) -> Vec<(ResultKey, Vec<NodeId>)> {
        let results = self.results.lock().expect("no panic under this lock");
        let place = |part: &ResultKey| {
            results
                .get(part)
                .and_then(|claims| Some(claims.first()?.hosts.clone()))
                .unwrap_or_default()
        };
        let places = parts.iter().map(|part| (*part, place(part)));
        let missing = places.filter(|(_, hosts)| !hosts.contains(&host));
        let mut missing: Vec<(ResultKey, Vec<NodeId>)> = missing.collect();
        drop(results);
        for (_, hosts) in &mut missing {
            hosts.retain(|host| self.is_usable(host));
        }
        missing
    }

    /// The hosts that remember a result.
    pub fn remembering(&self, key: &ResultKey) -> Vec<NodeId> {
        self.that_are_there(key, |claim| &claim.hosts)
    }

    /// The hosts that made a result and remember it.
    pub fn makers(&self, key: &ResultKey) -> Vec<NodeId> {
        self.that_are_there(key, |claim| &claim.makers)
    }

    fn that_are_there(&self, key: &ResultKey, of: impl Fn(&Claim) -> &Vec<NodeId>) -> Vec<NodeId> {
        let results = self.results.lock().expect("no panic under this lock");
        let hosts = results
            .get(key)
            .and_then(|claims| Some(of(claims.first()?).clone()))
            .unwrap_or_default();
        drop(results);
        hosts.into_iter().filter(|host| self.is_usable(host)).collect()
    }

    /// A result is remembered on `host`. Returns what counts under its key.
    pub fn made(&self, report: &PureReport, host: NodeId) -> PureReport {
        let mut results = self.results.lock().expect("no panic under this lock");
        let claims = results.entry(report.key).or_default();
        let made_there = report.made.is_none_or(|made| made.by == host);
        match claims.iter_mut().find(|claim| claim.report.agrees(report)) {
            Some(claim) => {
                if !claim.hosts.contains(&host) {
                    claim.hosts.push(host);
                }
                if made_there && !claim.makers.contains(&host) {
                    claim.makers.push(host);
                }
            }
            None => {
                if !claims.is_empty() {
                    tracing::warn!(
                        result = report.key.0.short(),
                        host = host.short(),
                        "hosts remember different results of one run: `run --check 100%` finds out who is wrong"
                    );
                }
                claims.push(Claim {
                    report: *report,
                    hosts: vec![host],
                    makers: made_there.then_some(host).into_iter().collect(),
                });
            }
        }
        claims[0].report
    }

    /// All that hosts say of one run.
    pub fn claims(&self, key: &ResultKey) -> Vec<Claim> {
        let results = self.results.lock().expect("no panic under this lock");
        results.get(key).cloned().unwrap_or_default()
    }

    /// A host was lost, and with it what only it remembers.
    pub fn lost(&self, host: &NodeId) {
        self.gateway.hosts.missed(host);
        let mut results = self.results.lock().expect("no panic under this lock");
        results.retain(|_, claims| {
            for claim in claims.iter_mut() {
                claim.hosts.retain(|holder| holder != host);
                claim.makers.retain(|maker| maker != host);
            }
            claims.retain(|claim| !claim.hosts.is_empty());
            !claims.is_empty()
        });
    }

    /// Asks all hosts what they remember of `keys`. The first answer counts.
    pub async fn recall(
        &self,
        keys: &[ResultKey],
        origins: &[String],
    ) -> Result<Vec<Option<PureReport>>, Problem> {
        let catalog = &self.gateway.catalog;
        let hosts: Vec<NodeId> = {
            let table = self.gateway.hosts.table();
            table.iter().map(|(_, host)| host.id).collect()
        };
        let hosts: Vec<NodeId> = hosts.into_iter().filter(|host| self.is_usable(host)).collect();
        let mut found: Vec<Option<PureReport>> = vec![None; keys.len()];
        for (index, some) in keys.chunks(RECALLED_AT_ONCE).enumerate() {
            let asked = hosts.iter().map(|host| async move {
                let answer = match catalog.see_forgotten(*host).await {
                    Ok(()) => self.gateway.dispatch.recall(*host, some, origins).await,
                    Err(problem) => Err(problem),
                };
                (*host, answer)
            });
            for (host, answer) in join_all(asked).await {
                let answer = match answer {
                    Ok(answer) => answer,
                    // What it remembers is made again where it is needed.
                    Err(problem) if hosts.len() > 1 => {
                        tracing::warn!(host = host.short(), %problem, "a host does not say what it remembers");
                        if matches!(problem.kind, ProblemKind::HostLost | ProblemKind::HostUnreachable) {
                            self.lost(&host);
                        }
                        continue;
                    }
                    Err(problem) => return Err(problem),
                };
                for (at, report) in answer.into_iter().enumerate() {
                    if let Some(report) = report
                        && some.get(at).is_some_and(|key| self.counts(&report, key, host))
                    {
                        found[index * RECALLED_AT_ONCE + at] = Some(self.made(&report, host));
                    }
                }
            }
        }
        Ok(found)
    }
}

/// The labels that all of `datasets` ask for.
pub fn rule(gateway: &Gateway, datasets: &[Digest]) -> Vec<Label> {
    let mut rule: Vec<Label> = Vec::new();
    for version in gateway.catalog.node.records().all_dataset_versions() {
        if datasets.contains(&version.digest) {
            let new = version.only.iter().filter(|label| !rule.contains(label));
            let new: Vec<Label> = new.cloned().collect();
            rule.extend(new);
        }
    }
    rule
}

fn forgotten() -> Problem {
    Problem::new(
        ProblemKind::ForgottenResult,
        "a partial result went with the host that had it; it is made again",
    )
}

fn nobody() -> Problem {
    Problem::new(
        ProblemKind::HostUnreachable,
        "no host can run this now: none is there that holds the data or may fetch it",
    )
}

/// A result and who remembers it, wherever that is.
pub async fn find(gateway: &Gateway, key: ResultKey) -> Result<Option<(NodeId, PureReport)>, Problem> {
    let sites = Sites::of(gateway, &[]);
    let found = sites.recall(&[key], &[]).await?;
    let report = found.into_iter().next().flatten();
    Ok(report.and_then(|report| Some((*sites.remembering(&key).first()?, report))))
}
