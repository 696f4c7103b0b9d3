//! Bounds on what one call may ask of the GPU. Each has its reason beside it.

use std::time::Duration;

/// Steps of one submission: enough for a network of many layers, few enough to be recorded in milliseconds.
pub const STEPS: usize = 1_024;
/// Buffers that one dispatch names: more than twice what a shader can use.
pub const BINDINGS: usize = 16;
/// Pipelines of one submission: each may have to be compiled again while others wait.
pub const PIPELINES_AT_ONCE: usize = 32;
/// Shards of one submission that are brought into GPU memory for it.
pub const SHARDS_AT_ONCE: usize = 64;
/// Submissions of one call that wait or are worked on: one that runs, and enough behind it that nobody waits for the guest.
pub const PENDING: usize = 4;
/// Handles of all steps of a submission: each has a pipeline and up to seven buffers.
pub const LENT_HANDLES: usize = 8 * STEPS;
/// Ranges that one submission reads back.
pub const READS: usize = 64;
/// Bytes that the writes of one submission carry: what one host call may copy.
pub const WRITE_BYTES: u64 = 8 << 20;
/// Bytes that one submission reads back; they lie in the host's memory until the guest took them.
pub const READ_BYTES: u64 = 64 << 20;
/// Buffers that a call holds at once.
pub const BUFFERS: usize = 256;
/// Workgroups of one dispatch: with 256 invocations each four thousand million, some seconds of a large GPU.
pub const WORKGROUPS: u64 = 1 << 24;
/// One shader, before it is read: real ones have some thousands.
pub const SOURCE_BYTES: usize = 64 << 10;
/// Constants of one pipeline.
pub const CONSTANTS: usize = 64;
/// Bytes of the name of an entry point or a constant.
pub const NAME_BYTES: usize = 256;
/// Pipelines that stay compiled.
pub const PIPELINES: usize = 256;
/// Bytes that writes of submissions take which wait, of all calls together, and of those of one function.
pub const QUEUED_BYTES: u64 = 256 << 20;
pub const QUEUED_BYTES_OF_ONE: u64 = QUEUED_BYTES / 2;
/// Units of what is at hand of shards on their way to the GPU, of all calls together: a descriptor each, and one for each
/// [`BRINGING_UNIT_BYTES`] that had to be copied. So at most 1,024 descriptors, and 256 MiB of copies.
pub const BRINGING: u32 = 1_024;
pub const BRINGING_UNIT_BYTES: u64 = 256 << 10;
/// What a buffer takes of the memory for shards and buffers, however small it is: drivers and wgpu keep kilobytes for each.
pub const LEAST_BUFFER_BYTES: u64 = 64 << 10;
/// Shaders that were refused, and are refused again without being read.
pub const REFUSALS: usize = 1_024;
/// Submissions and builds that wait for the GPU, of all calls together, and of those of one function: four must agree to keep
/// others out.
pub const QUEUED: usize = 512;
pub const QUEUED_OF_ONE: usize = QUEUED / 4;
/// Time that a driver has for one pipeline. Drivers compile on our thread, and some shaders keep them busy for minutes.
pub const BUILD_TIME: Duration = Duration::from_secs(10);
/// Time to bring one piece of a shard, from a disk that is slow.
pub const UPLOAD_TIME: Duration = Duration::from_secs(30);
/// Time to start a worker: loading a driver takes tens of milliseconds to seconds.
pub const START_TIME: Duration = Duration::from_secs(20);
/// A worker is not killed sooner, however little time a submission has: starting the next one costs everybody more.
pub const GRACE: Duration = Duration::from_millis(500);
/// Workers that one function may cost within [`PENALTY`] before it is refused for as long.
pub const STRIKES: usize = 3;
pub const PENALTY: Duration = Duration::from_secs(60);
/// How often a GPU that is not there is looked for in the end; at first after [`RESTART_WAIT`], then after twice as long each time.
pub const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// How long a worker that could not be started is not started again.
pub const RESTART_WAIT: Duration = Duration::from_secs(2);
/// GPU memory for shards and buffers where nobody said how much: most hardware has several times that, and the software
/// adapter takes it from the node's own.
pub const HARDWARE_MEMORY_BYTES: u64 = 4 << 30;
pub const SOFTWARE_MEMORY_BYTES: u64 = 512 << 20;
