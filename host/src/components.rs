//! Component digest → what can be instantiated, loaded once.

use std::sync::Arc;
use std::time::Duration;

use nearfield_protocol::{Digest, Problem, ProblemKind};
use nearfield_store::Store;
use tokio::sync::OnceCell;
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime_wasi_http::{p2, p3};

use crate::compile::Compiler;
use crate::contentless;
use crate::data;
use crate::engine::{self, Target};
use crate::gpu;
use crate::guest::Guest;
use crate::inspect::{Inspection, inspect};
use crate::lane::Lane;
use crate::problem::store_problem;
use crate::pure::{self, JobComponent};
use crate::texts;

/// Components held ready: each maps its code, some megabytes of address space.
const MAX_LOADED: u64 = 1_024;

/// A component, compiled, linked, ready to instantiate.
pub(crate) enum Loaded {
    P2(p2::bindings::ProxyPre<Guest>),
    P3(p3::bindings::ServicePre<Guest>),
}

impl Loaded {
    pub fn engine(&self) -> &Engine {
        match self {
            Loaded::P2(pre) => pre.engine(),
            Loaded::P3(pre) => pre.engine(),
        }
    }

    /// Places that an instance takes.
    pub fn places(&self) -> u32 {
        engine::places_of(self.component())
    }

    /// Memory that an instance begins with, at most.
    pub fn memory_bytes(&self) -> u64 {
        engine::memory_of(self.component())
    }

    fn component(&self) -> &Component {
        match self {
            Loaded::P2(pre) => pre.instance_pre().component(),
            Loaded::P3(pre) => pre.instance_pre().component(),
        }
    }
}

/// Loads components. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Components(Arc<Inner>);

struct Inner {
    store: Store,
    compiler: Compiler,
    /// Those of usual components are there from the start, the others with the first component for them.
    engines: Vec<(Target, OnceCell<TargetEngine>)>,
    /// moka loads each digest once, however many calls wait for it.
    loaded: moka::future::Cache<Digest, Arc<Loaded>>,
    jobs: moka::future::Cache<Digest, Arc<JobComponent>>,
}

struct TargetEngine {
    target: Target,
    engine: Engine,
    linker: Linker<Guest>,
    key: String,
}

impl TargetEngine {
    fn new(target: Target) -> wasmtime::Result<Self> {
        let engine = engine::running_engine(target)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        p2::add_only_http_to_linker_async(&mut linker)?;
        contentless::add_to_linker(&mut linker)?;
        texts::add_p2_to_linker(&mut linker)?;
        if target.lane == Lane::LiveP3 {
            wasmtime_wasi::p3::add_to_linker(&mut linker)?;
            p3::add_to_linker(&mut linker)?;
            texts::add_p3_to_linker(&mut linker)?;
        }
        data::add_to_linker(&mut linker)?;
        data::output::add_to_linker(&mut linker)?;
        gpu::add_to_linker(&mut linker)?;
        if target.lane == Lane::Pure {
            pure::add_to_linker(&mut linker)?;
        }
        let key = engine::code_key(&engine, target);
        Ok(TargetEngine {
            target,
            engine,
            linker,
            key,
        })
    }
}

/// What was found out about a component before it is deployed.
pub struct Checked {
    pub inspection: Inspection,
    /// How long it took to compile, for calls and for jobs; none if its code was there.
    pub compiled_in: Option<Duration>,
}

impl Components {
    pub fn new(store: Store, compiler: Compiler) -> wasmtime::Result<Self> {
        let engine = |target: Target| {
            let engine = target.is_usual().then(|| TargetEngine::new(target)).transpose()?;
            Ok((target, OnceCell::new_with(engine)))
        };
        Ok(Components(Arc::new(Inner {
            store,
            compiler,
            engines: Target::all().map(engine).collect::<wasmtime::Result<_>>()?,
            loaded: moka::future::Cache::new(MAX_LOADED),
            jobs: moka::future::Cache::new(MAX_LOADED),
        })))
    }

    /// The component, compiled and linked if it was not. Who stops waiting stops no compilation: the next one to ask
    /// finds more of it done.
    pub async fn load(&self, digest: Digest) -> Result<Arc<Loaded>, Problem> {
        if let Some(loaded) = self.0.loaded.get(&digest).await {
            return Ok(loaded);
        }
        let inner = self.0.clone();
        detached(async move {
            let load = async { inner.load_call(digest).await.map(|(loaded, _)| loaded) };
            shared(inner.loaded.try_get_with(digest, load).await)
        })
        .await
    }

    /// The component as jobs run it; likewise.
    pub async fn load_job(&self, digest: Digest) -> Result<Arc<JobComponent>, Problem> {
        if let Some(loaded) = self.0.jobs.get(&digest).await {
            return Ok(loaded);
        }
        let inner = self.0.clone();
        detached(async move {
            let load = async { inner.load_job(digest).await.map(|(loaded, _)| loaded) };
            shared(inner.jobs.try_get_with(digest, load).await)
        })
        .await
    }

    /// Compiles and links, and says what the component imports and exports.
    pub async fn check(&self, digest: Digest) -> Result<Checked, Problem> {
        let inner = self.0.clone();
        detached(async move { inner.check(digest).await }).await
    }
}

impl Inner {
    async fn check(&self, digest: Digest) -> Result<Checked, Problem> {
        let bytes = self.store.blob(&digest).await.map_err(store_problem)?;
        let inspection = inspect(&bytes)?;
        let mut compiled_in = None;
        let mut add = |took: Option<Duration>| {
            compiled_in = took
                .map(|took| took + compiled_in.unwrap_or_default())
                .or(compiled_in);
        };
        // What only maps is a job's; all else is called.
        if inspection.job_lane().is_ok() && !self.jobs.contains_key(&digest) {
            let (component, took) = self.load_job(digest).await?;
            self.jobs.insert(digest, component).await;
            add(took);
        }
        let is_called = inspection.call_lane().is_ok() || inspection.job_lane().is_err();
        if is_called && !self.loaded.contains_key(&digest) {
            let (component, took) = self.load_call(digest).await?;
            self.loaded.insert(digest, component).await;
            add(took);
        }
        Ok(Checked {
            inspection,
            compiled_in,
        })
    }

    async fn load_call(&self, digest: Digest) -> Result<(Arc<Loaded>, Option<Duration>), Problem> {
        let bytes = self.store.blob(&digest).await.map_err(store_problem)?;
        let inspection = inspect(&bytes)?;
        let target = Target::of(inspection.call_lane()?, &inspection);
        let (pre, took) = self.pre(digest, &bytes, target).await?;
        let loaded = match target.lane {
            Lane::LiveP3 => Loaded::P3(p3::bindings::ServicePre::new(pre).map_err(refused)?),
            _ => Loaded::P2(p2::bindings::ProxyPre::new(pre).map_err(refused)?),
        };
        Ok((Arc::new(loaded), took))
    }

    async fn load_job(&self, digest: Digest) -> Result<(Arc<JobComponent>, Option<Duration>), Problem> {
        let bytes = self.store.blob(&digest).await.map_err(store_problem)?;
        let inspection = inspect(&bytes)?;
        let target = Target::of(inspection.job_lane()?, &inspection);
        let (pre, took) = self.pre(digest, &bytes, target).await?;
        Ok((Arc::new(JobComponent::new(pre)?), took))
    }

    /// Compiled for `target` and linked, and how long the compiler took.
    async fn pre(
        &self,
        digest: Digest,
        bytes: &[u8],
        target: Target,
    ) -> Result<(InstancePre<Guest>, Option<Duration>), Problem> {
        let engine = self.engine(target).await?;
        let code = self
            .compiler
            .code(digest, bytes, engine.target, &engine.key)
            .await?;
        // SAFETY: the file was written by our own compiler process for an engine of this very
        // configuration (the key is part of its name), and its hash was checked a moment ago.
        let component =
            unsafe { Component::deserialize_file(&engine.engine, &code.path) }.map_err(|error| {
                Problem::new(ProblemKind::Internal, format!("loading native code: {error:#}"))
            })?;
        let pre = engine.linker.instantiate_pre(&component).map_err(refused)?;
        Ok((pre, code.compiled_in))
    }

    async fn engine(&self, target: Target) -> Result<&TargetEngine, Problem> {
        let failed = |why: String| {
            let text = format!(
                "the engine for {} components does not start: {why}",
                target.name()
            );
            Problem::new(ProblemKind::Internal, text)
        };
        let engine = self.engines.iter().find(|(of, _)| *of == target);
        let (_, engine) = engine.ok_or_else(|| failed("there is none".to_owned()))?;
        let start = || async { TargetEngine::new(target) };
        engine
            .get_or_try_init(start)
            .await
            .map_err(|error| failed(format!("{error:#}")))
    }
}

/// Goes on when its caller is dropped.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        let text = format!("loading a component: {error}");
        Err(Problem::new(ProblemKind::Internal, text))
    })
}

fn shared<T>(loaded: Result<T, Arc<Problem>>) -> Result<T, Problem> {
    loaded.map_err(|problem| Problem::clone(&problem))
}

/// What the linker lacks is named by the engine's own message.
fn refused(error: wasmtime::Error) -> Problem {
    Problem::new(
        ProblemKind::RefusedComponent,
        format!("{error:#}; a host offers WASI 0.2 and 0.3, wasi:http, nearfield:data and nearfield:gpu"),
    )
}
