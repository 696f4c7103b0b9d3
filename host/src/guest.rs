//! What a store holds for its guest.

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::data::access::DataAccess;
use crate::gpu::access::GpuAccess;
use crate::logs::CallLog;
use crate::memory::Limiter;
use crate::meter::Meter;
use crate::outgoing::Outgoing;
use crate::output::Output;

/// The data of one wasmtime store.
pub(crate) struct Guest {
    pub(crate) table: ResourceTable,
    pub(crate) wasi: WasiCtx,
    pub(crate) http: WasiHttpCtx,
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
    /// Counts what the host holds for the guest's handles and outgoing requests.
    pub fn count_held(&mut self) -> wasmtime::Result<()> {
        let exchanges = self.outgoing.held_bytes();
        self.limiter.hold(&mut self.table, exchanges)
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
