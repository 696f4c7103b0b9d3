//! The nodes of a simulated network, what they say to each other and when it arrives. No sockets, no disks, no clock but its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use nearfield_cluster::place::table::HostTable;
use nearfield_net::Records;
use nearfield_net::control::{Hello, Load};
use nearfield_protocol::job::ResultKey;
use nearfield_protocol::node::{Label, NodeRecord, NodeVersion, Role, labels};
use nearfield_protocol::{Digest, NodeId};

use super::jobs::Remembered;
use crate::engine::Ticket;

/// Milliseconds of simulated time.
pub type Millis = u64;

/// What the members' protocol goes by.
pub const BEAT: Millis = 1_000;
pub const SILENCE: Millis = 3_000;
pub const ROUND: Millis = 2_000;
/// How long a message takes, of a host that is not slow and of one that is.
const LATENCY: Range<u64> = 1..40;
const SLOW_LATENCY: Range<u64> = 200..900;

/// Numbers that look random and follow from a seed: SplitMix64.
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    pub fn chance(&mut self, of_a_thousand: u64) -> bool {
        self.next() % 1_000 < of_a_thousand
    }
}

/// How a host lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// It adds one to whatever its guests return.
    Computes,
    /// It says that other hosts came to what they did not come to.
    Forges,
}

/// A machine.
pub struct HostNode {
    pub id: NodeId,
    pub up: bool,
    /// It never comes back.
    pub lost: bool,
    pub slow: bool,
    /// How often it crashed: what it was doing then is lost.
    pub boots: u64,
    pub lies: Option<Lie>,
    /// Nodes of the same island reach each other.
    pub island: u8,
    pub in_eu: bool,
    pub bytes_per_ms: u64,
    pub disk: BTreeSet<Digest>,
    /// What it is fetching, and until when.
    pub fetching: BTreeMap<Digest, Millis>,
    /// What it remembers of runs.
    pub results: BTreeMap<ResultKey, Remembered>,
    /// The report to each gateway, while it stands: its number, and when the last message on it arrives.
    streams: Vec<Option<(u64, Millis)>>,
}

/// A gateway without a host.
pub struct GatewayNode {
    pub table: HostTable,
    pub island: u8,
    /// What was put through it and is not safe elsewhere yet.
    pub staged: BTreeSet<Digest>,
    /// By host: the number of the report that counts, and when it was last heard of.
    heard: BTreeMap<usize, (u64, Millis)>,
    /// Blobs that hosts were told to keep and have not said that they do: the next round waits.
    pub ordered: BTreeMap<(usize, Digest), Millis>,
}

/// What a host reports.
pub enum Report {
    Hello(Vec<Digest>),
    Beat,
    Holds {
        added: Vec<Digest>,
        removed: Vec<Digest>,
    },
}

pub enum Event {
    Beat(usize),
    Arrives {
        gateway: usize,
        host: usize,
        stream: u64,
        report: Report,
    },
    /// A gateway looks who is silent.
    Listen(usize),
    Repair(usize),
    /// A host is told to keep a blob.
    Keep {
        gateway: usize,
        host: usize,
        shard: usize,
    },
    Fetched {
        host: usize,
        digest: Digest,
    },
    Fault,
    Restart(usize),
    /// Who is out of reach is out of placement by now.
    Apart,
    Heal,
    /// Who is in reach again is in placement again by now.
    Healed(Vec<usize>),
    Call(usize),
    Job,
    /// A job looks at what it wanted to look at by now.
    Look,
    /// What a job asked for is done.
    Did {
        job: u64,
        ticket: Ticket,
    },
}

/// A blob that was acknowledged.
pub struct Blob {
    pub digest: Digest,
    pub size_bytes: u64,
    pub only: Vec<Label>,
}

pub struct World {
    pub now: Millis,
    pub draw: Draw,
    queue: BTreeMap<(Millis, u64), Event>,
    sequence: u64,
    pub hosts: Vec<HostNode>,
    pub gateways: Vec<GatewayNode>,
    pub records: Records,
    pub blobs: Vec<Blob>,
    by_digest: HashMap<Digest, usize>,
    by_id: HashMap<NodeId, usize>,
    pub moved_bytes: u64,
    pub messages: u64,
}

pub fn id(number: usize) -> NodeId {
    let hash = Digest::of(&(number as u64).to_le_bytes());
    NodeId::from_bytes(*hash.as_bytes())
}

/// The founder of the network, which writes its records.
fn founder() -> NodeId {
    id(usize::MAX)
}

impl World {
    pub fn new(seed: u64, hosts: usize, gateways: usize, blobs: usize) -> World {
        let mut draw = Draw(seed);
        let mut records = Records::new(founder());
        let join = |records: &mut Records, id: NodeId, role, of: &[&str]| {
            let node = NodeVersion {
                id,
                role,
                labels: labels(of.iter().map(|label| label.parse().unwrap())).unwrap(),
                max_bytes: None,
                may_put: Vec::new(),
                addresses: Vec::new(),
                joined_unix_ms: 0,
            };
            records.tell_node(founder(), &id, &NodeRecord::Joined(Box::new(node)));
        };
        join(&mut records, founder(), Role::Gateway, &[]);
        let nodes: Vec<HostNode> = (0..hosts)
            .map(|number| {
                let in_eu = number % 3 == 0;
                let of: &[&str] = if in_eu { &["region=eu"] } else { &[] };
                join(&mut records, id(number), Role::Host, of);
                HostNode {
                    id: id(number),
                    up: true,
                    lost: false,
                    slow: draw.chance(50),
                    boots: 0,
                    lies: None,
                    island: 0,
                    in_eu,
                    bytes_per_ms: draw.within(20_000..300_000),
                    disk: BTreeSet::new(),
                    fetching: BTreeMap::new(),
                    results: BTreeMap::new(),
                    streams: vec![None; gateways],
                }
            })
            .collect();
        let blobs: Vec<Blob> = (0..blobs as u64)
            .map(|number| Blob {
                digest: Digest::of(&[number.to_le_bytes(), seed.to_le_bytes()].concat()),
                size_bytes: draw.within(64 << 10..4 << 20),
                only: match number % 5 {
                    0 => vec!["region=eu".parse().unwrap()],
                    _ => Vec::new(),
                },
            })
            .collect();
        let mut world = World {
            now: 0,
            draw,
            queue: BTreeMap::new(),
            sequence: 0,
            hosts: nodes,
            gateways: (0..gateways)
                .map(|_| GatewayNode {
                    table: HostTable::default(),
                    island: 0,
                    staged: BTreeSet::new(),
                    heard: BTreeMap::new(),
                    ordered: BTreeMap::new(),
                })
                .collect(),
            records,
            by_digest: blobs
                .iter()
                .enumerate()
                .map(|(number, blob)| (blob.digest, number))
                .collect(),
            by_id: (0..hosts).map(|number| (id(number), number)).collect(),
            blobs,
            moved_bytes: 0,
            messages: 0,
        };
        for index in 0..world.blobs.len() {
            let gateway = index % gateways;
            world.gateways[gateway].staged.insert(world.blobs[index].digest);
        }
        for host in 0..hosts {
            let at = world.draw.within(0..BEAT);
            world.after(at, Event::Beat(host));
        }
        for gateway in 0..gateways {
            world.after(500, Event::Listen(gateway));
            world.after(ROUND, Event::Repair(gateway));
        }
        world
    }

    pub fn after(&mut self, wait: Millis, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + wait, self.sequence), event);
    }

    /// The next event, if it comes before `until`. Time goes on to it.
    pub fn next(&mut self, until: Millis) -> Option<Event> {
        let entry = self.queue.first_entry()?;
        let (at, _) = *entry.key();
        if at >= until {
            self.now = until;
            return None;
        }
        self.now = at;
        Some(entry.remove())
    }

    pub fn latency(&mut self, host: usize) -> Millis {
        let range = if self.hosts[host].slow {
            SLOW_LATENCY
        } else {
            LATENCY
        };
        self.draw.within(range)
    }

    pub fn reaches(&self, gateway: usize, host: usize) -> bool {
        let host = &self.hosts[host];
        host.up && host.island == self.gateways[gateway].island
    }

    pub fn number(&self, id: &NodeId) -> usize {
        self.by_id[id]
    }

    /// A host says something to a gateway, in order. Where it cannot, its report has broken off.
    fn say(&mut self, gateway: usize, host: usize, report: Report) {
        let Some((stream, last)) = self.hosts[host].streams[gateway] else {
            return;
        };
        if !self.reaches(gateway, host) {
            self.hosts[host].streams[gateway] = None;
            return;
        }
        let arrives = (self.now + self.latency(host)).max(last);
        self.hosts[host].streams[gateway] = Some((stream, arrives));
        self.after(
            arrives - self.now,
            Event::Arrives {
                gateway,
                host,
                stream,
                report,
            },
        );
    }

    pub fn beat(&mut self, host: usize) {
        if self.hosts[host].up {
            for gateway in 0..self.gateways.len() {
                if self.hosts[host].streams[gateway].is_none() && self.reaches(gateway, host) {
                    self.sequence += 1;
                    self.hosts[host].streams[gateway] = Some((self.sequence, self.now));
                    let held = self.hosts[host].disk.iter().copied().collect();
                    self.say(gateway, host, Report::Hello(held));
                }
                self.say(gateway, host, Report::Beat);
            }
        }
        if !self.hosts[host].lost {
            self.after(BEAT, Event::Beat(host));
        }
    }

    /// A host tells all gateways what it began and ceased to hold.
    pub fn tell(&mut self, host: usize, added: &[Digest], removed: &[Digest]) {
        for gateway in 0..self.gateways.len() {
            let (added, removed) = (added.to_vec(), removed.to_vec());
            self.say(gateway, host, Report::Holds { added, removed });
        }
    }

    pub fn arrives(&mut self, gateway: usize, host: usize, stream: u64, report: Report) {
        self.messages += 1;
        if !self.reaches(gateway, host) {
            self.hosts[host].streams[gateway] = None;
            return;
        }
        let (now, id) = (self.now, self.hosts[host].id);
        let node = &mut self.gateways[gateway];
        let known = node.heard.get(&host).map(|(stream, _)| *stream);
        match report {
            Report::Hello(held) => {
                let hello = Hello {
                    addresses: Vec::new(),
                    hosting: true,
                    version: String::new(),
                };
                node.table.up(id, &hello, &self.records);
                node.table.holds(&id, &held, &[]);
                node.ordered.retain(|(ordered, _), _| *ordered != host);
                node.heard.insert(host, (stream, now));
            }
            // The gateway gave this report up: the host has to begin anew.
            _ if known != Some(stream) => self.hosts[host].streams[gateway] = None,
            Report::Beat => {
                let load = Load {
                    cores: 2,
                    job_workers: 2,
                    link_bytes_per_ms: self.hosts[host].bytes_per_ms,
                    ..Load::default()
                };
                node.table.beat(&id, load);
                node.heard.insert(host, (stream, now));
            }
            Report::Holds { added, removed } => {
                node.table.holds(&id, &added, &removed);
                node.ordered
                    .retain(|(ordered, digest), _| *ordered != host || !added.contains(digest));
                node.heard.insert(host, (stream, now));
            }
        }
    }

    /// Takes out who was silent for too long.
    pub fn listen(&mut self, gateway: usize) {
        let now = self.now;
        let node = &mut self.gateways[gateway];
        let silent = |(_, (_, at)): &(&usize, &(u64, Millis))| now - at >= SILENCE;
        let gone: Vec<usize> = node.heard.iter().filter(silent).map(|(host, _)| *host).collect();
        for host in gone {
            node.heard.remove(&host);
            node.table.gone(&self.hosts[host].id);
            node.ordered.retain(|(ordered, _), _| *ordered != host);
        }
        self.after(500, Event::Listen(gateway));
    }

    /// Writes a record that all gateways read.
    pub fn record(&mut self, host: usize, record: &NodeRecord) {
        let id = self.hosts[host].id;
        self.records.tell_node(founder(), &id, record);
        for gateway in &mut self.gateways {
            gateway.table.refresh(&self.records);
        }
    }

    /// A host begins to fetch a blob, if it can have it from somebody.
    pub fn keep(&mut self, host: usize, shard: usize) {
        let (digest, size) = (self.blobs[shard].digest, self.blobs[shard].size_bytes);
        let node = &self.hosts[host];
        if !node.up || node.disk.contains(&digest) || node.fetching.contains_key(&digest) {
            return;
        }
        let island = node.island;
        let at_hosts = || {
            let holds = |other: &HostNode| other.up && other.island == island && other.disk.contains(&digest);
            self.hosts.iter().any(holds)
        };
        let at_gateways = self
            .gateways
            .iter()
            .any(|gateway| gateway.island == island && gateway.staged.contains(&digest));
        if at_gateways || at_hosts() {
            // One after the other over its link.
            let busy = node
                .fetching
                .values()
                .max()
                .copied()
                .unwrap_or(self.now)
                .max(self.now);
            let done = busy + size / node.bytes_per_ms + 1;
            self.hosts[host].fetching.insert(digest, done);
            self.after(done - self.now, Event::Fetched { host, digest });
        }
    }

    pub fn fetched(&mut self, host: usize, digest: Digest) {
        let size = self.blobs[self.by_digest[&digest]].size_bytes;
        let node = &mut self.hosts[host];
        if node.fetching.remove(&digest).is_some() && node.up {
            node.disk.insert(digest);
            self.moved_bytes += size;
            self.tell(host, &[digest], &[]);
        }
    }

    /// A host ends without a word. What it was doing is lost, its disk is not.
    pub fn crash(&mut self, host: usize) {
        let node = &mut self.hosts[host];
        node.up = false;
        node.boots += 1;
        node.fetching.clear();
        node.streams.iter_mut().for_each(|stream| *stream = None);
    }

    /// How many hosts that are up have a blob.
    pub fn copies(&self, digest: &Digest) -> usize {
        let holds = |host: &&HostNode| host.up && host.disk.contains(digest);
        self.hosts.iter().filter(holds).count()
    }
}
