//! This node among others: what members report and ask, what becomes of it here, and what changes with the records.
//!
//! `fetch` is where blobs come from that are not here, `repair` sees that enough hosts keep each of them.

mod drains;
mod fetch;
mod lists;
mod patience;
mod repair;
mod residency;

use std::sync::Arc;
use std::time::Duration;

use nearfield_net::control::{Asked, Load, MAX_ASKED, MemberEvent, Question, Reply, Residents, changed};
use nearfield_net::{Contact, NetError, Node};
use nearfield_protocol::node::Label;
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, NodeId, Problem, ProblemKind};
use nearfield_store::Change;
use tokio::sync::{Semaphore, broadcast, mpsc};
use tokio_util::sync::CancellationToken;

pub use drains::Drain;
pub use fetch::PeerBlobs;
#[cfg(test)]
pub(crate) use repair::{Kept, wanted};
pub use repair::{REPLICAS, REPLICAS_RANGE, ROOM_BYTES};

use crate::reply::store_problem;
use crate::server::Gateway;

/// Questions that are answered at once.
const ANSWERING: usize = 64;
/// Blobs that say what one dataset is: list, meta, index.
const MAX_HEADS: usize = 3;
/// Holders that are named of one blob.
const MAX_HOLDERS: usize = 8;
/// How often this node's own host tells how busy it is.
const BEAT: Duration = Duration::from_secs(1);

/// The loops of a node among others. Each runs until `stop`.
#[derive(Clone)]
pub struct Cluster {
    pub gateway: Arc<Gateway>,
    pub stop: CancellationToken,
}

impl Cluster {
    /// Takes in what members report.
    pub async fn follow_members(self, mut members: mpsc::Receiver<MemberEvent>) {
        let node = &self.gateway.catalog.node;
        while let Some(event) = self.next(members.recv()).await {
            if let MemberEvent::Up(id, _) | MemberEvent::Gone(id) = &event {
                let came = matches!(event, MemberEvent::Up(..));
                tracing::info!(node = id.short(), came, "a member came or went");
            }
            self.gateway.hosts.take(event, &node.records());
        }
    }

    /// Takes in what this node's own host holds, as if it had reported that.
    pub async fn follow_own(self, load: Arc<dyn Fn() -> Load + Send + Sync>, mut residents: Residents) {
        let (gateway, id) = (&self.gateway, self.gateway.hosts.local());
        let mut beat = tokio::time::interval(BEAT);
        loop {
            // Listened to before what is there is read, so that no change falls between.
            let mut changes = gateway.catalog.store.changes();
            gateway.hosts.enter_local(load(), &gateway.catalog.node.records());
            match gateway.catalog.store.live() {
                Ok(held) => self.own(id, held.into(), [].into()),
                Err(error) => tracing::error!(%error, "what this node holds cannot be listed"),
            }
            let mut told = Arc::default();
            loop {
                let change = tokio::select! {
                    (added, removed) = changed(&mut residents, &mut told) => {
                        let records = gateway.catalog.node.records();
                        gateway.hosts.take(MemberEvent::Beat(id, load()), &records);
                        let event = MemberEvent::Residents { node: id, added, removed };
                        gateway.hosts.take(event, &records);
                        continue;
                    }
                    () = self.stop.cancelled() => return,
                    _ = beat.tick() => {
                        let event = MemberEvent::Beat(id, load());
                        gateway.hosts.take(event, &gateway.catalog.node.records());
                        continue;
                    }
                    change = changes.recv() => change,
                };
                match change {
                    Ok(Change::Added(added)) => self.own(id, added, [].into()),
                    Ok(Change::Removed(removed)) => self.own(id, [].into(), removed),
                    // Too many to follow: all is read again.
                    Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        }
    }

    fn own(&self, node: NodeId, added: Arc<[Digest]>, removed: Arc<[Digest]>) {
        let holds = MemberEvent::Holds {
            node,
            added: added.to_vec(),
            removed: removed.to_vec(),
        };
        self.gateway
            .hosts
            .take(holds, &self.gateway.catalog.node.records());
    }

    /// Does what a change of the records asks for.
    pub async fn follow_records(self) {
        let catalog = &self.gateway.catalog;
        let mut changes = catalog.node.changes();
        let mut before = catalog.node.records();
        loop {
            changes.mark_unchanged();
            let records = catalog.node.records();
            self.gateway.hosts.refresh(&records);
            catalog.node.shut_out().await;
            let gone = records.ended_since(&before);
            if !gone.is_empty()
                && let Err(problem) = catalog.let_go(gone).await
            {
                tracing::warn!(%problem, "what nothing refers to any more cannot be let go of");
            }
            before = records;
            if let Err(problem) = catalog.forget_if_quarantined().await {
                tracing::warn!(%problem, "what this node remembers cannot be forgotten");
            }
            if self.next(async { changes.changed().await.ok() }).await.is_none() {
                return;
            }
        }
    }

    /// Answers what members ask.
    pub async fn answer(self, mut questions: mpsc::Receiver<Asked>) {
        let places = Arc::new(Semaphore::new(ANSWERING));
        while let Some(asked) = self.next(questions.recv()).await {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let cluster = self.clone();
            tokio::spawn(async move {
                let reply = cluster.reply(asked.node, asked.question).await;
                let reply = reply.unwrap_or_else(|problem| {
                    tracing::warn!(node = asked.node.short(), %problem, "refused what a member asked");
                    Reply::Failed(problem)
                });
                // Whoever asked may be gone.
                let _ = asked.reply.send(reply);
                drop(place);
            });
        }
    }

    async fn next<T>(&self, event: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::select! {
            () = self.stop.cancelled() => None,
            event = event => event,
        }
    }

    async fn reply(&self, asker: NodeId, question: Question) -> Result<Reply, Problem> {
        let catalog = &self.gateway.catalog;
        let from_gateway = || match catalog.node.records().is_gateway(&asker) {
            true => Ok(()),
            false => Err(Problem::new(
                ProblemKind::NotPermitted,
                "only gateways ask for this",
            )),
        };
        match question {
            Question::Confirm { .. } => Ok(Reply::Confirmed(false)),
            Question::Holders { digests } if digests.len() <= MAX_ASKED => {
                let holders = digests.iter().map(|digest| self.holders(&asker, digest));
                Ok(Reply::Holders(holders.collect()))
            }
            Question::Keep {
                dataset,
                digests,
                from,
            } if digests.len() <= MAX_ASKED => {
                from_gateway()?;
                from.iter()
                    .for_each(|contact| catalog.node.peers().learn(contact));
                Ok(Reply::Kept(self.keep(dataset, &digests).await?))
            }
            Question::Spare { digests } if digests.len() <= MAX_ASKED => {
                from_gateway()?;
                catalog.store.spare(&digests).await.map_err(store_problem)?;
                Ok(Reply::Done)
            }
            Question::Erase { digests } if digests.len() <= MAX_ASKED => {
                from_gateway()?;
                self.erase(digests).await?;
                Ok(Reply::Done)
            }
            Question::Record {
                name,
                after,
                version,
                heads,
                holder,
            } if heads.len() <= MAX_HEADS => {
                if holder.is_some() {
                    from_gateway()?;
                }
                let written_by = WrittenBy {
                    asker,
                    holder: holder.unwrap_or(asker),
                };
                let recorded = self.record(written_by, &name, after, *version, heads).await?;
                Ok(Reply::Recorded(Box::new(recorded)))
            }
            Question::Leave => {
                let alone = {
                    let table = self.gateway.hosts.table();
                    table.slot(&asker).map_or(0, |slot| table.holders.only_at(slot))
                };
                if alone > 0 {
                    return Err(Problem::new(
                        ProblemKind::Conflict,
                        format!(
                            "{alone} blobs are kept by this node alone: `nearfield drain {}` at a gateway has others copy them, \
                             then leave",
                            asker.short()
                        ),
                    ));
                }
                let left = catalog.node.let_go(&asker).await;
                left.map_err(crate::catalog::net_problem)?;
                Ok(Reply::Done)
            }
            Question::Forget(what) => {
                from_gateway()?;
                Ok(Reply::Forgotten(catalog.forget(&what).await?))
            }
            Question::Holders { .. }
            | Question::Keep { .. }
            | Question::Spare { .. }
            | Question::Erase { .. }
            | Question::Record { .. } => Err(Problem::new(
                ProblemKind::BadRequest,
                "too many digests in one question",
            )
            .with_limit(format!("digests = {MAX_ASKED}"))),
        }
    }

    /// Who holds a blob, this node included, but for the asker.
    fn holders(&self, asker: &NodeId, digest: &Digest) -> Vec<Contact> {
        let (gateway, node) = (&self.gateway, &self.gateway.catalog.node);
        let mut holders: Vec<NodeId> = {
            let table = gateway.hosts.table();
            table
                .holders_of(digest)
                .map(|host| host.id)
                .filter(|id| id != asker)
                .take(MAX_HOLDERS)
                .collect()
        };
        if gateway.catalog.store.has(digest) && !holders.contains(&node.id()) {
            holders.push(node.id());
        }
        let book = node.peers().book();
        let contact = |id: NodeId| match book.iter().find(|contact| contact.id == id) {
            Some(contact) => contact.clone(),
            None => Contact {
                id,
                addresses: node.addresses(),
            },
        };
        holders.into_iter().map(contact).collect()
    }

    /// Fetches blobs of a dataset and keeps them, after the dataset's own list of them: whoever holds a shard knows by
    /// that where it may go.
    async fn keep(&self, dataset: Option<Digest>, digests: &[Digest]) -> Result<u64, Problem> {
        let store = &self.gateway.catalog.store;
        if let Some(digest) = dataset {
            let dataset = store.dataset(&digest).await.map_err(store_problem)?;
            let heads: Vec<Digest> = dataset.heads().collect();
            store.keep(&heads).await.map_err(store_problem)?;
            self.gateway.catalog.node.refresh_residency().await;
        }
        store.keep(digests).await.map_err(store_problem)
    }

    /// Takes a member's word for what it holds.
    fn claim(&self, node: &NodeId, digests: Vec<Digest>) {
        let holds = MemberEvent::Holds {
            node: *node,
            added: digests,
            removed: Vec::new(),
        };
        self.gateway
            .hosts
            .take(holds, &self.gateway.catalog.node.records());
    }

    /// Writes down a version that another node put, if it may.
    async fn record(
        &self,
        WrittenBy { asker, holder }: WrittenBy,
        name: &DatasetName,
        after: u64,
        version: DatasetVersion,
        heads: Vec<Digest>,
    ) -> Result<DatasetVersion, Problem> {
        let catalog = &self.gateway.catalog;
        let records = catalog.node.records();
        let granted = catalog.has_granted(&asker, name);
        let may = granted
            || records.is_gateway(&asker)
            || records
                .node(&asker)
                .is_some_and(|member| member.node.may_put.contains(name));
        if !may {
            return Err(Problem::new(
                ProblemKind::NotPermitted,
                format!(
                    "host {} may not put `{name}`: a gateway invites it with `--may-put {name}`, or puts the data itself",
                    asker.short()
                ),
            ));
        }
        // A gateway that goes back to an older version need not hold it.
        if !records.is_gateway(&holder) && !catalog.node.satisfies(&holder, &version.only) {
            return Err(Problem::new(
                ProblemKind::NotPermitted,
                format!(
                    "host {} may not keep `{name}`, which is for nodes with {}: put it at a gateway, which has such a node take it",
                    holder.short(),
                    labels(&version.only)
                ),
            ));
        }
        // Its report of what it holds may come later than this.
        self.claim(&holder, heads);
        // What is written down can be read: by this gateway, too. Until it is written down, no record says that it may not
        // rest here.
        let may_rest = catalog.may_keep(&version.only);
        let dataset = match may_rest {
            true => catalog.store.dataset(&version.digest).await,
            false => catalog.store.dataset_in_passing(&version.digest).await,
        };
        let dataset = dataset.map_err(store_problem)?;
        let described = (dataset.meta.size_bytes, dataset.shards.len() as u32);
        let replicas = version
            .replicas
            .is_none_or(|replicas| REPLICAS_RANGE.contains(&replicas));
        if described != (version.size_bytes, version.shards) || version.name != *name || !replicas {
            let text = "what is to be written down is not what the dataset says of itself";
            return Err(Problem::new(ProblemKind::BadRequest, text));
        }
        let heads: Vec<Digest> = dataset.heads().collect();
        if may_rest {
            catalog.store.keep(&heads).await.map_err(store_problem)?;
        }
        let new: Vec<Digest> = {
            let table = self.gateway.hosts.table();
            let unknown = |digest: &&Digest| table.holders.of(digest).next().is_none();
            dataset.shards.iter().filter(unknown).copied().collect()
        };
        self.claim(&holder, new);
        let make = |number| DatasetVersion {
            version: number,
            ..version.clone()
        };
        let written = match granted {
            // As if it had been put here: one gateway writes growth down for all.
            true => {
                let described = Described {
                    heads,
                    holder: Some(holder),
                };
                catalog.write_version(name, Some(after), described, make).await
            }
            false => catalog.node.write_dataset(name, Some(after), make).await,
        };
        written.map_err(crate::catalog::net_problem)
    }
}

/// Who has a version written down.
struct WrittenBy {
    asker: NodeId,
    /// Who holds it.
    holder: NodeId,
}

/// The blobs that say what a version is, and who holds them, if that is not this node.
#[derive(Clone)]
pub struct Described {
    pub heads: Vec<Digest>,
    pub holder: Option<NodeId>,
}

/// Labels as people read them.
pub fn labels(only: &[Label]) -> String {
    let labels: Vec<String> = only.iter().map(Label::to_string).collect();
    labels.join(", ")
}

/// The other gateways: those that are there come first, and of them the one that leads.
fn nearest_gateways(node: &Node) -> Vec<NodeId> {
    let present = node.present();
    let mut gateways = node.gateways();
    gateways.sort_by_key(|id| (!present.contains(id), *id));
    gateways
}

fn no_gateway() -> NetError {
    NetError::Membership(
        "no gateway is known: is this node still a member? `nearfield ls nodes` shows the others".to_owned(),
    )
}

/// Asks the gateways, one after the other, until one answers.
pub async fn ask_gateways(node: &Node, question: Question, patience: Duration) -> Result<Reply, NetError> {
    let mut failed = no_gateway();
    let gateways = nearest_gateways(node);
    for gateway in gateways {
        match node.ask(gateway, question.clone(), patience).await {
            Ok(reply) => return Ok(reply),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Has a version written down by another gateway: by `leader`, or by any. One whose answer was lost may have done it: that is
/// looked for before another's refusal counts, or the same rows would be laid over themselves.
pub async fn record_by_gateway(
    node: &Node,
    leader: Option<NodeId>,
    name: &DatasetName,
    after: u64,
    version: DatasetVersion,
    described: Described,
) -> Result<DatasetVersion, NetError> {
    let digest = version.digest;
    let question = Question::Record {
        name: name.clone(),
        after,
        version: Box::new(version),
        heads: described.heads,
        holder: described.holder,
    };
    let gateways = leader.map_or_else(|| nearest_gateways(node), |leader| vec![leader]);
    let (mut failed, mut lost) = (no_gateway(), false);
    for gateway in gateways {
        match node.ask(gateway, question.clone(), RECORDING).await {
            Ok(Reply::Recorded(version)) => return Ok(*version),
            Ok(Reply::Failed(problem)) if problem.kind == ProblemKind::Conflict => {
                return match lost {
                    true => written_after_all(node, name, after, digest).await,
                    false => None,
                }
                .ok_or_else(|| NetError::Conflict {
                    name: name.to_string(),
                    found: node.records().dataset(name).map_or(0, |newest| newest.version),
                    expected: after,
                });
            }
            Ok(Reply::Failed(problem)) => return Err(NetError::Membership(problem.to_string())),
            Ok(_) => failed = NetError::Membership("a gateway answered something else".to_owned()),
            Err(error) => {
                failed = error;
                lost = true;
            }
        }
    }
    Err(failed)
}

/// The version after `after` with this digest, if the records name it soon.
pub async fn written_after_all(
    node: &Node,
    name: &DatasetName,
    after: u64,
    digest: Digest,
) -> Option<DatasetVersion> {
    let find = || {
        let records = node.records();
        let versions = records.dataset_versions(name).iter();
        let mut ours = versions.filter(|version| version.version > after && version.digest == digest);
        ours.next().cloned()
    };
    let mut changes = node.changes();
    let come = changes.wait_for(|_| find().is_some());
    // The guard of what is watched is let go of before it is looked at again.
    let come = tokio::time::timeout(WRITTEN, come).await.map(|come| come.is_ok());
    if !matches!(come, Ok(true)) {
        return None;
    }
    find()
}

/// How long a record that was written elsewhere may take to come here.
const WRITTEN: Duration = Duration::from_secs(2);
/// How long a gateway may take to read a dataset's list of shards and to write it down.
const RECORDING: Duration = Duration::from_secs(30);
