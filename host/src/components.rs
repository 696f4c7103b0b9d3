//! Component digest → what can be instantiated, loaded once.

use std::borrow::Borrow;
use std::sync::Arc;

use nearfield_protocol::{Digest, Problem, ProblemKind};
use nearfield_store::{ObjectError, SourceError, Store, StoreError};
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime_wasi_http::{p2, p3};

use crate::compile::Compiler;
use crate::data;
use crate::engine::{self, Lane};
use crate::gpu;
use crate::guest::Guest;
use crate::inspect::{Inspection, inspect};
use crate::output;
use crate::pure::{self, JobComponent};

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
}

/// Loads components.
pub(crate) struct Components {
    store: Store,
    compiler: Compiler,
    p2: LaneEngine,
    p3: LaneEngine,
    pure: LaneEngine,
    /// moka loads each digest once, however many calls wait for it.
    loaded: moka::future::Cache<Digest, Arc<Loaded>>,
    jobs: moka::future::Cache<Digest, Arc<JobComponent>>,
}

struct LaneEngine {
    lane: Lane,
    engine: Engine,
    linker: Linker<Guest>,
    key: String,
}

impl LaneEngine {
    fn new(lane: Lane) -> wasmtime::Result<Self> {
        let engine = engine::running_engine(lane)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        p2::add_only_http_to_linker_async(&mut linker)?;
        if lane == Lane::LiveP3 {
            wasmtime_wasi::p3::add_to_linker(&mut linker)?;
            p3::add_to_linker(&mut linker)?;
        }
        data::add_to_linker(&mut linker)?;
        output::add_to_linker(&mut linker)?;
        gpu::add_to_linker(&mut linker)?;
        if lane == Lane::Pure {
            pure::add_to_linker(&mut linker)?;
        }
        let key = engine::code_key(&engine, lane);
        Ok(LaneEngine {
            lane,
            engine,
            linker,
            key,
        })
    }
}

impl Components {
    pub fn new(store: Store, compiler: Compiler) -> wasmtime::Result<Self> {
        Ok(Components {
            store,
            compiler,
            p2: LaneEngine::new(Lane::LiveP2)?,
            p3: LaneEngine::new(Lane::LiveP3)?,
            pure: LaneEngine::new(Lane::Pure)?,
            loaded: moka::future::Cache::new(MAX_LOADED),
            jobs: moka::future::Cache::new(MAX_LOADED),
        })
    }

    /// The component, compiled and linked if it was not.
    pub async fn load(&self, digest: Digest) -> Result<Arc<Loaded>, Problem> {
        let load = async { self.load_cold(digest).await.map(Arc::new) };
        self.loaded
            .try_get_with(digest, load)
            .await
            .map_err(|problem| Problem::clone(&problem))
    }

    /// Compiles and links, and says what the component imports and exports.
    pub async fn check(&self, digest: Digest) -> Result<Inspection, Problem> {
        let bytes = self.store.blob(&digest).await.map_err(store_problem)?;
        let inspection = inspect(&bytes)?;
        // What only maps is a job's; all else is called.
        if inspection.job_lane().is_ok() {
            self.load_job(digest).await?;
        }
        if inspection.call_lane().is_ok() || inspection.job_lane().is_err() {
            self.load(digest).await?;
        }
        Ok(inspection)
    }

    async fn load_cold(&self, digest: Digest) -> Result<Loaded, Problem> {
        let bytes = self.store.blob(&digest).await.map_err(store_problem)?;
        let target = match inspect(&bytes)?.call_lane()? {
            Lane::LiveP3 => &self.p3,
            _ => &self.p2,
        };
        let pre = self.pre(digest, &bytes, target).await?;
        Ok(match target.lane {
            Lane::LiveP3 => Loaded::P3(p3::bindings::ServicePre::new(pre).map_err(refused)?),
            _ => Loaded::P2(p2::bindings::ProxyPre::new(pre).map_err(refused)?),
        })
    }

    /// The component as jobs run it.
    pub async fn load_job(&self, digest: Digest) -> Result<Arc<JobComponent>, Problem> {
        let load = async {
            let bytes = self.store.blob(&digest).await.map_err(store_problem)?;
            inspect(&bytes)?.job_lane()?;
            let pre = self.pre(digest, &bytes, &self.pure).await?;
            JobComponent::new(pre).map(Arc::new)
        };
        self.jobs
            .try_get_with(digest, load)
            .await
            .map_err(|problem| Problem::clone(&problem))
    }

    /// Compiled for `target` and linked.
    async fn pre(
        &self,
        digest: Digest,
        bytes: &[u8],
        target: &LaneEngine,
    ) -> Result<InstancePre<Guest>, Problem> {
        let code = self
            .compiler
            .code(digest, bytes, target.lane, &target.key)
            .await?;
        // SAFETY: the file was written by our own compiler process for an engine of this very
        // configuration (the key is part of its name), and its hash was checked a moment ago.
        let component = unsafe { Component::deserialize_file(&target.engine, &code) }.map_err(|error| {
            Problem::new(ProblemKind::Internal, format!("loading native code: {error:#}"))
        })?;
        target.linker.instantiate_pre(&component).map_err(refused)
    }
}

/// What the linker lacks is named by the engine's own message.
fn refused(error: wasmtime::Error) -> Problem {
    Problem::new(
        ProblemKind::RefusedComponent,
        format!("{error:#}; a host offers WASI 0.2 and 0.3, wasi:http, nearfield:data and nearfield:gpu"),
    )
}

/// A store's failure as a caller sees it.
pub(crate) fn store_problem(error: impl Borrow<StoreError>) -> Problem {
    let error = error.borrow();
    let kind = match error {
        StoreError::Missing(_) => ProblemKind::UnknownBlob,
        StoreError::Corrupt(_) => ProblemKind::Corrupt,
        StoreError::SourceChanged { .. } => ProblemKind::SourceChanged,
        StoreError::Source(SourceError::Object(ObjectError::Unreachable(_))) => {
            ProblemKind::SourceUnreachable
        }
        _ => ProblemKind::Internal,
    };
    Problem::new(kind, error.to_string())
}
