//! The host: admits calls, finds their components, runs them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http_body::Body;
use nearfield_gpu::client::Gpu;
use nearfield_protocol::call::{CallReport, CallSpec, OnReport, Stages};
use nearfield_protocol::{Digest, FunctionName, Problem, ProblemKind, units};
use nearfield_store::{Remembered, Store};
use tokio::sync::Semaphore;

use crate::body::GuestBody;
use crate::compile::{Compiler, CompilerCommand};
use crate::components::{Checked, Components};
use crate::engine::PLACES;
use crate::idle::Idle;
use crate::invoke::Invocation;
use crate::logs::Logs;
use crate::lookups::HostLookups;
use crate::memory::GuestMemory;
use crate::outgoing::Allowed;
use crate::places::{Places, Queue};
use crate::ready::Ready;
use crate::turns::Turns;

/// Function versions that are kept ready, with their idle instances.
const MAX_READY: u64 = 1_024;

/// Runs of jobs that are about to start, run, or wait to be kept, for each that runs: enough that no
/// worker waits for the disk, few enough to be in memory.
const SLOTS_PER_WORKER: usize = 4;

/// How a host is set up.
pub struct HostOptions {
    /// Where native code is kept.
    pub code_dir: PathBuf,
    pub compiler: CompilerCommand,
    /// The runtime that calls run on, and nothing else.
    pub guests: tokio::runtime::Handle,
    /// The runtime that jobs run on, less urgent than that of calls.
    pub jobs: tokio::runtime::Handle,
    /// Runs of jobs at once.
    pub job_workers: usize,
    pub remembered: Remembered,
    pub logs: Logs,
    /// The GPU that functions may use which require one.
    pub gpu: Option<Gpu>,
    /// Memory of all guests together.
    pub memory_bytes: u64,
}

/// Why a host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("the folder for native code: {0}")]
    Io(#[from] io::Error),
    #[error("the WebAssembly engine: {0:#}")]
    Engine(wasmtime::Error),
}

/// Runs functions on this node. Cheap to clone.
#[derive(Clone)]
pub struct Host {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Store,
    pub components: Components,
    guests: tokio::runtime::Handle,
    pub jobs: tokio::runtime::Handle,
    pub job_places: Arc<Semaphore>,
    /// Runs whose subject is loaded or whose result is not kept yet.
    pub job_slots: Semaphore,
    pub remembered: Remembered,
    pub logs: Logs,
    pub gpu: Option<Gpu>,
    places: Places,
    idle: Arc<Idle>,
    lookups: HostLookups,
    pub memory: Arc<GuestMemory>,
    /// What a guest burns in a millisecond, averaged over the last runs of jobs; 0 before any.
    pub fuel_per_ms: AtomicU64,
    ready: moka::sync::Cache<VersionKey, Arc<Ready>>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct VersionKey {
    function: FunctionName,
    version: u64,
}

impl Host {
    pub fn new(store: Store, options: HostOptions) -> Result<Self, HostError> {
        let HostOptions {
            code_dir,
            compiler,
            guests,
            jobs,
            job_workers,
            remembered,
            logs,
            gpu,
            memory_bytes,
        } = options;
        let compiler = Compiler::new(compiler, code_dir)?;
        let idle = Arc::new(Idle::default());
        guests.spawn(Idle::sweep(Arc::downgrade(&idle)));
        let idles = idle.clone();
        // What lies idle leaves before a guest is refused.
        let make_room = Box::new(move || idles.drop_longest());
        let inner = Inner {
            components: Components::new(store.clone(), compiler).map_err(HostError::Engine)?,
            store,
            guests,
            jobs,
            job_places: Arc::new(Semaphore::new(job_workers.max(1))),
            job_slots: Semaphore::new(job_workers.max(1) * SLOTS_PER_WORKER),
            remembered,
            logs,
            gpu,
            places: Places::new(PLACES),
            memory: Arc::new(GuestMemory::new(memory_bytes, make_room)),
            idle,
            lookups: HostLookups::default(),
            fuel_per_ms: AtomicU64::new(0),
            ready: moka::sync::Cache::new(MAX_READY),
        };
        Ok(Host {
            inner: Arc::new(inner),
        })
    }

    /// Runs one call. Whatever the guest does, this answers within the call's time; `report` is told
    /// what became of it, even if nobody waits for the response any more.
    pub async fn call<B>(
        &self,
        spec: CallSpec,
        request: http::Request<B>,
        report: OnReport,
    ) -> Result<http::Response<GuestBody>, Problem>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display,
    {
        match self.prepare(spec).await {
            Ok(invocation) => invocation.start(&self.inner.guests, request, report).await,
            Err((problem, stages)) => {
                report(CallReport::without_guest(Some(problem.clone()), stages));
                Err(problem)
            }
        }
    }

    /// Compiles and links a component, and says what it imports and exports.
    pub async fn check(&self, component: Digest) -> Result<Checked, Problem> {
        self.inner.components.check(component).await
    }

    /// Calls that run or wait.
    pub fn calls(&self) -> usize {
        self.inner.places.taken() + self.inner.places.waiting()
    }

    /// Fuel that a core burns in a millisecond, as runs of jobs have shown; 0 before any has.
    pub fn fuel_per_ms(&self) -> u64 {
        self.inner.fuel_per_ms.load(Ordering::Relaxed)
    }

    pub fn logs(&self) -> &Logs {
        &self.inner.logs
    }

    async fn prepare(&self, spec: CallSpec) -> Result<Invocation, (Problem, Stages)> {
        let started = Instant::now();
        let mut stages = Stages::default();
        let key = VersionKey {
            function: spec.function.name.clone(),
            version: spec.function.version,
        };
        let (ready, cold) = match self.inner.ready.get(&key) {
            Some(ready) => (ready, false),
            None => {
                let loading = Instant::now();
                let left = spec
                    .function
                    .manifest
                    .limits
                    .timeout
                    .0
                    .saturating_sub(started.elapsed());
                // Boxed, as all that few calls wait for: every call's future would be as large, and is moved.
                let loaded = Box::pin(tokio::time::timeout(left, self.load(key, &spec))).await;
                let loaded = loaded.unwrap_or_else(|_| Err(still_compiling(&spec)));
                stages.load_us = loading.elapsed().as_micros() as u64;
                (loaded.map_err(|problem| (problem, stages))?, true)
            }
        };
        let asked = Instant::now();
        // Beyond its limit it has none: the guest is refused it at once.
        let needs = ready.begins_with.min(spec.function.manifest.limits.memory.0);
        let room = ready.memory.admit(needs).await;
        room.map_err(|problem| (problem, stages))?;
        // Not before: a call that waits for the compiler or for memory keeps nobody from running.
        let place = self.inner.places.take(&ready.queue, ready.places).await;
        let place = place.map_err(|problem| (problem, stages))?;
        stages.queue_us = asked.elapsed().as_micros() as u64;
        Ok(Invocation {
            ready,
            blobs: self.inner.store.clone(),
            logs: self.inner.logs.clone(),
            gpu: self.inner.gpu.clone(),
            spec,
            started,
            stages,
            cold,
            place,
        })
    }

    async fn load(&self, key: VersionKey, spec: &CallSpec) -> Result<Arc<Ready>, Problem> {
        let component = self.inner.components.load(spec.function.component).await?;
        let ready = || {
            let places = component.places();
            let function = &spec.function.name;
            Arc::new(Ready {
                pool: self.inner.idle.pool(places),
                begins_with: component.memory_bytes(),
                memory: self.inner.memory.share(function),
                turns: Turns::default(),
                allowed: Allowed::new(
                    spec.function.manifest.allow.http.clone(),
                    self.inner.lookups.clone(),
                ),
                component,
                places,
                queue: Queue::new(places),
            })
        };
        Ok(self.inner.ready.get_with(key, ready))
    }
}

/// A call whose time went by before its component was ready. The compiler goes on.
fn still_compiling(spec: &CallSpec) -> Problem {
    Problem::new(
        ProblemKind::Timeout,
        format!(
            "this host is still compiling the component of `{}`: call again in a while",
            spec.function.name
        ),
    )
    .with_limit(format!(
        "limits.timeout = {}",
        units::exact_duration(spec.function.manifest.limits.timeout.0)
    ))
}
