//! Where a job's work happens: which host runs a step, and which hosts remember what it came to. Pure, over what the gateway
//! knows of its network at one moment.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use nearfield_cluster::place::table::HostTable;
use nearfield_cluster::place::{self, Ask, Need, Standing};
use nearfield_net::Records;
use nearfield_protocol::gpu::GpuKind;
use nearfield_protocol::job::{PureReport, PureSetting, ResultKey, Work, digest_of_parts};
use nearfield_protocol::node::Label;
use nearfield_protocol::problem::Blame;
use nearfield_protocol::{Digest, NodeId, Problem};

use super::claims::{Claims, Terms, Vouches, Worth};

/// Runs that a host may have under way beyond the least busy one's before a shard in its GPU's memory goes to another.
const RESIDENT_PATIENCE: usize = 8;

/// What the gateway knows of its network at one moment.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub table: &'a HostTable,
    pub records: &'a Records,
}

/// Who holds the parts of a step is not known any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartsLost;

/// The hosts of one job.
pub struct Sites {
    component: Digest,
    /// The GPU that its runs require.
    gpu: Option<GpuKind>,
    /// Labels that all of the job's data asks for.
    pub only: Vec<Label>,
    pub terms: Terms,
    pub claims: Claims,
    /// Runs under way on each host.
    busy: BTreeMap<NodeId, usize>,
    /// Hosts that ran something.
    used: HashSet<NodeId>,
    /// Hosts that this job does without, since they did not give what they said they had.
    shunned: BTreeSet<NodeId>,
    /// What hosts did not give although they say that they remember it.
    not_given: BTreeSet<(ResultKey, NodeId)>,
    /// Results that were made of parts that are others by now, with the digest of those parts.
    outdated: BTreeSet<(ResultKey, Digest)>,
    /// Hosts that were lost just now: who looks at the network does not know it yet.
    missed: BTreeSet<NodeId>,
}

impl Sites {
    /// For a job whose runs share `setting`, over `datasets`.
    pub fn new(setting: &PureSetting, datasets: &[Digest], records: &Records, vouches: Vouches) -> Self {
        Sites {
            component: setting.component,
            gpu: setting.gpu.as_ref().map(|grant| grant.kind),
            only: rule(records, datasets),
            terms: Terms {
                max_fuel: setting.limits.fuel,
                distrusted: setting.distrusted.clone(),
                vouches,
            },
            claims: Claims::default(),
            busy: BTreeMap::new(),
            used: HashSet::new(),
            shunned: BTreeSet::new(),
            not_given: BTreeSet::new(),
            outdated: BTreeSet::new(),
            missed: BTreeSet::new(),
        }
    }

    /// Goes on without the hosts that were done without `before`.
    pub fn do_without(&mut self, before: Sites) {
        self.shunned = before.shunned;
        self.not_given = before.not_given;
        self.outdated = before.outdated;
        self.missed = before.missed;
    }

    /// How many hosts ran something.
    pub fn used(&self) -> usize {
        self.used.len()
    }

    /// The job does without this host from now on, and without what it remembers.
    pub fn shun(&mut self, host: NodeId) {
        self.shunned.insert(host);
        self.claims.lost(&host);
    }

    /// A host was lost, and with it what only it remembers.
    pub fn lost(&mut self, host: NodeId) {
        self.claims.lost(&host);
        self.missed.insert(host);
    }

    /// A host did not give what it says that it remembers under `key`: it is lost, or it does not count as having that. One that
    /// says so again after a restart is done without.
    pub fn failed_to_give(&mut self, host: NodeId, key: &ResultKey, problem: &Problem) {
        if problem.kind.blame() == Blame::LostHost {
            self.lost(host);
        } else if self.not_given.insert((*key, host)) {
            self.claims.lost_one(&host, key);
        } else {
            self.shun(host);
        }
    }

    /// The digest of what a run is to be made of, if the job knows all of that.
    pub fn made_of(&self, work: &Work) -> Option<Digest> {
        let parts = work.parts().iter();
        let parts: Option<Vec<&PureReport>> = parts
            .map(|part| self.claims.first(part).map(|claim| &claim.report))
            .collect();
        parts.map(digest_of_parts)
    }

    /// What stands under `key` was made of other parts than the job knows: it counts no more, whoever remembers it.
    pub fn outdate(&mut self, key: &ResultKey, parts: Digest) {
        self.outdated.insert((*key, parts));
        self.claims.drop_made_of(key, parts);
    }

    /// What a host was asked for came to nothing: that it is lost, if it is.
    pub fn failed(&mut self, host: NodeId, problem: &Problem) {
        if problem.kind.blame() == Blame::LostHost {
            self.lost(host);
        }
    }

    /// The hosts that were lost since this was asked last: who looks at the network is told.
    pub fn take_missed(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.missed)
    }

    /// Notes that a run is under way on `host`, until [`Sites::release`].
    pub fn take(&mut self, host: NodeId) {
        *self.busy.entry(host).or_default() += 1;
        self.used.insert(host);
    }

    pub fn release(&mut self, host: &NodeId) {
        if let Some(runs) = self.busy.get_mut(host) {
            *runs -= 1;
        }
    }

    fn runs_on(&self, host: &NodeId) -> usize {
        self.busy.get(host).copied().unwrap_or_default()
    }

    /// Whether `host` has more runs under way than `other`.
    pub fn is_busier(&self, host: &NodeId, other: &NodeId) -> bool {
        self.runs_on(host) > self.runs_on(other)
    }

    /// What a result that `host` remembers is for `key`.
    pub fn judge_remembered(
        &self,
        view: View<'_>,
        report: &PureReport,
        key: &ResultKey,
        host: NodeId,
    ) -> Worth {
        match self.judge(view, report, key, host) {
            Worth::Counts if self.outdated.contains(&(*key, report.parts)) => Worth::Unusable,
            worth => worth,
        }
    }

    /// What a result that `host` has is for `key`.
    pub fn judge(&self, view: View<'_>, report: &PureReport, key: &ResultKey, host: NodeId) -> Worth {
        self.terms.judge(report, key, host, view.records)
    }

    /// Whether a host is there, and not known to be wrong.
    pub fn is_usable(&self, view: View<'_>, host: &NodeId) -> bool {
        let member = view.records.node(host);
        member.is_some_and(|member| member.quarantined.is_none())
            // What is made of the data may rest where the data may.
            && view.records.satisfies(host, &self.only)
            && !self.shunned.contains(host)
            && !self.missed.contains(host)
            && view.table.find(host).is_some_and(|host| host.there)
    }

    /// All hosts that may be asked something.
    pub fn usable(&self, view: View<'_>) -> Vec<NodeId> {
        let all = view.table.iter().map(|(_, host)| host.id);
        all.filter(|host| self.is_usable(view, host)).collect()
    }

    /// A host for a map over a shard: one that remembers the result, with its files if those are asked for, else the least
    /// busy of those that hold the shard, else by cost. `tried` did not come to an end.
    pub fn for_map(
        &self,
        view: View<'_>,
        key: &ResultKey,
        with_files: bool,
        (shard, size_bytes): (Digest, u64),
        tried: &[NodeId],
    ) -> Option<NodeId> {
        let mut remembering = match with_files {
            true => self.makers(view, key),
            false => self.remembering(view, key),
        };
        remembering.retain(|host| !tried.contains(host));
        let first = remembering.first().copied();
        first.or_else(|| self.for_shard(view, shard, size_bytes, tried))
    }

    /// The least busy of the hosts that hold a shard, else one by cost; none of `but`.
    pub fn for_shard(
        &self,
        view: View<'_>,
        shard: Digest,
        size_bytes: u64,
        but: &[NodeId],
    ) -> Option<NodeId> {
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
        let ranked = place::place(&ask, view.table);
        let can: Vec<_> = ranked
            .iter()
            .filter(|candidate| !but.contains(&candidate.host) && self.is_usable(view, &candidate.host))
            .filter_map(|candidate| match candidate.standing {
                Standing::Costs {
                    missing_bytes,
                    upload_bytes,
                    ms,
                } => {
                    let (missing, resident) = (missing_bytes > 0, upload_bytes == Some(0));
                    let runs = self.runs_on(&candidate.host);
                    Some((missing, resident, runs, ms, candidate.host))
                }
                _ => None,
            })
            .collect();
        let least = can.iter().map(|(_, _, runs, ..)| *runs).min()?;
        // The GPU that has it, unless others have far less to do: bringing a shard takes less than some runs.
        let order = |(missing, resident, runs, ms, _): &(bool, bool, usize, u64, NodeId)| {
            let near = *resident && *runs <= least + RESIDENT_PATIENCE;
            (*missing, !near, *runs, *ms)
        };
        let (.., host) = can.into_iter().min_by_key(order)?;
        Some(host)
    }

    /// A host for a step over results: one that remembers what it came to, else the one that has most of their bytes.
    pub fn for_parts(
        &self,
        view: View<'_>,
        key: &ResultKey,
        parts: &[ResultKey],
        tried: &[NodeId],
    ) -> Result<NodeId, PartsLost> {
        let mut remembering = self.remembering(view, key).into_iter();
        if let Some(host) = remembering.find(|host| !tried.contains(host)) {
            return Ok(host);
        }
        let mut bytes: BTreeMap<NodeId, u64> = BTreeMap::new();
        for part in parts {
            let claim = self.claims.first(part).ok_or(PartsLost)?;
            for host in &claim.hosts {
                // A part of no bytes counts, too.
                let sum = bytes.entry(*host).or_default();
                *sum = sum.saturating_add(claim.report.output_bytes).saturating_add(1);
            }
        }
        let can = bytes
            .into_iter()
            .filter(|(host, _)| !tried.contains(host) && self.is_usable(view, host));
        let most = can.max_by_key(|(host, bytes)| (*bytes, *host));
        most.map(|(host, _)| host).ok_or(PartsLost)
    }

    /// Which of `parts` `host` does not have, and who does.
    pub fn missing(
        &self,
        view: View<'_>,
        parts: &[ResultKey],
        host: NodeId,
    ) -> Vec<(ResultKey, Vec<NodeId>)> {
        let holders = |part: &ResultKey| {
            self.claims
                .first(part)
                .map_or(Vec::new(), |claim| claim.hosts.clone())
        };
        let places = parts.iter().map(|part| (*part, holders(part)));
        let mut missing: Vec<_> = places.filter(|(_, hosts)| !hosts.contains(&host)).collect();
        for (_, hosts) in &mut missing {
            hosts.retain(|host| self.is_usable(view, host));
        }
        missing
    }

    /// The hosts that remember a result.
    pub fn remembering(&self, view: View<'_>, key: &ResultKey) -> Vec<NodeId> {
        let hosts = self.claims.first(key).map(|claim| &claim.hosts);
        self.usable_of(view, hosts)
    }

    /// The hosts that made a result and remember it.
    pub fn makers(&self, view: View<'_>, key: &ResultKey) -> Vec<NodeId> {
        let makers = self.claims.first(key).map(|claim| &claim.makers);
        self.usable_of(view, makers)
    }

    fn usable_of(&self, view: View<'_>, hosts: Option<&Vec<NodeId>>) -> Vec<NodeId> {
        let hosts = hosts.into_iter().flatten().copied();
        hosts.filter(|host| self.is_usable(view, host)).collect()
    }
}

/// The labels that all of `datasets` ask for.
pub fn rule(records: &Records, datasets: &[Digest]) -> Vec<Label> {
    let mut rule = Vec::new();
    for label in datasets.iter().flat_map(|digest| records.rule_of(digest)) {
        if !rule.contains(&label) {
            rule.push(label);
        }
    }
    rule
}
