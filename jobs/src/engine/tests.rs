//! What the simulation does not say: why a job fails that begins anew too often, and what it makes of what goes wrong once.

use std::collections::BTreeMap;

use nearfield_cluster::place::table::HostTable;
use nearfield_net::Records;
use nearfield_net::control::{Hello, Load};
use nearfield_protocol::job::{PureLimits, PureSpec, Work, digest_of_parts};
use nearfield_protocol::node::{NodeRecord, NodeVersion, Role};
use nearfield_protocol::{Digest, NodeId};
use serde_json::json;

use super::*;
use crate::plan::{Shard, Shards};
use crate::record::{JobRecord, Selection, WrittenDataset};

fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// A gateway's view of a founder, which is no host, and of hosts 1 and on.
struct Net {
    table: HostTable,
    records: Records,
}

impl Net {
    fn new(hosts: u8) -> Net {
        let mut net = Net {
            table: HostTable::default(),
            records: Records::new(id(0)),
        };
        for host in 0..=hosts {
            let node = NodeVersion {
                id: id(host),
                role: if host == 0 { Role::Gateway } else { Role::Host },
                labels: Default::default(),
                max_bytes: None,
                may_put: Vec::new(),
                addresses: Vec::new(),
                joined_unix_ms: 0,
            };
            net.tell(host, &NodeRecord::Joined(Box::new(node)));
        }
        for host in 1..=hosts {
            let hello = Hello {
                addresses: Vec::new(),
                hosting: true,
                version: String::new(),
            };
            net.table.up(id(host), &hello, &net.records);
            net.table.beat(&id(host), Load::default());
        }
        net
    }

    fn tell(&mut self, host: u8, record: &NodeRecord) {
        self.records.tell_node(id(0), &id(host), record);
        self.table.refresh(&self.records);
    }

    fn view(&self) -> View<'_> {
        View {
            table: &self.table,
            records: &self.records,
        }
    }
}

fn engine(net: &Net, shards: u8, change: impl FnOnce(&mut JobRecord)) -> Engine {
    let mut record = JobRecord {
        id: "1".repeat(32),
        function: "f".parse().unwrap(),
        version: 1,
        component: Digest::of(b"component"),
        dataset: None,
        dataset_digest: Digest::of(b"dataset"),
        args: json!({}),
        inputs: BTreeMap::new(),
        limits: PureLimits {
            fuel: 10,
            memory_bytes: 1,
            timeout: Duration::from_secs(1),
        },
        gpu: None,
        max_fuel: u64::MAX,
        selection: Selection::All,
        skip: 0,
        check: None,
        into: None,
        started_unix_ms: 0,
        state: JobState::Running,
    };
    change(&mut record);
    let shard = |index: u8| Shard {
        index: index.into(),
        digest: Digest::of(&[index]),
        size_bytes: 1,
        header: Arc::default(),
        source: None,
    };
    let input = Input {
        record: Arc::new(record),
        shards: Shards {
            dataset: Digest::of(b"dataset"),
            format: "lines".to_owned(),
            chosen: (0..shards).map(shard).collect(),
            all: shards.into(),
            all_bytes: shards.into(),
        },
        workers: 1,
        vouches: |_, _, _| true,
        seed: 1,
    };
    Engine::new(input, net.view())
}

fn report(key: ResultKey, files: bool) -> PureReport {
    PureReport {
        key,
        remembered: false,
        output_bytes: 1,
        output: key.0,
        parts: Digest::EMPTY,
        fuel: 1,
        total_fuel: 1,
        data_bytes: 1,
        moved_bytes: 0,
        written_files: u64::from(files),
        written_bytes: 0,
        written: if files { key.0 } else { Digest::EMPTY },
        run_us: 1,
        made: None,
    }
}

/// Honest hosts, and what they remember.
#[derive(Default)]
struct Hosts {
    remembered: HashMap<(NodeId, ResultKey), PureReport>,
    honest: Honest,
}

impl Hosts {
    fn answer(&mut self, action: &Action) -> Option<(Ticket, Event)> {
        if let Action::Recall { ticket, host, keys } = action {
            let found = keys
                .iter()
                .map(|key| self.remembered.get(&(*host, *key)).copied());
            return Some((*ticket, Event::Recalled(Ok(found.collect()))));
        }
        if let Action::Run { host, spec, .. } = action {
            let report = self.honest.run(spec);
            self.remembered.insert((*host, spec.key()), report);
        }
        self.honest.answer(action)
    }
}

/// Honest hosts that say they remember nothing. What runs came to, wherever.
#[derive(Default)]
struct Honest(HashMap<ResultKey, PureReport>);

impl Honest {
    fn run(&mut self, spec: &PureSpec) -> PureReport {
        let files = spec.setting.may_write && matches!(spec.work, Work::Map { .. });
        let parts = spec.work.parts().iter().map(|part| report(*part, false));
        let report = PureReport {
            parts: digest_of_parts(&parts.collect::<Vec<_>>()),
            ..report(spec.key(), files)
        };
        self.0.insert(report.key, report);
        report
    }

    fn answer(&mut self, action: &Action) -> Option<(Ticket, Event)> {
        Some(match action {
            Action::Missed(_) | Action::Stop(_) => return None,
            Action::Recall { ticket, keys, .. } => (*ticket, Event::Recalled(Ok(vec![None; keys.len()]))),
            Action::Run { ticket, spec, .. } => (*ticket, Event::Ran(Ok(self.run(spec)))),
            Action::Replay { ticket, spec, .. } => (*ticket, Event::Replayed(Ok(Ok(self.run(spec))))),
            Action::Take { ticket, host, key } => {
                let made = nearfield_protocol::job::Made {
                    by: *host,
                    signature: nearfield_protocol::job::Signature([0; 64]),
                };
                let given = PureReport {
                    made: Some(made),
                    ..self.0[key]
                };
                (*ticket, Event::Taken(Ok(Some((given, 1)))))
            }
            Action::Give { ticket, .. } => (*ticket, Event::Given(Ok(()))),
            Action::Files { ticket, key, .. } => (*ticket, Event::Files(Ok(Some(key.0)))),
            Action::Put { ticket, keys } => {
                let written = WrittenDataset {
                    name: "written".parse().unwrap(),
                    version: 1,
                    digest: Digest::EMPTY,
                    files: keys.len() as u64,
                    bytes: 0,
                };
                (*ticket, Event::Put(Ok(written)))
            }
            Action::Quarantine { ticket, .. } => (*ticket, Event::Quarantined(Ok(()))),
        })
    }
}

/// Drives a job to its end. Time goes on as far as it waits.
fn drive(
    engine: &mut Engine,
    net: &mut Net,
    mut answer: impl FnMut(&Action, &mut Net) -> Option<(Ticket, Event)>,
) -> JobState {
    let mut now = Duration::ZERO;
    for _ in 0..100_000 {
        let actions = engine.next(net.view(), now);
        if let Some(ended) = engine.ended() {
            return ended.clone();
        }
        let nothing = actions.is_empty();
        for action in actions {
            if let Action::Missed(host) = action {
                net.table.missed(&host);
            } else if let Some((ticket, event)) = answer(&action, net) {
                engine.on(ticket, event, net.view(), now);
            }
        }
        if nothing {
            now = engine.wakes_at().expect("it waits for nothing and has not ended");
        }
    }
    panic!("the job goes on and on");
}

fn failed(state: JobState) -> Problem {
    match state {
        JobState::Failed { problem, .. } => problem,
        other => panic!("it did not fail: {other:?}"),
    }
}

#[test]
fn a_job_whose_hosts_are_honest_ends() {
    let mut honest = Honest::default();
    for hosts in 1..4 {
        let mut net = Net::new(hosts);
        let mut engine = engine(&net, 40, |record| record.check = Some(1.0));
        let JobState::Done(done) = drive(&mut engine, &mut net, |action, _| honest.answer(action)) else {
            panic!("it failed");
        };
        assert_eq!((done.shards, done.failed, engine.progress().done), (40, 0, 40));
        let checked = done.checked.unwrap();
        assert_eq!(checked.runs == 0, hosts == 1, "{checked:?}");
    }
}

#[test]
fn parts_that_are_lost_again_and_again_end_a_job_with_what_helps() {
    let mut honest = Honest::default();
    let (mut net, mut reductions) = (Net::new(2), 0);
    let mut engine = engine(&net, 2, |_| {});
    let problem = failed(drive(&mut engine, &mut net, |action, _| match action {
        Action::Run { ticket, spec, .. } if matches!(spec.work, Work::Reduce { .. }) => {
            reductions += 1;
            let evicted = Problem::new(ProblemKind::ForgottenResult, "evicted");
            Some((*ticket, Event::Ran(Err(evicted.into()))))
        }
        action => honest.answer(action),
    }));
    assert_eq!(reductions, 1 + RESTARTS);
    assert_eq!(problem.kind, ProblemKind::ForgottenResult);
    assert!(problem.detail.contains("partial results"), "{problem}");
}

#[test]
fn trust_that_changes_again_and_again_is_no_matter_of_room() {
    let mut honest = Honest::default();
    let (mut net, mut changes) = (Net::new(20), 0);
    let mut engine = engine(&net, 2, |_| {});
    let problem = failed(drive(&mut engine, &mut net, |action, net| {
        if let Action::Run { spec, .. } = action
            && matches!(spec.work, Work::Finish { .. })
        {
            changes += 1;
            let reason = "another job says so".to_owned();
            net.tell(20 - changes, &NodeRecord::Quarantined { reason });
        }
        honest.answer(action)
    }));
    assert_eq!(usize::from(changes), 1 + RESTARTS);
    assert!(problem.detail.contains("quarantined"), "{problem}");
    assert!(!problem.detail.contains("--max-remembered"), "{problem}");
}

#[test]
fn files_that_are_lost_again_and_again_end_a_job_with_what_helps() {
    let (mut net, mut hosts) = (Net::new(3), Hosts::default());
    let into = |record: &mut JobRecord| record.into = Some("written".parse().unwrap());
    let mut engine = engine(&net, 200, into);
    let (mut lost, mut restarted) = (HashSet::new(), false);
    let problem = failed(drive(&mut engine, &mut net, |action, _| match action {
        // Each time those of another shard are gone, of those that are asked for at once the first.
        Action::Files { ticket, key, .. } if !restarted && lost.insert(*key) => {
            restarted = true;
            Some((*ticket, Event::Files(Ok(None))))
        }
        action => {
            restarted &= !matches!(action, Action::Run { .. } | Action::Recall { .. });
            hosts.answer(action)
        }
    }));
    assert_eq!(lost.len(), 1 + RESTARTS);
    assert!(problem.detail.contains("before it could be put"), "{problem}");
}

#[test]
fn who_never_gives_what_it_remembers_is_done_without() {
    let (mut net, mut hosts) = (Net::new(2), Hosts::default());
    let into = |record: &mut JobRecord| record.into = Some("written".parse().unwrap());
    let mut engine = engine(&net, 6, into);
    let (broken, mut refused) = (id(1), 0);
    let ended = drive(&mut engine, &mut net, |action, _| match action {
        Action::Files { ticket, host, .. } if *host == broken => {
            refused += 1;
            let broken = Problem::new(ProblemKind::Internal, "its disk does not answer");
            Some((*ticket, Event::Files(Err(broken))))
        }
        action => hosts.answer(action),
    });
    let JobState::Done(done) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(done.into.unwrap().files, 6);
    assert!(
        refused > 1,
        "it was asked again after a restart, and then no more"
    );
}

#[test]
fn who_remembers_what_cannot_be_is_quarantined_by_a_job_that_checks() {
    let mut honest = Honest::default();
    for checks in [false, true] {
        let (mut net, liar) = (Net::new(3), id(1));
        let mut engine = engine(&net, 6, |record| record.check = checks.then_some(1.0));
        let mut quarantined = Vec::new();
        let ended = drive(&mut engine, &mut net, |action, net| match action {
            Action::Recall { ticket, host, keys } if *host == liar => {
                let forged = |key: &ResultKey| {
                    let forged = PureReport {
                        fuel: 0,
                        ..report(*key, false)
                    };
                    Some(forged)
                };
                Some((*ticket, Event::Recalled(Ok(keys.iter().map(forged).collect()))))
            }
            Action::Quarantine { host, .. } => {
                quarantined.push(*host);
                net.tell(
                    1,
                    &NodeRecord::Quarantined {
                        reason: String::new(),
                    },
                );
                honest.answer(action)
            }
            action => honest.answer(action),
        });
        assert!(matches!(ended, JobState::Done(_)), "{ended:?}");
        assert_eq!(quarantined, if checks { vec![liar] } else { Vec::new() });
    }
}

#[test]
fn what_is_lost_once_is_made_again() {
    let (mut net, mut lost, mut hosts) = (Net::new(2), false, Hosts::default());
    let into = |record: &mut JobRecord| record.into = Some("written".parse().unwrap());
    let mut engine = engine(&net, 3, into);
    let ended = drive(&mut engine, &mut net, |action, _| match action {
        Action::Files { ticket, .. } if !lost => {
            lost = true;
            Some((*ticket, Event::Files(Ok(None))))
        }
        action => hosts.answer(action),
    });
    let JobState::Done(done) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(done.into.unwrap().files, 3);
}

#[test]
fn a_map_that_lags_gets_a_second_host_and_the_first_to_end_counts() {
    let mut honest = Honest::default();
    let mut net = Net::new(2);
    let mut engine = engine(&net, 6, |_| {});
    let (mut first, mut stopped) = (None, false);
    let ended = drive(&mut engine, &mut net, |action, _| match action {
        // The first map of all never ends.
        Action::Run { ticket, .. } if first.is_none_or(|first| first == *ticket) => {
            first = Some(*ticket);
            None
        }
        Action::Stop(ticket) => {
            stopped |= first == Some(*ticket);
            None
        }
        action => honest.answer(action),
    });
    assert!(matches!(ended, JobState::Done(_)), "{ended:?}");
    assert!(stopped, "it went on for nobody");
}

#[test]
fn shards_may_fail_as_many_as_are_to_be_skipped() {
    let mut honest = Honest::default();
    for (skip, fails) in [(2, false), (1, true)] {
        let mut net = Net::new(1);
        let mut engine = engine(&net, 8, |record| record.skip = skip);
        let ended = drive(&mut engine, &mut net, |action, _| match action {
            Action::Run { ticket, spec, .. } if matches!(spec.work, Work::Map { index: 2 | 5, .. }) => {
                let trap = Problem::new(ProblemKind::Trap, "it trapped");
                let failure = PureFailure {
                    problem: trap,
                    fuel: 3,
                    parts: Digest::EMPTY,
                };
                Some((*ticket, Event::Ran(Err(failure))))
            }
            action => honest.answer(action),
        });
        match ended {
            JobState::Done(done) if !fails => {
                assert_eq!((done.failed, done.shards), (2, 8));
                let failed: Vec<u32> = done.failures.iter().map(|failure| failure.shard).collect();
                assert_eq!(failed, [2, 5]);
                assert_eq!(engine.progress().done, 6);
            }
            JobState::Failed { problem, failures } if fails => {
                assert_eq!((problem.kind, failures.len()), (ProblemKind::Trap, 2));
            }
            other => panic!("skip {skip}: {other:?}"),
        }
    }
}

#[test]
fn whatever_is_a_hosts_fault_goes_to_another_host() {
    let mut honest = Honest::default();
    for &kind in ProblemKind::ALL {
        let (mut net, mut failed) = (Net::new(3), false);
        let mut engine = engine(&net, 4, |_| {});
        let ended = drive(&mut engine, &mut net, |action, _| match action {
            Action::Run { ticket, .. } if !failed => {
                failed = true;
                Some((*ticket, Event::Ran(Err(Problem::new(kind, "once").into()))))
            }
            action => honest.answer(action),
        });
        let may = kind.elsewhere() != nearfield_protocol::problem::Elsewhere::Never
            || kind == ProblemKind::ForgottenResult;
        assert_eq!(matches!(ended, JobState::Done(_)), may, "{}", kind.slug());
    }
}

/// A host that reduced what a liar made of a part is honest, and what it remembers is wrong.
#[test]
fn a_total_of_other_parts_is_made_again_and_nobody_is_blamed() {
    let (mut net, mut hosts) = (Net::new(3), Hosts::default());
    let check = |record: &mut JobRecord| record.check = Some(1.0);
    let mut first = engine(&net, 40, check);
    let JobState::Done(right) = drive(&mut first, &mut net, |action, _| hosts.answer(action)) else {
        panic!("it failed");
    };
    let totals = hosts.remembered.values_mut();
    for total in totals.filter(|report| report.parts != Digest::EMPTY) {
        total.parts = Digest::of(b"a lie");
    }
    let mut second = engine(&net, 40, check);
    let ended = drive(&mut second, &mut net, |action, _| {
        assert!(!matches!(action, Action::Quarantine { .. }), "{action:?}");
        hosts.answer(action)
    });
    let JobState::Done(done) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(done.digest, right.digest);
    assert_eq!(done.checked.unwrap().unchecked, 0);
}

/// One that remembers what it was given, and makes something else whenever it is asked.
#[test]
fn hosts_that_never_make_what_they_remember_end_a_job() {
    let (mut net, mut hosts) = (Net::new(3), Hosts::default());
    let mut first = engine(&net, 40, |_| {});
    drive(&mut first, &mut net, |action, _| hosts.answer(action));
    let totals = hosts.remembered.values_mut();
    for total in totals.filter(|report| report.parts != Digest::EMPTY) {
        (total.parts, total.output) = (Digest::of(b"a lie"), Digest::of(b"a total of it"));
    }
    let mut second = engine(&net, 40, |_| {});
    let remembered = hosts.remembered.clone();
    let problem = failed(drive(&mut second, &mut net, |action, _| {
        hosts.remembered.clone_from(&remembered);
        hosts.answer(action)
    }));
    assert!(problem.detail.contains("partial results"), "{problem}");
}

/// Wherever that is: a map that lagged may have ended on another host than the one that is chosen for its shard.
#[test]
fn a_map_whose_files_somebody_has_goes_there() {
    let (mut net, mut hosts) = (Net::new(3), Hosts::default());
    let into = |record: &mut JobRecord| record.into = Some("written".parse().unwrap());
    let mut first = engine(&net, 12, into);
    let ended = drive(&mut first, &mut net, |action, _| hosts.answer(action));
    assert!(matches!(ended, JobState::Done(_)), "{ended:?}");
    let all: Vec<PureReport> = hosts.remembered.drain().map(|(_, report)| report).collect();
    let all = all.into_iter().map(|report| ((id(2), report.key), report));
    hosts.remembered.extend(all);
    let mut second = engine(&net, 12, into);
    let ended = drive(&mut second, &mut net, |action, _| {
        if let Action::Run { host, .. } = action {
            assert_eq!(*host, id(2));
        }
        hosts.answer(action)
    });
    assert!(matches!(ended, JobState::Done(_)), "{ended:?}");
}
