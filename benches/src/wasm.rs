//! wasmtime with the settings that we run with, and nothing else of ours: no routing, limits, logs or accounts.

use std::cell::RefCell;

use hyper::body::Incoming;
use hyper::{Request, Response};
use tokio::sync::oneshot;
use wasmtime::component::{Component, Linker, ResourceTable};
use wasmtime::error::Context;
use wasmtime::{
    Config, Enabled, Engine, Inlining, InstanceAllocationStrategy, PoolingAllocationConfig, Result, Store,
    format_err,
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// As much of an instance's memory as stays mapped between calls: a hello touches less.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;
/// More than any call here burns; that it is counted is what costs.
const FUEL: u64 = 10_000_000_000;

/// A `wasi:http` 0.2 component, ready to be instantiated.
pub struct Guest {
    component: ProxyPre<State>,
    /// Instances between calls, where they are used again.
    idle: Option<RefCell<Vec<Instance>>>,
}

type Instance = (Store<State>, Proxy);

impl Guest {
    pub fn load(path: &str, reuse: bool) -> Result<Guest> {
        let engine = Engine::new(&config())?;
        let component = Component::from_file(&engine, path)?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
        Ok(Guest {
            component: ProxyPre::new(linker.instantiate_pre(&component)?)?,
            idle: reuse.then(Default::default),
        })
    }

    pub async fn call(&self, request: Request<Incoming>) -> Result<Response<HyperOutgoingBody>> {
        let idle = self.idle.as_ref().and_then(|idle| idle.borrow_mut().pop());
        let (mut store, proxy) = match idle {
            Some((mut store, proxy)) => {
                store.set_fuel(FUEL)?;
                (store, proxy)
            }
            None => {
                let mut store = Store::new(self.component.engine(), State::default());
                store.set_fuel(FUEL)?;
                let proxy = self.component.instantiate_async(&mut store).await?;
                (store, proxy)
            }
        };
        let (sender, answer) = oneshot::channel();
        let request = store
            .data_mut()
            .http()
            .new_incoming_request(Scheme::Http, request)?;
        let out = store.data_mut().http().new_response_outparam(sender)?;
        proxy
            .wasi_http_incoming_handler()
            .call_handle(&mut store, request, out)
            .await?;
        if let Some(idle) = &self.idle {
            idle.borrow_mut().push((store, proxy));
        }
        let answer = answer.await.context("the guest gave no answer")?;
        answer.map_err(|code| format_err!("the guest answered {code:?}"))
    }
}

fn config() -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.linear_memory_keep_resident(KEEP_RESIDENT_BYTES);
    pool.table_keep_resident(1 << 16);
    pool.pagemap_scan(Enabled::Yes);
    let mut config = Config::new();
    config.consume_fuel(true);
    config.concurrency_support(false);
    config.compiler_inlining(Inlining::Yes);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

#[derive(Default)]
struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    outgoing: NoOutgoing,
}

/// Requests of the guest's own go nowhere.
#[derive(Default)]
struct NoOutgoing;

type Sent = (
    Response<WasiBody>,
    Box<dyn Future<Output = Result<(), Error>> + Send>,
);

impl WasiHttpHooks for NoOutgoing {
    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        Box::new(std::future::ready(Err(Error::HttpRequestDenied)))
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }
}
