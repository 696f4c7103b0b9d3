//! What a job has to run: its shards, and the tree that reduces them. Pure.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use nearfield_cluster::host::RunOf;
use nearfield_protocol::job::{
    MapSubject, PureSetting, PureSpec, ResultKey, Shape, Work, canonical_args, groups,
};
use nearfield_protocol::records::RecordClock;
use nearfield_protocol::{CallId, Digest, NodeId, Problem, ProblemKind};
use nearfield_store::Dataset;

use crate::record::{JobRecord, Selection};

/// Shards that a dry run looks at.
const DRY_RUN_SHARDS: usize = 8;

/// The shards that a job goes over.
#[derive(Debug, Clone)]
pub struct Shards {
    pub dataset: Digest,
    /// The dataset's split, as guests see it.
    pub format: String,
    pub chosen: Vec<Shard>,
    /// Of the dataset as a whole: its shards, and their bytes.
    pub all: u64,
    pub all_bytes: u64,
}

#[derive(Debug, Clone)]
pub struct Shard {
    pub index: u32,
    pub digest: Digest,
    pub size_bytes: u64,
    pub header: Arc<[u8]>,
    /// The file or part that it was cut from; none for a pack.
    pub source: Option<Arc<str>>,
}

/// One shard to map.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub index: u32,
    pub shard: Digest,
    pub size_bytes: u64,
    pub spec: PureSpec,
    pub key: ResultKey,
    pub source: Option<Arc<str>>,
}

/// One reduction, or a part that stands alone and moves up as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanNode {
    pub key: ResultKey,
    /// Its parts among the level below.
    pub parts: Range<usize>,
    /// The leaves below it.
    pub leaves: Range<usize>,
}

/// What all runs of a job share, where these hosts were quarantined.
pub fn setting(record: &JobRecord, distrusted: &BTreeMap<NodeId, RecordClock>) -> Arc<PureSetting> {
    Arc::new(PureSetting {
        function: record.function.clone(),
        component: record.component,
        args: canonical_args(&record.args),
        inputs: record.inputs.clone(),
        limits: record.limits,
        may_write: record.into.is_some(),
        origins: origins(record),
        distrusted: distrusted.clone(),
        gpu: record.gpu.clone(),
    })
}

/// What a purge of must forget this job's results.
pub fn origins(record: &JobRecord) -> Vec<String> {
    let over = match &record.dataset {
        Some(name) => name.to_string(),
        None => record.dataset_digest.to_string(),
    };
    let opened = record.inputs.values().map(Digest::to_string);
    [over].into_iter().chain(opened).collect()
}

/// The shards of `dataset` that are chosen, in their order.
pub fn shards(dataset: &Dataset, selection: &Selection) -> Result<Shards, Problem> {
    let meta = &dataset.meta;
    let headers: Vec<Arc<[u8]>> = meta
        .headers
        .iter()
        .map(|header| header.as_slice().into())
        .collect();
    let sources: Vec<Arc<str>> = meta.sources.iter().map(|source| source.as_str().into()).collect();
    let none: Arc<[u8]> = Arc::default();
    let shard = |index: u32| {
        let (shard, digest) = dataset.shard(index)?;
        let header = shard.header.and_then(|header| headers.get(header as usize));
        let source = shard.source.and_then(|source| sources.get(source as usize));
        Some(Shard {
            index,
            digest,
            size_bytes: shard.size_bytes,
            header: header.unwrap_or(&none).clone(),
            source: source.cloned(),
        })
    };
    let count = dataset.shards.len() as u32;
    let chosen: Vec<u32> = match selection {
        Selection::All => (0..count).collect(),
        Selection::Only(index) if *index < count => vec![*index],
        Selection::Only(index) => {
            return Err(Problem::new(
                ProblemKind::BadRequest,
                format!("there is no shard {index}: the dataset has {count}, counted from 0"),
            ));
        }
        Selection::Sample(fraction) => {
            let wanted =
                ((f64::from(count) * fraction).ceil() as usize).clamp(usize::from(count > 0), count as usize);
            spread(count, wanted)
        }
        Selection::DryRun => spread(count, DRY_RUN_SHARDS.min(count as usize)),
    };
    Ok(Shards {
        dataset: dataset.digest,
        format: meta.split.to_string(),
        chosen: chosen.into_iter().filter_map(shard).collect(),
        all: count.into(),
        all_bytes: meta.size_bytes,
    })
}

/// A job's leaves in shard order.
pub fn leaves(setting: &Arc<PureSetting>, shards: &Shards) -> Vec<Leaf> {
    let leaf = |shard: &Shard| {
        let spec = PureSpec {
            setting: setting.clone(),
            work: Work::Map {
                dataset: shards.dataset,
                index: shard.index,
                subject: MapSubject {
                    shard: shard.digest,
                    format: shards.format.clone(),
                    header: shard.header.clone(),
                },
            },
        };
        Leaf {
            index: shard.index,
            shard: shard.digest,
            size_bytes: shard.size_bytes,
            key: spec.key(),
            source: shard.source.clone(),
            spec,
        }
    };
    shards.chosen.iter().map(leaf).collect()
}

/// `wanted` of `count` indices, evenly spread: the same ones each time.
fn spread(count: u32, wanted: usize) -> Vec<u32> {
    (0..wanted as u64)
        .map(|n| (n * u64::from(count) / wanted as u64) as u32)
        .collect()
}

/// The levels of the tree over `leaves`, the root's last. None for fewer than two leaves. Its shape follows from the
/// digests of the shards alone: a function that ignores an argument sums the same numbers in the same order whatever it
/// is given.
pub fn tree(setting: &Arc<PureSetting>, leaves: &[Leaf]) -> Vec<Vec<PlanNode>> {
    let parts = leaves.iter().map(|leaf| (leaf.key, Shape::of_shard(leaf.shard)));
    tree_of(setting, parts)
}

/// The tree over results with these keys, of shards with these shapes.
pub fn tree_of(
    setting: &Arc<PureSetting>,
    leaves: impl IntoIterator<Item = (ResultKey, Shape)>,
) -> Vec<Vec<PlanNode>> {
    let mut levels: Vec<Vec<PlanNode>> = Vec::new();
    let (mut keys, mut shapes): (Vec<ResultKey>, Vec<Shape>) = leaves.into_iter().unzip();
    let mut spans: Vec<Range<usize>> = (0..keys.len()).map(|leaf| leaf..leaf + 1).collect();
    while keys.len() > 1 {
        let groups = groups(&shapes);
        let level: Vec<PlanNode> = groups
            .iter()
            .map(|parts| PlanNode {
                key: match &keys[parts.clone()] {
                    [alone] => *alone,
                    several => reduce(setting, several).key(),
                },
                leaves: spans[parts.start].start..spans[parts.end - 1].end,
                parts: parts.clone(),
            })
            .collect();
        shapes = groups
            .iter()
            .map(|parts| Shape::of_node(&shapes[parts.clone()]))
            .collect();
        keys = level.iter().map(|node| node.key).collect();
        spans = level.iter().map(|node| node.leaves.clone()).collect();
        levels.push(level);
    }
    levels
}

/// The reduction of `parts`.
pub fn reduce(setting: &Arc<PureSetting>, parts: &[ResultKey]) -> PureSpec {
    PureSpec {
        setting: setting.clone(),
        work: Work::Reduce {
            parts: parts.to_vec(),
        },
    }
}

/// The last step, over the root.
pub fn finish(setting: &Arc<PureSetting>, total: ResultKey) -> PureSpec {
    PureSpec {
        setting: setting.clone(),
        work: Work::Finish { total },
    }
}

/// All runs of a job, or of one shard of it, by what their log lines carry. Equal shards have one run, which is told
/// as the first of them.
pub fn runs(
    record: &JobRecord,
    distrusted: &BTreeMap<NodeId, RecordClock>,
    dataset: &Dataset,
    only: Option<u32>,
) -> Result<HashMap<CallId, RunOf>, Problem> {
    let setting = setting(record, distrusted);
    let selection = only.map_or(record.selection, Selection::Only);
    let mut leaves = leaves(&setting, &shards(dataset, &selection)?);
    let mut runs = HashMap::new();
    let mut add = |key, run| {
        runs.entry(CallId::of_result(&key)).or_insert(run);
    };
    for leaf in &leaves {
        add(leaf.key, RunOf::Shard(leaf.index));
    }
    if only.is_none() {
        // What was reduced is what did not fail.
        let failed = record.state.failures();
        leaves.retain(|leaf| failed.iter().all(|failure| failure.shard != leaf.index));
        let mut root = leaves.first().map(|leaf| leaf.key);
        for node in tree(&setting, &leaves).iter().flatten() {
            add(node.key, RunOf::Reduce);
            root = Some(node.key);
        }
        if let Some(root) = root {
            add(finish(&setting, root).key(), RunOf::Finish);
        }
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_protocol::job::PureLimits;
    use proptest::prelude::*;
    use std::time::Duration;

    fn setting() -> Arc<PureSetting> {
        Arc::new(PureSetting {
            function: "f".parse().unwrap(),
            component: Digest::of(b"component"),
            args: b"null".to_vec(),
            inputs: Default::default(),
            limits: PureLimits {
                fuel: 1,
                memory_bytes: 1,
                timeout: Duration::from_secs(1),
            },
            may_write: false,
            origins: Vec::new(),
            distrusted: Default::default(),
            gpu: None,
        })
    }

    fn leaf_of(digest: Digest) -> (ResultKey, Shape) {
        (ResultKey(digest), Shape::of_shard(digest))
    }

    fn parts(count: u32) -> Vec<(ResultKey, Shape)> {
        (0..count)
            .map(|n| leaf_of(Digest::of(&n.to_le_bytes())))
            .collect()
    }

    #[test]
    fn every_level_covers_the_one_below() {
        let levels = tree_of(&setting(), parts(3_000));
        let mut below = 3_000;
        for level in &levels {
            assert_eq!(level.first().unwrap().parts.start, 0);
            assert_eq!(level.last().unwrap().parts.end, below);
            assert!(
                level
                    .windows(2)
                    .all(|pair| pair[0].parts.end == pair[1].parts.start)
            );
            assert!(
                level
                    .windows(2)
                    .all(|pair| pair[0].leaves.end == pair[1].leaves.start)
            );
            below = level.len();
        }
        assert_eq!(below, 1);
        assert_eq!(levels.last().unwrap()[0].leaves, 0..3_000);
    }

    #[test]
    fn an_insertion_makes_one_path_anew() {
        let before = parts(3_000);
        let mut after = before.clone();
        after.insert(1_234, leaf_of(Digest::of(b"new")));
        let nodes = |leaves: &[(ResultKey, Shape)]| -> std::collections::HashSet<ResultKey> {
            tree_of(&setting(), leaves.iter().copied())
                .concat()
                .into_iter()
                .map(|node| node.key)
                .collect()
        };
        let known = nodes(&before);
        let made = nodes(&after).difference(&known).count();
        assert!(
            made <= 2 * tree_of(&setting(), after).len(),
            "{made} nodes are new"
        );
    }

    #[test]
    fn small_jobs_need_no_tree() {
        assert!(tree_of(&setting(), parts(0)).is_empty());
        assert!(tree_of(&setting(), parts(1)).is_empty());
        assert_eq!(tree_of(&setting(), parts(2)).len(), 1);
    }

    #[test]
    fn samples_are_spread_and_have_no_doubles() {
        assert_eq!(spread(10, 4), [0, 2, 5, 7]);
        assert_eq!(spread(3, 3), [0, 1, 2]);
        assert!(spread(0, 0).is_empty());
    }

    fn leaves_of(setting: &Arc<PureSetting>, shards: &[u32]) -> Vec<Leaf> {
        let leaf = |(index, shard): (usize, &u32)| {
            let shard = Digest::of(&shard.to_le_bytes());
            let spec = PureSpec {
                setting: setting.clone(),
                work: Work::Map {
                    dataset: Digest::EMPTY,
                    index: index as u32,
                    subject: MapSubject {
                        shard,
                        format: String::new(),
                        header: Arc::default(),
                    },
                },
            };
            Leaf {
                index: index as u32,
                shard,
                size_bytes: 1,
                key: spec.key(),
                spec,
                source: None,
            }
        };
        shards.iter().enumerate().map(leaf).collect()
    }

    type Shapes = Vec<Vec<Range<usize>>>;

    fn shape_and_keys(
        setting: &PureSetting,
        shards: &[u32],
    ) -> (Shapes, std::collections::HashSet<ResultKey>) {
        let setting = Arc::new(setting.clone());
        let levels = tree(&setting, &leaves_of(&setting, shards));
        let shapes = levels
            .iter()
            .map(|level| level.iter().map(|node| node.parts.clone()).collect())
            .collect();
        let keys = levels.iter().flatten().map(|node| node.key).collect();
        (shapes, keys)
    }

    proptest! {
        /// Whatever else differs between two jobs, equal shards are grouped equally.
        #[test]
        fn the_shape_follows_from_the_shards_alone(
            shards in prop::collection::vec(0u32..400, 2..500),
            component in any::<[u8; 32]>(),
            args in "[a-z0-9]{0,20}",
            memory_bytes in any::<u64>(),
            may_write in any::<bool>(),
            input in prop::option::of(any::<[u8; 32]>()),
            job in prop::option::of("[a-z]{1,8}"),
            distrusted in prop::option::of(any::<[u8; 32]>()),
        ) {
            use nearfield_protocol::gpu::{GpuGrant, GpuKind};
            let plain = PureSetting::clone(&setting());
            let clock = RecordClock { unix_ms: 5, counter: 0, writer: [0; 4] };
            let other = PureSetting {
                component: Digest::from_bytes(component),
                args: args.into_bytes(),
                limits: PureLimits { memory_bytes, ..plain.limits },
                may_write,
                inputs: input.iter().map(|hex| ("i".to_owned(), Digest::from_bytes(*hex))).collect(),
                gpu: job.map(|job| GpuGrant {
                    kind: GpuKind::Any,
                    time: Duration::ZERO,
                    memory_bytes: 0,
                    job,
                }),
                distrusted: distrusted.iter().map(|id| (NodeId::from_bytes(*id), clock)).collect(),
                ..plain.clone()
            };
            let ((one, keys), (two, others)) = (shape_and_keys(&plain, &shards), shape_and_keys(&other, &shards));
            prop_assert_eq!(one, two);
            prop_assert!(keys.is_disjoint(&others));
        }
    }
}
