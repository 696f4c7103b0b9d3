//! What a store holds for its guest, and the bounds on what the guest may take.

use std::sync::Arc;

use nearfield_gpu::client::Gpu;
use nearfield_protocol::call::CallSpec;
use nearfield_protocol::job::{PureSpec, ResultKey, Work};
use nearfield_protocol::{cost, limits};
use nearfield_store::Store as BlobStore;
use wasmtime::component::ResourceTable;
use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::data::{DataAccess, Sources};
use crate::gpu::GpuAccess;
use crate::logs::{CallLog, Logs};
use crate::outgoing::Outgoing;
use crate::output::Output;
use crate::pure;

/// Fuel between two yields to the runtime: about 0.2 ms, so that a busy guest delays others no longer.
const YIELD_FUEL: u64 = 500_000;
/// Random bytes a guest may ask for at once.
const MAX_RANDOM_BYTES: u64 = 1 << 20;
/// Table elements of one store.
const TABLE_ELEMENTS: usize = 100_000;
/// wasi-http counts a header's memory, not its text: names and values cost about twice their bytes.
const FIELD_BYTES: usize = 2 * limits::RESPONSE_HEADER_BYTES;

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
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }
}

impl Guest {
    /// A store for one guest of `spec`'s function, bounded, with fuel for one call.
    pub fn store(
        engine: &Engine,
        spec: &CallSpec,
        blobs: &BlobStore,
        logs: Logs,
        gpu: Option<Gpu>,
    ) -> wasmtime::Result<Store<Guest>> {
        let manifest = &spec.function.manifest;
        let log = CallLog::new(logs, spec.function.name.clone(), spec.id);
        let mut wasi = WasiCtx::builder();
        wasi.stdout(log.clone())
            .stderr(log.clone())
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
            outgoing: Outgoing::new(Arc::new(manifest.allow.http.clone()), log.clone()),
            data: DataAccess::new(blobs.clone(), spec.inputs.clone(), Sources::Shown),
            gpu: GpuAccess::of_call(gpu, spec),
            limiter: Limiter::new(manifest.limits.memory.0),
            output: Output::default(),
            log,
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
    pub fn pure_store(
        engine: &Engine,
        spec: &PureSpec,
        key: &ResultKey,
        blobs: &BlobStore,
        log: CallLog,
        gpu: Option<Gpu>,
    ) -> wasmtime::Result<Store<Guest>> {
        let setting = &spec.setting;
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits::GUEST_HANDLES);
        let guest = Guest {
            table,
            wasi: pure::wasi(key, log.clone()),
            http: WasiHttpCtx::new(),
            outgoing: Outgoing::new(Arc::default(), log.clone()),
            data: DataAccess::new(blobs.clone(), Arc::new(setting.inputs.clone()), Sources::Hidden),
            gpu: GpuAccess::of_run(gpu, spec),
            limiter: Limiter::new(setting.limits.memory_bytes),
            output: Output::new(setting.may_write && matches!(spec.work, Work::Map { .. })),
            log,
        };
        let memory = usize::try_from(setting.limits.memory_bytes).unwrap_or(usize::MAX);
        // A result may be as large as the memory that it comes from.
        bounded(
            engine,
            guest,
            setting.limits.fuel,
            memory.max(limits::HOST_CALL_COPY_BYTES),
            handles(setting.gpu.is_some()),
        )
    }

    /// Makes a store that has served a call ready for the next one.
    pub fn renew(store: &mut Store<Guest>, spec: &CallSpec) -> wasmtime::Result<()> {
        store.set_fuel(spec.function.manifest.limits.fuel)?;
        let guest = store.data_mut();
        guest.log.renew(spec.id);
        guest.outgoing.renew();
        guest.data.renew(spec.inputs.clone());
        guest.gpu.open(spec.function.manifest.limits.timeout.0);
        guest.limiter.renew();
        Ok(())
    }

    /// Host calls' fuel that is known only at the end: all that was not charged as it happened.
    pub fn settled_fuel(&self) -> u64 {
        self.limiter.pages_grown * cost::PAGE_GROWN
            + u64::from(self.outgoing.sent()) * cost::OUTGOING_REQUEST
            + cost::bytes(self.outgoing.bytes())
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
    store.fuel_async_yield_interval(Some(YIELD_FUEL))?;
    store.set_fuel(fuel)?;
    Ok(store)
}

/// Bounds on memory and tables; remembers what it refused, because the guest's trap will not say.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    memory_bytes: u64,
    /// All memories of the store together.
    used_bytes: u64,
    pub pages_grown: u64,
    pub memory_refused: bool,
}

impl Limiter {
    fn new(memory_bytes: u64) -> Self {
        Limiter {
            memory_bytes,
            ..Limiter::default()
        }
    }

    fn renew(&mut self) {
        self.pages_grown = 0;
        self.memory_refused = false;
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        const PAGE: u64 = 64 << 10;
        // The component's own limit, which it knows of.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let more = (desired - current) as u64;
        if self.used_bytes + more > self.memory_bytes {
            self.memory_refused = true;
            return Ok(false);
        }
        self.used_bytes += more;
        // What a component starts with is not grown.
        if current > 0 {
            self.pages_grown += more / PAGE;
        }
        Ok(true)
    }

    /// The machine has no memory: not the guest's doing, and nothing that it may go on with.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS)
    }

    fn instances(&self) -> usize {
        limits::INSTANCES_PER_STORE
    }

    fn tables(&self) -> usize {
        limits::TABLES_PER_STORE
    }

    fn memories(&self) -> usize {
        limits::INSTANCES_PER_STORE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_over_all_memories_and_refusals_are_remembered() {
        let mut limiter = Limiter {
            memory_bytes: 1 << 20,
            ..Limiter::default()
        };
        assert!(limiter.memory_growing(0, 512 << 10, None).unwrap());
        assert_eq!(limiter.pages_grown, 0, "the start is not growth");
        assert!(limiter.memory_growing(512 << 10, 576 << 10, None).unwrap());
        assert_eq!(limiter.pages_grown, 1);
        assert!(
            !limiter.memory_growing(0, 512 << 10, None).unwrap(),
            "a second memory counts too"
        );
        assert!(limiter.memory_refused);
    }
}
