//! Stores: a guest's data, with bounds on what the guest may take.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use nearfield_gpu::client::Gpu;
use nearfield_protocol::call::CallSpec;
use nearfield_protocol::job::{PureSpec, ResultKey, Work};
use nearfield_protocol::limits;
use nearfield_store::Store as BlobStore;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, Store};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpCtx;

use crate::data::access::{DataAccess, Sources};
use crate::gpu::access::GpuAccess;
use crate::guest::Guest;
use crate::logs::{CallLog, Logs};
use crate::lookups::HostLookups;
use crate::memory::{FIELD_BYTES, Limiter, Share};
use crate::meter::{Meter, begin};
use crate::outgoing::{Allowed, Outgoing};
use crate::output::Output;
use crate::pay;
use crate::random::{Counted, MAX_RANDOM_BYTES, Machine};
use crate::shared::Shared;
use crate::still;

/// What a call's guest is bound by, beside its manifest.
pub(crate) struct Terms {
    pub deadline: Instant,
    /// Where the bytes of its bodies are counted.
    pub bodies: Arc<Shared>,
    /// What its function has of the host's memory.
    pub memory: Arc<Share>,
    /// Whom it may ask.
    pub allowed: Arc<Allowed>,
}

/// A store for one guest of `spec`'s function, bounded, with fuel for one call until `deadline`.
pub(crate) fn of_call(
    engine: &Engine,
    spec: &CallSpec,
    blobs: &BlobStore,
    logs: Logs,
    gpu: Option<Gpu>,
    terms: Terms,
) -> wasmtime::Result<Store<Guest>> {
    let manifest = &spec.function.manifest;
    let log = CallLog::new(logs, spec.function.name.clone(), spec.id);
    let meter = Meter::new(terms.deadline, manifest.limits.fuel, terms.bodies);
    let mut wasi = WasiCtx::builder();
    wasi.stdout(log.clone())
        .stderr(log.clone())
        .secure_random(Counted::new(Machine, &meter))
        .insecure_random(Counted::new(Machine, &meter))
        .max_random_size(MAX_RANDOM_BYTES);
    for (name, value) in &manifest.env {
        wasi.env(name, value);
    }
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(FIELD_BYTES);
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits::GUEST_HANDLES);
    let guest = Guest {
        table,
        wasi: wasi.build(),
        http,
        outgoing: Outgoing::new(terms.allowed, log.clone()),
        data: DataAccess::new(blobs.clone(), spec.inputs.clone(), Sources::Shown),
        gpu: GpuAccess::of_call(gpu, spec),
        limiter: Limiter::new(manifest.limits.memory.0, terms.memory),
        output: Output::default(),
        log,
        meter,
    };
    let handles = handles(manifest.require.gpu.is_some());
    bounded(
        engine,
        guest,
        manifest.limits.fuel,
        limits::HOST_CALL_COPY_BYTES,
        handles,
    )
}

/// A store for one pure run: nothing in it differs from one run to the next.
pub(crate) fn of_run(
    engine: &Engine,
    spec: &PureSpec,
    key: &ResultKey,
    blobs: &BlobStore,
    log: CallLog,
    gpu: Option<Gpu>,
    (deadline, memory): (Instant, Arc<Share>),
) -> wasmtime::Result<Store<Guest>> {
    let setting = &spec.setting;
    let meter = Meter::new(deadline, setting.limits.fuel, Arc::default());
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits::GUEST_HANDLES);
    let guest = Guest {
        table,
        wasi: still::wasi(key, log.clone(), &meter),
        http: WasiHttpCtx::new(),
        outgoing: Outgoing::new(Allowed::new(BTreeSet::new(), HostLookups::default()), log.clone()),
        data: DataAccess::new(blobs.clone(), Arc::new(setting.inputs.clone()), Sources::Hidden),
        gpu: GpuAccess::of_run(gpu, spec),
        limiter: Limiter::new(setting.limits.memory_bytes, memory),
        output: Output::new(setting.may_write && matches!(spec.work, Work::Map { .. })),
        log,
        meter,
    };
    let most = usize::try_from(setting.limits.memory_bytes).unwrap_or(usize::MAX);
    // A result may be as large as the memory that it comes from.
    bounded(
        engine,
        guest,
        setting.limits.fuel,
        most.max(limits::HOST_CALL_COPY_BYTES),
        handles(setting.gpu.is_some()),
    )
}

/// Makes a store that has served a call ready for the next one.
pub(crate) fn renew(
    store: &mut Store<Guest>,
    spec: &CallSpec,
    (deadline, bodies): (Instant, Arc<Shared>),
) -> wasmtime::Result<()> {
    let fuel = spec.function.manifest.limits.fuel;
    begin(store, fuel)?;
    let guest = store.data_mut();
    guest.meter.renew(deadline, fuel, bodies);
    guest.log.renew(spec.id);
    guest.outgoing.renew();
    guest.data.renew(spec.inputs.clone());
    guest.gpu.open(spec.function.manifest.limits.timeout.0);
    guest.limiter.renew();
    Ok(())
}

/// Handles that a guest may have at once, in its own hands or lent to a host call: a submission to a GPU lends those of all its
/// steps.
fn handles(gpu: bool) -> usize {
    match gpu {
        true => limits::GUEST_HANDLES + nearfield_gpu::limits::LENT_HANDLES,
        false => limits::GUEST_HANDLES,
    }
}

/// A store around `guest` with the bounds that all lanes share.
fn bounded(
    engine: &Engine,
    guest: Guest,
    fuel: u64,
    copy_bytes: usize,
    handles: usize,
) -> wasmtime::Result<Store<Guest>> {
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(copy_bytes);
    store.set_max_component_handles(handles);
    store.call_hook(pay::look);
    store.epoch_deadline_async_yield_and_update(1);
    begin(&mut store, fuel)?;
    Ok(store)
}
