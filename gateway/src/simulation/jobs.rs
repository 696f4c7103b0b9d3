//! A simulated job: the real tree, order, placement and verdicts over hosts that crash, lag and lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use nearfield_protocol::Digest;
use nearfield_protocol::job::{PureLimits, PureReport, PureSetting, ResultKey, Shape};
use nearfield_protocol::node::NodeRecord;

use super::world::{Event, World};
use crate::jobs::{Known, Node, Order, Step, Verdict, judge, tree_of};
use crate::place::{Ask, Need, Standing, place};

/// Fuel of any run.
const FUEL: u64 = 7;

/// A job over all blobs without a rule. Each map comes to the blob's number, so the sum is known.
pub struct Job {
    leaves: Vec<(ResultKey, usize)>,
    levels: Vec<Vec<Node>>,
    /// The gateway that runs it.
    gateway: usize,
    /// Runs under way: what, and where.
    runs: BTreeMap<u64, (Step, usize)>,
    /// By key: the host that remembers it so.
    made: BTreeMap<ResultKey, usize>,
    done: Vec<Step>,
    next: u64,
    pub checked: bool,
    pub moved: u64,
    pub restarts: u64,
}

/// What became of a job.
pub enum Ended {
    Not,
    /// The sum and the fuel that it says.
    Result {
        sum: u64,
        fuel: u64,
    },
}

impl Job {
    pub fn new(world: &World, salt: u64, gateway: usize) -> Job {
        let setting = Arc::new(setting());
        let plain = (0..world.blobs.len()).filter(|&blob| world.blobs[blob].only.is_empty());
        let leaves: Vec<(ResultKey, usize)> = plain
            .map(|blob| {
                let bytes = [
                    *world.blobs[blob].digest.as_bytes(),
                    *Digest::of(&salt.to_le_bytes()).as_bytes(),
                ];
                (ResultKey(Digest::of(&bytes.concat())), blob)
            })
            .collect();
        let parts = leaves
            .iter()
            .map(|(key, blob)| (*key, Shape::of_shard(world.blobs[*blob].digest)));
        Job {
            levels: tree_of(&setting, parts),
            leaves,
            gateway,
            runs: BTreeMap::new(),
            made: BTreeMap::new(),
            done: Vec::new(),
            next: salt << 32,
            checked: false,
            moved: 0,
            restarts: 0,
        }
    }

    /// The sum and fuel of honest hosts.
    pub fn truth(&self) -> (u64, u64) {
        let sum = self.leaves.iter().map(|(_, blob)| *blob as u64).sum();
        let reductions = self
            .levels
            .iter()
            .flatten()
            .filter(|node| node.parts.len() > 1)
            .count();
        (sum, FUEL * (self.leaves.len() + reductions) as u64)
    }

    fn key(&self, step: Step) -> ResultKey {
        match step {
            Step::Map(leaf) => self.leaves[leaf].0,
            Step::Reduce { level, index } => self.levels[level][index].key,
        }
    }

    fn parts(&self, step: Step) -> Vec<ResultKey> {
        let Step::Reduce { level, index } = step else {
            return Vec::new();
        };
        let parts = self.levels[level][index].parts.clone();
        match level.checked_sub(1) {
            None => self.leaves[parts].iter().map(|(key, _)| *key).collect(),
            Some(below) => self.levels[below][parts].iter().map(|node| node.key).collect(),
        }
    }

    /// Starts whatever can run now. What went with a host is made again.
    pub fn go_on(&mut self, world: &mut World) -> Ended {
        let before = self.made.len();
        self.made.retain(|key, host| {
            let node = &world.hosts[*host];
            node.up && node.island == world.gateways[self.gateway].island && node.results.contains_key(key)
        });
        self.restarts += u64::from(self.made.len() < before);
        let known = Known {
            leaves: vec![false; self.leaves.len()],
            nodes: self.levels.iter().map(|level| vec![false; level.len()]).collect(),
        };
        let mut order = Order::new(&self.levels, &known);
        let mut open = Vec::new();
        while let Some(step) = order.next() {
            match self.made.contains_key(&self.key(step)) {
                true => order.done(step),
                false => open.push(step),
            }
        }
        if open.is_empty() {
            return self.end(world);
        }
        for step in open {
            if self.runs.values().any(|(under_way, _)| *under_way == step) {
                continue;
            }
            if let Some(host) = self.host_for(world, step) {
                let took = world.draw.within(5..60) * if world.hosts[host].slow { 10 } else { 1 };
                self.next += 1;
                self.runs.insert(self.next, (step, host));
                world.after(took, Event::Ran { host, run: self.next });
            }
        }
        Ended::Not
    }

    fn host_for(&mut self, world: &World, step: Step) -> Option<usize> {
        let table = &world.gateways[self.gateway].table;
        let busy = |host: usize| self.runs.values().filter(|(_, at)| *at == host).count();
        match step {
            Step::Map(leaf) => {
                let blob = &world.blobs[self.leaves[leaf].1];
                let needs = [Need::Blob {
                    digest: blob.digest,
                    size_bytes: blob.size_bytes,
                }];
                let ask = Ask {
                    key: blob.digest,
                    component: Digest::EMPTY,
                    component_bytes: 0,
                    located: None,
                    needs: &needs,
                    only: &blob.only,
                    gpu: None,
                };
                let ranked = place(&ask, table);
                let can = ranked.iter().filter_map(|candidate| match candidate.standing {
                    Standing::Costs {
                        missing_bytes, ms, ..
                    } => {
                        let host = world.number(&candidate.host);
                        Some((missing_bytes > 0, busy(host), ms, host))
                    }
                    _ => None,
                });
                let (lacks, .., host) = can.min()?;
                self.moved += u64::from(lacks);
                Some(host)
            }
            Step::Reduce { .. } => {
                let parts = self.parts(step);
                let holder = parts.iter().filter_map(|part| self.made.get(part)).min()?;
                table.find(&world.hosts[*holder].id).map(|_| *holder)
            }
        }
    }

    /// A run has ended, if its host still is there to say so.
    pub fn ran(&mut self, world: &mut World, host: usize, run: u64) {
        let Some((step, _)) = self.runs.remove(&run) else {
            return;
        };
        if !world.reaches(self.gateway, host) {
            let id = world.hosts[host].id;
            world.gateways[self.gateway].table.missed(&id);
            return;
        }
        let Some(value) = self.compute(world, step) else {
            return;
        };
        let told = value + u64::from(world.hosts[host].lies);
        let key = self.key(step);
        world.hosts[host].results.insert(key, (told, FUEL));
        self.made.insert(key, host);
        self.done.push(step);
    }

    /// What an honest run over the parts as they are comes to. `None` if a part has gone.
    fn compute(&self, world: &World, step: Step) -> Option<u64> {
        match step {
            Step::Map(leaf) => Some(self.leaves[leaf].1 as u64),
            Step::Reduce { .. } => {
                let parts = self.parts(step);
                let value = |part: &ResultKey| {
                    let host = self.made.get(part)?;
                    let node = &world.hosts[*host];
                    (node.up).then(|| node.results.get(part).map(|(value, _)| *value))?
                };
                parts.iter().map(value).sum()
            }
        }
    }

    fn end(&mut self, world: &mut World) -> Ended {
        if self.checked
            && let Some(liar) = self.check(world)
        {
            world.record(
                liar,
                &NodeRecord::Quarantined {
                    reason: "it was wrong".to_owned(),
                },
            );
            // What it made, and what was made of others' results, is forgotten.
            let leaves: Vec<ResultKey> = self.leaves.iter().map(|(key, _)| *key).collect();
            self.made
                .retain(|key, host| *host != liar && leaves.contains(key));
            self.restarts += 1;
            return self.go_on(world);
        }
        let root = self
            .levels
            .last()
            .and_then(|top| top.first())
            .map(|root| root.key);
        let root = root.or(self.leaves.first().map(|(key, _)| *key));
        let of = |key: &ResultKey| world.hosts[self.made[key]].results[key];
        let (sum, _) = root.map_or((0, 0), |root| of(&root));
        Ended::Result {
            sum,
            fuel: self.made.values().len() as u64 * FUEL,
        }
    }

    /// Makes every run again on other hosts. Returns one that is wrong.
    fn check(&self, world: &World) -> Option<usize> {
        let steps = (0..self.leaves.len()).map(Step::Map);
        let reductions = self.levels.iter().enumerate().flat_map(|(level, nodes)| {
            let several = nodes.iter().enumerate().filter(|(_, node)| node.parts.len() > 1);
            several.map(move |(index, _)| Step::Reduce { level, index })
        });
        for step in steps.chain(reductions) {
            let key = self.key(step);
            let maker = self.made[&key];
            let right = self.compute(world, step)?;
            let again = |host: usize| {
                let told = right + u64::from(world.hosts[host].lies);
                (world.hosts[host].id, Some(report(key, told)))
            };
            let mut others = (0..world.hosts.len())
                .filter(|host| *host != maker && world.reaches(self.gateway, *host))
                .map(again);
            let (remembered, (second, outcome)) = (world.hosts[maker].results[&key].0, others.next()?);
            let last = others.next();
            let last = last.as_ref().map(|(host, outcome)| (*host, outcome));
            let claim = report(key, remembered);
            match judge(&claim, world.hosts[maker].id, (second, &outcome), last) {
                Verdict::Agreed => {}
                Verdict::Wrong(host) => return Some(world.number(&host)),
                Verdict::Disagreed => panic!("three hosts of which one lies can tell which"),
            }
        }
        None
    }
}

fn setting() -> PureSetting {
    PureSetting {
        function: "sum".parse().expect("a name"),
        component: Digest::EMPTY,
        args: Vec::new(),
        inputs: BTreeMap::new(),
        limits: PureLimits {
            fuel: FUEL,
            memory_bytes: 1 << 20,
            timeout: std::time::Duration::from_secs(1),
        },
        may_write: false,
        origins: Vec::new(),
        distrusted: BTreeMap::new(),
        gpu: None,
    }
}

fn report(key: ResultKey, value: u64) -> PureReport {
    PureReport {
        key,
        remembered: false,
        output_bytes: 8,
        output: Digest::of(&value.to_le_bytes()),
        fuel: FUEL,
        total_fuel: FUEL,
        data_bytes: 0,
        moved_bytes: 0,
        written_files: 0,
        written_bytes: 0,
        written: Digest::of(b""),
        run_us: 0,
        made: None,
    }
}
