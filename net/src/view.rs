//! What the records say, taken together, and whose word counts. Pure: records in, answers out.
//!
//! A record counts if its author was a gateway when it was written, by the records before it; the network's founder
//! is one by definition. What an expelled node wrote counts only as far as its expulsion lists it, whatever clock it
//! bears. Only a node that joined earlier can expel one: so no two gateways can expel each other, and nobody the
//! founder.
//!
//! A snapshot shares with the one before it what did not change, so writing a record, or looking one up, costs the same
//! however many there are.

mod take;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use nearfield_protocol::manifest::Input;
use nearfield_protocol::node::{Label, NodeVersion, Role};
use nearfield_protocol::records::{
    DatasetVersion, FunctionVersion, RecordClock, RecordKey, RecordKind, TokenVersion,
};
use nearfield_protocol::{DatasetName, Digest, FunctionName, NodeId};
use rpds::RedBlackTreeMapSync as SharedMap;

/// One record as it was written.
#[derive(Debug, Clone)]
pub struct Entry {
    pub key: RecordKey,
    pub author: NodeId,
    pub value: Bytes,
}

impl Entry {
    /// Names the record in an expulsion.
    pub fn digest(&self) -> Digest {
        Digest::of(&[self.key.encode().as_slice(), &self.value].concat())
    }
}

/// A node that belongs to the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Membership {
    pub node: NodeVersion,
    /// It takes nothing new and hands over what it holds.
    pub draining: bool,
    /// Why it runs nothing and nothing that it made is used.
    pub quarantined: Option<String>,
    /// From when on it belongs: never before who invited it.
    since: RecordClock,
}

/// Why a record does not count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    #[error("its author {} is no gateway", .0.short())]
    NoGateway(NodeId),
    #[error("its author {} is expelled, and its expulsion does not list it", .0.short())]
    Expelled(NodeId),
    #[error("{} may not expel {}, which joined before it", .author.short(), .node.short())]
    Junior { author: NodeId, node: NodeId },
    #[error("its clock, {0} ms, is beyond the year 2109")]
    TooLate(u64),
    #[error("it cannot be read: {0}")]
    Unreadable(String),
}

/// The state that a set of records adds up to.
#[derive(Debug, Clone, PartialEq)]
pub struct Records {
    founder: NodeId,
    functions: SharedMap<FunctionName, Arc<Vec<FunctionVersion>>>,
    datasets: SharedMap<DatasetName, Arc<Vec<DatasetVersion>>>,
    /// How many versions of datasets have these bytes.
    digests: SharedMap<Digest, u32>,
    /// The versions among them that are kept to some nodes, by their bytes.
    restricted: SharedMap<Digest, Vec<DatasetVersion>>,
    /// Another one each time a version of a dataset ends.
    ended: Arc<()>,
    /// With who issued each.
    tokens: SharedMap<String, (NodeId, TokenVersion)>,
    /// The keys that sign tokens, and whose they are.
    token_keys: BTreeSet<(NodeId, String)>,
    /// Nodes that were expelled and whose tokens ended with that.
    silenced: BTreeSet<NodeId>,
    nodes: SharedMap<NodeId, Membership>,
    /// Nodes that went by their own will, and have not joined again.
    left: BTreeSet<NodeId>,
    /// Of each expelled node the records that count all the same.
    expelled: BTreeMap<NodeId, Arc<HashSet<Digest>>>,
    /// Who was ever quarantined, and when last: what it made until then is not to be used, whatever became of it.
    distrusted: BTreeMap<NodeId, RecordClock>,
    /// The latest clock of a record that counts: what is written next comes after it.
    pub(crate) last: Option<RecordClock>,
    /// The latest clock of any record, also of those that do not count yet because others that let them are missing.
    seen: Option<RecordClock>,
    /// Names of which this node wrote a record that cannot be read any more. It may have been their end, or have closed a function to
    /// the public, so none of them has a newest version: a broken disk lets nobody in, and gives no old data as new.
    lost: Arc<BTreeSet<(RecordKind, String)>>,
    /// Rises with every record applied, so that what is derived from the records can tell that it is old.
    pub generation: u64,
}

impl Records {
    pub fn new(founder: NodeId) -> Self {
        Records {
            founder,
            functions: SharedMap::default(),
            datasets: SharedMap::default(),
            digests: SharedMap::default(),
            restricted: SharedMap::default(),
            ended: Arc::default(),
            tokens: SharedMap::default(),
            token_keys: BTreeSet::new(),
            silenced: BTreeSet::new(),
            nodes: SharedMap::default(),
            left: BTreeSet::new(),
            expelled: BTreeMap::new(),
            distrusted: BTreeMap::new(),
            last: None,
            seen: None,
            lost: Arc::default(),
            generation: 0,
        }
    }

    /// What `entries` add up to, in the order of their clocks, and which of them do not count.
    pub fn of(founder: NodeId, entries: &mut [Entry]) -> (Self, Vec<(RecordKey, Ignored)>) {
        entries.sort_by(|a, b| a.key.clock.cmp(&b.key.clock).then_with(|| a.key.cmp(&b.key)));
        let mut records = Records::new(founder);
        // An expulsion changes what earlier records count for, so all are judged again by it. Each round settles the
        // expulsions by the next most senior node, so there are no more rounds than nodes.
        loop {
            let mut next = Records {
                expelled: records.expelled.clone(),
                ..Records::new(founder)
            };
            let mut found = BTreeMap::new();
            let mut ignored = Vec::new();
            for entry in entries.iter() {
                match next.take(entry) {
                    Ok(Some((node, accepted))) => {
                        found.entry(node).or_insert(Arc::new(accepted));
                    }
                    Ok(None) => {}
                    Err(reason) => ignored.push((entry.key.clone(), reason)),
                }
            }
            let settled = found == next.expelled;
            next.expelled = found;
            records = next;
            let expelled: Vec<NodeId> = records.expelled.keys().copied().collect();
            records.shut_out(&expelled);
            records.silence(&expelled);
            if settled {
                return (records, ignored);
            }
        }
    }

    /// The newest version of `name`.
    pub fn function(&self, name: &FunctionName) -> Option<&FunctionVersion> {
        let newest = self.functions.get(name)?.last();
        newest.filter(|_| !self.is_lost(RecordKind::Function, name.as_str()))
    }

    /// The newest version of every function.
    pub fn functions(&self) -> impl Iterator<Item = &FunctionVersion> {
        let newest = self.functions.values().filter_map(|versions| versions.last());
        newest.filter(|newest| !self.is_lost(RecordKind::Function, newest.name.as_str()))
    }

    /// All versions of `name`, oldest first; empty if there is none.
    pub fn function_versions(&self, name: &FunctionName) -> &[FunctionVersion] {
        self.functions.get(name).map_or(&[], |versions| versions)
    }

    /// The newest version of `name`.
    pub fn dataset(&self, name: &DatasetName) -> Option<&DatasetVersion> {
        let newest = self.datasets.get(name)?.last();
        newest.filter(|_| !self.is_lost(RecordKind::Dataset, name.as_str()))
    }

    /// The newest version of every dataset.
    pub fn datasets(&self) -> impl Iterator<Item = &DatasetVersion> {
        let newest = self.datasets.values().filter_map(|versions| versions.last());
        newest.filter(|newest| !self.is_lost(RecordKind::Dataset, newest.name.as_str()))
    }

    /// All versions of `name`, oldest first; empty if there is none.
    pub fn dataset_versions(&self, name: &DatasetName) -> &[DatasetVersion] {
        self.datasets.get(name).map_or(&[], |versions| versions)
    }

    /// Every version of every dataset.
    pub fn all_dataset_versions(&self) -> impl Iterator<Item = &DatasetVersion> {
        self.datasets.values().flat_map(|versions| versions.iter())
    }

    /// Whether a version of a dataset has these bytes.
    pub fn has_version_of(&self, digest: &Digest) -> bool {
        self.digests.contains_key(digest)
    }

    /// The versions of datasets that are kept to some nodes.
    pub fn restricted(&self) -> impl Iterator<Item = &DatasetVersion> {
        self.restricted.values().flatten()
    }

    /// The labels that all versions with these bytes ask of who holds them.
    pub fn rule_of(&self, digest: &Digest) -> Vec<Label> {
        let mut rule = Vec::new();
        for version in self.restricted.get(digest).into_iter().flatten() {
            for label in &version.only {
                if !rule.contains(label) {
                    rule.push(label.clone());
                }
            }
        }
        rule
    }

    /// The bytes that versions of datasets had `before` and that none has any more.
    pub fn ended_since(&self, before: &Records) -> Vec<Digest> {
        if Arc::ptr_eq(&self.ended, &before.ended) {
            return Vec::new();
        }
        let ended = |digest: &&Digest| !self.has_version_of(digest);
        before.digests.keys().filter(ended).copied().collect()
    }

    /// Whether nothing changed about functions between the two. It may say no where only other things did.
    pub fn has_functions_of(&self, other: &Records) -> bool {
        self.functions.ptr_eq(&other.functions)
    }

    /// The same of datasets.
    pub fn has_datasets_of(&self, other: &Records) -> bool {
        self.datasets.ptr_eq(&other.datasets)
    }

    /// Every version of every function.
    pub fn all_function_versions(&self) -> impl Iterator<Item = &FunctionVersion> {
        self.functions.values().flat_map(|versions| versions.iter())
    }

    /// What functions name by its digest as inputs. Nobody has looked whether it is a dataset.
    pub fn pinned_inputs(&self) -> BTreeSet<Digest> {
        let inputs = self
            .all_function_versions()
            .flat_map(|version| version.manifest.inputs.values());
        let pinned = inputs.filter_map(|input| match input {
            Input::Pinned(digest) => Some(*digest),
            Input::Newest(_) => None,
        });
        pinned.collect()
    }

    /// The same records, of which these cannot be read.
    pub(crate) fn without(self, lost: Arc<BTreeSet<(RecordKind, String)>>) -> Self {
        Records { lost, ..self }
    }

    /// Names of which a record cannot be read.
    pub fn unreadable(&self) -> &BTreeSet<(RecordKind, String)> {
        &self.lost
    }

    pub(crate) fn is_lost(&self, kind: RecordKind, name: &str) -> bool {
        // Hardly ever there is one, and names of nodes are made for the question.
        !self.lost.is_empty() && self.lost.contains(&(kind, name.to_owned()))
    }

    fn is_lost_node(&self, id: &NodeId) -> bool {
        !self.lost.is_empty() && self.is_lost(RecordKind::Node, &id.to_string())
    }

    /// A token that was issued and not revoked.
    pub fn token(&self, id: &str) -> Option<&TokenVersion> {
        let (_, token) = self.tokens.get(id)?;
        (!self.is_lost(RecordKind::Token, id)).then_some(token)
    }

    /// The keys that tokens may be signed with: one of each gateway that issued some.
    pub fn token_keys(&self) -> impl Iterator<Item = &str> {
        self.token_keys.iter().map(|(_, key)| key.as_str())
    }

    /// How many tokens a node issued that count.
    pub fn tokens_of(&self, node: &NodeId) -> usize {
        self.tokens.values().filter(|(issuer, _)| issuer == node).count()
    }

    /// Every token that was issued and not revoked.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenVersion> {
        let tokens = self.tokens.values().map(|(_, token)| token);
        tokens.filter(|token| !self.is_lost(RecordKind::Token, &token.id))
    }

    /// A node that belongs to the network.
    pub fn node(&self, id: &NodeId) -> Option<&Membership> {
        self.nodes.get(id).filter(|_| !self.is_lost_node(id))
    }

    /// The labels of `rule` that a node lacks: all, if it is no member.
    pub fn lacking<'a>(&self, node: &NodeId, rule: &'a [Label]) -> Vec<&'a Label> {
        let labels = self.node(node).map(|member| &member.node.labels);
        let lacks = |label: &&Label| !labels.is_some_and(|labels| label.holds(labels));
        rule.iter().filter(lacks).collect()
    }

    /// Whether a node has all labels of `rule`.
    pub fn satisfies(&self, node: &NodeId, rule: &[Label]) -> bool {
        self.lacking(node, rule).is_empty()
    }

    /// All nodes of the network, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Membership> {
        let nodes = self.nodes.values();
        nodes.filter(|member| !self.is_lost_node(&member.node.id))
    }

    /// Whether `id` writes records. The founder does so before there is any.
    pub fn is_gateway(&self, id: &NodeId) -> bool {
        let founding = *id == self.founder && self.nodes.is_empty();
        founding || self.node(id).is_some_and(|node| node.node.role == Role::Gateway)
    }

    /// Whether a node went by its own will and has not joined again.
    pub fn has_left(&self, id: &NodeId) -> bool {
        self.left.contains(id)
    }

    pub fn is_expelled(&self, id: &NodeId) -> bool {
        self.expelled.contains_key(id)
    }

    pub fn founder(&self) -> NodeId {
        self.founder
    }

    /// Who was ever quarantined, and when last: results that it made until then are not to be used.
    pub fn distrusted(&self) -> &BTreeMap<NodeId, RecordClock> {
        &self.distrusted
    }

    /// Whether `author` may expel `node`.
    pub fn may_expel(&self, author: &NodeId, node: &NodeId) -> bool {
        let since = |id: &NodeId| self.nodes.get(id).map(|node| node.since);
        match (since(author), since(node)) {
            _ if *node == self.founder => false,
            _ if *author == self.founder => true,
            (Some(author), Some(node)) => author < node,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
