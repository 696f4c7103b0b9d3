//! This node's endpoint and its replica of the records.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, pin_mut};
use iroh::Endpoint;
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh_blobs::Hash;
use iroh_docs::api::Doc;
use iroh_docs::protocol::Docs;
use iroh_docs::store::Query;
use iroh_docs::{Author, AuthorId};
use iroh_gossip::net::Gossip;
use nearfield_protocol::records::{
    DatasetRecord, DatasetVersion, FunctionRecord, FunctionVersion, RecordClock, RecordKey, RecordKind,
    TokenRecord, TokenVersion,
};
use nearfield_protocol::{DatasetName, Digest, FunctionName, NodeId};
use nearfield_store::{Store, StoreError};
use serde::Serialize;
use tokio::sync::Mutex;

use crate::identity::Identity;
use crate::view::Records;

/// Why the network part of a node failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("the node's endpoint: {0}")]
    Endpoint(String),
    #[error("the record document: {0}")]
    Records(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("`{name}` is at version {found}, not {expected}: look at what changed and try again")]
    Conflict { name: String, found: u64, expected: u64 },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// This node: its endpoint, and the records it reads and writes. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    id: NodeId,
    router: Router,
    doc: Doc,
    author: AuthorId,
    store: Store,
    /// The blobs that are records' values. The lock is held for one insertion or copy.
    values: std::sync::Mutex<HashSet<Digest>>,
    /// Replaced whole by the writer; readers clone the `Arc` and let go.
    records: RwLock<Arc<Records>>,
    /// Writers one after another: a record's clock must follow the last one's.
    writing: Mutex<()>,
}

impl Node {
    /// Binds the endpoint to `listen` and opens the records kept in `dir`.
    pub async fn open(
        dir: &Path,
        identity: &Identity,
        store: Store,
        listen: SocketAddr,
    ) -> Result<Self, NetError> {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(identity.secret().clone())
            .clear_ip_transports()
            .bind_addr(listen)
            .map_err(|error| NetError::Endpoint(error.to_string()))?
            .bind()
            .await
            .map_err(|error| NetError::Endpoint(format!("binding UDP {listen}: {error}")))?;

        let docs_dir = dir.join("records");
        std::fs::create_dir_all(&docs_dir)?;
        let gossip = Gossip::builder().spawn(endpoint.clone());
        let docs = Docs::persistent(docs_dir)
            .spawn(endpoint.clone(), store.blobs().clone(), gossip)
            .await
            .map_err(records_error)?;
        let author = Author::from_bytes(&identity.secret().to_bytes());
        let author_id = author.id();
        docs.author_import(author).await.map_err(records_error)?;
        let doc = open_document(&docs).await?;
        // No ALPN is accepted yet: strangers have nothing to talk to.
        let router = Router::builder(endpoint).spawn();

        let (records, values) = read_all(&doc, &store).await?;
        let inner = Inner {
            id: identity.node_id(),
            router,
            doc,
            author: author_id,
            store,
            values: std::sync::Mutex::new(values),
            records: RwLock::new(Arc::new(records)),
            writing: Mutex::new(()),
        };
        Ok(Node {
            inner: Arc::new(inner),
        })
    }

    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Where the endpoint listens.
    pub fn listening(&self) -> Vec<SocketAddr> {
        self.inner.router.endpoint().bound_sockets()
    }

    /// What the records say now.
    pub fn records(&self) -> Arc<Records> {
        self.inner
            .records
            .read()
            .expect("no panic under this lock")
            .clone()
    }

    /// Writes the next version of a function; `make` gets its number. Durable when this returns.
    pub async fn write_function(
        &self,
        name: &FunctionName,
        make: impl FnOnce(u64) -> FunctionVersion,
    ) -> Result<FunctionVersion, NetError> {
        let _writing = self.inner.writing.lock().await;
        let number = self
            .records()
            .function(name)
            .map_or(1, |newest| newest.version + 1);
        let version = make(number);
        let record = FunctionRecord::Deployed(Box::new(version.clone()));
        self.write(RecordKind::Function, name.as_str(), &record).await?;
        Ok(version)
    }

    /// The blobs that are records' values: they must be kept.
    pub fn record_blobs(&self) -> HashSet<Digest> {
        self.inner
            .values
            .lock()
            .expect("no panic under this lock")
            .clone()
    }

    /// Writes the next version of a dataset; `make` gets its number. Durable when this returns.
    /// With `expected`, only if that is the newest version now (0: there is none).
    pub async fn write_dataset(
        &self,
        name: &DatasetName,
        expected: Option<u64>,
        make: impl FnOnce(u64) -> DatasetVersion,
    ) -> Result<DatasetVersion, NetError> {
        let _writing = self.inner.writing.lock().await;
        let found = self.records().dataset(name).map_or(0, |newest| newest.version);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let name = name.to_string();
            return Err(NetError::Conflict {
                name,
                found,
                expected,
            });
        }
        let number = found + 1;
        let version = make(number);
        self.write(
            RecordKind::Dataset,
            name.as_str(),
            &DatasetRecord::Put(version.clone()),
        )
        .await?;
        Ok(version)
    }

    pub async fn remove_function(&self, name: &FunctionName) -> Result<(), NetError> {
        let _writing = self.inner.writing.lock().await;
        self.write(RecordKind::Function, name.as_str(), &FunctionRecord::Removed)
            .await
    }

    pub async fn remove_dataset(&self, name: &DatasetName) -> Result<(), NetError> {
        let _writing = self.inner.writing.lock().await;
        self.write(RecordKind::Dataset, name.as_str(), &DatasetRecord::Removed)
            .await
    }

    /// Forgets the versions of a dataset before `before`, which must be one of them.
    pub async fn prune_dataset(&self, name: &DatasetName, before: u64) -> Result<(), NetError> {
        let _writing = self.inner.writing.lock().await;
        self.write(
            RecordKind::Dataset,
            name.as_str(),
            &DatasetRecord::Pruned { before },
        )
        .await
    }

    pub async fn issue_token(&self, token: TokenVersion) -> Result<(), NetError> {
        let _writing = self.inner.writing.lock().await;
        let id = token.id.clone();
        self.write(RecordKind::Token, &id, &TokenRecord::Issued(token))
            .await
    }

    pub async fn revoke_token(&self, id: &str) -> Result<(), NetError> {
        let _writing = self.inner.writing.lock().await;
        self.write(RecordKind::Token, id, &TokenRecord::Revoked).await
    }

    /// Leaves the network. The store stays open.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.router.shutdown().await {
            tracing::warn!(%error, "the endpoint did not shut down cleanly");
        }
    }

    /// Value first, then the entry that names it, then a read: reading commits the document's
    /// write transaction, which otherwise waits up to half a second.
    async fn write(&self, kind: RecordKind, name: &str, value: &impl Serialize) -> Result<(), NetError> {
        let inner = &self.inner;
        let bytes = serde_json::to_vec(value).map_err(|error| NetError::Records(error.to_string()))?;
        let size_bytes = bytes.len() as u64;
        let digest = inner.store.add_record(bytes.clone().into()).await?;
        inner
            .values
            .lock()
            .expect("no panic under this lock")
            .insert(digest);

        let mut records = Records::clone(&self.records());
        let writer = *inner.id.as_bytes().first_chunk().expect("an id has 32 bytes");
        let clock = RecordClock::after(records.last, unix_ms(), writer);
        let key = RecordKey {
            kind,
            name: name.to_owned(),
            clock,
        };
        records.apply(&key, &bytes).map_err(NetError::Records)?;

        let encoded = key.encode();
        let hash = Hash::from_bytes(*digest.as_bytes());
        inner
            .doc
            .set_hash(inner.author, encoded.clone(), hash, size_bytes)
            .await
            .map_err(records_error)?;
        let committed = inner
            .doc
            .get_many(Query::key_exact(encoded))
            .await
            .map_err(records_error)?;
        pin_mut!(committed);
        match committed.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(records_error(error)),
            None => {
                return Err(NetError::Records(
                    "a record that was just written is not there".to_owned(),
                ));
            }
        }
        *inner.records.write().expect("no panic under this lock") = Arc::new(records);
        Ok(())
    }
}

/// The one document of this network.
async fn open_document(docs: &Docs) -> Result<Doc, NetError> {
    let known = docs.list().await.map_err(records_error)?;
    pin_mut!(known);
    if let Some(first) = known.next().await {
        let (id, _) = first.map_err(records_error)?;
        return docs
            .open(id)
            .await
            .map_err(records_error)?
            .ok_or_else(|| NetError::Records(format!("document {id} is listed but cannot be opened")));
    }
    docs.create().await.map_err(records_error)
}

/// What the document adds up to, and the blobs that its values are.
async fn read_all(doc: &Doc, store: &Store) -> Result<(Records, HashSet<Digest>), NetError> {
    let mut found = Vec::new();
    let entries = doc.get_many(Query::all()).await.map_err(records_error)?;
    pin_mut!(entries);
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(records_error)?;
        match RecordKey::decode(entry.key()) {
            Some(key) => found.push((key, Digest::from_bytes(*entry.content_hash().as_bytes()))),
            None => tracing::warn!(key = ?entry.key(), "a record of a kind that this build does not know"),
        }
    }
    found.sort_by_key(|(key, _)| key.clock);
    let values = found.iter().map(|(_, digest)| *digest).collect();
    let mut records = Records::default();
    for (key, digest) in found {
        let value = store.blob(&digest).await?;
        if let Err(error) = records.apply(&key, &value) {
            tracing::error!(%error, "skipping a record");
        }
    }
    Ok((records, values))
}

fn records_error(error: impl std::fmt::Display) -> NetError {
    NetError::Records(error.to_string())
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_store::StoreOptions;

    async fn open(dir: &Path) -> (Store, Node) {
        let store = Store::open(dir, StoreOptions::default()).await.unwrap();
        let identity = Identity::load_or_create(&dir.join("node.key")).unwrap();
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = Node::open(dir, &identity, store.clone(), loopback).await.unwrap();
        (store, node)
    }

    async fn put(node: &Node, name: &str) -> u64 {
        let name: DatasetName = name.parse().unwrap();
        let version = node
            .write_dataset(&name.clone(), None, |version| DatasetVersion {
                name,
                version,
                digest: Digest::EMPTY,
                size_bytes: 0,
                shards: 0,
                put_unix_ms: 0,
            })
            .await
            .unwrap();
        version.version
    }

    /// Names of which one starts with another are where a document that deletes by prefix loses records.
    #[tokio::test(flavor = "multi_thread")]
    async fn records_survive_each_other_in_every_order() {
        let orders = [
            ["a", "ab", "a/b"],
            ["a", "a/b", "ab"],
            ["ab", "a", "a/b"],
            ["ab", "a/b", "a"],
            ["a/b", "a", "ab"],
            ["a/b", "ab", "a"],
        ];
        for order in orders {
            let dir = tempfile::tempdir().unwrap();
            let (store, node) = open(dir.path()).await;
            for (index, name) in order.iter().chain(&order).enumerate() {
                assert_eq!(put(&node, name).await, 1 + index as u64 / 3);
            }
            let before = node.records();
            // What the document itself holds, not what this node remembers.
            let (after, _) = read_all(&node.inner.doc, &store).await.unwrap();
            assert_eq!(after.datasets().count(), 3, "{order:?}");
            for name in order {
                let name = name.parse().unwrap();
                assert_eq!(
                    after.dataset_versions(&name),
                    before.dataset_versions(&name),
                    "{order:?}"
                );
                assert_eq!(after.dataset_versions(&name).len(), 2);
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn writers_at_once_get_a_version_each() {
        let dir = tempfile::tempdir().unwrap();
        let (_store, node) = open(dir.path()).await;
        let writers: Vec<_> = (0..20)
            .map(|_| {
                let node = node.clone();
                tokio::spawn(async move { put(&node, "shared").await })
            })
            .collect();
        let mut versions = Vec::new();
        for writer in writers {
            versions.push(writer.await.unwrap());
        }
        versions.sort_unstable();
        assert_eq!(versions, (1..=20).collect::<Vec<_>>());
    }
}
