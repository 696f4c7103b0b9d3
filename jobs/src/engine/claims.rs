//! What hosts say that runs came to, and whether it may be used. Plain data.

use std::collections::{BTreeMap, HashMap};

use nearfield_net::Records;
use nearfield_protocol::job::{PureReport, ResultKey};
use nearfield_protocol::records::RecordClock;
use nearfield_protocol::{Digest, NodeId};

/// Whether a signature of a node is over these bytes.
pub type Vouches = fn(&NodeId, &[u8], &[u8; 64]) -> bool;

/// What hosts say that a run came to.
#[derive(Debug, Clone)]
pub struct Claim {
    pub report: PureReport,
    /// Those that remember it so.
    pub hosts: Vec<NodeId>,
    /// Those of them that made it, and have the files that it wrote.
    pub makers: Vec<NodeId>,
}

impl Claim {
    /// Who answers for it: its maker.
    pub fn maker(&self) -> Option<NodeId> {
        let vouched = self.report.made.map(|made| made.by);
        self.makers.first().copied().or(vouched)
    }
}

/// All that hosts said of a job's runs. Of what they say of one run the first counts.
#[derive(Debug, Default)]
pub struct Claims(HashMap<ResultKey, Vec<Claim>>);

impl Claims {
    /// A result is remembered on `host`. Returns what counts under its key.
    pub fn made(&mut self, report: &PureReport, host: NodeId) -> PureReport {
        let claims = self.0.entry(report.key).or_default();
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
    pub fn of(&self, key: &ResultKey) -> &[Claim] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a report says what counts under its key.
    pub fn is_first(&self, report: &PureReport) -> bool {
        let first = self.first(&report.key);
        first.is_some_and(|claim| claim.report.agrees(report))
    }

    /// What counts of that.
    pub fn first(&self, key: &ResultKey) -> Option<&Claim> {
        self.of(key).first()
    }

    /// Drops what hosts say of one run that they made of parts with this digest.
    pub fn drop_made_of(&mut self, key: &ResultKey, parts: Digest) {
        if let Some(claims) = self.0.get_mut(key) {
            claims.retain(|claim| claim.report.parts != parts);
            if claims.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// A host was lost, and with it what only it remembers.
    pub fn lost(&mut self, host: &NodeId) {
        self.0.retain(|_, claims| lose(claims, host));
    }

    /// A host does not have what it says that it remembers of one run.
    pub fn lost_one(&mut self, host: &NodeId, key: &ResultKey) {
        if let Some(claims) = self.0.get_mut(key)
            && !lose(claims, host)
        {
            self.0.remove(key);
        }
    }
}

/// Takes a host out of what is said of one run. Whether others say something.
fn lose(claims: &mut Vec<Claim>, host: &NodeId) -> bool {
    for claim in claims.iter_mut() {
        claim.hosts.retain(|holder| holder != host);
        claim.makers.retain(|maker| maker != host);
    }
    claims.retain(|claim| !claim.hosts.is_empty());
    !claims.is_empty()
}

/// What a result is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    Counts,
    /// Not under today's limits, or by whom it was made.
    Unusable,
    /// Whoever says so is wrong, or lies.
    False,
}

/// What a result must be to be used.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Fuel of one run: what took more is not used.
    pub max_fuel: u64,
    /// Who was ever quarantined: what others were given of theirs is not used.
    pub distrusted: BTreeMap<NodeId, RecordClock>,
    pub vouches: Vouches,
}

impl Terms {
    /// What a result that `host` has is for `key`.
    pub fn judge(&self, report: &PureReport, key: &ResultKey, host: NodeId, records: &Records) -> Worth {
        let trusted = |by: &NodeId| records.node(by).is_some() && !self.distrusted.contains_key(by);
        let made_by = report.made.map(|made| made.by).filter(|by| *by != host);
        if report.fuel > self.max_fuel || made_by.is_some_and(|by| !trusted(&by)) {
            return Worth::Unusable;
        }
        match self.can_be(report, key, host) {
            true => Worth::Counts,
            false => Worth::False,
        }
    }

    /// Whether a result that `host` has can be the one that was asked for, and, if another made it, what that one made.
    fn can_be(&self, report: &PureReport, key: &ResultKey, host: NodeId) -> bool {
        if report.key != *key {
            tracing::error!(
                host = host.short(),
                "a host gave the result of another key than it was asked for"
            );
            return false;
        }
        if report.fuel == 0 || report.total_fuel < report.fuel || !report.files_are_consistent() {
            tracing::error!(
                host = host.short(),
                "a host has a result whose fuel or files cannot be: it is not used"
            );
            return false;
        }
        let Some(made) = report.made else { return true };
        let vouched = (self.vouches)(&made.by, report.claim().as_bytes(), &made.signature.0);
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
}
