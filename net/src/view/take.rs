//! How one record is judged, and what it changes.

use std::collections::HashSet;
use std::sync::Arc;

use nearfield_protocol::node::{NodeRecord, NodeVersion};
use nearfield_protocol::records::{
    DatasetRecord, DatasetVersion, FunctionRecord, RecordClock, RecordKey, RecordKind, TokenRecord,
};
use nearfield_protocol::{Digest, NodeId};
use rpds::RedBlackTreeMapSync as SharedMap;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Entry, Ignored, Membership, Records};

impl Records {
    /// Takes one record in, which must be later than all before, and end no node's membership by expulsion: then all
    /// are to be judged again, with [`Records::of`].
    pub(crate) fn apply(&mut self, entry: &Entry) -> Result<(), Ignored> {
        let taken = self.take(entry).map(drop);
        // Only what the record is about can have come back.
        match entry.key.kind {
            RecordKind::Node => {
                if let Ok(id) = entry.key.name.parse() {
                    self.shut_out(&[id]);
                }
            }
            RecordKind::Token => self.silence(&[entry.author]),
            RecordKind::Function | RecordKind::Dataset => {}
        }
        taken
    }

    /// Takes those of `nodes` out that are expelled: nobody is brought back by another's invitation.
    pub(super) fn shut_out(&mut self, nodes: &[NodeId]) {
        for id in nodes.iter().filter(|id| self.expelled.contains_key(id)) {
            self.nodes.remove_mut(id);
        }
    }

    /// Takes the tokens out of those of `issuers` that are silenced.
    pub(super) fn silence(&mut self, issuers: &[NodeId]) {
        for issuer in issuers.iter().filter(|issuer| self.silenced.contains(issuer)) {
            let theirs = self.tokens.iter().filter(|(_, (by, _))| by == issuer);
            let ids: Vec<String> = theirs.map(|(id, _)| id.clone()).collect();
            for id in ids {
                self.tokens.remove_mut(&id);
            }
            self.token_keys.retain(|(by, _)| by != issuer);
        }
    }

    /// What `author` says of a node, later than all before: for simulations and tests of what builds on records.
    pub fn tell_node(&mut self, author: NodeId, node: &NodeId, record: &NodeRecord) {
        self.tell(author, RecordKind::Node, node.to_string(), record);
    }

    /// The same of a token.
    pub fn tell_token(&mut self, author: NodeId, id: &str, record: &TokenRecord) {
        self.tell(author, RecordKind::Token, id.to_owned(), record);
    }

    fn tell(&mut self, author: NodeId, kind: RecordKind, name: String, record: &impl Serialize) {
        let writer = *author.as_bytes().first_chunk().expect("an id has 32 bytes");
        let entry = Entry {
            key: RecordKey {
                kind,
                name,
                clock: RecordClock::after(self.last, 0, writer),
            },
            author,
            value: serde_json::to_vec(record).unwrap_or_default().into(),
        };
        // What does not count changes nothing.
        let _ = self.apply(&entry);
    }

    /// Whether [`Records::apply`] can take it.
    pub(crate) fn follows(&self, entry: &Entry) -> bool {
        let expels = entry.key.kind == RecordKind::Node
            && matches!(
                serde_json::from_slice(&entry.value),
                Ok(NodeRecord::Expelled { .. })
            );
        self.seen < Some(entry.key.clock) && !expels
    }

    /// Judges a record and takes it in. An expulsion that counts is given back.
    pub(super) fn take(&mut self, entry: &Entry) -> Result<Option<(NodeId, HashSet<Digest>)>, Ignored> {
        let (key, author) = (&entry.key, entry.author);
        self.seen = self.seen.max(Some(key.clock));
        self.generation += 1;
        if key.clock.unix_ms > RecordClock::LATEST_UNIX_MS {
            return Err(Ignored::TooLate(key.clock.unix_ms));
        }
        match self.expelled.get(&author) {
            Some(accepted) if !accepted.contains(&entry.digest()) => return Err(Ignored::Expelled(author)),
            Some(_) => {}
            None if self.is_gateway(&author) => {}
            None => return Err(Ignored::NoGateway(author)),
        }
        self.last = self.last.max(Some(key.clock));
        match key.kind {
            RecordKind::Function => {
                let name = name(key)?;
                match read(entry)? {
                    FunctionRecord::Deployed(version) if version.name != name => {
                        return Err(about_another(key));
                    }
                    FunctionRecord::Deployed(version) => {
                        push(&mut self.functions, name, *version);
                    }
                    FunctionRecord::Removed => {
                        self.functions.remove_mut(&name);
                    }
                }
            }
            RecordKind::Dataset => {
                let name = name(key)?;
                match read(entry)? {
                    DatasetRecord::Put(version) if version.name != name => return Err(about_another(key)),
                    DatasetRecord::Put(version) => {
                        self.begin(&version);
                        push(&mut self.datasets, name, version);
                    }
                    DatasetRecord::Pruned { before } => {
                        let versions = self.datasets.get(&name).cloned().unwrap_or_default();
                        let (kept, gone): (Vec<_>, Vec<_>) =
                            versions.iter().partition(|version| version.version >= before);
                        if !gone.is_empty() {
                            let kept = kept.into_iter().cloned().collect();
                            self.datasets.insert_mut(name, Arc::new(kept));
                            self.end(gone);
                        }
                    }
                    DatasetRecord::Removed => {
                        if let Some(versions) = self.datasets.get(&name).cloned() {
                            self.datasets.remove_mut(&name);
                            self.end(versions.iter());
                        }
                    }
                }
            }
            RecordKind::Token => match read(entry)? {
                TokenRecord::Issued(token) if token.id != key.name => return Err(about_another(key)),
                TokenRecord::Issued(token) => {
                    self.token_keys.insert((author, token.key.clone()));
                    // What is named already is nobody's to take over.
                    if !self.tokens.contains_key(&key.name) {
                        self.tokens.insert_mut(key.name.clone(), (author, token));
                    }
                }
                TokenRecord::Revoked => {
                    self.tokens.remove_mut(&key.name);
                }
            },
            RecordKind::Node => return self.take_node(entry),
        }
        Ok(None)
    }

    /// Enters a version among those that have its bytes.
    fn begin(&mut self, version: &DatasetVersion) {
        let digest = version.digest;
        match self.digests.get_mut(&digest) {
            Some(versions) => *versions += 1,
            None => self.digests.insert_mut(digest, 1),
        }
        if !version.only.is_empty() {
            match self.restricted.get_mut(&digest) {
                Some(versions) => versions.push(version.clone()),
                None => self.restricted.insert_mut(digest, vec![version.clone()]),
            }
        }
    }

    /// Takes versions out that [`Records::begin`] entered.
    fn end<'a>(&mut self, versions: impl IntoIterator<Item = &'a DatasetVersion>) {
        self.ended = Arc::default();
        for version in versions {
            match self.digests.get_mut(&version.digest) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.digests.remove_mut(&version.digest)),
            }
            if let Some(restricted) = self.restricted.get_mut(&version.digest) {
                restricted.retain(|other| other != version);
                if restricted.is_empty() {
                    self.restricted.remove_mut(&version.digest);
                }
            }
        }
    }

    fn take_node(&mut self, entry: &Entry) -> Result<Option<(NodeId, HashSet<Digest>)>, Ignored> {
        let id: NodeId = name(&entry.key)?;
        match read(entry)? {
            // Who is here already is nobody's to make something else of.
            NodeRecord::Joined(_) if self.nodes.contains_key(&id) => {}
            NodeRecord::Joined(node) if node.id == id => self.join(entry, *node),
            NodeRecord::Joined(_) => return Err(about_another(&entry.key)),
            NodeRecord::Draining { draining } => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.draining = draining;
                    if !draining {
                        node.quarantined = None;
                    }
                }
            }
            NodeRecord::Quarantined { reason } => {
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.draining = true;
                    node.quarantined = Some(reason);
                    self.distrusted.insert(id, entry.key.clock);
                }
            }
            NodeRecord::Left => {
                if self.is_gateway(&id) && id != entry.author && !self.may_expel(&entry.author, &id) {
                    return Err(Ignored::Junior {
                        author: entry.author,
                        node: id,
                    });
                }
                if self.nodes.remove_mut(&id) {
                    self.left.insert(id);
                }
            }
            NodeRecord::Expelled {
                accepted,
                keep_tokens,
            } => {
                if !self.may_expel(&entry.author, &id) {
                    return Err(Ignored::Junior {
                        author: entry.author,
                        node: id,
                    });
                }
                self.nodes.remove_mut(&id);
                if !keep_tokens {
                    self.silenced.insert(id);
                }
                return Ok(Some((id, accepted.into_iter().collect())));
            }
        }
        Ok(None)
    }

    fn join(&mut self, entry: &Entry, node: NodeVersion) {
        let inviter = self.nodes.get(&entry.author).map(|inviter| inviter.since);
        let since = inviter.map_or(entry.key.clock, |inviter| inviter.max(entry.key.clock));
        self.left.remove(&node.id);
        self.nodes.insert_mut(
            node.id,
            Membership {
                node,
                draining: false,
                quarantined: None,
                since,
            },
        );
    }
}

/// Appends a version to those of its name.
fn push<N: Ord + Clone, V: Clone>(all: &mut SharedMap<N, Arc<Vec<V>>>, name: N, version: V) {
    match all.get_mut(&name) {
        Some(versions) => Arc::make_mut(versions).push(version),
        None => all.insert_mut(name, Arc::new(vec![version])),
    }
}

/// Whoever looks something up by its name must not be given what calls itself something else.
fn about_another(key: &RecordKey) -> Ignored {
    Ignored::Unreadable(format!("it is about something else than `{}`", key.name))
}

fn name<T: std::str::FromStr<Err: std::fmt::Display>>(key: &RecordKey) -> Result<T, Ignored> {
    let unreadable = |error: T::Err| Ignored::Unreadable(format!("`{}`: {error}", key.name));
    key.name.parse().map_err(unreadable)
}

fn read<T: DeserializeOwned>(entry: &Entry) -> Result<T, Ignored> {
    serde_json::from_slice(&entry.value).map_err(|error| Ignored::Unreadable(error.to_string()))
}
