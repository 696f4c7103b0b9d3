//! The engines: one configuration a lane, the same for the compiler's process and for running.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use nearfield_protocol::limits;
use wasmtime::component::Component;
use wasmtime::{
    Config, Enabled, Engine, EngineWeak, Inlining, InstanceAllocationStrategy, OptLevel,
    PoolingAllocationConfig, WasmBacktraceDetails,
};

use crate::inspect::Inspection;
use crate::lane::Lane;

/// Places for calls on one host: as many calls run at once as take one place each, which nearly all do.
pub(crate) const PLACES: u32 = limits::PLACES_PER_HOST;
/// Places for instances that lie idle. They are beside those of calls, so that no call ever lacks what lies idle.
pub(crate) const IDLE_PLACES: u32 = 128;
/// What one place holds of the pool: a component made of Rust has one memory and two tables.
const MEMORIES_PER_PLACE: u32 = 2;
const TABLES_PER_PLACE: u32 = 4;

/// Memory of a finished guest that stays mapped in its slot, so that the next one does not fault it
/// in again. Only with the kernel's page-map scan: without it, zeroing costs more than it saves.
const KEEP_RESIDENT_BYTES: usize = 1 << 20;

/// The same for the stack that a guest runs on.
const KEEP_STACK_BYTES: usize = 64 << 10;

/// Table elements a component may have: real ones have some hundreds.
const TABLE_ELEMENTS: usize = 100_000;

/// How often guests that are timed give way: often enough that a call ends soon after its time, seldom enough to cost nothing.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Ticks after which a guest that just began gives way.
pub(crate) const TICKS: u64 = 2;

/// Code from which on a component is compiled without inlining. What it costs, measured on 2 cores: Python's component
/// (18.5 MB) takes 20 s and 0.4 GB without, 58 s and 8.5 GB with; QuickJS (1.7 MB) 4 and 8 s, 0.1 and 1.3 GB. Interpreters gain
/// little by it. Components made of Rust have some hundreds of KB.
const INLINED_CODE_BYTES: u64 = 1 << 20;

/// A way to compile and to run: native code of one target runs on no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    pub lane: Lane,
    /// Whether the compiler inlines calls between a component's functions. A call costs the same fuel either way.
    pub inlining: bool,
    /// Whether guests give way after each [`TICK`] as well, not only by the fuel that they burn.
    pub timed: bool,
}

impl Target {
    /// What a component is compiled for: the same on every host.
    pub fn of(lane: Lane, component: &Inspection) -> Self {
        Target {
            lane,
            inlining: component.code_bytes < INLINED_CODE_BYTES,
            // Strings between components, and streams, are copied by the engine in one step, whose fuel does not depend
            // on their length.
            timed: component.composed || lane == Lane::LiveP3,
        }
    }

    /// All targets there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let lanes = [Lane::LiveP2, Lane::LiveP3, Lane::Pure].into_iter();
        let targets = lanes.flat_map(|lane| {
            [(true, false), (true, true), (false, false), (false, true)].map(|(inlining, timed)| Target {
                lane,
                inlining,
                timed,
            })
        });
        targets.filter(|target| target.timed || target.lane != Lane::LiveP3)
    }

    /// Whether most components of its lane are compiled for it.
    pub fn is_usual(self) -> bool {
        self.inlining && self.timed == (self.lane == Lane::LiveP3)
    }

    /// Its name in file names and on the compiler's command line.
    pub fn name(self) -> String {
        let large = if self.inlining { "" } else { "-large" };
        let timed = if self.timed { "-timed" } else { "" };
        format!("{}{large}{timed}", self.lane.name())
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Target::all().find(|target| target.name() == name)
    }
}

/// What decides the native code: compiler and host must agree on all of it.
fn base_config(target: Target) -> Config {
    let mut config = Config::new();
    config.consume_fuel(true);
    config.cranelift_opt_level(OptLevel::Speed);
    // Word count over 200 MB with fuel: 2.26 s without, 1.74 s with.
    config.compiler_inlining(match target.inlining {
        true => Inlining::Yes,
        false => Inlining::No,
    });
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.epoch_interruption(target.timed);
    match target.lane {
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
pub fn compiling_engine(target: Target) -> wasmtime::Result<Engine> {
    Engine::new(&base_config(target))
}

/// An engine that runs guests from a pool.
pub(crate) fn running_engine(target: Target) -> wasmtime::Result<Engine> {
    let places = PLACES + IDLE_PLACES;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(places)
        // A count, which reserves nothing.
        .total_core_instances(places * limits::INSTANCES_PER_STORE as u32)
        .total_memories(places * MEMORIES_PER_PLACE)
        .total_tables(places * TABLES_PER_PLACE)
        .total_stacks(places * 2)
        .max_core_instances_per_component(limits::INSTANCES_PER_STORE as u32)
        .max_memories_per_component(limits::MEMORIES_PER_STORE as u32)
        .max_tables_per_component(limits::TABLES_PER_STORE as u32)
        .table_elements(TABLE_ELEMENTS)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_STACK_BYTES)
        .async_stack_keep_resident(KEEP_STACK_BYTES)
        .pagemap_scan(Enabled::Auto);
    let mut config = base_config(target);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config)?;
    if target.timed {
        tick(engine.weak())?;
    }
    Ok(engine)
}

/// Lets the guests of `engine` know that time passes, from a thread of its own: those that they run on may all be busy.
fn tick(engine: EngineWeak) -> std::io::Result<()> {
    let tick = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            std::thread::sleep(TICK);
        }
    };
    std::thread::Builder::new()
        .name("nearfield-tick".to_owned())
        .spawn(tick)
        .map(drop)
}

/// Places that an instance of `component` takes.
pub(crate) fn places_of(component: &Component) -> u32 {
    let most = |memories: u32, tables: u32| {
        let places = memories
            .div_ceil(MEMORIES_PER_PLACE)
            .max(tables.div_ceil(TABLES_PER_PLACE));
        places.max(1)
    };
    match component.resources_required() {
        Some(required) => most(required.num_memories, required.num_tables),
        // It instantiates what it imports: nothing that a linker of ours offers.
        None => most(limits::MEMORIES_PER_STORE as u32, limits::TABLES_PER_STORE as u32),
    }
}

/// A page of memory, in which the engine counts them.
const PAGE: u64 = 64 << 10;

/// Bytes of memory that an instance of `component` begins with, at most.
pub(crate) fn memory_of(component: &Component) -> u64 {
    component.resources_required().map_or(0, |required| {
        u64::from(required.num_memories) * required.max_initial_memory_size.unwrap_or(0) * PAGE
    })
}

/// Names everything that native code depends on beside the component: engine version, settings, CPU
/// features and target.
pub(crate) fn code_key(engine: &Engine, target: Target) -> String {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{}-{:016x}", target.name(), hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::{Instance, Module, Store};

    #[test]
    fn compiler_and_host_agree() {
        for target in Target::all() {
            let compiling = code_key(&compiling_engine(target).unwrap(), target);
            let running = code_key(&running_engine(target).unwrap(), target);
            assert_eq!(compiling, running);
        }
    }

    #[test]
    fn targets_never_share_code() {
        let keys: std::collections::HashSet<_> = Target::all()
            .map(|target| code_key(&compiling_engine(target).unwrap(), target))
            .collect();
        assert_eq!(keys.len(), Target::all().count());
    }

    #[test]
    fn names_come_back() {
        for target in Target::all() {
            assert_eq!(Target::from_name(&target.name()), Some(target));
        }
        assert_eq!(Target::from_name("-large"), None);
        assert_eq!(Target::all().filter(|target| target.is_usual()).count(), 3);
    }

    /// Calls of calls, in loops, through tables, with early returns: what inlining changes.
    const CALLS: &str = r#"(module
        (memory 1)
        (table 2 funcref)
        (elem (i32.const 0) $leaf $early)
        (func $leaf (param i32) (result i32)
          (i32.store (i32.const 8) (local.get 0))
          (i32.add (i32.load (i32.const 8)) (i32.const 1)))
        (func $early (param i32) (result i32)
          (if (i32.and (local.get 0) (i32.const 1)) (then (return (i32.const 3))))
          (memory.fill (i32.const 64) (i32.const 1) (i32.const 100))
          (call $leaf (local.get 0)))
        (func $loops (param i32) (result i32) (local i32)
          (loop $again
            (local.set 1 (i32.add (local.get 1) (call $early (local.get 0))))
            (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (local.get 1))
        (func (export "run") (param i32) (result i32) (local i32)
          (loop $again
            (local.set 1 (i32.add (call $loops (i32.const 7))
              (call_indirect (param i32) (result i32) (local.get 0) (i32.and (local.get 0) (i32.const 1)))))
            (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
          (local.get 1)))"#;

    #[test]
    fn all_targets_of_a_lane_burn_the_same_fuel() {
        for lane in [Lane::LiveP2, Lane::LiveP3, Lane::Pure] {
            let burn = |target| {
                let engine = compiling_engine(target).unwrap();
                let module = Module::new(&engine, wat::parse_str(CALLS).unwrap()).unwrap();
                [1, 2, 50].map(|rounds| {
                    let mut store = Store::new(&engine, ());
                    store.set_fuel(1_000_000).unwrap();
                    store.set_epoch_deadline(1);
                    let instance = Instance::new(&mut store, &module, &[]).unwrap();
                    let run = instance.get_typed_func::<i32, i32>(&mut store, "run").unwrap();
                    let result = run.call(&mut store, rounds).unwrap();
                    (result, store.get_fuel().unwrap())
                })
            };
            let mut burnt = Target::all().filter(|target| target.lane == lane).map(burn);
            let first = burnt.next().unwrap();
            assert!(burnt.all(|other| other == first));
        }
    }

    const PLAIN: Target = Target {
        lane: Lane::LiveP2,
        inlining: true,
        timed: false,
    };

    /// A component with so many instances of a module that has one memory.
    fn with_memories(count: usize) -> Vec<u8> {
        let instances = "(core instance (instantiate $m))".repeat(count);
        wat::parse_str(format!("(component (core module $m (memory 1)) {instances})")).unwrap()
    }

    #[test]
    fn a_component_takes_places_by_what_it_has() {
        let engine = compiling_engine(PLAIN).unwrap();
        for (memories, places) in [(0, 1), (1, 1), (2, 1), (3, 2), (16, 8)] {
            let component = Component::new(&engine, with_memories(memories)).unwrap();
            assert_eq!(places_of(&component), places, "{memories} memories");
            assert_eq!(memory_of(&component), memories as u64 * (64 << 10));
        }
    }

    #[test]
    fn a_component_has_no_more_memories_than_real_ones() {
        let engine = running_engine(PLAIN).unwrap();
        assert!(Component::new(&engine, with_memories(limits::MEMORIES_PER_STORE)).is_ok());
        let refused = Component::new(&engine, with_memories(59)).err().unwrap();
        assert!(format!("{refused:#}").contains("59"), "{refused:#}");
    }
}
