//! Instances: a guest in its store, and how one call of it goes. What is kept of them between calls is in `idle`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nearfield_protocol::http::is_reserved;
use nearfield_protocol::{limits, said};
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{Error, WasiBody, p3};

use crate::components::Loaded;
use crate::guest::Guest;
use crate::shared::Shared;

/// Calls that one reused instance serves. A fresh one takes up to some milliseconds, so little of it falls on each call.
const CALLS_PER_INSTANCE: u32 = 1_000;
/// Handles that a guest may leave behind in each call: languages that collect garbage drop some late or never. A call may have
/// [`limits::GUEST_HANDLES`], and this for each call before it.
const LEAKED_HANDLES: usize = 16;
/// Handles that an instance may hold between calls: its streams and what it caches.
const IDLE_HANDLES: usize = limits::GUEST_HANDLES / 4;

/// What a guest hands over first: the head of its response, or its own word that it failed.
pub(crate) type Head = Result<http::Response<WasiBody>, String>;

/// Hands over the head once, and keeps what it said for the report.
pub(crate) struct HeadSender {
    sender: oneshot::Sender<Head>,
    shared: Arc<Shared>,
}

impl HeadSender {
    pub fn new(sender: oneshot::Sender<Head>, shared: Arc<Shared>) -> Self {
        HeadSender { sender, shared }
    }

    fn send(self, mut head: Head) {
        let status = match &mut head {
            Ok(response) => {
                drop_reserved(response.headers_mut());
                response.status()
            }
            Err(code) => {
                // `refused` is set nowhere else, so that cannot fail.
                let _ = self.shared.refused.set(code.clone());
                http::StatusCode::BAD_GATEWAY
            }
        };
        self.shared.status.store(status.as_u16(), Ordering::Relaxed);
        // The client may be gone already.
        let _ = self.sender.send(head);
    }
}

/// Drops what only nodes may say: a guest must not speak as its host.
pub(crate) fn drop_reserved(fields: &mut http::HeaderMap) {
    let reserved = |name: &&http::HeaderName| is_reserved(name.as_str());
    // Collecting none allocates nothing, and few guests set any.
    let names: Vec<_> = fields.keys().filter(reserved).cloned().collect();
    for name in names {
        fields.remove(name);
    }
}

/// A guest in its store. It runs one call at a time.
pub(crate) struct Instance {
    pub store: Store<Guest>,
    exports: Option<Exports>,
    calls: u32,
    /// Handles that its first call may have.
    handles: usize,
    /// Bytes of its memories after the first call.
    first_bytes: u64,
}

enum Exports {
    P2(Proxy),
    P3(Service),
}

impl Instance {
    /// Not instantiated before its first call: a start function runs guest code, under that call's limits.
    pub fn new(store: Store<Guest>) -> Self {
        Instance {
            handles: store.max_component_handles(),
            store,
            exports: None,
            calls: 0,
            first_bytes: 0,
        }
    }

    /// Whether it may serve another call: it is not used up.
    pub fn is_reusable(&mut self) -> bool {
        let guest = self.store.data_mut();
        // What lies idle must not keep others from the GPU's memory.
        self.calls < CALLS_PER_INSTANCE
            && guest.handles() <= IDLE_HANDLES
            && guest.limiter.has_room_after(self.first_bytes)
            && !guest.gpu.holds_buffers()
    }

    /// Bytes of its memories.
    pub fn memory_bytes(&self) -> u64 {
        self.store.data().limiter.used_bytes()
    }

    /// Runs one call to the guest's end. The head is sent on the way.
    pub async fn handle(
        &mut self,
        component: &Loaded,
        request: http::Request<WasiBody>,
        head: HeadSender,
    ) -> wasmtime::Result<()> {
        let leaked = LEAKED_HANDLES * self.calls as usize;
        self.store.set_max_component_handles(self.handles + leaked);
        self.calls += 1;
        let store = &mut self.store;
        let exports = match &mut self.exports {
            Some(exports) => exports,
            // Boxed, what not every call waits for: each call's future would be as large, and is moved.
            none => none.insert(match component {
                Loaded::P2(pre) => Exports::P2(Box::pin(pre.instantiate_async(&mut *store)).await?),
                Loaded::P3(pre) => Exports::P3(Box::pin(pre.instantiate_async(&mut *store)).await?),
            }),
        };
        match exports {
            Exports::P2(proxy) => handle_p2(store, proxy, request, head).await?,
            Exports::P3(service) => Box::pin(handle_p3(store, service, request, head)).await?,
        }
        if self.calls == 1 {
            self.first_bytes = self.memory_bytes();
        }
        Ok(())
    }
}

async fn handle_p2(
    store: &mut Store<Guest>,
    proxy: &Proxy,
    request: http::Request<WasiBody>,
    head: HeadSender,
) -> wasmtime::Result<()> {
    let scheme = if request.uri().scheme() == Some(&http::uri::Scheme::HTTPS) {
        Scheme::Https
    } else {
        Scheme::Http
    };
    let request = store
        .data_mut()
        .http_context()
        .new_incoming_request(scheme, request)?;
    let outparam = store
        .data_mut()
        .http_context()
        .new_response_outparam_from_callback(move |response| {
            head.send(response.map_err(|code| said(format_args!("{code:?}"))));
        })?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(store, request, outparam)
        .await
}

/// Tells a request's maker that it was taken in.
type Processed = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

async fn handle_p3(
    store: &mut Store<Guest>,
    service: &Service,
    request: http::Request<WasiBody>,
    head: HeadSender,
) -> wasmtime::Result<()> {
    store
        .run_concurrent(async |accessor| {
            let (request, processed) = accessor.with(|mut access| {
                let view = access.get().http_context();
                let (request, processed) = p3::Request::from_http(view.hooks, request);
                let processed: Processed = Box::pin(processed);
                wasmtime::error::Ok((view.table.push(request)?, processed))
            })?;
            let response = service.wasi_http_handler().call_handle(accessor, request).await?;
            let response = match response {
                Ok(response) => accessor.with(|mut access| {
                    let mut response = access.get().http_context().table.delete(response)?;
                    // The engine would cut a body to its declared length, and tell the guest alone.
                    let fields = http::HeaderMap::from(std::mem::take(&mut response.headers));
                    let mut response = response.into_http(&mut access, processed)?;
                    *response.headers_mut() = fields;
                    wasmtime::error::Ok(Ok(response))
                })?,
                Err(code) => Err(said(format_args!("{code:?}"))),
            };
            head.send(response);
            // The body streams, and the guest's other tasks go on, until nothing is left to do.
            std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
            Ok(())
        })
        .await?
}
