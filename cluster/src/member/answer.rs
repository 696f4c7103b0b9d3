//! What members ask of this node.

use std::sync::Arc;

use nearfield_net::Contact;
use nearfield_net::control::{Asked, MAX_ASKED, MemberEvent, Question, Reply};
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, NodeId, Problem, ProblemKind};
use tokio::sync::{Semaphore, mpsc};

use super::Member;
use super::repair::REPLICAS_RANGE;
use crate::problem::{net_problem, store_problem};
use crate::recording::{Described, labels};

/// Questions that are answered at once.
const ANSWERING: usize = 64;
/// Blobs that say what one dataset is: list, meta, index.
const MAX_HEADS: usize = 3;
/// Holders that are named of one blob.
const MAX_HOLDERS: usize = 8;

impl Member {
    /// Answers what members ask.
    pub async fn answer(self, mut questions: mpsc::Receiver<Asked>) {
        let places = Arc::new(Semaphore::new(ANSWERING));
        while let Some(asked) = self.next(questions.recv()).await {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let member = self.clone();
            tokio::spawn(async move {
                let reply = member.reply(asked.node, asked.question).await;
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

    async fn reply(&self, asker: NodeId, question: Question) -> Result<Reply, Problem> {
        let catalog = &self.cluster.catalog;
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
                    let table = self.cluster.hosts.table();
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
                left.map_err(net_problem)?;
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
        let (cluster, node) = (&self.cluster, &self.cluster.catalog.node);
        let mut holders: Vec<NodeId> = {
            let table = cluster.hosts.table();
            table
                .holders_of(digest)
                .map(|host| host.id)
                .filter(|id| id != asker)
                .take(MAX_HOLDERS)
                .collect()
        };
        if cluster.catalog.store.has(digest) && !holders.contains(&node.id()) {
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
    pub(super) async fn keep(&self, dataset: Option<Digest>, digests: &[Digest]) -> Result<u64, Problem> {
        let store = &self.cluster.catalog.store;
        if let Some(digest) = dataset {
            let dataset = store.dataset(&digest).await.map_err(store_problem)?;
            let heads: Vec<Digest> = dataset.heads().collect();
            store.keep(&heads).await.map_err(store_problem)?;
            self.cluster.catalog.node.refresh_residency().await;
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
        self.cluster
            .hosts
            .take(holds, &self.cluster.catalog.node.records());
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
        let catalog = &self.cluster.catalog;
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
            let table = self.cluster.hosts.table();
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
        written.map_err(net_problem)
    }
}

/// Who has a version written down.
struct WrittenBy {
    asker: NodeId,
    /// Who holds it.
    holder: NodeId,
}
