//! Default limits. Each has one name, used in code, errors and docs, and its reason beside it.

use std::time::Duration;

/// Fuel per call: an empty loop burns it in 0.7 s on one core, code that touches memory more slowly.
pub const FUEL_PER_CALL: u64 = 10_000_000_000;
/// Most fuel a manifest may ask for per call: an hour of one core, beyond any wall time.
pub const MAX_FUEL_PER_CALL: u64 = 10_000_000_000_000;
/// Wall time per call; blocked host calls burn no fuel, so fuel alone bounds nothing.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wall time a manifest may ask for.
pub const MAX_CALL_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long the GPU and its driver may be busy for a call: far more than answering takes, far less than a queue of others would bear.
pub const GPU_TIME: Duration = Duration::from_secs(10);
/// GPU memory that the buffers of one call take, beside shards.
pub const GPU_MEMORY_BYTES: u64 = 256 << 20;
/// Most GPU memory a manifest may ask for: beyond what one GPU has.
pub const MAX_GPU_MEMORY_BYTES: u64 = 1 << 40;
/// Fuel of one job's runs together, unless asked otherwise: some hours of one core.
pub const FUEL_PER_JOB: u64 = 10_000_000_000_000;
/// Wall time per shard of a job.
pub const SHARD_TIMEOUT: Duration = Duration::from_secs(300);
/// Linear memory of one guest.
pub const GUEST_MEMORY_BYTES: u64 = 256 << 20;
/// Most linear memory a manifest may ask for: the whole of wasm32.
pub const MAX_GUEST_MEMORY_BYTES: u64 = 4 << 30;
/// Tables per store: real components have one a core module.
pub const TABLES_PER_STORE: usize = 64;
/// Core instances per store: real components have two to five, those of Python thirty.
pub const INSTANCES_PER_STORE: usize = 64;
/// Memories per store: real components have one, composed ones some.
pub const MEMORIES_PER_STORE: usize = 16;
/// Handles a guest may hold at once: enough for hundreds of open shards, small for the host.
pub const GUEST_HANDLES: usize = 1_024;
/// Bytes that one host call may copy out of a guest.
pub const HOST_CALL_COPY_BYTES: usize = 8 << 20;
/// One component, before compilation.
pub const COMPONENT_BYTES: u64 = 64 << 20;
/// CPU time of one compilation, for each component and for each MiB of it: a compile bomb of 147 KB takes longer than a
/// minute, Python's component of 18.5 MB takes 20 s of a release build's time. 286 s for the largest component.
pub const COMPILE_CPU: Duration = Duration::from_secs(30);
pub const COMPILE_CPU_PER_MIB: Duration = Duration::from_secs(4);
/// Address space of one compilation, likewise: Python's component takes 0.4 GB. 4 GiB for the largest component.
pub const COMPILE_MEMORY_BYTES: u64 = 2 << 30;
pub const COMPILE_MEMORY_BYTES_PER_MIB: u64 = 32 << 20;
/// Request header block: what common proxies accept, with room.
pub const REQUEST_HEADER_BYTES: usize = 64 << 10;
/// Request header fields.
pub const REQUEST_HEADER_FIELDS: usize = 100;
/// How long a client may take to send its headers.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Request body, streamed.
pub const REQUEST_BODY_BYTES: u64 = 100 << 20;
/// How long a body may stand still, in either direction.
pub const BODY_IDLE: Duration = Duration::from_secs(30);
/// Response body, streamed.
pub const RESPONSE_BODY_BYTES: u64 = 1 << 30;
/// Header block that a guest may produce.
pub const RESPONSE_HEADER_BYTES: usize = 64 << 10;
/// Header fields that a guest may set: more than any page has. Nodes that pass them on have to count them.
pub const RESPONSE_HEADER_FIELDS: usize = 256;
/// Response bytes held back so that fuel and timing can be headers instead of trailers.
pub const RESPONSE_HELD_BYTES: usize = 64 << 10;
/// Connections a listener holds at once: each costs a descriptor and about 10 KiB.
pub const CONNECTIONS: usize = 10_000;
/// Connections from one address.
pub const CONNECTIONS_PER_ADDRESS: usize = 256;
/// Calls of one function at once, through one gateway, unless its manifest says otherwise, and at most.
pub const CALLS_PER_FUNCTION: u32 = 256;
pub const MAX_CALLS_PER_FUNCTION: u32 = 4_096;
/// Places for calls on one host: each needs a slot of the engine's pool, so this bounds memory, too.
pub const PLACES_PER_HOST: u32 = 512;
/// Of these, those that the calls of one function may take: the others are left to other functions.
pub const PLACES_PER_FUNCTION: u32 = 256;
/// Calls that one host has at once, as a gateway counts, which does not know how many places each takes.
pub const CALLS_PER_HOST: u32 = PLACES_PER_HOST;
/// Calls of one client that wait at a gateway for a place: what a browser asks for at once, and a few such.
pub const WAITING_PER_CLIENT: usize = 64;
/// Requests of one client whose bodies have not begun to come: as many as streams of two HTTP/2 connections.
pub const EXPECTED_BODIES: usize = 256;
/// Answers that everybody gets, such as metrics, on their way to one address: some have 200 KiB.
pub const OPEN_ANSWERS: usize = 16;
/// Clients whose calls wait at a gateway: each costs its requests' heads and first bytes.
pub const WAITING_CLIENTS: usize = 1_024;
/// Calls that wait on a host for a place, and those of one function.
pub const QUEUED_CALLS: usize = 1_024;
pub const QUEUED_CALLS_PER_FUNCTION: usize = 256;
/// How long a call waits for a place.
pub const QUEUE_WAIT: Duration = Duration::from_secs(5);
/// A longer line of a log is cut into several; a peer's is cut.
pub const LOG_LINE_BYTES: usize = 16 << 10;
/// Log bytes kept of one call.
pub const LOG_BYTES_PER_CALL: usize = 256 << 10;
/// Outgoing requests of one call.
pub const OUTGOING_REQUESTS: u32 = 32;
/// One `shard.read`.
pub const SHARD_READ_BYTES: u32 = 1 << 20;
/// A record that no cut may split; longer ones are an error with their offset.
pub const RECORD_BYTES: u64 = 64 << 20;
/// The key of a record: it is kept with every 16 KiB of a dataset that is sorted by it.
pub const KEY_BYTES: usize = 1 << 10;
/// All records of one key, which lie in one shard.
pub const KEY_RECORDS_BYTES: u64 = RECORD_BYTES;
/// A manifest or another JSON body of the admin API.
pub const ADMIN_BODY_BYTES: usize = 1 << 20;
/// A function's route: what browsers and proxies keep of an address, with most of it left for the path.
pub const ROUTE_BYTES: usize = 512;
/// Datasets that one function may open; each is resolved and looked up for every call.
pub const INPUTS: usize = 64;
/// Servers that one function may send requests to.
pub const ALLOWED_HOSTS: usize = 64;
/// Environment variables of one function; every fresh instance gets a copy of them.
pub const ENV_VARIABLES: usize = 64;
/// Bytes of their names and values, for the same reason.
pub const ENV_BYTES: usize = 32 << 10;
/// Entries of each list in a function's `cors`: they are told in one header, and origins are looked through for every call.
pub const CORS_ENTRIES: usize = 64;
/// How long a browser may keep the answer to a preflight: as long as any browser does.
pub const MAX_CORS_AGE: Duration = Duration::from_secs(24 * 3600);
/// How deep the arguments of a job may nest: more than anybody writes by hand. JSON readers stop at 128, and every answer that
/// shows a job puts its arguments a few levels deeper.
pub const JOB_ARGS_DEPTH: usize = 64;
/// Runs of a job that a host is given at once: more than it has workers, so that none waits for results to be kept.
pub const RUNS_IN_FLIGHT: usize = 32;
