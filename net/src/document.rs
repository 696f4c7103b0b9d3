//! The record document: this node's replica of it, what it adds up to, and writing to it.

mod damage;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, pin_mut};
use iroh::{Endpoint, EndpointAddr};
use iroh_blobs::Hash;
use iroh_docs::api::Doc;
use iroh_docs::engine::LiveEvent;
use iroh_docs::protocol::Docs;
use iroh_docs::store::{DownloadPolicy, Query};
use iroh_docs::{Author, AuthorId, Capability, NamespaceId, NamespaceSecret};
use iroh_gossip::net::Gossip;
use nearfield_protocol::node::{NodeRecord, NodeVersion, Role};
use nearfield_protocol::records::{RecordClock, RecordKey, RecordKind};
use nearfield_protocol::{Digest, NodeId, unix_ms};
use nearfield_store::{Store, StoreError};
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::{Mutex as AsyncMutex, watch};

use self::damage::RESTORE;
use crate::endpoint::endpoint_id;
use crate::error::NetError;
use crate::identity::Identity;
use crate::network::Network;
use crate::view::{Entry, Records};

/// Longest value of a record that is written, and taken from another node. An expulsion has 70 bytes for each record of the gateway that
/// it shuts out.
pub const RECORD_BYTES: u64 = 16 << 20;
/// Entries of one comparison follow each other faster than that.
const CALM: Duration = Duration::from_millis(400);
/// How often it is looked whether they still do.
const CALM_STEP: Duration = Duration::from_millis(100);
/// A comparison brings so many entries in one step, and writers fewer.
const MANY_ENTRIES: u64 = 50;
/// How long writers are waited for.
const FEW_WAIT: Duration = Duration::from_secs(1);
/// How long another comparison is waited for.
const MANY_WAIT: Duration = Duration::from_secs(10);

/// This node's replica of the records.
pub(crate) struct Document {
    /// How many entries came from other nodes, and when the last one did. The lock is held for one look.
    came: Mutex<(u64, Option<Instant>)>,
    id: NodeId,
    docs: Docs,
    doc: Doc,
    author: AuthorId,
    founder: NodeId,
    introducer: Option<NodeId>,
    store: Store,
    /// The blobs that are records' values. The lock is held for one insertion or copy.
    values: Mutex<HashSet<Digest>>,
    /// Values that were fetched and are about to count.
    fetched: Mutex<HashSet<Digest>>,
    /// Replaced whole by the writer; readers clone the `Arc` and let go.
    records: RwLock<Arc<Records>>,
    /// The generation of `records`, for those who wait for a change.
    changed: watch::Sender<u64>,
    /// Entries whose value is not here yet.
    missing: Mutex<BTreeMap<RecordKey, Absent>>,
    /// Names of which this node cannot read what it wrote. The lock is held for one look-up.
    lost: Mutex<Arc<BTreeSet<(RecordKind, String)>>>,
    /// Whether the store notes later records than are here, and they were not compared with a gateway's since.
    is_behind: AtomicBool,
    /// Writers one after another: a record's clock must follow the last one's.
    writing: AsyncMutex<()>,
}

/// An entry without its value.
#[derive(Debug, Clone)]
pub(crate) struct Absent {
    pub key: RecordKey,
    pub author: NodeId,
    pub digest: Digest,
    pub size_bytes: u64,
    /// Who sent the entry, if that is known: it likely has the value.
    pub sender: Option<NodeId>,
}

impl Absent {
    /// `None` for a record of a kind that this build does not know.
    pub fn of(entry: &iroh_docs::sync::Entry, author: AuthorId, sender: Option<NodeId>) -> Option<Self> {
        let Some(key) = RecordKey::decode(entry.key()) else {
            tracing::warn!(key = ?entry.key(), "a record of a kind that this build does not know");
            return None;
        };
        Some(Absent {
            key,
            author: NodeId::from_bytes(author.to_bytes()),
            digest: Digest::from_bytes(*entry.content_hash().as_bytes()),
            size_bytes: entry.content_len(),
            sender,
        })
    }

    pub fn with(self, value: bytes::Bytes) -> Entry {
        Entry {
            key: self.key,
            author: self.author,
            value,
        }
    }
}

/// A record that was just written.
#[derive(Debug, Clone)]
pub(crate) struct WrittenRecord {
    pub key: RecordKey,
}

impl Document {
    /// Opens the records that are kept in `dir`, or those of a network that this node founds.
    pub async fn open(
        dir: &Path,
        identity: &Identity,
        endpoint: Endpoint,
        gossip: Gossip,
        store: Store,
    ) -> Result<(Self, Network), NetError> {
        let docs_dir = dir.join("records");
        std::fs::create_dir_all(&docs_dir)?;
        let network = Network::load(dir)?;
        let kept = std::fs::metadata(docs_dir.join("docs.redb"));
        if network.is_some() && !kept.is_ok_and(|kept| kept.len() > 0) {
            return Err(NetError::Records(format!(
                "records/docs.redb is missing or empty, though {} says that the node belongs to a network: {RESTORE}",
                dir.join("network.json").display()
            )));
        }
        let docs = Docs::persistent(docs_dir)
            .spawn(endpoint, store.blobs().clone(), gossip)
            .await
            .map_err(NetError::records)?;
        let author = Author::from_bytes(&identity.secret().to_bytes());
        let author_id = author.id();
        docs.author_import(author).await.map_err(NetError::records)?;
        let id = identity.node_id();
        let (doc, network) = match network {
            Some(network) => {
                let doc = docs.open(network.document).await.map_err(NetError::records)?;
                let gone = || {
                    NetError::Records(format!(
                        "records/docs.redb does not hold the network's records ({}), which network.json names: {RESTORE}",
                        network.document
                    ))
                };
                (doc.ok_or_else(gone)?, network)
            }
            None => {
                let doc = found(&docs).await?;
                // A network is founded before anything is stored for it.
                if !store.live()?.is_empty() {
                    return Err(NetError::Records(format!(
                        "network.json and records/ are missing, though the data folder holds data: {RESTORE}"
                    )));
                }
                let network = Network {
                    document: doc.id(),
                    founder: id,
                    introducer: None,
                    role: Role::Gateway,
                    known: Vec::new(),
                };
                network.save(dir)?;
                (doc, network)
            }
        };
        // Values are fetched by ourselves: only what is verified and sealed counts.
        let nothing = DownloadPolicy::NothingExcept(Vec::new());
        doc.set_download_policy(nothing)
            .await
            .map_err(NetError::records)?;
        let document = Document {
            id,
            docs,
            doc,
            author: author_id,
            founder: network.founder,
            introducer: network.introducer,
            store,
            values: Mutex::default(),
            fetched: Mutex::default(),
            came: Mutex::default(),
            records: RwLock::new(Arc::new(Records::new(network.founder))),
            changed: watch::Sender::new(0),
            missing: Mutex::default(),
            lost: Mutex::default(),
            is_behind: AtomicBool::new(false),
            writing: AsyncMutex::new(()),
        };
        document.check_own_values().await?;
        document.read_all().await?;
        if document.note_lost() {
            document.read_all().await?;
        }
        document.check_not_older().await?;
        Ok((document, network))
    }

    /// Takes a replica into `dir` that another node granted. The folder must not have one yet.
    pub async fn import(dir: &Path, capability: Granted) -> Result<NamespaceId, NetError> {
        let docs_dir = dir.join("records");
        std::fs::create_dir_all(&docs_dir)?;
        let capability = match capability {
            Granted::Write(secret) => Capability::Write(NamespaceSecret::from_bytes(&secret)),
            Granted::Read(id) => Capability::Read(id),
        };
        let id = capability.id();
        let path = docs_dir.join("docs.redb");
        let imported = tokio::task::spawn_blocking(move || {
            let mut replicas = iroh_docs::store::Store::persistent(path)?;
            replicas.import_namespace(capability)?;
            replicas.flush()
        });
        imported
            .await
            .map_err(NetError::records)?
            .map_err(NetError::records)?;
        Ok(id)
    }

    /// What a new member is given: only gateways get to write.
    pub async fn grant(&self, role: Role) -> Result<Granted, NetError> {
        if role == Role::Host {
            return Ok(Granted::Read(self.doc.id()));
        }
        let mode = iroh_docs::api::protocol::ShareMode::Write;
        let options = iroh_docs::api::protocol::AddrInfoOptions::Id;
        let ticket = self.doc.share(mode, options).await.map_err(NetError::records)?;
        match ticket.capability {
            Capability::Write(secret) => Ok(Granted::Write(secret.to_bytes())),
            Capability::Read(_) => Err(NetError::NotAGateway("records")),
        }
    }

    pub fn docs(&self) -> &Docs {
        &self.docs
    }

    /// What the records say now.
    pub fn records(&self) -> Arc<Records> {
        self.records.read().clone()
    }

    /// Whether `node` may speak with this one. Before there are records, those may that let it in.
    pub fn admits(&self, node: &NodeId) -> bool {
        let records = self.records();
        let introduced = *node == self.founder || Some(*node) == self.introducer;
        records.node(node).is_some() || (introduced && records.node(&self.id).is_none())
    }

    /// Told each time the records change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The blobs that are records' values: they must be kept.
    pub fn values(&self) -> HashSet<Digest> {
        let mut values = self.values.lock().clone();
        values.extend(self.fetched.lock().iter());
        values
    }

    /// A value is about to be sealed, and to count soon after.
    pub fn expect_value(&self, digest: Digest) {
        self.fetched.lock().insert(digest);
    }

    /// Makes sure that the founder of a network is in its own records.
    pub async fn enter_founder(&self, make: impl FnOnce() -> NodeVersion) -> Result<(), NetError> {
        if self.founder != self.id || self.records().node(&self.id).is_some() {
            return Ok(());
        }
        let record = NodeRecord::Joined(Box::new(make()));
        let _writing = self.writing.lock().await;
        self.write(RecordKind::Node, &self.id.to_string(), &record)
            .await?;
        Ok(())
    }

    /// The lock that whoever writes holds from looking at the records until [`Document::write`] is done.
    pub async fn lock(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.writing.lock().await
    }

    /// Value first, then the entry that names it, then a read: reading commits the document's
    /// write transaction, which otherwise waits up to half a second.
    pub async fn write(
        &self,
        kind: RecordKind,
        name: &str,
        value: &impl Serialize,
    ) -> Result<WrittenRecord, NetError> {
        if !self.records().is_gateway(&self.id) {
            return Err(NetError::NotAGateway("records"));
        }
        let bytes = serde_json::to_vec(value).map_err(NetError::records)?;
        let size_bytes = bytes.len() as u64;
        if size_bytes > RECORD_BYTES {
            return Err(NetError::Records(format!(
                "a record of `{name}` has {size_bytes} bytes, and no node takes one of more than {RECORD_BYTES}"
            )));
        }
        let digest = self.store.add_record(bytes.clone().into()).await?;
        self.values.lock().insert(digest);

        let before = self.records();
        let writer = *self.id.as_bytes().first_chunk().expect("an id has 32 bytes");
        let key = RecordKey {
            kind,
            name: name.to_owned(),
            clock: RecordClock::after(before.last, unix_ms(SystemTime::now()), writer),
        };
        let entry = Entry {
            key: key.clone(),
            author: self.id,
            value: bytes.into(),
        };
        let encoded = key.encode();
        let hash = Hash::from_bytes(*digest.as_bytes());
        self.doc
            .set_hash(self.author, encoded.clone(), hash, size_bytes)
            .await
            .map_err(NetError::records)?;
        if self.value_of(&key).await?.is_none() {
            let text = "a record that was just written is not there";
            return Err(NetError::Records(text.to_owned()));
        }
        if before.follows(&entry) && Arc::ptr_eq(&before, &self.records()) {
            let mut after = Records::clone(&before);
            after
                .apply(&entry)
                .map_err(|ignored| NetError::Records(ignored.to_string()))?;
            self.replace(after);
        } else {
            self.read_all().await?;
        }
        Ok(WrittenRecord { key })
    }

    /// The value of the replica's record of this key, if it has one on disk.
    async fn value_of(&self, key: &RecordKey) -> Result<Option<Digest>, NetError> {
        let query = Query::key_exact(key.encode());
        let found = self.doc.get_many(query).await.map_err(NetError::records)?;
        pin_mut!(found);
        match found.next().await {
            Some(Ok(entry)) => Ok(Some(Digest::from_bytes(*entry.content_hash().as_bytes()))),
            Some(Err(error)) => Err(NetError::records(error)),
            None => Ok(None),
        }
    }

    /// Whether record and value are on disk here, and count.
    pub async fn holds(&self, key: &RecordKey) -> Result<bool, NetError> {
        let value = self.value_of(key).await?;
        let counts = |value: &Digest| self.values.lock().contains(value);
        Ok(value.is_some_and(|value| counts(&value) && self.store.has(&value)))
    }

    /// Reads the whole document once no writer is under way.
    pub async fn reread(&self) -> Result<(), NetError> {
        let _writing = self.writing.lock().await;
        self.read_all().await
    }

    /// An entry came from another node.
    pub fn entry_came(&self) {
        let mut came = self.came.lock();
        *came = (came.0 + 1, Some(Instant::now()));
    }

    /// Waits while entries come in: for a comparison to its end, for writers, who may go on for ever, a while.
    async fn calm(&self) {
        let began = Instant::now();
        loop {
            let (before, last) = *self.came.lock();
            if last.is_none_or(|last| last.elapsed() >= CALM) {
                return;
            }
            tokio::time::sleep(CALM_STEP).await;
            let patience = match self.came.lock().0 - before >= MANY_ENTRIES {
                true => MANY_WAIT,
                false => FEW_WAIT,
            };
            if began.elapsed() >= patience {
                return;
            }
        }
    }

    /// Exchanges what is new with these nodes, now and as it comes.
    ///
    /// Not while many entries come in: iroh-docs 0.101 stands still for good if it is asked then, because its live actor waits
    /// for the store of entries, which waits for the live actor to take more than 1,024 of them.
    pub async fn sync(&self, peers: &[NodeId]) -> Result<(), NetError> {
        self.calm().await;
        let peers = peers.iter().filter_map(|peer| endpoint_id(peer).ok());
        let peers = peers.map(EndpointAddr::new).collect();
        self.doc.start_sync(peers).await.map_err(NetError::records)
    }

    /// What happens to the document from now on.
    pub async fn events(
        &self,
    ) -> Result<impl futures_util::Stream<Item = LiveEvent> + Send + use<>, NetError> {
        let events = self.doc.subscribe().await.map_err(NetError::records)?;
        Ok(events.filter_map(|event| std::future::ready(event.ok())))
    }

    /// The values that are named and not here.
    pub fn wanted(&self) -> Vec<Absent> {
        let missing = self.missing.lock();
        missing.values().cloned().collect()
    }

    /// Reads the whole document: what came in out of order changes what later records count for.
    async fn read_all(&self) -> Result<(), NetError> {
        let mut found = Vec::new();
        let (mut missing, mut values) = (BTreeMap::new(), HashSet::new());
        let entries = self.doc.get_many(Query::all()).await.map_err(NetError::records)?;
        pin_mut!(entries);
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(NetError::records)?;
            let Some(absent) = Absent::of(&entry, entry.author(), None) else {
                continue;
            };
            match self.store.stored(&absent.digest).await {
                Ok(value) => {
                    values.insert(absent.digest);
                    let len = value.len();
                    found.push(absent.with(value.slice(0..len)));
                }
                Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => {
                    missing.insert(absent.key.clone(), absent);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let (records, ignored) = Records::of(self.founder, &mut found);
        for (key, reason) in ignored {
            tracing::warn!(kind = ?key.kind, name = key.name, %reason, "a record does not count");
        }
        *self.missing.lock() = missing;
        let before = self.latest_unix_ms();
        self.replace(records);
        *self.values.lock() = values;
        if self.latest_unix_ms() < before && !self.is_behind.load(Ordering::Relaxed) {
            // What an expelled gateway wrote counts no more: the next start is not to take that for damage.
            self.note_again().await?;
        }
        Ok(())
    }

    /// Takes in entries that came from another node, with their values.
    pub async fn take(&self, mut entries: Vec<Entry>) -> Result<(), NetError> {
        let _writing = self.writing.lock().await;
        entries.sort_by_key(|entry| entry.key.clock);
        let before = self.records();
        let mut after = Records::clone(&before);
        for entry in &entries {
            self.missing.lock().remove(&entry.key);
            if !after.follows(entry) {
                return self.read_all().await;
            }
            if let Err(reason) = after.apply(entry) {
                let (kind, name) = (entry.key.kind, &entry.key.name);
                tracing::warn!(?kind, name, %reason, "a record does not count");
            }
        }
        self.replace(after);
        let mut values = self.values.lock();
        let mut fetched = self.fetched.lock();
        for entry in &entries {
            let value = Digest::of(&entry.value);
            values.insert(value);
            fetched.remove(&value);
        }
        Ok(())
    }

    /// Notes an entry whose value is not here.
    pub fn miss(&self, absent: Absent) {
        let mut missing = self.missing.lock();
        missing.insert(absent.key.clone(), absent);
    }

    /// Every record that counts by this author, as an expulsion lists it.
    pub async fn accepted_of(&self, author: &NodeId) -> Result<Vec<Digest>, NetError> {
        if !self.records().is_gateway(author) {
            return Ok(Vec::new());
        }
        let query = Query::author(AuthorId::from(author.as_bytes()));
        let entries = self.doc.get_many(query).await.map_err(NetError::records)?;
        pin_mut!(entries);
        let mut accepted = Vec::new();
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(NetError::records)?;
            let digest = Digest::from_bytes(*entry.content_hash().as_bytes());
            if let (Some(key), Ok(value)) = (RecordKey::decode(entry.key()), self.store.stored(&digest).await)
            {
                let len = value.len();
                let value = value.slice(0..len);
                let author = *author;
                accepted.push(Entry { key, author, value }.digest());
            }
        }
        Ok(accepted)
    }

    fn replace(&self, mut records: Records) {
        self.found_again();
        let mut current = self.records.write();
        records = records.without(self.lost.lock().clone());
        records.generation = records.generation.max(current.generation + 1);
        let generation = records.generation;
        *current = Arc::new(records);
        drop(current);
        self.changed.send_replace(generation);
    }
}

/// The right to a replica.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Granted {
    Write([u8; 32]),
    Read(NamespaceId),
}

/// The one document of this network: that of an earlier start, or a new one.
async fn found(docs: &Docs) -> Result<Doc, NetError> {
    let known = docs.list().await.map_err(NetError::records)?;
    pin_mut!(known);
    if let Some(first) = known.next().await {
        let (id, _) = first.map_err(NetError::records)?;
        let open = docs.open(id).await.map_err(NetError::records)?;
        let doc =
            open.ok_or_else(|| NetError::Records(format!("document {id} is listed but cannot be opened")))?;
        // A record is written after `network.json` is on disk. To found another network over these records would let go of
        // all data that they name.
        let some = doc
            .get_many(Query::all().limit(1))
            .await
            .map_err(NetError::records)?;
        pin_mut!(some);
        return match some.next().await {
            None => Ok(doc),
            Some(_) => Err(NetError::Records(format!(
                "network.json is missing, though the data folder holds a network's records: {RESTORE}"
            ))),
        };
    }
    docs.create().await.map_err(NetError::records)
}
