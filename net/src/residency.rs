//! Where bytes may go: the strictest rule of any dataset that holds them.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use nearfield_protocol::node::Label;
use nearfield_protocol::{Digest, NodeId};
use nearfield_store::Store;

use crate::document::Document;
use crate::view::Records;

/// What each restricted blob asks of who gets it. Blobs that are not in it may go to every member.
pub(crate) struct Residency {
    document: Arc<Document>,
    rules: RwLock<Arc<Rules>>,
}

/// Conditions by blob, all of which must hold.
#[derive(Default)]
struct Rules(HashMap<Digest, Vec<Label>>);

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
        let rule = rules.0.get(digest)?;
        let records = self.document.records();
        let labels = records.node(node).map(|member| &member.node.labels);
        let broken = rule
            .iter()
            .filter(|label| !labels.is_some_and(|labels| label.holds(labels)));
        let broken: Vec<String> = broken.map(Label::to_string).collect();
        (!broken.is_empty()).then(|| broken.join(", "))
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
    for version in records
        .all_dataset_versions()
        .filter(|version| !version.only.is_empty())
    {
        let mut blobs = vec![version.digest];
        if store.has(&version.digest)
            && let Ok(dataset) = store.dataset(&version.digest).await
        {
            blobs.extend(dataset.blobs());
        }
        // The empty blob belongs to everybody.
        for digest in blobs.into_iter().filter(|digest| *digest != Digest::EMPTY) {
            let rule = rules.0.entry(digest).or_default();
            for label in &version.only {
                if !rule.contains(label) {
                    rule.push(label.clone());
                }
            }
        }
    }
    rules
}
