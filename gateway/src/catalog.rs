//! Data and records together: what must happen in one order.
//!
//! Removal decides what nothing refers to any more. A put that has sealed its shards but not yet
//! written its record would look like that, so sealing and recording happen under the read side of
//! a lock, removal under the write side. The long part of a put, cutting and importing, needs no
//! lock: what is imported is held until it is sealed.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Arc;

use nearfield_net::{NetError, Node};
use nearfield_protocol::records::{DatasetVersion, FunctionVersion};
use nearfield_protocol::{DatasetName, Digest, FunctionName, Problem, ProblemKind};
use nearfield_store::{PutProgress, PutReport, PutRequest, Store};
use tokio::sync::RwLock;

use crate::reply::store_problem;

/// Writes data and the records that name it.
pub struct Catalog {
    pub store: Store,
    pub node: Node,
    recording: RwLock<()>,
}

impl Catalog {
    pub fn new(store: Store, node: Node) -> Self {
        Catalog {
            store,
            node,
            recording: RwLock::new(()),
        }
    }

    /// Puts a dataset. Durable, data and record, when this returns.
    pub async fn put(
        &self,
        name: DatasetName,
        if_version: Option<u64>,
        input: impl Read + Send + 'static,
        request: PutRequest,
    ) -> Result<(DatasetVersion, PutReport), Problem> {
        self.check_version(&name, if_version)?;
        let staged = self
            .store
            .stage_dataset(input, request, Arc::new(PutProgress::default()))
            .await
            .map_err(store_problem)?;
        let _recording = self.recording.read().await;
        self.check_version(&name, if_version)?;
        let report = self.store.seal_dataset(staged).await.map_err(store_problem)?;
        let version = self
            .node
            .write_dataset(&name.clone(), |version| DatasetVersion {
                name,
                version,
                digest: report.digest,
                size_bytes: report.size_bytes,
                shards: report.shards,
                put_unix_ms: unix_ms(),
            })
            .await
            .map_err(net_problem)?;
        Ok((version, report))
    }

    /// Removes a dataset name with all its versions, and lets go of what nothing else refers to.
    /// Returns how many bytes the next sweep frees.
    pub async fn remove_dataset(&self, name: &DatasetName) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        let removed: Vec<Digest> = self
            .node
            .records()
            .dataset_versions(name)
            .iter()
            .map(|version| version.digest)
            .collect();
        if removed.is_empty() {
            return Err(unknown_dataset(name.as_str()));
        }
        self.node.remove_dataset(name).await.map_err(net_problem)?;
        self.release_unreferenced(removed).await
    }

    /// Removes a function. Its component goes too, if nothing else uses it.
    pub async fn remove_function(&self, name: &FunctionName) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        let components: Vec<Digest> = self
            .node
            .records()
            .function_versions(name)
            .iter()
            .map(|version| version.component)
            .collect();
        if components.is_empty() {
            return Err(unknown_function(name.as_str()));
        }
        self.node.remove_function(name).await.map_err(net_problem)?;
        let kept: HashSet<Digest> = self
            .node
            .records()
            .all_function_versions()
            .map(|version| version.component)
            .collect();
        let released: Vec<_> = components
            .into_iter()
            .filter(|digest| !kept.contains(digest))
            .collect();
        self.release(released).await
    }

    /// Writes the next version of a function, if its component is here.
    pub async fn deploy(
        &self,
        name: &FunctionName,
        make: impl FnOnce(u64) -> FunctionVersion,
    ) -> Result<FunctionVersion, Problem> {
        let _recording = self.recording.read().await;
        self.node.write_function(name, make).await.map_err(net_problem)
    }

    /// Keeps a dataset's bytes whatever happens to its name.
    pub async fn pin(&self, digest: Digest, pinned: bool) -> Result<(), Problem> {
        let _recording = self.recording.write().await;
        if pinned {
            self.store.dataset(&digest).await.map_err(store_problem)?;
            return self.store.pin(digest).map_err(store_problem);
        }
        self.store.unpin(digest).map_err(store_problem)?;
        self.release_unreferenced(vec![digest]).await.map(drop)
    }

    /// Releases what of `candidates` and their blobs no version and no pin refers to.
    async fn release_unreferenced(&self, candidates: Vec<Digest>) -> Result<u64, Problem> {
        let mut kept = HashSet::new();
        let records = self.node.records();
        let versions = records.all_dataset_versions().map(|version| version.digest);
        for digest in versions.chain(self.store.pins().map_err(store_problem)?) {
            kept.extend(self.store.dataset(&digest).await.map_err(store_problem)?.blobs());
        }
        kept.extend(records.all_function_versions().map(|version| version.component));
        let mut released = HashSet::new();
        for digest in candidates {
            match self.store.dataset(&digest).await {
                Ok(dataset) => released.extend(dataset.blobs().filter(|blob| !kept.contains(blob))),
                // A version that is quarantined or gone in part: nothing can be said of its shards.
                Err(error) => tracing::warn!(%digest, %error, "cannot tell what to release"),
            }
        }
        // The empty blob belongs to everybody.
        released.remove(&Digest::EMPTY);
        self.release(released.into_iter().collect()).await
    }

    async fn release(&self, digests: Vec<Digest>) -> Result<u64, Problem> {
        let bytes = digests
            .iter()
            .filter_map(|digest| self.store.size_of(digest).ok())
            .sum();
        self.store.release(digests).await.map_err(store_problem)?;
        Ok(bytes)
    }

    fn check_version(&self, name: &DatasetName, if_version: Option<u64>) -> Result<(), Problem> {
        let Some(expected) = if_version else { return Ok(()) };
        let found = self
            .node
            .records()
            .dataset(name)
            .map_or(0, |newest| newest.version);
        if found == expected {
            return Ok(());
        }
        Err(Problem::new(
            ProblemKind::Conflict,
            format!(
                "dataset `{name}` is at version {found}, not {expected}: look at what changed and put again"
            ),
        ))
    }
}

pub fn unknown_dataset(name: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownDataset,
        format!("no dataset `{name}`; `nearfield ls datasets` lists them"),
    )
}

pub fn unknown_function(name: &str) -> Problem {
    Problem::new(
        ProblemKind::UnknownFunction,
        format!("no function `{name}`; `nearfield ls functions` lists them"),
    )
}

fn net_problem(error: NetError) -> Problem {
    match error {
        NetError::Store(error) => store_problem(error),
        other => Problem::new(ProblemKind::Internal, other.to_string()),
    }
}

pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}
