//! What members ask of this node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nearfield_net::control::{MAX_ASKED, PendingQuestion, Question, Reply};
use nearfield_net::{Contact, NodePlaces, Seldom};
use nearfield_protocol::records::DatasetVersion;
use nearfield_protocol::{DatasetName, Digest, NodeId, Problem, ProblemKind, unix_ms};
use tokio::sync::mpsc;

use super::Member;
use super::repair::{KEEPING, REPLICAS_RANGE};
use crate::problem::{net_problem, store_problem};
use crate::recording::{Described, labels};

/// How far the clock of a host that puts may be ahead.
const CLOCKS_APART: Duration = Duration::from_secs(24 * 3600);

/// Questions of one node that are answered at once. Its further ones wait, and keep nobody else waiting.
const ANSWERING: usize = 16;
/// Blobs that are fetched before it is looked whether the asker still waits.
const KEPT_AT_ONCE: usize = 8;
/// Blobs that say what one dataset is: list, meta, index.
const MAX_HEADS: usize = 3;
/// Holders that are named of one blob.
const MAX_HOLDERS: usize = 8;

impl Member {
    /// Answers what members ask.
    pub async fn answer(self, mut questions: mpsc::Receiver<PendingQuestion>) {
        let mut places = NodePlaces::new(ANSWERING);
        // Refusals are logged once a minute: a member decides how often it is refused.
        let refusals = Arc::new(Seldom::default());
        while let Some(asked) = self.next(questions.recv()).await {
            let places = places.of(asked.node);
            let (member, refusals) = (self.clone(), refusals.clone());
            tokio::spawn(async move {
                let Some(_place) = member.next(async { places.acquire().await.ok() }).await else {
                    return;
                };
                let reply = member.reply(asked.node, asked.question).await;
                let reply = reply.unwrap_or_else(|problem| {
                    if let Some(times) = refusals.say(Instant::now()) {
                        let node = asked.node.short();
                        tracing::warn!(node, %problem, times, "a member's question was refused");
                    }
                    Reply::Failed(problem)
                });
                // Whoever asked may be gone.
                let _ = asked.reply.send(reply);
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
                let book = self.cluster.catalog.node.peers().book().into_iter();
                let book: HashMap<_, _> = book.map(|contact| (contact.id, contact)).collect();
                let holders = digests.iter().map(|digest| self.holders(&asker, digest, &book));
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
                self.cluster.let_go(&asker).await?;
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
    fn holders(&self, asker: &NodeId, digest: &Digest, book: &HashMap<NodeId, Contact>) -> Vec<Contact> {
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
        // Of one that nobody has met since the start no address is known here; the asker may know some.
        let contact = |id: NodeId| match book.get(&id) {
            Some(contact) => contact.clone(),
            None if id == node.id() => Contact {
                id,
                addresses: node.addresses(),
            },
            None => Contact {
                id,
                addresses: Vec::new(),
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
        let (begun, mut kept) = (Instant::now(), 0);
        for some in digests.chunks(KEPT_AT_ONCE) {
            // Nobody waits for the rest any more: it is asked for again.
            if begun.elapsed() > KEEPING {
                break;
            }
            kept += store.keep(some).await.map_err(store_problem)?;
        }
        Ok(kept)
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
        self.cluster.hosts.holds(&holder, &heads, &[]);
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
        let is_past = version.put_unix_ms <= unix_ms(SystemTime::now() + CLOCKS_APART);
        if described != (version.size_bytes, version.shards) || version.name != *name || !replicas || !is_past
        {
            let text = "what is to be written down is not what the dataset says of itself";
            return Err(Problem::new(ProblemKind::BadRequest, text));
        }
        let heads: Vec<Digest> = dataset.heads().collect();
        // What is kept for the version is not let go of before its record is written. All of it is here: nobody is waited for.
        let _recording = catalog.recording.read().await;
        if may_rest {
            catalog.store.keep(&heads).await.map_err(store_problem)?;
        }
        let new: Vec<Digest> = {
            let table = self.cluster.hosts.table();
            let unknown = |digest: &&Digest| table.holders.of(digest).next().is_none();
            dataset.shards.iter().filter(unknown).copied().collect()
        };
        self.cluster.hosts.holds(&holder, &new, &[]);
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
