//! Where bytes may go, and where they may rest: the strictest rule of any dataset that holds them.
//!
//! A dataset's record names the labels that its holders must have (`only`), its list names its blobs. A node with all these
//! labels may keep them. A gateway without them may read them *in passing*: the bytes stream through its memory and never
//! reach its disk. Any other member is refused them, but for the list, which says by digests alone what a node must let go of
//! when rules change.
//!
//! The sender decides, since whoever keeps a shard keeps its dataset's list; the receiver looks as well, because the record
//! may have reached it first.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nearfield_protocol::node::Label;
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::Store;
use parking_lot::{Mutex, RwLock};

use crate::document::Document;
use crate::view::Records;

/// What each restricted blob asks of who gets it. Blobs that are not in it may go to every member.
pub(crate) struct Residency {
    document: Arc<Document>,
    rules: RwLock<Arc<Rules>>,
    /// Lists of restricted datasets that passed through this node, which may not keep them. The lock is held for one look-up.
    passed: Mutex<HashMap<Digest, Arc<[Digest]>>>,
}

#[derive(Default)]
struct Rules {
    /// Conditions, all of which must hold.
    by_blob: HashMap<Digest, Vec<Label>>,
    /// The restricted datasets.
    datasets: HashSet<Digest>,
    /// Those of them whose lists were read.
    read: HashSet<Digest>,
    /// The records that these are from.
    change: u64,
}

/// What a node may do with a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    Rest,
    /// It may read it, and must not write it to its disk.
    Pass,
    /// The labels that it lacks.
    None(String),
}

impl Residency {
    pub fn new(document: Arc<Document>) -> Self {
        Residency {
            document,
            rules: RwLock::default(),
            passed: Mutex::default(),
        }
    }

    /// What `node` may do with `digest`.
    pub fn right(&self, node: &NodeId, digest: &Digest) -> Right {
        let rules = self.rules();
        let Some(rule) = rules.by_blob.get(digest) else {
            return Right::Rest;
        };
        let records = self.document.records();
        let lacking = records.lacking(node, rule);
        if lacking.is_empty() {
            Right::Rest
        } else if records.is_gateway(node) || rules.datasets.contains(digest) {
            Right::Pass
        } else {
            let lacking: Vec<String> = lacking.iter().map(|label| label.to_string()).collect();
            Right::None(lacking.join(", "))
        }
    }

    /// The labels that whoever keeps `digest` must have.
    pub fn rule(&self, digest: &Digest) -> Vec<Label> {
        self.rules().by_blob.get(digest).cloned().unwrap_or_default()
    }

    /// What of this store may not rest on `node`.
    pub fn misplaced(&self, node: &NodeId, store: &Store) -> Vec<Digest> {
        let records = self.document.records();
        let rules = self.rules();
        let misplaced = rules.by_blob.iter().filter(|(digest, rule)| {
            // A few labels are looked at sooner than the store.
            !records.satisfies(node, rule) && store.has(digest)
        });
        misplaced.map(|(digest, _)| *digest).collect()
    }

    /// Whether the records changed, or the list of a restricted dataset came here, since the rules were read: its shards may
    /// come next.
    pub fn is_old(&self, store: &Store) -> bool {
        let rules = self.rules();
        if rules.change != self.change() {
            return true;
        }
        let unread = |digest: &&Digest| !rules.read.contains(*digest) && store.has(digest);
        rules.datasets.iter().any(|digest| unread(&digest))
    }

    /// Whether the records changed since the rules were read.
    pub fn is_behind(&self) -> bool {
        self.rules().change != self.change()
    }

    /// The datasets that may not rest on `node` and whose lists were never here: nothing is known of their blobs.
    pub fn unread(&self, node: &NodeId) -> Vec<Digest> {
        let (rules, records) = (self.rules(), self.document.records());
        let unread = rules.datasets.difference(&rules.read);
        let foreign = |digest: &&Digest| {
            let rule = rules.by_blob.get(*digest);
            rule.is_some_and(|rule| !records.satisfies(node, rule))
        };
        unread.filter(foreign).copied().collect()
    }

    /// Notes a list that passes through this node. Returns whether it is one.
    pub fn note(&self, digest: &Digest, list: &[u8]) -> bool {
        if !self.rules().datasets.contains(digest) {
            return false;
        }
        let mut passed = self.passed.lock();
        passed.insert(*digest, digests(list).collect());
        true
    }

    /// Reads the rules anew. A dataset whose list of shards is not here has none of them here either: the list is
    /// fetched and kept first.
    pub async fn refresh(&self, store: &Store) {
        // Before the records are read: a change in between is read once more.
        let change = self.change();
        let records = self.document.records();
        let restricted: HashSet<Digest> = records.restricted().map(|version| version.digest).collect();
        let passed = {
            let mut passed = self.passed.lock();
            passed.retain(|digest, _| restricted.contains(digest));
            passed.clone()
        };
        let rules = Rules {
            change,
            ..rules(&records, store, &passed).await
        };
        *self.rules.write() = Arc::new(rules);
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    fn change(&self) -> u64 {
        *self.document.changes().borrow()
    }
}

async fn rules(records: &Records, store: &Store, passed: &HashMap<Digest, Arc<[Digest]>>) -> Rules {
    let mut rules = Rules::default();
    for version in records.restricted() {
        rules.datasets.insert(version.digest);
        let mut blobs = vec![version.digest];
        // The list itself is enough, and never leads to another fetch.
        if let Ok(list) = store.stored(&version.digest).await {
            blobs.extend(digests(&list));
            rules.read.insert(version.digest);
        } else if let Some(list) = passed.get(&version.digest) {
            blobs.extend(list.iter());
            rules.read.insert(version.digest);
        }
        // The empty blob belongs to everybody.
        for digest in blobs.into_iter().filter(|digest| *digest != Digest::EMPTY) {
            let rule = rules.by_blob.entry(digest).or_default();
            for label in &version.only {
                if !rule.contains(label) {
                    rule.push(label.clone());
                }
            }
        }
    }
    rules
}

/// The digests of a list.
fn digests(list: &[u8]) -> impl Iterator<Item = Digest> + '_ {
    let digests = list.as_chunks::<32>().0.iter();
    digests.map(|bytes| Digest::from_bytes(*bytes))
}
