//! Puts: what is put becomes a version, written down here or by the gateway that writes for all.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nearfield_net::NetError;
use nearfield_protocol::node::{Label, Role};
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, NodeId, Problem, ProblemKind, unix_ms};
use nearfield_store::{Placement, PutProgress, PutReport, PutRequest, StagedDataset, StagedInput};

use super::release::forget_named;
use super::state::Catalog;
use crate::problem::{net_problem, store_problem, unknown_dataset};
use crate::recording::{self, Described};

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

/// Where a put goes.
pub struct Target {
    pub name: DatasetName,
    /// Refused unless this is the newest version; 0 for none.
    pub if_version: Option<u64>,
    /// The gateway that had this node take the put: it writes the version down.
    pub via: Option<NodeId>,
}

impl Catalog {
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
        // An early check; the one that counts is made as the record is written.
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
        let input = staged.map_err(store_problem)?;
        if grows {
            // Exclusive: the version that grows stays the newest until the record is written.
            let _recording = self.recording.write().await;
            let mut for_nothing = Vec::new();
            let grown = self.grow(&target, input, &asked, &mut for_nothing).await;
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

    /// Lays the staged input over the newest version, and again over each version that another node records meanwhile. Datasets that
    /// were sealed and not recorded go to `for_nothing`.
    async fn grow(
        &self,
        target: &Target,
        mut input: StagedInput,
        asked: &Keeping,
        for_nothing: &mut Vec<Digest>,
    ) -> Result<(DatasetVersion, PutReport), Problem> {
        let name = &target.name;
        let placement = input.placement().clone();
        let mut tries = 0;
        loop {
            let newest = self.node.records().dataset(name).cloned();
            check_version(name, target.if_version, newest.as_ref())?;
            let after = newest.as_ref().map_or(0, |newest| newest.version);
            // Another node may have given it a rule meanwhile.
            let keeping = Keeping {
                only: self.rule_of(name, &placement, asked),
                ..asked.clone()
            };
            if !self.may_keep(&keeping.only) {
                return Err(self.may_not_keep(name, &keeping.only));
            }
            let base = match newest {
                Some(newest) => Some(self.store.dataset(&newest.digest).await.map_err(store_problem)?),
                None => None,
            };
            let again = input.again();
            let staged = self.store.stage_dataset(input, base).await;
            let staged = staged.map_err(store_problem)?;
            let follows = Target {
                name: name.clone(),
                if_version: Some(after),
                via: target.via,
            };
            let problem = match self.record(&follows, staged, &keeping).await? {
                Ok(done) => return Ok(done),
                Err((digest, problem)) => {
                    // Whether another node wrote it down is only known where it says so.
                    if problem.kind == ProblemKind::Conflict {
                        for_nothing.push(digest);
                    }
                    problem
                }
            };
            tries += 1;
            let theirs = problem.kind == ProblemKind::Conflict && target.if_version.is_none();
            if !theirs || tries > GROWTH_TRIES || !self.newer_than(name, after).await {
                return Err(problem);
            }
            // Another node recorded a version first: the input is laid over that one.
            input = again;
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
            put_unix_ms: unix_ms(SystemTime::now()),
            replicas: keeping.replicas,
            only: keeping.only.clone(),
        };
        let dataset = self.store.dataset(&report.digest).await.map_err(store_problem)?;
        let described = Described {
            heads: dataset.heads().collect(),
            holder: None,
        };
        Ok(match self.record_version(target, described, make).await {
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
            put_unix_ms: unix_ms(SystemTime::now()),
            ..target.clone()
        };
        let described = Described {
            heads: dataset.heads().collect(),
            holder: None,
        };
        let target = Target {
            name: name.clone(),
            if_version: Some(newest.version),
            via: None,
        };
        let written = self.record_version(&target, described, make).await;
        written.map_err(net_problem)
    }

    /// Writes a version's record, or has a gateway do so.
    async fn record_version(
        &self,
        target: &Target,
        described: Described,
        make: impl Fn(u64) -> DatasetVersion,
    ) -> Result<DatasetVersion, NetError> {
        match self.node.role() {
            Role::Host => self.write_version_at_gateway(target, described, make).await,
            Role::Gateway => {
                let written = self.write_version(&target.name, target.if_version, described, make);
                written.await
            }
        }
    }

    /// Writes a version's record as a gateway: here, or at the gateway that writes for all.
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
        let written = match leader {
            Some(leader) => {
                let version = make(after + 1);
                let digest = version.digest;
                let by_leader =
                    recording::record_by_gateway(&self.node, Some(leader), name, after, version, described);
                match by_leader.await {
                    Err(NetError::Unreachable { .. }) => {
                        match self.node.write_dataset(name, if_version, make).await {
                            // It may have been written down although no answer came.
                            Err(conflict @ NetError::Conflict { .. }) => {
                                let found = recording::written_after_all(&self.node, name, after, digest);
                                found.await.ok_or(conflict)
                            }
                            written => written,
                        }
                    }
                    written => written,
                }
            }
            None => self.node.write_dataset(name, if_version, make).await,
        };
        self.note_recorded(written)
    }

    /// Has a gateway record a version of this host's: `via`, which granted the put and alone knows of the grant, or else any.
    async fn write_version_at_gateway(
        &self,
        Target {
            name,
            if_version,
            via,
        }: &Target,
        described: Described,
        make: impl Fn(u64) -> DatasetVersion,
    ) -> Result<DatasetVersion, NetError> {
        let mut tries = 0;
        loop {
            let after = if_version.unwrap_or(self.newest_number(name));
            let (version, described) = (make(after + 1), described.clone());
            let written = recording::record_by_gateway(&self.node, *via, name, after, version, described);
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
    pub async fn has_come(&self, name: &DatasetName, version: u64) -> bool {
        let mut changes = self.node.changes();
        let come = changes.wait_for(|_| self.newest_number(name) >= version);
        matches!(tokio::time::timeout(SPREADING, come).await, Ok(Ok(_)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, byte: u8) -> DatasetVersion {
        DatasetVersion {
            name: "logs".parse().unwrap(),
            version: number,
            digest: Digest::from_bytes([byte; 32]),
            size_bytes: 1,
            shards: 1,
            put_unix_ms: 0,
            replicas: None,
            only: Vec::new(),
        }
    }

    #[test]
    fn a_put_may_ask_for_the_version_that_it_follows() {
        let name: DatasetName = "logs".parse().unwrap();
        let newest = version(3, 1);
        let kind = |expected, newest| {
            check_version(&name, expected, newest)
                .err()
                .map(|problem| problem.kind)
        };
        assert_eq!(kind(None, None), None);
        assert_eq!(kind(None, Some(&newest)), None);
        assert_eq!(kind(Some(3), Some(&newest)), None);
        assert_eq!(kind(Some(0), None), None, "there is none yet");
        for expected in [0, 2, 4] {
            assert_eq!(kind(Some(expected), Some(&newest)), Some(ProblemKind::Conflict));
        }
        assert_eq!(kind(Some(1), None), Some(ProblemKind::Conflict));
    }

    #[test]
    fn a_dataset_goes_back_to_other_bytes() {
        let versions = [version(2, 7), version(4, 8), version(5, 9), version(6, 9)];
        let to = |to| rolled_back_to(&versions, to).map(|version| version.version);
        assert_eq!(to(None), Some(4), "5 has the same bytes as 6");
        assert_eq!(to(Some(2)), Some(2));
        assert_eq!(to(Some(3)), None, "it was pruned");
        assert_eq!(rolled_back_to(&versions[2..], None), None);
        assert_eq!(rolled_back_to(&[], None), None);
    }
}
