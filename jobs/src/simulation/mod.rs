//! A network under a clock of its own: the real host table, placement, repair and job engine over machines that crash, hang,
//! part, drain, rot, forget and lie. Everything follows from a seed. There are two kinds of runs: of hundreds of hosts, with
//! calls; and of a few hosts, many of them, with one job after the other.
//!
//! What is not simulated: the transport, the stores, and the records' own convergence (`net::view` tests that).
//! `NEARFIELD_SEED=N` runs one seed, `NEARFIELD_SEEDS=N` so many more than usual, `NEARFIELD_HOSTS=N` with so many hosts,
//! `NEARFIELD_JOB_SEED` and `NEARFIELD_JOB_SEEDS` the same of the second kind.
//! Seeds that once failed are in `seeds.txt` and run first, always.

mod jobs;
mod world;

use nearfield_cluster::place::{Ask, Need, Standing, place};
use nearfield_cluster::{KeptBlobs, REPLICAS, wanted};
use nearfield_protocol::node::NodeRecord;
use nearfield_protocol::{Digest, Problem, ProblemKind};

use self::jobs::{Job, Mutation};
use self::world::{Event, Lie, Millis, ROUND, SILENCE, World};
use crate::JobState;

/// How long things go wrong, and how long they may take to be well again.
const TROUBLE: Millis = 90_000;
const REST: Millis = 60_000;
/// A job that has not ended after so long never will.
const JOB: Millis = 60_000;
/// From when on nothing new goes wrong, and what did is known.
const CALM: Millis = TROUBLE + BACK + SILENCE + ROUND;
/// How long a host may be away.
const BACK: Millis = 20_000;
const BLOBS: usize = 400;

/// What happened in a run, to see that the seeds are about something.
#[derive(Default, Debug)]
struct Tally {
    crashes: u64,
    lost: u64,
    partitions: u64,
    rotten: u64,
    drained: u64,
    calls: u64,
    retried: u64,
    refused: u64,
    jobs: u64,
    /// Jobs that failed for what went wrong around them, and were started again.
    failed: u64,
    /// Jobs that ended with something wrong, and said that not all of it was checked.
    unchecked: u64,
    evicted: u64,
    quarantined: u64,
}

/// What a run is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// Everything.
    Network,
    Jobs,
    /// The same with a fault in the engine, which the simulation must find.
    Mutant(Mutation),
}

struct Run {
    world: World,
    tally: Tally,
    job: Option<(Job, Millis)>,
    apart: Vec<usize>,
    salt: u64,
    about: About,
}

impl Run {
    fn new(seed: u64, hosts: usize, gateways: usize, blobs: usize) -> Run {
        Run::about(About::Network, seed, hosts, gateways, blobs)
    }

    /// A few hosts, and one job after the other.
    fn jobs(about: About, seed: u64) -> Run {
        let mut draw = world::Draw(seed);
        let (hosts, blobs) = (draw.within(3..9), draw.within(4..60));
        Run::about(about, seed, hosts as usize, 2, blobs as usize)
    }

    fn about(about: About, seed: u64, hosts: usize, gateways: usize, blobs: usize) -> Run {
        let mut world = World::new(seed, hosts, gateways, blobs);
        if world.draw.chance(500) {
            let liar = world.draw.within(0..hosts as u64) as usize;
            world.hosts[liar].lies = Some(match world.draw.chance(500) {
                true => Lie::Computes,
                false => Lie::Forges,
            });
        }
        world.after(8_000, Event::Fault);
        world.after(5_000, Event::Job);
        if about == About::Network {
            for gateway in 0..world.gateways.len() {
                world.after(4_000, Event::Call(gateway));
            }
        }
        Run {
            about,
            world,
            tally: Tally::default(),
            job: None,
            apart: Vec::new(),
            salt: seed,
        }
    }

    fn run(mut self) -> Tally {
        let mut looked = 0;
        while let Some(event) = self.world.next(TROUBLE + REST) {
            self.handle(event);
            if self.world.now / 1_000 > looked {
                looked = self.world.now / 1_000;
                self.nothing_is_lost_or_where_it_may_not_be();
            }
        }
        // A job that began late has as much time as any.
        while self.job.is_some()
            && let Some(event) = self.world.next(TROUBLE + REST + JOB)
        {
            self.handle(event);
        }
        self.all_is_well();
        self.tally
    }

    fn handle(&mut self, event: Event) {
        let world = &mut self.world;
        match event {
            Event::Beat(host) => world.beat(host),
            Event::Arrives {
                gateway,
                host,
                stream,
                report,
            } => world.arrives(gateway, host, stream, report),
            Event::Listen(gateway) => world.listen(gateway),
            Event::Repair(gateway) => self.repair(gateway),
            Event::Keep { gateway, host, shard } => {
                world.keep(host, shard);
                let digest = world.blobs[shard].digest;
                if !world.hosts[host].fetching.contains_key(&digest) {
                    world.gateways[gateway].ordered.remove(&(host, digest));
                }
            }
            Event::Fetched { host, digest } => world.fetched(host, digest),
            Event::Fault => self.fault(),
            Event::Restart(host) => world.hosts[host].up = !world.hosts[host].lost,
            Event::Heal => self.heal(),
            Event::Apart => self.are_apart(),
            Event::Healed(hosts) => self.are_back(&hosts),
            Event::Call(gateway) => self.call(gateway),
            Event::Job => self.start_job(),
            Event::Did { job: number, ticket } => {
                if let Some((job, _)) = &mut self.job {
                    job.did(number, ticket, world);
                }
                self.go_on();
            }
            Event::Look => self.go_on(),
        }
    }

    /// As `Cluster::repair_once`: spares before it orders, and waits for what was ordered.
    fn repair(&mut self, gateway: usize) {
        let world = &mut self.world;
        world.after(ROUND, Event::Repair(gateway));
        let island = world.gateways[gateway].island;
        let leads = world.gateways[..gateway]
            .iter()
            .all(|other| other.island != island);
        let now = world.now;
        world.gateways[gateway].ordered.retain(|_, at| now - *at < 60_000);
        let waits = !world.gateways[gateway].ordered.is_empty();
        let mut orders = Vec::new();
        for (shard, blob) in world.blobs.iter().enumerate() {
            let node = &mut world.gateways[gateway];
            let kept = KeptBlobs {
                dataset: None,
                digests: &[],
                replicas: REPLICAS,
                only: &blob.only,
            };
            match wanted(&node.table, &blob.digest, &kept) {
                None => {
                    node.staged.remove(&blob.digest);
                }
                Some(hosts) if leads && !waits => orders.extend(hosts.into_iter().map(|host| (host, shard))),
                Some(_) => {}
            }
        }
        for (host, shard) in orders {
            let host = world.number(&host);
            let digest = world.blobs[shard].digest;
            world.gateways[gateway].ordered.insert((host, digest), now);
            let latency = world.latency(host);
            world.after(latency, Event::Keep { gateway, host, shard });
        }
    }

    fn fault(&mut self) {
        let world = &mut self.world;
        if world.now >= TROUBLE {
            return;
        }
        let again = world.draw.within(300..4_000);
        world.after(again, Event::Fault);
        let host = world.draw.within(0..world.hosts.len() as u64) as usize;
        match world.draw.within(0..11) {
            0..=2 if world.hosts[host].up => {
                self.tally.crashes += 1;
                world.crash(host);
                let back = world.draw.within(500..BACK);
                world.after(back, Event::Restart(host));
            }
            // A host may be lost for good while each blob has another copy: more no number of replicas bears.
            3 if world.hosts[host].up && self.tally.lost < world.hosts.len() as u64 / 8 => {
                let only_there = |digest: &Digest| world.copies(digest) < 2;
                if world.hosts[host].disk.iter().any(only_there) {
                    return;
                }
                self.tally.lost += 1;
                world.crash(host);
                world.hosts[host].lost = true;
                world.hosts[host].disk.clear();
                world.hosts[host].results.clear();
            }
            4 if self.apart.is_empty() => {
                let of_a_thousand = world.draw.within(10..400);
                for host in 0..world.hosts.len() {
                    if world.draw.chance(of_a_thousand) {
                        world.hosts[host].island = 1;
                        self.apart.push(host);
                    }
                }
                if self.apart.is_empty() {
                    return;
                }
                self.tally.partitions += 1;
                // The second gateway may be on either side.
                world.gateways[1].island = u8::from(world.draw.chance(300));
                let heals = world.draw.within(6_000..15_000);
                world.after(SILENCE + 1_000, Event::Apart);
                world.after(heals, Event::Heal);
            }
            5 => world.hosts[host].slow = !world.hosts[host].slow,
            // A bit rots, and the scrubber finds it.
            6 => {
                let digest = world.hosts[host].disk.first().copied();
                if let Some(digest) = digest.filter(|digest| world.hosts[host].up && world.copies(digest) > 1)
                {
                    self.tally.rotten += 1;
                    world.hosts[host].disk.remove(&digest);
                    world.tell(host, &[], &[digest]);
                }
            }
            7 if !world.hosts[host].lost => {
                let member = world.records.node(&world.hosts[host].id);
                let draining = member.is_some_and(|member| !member.draining && member.quarantined.is_none());
                self.tally.drained += 1;
                world.record(host, &NodeRecord::Draining { draining });
            }
            // Some of what a host remembers is evicted, or only the files of it.
            8 | 9 => {
                self.tally.evicted += 1;
                let (files, kept) = (world.draw.chance(500), world.draw.within(0..1_000));
                let (node, draw) = (&mut world.hosts[host], &mut world.draw);
                node.results.retain(|_, remembered| {
                    let goes = !draw.chance(kept);
                    remembered.files &= !goes;
                    !goes || files
                });
            }
            // Another job finds out who lies.
            10 if world.hosts[host].lies == Some(Lie::Computes) => {
                let reason = "it was wrong".to_owned();
                world.record(host, &NodeRecord::Quarantined { reason });
                world.hosts[host].results.clear();
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        let world = &mut self.world;
        world.gateways[1].island = 0;
        let hosts = std::mem::take(&mut self.apart);
        hosts.iter().for_each(|host| world.hosts[*host].island = 0);
        world.after(SILENCE, Event::Healed(hosts));
    }

    fn are_apart(&self) {
        let world = &self.world;
        for host in &self.apart {
            for gateway in world.gateways.iter().filter(|gateway| gateway.island == 0) {
                let found = gateway.table.find(&world.hosts[*host].id);
                assert!(
                    found.is_none(),
                    "host {host} is out of reach and still in placement"
                );
            }
        }
    }

    fn are_back(&self, hosts: &[usize]) {
        let world = &self.world;
        for host in hosts.iter().filter(|host| !self.apart.contains(host)) {
            // One that crashed meanwhile, or came back just now, has its own time.
            if !world.hosts[*host].up || self.tally.crashes > 0 {
                continue;
            }
            let found = world.gateways[0].table.find(&world.hosts[*host].id);
            assert!(found.is_some(), "host {host} is back and not in placement");
        }
    }

    /// A call that looks for a blob, tried on up to three hosts.
    fn call(&mut self, gateway: usize) {
        let world = &mut self.world;
        world.after(40, Event::Call(gateway));
        let blob = &world.blobs[world.draw.within(0..world.blobs.len() as u64) as usize];
        let needs = [Need::Blob {
            digest: blob.digest,
            size_bytes: blob.size_bytes,
        }];
        let (digest, only) = (blob.digest, blob.only.clone());
        self.tally.calls += 1;
        let mut tried = Vec::new();
        for _ in 0..3 {
            let ask = Ask {
                key: digest,
                component: digest,
                component_bytes: 0,
                located: Some(digest),
                needs: &needs,
                only: &only,
                gpu: None,
            };
            let ranked = place(&ask, &world.gateways[gateway].table);
            let mut can = ranked
                .iter()
                .filter(|candidate| matches!(candidate.standing, Standing::Costs { .. }));
            let Some(candidate) = can.find(|candidate| !tried.contains(&candidate.host)) else {
                self.tally.refused += 1;
                return;
            };
            let host = world.number(&candidate.host);
            let member = world.records.node(&candidate.host).expect("a member");
            assert!(!member.draining, "a call goes to a host that takes none");
            assert!(only.iter().all(|label| label.holds(&member.node.labels)));
            if world.reaches(gateway, host) {
                return;
            }
            world.gateways[gateway].table.missed(&candidate.host);
            tried.push(candidate.host);
            self.tally.retried += 1;
        }
        self.tally.refused += 1;
    }

    fn start_job(&mut self) {
        let world = &mut self.world;
        if world.now >= TROUBLE {
            return;
        }
        let again = match self.about {
            About::Network => 6_000,
            About::Jobs | About::Mutant(_) => 1_000,
        };
        world.after(again, Event::Job);
        if self.job.is_none() {
            self.salt += 1;
            self.start(self.salt);
        }
    }

    fn start(&mut self, number: u64) {
        let gateway = (number % 2) as usize;
        let mutation = match self.about {
            About::Mutant(mutation) => Some(mutation),
            About::Network | About::Jobs => None,
        };
        let job = Job::new(&mut self.world, number, gateway, mutation);
        self.job = Some((job, self.world.now));
        self.world.after(0, Event::Look);
    }

    fn go_on(&mut self) {
        let Some((job, since)) = &mut self.job else { return };
        let late = self.world.now.saturating_sub(TROUBLE.max(*since));
        assert!(late < JOB, "a job never ends, {late} ms after the last trouble");
        match job.go_on(&mut self.world) {
            None | Some(JobState::Running | JobState::Cancelled) => {}
            Some(JobState::Done(report)) => {
                match job.check(&report, &self.world) {
                    true => self.tally.jobs += 1,
                    false => self.tally.unchecked += 1,
                }
                self.job = None;
            }
            Some(JobState::Failed { problem, .. }) => {
                let (began, number) = (*since, job.number);
                self.may_fail(&problem, began);
                self.tally.failed += 1;
                self.job = None;
                // Whoever started it starts it again: what is remembered is not run again. Where all hosts drain for good, or
                // two are left that differ, that is in vain.
                if problem.kind != ProblemKind::ResultsDiffer && began <= CALM {
                    self.start(number);
                }
            }
        }
    }

    /// Whether there is a reason why a job that began then should fail with this.
    fn may_fail(&self, problem: &Problem, began: Millis) {
        let world = &self.world;
        let lies = world.hosts.iter().any(|host| host.lies.is_some());
        if problem.kind == ProblemKind::ResultsDiffer {
            assert!(lies, "honest hosts differ: {problem}");
            return;
        }
        let able = world.hosts.iter().filter(|host| {
            let member = world.records.node(&host.id).expect("a member");
            // A job does without who forges.
            host.up && !member.draining && host.lies != Some(Lie::Forges)
        });
        let well = began > CALM && able.count() > 0;
        assert!(!well, "a job fails though all is well: {problem}");
        let of_network = matches!(
            problem.kind,
            ProblemKind::HostUnreachable
                | ProblemKind::HostLost
                | ProblemKind::UnknownBlob
                | ProblemKind::ForgottenResult
                | ProblemKind::Corrupt
        );
        assert!(
            of_network,
            "a job fails for another reason than there is: {problem}"
        );
    }

    fn nothing_is_lost_or_where_it_may_not_be(&self) {
        let world = &self.world;
        for blob in &world.blobs {
            let staged = world
                .gateways
                .iter()
                .any(|gateway| gateway.staged.contains(&blob.digest));
            let kept = world.hosts.iter().any(|host| host.disk.contains(&blob.digest));
            assert!(staged || kept, "{} is gone at {} ms", blob.digest, world.now);
        }
        for host in &world.hosts {
            for blob in world.blobs.iter().filter(|blob| !blob.only.is_empty()) {
                assert!(
                    host.in_eu || !host.disk.contains(&blob.digest),
                    "a blob is where it may not be"
                );
            }
        }
    }

    /// Long after the last trouble.
    fn all_is_well(&mut self) {
        let world = &mut self.world;
        if let Some((job, since)) = &self.job {
            panic!("a job has not ended that began at {since} ms: {}", job.state());
        }
        let quarantined = world.records.nodes();
        for member in quarantined.filter(|member| member.quarantined.is_some()) {
            self.tally.quarantined += 1;
            let host = world.hosts.iter().find(|host| host.id == member.node.id);
            assert!(
                host.is_some_and(|host| host.lies.is_some()),
                "an honest host is quarantined"
            );
        }
        if self.about != About::Network {
            // Few hosts may be too few for all replicas.
            return;
        }
        for gateway in &world.gateways {
            assert!(
                gateway.staged.is_empty(),
                "a gateway still is the only one to keep something"
            );
            for host in &world.hosts {
                let found = gateway.table.find(&host.id);
                assert_eq!(found.is_some_and(|found| found.there), host.up, "who is there");
                let Some(slot) = gateway.table.slot(&host.id) else {
                    continue;
                };
                for blob in &world.blobs {
                    let says = gateway.table.holders.holds(slot, &blob.digest);
                    assert_eq!(
                        says,
                        host.disk.contains(&blob.digest),
                        "who holds {}",
                        blob.digest
                    );
                }
            }
        }
        let records = &world.records;
        for blob in &world.blobs {
            let may = |host: &&world::HostNode| {
                let member = records.node(&host.id).expect("a member");
                host.up && !member.draining && (blob.only.is_empty() || host.in_eu)
            };
            let able = world.hosts.iter().filter(may).count();
            let copies = world
                .hosts
                .iter()
                .filter(may)
                .filter(|host| host.disk.contains(&blob.digest));
            let copies = copies.count();
            assert!(
                copies >= able.min(REPLICAS as usize),
                "{} has {copies} copies",
                blob.digest
            );
        }
    }
}

#[cfg(test)]
mod tests;
