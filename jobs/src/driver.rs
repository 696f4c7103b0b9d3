//! Drives a job's engine: does what it asks for, and tells it what came of that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use futures_util::stream::FuturesUnordered;
use nearfield_cluster::host::Given;
use nearfield_cluster::{Cluster, net_problem, store_problem};
use nearfield_net::vouches;
use nearfield_protocol::job::{MAPPER, ResultKey};
use nearfield_protocol::node::Label;
use nearfield_protocol::{Digest, Problem, ProblemKind};
use tokio::sync::watch;

use crate::aside::{Aside, KeptOutput, set_aside};
use crate::engine::{Action, Engine, Event, Input, Ticket, View, rule};
use crate::record::{JobRecord, JobState, Progress};
use crate::{into, plan};

/// Runs a job to its end.
pub async fn run(
    cluster: &Cluster,
    workers: usize,
    record: &JobRecord,
    progress: &watch::Sender<Progress>,
) -> JobState {
    let failed = |problem| JobState::Failed {
        problem,
        failures: Vec::new(),
    };
    let mut driver = match Driver::new(cluster, workers, record).await {
        Ok(driver) => driver,
        Err(problem) => return failed(problem),
    };
    loop {
        while driver.act() {}
        let engine = &driver.engine;
        progress.send_if_modified(|before| {
            let changed = before != engine.progress();
            *before = *engine.progress();
            changed
        });
        if let Some(state) = engine.ended() {
            return state.clone();
        }
        let wakes_at = engine.wakes_at().map(|at| driver.started + at);
        let wakes = async {
            match wakes_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(done) = driver.work.next() => driver.done(done),
            () = wakes, if wakes_at.is_some() => {}
            else => {
                let text = "the job stands still: no step is under way and it has not ended; this is a bug of Nearfield";
                return failed(Problem::new(ProblemKind::Internal, text));
            }
        }
    }
}

/// What an action came to.
struct Done {
    ticket: Ticket,
    came: Came,
}

enum Came {
    Event(Box<Event>),
    /// What is kept here, beside what the engine is told of it.
    Taken(Box<Given>),
    /// What a run wrote: its digest, and its bytes if they can be kept.
    Files(ResultKey, Digest, Result<KeptOutput, Problem>),
}

impl Came {
    fn event(event: Event) -> Self {
        Came::Event(Box::new(event))
    }
}

struct Driver<'a> {
    cluster: &'a Cluster,
    record: &'a JobRecord,
    /// What this job's results are kept for.
    origins: Arc<[String]>,
    engine: Engine,
    started: Instant,
    work: FuturesUnordered<Abortable<BoxFuture<'a, Done>>>,
    /// How what is under way is stopped. Stopping a run stops its guest.
    stops: HashMap<Ticket, AbortHandle>,
    /// Results on their way from one host to another.
    taken: HashMap<Ticket, Given>,
    /// What runs wrote, until it is put.
    files: Aside,
}

impl<'a> Driver<'a> {
    async fn new(cluster: &'a Cluster, workers: usize, record: &'a JobRecord) -> Result<Self, Problem> {
        let store = &cluster.catalog.store;
        let dataset = store
            .dataset(&record.dataset_digest)
            .await
            .map_err(store_problem)?;
        let shards = plan::shards(&dataset, &record.selection)?;
        if shards.chosen.is_empty() {
            return Err(over_nothing(cluster, record).await?);
        }
        let input = Input {
            record: Arc::new(record.clone()),
            shards,
            workers,
            vouches,
            seed: rand::random(),
        };
        let records = cluster.catalog.node.records();
        let engine = {
            let table = cluster.hosts.table();
            Engine::new(
                input,
                View {
                    table: &table,
                    records: &records,
                },
            )
        };
        Ok(Driver {
            origins: plan::origins(record).into(),
            cluster,
            record,
            engine,
            started: Instant::now(),
            work: FuturesUnordered::new(),
            stops: HashMap::new(),
            taken: HashMap::new(),
            files: Aside::default(),
        })
    }

    /// Begins all that the engine asks for. Whether there was something.
    fn act(&mut self) -> bool {
        let records = self.cluster.catalog.node.records();
        let actions = {
            let table = self.cluster.hosts.table();
            let view = View {
                table: &table,
                records: &records,
            };
            self.engine.next(view, self.started.elapsed())
        };
        let some = !actions.is_empty();
        for action in actions {
            self.begin(action);
        }
        some
    }

    fn begin(&mut self, action: Action) {
        let cluster = self.cluster;
        let (ticket, work): (Ticket, BoxFuture<'a, Came>) = match action {
            Action::Missed(host) => return cluster.hosts.missed(&host),
            Action::Stop(ticket) => {
                self.taken.remove(&ticket);
                if let Some(stop) = self.stops.remove(&ticket) {
                    stop.abort();
                }
                return;
            }
            Action::Recall { ticket, host, keys } => {
                let origins = self.origins.clone();
                let recall = async move {
                    cluster.catalog.see_forgotten(host).await?;
                    cluster.dispatch.to(host).recall(&keys, &origins).await
                };
                (
                    ticket,
                    Box::pin(async move { Came::event(Event::Recalled(recall.await)) }),
                )
            }
            Action::Run { ticket, host, spec } => {
                let run = async move {
                    cluster.catalog.see_forgotten(host).await?;
                    cluster.dispatch.to(host).run_pure(spec).await
                };
                (
                    ticket,
                    Box::pin(async move { Came::event(Event::Ran(run.await)) }),
                )
            }
            Action::Replay { ticket, host, spec } => {
                let replay = async move {
                    cluster.catalog.see_forgotten(host).await?;
                    let replayed = cluster.dispatch.to(host).replay(spec).await?;
                    Ok(replayed.outcome.map(|(report, _)| report))
                };
                (
                    ticket,
                    Box::pin(async move { Came::event(Event::Replayed(replay.await)) }),
                )
            }
            Action::Take { ticket, host, key } => {
                let take = async move {
                    match cluster.dispatch.to(host).take(key).await {
                        Ok(Some(given)) => Came::Taken(Box::new(given)),
                        Ok(None) => Came::event(Event::Taken(Ok(None))),
                        Err(problem) => Came::event(Event::Taken(Err(problem))),
                    }
                };
                (ticket, Box::pin(take))
            }
            Action::Give { ticket, host } => {
                let (taken, origins) = (self.taken.remove(&ticket), self.origins.clone());
                let give = async move {
                    let Some(taken) = taken else {
                        return Err(Problem::new(
                            ProblemKind::Internal,
                            "a result was given before it was taken",
                        ));
                    };
                    cluster.catalog.see_forgotten(host).await?;
                    cluster.dispatch.to(host).give(taken, &origins).await
                };
                (
                    ticket,
                    Box::pin(async move { Came::event(Event::Given(give.await)) }),
                )
            }
            Action::Files { ticket, host, key } => {
                let store = cluster.catalog.store.clone();
                let may_rest = cluster.catalog.may_keep(&self.rule());
                let read = async move {
                    match cluster.dispatch.to(host).written(key).await {
                        Ok(Some(files)) => {
                            let (digest, kept) = set_aside(store, may_rest, files).await;
                            Came::Files(key, digest, kept)
                        }
                        Ok(None) => Came::event(Event::Files(Ok(None))),
                        Err(problem) => Came::event(Event::Files(Err(problem))),
                    }
                };
                (ticket, Box::pin(read))
            }
            Action::Put { ticket, keys } => {
                let (files, only) = (self.files.take(&keys), self.rule());
                let name = self.record.into.clone();
                let put = async move {
                    let Some(name) = name else {
                        return Err(Problem::new(
                            ProblemKind::Internal,
                            "files were put without a name for them",
                        ));
                    };
                    into::put(cluster, &name, files?, only).await
                };
                (
                    ticket,
                    Box::pin(async move { Came::event(Event::Put(put.await)) }),
                )
            }
            Action::Quarantine { ticket, host, reason } => {
                tracing::error!(host = host.short(), reason, "a host is quarantined");
                let node = &cluster.catalog.node;
                let quarantine = async move {
                    node.quarantine(&host, reason).await.map_err(net_problem)?;
                    cluster.hosts.refresh(&node.records());
                    Ok(())
                };
                (
                    ticket,
                    Box::pin(async move { Came::event(Event::Quarantined(quarantine.await)) }),
                )
            }
        };
        let (stop, stopped) = AbortHandle::new_pair();
        self.stops.insert(ticket, stop);
        let done: BoxFuture<'a, Done> = Box::pin(async move {
            Done {
                ticket,
                came: work.await,
            }
        });
        self.work.push(Abortable::new(done, stopped));
    }

    /// The labels that whoever keeps what comes of the job's data must have.
    fn rule(&self) -> Vec<Label> {
        rule(&self.cluster.catalog.node.records(), &self.record.datasets())
    }

    fn done(&mut self, done: Result<Done, futures_util::future::Aborted>) {
        // Nobody waits for what was stopped.
        let Ok(Done { ticket, came }) = done else { return };
        if self.stops.remove(&ticket).is_none() {
            return;
        }
        let event = match came {
            Came::Event(event) => *event,
            Came::Taken(given) => {
                let (report, bytes) = (given.report, given.output.len() as u64);
                self.taken.insert(ticket, *given);
                Event::Taken(Ok(Some((report, bytes))))
            }
            Came::Files(key, digest, kept) => {
                self.files.insert(key, kept);
                Event::Files(Ok(Some(digest)))
            }
        };
        let records = self.cluster.catalog.node.records();
        let table = self.cluster.hosts.table();
        let view = View {
            table: &table,
            records: &records,
        };
        self.engine.on(ticket, event, view, self.started.elapsed());
    }
}

/// Why a job without shards has no result: a `finish` is over a total, and there is none. What is no job is refused first, as it
/// is over shards.
async fn over_nothing(cluster: &Cluster, record: &JobRecord) -> Result<Problem, Problem> {
    let component = record.component;
    let host = cluster.host_for(&component, &[], None)?;
    let surface = cluster.dispatch.to(host).check(component).await?;
    if !surface.exports.iter().any(|export| export.starts_with(MAPPER)) {
        let detail = format!(
            "`{}` is no job: a job's function exports {MAPPER} (use #[nearfield::map])",
            record.function
        );
        return Err(Problem::new(ProblemKind::RefusedComponent, detail));
    }
    let over = match &record.dataset {
        Some(name) => name.to_string(),
        None => record.dataset_digest.to_string(),
    };
    let detail =
        format!("`{over}` has no shards, so there is no total to finish: put something into it first");
    Ok(Problem::new(ProblemKind::BadInput, detail))
}
