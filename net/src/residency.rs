//! Where bytes may go: the strictest rule of any dataset that holds them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use nearfield_protocol::node::Label;
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::Store;

use crate::document::Document;
use crate::view::Records;

/// What each restricted blob asks of who gets it. Blobs that are not in it may go to every member.
pub(crate) struct Residency {
    document: Arc<Document>,
    rules: RwLock<Arc<Rules>>,
}

#[derive(Default)]
struct Rules {
    /// Conditions, all of which must hold.
    by_blob: HashMap<Digest, Vec<Label>>,
    /// The lists of restricted datasets that these are from.
    read: HashSet<Digest>,
}

impl Residency {
    pub fn new(document: Arc<Document>) -> Self {
        Residency {
            document,
            rules: RwLock::default(),
        }
    }

    /// The rule that keeps `digest` from `node`, if one does.
    pub fn forbids(&self, node: &NodeId, digest: &Digest) -> Option<String> {
        let rules = self.rules.read().expect("no panic under this lock").clone();
        let rule = rules.by_blob.get(digest)?;
        let records = self.document.records();
        let labels = records.node(node).map(|member| &member.node.labels);
        let broken = rule
            .iter()
            .filter(|label| !labels.is_some_and(|labels| label.holds(labels)));
        let broken: Vec<String> = broken.map(Label::to_string).collect();
        (!broken.is_empty()).then(|| broken.join(", "))
    }

    /// Whether the list of a restricted dataset came here since the rules were read: its shards may come next.
    pub fn is_old(&self, store: &Store) -> bool {
        let rules = self.rules.read().expect("no panic under this lock").clone();
        let records = self.document.records();
        let unread =
            |version: &DatasetVersion| !rules.read.contains(&version.digest) && store.has(&version.digest);
        restricted(&records).any(unread)
    }

    /// Reads the rules anew. A dataset whose list of shards is not here has none of them here either: the list is
    /// fetched and kept first.
    pub async fn refresh(&self, store: &Store) {
        let records = self.document.records();
        let rules = rules(&records, store).await;
        *self.rules.write().expect("no panic under this lock") = Arc::new(rules);
    }
}

async fn rules(records: &Records, store: &Store) -> Rules {
    let mut rules = Rules::default();
    for version in restricted(records) {
        let mut blobs = vec![version.digest];
        // The list itself is enough, and never leads to another fetch.
        if let Ok(list) = store.stored(&version.digest).await {
            blobs.extend(
                list.as_chunks::<32>()
                    .0
                    .iter()
                    .map(|bytes| Digest::from_bytes(*bytes)),
            );
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

fn restricted(records: &Records) -> impl Iterator<Item = &DatasetVersion> {
    records
        .all_dataset_versions()
        .filter(|version| !version.only.is_empty())
}
