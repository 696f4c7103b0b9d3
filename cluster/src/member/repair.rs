//! Enough hosts keep each blob: one loop, the same after a put, a loss, a corruption and a drain.
//!
//! One gateway does it at a time, the one with the lowest id of those that are there. What is missing is a pure function
//! of the records, the lists of shards and the table of hosts (`wanted`); hosts are then asked to fetch and keep, each by
//! itself, so that none waits for a slow one.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nearfield_net::Records;
use nearfield_net::control::{MAX_ASKED, Question, Reply};
use nearfield_protocol::node::Label;
use nearfield_protocol::{Digest, NodeId, Problem, ProblemKind};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval};

use super::Member;
use super::lists::Lists;
use super::patience::Patience;
use crate::cluster::Cluster;
use crate::drains::Drains;
use crate::place::holders::Slot;
use crate::place::table::{HostEntry, HostTable};
use crate::place::{Ask, best};
use crate::problem::{net_problem, store_problem};

/// How often it is looked whether enough hosts keep everything.
const ROUND: Duration = Duration::from_secs(2);
/// How long a round that found nothing to do stands for the next ones.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Hosts that keep a blob, where there are so many and nothing else is asked for.
pub const REPLICAS: u32 = 2;
/// What may be asked for instead.
pub const REPLICAS_RANGE: std::ops::RangeInclusive<u32> = 1..=16;
/// How long a host may take to fetch what it is asked to keep at once. What came until then is there when it is asked again.
pub(super) const KEEPING: Duration = Duration::from_secs(60);
/// Blobs that one host is asked to keep in one question: few enough that a question ends soon.
const BATCH: usize = 64;

/// One dataset's, or one component's, blobs, and who is to keep them.
#[derive(Clone, Copy)]
pub struct KeptBlobs<'a> {
    pub dataset: Option<Digest>,
    pub digests: &'a [Digest],
    pub replicas: u32,
    pub only: &'a [Label],
}

/// What each host is asked for.
type Orders = HashMap<NodeId, Order>;

/// What one host is asked for.
#[derive(Default)]
struct Order {
    /// To keep these, by their dataset.
    keep: HashMap<Option<Digest>, Vec<Digest>>,
    /// To let go of these, which may not rest there.
    erase: Vec<Digest>,
}

/// The hosts that are asked to keep something now. Dropped, it stops.
#[derive(Default)]
struct Asking {
    /// Each ends with what its host asked everybody for in vain.
    tasks: JoinSet<Vec<Digest>>,
    of: HashMap<NodeId, AbortHandle>,
    patience: Patience,
    lists: Lists,
    /// The last round that found nothing to do: what it looked at, and when it ended.
    settled: Option<(Sight, Instant)>,
}

/// What a round of repair depends on. A round finds nothing to do if one with the same sight found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    /// The generation of the records.
    records: u64,
    /// The changes of the table of hosts.
    table: u64,
    leads: bool,
}

impl Member {
    /// Runs rounds of repair until `stop`.
    pub async fn repair(self) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking = Asking::default();
        while self.next(async { Some(round.tick().await) }).await.is_some() {
            let looked = self.next(async { Some(self.repair_once(&mut asking).await) });
            if let Some(Err(problem)) = looked.await {
                tracing::warn!(%problem, "a round of repair could not count the replicas of every blob");
            }
        }
    }

    async fn repair_once(&self, asking: &mut Asking) -> Result<(), Problem> {
        let catalog = &self.cluster.catalog;
        if self.cluster.hosts.alone().is_some() {
            self.cluster.hosts.set_drains(HashMap::new());
            return Ok(());
        }
        let mut orders = Orders::new();
        // Versions share blobs.
        let (mut safe, mut misplaced_here) = (HashSet::new(), HashSet::new());
        let mut lost = Vec::new();
        while let Some(ended) = asking.tasks.try_join_next() {
            let in_vain = ended.unwrap_or_default().into_iter();
            lost.extend(in_vain.filter(|digest| asking.patience.in_vain(*digest)));
        }
        asking.of.retain(|_, task| !task.is_finished());
        if let Some(first) = lost.first() {
            tracing::warn!(
                blobs = lost.len(),
                first = first.short(),
                "too few hosts keep these blobs, and no node gives them: put what they were cut from again, or remove the \
                 versions that have them"
            );
        }
        // One gateway orders. The others only look what they need not keep themselves.
        let leads = catalog.node.leader().is_none();
        let records = catalog.node.records();
        let sight = Sight {
            records: records.generation,
            table: self.cluster.hosts.table().changes,
            leads,
        };
        let same = |(settled, at): (Sight, Instant)| settled == sight && at.elapsed() < LOOK_AGAIN;
        if asking.settled.is_some_and(same) {
            return Ok(());
        }
        let knows_residency = catalog.node.knows_residency();
        asking.settled = None;
        asking.lists.keep_those_of(&records);
        let mut all_well = knows_residency && asking.of.is_empty() && lost.is_empty();
        let (patience, busy) = (&mut asking.patience, &asking.of);
        patience.begin(self.cluster.hosts.table().generation);
        let mut drains = Drains::begin(&self.cluster.hosts.table());
        let look = |kept: KeptBlobs<'_>| {
            for some in kept.digests.chunks(1_024) {
                let table = self.cluster.hosts.table();
                for digest in some.iter().filter(|digest| **digest != Digest::EMPTY) {
                    // The strictest rule of any dataset that holds it.
                    let rule = catalog.node.rule(digest);
                    let kept = KeptBlobs { only: &rule, ..kept };
                    let more = wanted(&table, digest, &kept);
                    drains.count(&table, digest, more.is_none());
                    if !rule.is_empty() && is_settled(&table, digest, &kept, more.as_deref()) {
                        if !catalog.node.may_rest(digest) {
                            all_well = false;
                            misplaced_here.insert(*digest);
                        }
                        for host in misplaced(&table, digest, &rule) {
                            all_well = false;
                            // What a host is still at is looked at again once it is done.
                            if leads && !busy.contains_key(&host) {
                                orders.entry(host).or_default().erase.push(*digest);
                            }
                        }
                    }
                    let Some(more) = more else {
                        safe.insert(*digest);
                        continue;
                    };
                    all_well = false;
                    // What a host is still at is looked at again once it is done.
                    let mut free = more
                        .into_iter()
                        .filter(|host| !busy.contains_key(host))
                        .peekable();
                    if !leads || free.peek().is_none() || !patience.is_due(digest) {
                        continue;
                    }
                    for host in free {
                        let of_host = &mut orders.entry(host).or_default().keep;
                        of_host.entry(kept.dataset).or_default().push(*digest);
                    }
                }
            }
        };
        let all_read = look_at_all(&self.cluster, &records, &mut asking.lists, look).await;
        self.cluster.hosts.set_drains(drains.end());
        self.erase(misplaced_here.into_iter().collect()).await?;
        // A gateway without a host keeps bytes only until hosts do.
        if self.cluster.hosts.table().find(&catalog.node.id()).is_none() {
            let stored = safe
                .into_iter()
                .filter(|digest| catalog.store.has(digest))
                .collect::<Vec<_>>();
            catalog.store.spare(&stored).await.map_err(store_problem)?;
        }
        if all_well && all_read && orders.is_empty() {
            asking.settled = Some((sight, Instant::now()));
        }
        for (host, order) in orders {
            let member = self.clone();
            let task = asking.tasks.spawn(async move { member.order(host, order).await });
            asking.of.insert(host, task);
        }
        Ok(())
    }

    /// Asks a host to keep blobs and to let go of others, a batch at a time. Returns those of batches of which it got less
    /// than all, from whoever it asked.
    async fn order(&self, host: NodeId, mut order: Order) -> Vec<Digest> {
        let mut in_vain = Vec::new();
        order.erase.sort_unstable();
        order.erase.dedup();
        for some in order.erase.chunks(MAX_ASKED) {
            if let Err(problem) = self.order_erased(host, some).await {
                tracing::warn!(host = host.short(), %problem, "a host does not let go of what may not rest there");
            }
        }
        for (dataset, mut digests) in order.keep {
            digests.sort_unstable();
            digests.dedup();
            for some in digests.chunks(BATCH.min(MAX_ASKED)) {
                match self.order_some(host, dataset, some).await {
                    Ok(kept) => {
                        if kept < some.len() as u64 {
                            in_vain.extend_from_slice(some);
                        }
                        tracing::debug!(
                            host = host.short(),
                            kept,
                            of = some.len(),
                            "a host keeps more blobs"
                        );
                    }
                    Err(problem) => {
                        tracing::warn!(host = host.short(), %problem, "a host does not keep what it was asked to");
                        return in_vain;
                    }
                }
            }
        }
        in_vain
    }

    async fn order_erased(&self, host: NodeId, digests: &[Digest]) -> Result<(), Problem> {
        let node = &self.cluster.catalog.node;
        let digests = digests.to_vec();
        if host == node.id() {
            return self.erase(digests).await;
        }
        let asked = node.ask(host, Question::Erase { digests }, KEEPING).await;
        match asked.map_err(net_problem)? {
            Reply::Failed(problem) => Err(problem),
            _ => Ok(()),
        }
    }

    async fn order_some(
        &self,
        host: NodeId,
        dataset: Option<Digest>,
        digests: &[Digest],
    ) -> Result<u64, Problem> {
        let node = &self.cluster.catalog.node;
        if host == node.id() {
            return self.keep(dataset, digests).await;
        }
        let question = Question::Keep {
            dataset,
            digests: digests.to_vec(),
            from: node.peers().book(),
        };
        match node.ask(host, question, KEEPING).await.map_err(net_problem)? {
            Reply::Kept(kept) => Ok(kept),
            Reply::Failed(problem) => Err(problem),
            reply => Err(Problem::new(
                ProblemKind::Internal,
                format!(
                    "host {} answered an order with an unexpected reply: {reply:?}",
                    host.short()
                ),
            )),
        }
    }
}

/// Shows every blob that a record names, and who is to keep it. Whether all lists of shards were there.
pub(super) async fn look_at_all(
    cluster: &Cluster,
    records: &Records,
    lists: &mut Lists,
    mut look: impl FnMut(KeptBlobs<'_>),
) -> bool {
    let mut all = true;
    for version in records.all_dataset_versions() {
        // A list that nobody gives now says nothing of its shards.
        let Ok(listed) = lists.of(&cluster.catalog.store, &version.digest).await else {
            tracing::debug!(name = %version.name, version = version.version, "the shard list of a version cannot be read now");
            all = false;
            continue;
        };
        for digests in [&listed.heads, &listed.shards] {
            look(KeptBlobs {
                dataset: Some(version.digest),
                digests,
                replicas: version.replicas.unwrap_or(REPLICAS),
                only: &version.only,
            });
        }
    }
    for digest in records.pinned_inputs() {
        // An input that a function names by its digest outlives the name that it was put under. It may be no dataset, or nowhere.
        if records.has_version_of(&digest) {
            continue;
        }
        let listed = lists.of(&cluster.catalog.store, &digest).await.ok();
        let listed = listed.iter().flat_map(|listed| [&listed.heads, &listed.shards]);
        for digests in listed {
            look(KeptBlobs {
                dataset: Some(digest),
                digests,
                replicas: REPLICAS,
                only: &[],
            });
        }
    }
    for version in records.all_function_versions() {
        look(KeptBlobs {
            dataset: None,
            digests: &[version.component],
            replicas: REPLICAS,
            only: &[],
        });
    }
    all
}

/// The hosts that are to keep a blob in addition to those that do, as far as there are such; `None` if enough do.
pub fn wanted(table: &HostTable, digest: &Digest, kept: &KeptBlobs<'_>) -> Option<Vec<NodeId>> {
    let may = |slot: &Slot| {
        let host = table.get(*slot);
        host.is_some_and(|host| {
            host.there && !host.draining && kept.only.iter().all(|label| label.holds(&host.labels))
        })
    };
    let holders: Vec<Slot> = table.holders.of(digest).filter(may).collect();
    let missing = (kept.replicas as usize).saturating_sub(holders.len());
    if missing == 0 {
        return None;
    }
    let ask = Ask {
        key: *digest,
        component: *digest,
        component_bytes: 0,
        located: None,
        needs: &[],
        only: kept.only,
        gpu: None,
    };
    let takes = |slot| !holders.contains(&slot) && table.get(slot).is_some_and(HostEntry::has_room);
    let ids = best(&ask, table, missing, takes);
    let ids = ids.into_iter().filter_map(|slot| Some(table.get(slot)?.id));
    Some(ids.collect())
}

/// Whether as many of those that may keep a blob do as there can be, one at least: `more` could keep it in addition.
fn is_settled(table: &HostTable, digest: &Digest, kept: &KeptBlobs<'_>, more: Option<&[NodeId]>) -> bool {
    let may = |slot: Slot| {
        let host = table.get(slot);
        host.is_some_and(|host| host.there && kept.only.iter().all(|label| label.holds(&host.labels)))
    };
    more.is_none_or(<[NodeId]>::is_empty) && table.holders.of(digest).any(may)
}

/// The hosts that hold a blob without the labels that its holders must have.
fn misplaced(table: &HostTable, digest: &Digest, rule: &[Label]) -> Vec<NodeId> {
    let holders = table.holders.of(digest).filter_map(|slot| table.get(slot));
    let lacking = holders.filter(|host| !rule.iter().all(|label| label.holds(&host.labels)));
    lacking.map(|host| host.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drains::Drain;
    use nearfield_net::control::Hello;
    use nearfield_protocol::node::{NodeRecord, NodeVersion, Role, labels};

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    /// Hosts 1 to 4; the even ones are in the EU, the last one drains.
    fn table() -> HostTable {
        let (mut records, mut table) = (Records::new(id(0)), HostTable::default());
        for n in 0..=4 {
            let of: &[&str] = if n % 2 == 0 { &["region=eu"] } else { &[] };
            let node = NodeVersion {
                id: id(n),
                role: if n == 0 { Role::Gateway } else { Role::Host },
                labels: labels(of.iter().map(|label| label.parse().unwrap())).unwrap(),
                max_bytes: None,
                may_put: Vec::new(),
                addresses: Vec::new(),
                joined_unix_ms: 0,
            };
            records.tell_node(id(0), &id(n), &NodeRecord::Joined(Box::new(node)));
        }
        records.tell_node(id(0), &id(4), &NodeRecord::Draining { draining: true });
        let hello = Hello {
            addresses: Vec::new(),
            hosting: true,
            version: String::new(),
        };
        (1..=4).for_each(|n| table.up(id(n), &hello, &records));
        table
    }

    fn kept<'a>(replicas: u32, only: &'a [Label]) -> KeptBlobs<'a> {
        KeptBlobs {
            dataset: None,
            digests: &[],
            replicas,
            only,
        }
    }

    #[test]
    fn as_many_more_as_are_missing_and_never_one_that_may_not() {
        let (mut table, blob) = (table(), Digest::of(b"blob"));
        assert_eq!(wanted(&table, &blob, &kept(2, &[])).unwrap().len(), 2);
        table.holds(&id(1), &[blob], &[]);
        let more = wanted(&table, &blob, &kept(2, &[])).unwrap();
        assert!(more == [id(2)] || more == [id(3)], "{more:?}");
        table.holds(&id(2), &[blob], &[]);
        assert_eq!(wanted(&table, &blob, &kept(2, &[])), None, "enough");
        table.missed(&id(2));
        assert_eq!(
            wanted(&table, &blob, &kept(2, &[])),
            Some(vec![id(3)]),
            "one of them is silent"
        );
        // One that drains holds nothing for long, and takes nothing.
        let mut draining = self::table();
        draining.holds(&id(4), &[blob], &[]);
        let more = wanted(&draining, &blob, &kept(3, &[])).unwrap();
        assert!(more.len() == 3 && !more.contains(&id(4)), "{more:?}");
    }

    #[test]
    fn what_too_few_may_keep_is_never_safe_elsewhere() {
        let (mut table, blob) = (table(), Digest::of(b"blob"));
        let eu: [Label; 1] = ["region=eu".parse().unwrap()];
        assert_eq!(wanted(&table, &blob, &kept(2, &eu)), Some(vec![id(2)]));
        table.holds(&id(2), &[blob], &[]);
        assert_eq!(
            wanted(&table, &blob, &kept(2, &eu)),
            Some(Vec::new()),
            "nobody else may"
        );
        let nowhere: [Label; 1] = ["region=mars".parse().unwrap()];
        assert_eq!(wanted(&table, &blob, &kept(1, &nowhere)), Some(Vec::new()));
    }

    #[test]
    fn what_may_not_rest_on_a_host_leaves_it_once_those_that_may_keep_it_do() {
        let (mut table, blob) = (table(), Digest::of(b"blob"));
        let eu: [Label; 1] = ["region=eu".parse().unwrap()];
        let settled = |table: &HostTable| {
            let kept = kept(2, &eu);
            is_settled(table, &blob, &kept, wanted(table, &blob, &kept).as_deref())
        };
        for n in [1, 3] {
            table.holds(&id(n), &[blob], &[]);
        }
        assert_eq!(misplaced(&table, &blob, &eu), [id(1), id(3)]);
        assert!(!settled(&table), "host 2 is to have it first");
        table.holds(&id(2), &[blob], &[]);
        assert!(settled(&table), "host 4 drains, so there are no others");
        assert_eq!(misplaced(&table, &blob, &eu), [id(1), id(3)]);
        table.missed(&id(2));
        assert!(!settled(&table), "the only one is silent");
    }

    #[test]
    fn a_drain_is_done_when_enough_others_keep_each_blob() {
        let mut table = table();
        let (shared, lonely, foreign) = (Digest::of(b"1"), Digest::of(b"2"), Digest::of(b"3"));
        for n in [1, 2, 4] {
            table.holds(&id(n), &[shared], &[]);
        }
        table.holds(&id(4), &[lonely], &[]);
        table.holds(&id(1), &[foreign], &[]);
        let count = |table: &HostTable| {
            let mut drains = Drains::begin(table);
            // Two versions that have the same blobs.
            for digest in [shared, lonely, foreign, shared, lonely] {
                let enough = wanted(table, &digest, &kept(2, &[])).is_none();
                drains.count(table, &digest, enough);
            }
            drains.end()
        };
        assert_eq!(count(&table), [(id(4), Drain { held: 2, left: 1 })].into());
        for n in [2, 3] {
            table.holds(&id(n), &[lonely], &[]);
        }
        assert_eq!(count(&table), [(id(4), Drain { held: 2, left: 0 })].into());
    }
}
