//! The engines: one configuration a lane, the same for the compiler's process and for running.

use std::hash::{DefaultHasher, Hash, Hasher};

use nearfield_protocol::limits;
use wasmtime::{
    Config, Enabled, Engine, Inlining, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

/// Calls that run at once on one host. Each needs a slot of the pool, so this bounds memory too.
pub(crate) const CALLS_AT_ONCE: u32 = 512;

/// Memory of a finished guest that stays mapped in its slot, so that the next one does not fault it
/// in again. Only with the kernel's page-map scan: without it, zeroing costs more than it saves.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// The same for the stack that a guest runs on.
const KEEP_STACK_BYTES: usize = 64 << 10;

/// Table elements a component may have: real ones have some hundreds.
const TABLE_ELEMENTS: usize = 100_000;

/// Which engine runs a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lane {
    /// `wasi:http/incoming-handler@0.2`. Without concurrency support, which makes it a third faster.
    LiveP2,
    /// `wasi:http/handler@0.3`.
    LiveP3,
    /// `nearfield:compute/mapper`: jobs, deterministic.
    Pure,
}

impl Lane {
    /// Its name in file names and on the compiler's command line.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::LiveP2 => "live-p2",
            Lane::LiveP3 => "live-p3",
            Lane::Pure => "pure",
        }
    }

    pub fn from_name(name: &str) -> Option<Lane> {
        [Lane::LiveP2, Lane::LiveP3, Lane::Pure]
            .into_iter()
            .find(|lane| lane.name() == name)
    }
}

/// What decides the native code: compiler and host must agree on all of it.
fn base_config(lane: Lane) -> Config {
    let mut config = Config::new();
    config.consume_fuel(true);
    config.cranelift_opt_level(OptLevel::Speed);
    // Word count over 200 MB with fuel: 2.26 s without, 1.74 s with.
    config.compiler_inlining(Inlining::Yes);
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    match lane {
        Lane::LiveP2 => config.concurrency_support(false),
        Lane::LiveP3 => config.wasm_component_model_async(true),
        // The bits of a NaN and the results of relaxed instructions differ between processors.
        Lane::Pure => config
            .concurrency_support(false)
            .cranelift_nan_canonicalization(true)
            .relaxed_simd_deterministic(true),
    };
    config
}

/// An engine that only compiles. It reserves no memory for guests, so it fits under the compiler's
/// address-space limit.
pub fn compiling_engine(lane: Lane) -> wasmtime::Result<Engine> {
    Engine::new(&base_config(lane))
}

/// An engine that runs guests from a pool.
pub(crate) fn running_engine(lane: Lane) -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(CALLS_AT_ONCE)
        .total_core_instances(CALLS_AT_ONCE * 8)
        .total_memories(CALLS_AT_ONCE * 2)
        .total_tables(CALLS_AT_ONCE * 4)
        .total_stacks(CALLS_AT_ONCE * 2)
        .max_core_instances_per_component(limits::INSTANCES_PER_STORE as u32)
        .max_tables_per_component(limits::TABLES_PER_STORE as u32)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_STACK_BYTES)
        .async_stack_keep_resident(KEEP_STACK_BYTES)
        .pagemap_scan(Enabled::Auto);
    let mut config = base_config(lane);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// Names everything that native code depends on beside the component: engine version, settings, CPU
/// features and lane.
pub(crate) fn code_key(engine: &Engine, lane: Lane) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{}-{:016x}", lane.name(), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiler_and_host_agree() {
        for lane in [Lane::LiveP2, Lane::LiveP3, Lane::Pure] {
            let compiling = code_key(&compiling_engine(lane).unwrap(), lane);
            let running = code_key(&running_engine(lane).unwrap(), lane);
            assert_eq!(compiling, running);
        }
    }

    #[test]
    fn lanes_never_share_code() {
        let key = |lane| code_key(&compiling_engine(lane).unwrap(), lane);
        assert_ne!(key(Lane::LiveP2), key(Lane::LiveP3));
        assert_ne!(key(Lane::LiveP2), key(Lane::Pure));
    }
}
