//! Strangers' code and strangers' requests, one attack after the other, and what a neighbour notices of each: the time that
//! its calls take beside the attack, and without it.
//!
//! Guests attack on a node by itself, and on a host behind a gateway; clients attack the listener that the neighbour's calls come
//! by. Whatever happens, each call of the neighbour is answered, and right. What members of a network can do to each other is the
//! tests' (`strangers`, `wrong_results`) and `soak corruption`'s.

mod clients;
mod guests;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nearfield_testkit::cleanup::Folder;
use nearfield_testkit::{Node, Start};

use super::{Finding, Setting};
use crate::report::time;

/// What a neighbour's slowest hundredth may be beside an attack: so many times what it is without, or so much more.
const MOST_TIMES: u32 = 2;
const MOST_MORE: Duration = Duration::from_millis(5);
/// Rounds of an attack at which a neighbour noticed too much, before that counts: other programs of the machine are noticed too.
const ROUNDS: usize = 3;

/// How late after its deadline a call may end. Its client's way there and back counts, too.
const LATEST: Duration = Duration::from_millis(50);

/// One attempt. What came of it, if there is something to tell.
type Attempt = Box<dyn Fn(&Node) -> Result<Option<End>> + Sync>;

/// How an attempt ended.
struct End {
    /// In a few words.
    what: String,
    /// How long after its deadline, if that ended it.
    late: Option<Duration>,
}

impl From<String> for End {
    fn from(what: String) -> Self {
        End { what, late: None }
    }
}

/// How often attempts of an attack ended so.
struct Came {
    what: String,
    times: usize,
    latest: Option<Duration>,
}

/// One attack: what so many attackers do, each again and again.
struct Attack {
    name: String,
    at_once: usize,
    attempt: Attempt,
}

/// What a neighbour noticed, and how late calls ended that their deadline ended.
struct Noticed {
    quiet: Duration,
    beside: Duration,
    latest: Option<Duration>,
}

impl Noticed {
    fn is_little(&self) -> bool {
        self.beside <= (self.quiet * MOST_TIMES).max(self.quiet + MOST_MORE)
            && self.latest.is_none_or(|latest| latest <= LATEST)
    }
}

pub fn run(setting: &Setting) -> Result<Vec<Finding>> {
    let folder = Folder::new("hostile")?;
    let start = |name: &str| Node::start(&setting.nearfield, &folder.path().join(name));
    let alone = start("alone")?;
    let gateway = Start::new(&setting.nearfield, &folder.path().join("gateway"))
        .flags(&["--no-host"])
        .run()?;
    let host = Start::new(&setting.nearfield, &folder.path().join("host")).join(&gateway, &[])?;
    for node in [&alone, &gateway] {
        guests::deploy(node, folder.path(), setting)?;
    }
    let mut findings = Vec::new();
    let mut beyond = Vec::new();
    for (place, node) in [("alone", &alone), ("through a gateway", &gateway)] {
        let attacks = guests::attacks().into_iter().chain(clients::attacks());
        let is_asked = |attack: &Attack| {
            setting
                .only
                .as_ref()
                .is_none_or(|text| attack.name.contains(text))
        };
        for attack in attacks.filter(is_asked) {
            let (noticed, came) = beside(node, &attack, setting.quick)?;
            let told = format!(
                "neighbour's p99 {} → {}; {came}",
                time(noticed.quiet),
                time(noticed.beside)
            );
            let what = format!("{} × {}, {place}", attack.at_once, attack.name);
            eprintln!("{what}: {told}");
            if !noticed.is_little() {
                beyond.push(format!("{what}: {told}"));
            }
            findings.push((what, told));
        }
    }
    for node in [host, gateway, alone] {
        node.stop()?;
    }
    ensure!(
        beyond.is_empty(),
        "the neighbour noticed too much, or calls ended too late:\n{}",
        beyond.join("\n")
    );
    Ok(findings)
}

/// An attack, and the neighbour beside it: the round in which it noticed least.
fn beside(node: &Node, attack: &Attack, quick: bool) -> Result<(Noticed, String)> {
    let (quiet, beside) = match quick {
        true => (Duration::from_millis(300), Duration::from_millis(700)),
        false => (Duration::from_secs(1), Duration::from_secs(3)),
    };
    let mut least: Option<(Noticed, String)> = None;
    for _ in 0..ROUNDS {
        let round = once(node, attack, quiet, beside).with_context(|| attack.name.clone())?;
        let done = round.0.is_little();
        if least
            .as_ref()
            .is_none_or(|(noticed, _)| round.0.beside < noticed.beside)
        {
            least = Some(round);
        }
        if done {
            break;
        }
    }
    least.context("a round")
}

fn once(node: &Node, attack: &Attack, quiet: Duration, beside: Duration) -> Result<(Noticed, String)> {
    let quiet = p99(neighbour(node, quiet)?);
    let over = AtomicBool::new(false);
    let came = Mutex::new(Vec::<Came>::new());
    let beside = std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..attack.at_once)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    while !over.load(Ordering::Relaxed) {
                        let Some(end) = (attack.attempt)(node)? else {
                            continue;
                        };
                        let mut came = came.lock().expect("no panic under this lock");
                        match came.iter_mut().find(|known| known.what == end.what) {
                            Some(known) => {
                                known.times += 1;
                                known.latest = known.latest.max(end.late);
                            }
                            None => came.push(Came {
                                what: end.what,
                                times: 1,
                                latest: end.late,
                            }),
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        // The attack has begun by then.
        std::thread::sleep(Duration::from_millis(100));
        let took = neighbour(node, beside);
        over.store(true, Ordering::Relaxed);
        for attacker in attackers {
            attacker.join().expect("attackers do not panic")?;
        }
        took
    })?;
    let came = came.into_inner().expect("no panic under this lock");
    let latest = came.iter().filter_map(|came| came.latest).max();
    let told = came.iter().map(|Came { what, times, latest }| match latest {
        Some(late) => format!("{times} {what}, {} late at most", time(*late)),
        None => format!("{times} {what}"),
    });
    let told = told.collect::<Vec<_>>().join(", ");
    let beside = p99(beside);
    Ok((
        Noticed {
            quiet,
            beside,
            latest,
        },
        told,
    ))
}

/// Calls a function of somebody else's for so long, one call after the other, and tells how long each took.
fn neighbour(node: &Node, duration: Duration) -> Result<Vec<Duration>> {
    let begun = Instant::now();
    let mut took = Vec::new();
    while begun.elapsed() < duration {
        let answer = node.get("/hello")?;
        ensure!(
            answer.status == 200,
            "the neighbour got {}: {}",
            answer.status,
            answer.text()
        );
        took.push(answer.took);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(took)
}

fn p99(mut took: Vec<Duration>) -> Duration {
    took.sort();
    took[(took.len() * 99).div_ceil(100) - 1]
}
