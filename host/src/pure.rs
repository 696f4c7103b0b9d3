//! The pure lane: one run of a job's guest, which sees its shard, its arguments and nothing else.
//!
//! Clocks stand still, sleep returns at once, randomness comes from the key of the result, and there
//! is no environment, network or file. So a run with the same key has the same output and fuel on
//! every host, and its result can be remembered.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nearfield_gpu::GpuError;
use nearfield_gpu::client::Gpu;
use nearfield_protocol::job::{MAPPER, PureReport, PureSpec, ResultKey, Work};
use nearfield_protocol::{Digest, Problem, ProblemKind, cost, units};
use nearfield_store::{Store as BlobStore, StoreError};
use wasmtime::component::{ComponentExportIndex, Instance, InstancePre, Linker, Resource};
use wasmtime::{AsContextMut, Store, StoreContextMut, Trap};
use wasmtime_wasi::clocks::WasiClocksView;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock::Host as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, RequestOptions};
use wasmtime_wasi_http::p2::types::{HostFutureIncomingResponse, HostOutgoingRequest};

use crate::data::ShardHandle;
use crate::engine::memory_of;
use crate::guest::Guest;
use crate::logs::CallLog;
use crate::memory::{HostFull, Share};
use crate::meter::OutOfTime;
use crate::problem::store_problem;
use crate::stores;
use crate::turns::{Turns, in_turns};

/// What a job's component exports beside its mapper.
const REDUCER: &str = "nearfield:compute/reducer@0.1.0";
const FINISHER: &str = "nearfield:compute/finisher@0.1.0";
/// The version that the engine's own WASI has: guests with older ones are linked to it too.
const MONOTONIC_CLOCK: &str = "wasi:clocks/monotonic-clock@0.2.12";
const OUTGOING: &str = "wasi:http/outgoing-handler@0.2.12";
/// Results up to this size are held in memory until they are kept: those in the rows of remembered results, and the
/// smaller blobs. Larger ones may be as large as their guest's memory, and many wait at once.
const HELD_RESULT_BYTES: usize = 4 << 20;

/// A job's component, linked, its exports found.
pub(crate) struct JobComponent {
    pre: InstancePre<Guest>,
    map: ComponentExportIndex,
    reduce: Option<ComponentExportIndex>,
    finish: Option<ComponentExportIndex>,
    turns: Turns,
}

impl JobComponent {
    /// Memory that an instance begins with, at most.
    pub fn memory_bytes(&self) -> u64 {
        memory_of(self.pre.component())
    }

    pub fn new(pre: InstancePre<Guest>) -> Result<Self, Problem> {
        let component = pre.component();
        let find = |interface: &str, function: &str| {
            let interface = component.get_export_index(None, interface)?;
            component.get_export_index(Some(&interface), function)
        };
        let missing = || {
            Problem::new(
                ProblemKind::RefusedComponent,
                format!("{MAPPER} has no function `map`"),
            )
        };
        Ok(JobComponent {
            map: find(MAPPER, "map").ok_or_else(missing)?,
            reduce: find(REDUCER, "reduce"),
            finish: find(FINISHER, "finish"),
            turns: Turns::default(),
            pre,
        })
    }
}

/// Replaces what of WASI is not pure even with the context of [`still::wasi`].
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    // Even a refused request would be answered by a task, at a moment that differs between runs.
    linker.instance(OUTGOING)?.func_wrap(
        "handle",
        |mut store: StoreContextMut<'_, Guest>,
         (request, _): (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>)| {
            store.data_mut().meter.wasi_called();
            store.data_mut().table().delete(request)?;
            let answer: Result<Resource<HostFutureIncomingResponse>, ErrorCode> =
                Err(ErrorCode::HttpRequestDenied);
            Ok((answer,))
        },
    )?;
    let mut clock = linker.instance(MONOTONIC_CLOCK)?;
    for name in ["subscribe-duration", "subscribe-instant"] {
        // Whatever is waited for is there already.
        clock.func_wrap(name, |mut store: StoreContextMut<'_, Guest>, (_,): (u64,)| {
            Ok((store.data_mut().clocks().subscribe_duration(0)?,))
        })?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

/// What a run gave.
pub(crate) struct PureOutput {
    pub report: PureReport,
    pub output: Bytes,
    pub written: Option<Bytes>,
}

/// What a run is given beside its arguments.
pub(crate) enum Subject {
    Shard(ShardHandle),
    Parts(Vec<Bytes>),
    Total(Bytes),
}

/// A run that is about to start.
pub(crate) struct PureRun {
    pub spec: PureSpec,
    pub key: ResultKey,
    /// The digest of the results that the run is over, for its report.
    pub parts: Digest,
    pub component: Arc<JobComponent>,
    pub subject: Subject,
    pub blobs: BlobStore,
    pub gpu: Option<Gpu>,
    pub memory: Arc<Share>,
    pub log: CallLog,
}

impl PureRun {
    /// Runs the guest to its end, or to its limits.
    pub async fn run(self) -> Result<PureOutput, (Problem, u64)> {
        let PureRun {
            spec,
            key,
            parts,
            component,
            subject,
            blobs,
            gpu,
            memory,
            log,
        } = self;
        let limits = &spec.setting.limits;
        let begun = Instant::now();
        let engine = component.pre.engine();
        let deadline = begun + limits.timeout;
        let mut store = match stores::of_run(engine, &spec, &key, &blobs, log, gpu, (deadline, memory)) {
            Ok(store) => store,
            Err(error) => return Err((Problem::new(ProblemKind::Internal, format!("{error:#}")), 0)),
        };
        let run = run_guest(&mut store, &component, subject, &spec.setting.args, &blobs);
        let ended = in_turns(deadline, &component.turns, pin!(run)).await;
        let guest = store.data();
        guest.log.finish();
        let left = store.get_fuel().unwrap_or(0);
        let mut fuel = guest.fuel(limits.fuel, left);
        let output = match ended {
            Ok(Ok(Ok(output))) => output,
            Ok(Ok(Err(message))) => return Err((said(&spec, &message), fuel)),
            Ok(Err(error)) if !error.is::<OutOfTime>() => {
                let problem = problem(&spec, guest, &error);
                if problem.kind != ProblemKind::Trap {
                    guest.log.note(&problem.to_string());
                }
                return Err((problem, fuel.min(limits.fuel)));
            }
            // Not the guest's fault, so never a reason to leave the shard out.
            _ if guest.data.waited > limits.timeout / 2 => {
                let detail = format!(
                    "{} took {} s of waiting for data in place",
                    subject_name(&spec),
                    guest.data.waited.as_secs()
                );
                return Err((Problem::new(ProblemKind::SourceUnreachable, detail), fuel));
            }
            _ if guest.gpu.waited() > limits.timeout / 2 => {
                let (subject, waited) = (subject_name(&spec), guest.gpu.waited().as_secs());
                let detail = format!("{subject} took {waited} s of waiting for the GPU");
                return Err((Problem::new(ProblemKind::NoGpu, detail), fuel));
            }
            _ => {
                let problem = timed_out(&spec);
                guest.log.note(&problem.to_string());
                return Err((problem, fuel));
            }
        };
        fuel += cost::bytes(output.len() as u64);
        if fuel > limits.fuel {
            return Err((out_of_fuel(&spec), limits.fuel));
        }
        let (written_files, written_bytes) = guest.output.size();
        let written = guest.output.encode();
        let report = PureReport {
            key,
            remembered: false,
            output_bytes: output.len() as u64,
            output: Digest::of(&output),
            parts,
            fuel,
            total_fuel: fuel,
            data_bytes: guest.data.bytes,
            moved_bytes: guest.data.moved_bytes,
            written_files,
            written_bytes,
            written: Digest::of(written.as_deref().unwrap_or_default()),
            run_us: begun.elapsed().as_micros() as u64,
            made: None,
        };
        Ok(PureOutput {
            report,
            output,
            written,
        })
    }
}

/// The guest's answer: bytes, or its own error.
type Answer = Result<Bytes, String>;

async fn run_guest(
    store: &mut Store<Guest>,
    component: &JobComponent,
    subject: Subject,
    args: &[u8],
    blobs: &BlobStore,
) -> wasmtime::Result<Answer> {
    let instance = component.pre.instantiate_async(&mut *store).await?;
    let lacks = |name: &str| wasmtime::Error::msg(format!("the component exports no {name}"));
    match subject {
        Subject::Shard(shard) => {
            let handle: Resource<ShardHandle> = store.data_mut().table().push(shard)?;
            invoke(store, &instance, &component.map, (handle, args), blobs).await
        }
        Subject::Parts(parts) => {
            let reduce = component.reduce.as_ref().ok_or_else(|| lacks(REDUCER))?;
            invoke(store, &instance, reduce, (parts, args), blobs).await
        }
        // A component without one leaves the total as it is.
        Subject::Total(total) => match &component.finish {
            Some(finish) => invoke(store, &instance, finish, (total, args), blobs).await,
            None => Ok(Ok(total)),
        },
    }
}

async fn invoke<P>(
    store: &mut Store<Guest>,
    instance: &Instance,
    export: &ComponentExportIndex,
    parameters: P,
    blobs: &BlobStore,
) -> wasmtime::Result<Answer>
where
    P: wasmtime::component::ComponentNamedList + wasmtime::component::Lower + Send + Sync,
{
    // Owned bytes, lifted within the call: the guest frees its list before the call returns.
    let function = instance.get_typed_func::<P, (Result<Bytes, String>,)>(store.as_context_mut(), export)?;
    let (answer,) = function.call_async(&mut *store, parameters).await?;
    Ok(match answer {
        Ok(bytes) if bytes.len() > HELD_RESULT_BYTES => {
            Ok(tokio::task::block_in_place(|| blobs.set_aside(&bytes))?)
        }
        answer => answer,
    })
}

/// What the run is about, in words.
fn subject_name(spec: &PureSpec) -> String {
    match &spec.work {
        Work::Map { index, subject, .. } => format!("mapping shard {index} ({})", subject.shard.short()),
        Work::Reduce { parts } => format!("reducing {} parts", parts.len()),
        Work::Finish { .. } => "finishing".to_owned(),
    }
}

fn said(spec: &PureSpec, message: &str) -> Problem {
    Problem::new(
        ProblemKind::FunctionFailed,
        format!(
            "`{}`, {}: {}",
            spec.setting.function,
            subject_name(spec),
            nearfield_protocol::said(message)
        ),
    )
}

fn timed_out(spec: &PureSpec) -> Problem {
    Problem::new(
        ProblemKind::Timeout,
        format!(
            "`{}` ran out of time {}: put the data in smaller shards",
            spec.setting.function,
            subject_name(spec)
        ),
    )
    .with_limit(format!(
        "time per shard = {}",
        units::exact_duration(spec.setting.limits.timeout)
    ))
}

pub(crate) fn out_of_fuel(spec: &PureSpec) -> Problem {
    Problem::new(
        ProblemKind::OutOfFuel,
        format!(
            "`{}` used up its fuel {}: raise `limits.fuel` in its nearfield.toml, or put the data in smaller shards",
            spec.setting.function,
            subject_name(spec)
        ),
    )
    .with_limit(format!(
        "limits.fuel = {}",
        units::exact_count(spec.setting.limits.fuel)
    ))
}

fn problem(spec: &PureSpec, guest: &Guest, error: &wasmtime::Error) -> Problem {
    if error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel) {
        return out_of_fuel(spec);
    }
    if let Some(error) = error.downcast_ref::<StoreError>() {
        return store_problem(error);
    }
    if let Some(full) = error.downcast_ref::<HostFull>() {
        return full.problem();
    }
    let (function, subject) = (&spec.setting.function, subject_name(spec));
    if let Some(error) = error.downcast_ref::<GpuError>() {
        return Problem::new(ProblemKind::NoGpu, format!("`{function}`, {subject}: {error}"));
    }
    if guest.limiter.memory_refused {
        return Problem::new(
            ProblemKind::OutOfMemory,
            format!(
                "`{function}` needed more memory than its limit {subject}: raise `limits.memory` in its nearfield.toml, \
                 or put the data in smaller shards"
            ),
        )
        .with_limit(format!(
            "limits.memory = {}",
            units::exact_bytes(spec.setting.limits.memory_bytes)
        ));
    }
    let what = match guest.log.panic() {
        Some(panic) => format!("panicked {subject}, at {panic}"),
        None => format!("trapped {subject}: {}", error.root_cause()),
    };
    Problem::new(ProblemKind::Trap, format!("`{function}` {what}"))
}
