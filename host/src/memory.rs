//! Memory for guests: what each may have, and what all of a host's guests have together. What the host holds for a guest
//! outside the guest's own memory counts as well.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use nearfield_protocol::{FunctionName, Problem, ProblemKind, limits, units};
use parking_lot::Mutex;
use tokio::sync::Notify;
use wasmtime::ResourceLimiter;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::FieldMap;
use wasmtime_wasi_http::p2::bindings::http::types::{Method, Scheme};
use wasmtime_wasi_http::p2::body::HostOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse};
use wasmtime_wasi_http::p3;

/// Table elements of one store.
const TABLE_ELEMENTS: usize = 100_000;
/// What an element of a table takes: a pointer.
const TABLE_ELEMENT_BYTES: u64 = 8;
/// wasi-http counts a header's memory, not its text: names and values cost about twice their bytes.
pub(crate) const FIELD_BYTES: usize = 2 * limits::RESPONSE_HEADER_BYTES;
/// What a guest may write at once to a body. One such piece waits for the client, another is on its way.
pub(crate) const BODY_CHUNK_BYTES: usize = 64 << 10;

/// Lets go of memory that is only held in case it is used again. Whether there was some.
pub(crate) type MakeRoom = Box<dyn Fn() -> bool + Send + Sync>;

/// Memory of all guests of a host.
pub(crate) struct GuestMemory {
    most_bytes: u64,
    used_bytes: AtomicU64,
    freed: Notify,
    make_room: MakeRoom,
    shares: Mutex<HashMap<FunctionName, Weak<Share>>>,
}

/// What the guests of one function have of a host's memory, in all of its versions. They may take more while they have less
/// than [`SHARE`] times what is free (the rule of places at a gateway), so whatever one function takes, others find some.
pub(crate) struct Share {
    host: Arc<GuestMemory>,
    used_bytes: AtomicU64,
}

/// One function gets two thirds of the memory, the next one two thirds of the rest.
const SHARE: u64 = 2;

/// A host has no memory left for a function's guests. Not the guest's doing, and nothing that it gets to see: a pure one
/// could answer something else for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "of this host's memory for guests ({}) the function has {}, and there is no more for it now: call again in a moment, or give \
     the host more with `nearfield up --guest-memory`",
    units::exact_bytes(*most_bytes),
    units::exact_bytes(*used_bytes)
)]
pub(crate) struct HostFull {
    most_bytes: u64,
    used_bytes: u64,
}

/// A guest needs more than its function's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what the host holds for the guest is beyond its memory limit")]
struct BeyondLimit;

impl GuestMemory {
    pub fn new(most_bytes: u64, make_room: MakeRoom) -> Self {
        GuestMemory {
            most_bytes,
            used_bytes: AtomicU64::new(0),
            freed: Notify::new(),
            make_room,
            shares: Mutex::default(),
        }
    }

    /// What is `function`'s.
    pub fn share(self: &Arc<Self>, function: &FunctionName) -> Arc<Share> {
        let mut shares = self.shares.lock();
        if let Some(share) = shares.get(function).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share {
            host: self.clone(),
            used_bytes: AtomicU64::new(0),
        });
        shares.retain(|_, share| share.strong_count() > 0);
        shares.insert(function.clone(), Arc::downgrade(&share));
        share
    }
}

impl Share {
    /// Waits, for a bounded time, until there is room for a guest that begins with `bytes`.
    pub async fn admit(&self, bytes: u64) -> Result<(), Problem> {
        if !fits(bytes, 0, self.host.most_bytes) {
            let all = units::exact_bytes(self.host.most_bytes);
            let text = format!(
                "the component begins with {} of memory, and all guests of this host have {all}, of which one function takes two \
                 thirds: give them more with `nearfield up --guest-memory`",
                units::exact_bytes(bytes)
            );
            return Err(Problem::new(ProblemKind::Overload, text).with_limit(format!("guest memory = {all}")));
        }
        if self.has_room(bytes) {
            return Ok(());
        }
        Box::pin(self.wait(bytes)).await
    }

    async fn wait(&self, bytes: u64) -> Result<(), Problem> {
        let wait = async {
            loop {
                let freed = self.host.freed.notified();
                if self.has_room(bytes) {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(limits::QUEUE_WAIT, wait)
            .await
            .map_err(|_| self.full().problem())
    }

    fn has_room(&self, bytes: u64) -> bool {
        loop {
            let own = self.used_bytes.load(Ordering::Relaxed);
            let all = self.host.used_bytes.load(Ordering::Relaxed);
            if fits(own + bytes, all - own.min(all), self.host.most_bytes) {
                return true;
            }
            if !(self.host.make_room)() {
                return false;
            }
        }
    }

    fn take(&self, bytes: u64) -> Result<(), HostFull> {
        let GuestMemory {
            most_bytes,
            used_bytes,
            make_room,
            ..
        } = &*self.host;
        loop {
            let own = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let taken = used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
                let all = all.checked_add(bytes)?;
                fits(own, all.saturating_sub(own), *most_bytes).then_some(all)
            });
            if taken.is_ok() {
                return Ok(());
            }
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            if !make_room() {
                return Err(self.full());
            }
        }
    }

    fn give(&self, bytes: u64) {
        if bytes > 0 {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.host.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.host.freed.notify_waiters();
        }
    }

    fn full(&self) -> HostFull {
        HostFull {
            most_bytes: self.host.most_bytes,
            used_bytes: self.used_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Whether a function may have `own` bytes of `most` when others have `others`.
fn fits(own: u64, others: u64, most: u64) -> bool {
    let free = most.checked_sub(own.saturating_add(others));
    free.is_some_and(|free| own <= free.saturating_mul(SHARE))
}

impl HostFull {
    pub fn problem(self) -> Problem {
        Problem::new(ProblemKind::Overload, self.to_string())
            .with_limit(format!("guest memory = {}", units::exact_bytes(self.most_bytes)))
    }
}

/// Bounds on the memory and tables of one guest; remembers what it refused, because the guest's trap will not say.
pub(crate) struct Limiter {
    share: Arc<Share>,
    memory_bytes: u64,
    /// All memories and tables of the store together.
    used_bytes: u64,
    /// What the host holds for it beside.
    held_bytes: u64,
    pub pages_grown: u64,
    pub memory_refused: bool,
}

impl Limiter {
    pub fn new(memory_bytes: u64, share: Arc<Share>) -> Self {
        Limiter {
            share,
            memory_bytes,
            used_bytes: 0,
            held_bytes: 0,
            pages_grown: 0,
            memory_refused: false,
        }
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes + self.held_bytes
    }

    /// Whether the guest could grow once more by as much as it grew since its first call, after which it had `first` bytes. One that
    /// leaks is let go of while its next call has room.
    pub fn has_room_after(&self, first: u64) -> bool {
        let since = self.used_bytes().saturating_sub(first);
        self.memory_bytes.saturating_sub(self.used_bytes()) >= since
    }

    /// Begins anew for the next call of a guest that is reused.
    pub fn renew(&mut self) {
        self.pages_grown = 0;
        self.memory_refused = false;
    }

    /// Counts what the host holds for the guest's handles, and `more`.
    pub fn hold(&mut self, table: &mut ResourceTable, more: u64) -> wasmtime::Result<()> {
        let held = more + table.iter_mut().map(|entry| held_for(entry)).sum::<u64>();
        if self.used_bytes + held > self.memory_bytes {
            self.memory_refused = true;
            return Err(BeyondLimit.into());
        }
        match held.checked_sub(self.held_bytes) {
            Some(more) => self.share.take(more)?,
            None => self.share.give(self.held_bytes - held),
        }
        self.held_bytes = held;
        Ok(())
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.share.give(self.used_bytes());
    }
}

/// The most that the host may hold for a handle: what is smaller than a page is not counted.
fn held_for(entry: &mut dyn Any) -> u64 {
    let headers = |headers: &FieldMap| match headers.is_empty() {
        true => 0,
        false => FIELD_BYTES as u64,
    };
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len) as u64;
    if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        headers(fields)
    } else if entry.is::<HostOutgoingBody>() {
        2 * BODY_CHUNK_BYTES as u64
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        headers(&response.headers)
    } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
        headers(&response.headers)
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let method = match &request.method {
            Method::Other(method) => method.len() as u64,
            _ => 0,
        };
        let scheme = match &request.scheme {
            Some(Scheme::Other(scheme)) => scheme.len() as u64,
            _ => 0,
        };
        let (authority, path) = (text(&request.authority), text(&request.path_with_query));
        headers(&request.headers) + method + scheme + authority + path
    } else if let Some(request) = entry.downcast_ref::<p3::Request>() {
        let scheme = request.scheme.as_ref().map_or(0, |scheme| scheme.as_str().len());
        let authority = request.authority.as_ref().map_or(0, |name| name.as_str().len());
        let path = request
            .path_with_query
            .as_ref()
            .map_or(0, |path| path.as_str().len());
        let texts = request.method.as_str().len() + scheme + authority + path;
        headers(&request.headers) + texts as u64
    } else if let Some(response) = entry.downcast_ref::<p3::Response>() {
        headers(&response.headers)
    } else {
        0
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
        if self.used_bytes() + more > self.memory_bytes {
            self.memory_refused = true;
            return Ok(false);
        }
        self.share.take(more)?;
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
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS {
            return Ok(false);
        }
        let more = (desired - current) as u64 * TABLE_ELEMENT_BYTES;
        if self.used_bytes() + more > self.memory_bytes {
            self.memory_refused = true;
            return Ok(false);
        }
        self.share.take(more)?;
        self.used_bytes += more;
        Ok(true)
    }

    fn instances(&self) -> usize {
        limits::INSTANCES_PER_STORE
    }

    fn tables(&self) -> usize {
        limits::TABLES_PER_STORE
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_PER_STORE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(most_bytes: u64) -> Arc<GuestMemory> {
        Arc::new(GuestMemory::new(most_bytes, Box::new(|| false)))
    }

    fn share(host: &Arc<GuestMemory>, function: &str) -> Arc<Share> {
        host.share(&function.parse().unwrap())
    }

    #[test]
    fn memory_is_bounded_over_all_memories_and_refusals_are_remembered() {
        let mut limiter = Limiter::new(1 << 20, share(&host(1 << 30), "f"));
        assert!(limiter.memory_growing(0, 512 << 10, None).unwrap());
        assert_eq!(limiter.pages_grown, 0, "the start is not growth");
        assert!(limiter.memory_growing(512 << 10, 576 << 10, None).unwrap());
        assert_eq!(limiter.pages_grown, 1);
        assert!(
            !limiter.memory_growing(0, 512 << 10, None).unwrap(),
            "a second memory counts too"
        );
        assert!(limiter.memory_refused);
        limiter.memory_refused = false;
        assert!(limiter.table_growing(0, 50_000, None).unwrap(), "400 KB are left");
        assert!(
            !limiter.table_growing(0, 50_000, None).unwrap(),
            "tables count too"
        );
        assert!(limiter.memory_refused);
    }

    #[test]
    fn what_all_guests_have_is_bounded_and_given_back() {
        let host = host(3 << 20);
        let function = share(&host, "f");
        let guests: Vec<_> = (0..2)
            .map(|_| {
                let mut limiter = Limiter::new(2 << 20, function.clone());
                assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
                limiter
            })
            .collect();
        let mut late = Limiter::new(2 << 20, share(&host, "f"));
        let refused = late.memory_growing(0, 64 << 10, None).unwrap_err();
        assert!(refused.is::<HostFull>());
        assert!(!late.memory_refused, "it is not its own limit");
        drop(guests);
        assert!(late.memory_growing(0, 2 << 20, None).unwrap());
        drop(late);
        assert_eq!(host.used_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(function.used_bytes.load(Ordering::Relaxed), 0);
    }

    /// However many functions each take all they can get, in pages: the next one finds some.
    #[test]
    fn one_function_leaves_memory_to_others() {
        let host = host(1 << 30);
        let mut guests = Vec::new();
        for function in ["a", "b", "c", "d", "e"] {
            let mut greedy = Limiter::new(u64::MAX, share(&host, function));
            let mut has = 0;
            while greedy.memory_growing(has, has + (64 << 10), None).is_ok() {
                has += 64 << 10;
            }
            assert!(has > 2 << 20, "{function} got {has}");
            guests.push((has, greedy));
        }
        assert_eq!(guests[0].0 >> 20, 682, "two thirds");
        let all: usize = guests.iter().map(|(has, _)| has).sum();
        assert_eq!(host.used_bytes.load(Ordering::Relaxed), all as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_memory_waits_for_it() {
        let host = host(3 << 20);
        let function = share(&host, "f");
        let mut limiter = Limiter::new(2 << 20, function.clone());
        assert!(limiter.memory_growing(0, 2 << 20, None).unwrap());
        let full = function.admit(64 << 10).await.unwrap_err();
        assert_eq!(full.kind, ProblemKind::Overload);
        share(&host, "other").admit(64 << 10).await.unwrap();
        let never = function.admit(3 << 20).await.unwrap_err();
        assert!(
            never.detail.contains("--guest-memory") && !never.detail.contains("again"),
            "{never}"
        );
        let mut waits = std::pin::pin!(function.admit(64 << 10));
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        drop(limiter);
        waits.await.unwrap();
    }

    #[test]
    fn what_the_host_holds_counts_as_the_guests_own() {
        let host = host(1 << 30);
        let mut limiter = Limiter::new(4 << 20, share(&host, "f"));
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        let mut table = ResourceTable::new();
        let full = |_: &u32| {
            let mut fields = FieldMap::new_mutable(FIELD_BYTES);
            fields
                .append_raw(
                    http::HeaderName::from_static("x"),
                    http::HeaderValue::from_static("v"),
                )
                .unwrap();
            fields
        };
        let mut pushed: Vec<_> = (0..24).map(|at| table.push(full(&at)).unwrap()).collect();
        table.push(FieldMap::new_mutable(FIELD_BYTES)).unwrap();
        limiter.hold(&mut table, 0).unwrap();
        assert_eq!(limiter.used_bytes(), 4 << 20);
        assert!(!limiter.memory_growing(1 << 20, 2 << 20, None).unwrap());
        pushed.push(table.push(full(&24)).unwrap());
        limiter.memory_refused = false;
        assert!(limiter.hold(&mut table, 0).is_err());
        assert!(limiter.memory_refused);
        for fields in pushed {
            table.delete(fields).unwrap();
        }
        limiter.hold(&mut table, 0).unwrap();
        assert_eq!(host.used_bytes.load(Ordering::Relaxed), 1 << 20);
    }

    #[test]
    fn texts_of_requests_count_by_their_length() {
        const TEXT_BYTES: usize = 64 << 10;
        let host = host(1 << 30);
        let mut limiter = Limiter::new(1 << 20, share(&host, "f"));
        let mut table = ResourceTable::new();
        let text = || "x".repeat(TEXT_BYTES);
        let request = || HostOutgoingRequest {
            method: Method::Other(text()),
            scheme: Some(Scheme::Other(text())),
            authority: Some(text()),
            path_with_query: Some(text()),
            headers: FieldMap::new_mutable(FIELD_BYTES),
            body: None,
        };
        let held: Vec<_> = (0..4).map(|_| table.push(request()).unwrap()).collect();
        limiter.hold(&mut table, 0).unwrap();
        assert_eq!(limiter.used_bytes(), 16 * TEXT_BYTES as u64);
        // The bytes of exchanges under way count as well.
        assert!(limiter.hold(&mut table, 1).is_err());
        let more = table.push(request()).unwrap();
        assert!(limiter.hold(&mut table, 0).is_err());
        table.delete(more).unwrap();
        held.into_iter()
            .for_each(|request| drop(table.delete(request).unwrap()));
        limiter.hold(&mut table, 1 << 20).unwrap();
        assert_eq!(limiter.used_bytes(), 1 << 20);
    }
}
