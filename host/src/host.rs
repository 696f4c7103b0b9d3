//! The host: admits calls, finds their components, runs them.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use http_body::Body;
use nearfield_protocol::call::{CallReport, CallSpec, OnReport, Stages};
use nearfield_protocol::{Digest, FunctionName, Problem, ProblemKind, limits};
use nearfield_store::Store;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::compile::{Compiler, CompilerCommand};
use crate::components::Components;
use crate::engine::CALLS_AT_ONCE;
use crate::inspect::Inspection;
use crate::instances::InstancePool;
use crate::invoke::{GuestBody, Invocation};
use crate::logs::{CallLog, Logs};

/// Function versions whose idle instances are kept.
const MAX_POOLS: u64 = 1_024;

/// How a host is set up.
pub struct HostOptions {
    /// Where native code is kept.
    pub code_dir: PathBuf,
    pub compiler: CompilerCommand,
    /// The runtime that guests run on, and nothing else.
    pub guests: tokio::runtime::Handle,
    pub logs: Logs,
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
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    components: Components,
    guests: tokio::runtime::Handle,
    logs: Logs,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    pools: moka::sync::Cache<PoolKey, Arc<InstancePool>>,
}

/// A function's version: an instance of one never serves another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PoolKey {
    function: FunctionName,
    version: u64,
}

impl Host {
    pub fn new(store: Store, options: HostOptions) -> Result<Self, HostError> {
        let HostOptions {
            code_dir,
            compiler,
            guests,
            logs,
        } = options;
        let compiler = Compiler::new(compiler, code_dir)?;
        let inner = Inner {
            components: Components::new(store.clone(), compiler).map_err(HostError::Engine)?,
            store,
            guests,
            logs,
            places: Arc::new(Semaphore::new(CALLS_AT_ONCE as usize)),
            waiting: AtomicUsize::new(0),
            pools: moka::sync::Cache::new(MAX_POOLS),
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
    pub async fn check(&self, component: Digest) -> Result<Inspection, Problem> {
        self.inner.components.check(component).await
    }

    pub fn logs(&self) -> &Logs {
        &self.inner.logs
    }

    async fn prepare(&self, spec: CallSpec) -> Result<Invocation, (Problem, Stages)> {
        let started = Instant::now();
        let mut stages = Stages::default();
        let place = self.place().await.map_err(|problem| (problem, stages))?;
        stages.queue_us = started.elapsed().as_micros() as u64;

        let loading = Instant::now();
        let component = spec.function.component;
        let (component, cold) = match self.inner.components.ready(&component).await {
            Some(component) => (component, false),
            None => match self.inner.components.load(component).await {
                Ok(component) => (component, true),
                Err(problem) => return Err((problem, stages)),
            },
        };
        stages.load_us = loading.elapsed().as_micros() as u64;

        let key = PoolKey {
            function: spec.function.name.clone(),
            version: spec.function.version,
        };
        Ok(Invocation {
            log: CallLog::new(self.inner.logs.clone(), spec.function.name.clone(), spec.id),
            pool: self.inner.pools.get_with(key, Arc::default),
            blobs: self.inner.store.clone(),
            spec,
            component,
            started,
            stages,
            cold,
            place,
        })
    }

    /// A place to run in: at once, or after a bounded wait in a bounded queue.
    async fn place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let inner = &self.inner;
        if let Ok(place) = inner.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let full =
            |what: &str, limit: String| Err(Problem::new(ProblemKind::Overload, what).with_limit(limit));
        let _waiting = Waiting::enter(&inner.waiting);
        if inner.waiting.load(Ordering::Relaxed) > limits::QUEUED_CALLS {
            return full(
                "this host's queue is full",
                format!("queued calls = {}", limits::QUEUED_CALLS),
            );
        }
        match tokio::time::timeout(limits::QUEUE_WAIT, inner.places.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => full(
                "this host had no place in time",
                format!("queue wait = {} s", limits::QUEUE_WAIT.as_secs()),
            ),
        }
    }
}

/// Counts a waiting call while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
