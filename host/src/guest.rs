//! What a store holds for its guest, and the bounds on what the guest may take.

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
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::data::{DataAccess, Sources};
use crate::gpu::GpuAccess;
use crate::host::Ready;
use crate::invoke::Shared;
use crate::logs::{CallLog, Logs};
use crate::memory::{FIELD_BYTES, Limiter, Share};
use crate::meter::{self, Meter};
use crate::outgoing::{Allowed, Outgoing};
use crate::output::Output;
use crate::pure;
use crate::random::{Counted, MAX_RANDOM_BYTES, Machine};

/// The data of one wasmtime store.
pub(crate) struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub outgoing: Outgoing,
    pub data: DataAccess,
    pub gpu: GpuAccess,
    pub limiter: Limiter,
    /// What it writes, if it may.
    pub output: Output,
    pub log: CallLog,
    pub meter: Meter,
}

/// The engine asks for these once in each call of WASI's functions.
impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.meter.wasi_called();
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.meter.wasi_called();
        self.http_context()
    }
}

impl Guest {
    /// A store for one guest of `spec`'s function, bounded, with fuel for one call until `deadline`.
    pub fn store(
        ready: &Ready,
        spec: &CallSpec,
        blobs: &BlobStore,
        logs: Logs,
        gpu: Option<Gpu>,
        (deadline, bodies): (Instant, Arc<Shared>),
    ) -> wasmtime::Result<Store<Guest>> {
        let manifest = &spec.function.manifest;
        let log = CallLog::new(logs, spec.function.name.clone(), spec.id);
        let meter = Meter::new(deadline, manifest.limits.fuel, bodies);
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
            outgoing: Outgoing::new(ready.allowed.clone(), log.clone()),
            data: DataAccess::new(blobs.clone(), spec.inputs.clone(), Sources::Shown),
            gpu: GpuAccess::of_call(gpu, spec),
            limiter: Limiter::new(manifest.limits.memory.0, ready.memory.clone()),
            output: Output::default(),
            log,
            meter,
        };
        let handles = handles(manifest.require.gpu.is_some());
        bounded(
            ready.component.engine(),
            guest,
            manifest.limits.fuel,
            limits::HOST_CALL_COPY_BYTES,
            handles,
        )
    }

    /// A store for one pure run: nothing in it differs from one run to the next.
    pub fn pure_store(
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
            wasi: pure::wasi(key, log.clone(), &meter),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(Allowed::new(BTreeSet::new()), log.clone()),
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
    pub fn renew(
        store: &mut Store<Guest>,
        spec: &CallSpec,
        (deadline, bodies): (Instant, Arc<Shared>),
    ) -> wasmtime::Result<()> {
        let fuel = spec.function.manifest.limits.fuel;
        meter::begin(store, fuel)?;
        let guest = store.data_mut();
        guest.meter.renew(deadline, fuel, bodies);
        guest.log.renew(spec.id);
        guest.outgoing.renew();
        guest.data.renew(spec.inputs.clone());
        guest.gpu.open(spec.function.manifest.limits.timeout.0);
        guest.limiter.renew();
        Ok(())
    }

    /// Counts what the host holds for the guest's handles.
    pub fn count_held(&mut self) -> wasmtime::Result<()> {
        self.limiter.hold(&mut self.table)
    }

    /// What the guest's handles stand for.
    pub fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// What the host works with on the guest's behalf, which is no call of the guest's.
    pub fn http_context(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }

    /// Handles that the guest holds.
    pub fn handles(&mut self) -> usize {
        self.table.iter_mut().count()
    }
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
    store.call_hook(meter::look);
    store.epoch_deadline_async_yield_and_update(1);
    meter::begin(&mut store, fuel)?;
    Ok(store)
}
