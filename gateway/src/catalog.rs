//! Data and records together: what must happen in one order.
//!
//! Removal decides what nothing refers to any more. A put that has sealed its shards but not yet
//! written its record would look like that, so sealing and recording happen under the read side of
//! a lock, removal under the write side. The long part of a put, cutting and importing, needs no
//! lock: what is imported is held until it is sealed.

mod kept;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use nearfield_net::control::Forget;
use nearfield_net::{NetError, Node, Records};
use nearfield_protocol::manifest::Input;
use nearfield_protocol::node::{Label, Role};
use nearfield_protocol::records::{DatasetVersion, FunctionVersion, RecordClock};
use nearfield_protocol::{DatasetName, Digest, FunctionName, NodeId, Problem, ProblemKind};
use nearfield_store::{
    Placement, PutProgress, PutReport, PutRequest, Remembered, StagedDataset, Store, StoreError,
};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::RwLock;

use self::kept::Grants;
use crate::cluster::{self, Described};
use crate::remaining::Remaining;
use crate::reply::store_problem;

/// How often growth is laid out anew because other nodes were faster.
const GROWTH_TRIES: usize = 16;
/// How long what another node wrote may take to get here.
const SPREADING: Duration = Duration::from_secs(5);

/// What is put.
pub enum PutInput {
    Stream(Box<dyn Read + Send>),
    /// The path or URL of what stays where it is.
    InPlace(String),
}

/// Who is to keep a dataset's bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keeping {
    /// How many hosts; without it as many as its last version, or the default.
    pub replicas: Option<u32>,
    /// Labels that they must have. What a dataset grows by goes by the rules of the whole.
    pub only: Vec<Label>,
}

/// Writes data and the records that name it.
pub struct Catalog {
    pub store: Store,
    pub node: Node,
    pub remembered: Remembered,
    /// The lock is held for one look-up.
    held: Arc<Mutex<HeldDigests>>,
    /// Datasets that another node has written down and that this one's records do not name yet. The lock is held for one
    /// look-up.
    recorded: Mutex<Vec<Digest>>,
    /// For which quarantine hosts are known to have forgotten everything. The lock is held for one look-up.
    pub(crate) settled: Mutex<HashMap<NodeId, RecordClock>>,
    pub(crate) recording: RwLock<()>,
    /// Puts that other nodes take for this one, by node and name. The lock is held for one look-up.
    granted: Grants,
}

/// Where a put goes.
pub struct Target {
    pub name: DatasetName,
    /// Refused unless this is the newest version; 0 for none.
    pub if_version: Option<u64>,
    /// The gateway that had this node take the put: it writes the version down.
    pub via: Option<NodeId>,
}

impl Catalog {
    pub fn new(store: Store, node: Node, remembered: Remembered) -> Self {
        Catalog {
            store,
            node,
            remembered,
            held: Arc::default(),
            recorded: Mutex::default(),
            settled: Mutex::default(),
            recording: RwLock::new(()),
            granted: Grants::default(),
        }
    }

    /// Puts a dataset, or what it grows by. Durable, data and record, when this returns; otherwise nothing of it is
    /// kept.
    pub async fn put(
        &self,
        target: Target,
        input: PutInput,
        mut request: PutRequest,
        mut keeping: Keeping,
        progress: Arc<PutProgress>,
    ) -> Result<(DatasetVersion, PutReport), Problem> {
        let Target { name, if_version, .. } = &target;
        let (name, if_version) = (name.clone(), *if_version);
        // Told early where it can be; what counts is the check as the record is written.
        let newest = self.node.records().dataset(&name).cloned();
        check_version(&name, if_version, newest.as_ref())?;
        let grows = request.placement != Placement::Whole;
        if let Some(newest) = &newest {
            keeping.replicas = keeping.replicas.or(newest.replicas);
        }
        let asked = keeping.clone();
        keeping.only = self.rule_of(&name, &request.placement, &asked);
        if !self.may_keep(&keeping.only) {
            return Err(self.may_not_keep(&name, &keeping.only));
        }
        if grows && let Some(newest) = &newest {
            // What is added is cut as what is there.
            let base = self.store.dataset(&newest.digest).await.map_err(store_problem)?;
            base.check_grows().map_err(store_problem)?;
            request.split = request.split.or(Some(base.meta.split));
            request.shard_size_bytes = request.shard_size_bytes.or(Some(base.meta.shard_size_bytes));
            request.header = base.header_of(&request.placement);
        }
        let staged = match input {
            PutInput::Stream(stream) => self.store.stage_input(stream, request, progress).await,
            PutInput::InPlace(place) => self.store.stage_in_place(place, request, progress).await,
        };
        let mut input = staged.map_err(store_problem)?;
        let placement = input.placement().clone();
        if grows {
            // Alone: what is there must not change before it has grown.
            let _recording = self.recording.write().await;
            let mut for_nothing = Vec::new();
            let grown = loop {
                let newest = self.node.records().dataset(&name).cloned();
                check_version(&name, if_version, newest.as_ref())?;
                let after = newest.as_ref().map_or(0, |newest| newest.version);
                // Another node may have given it a rule meanwhile.
                keeping.only = self.rule_of(&name, &placement, &asked);
                if !self.may_keep(&keeping.only) {
                    return Err(self.may_not_keep(&name, &keeping.only));
                }
                let base = match newest {
                    Some(newest) => Some(self.store.dataset(&newest.digest).await.map_err(store_problem)?),
                    None => None,
                };
                let again = input.again();
                let staged = self.store.stage_dataset(input, base).await;
                let staged = staged.map_err(store_problem)?;
                let target = Target {
                    name: name.clone(),
                    if_version: Some(after),
                    via: target.via,
                };
                match self.record(&target, staged, &keeping).await? {
                    Ok(done) => break Ok(done),
                    Err((digest, problem)) => for_nothing.push((digest, problem)),
                }
                let problem = &for_nothing[for_nothing.len() - 1].1;
                let theirs = problem.kind == ProblemKind::Conflict && if_version.is_none();
                if !theirs || for_nothing.len() > GROWTH_TRIES || !self.newer_than(&name, after).await {
                    break Err(problem.clone());
                }
                // Another node was faster: the same is laid over what it wrote.
                input = again;
            };
            // Whether another node wrote it down is only known where it says so.
            let refused = for_nothing
                .into_iter()
                .filter(|(_, problem)| problem.kind == ProblemKind::Conflict);
            let for_nothing: Vec<_> = refused.map(|(digest, _)| digest).collect();
            if !for_nothing.is_empty() {
                self.release_unreferenced(for_nothing, Vec::new()).await?;
            }
            return grown;
        }
        let staged = self
            .store
            .stage_dataset(input, None)
            .await
            .map_err(store_problem)?;
        let recording = self.recording.read().await;
        let recorded = self.record(&target, staged, &keeping).await?;
        drop(recording);
        match recorded {
            Ok(done) => Ok(done),
            Err((_, problem)) if problem.kind != ProblemKind::Conflict => Err(problem),
            Err((digest, problem)) => {
                let _recording = self.recording.write().await;
                self.release_unreferenced(vec![digest], Vec::new()).await?;
                Err(problem)
            }
        }
    }

    /// Seals a dataset and writes the record of it. Where only the record fails, the digest of what is sealed
    /// for nothing comes back.
    async fn record(
        &self,
        target: &Target,
        staged: StagedDataset,
        keeping: &Keeping,
    ) -> Result<Result<(DatasetVersion, PutReport), (Digest, Problem)>, Problem> {
        let report = self.store.seal_dataset(staged).await.map_err(store_problem)?;
        let make = |version| DatasetVersion {
            name: target.name.clone(),
            version,
            digest: report.digest,
            size_bytes: report.size_bytes,
            shards: report.shards,
            put_unix_ms: unix_ms(),
            replicas: keeping.replicas,
            only: keeping.only.clone(),
        };
        let dataset = self.store.dataset(&report.digest).await.map_err(store_problem)?;
        let described = Described {
            heads: dataset.heads().collect(),
            holder: None,
        };
        let written = match (target.via, self.node.role()) {
            // Otherwise a gateway that knows nothing of the put would refuse it.
            (Some(via), Role::Host) => self.write_version_via(via, target, described, make).await,
            _ => {
                let written = self.write_version(&target.name, target.if_version, described, make);
                written.await
            }
        };
        Ok(match written {
            Ok(version) => Ok((version, report)),
            Err(error) => Err((report.digest, net_problem(error))),
        })
    }

    /// Makes an older version of a dataset, or the one before, its newest once more.
    pub async fn roll_dataset_back(
        &self,
        name: &DatasetName,
        to: Option<u64>,
    ) -> Result<DatasetVersion, Problem> {
        // Alone: what it goes back to must not be pruned meanwhile.
        let _recording = self.recording.write().await;
        let records = self.node.records();
        let versions = records.dataset_versions(name);
        let [.., newest] = versions else {
            return Err(unknown_dataset(name.as_str()));
        };
        let target = rolled_back_to(versions, to).ok_or_else(|| {
            let kept: Vec<_> = versions
                .iter()
                .map(|version| version.version.to_string())
                .collect();
            let detail = match to {
                Some(to) => format!(
                    "dataset `{name}` has no version {to}; kept are {}",
                    kept.join(", ")
                ),
                None => format!("dataset `{name}` has no version before {}", newest.version),
            };
            Problem::new(ProblemKind::UnknownDataset, detail)
        })?;
        // One that cannot be read is nothing to go back to.
        let dataset = self.store.dataset(&target.digest).await.map_err(store_problem)?;
        let make = |version| DatasetVersion {
            version,
            put_unix_ms: unix_ms(),
            ..target.clone()
        };
        let described = Described {
            heads: dataset.heads().collect(),
            holder: None,
        };
        let written = self.write_version(name, Some(newest.version), described, make);
        written.await.map_err(net_problem)
    }

    /// Writes a version's record, here or by the gateway that writes for all.
    pub(crate) async fn write_version(
        &self,
        name: &DatasetName,
        if_version: Option<u64>,
        described: Described,
        make: impl Fn(u64) -> DatasetVersion,
    ) -> Result<DatasetVersion, NetError> {
        // What a dataset grows by is written down by one gateway for all, so that none overlooks another's. Out of reach of
        // it, both versions are kept.
        let leader = self.node.leader().filter(|_| if_version.is_some());
        let after = if_version.unwrap_or(self.newest_number(name));
        let written = match (self.node.role(), leader) {
            (Role::Host, _) => {
                cluster::record_by_gateway(&self.node, None, name, after, make(after + 1), described).await
            }
            (Role::Gateway, Some(leader)) => {
                let version = make(after + 1);
                let digest = version.digest;
                let by_leader =
                    cluster::record_by_gateway(&self.node, Some(leader), name, after, version, described);
                match by_leader.await {
                    Err(NetError::Unreachable { .. }) => {
                        match self.node.write_dataset(name, if_version, make).await {
                            // It may have been written down although no answer came.
                            Err(conflict @ NetError::Conflict { .. }) => {
                                let found = cluster::written_after_all(&self.node, name, after, digest);
                                found.await.ok_or(conflict)
                            }
                            written => written,
                        }
                    }
                    written => written,
                }
            }
            (Role::Gateway, None) => self.node.write_dataset(name, if_version, make).await,
        };
        self.note_recorded(written)
    }

    /// Has the gateway write a version down that this node took the put for.
    async fn write_version_via(
        &self,
        via: NodeId,
        Target { name, if_version, .. }: &Target,
        described: Described,
        make: impl Fn(u64) -> DatasetVersion,
    ) -> Result<DatasetVersion, NetError> {
        let mut tries = 0;
        loop {
            let after = if_version.unwrap_or(self.newest_number(name));
            let (version, described) = (make(after + 1), described.clone());
            let written = cluster::record_by_gateway(&self.node, Some(via), name, after, version, described);
            match written.await {
                // Nobody asked that none should come before.
                Err(NetError::Conflict { .. })
                    if if_version.is_none() && tries < GROWTH_TRIES && self.newer_than(name, after).await =>
                {
                    tries += 1;
                }
                written => return self.note_recorded(written),
            }
        }
    }

    /// The number of the newest version; 0 if there is none.
    pub(crate) fn newest_number(&self, name: &DatasetName) -> u64 {
        let records = self.node.records();
        records.dataset(name).map_or(0, |newest| newest.version)
    }

    /// Remembers a version that another node recorded, until this node's records name it.
    fn note_recorded(&self, written: Result<DatasetVersion, NetError>) -> Result<DatasetVersion, NetError> {
        if let Ok(version) = &written {
            let mut recorded = self.recorded.lock();
            recorded.push(version.digest);
            // What was written here is among the records already.
            forget_named(&mut recorded, &self.node.records());
        }
        written
    }

    /// Waits a while for a version after `after` that another node wrote.
    async fn newer_than(&self, name: &DatasetName, after: u64) -> bool {
        self.has_come(name, after + 1).await
    }

    /// Waits a while for a version, if another node wrote it.
    pub(crate) async fn has_come(&self, name: &DatasetName, version: u64) -> bool {
        let mut changes = self.node.changes();
        let come = changes.wait_for(|_| self.newest_number(name) >= version);
        matches!(tokio::time::timeout(SPREADING, come).await, Ok(Ok(_)))
    }

    /// Forgets all versions of a dataset but the newest `keep`. Returns how many went, and how many bytes the next
    /// sweep frees.
    pub async fn prune_dataset(&self, name: &DatasetName, keep: NonZeroUsize) -> Result<(u64, u64), Problem> {
        let _recording = self.recording.write().await;
        let records = self.node.records();
        let versions = records.dataset_versions(name);
        if versions.is_empty() {
            return Err(unknown_dataset(name.as_str()));
        }
        let (gone, kept) = versions.split_at(versions.len().saturating_sub(keep.get()));
        if gone.is_empty() {
            return Ok((0, 0));
        }
        let gone = digests(gone, |version| version.digest);
        self.node
            .prune_dataset(name, kept[0].version)
            .await
            .map_err(net_problem)?;
        let pruned = gone.len() as u64;
        Ok((pruned, self.release_unreferenced(gone, Vec::new()).await?))
    }

    /// Removes a dataset name with all its versions, and lets go of what nothing else refers to; with
    /// `purge` also of all results that were computed from it.
    pub async fn remove_dataset(&self, name: &DatasetName, purge: bool) -> Result<Removed, Problem> {
        let recording = self.recording.write().await;
        let removed: Vec<Digest> = digests(self.node.records().dataset_versions(name), |version| {
            version.digest
        });
        if removed.is_empty() {
            return Err(unknown_dataset(name.as_str()));
        }
        let held = self.held.lock().clone();
        if purge && removed.iter().any(|digest| held.datasets.contains(digest)) {
            return Err(Problem::new(
                ProblemKind::Conflict,
                format!(
                    "a job, or the replay of one, works on `{name}`: `nearfield ls jobs` lists jobs; wait for it or cancel it, \
                     then purge"
                ),
            ));
        }
        let leaving = match purge {
            true => Some(self.leaving(&removed).await?),
            false => None,
        };
        self.node.remove_dataset(name).await.map_err(net_problem)?;
        let mut forgotten_results = 0;
        let (mut results, mut origins) = (Vec::new(), Vec::new());
        let mut remaining = Vec::new();
        if let Some(leaving) = leaving {
            remaining = self.remaining(&leaving).await?;
            origins.push(name.to_string());
            // A version may have been gone over by its digest alone.
            origins.extend(removed.iter().map(Digest::to_string));
            for origin in &origins {
                let forgotten = self.remembered.purge(origin).await.map_err(store_problem)?;
                forgotten_results += forgotten.results;
                results.extend(forgotten.blobs);
            }
        }
        let released_bytes = self.release_unreferenced(removed, results).await?;
        // Others may be slow to answer: nobody who writes waits for them.
        drop(recording);
        if !origins.is_empty() {
            let asked = origins.into_iter().map(Forget::For).collect();
            let (count, away) = self.forget_elsewhere(asked).await;
            forgotten_results += count;
            remaining.extend(away);
        }
        Ok(Removed {
            released_bytes,
            forgotten_results,
            remaining,
        })
    }

    /// Keeps what is still here of datasets and blobs from being let go of until the guard is dropped. What is gone is
    /// missed by who opens it.
    pub async fn hold(&self, datasets: Vec<Digest>, blobs: Vec<Digest>) -> Held {
        let _recording = self.recording.read().await;
        let mut guard = Held {
            digests: HeldDigests::default(),
            held: self.held.clone(),
        };
        for digest in datasets {
            let Ok(dataset) = self.store.dataset(&digest).await else {
                continue;
            };
            // Other nodes hold what is not here.
            let here = dataset.blobs().filter(|blob| self.store.has(blob)).collect();
            if self.store.revive(here).await.is_ok() {
                guard.digests.datasets.push(digest);
            }
        }
        for digest in blobs {
            if self.store.revive(vec![digest]).await.is_ok() {
                guard.digests.blobs.push(digest);
            }
        }
        let mut held = self.held.lock();
        held.datasets.extend(&guard.digests.datasets);
        held.blobs.extend(&guard.digests.blobs);
        drop(held);
        guard
    }

    /// Forgets remembered results beyond their limit. Returns how many.
    pub async fn evict_remembered(&self) -> Result<u64, Problem> {
        let forgotten = self.remembered.evict().await.map_err(store_problem)?;
        if !forgotten.blobs.is_empty() {
            let _recording = self.recording.write().await;
            self.release_unreferenced(Vec::new(), forgotten.blobs).await?;
        }
        Ok(forgotten.results)
    }

    /// Removes a function. Its components go too, if nothing else uses them.
    pub async fn remove_function(&self, name: &FunctionName) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        let removed = digests(self.node.records().function_versions(name), |version| {
            version.component
        });
        if removed.is_empty() {
            return Err(unknown_function(name.as_str()));
        }
        self.node.remove_function(name).await.map_err(net_problem)?;
        self.release_unreferenced(Vec::new(), removed).await
    }

    /// Writes the next version of a function, if its component is still here and `check` agrees.
    /// Nothing else is recorded between the check and the writing.
    pub async fn deploy(
        &self,
        name: &FunctionName,
        component: Digest,
        check: impl FnOnce() -> Result<(), Problem>,
        make: impl FnOnce(u64) -> FunctionVersion,
    ) -> Result<FunctionVersion, Problem> {
        let _recording = self.recording.write().await;
        self.store.size_of(&component).map_err(store_problem)?;
        check()?;
        self.node.write_function(name, make).await.map_err(net_problem)
    }

    /// Keeps a dataset's bytes whatever happens to its name.
    pub async fn pin(&self, digest: Digest, pinned: bool) -> Result<(), Problem> {
        let _recording = self.recording.write().await;
        if pinned {
            let dataset = self.store.dataset(&digest).await.map_err(store_problem)?;
            // It may be on its way out.
            let blobs = dataset.blobs().collect();
            self.store.revive(blobs).await.map_err(store_problem)?;
            return self.store.pin(digest).map_err(store_problem);
        }
        self.store.unpin(digest).map_err(store_problem)?;
        self.release_unreferenced(vec![digest], Vec::new())
            .await
            .map(drop)
    }

    /// Lets go of sealed blobs that nothing refers to: a crash between seal and record leaves such,
    /// and components that were uploaded and never deployed are such. `sealed` was listed before
    /// anybody could write.
    pub async fn release_orphans(&self, sealed: Vec<Digest>) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        let kept = self.referenced().await?;
        self.release(
            sealed
                .into_iter()
                .filter(|digest| !kept.contains(digest))
                .collect(),
        )
        .await
    }

    /// Lets go of versions that are no more by another node's word.
    pub async fn let_go(&self, datasets: Vec<Digest>) -> Result<u64, Problem> {
        let _recording = self.recording.write().await;
        {
            let mut recorded = self.recorded.lock();
            recorded.retain(|digest| !datasets.contains(digest));
        }
        let here = datasets
            .into_iter()
            .filter(|digest| self.store.has(digest))
            .collect();
        self.release_unreferenced(here, Vec::new()).await
    }

    /// Releases what of `datasets` and of plain `blobs` nothing refers to any more.
    pub(crate) async fn release_unreferenced(
        &self,
        datasets: Vec<Digest>,
        blobs: Vec<Digest>,
    ) -> Result<u64, Problem> {
        let kept = match self.referenced().await {
            Ok(kept) => kept,
            // The next start looks for orphans again.
            Err(problem) => {
                tracing::warn!(%problem, "nothing is released: cannot tell what is still needed");
                return Ok(0);
            }
        };
        let mut released: HashSet<Digest> = blobs.into_iter().collect();
        for digest in datasets {
            // No record says any more where it may rest.
            match self.store.dataset_in_passing(&digest).await {
                Ok(dataset) => released.extend(dataset.blobs()),
                // A version that is quarantined or gone in part: nothing can be said of its shards.
                Err(error) => tracing::warn!(%digest, %error, "cannot tell what to release"),
            }
        }
        self.release(
            released
                .into_iter()
                .filter(|digest| !kept.contains(digest))
                .collect(),
        )
        .await
    }

    /// Every blob that a version, a pin, a function, a record or a remembered result needs.
    async fn referenced(&self) -> Result<HashSet<Digest>, Problem> {
        let records = self.node.records();
        let mut kept = self.node.record_blobs();
        // The empty blob belongs to everybody.
        kept.insert(Digest::EMPTY);
        kept.extend(self.remembered.blobs().map_err(store_problem)?);
        kept.extend(records.all_function_versions().map(|version| version.component));
        let held = self.held.lock().clone();
        kept.extend(&held.blobs);
        let versions = records.all_dataset_versions().map(|version| version.digest);
        let pins = self.store.pins().map_err(store_problem)?;
        let recorded = {
            let mut recorded = self.recorded.lock();
            forget_named(&mut recorded, &records);
            recorded.clone()
        };
        for digest in versions.chain(pins).chain(held.datasets).chain(recorded) {
            // Whoever keeps a shard has its dataset's list, so nothing here belongs to one whose list is elsewhere.
            if matches!(self.store.stored(&digest).await, Err(StoreError::Missing(_))) {
                continue;
            }
            // One whose shards cannot be named: nothing may be released until it is mended or removed.
            let dataset = self.store.dataset(&digest).await.map_err(store_problem)?;
            kept.extend(dataset.blobs());
        }
        let functions = records.all_function_versions();
        for input in functions.flat_map(|version| version.manifest.inputs.values()) {
            if let Input::Pinned(digest) = input
                && let Ok(dataset) = self.store.dataset(digest).await
            {
                kept.extend(dataset.blobs());
            }
        }
        Ok(kept)
    }

    async fn release(&self, digests: Vec<Digest>) -> Result<u64, Problem> {
        let bytes = digests
            .iter()
            .filter_map(|digest| self.store.stored_bytes(digest).ok())
            .sum();
        if !digests.is_empty() {
            self.store.release(digests).await.map_err(store_problem)?;
        }
        Ok(bytes)
    }
}

/// Takes out of `recorded` what the records name by now.
fn forget_named(recorded: &mut Vec<Digest>, records: &Records) {
    recorded.retain(|digest| !records.has_version_of(digest));
}

/// What removing a dataset came to.
#[derive(Serialize)]
pub struct Removed {
    /// The next sweep frees them.
    pub released_bytes: u64,
    pub forgotten_results: u64,
    /// What a purge could not remove.
    pub remaining: Vec<Remaining>,
}

/// What running jobs work on, each as often as jobs do.
#[derive(Default, Clone)]
struct HeldDigests {
    datasets: Vec<Digest>,
    blobs: Vec<Digest>,
}

/// Digests that a running job needs.
pub struct Held {
    digests: HeldDigests,
    held: Arc<Mutex<HeldDigests>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        let HeldDigests { datasets, blobs } = &mut *held;
        for (all, mine) in [(datasets, &self.digests.datasets), (blobs, &self.digests.blobs)] {
            for digest in mine {
                if let Some(at) = all.iter().position(|other| other == digest) {
                    all.swap_remove(at);
                }
            }
        }
    }
}

/// The version that a dataset goes back to: the one that is named, or the newest that has other bytes.
fn rolled_back_to(versions: &[DatasetVersion], to: Option<u64>) -> Option<&DatasetVersion> {
    let newest = versions.last()?;
    let mut older = versions.iter().rev();
    match to {
        Some(to) => older.find(|version| version.version == to),
        None => older.find(|version| version.digest != newest.digest),
    }
}

fn check_version(
    name: &DatasetName,
    expected: Option<u64>,
    newest: Option<&DatasetVersion>,
) -> Result<(), Problem> {
    let found = newest.map_or(0, |newest| newest.version);
    match expected.filter(|expected| *expected != found) {
        None => Ok(()),
        Some(expected) => Err(net_problem(NetError::Conflict {
            name: name.to_string(),
            found,
            expected,
        })),
    }
}

fn digests<T>(versions: &[T], digest: impl Fn(&T) -> Digest) -> Vec<Digest> {
    versions.iter().map(digest).collect()
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

pub fn net_problem(error: NetError) -> Problem {
    match error {
        NetError::Store(error) => store_problem(error),
        NetError::Conflict { .. } => Problem::new(ProblemKind::Conflict, error.to_string()),
        NetError::Unreachable { .. } => Problem::new(ProblemKind::HostUnreachable, error.to_string()),
        NetError::NotAGateway(_) | NetError::Membership(_) | NetError::Refused { .. } => {
            Problem::new(ProblemKind::NotPermitted, error.to_string())
        }
        NetError::Unconfirmed { .. } => Problem::new(ProblemKind::HostUnreachable, error.to_string()),
        other => Problem::new(ProblemKind::Internal, other.to_string()),
    }
}

pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}
