//! Figures for Prometheus. Labels are bounded: functions that are deployed, problem types, stages.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nearfield_protocol::call::CallReport;
use nearfield_protocol::gpu::GpuUsage;
use nearfield_protocol::{FunctionName, ProblemKind};
use parking_lot::RwLock;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// 50 µs to 26 s, each bucket twice the one before.
const BUCKETS: u16 = 20;
const FIRST_BUCKET_S: f64 = 50e-6;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FunctionLabel {
    function: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    function: String,
    outcome: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    function: String,
    stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GpuLabel {
    function: String,
    way: GpuWay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum GpuWay {
    Up,
    Down,
}

impl EncodeLabelValue for GpuWay {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        let name = match self {
            GpuWay::Up => "up",
            GpuWay::Down => "down",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Total,
    Queue,
    Load,
    Run,
}

const STAGES: [Stage; 4] = [Stage::Total, Stage::Queue, Stage::Load, Stage::Run];

impl EncodeLabelValue for Stage {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
        let name = match self {
            Stage::Total => "total",
            Stage::Queue => "queue",
            Stage::Load => "load",
            Stage::Run => "run",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

/// All figures of one gateway.
pub struct Metrics {
    registry: Registry,
    calls: Family<OutcomeLabel, Counter>,
    latency: Family<StageLabel, Histogram, fn() -> Histogram>,
    fuel: Family<FunctionLabel, Counter>,
    cold: Family<FunctionLabel, Counter>,
    bytes_in: Family<FunctionLabel, Counter>,
    bytes_out: Family<FunctionLabel, Counter>,
    data_bytes: Family<FunctionLabel, Counter>,
    gpu: Family<FunctionLabel, Counter<f64, AtomicU64>>,
    gpu_bytes: Family<GpuLabel, Counter>,
    /// Those of the functions that are there.
    functions: RwLock<HashMap<FunctionName, Arc<FunctionMetrics>>>,
    pub connections: Gauge,
    pub store_bytes: Gauge<u64, AtomicU64>,
    pub gpu_resident_bytes: Gauge<u64, AtomicU64>,
}

fn histogram() -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
        FIRST_BUCKET_S,
        2.0,
        BUCKETS,
    ))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("nearfield");
        let metrics = Metrics {
            calls: Family::default(),
            latency: Family::new_with_constructor(histogram),
            fuel: Family::default(),
            cold: Family::default(),
            bytes_in: Family::default(),
            bytes_out: Family::default(),
            data_bytes: Family::default(),
            gpu: Family::default(),
            gpu_bytes: Family::default(),
            functions: RwLock::default(),
            connections: Gauge::default(),
            store_bytes: Gauge::default(),
            gpu_resident_bytes: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("calls", "Calls by function and outcome", metrics.calls.clone());
        registry.register_with_unit(
            "call",
            "Time of calls by stage",
            Unit::Seconds,
            metrics.latency.clone(),
        );
        registry.register("fuel", "Fuel used", metrics.fuel.clone());
        registry.register(
            "cold_calls",
            "Calls that had to load their component",
            metrics.cold.clone(),
        );
        registry.register_with_unit("request", "Request bodies", Unit::Bytes, metrics.bytes_in.clone());
        registry.register_with_unit(
            "response",
            "Response bodies",
            Unit::Bytes,
            metrics.bytes_out.clone(),
        );
        registry.register_with_unit(
            "data_read",
            "Shards read by functions",
            Unit::Bytes,
            metrics.data_bytes.clone(),
        );
        registry.register_with_unit("gpu", "Time on GPUs", Unit::Seconds, metrics.gpu.clone());
        registry.register_with_unit(
            "gpu_moved",
            "Bytes that went into GPUs and came out of them",
            Unit::Bytes,
            metrics.gpu_bytes.clone(),
        );
        registry.register_with_unit(
            "gpu_resident",
            "Memory of this node's GPU that shards and calls take",
            Unit::Bytes,
            metrics.gpu_resident_bytes.clone(),
        );
        registry.register(
            "connections",
            "Open client connections",
            metrics.connections.clone(),
        );
        registry.register_with_unit("store", "Sealed blobs", Unit::Bytes, metrics.store_bytes.clone());
        Metrics { registry, ..metrics }
    }
}

/// One function's figures, looked up once and then only counted.
pub struct FunctionMetrics {
    name: String,
    ok: Counter,
    stages: [(Stage, Histogram); 4],
    fuel: Counter,
    cold: Counter,
    bytes_in: Counter,
    bytes_out: Counter,
    data_bytes: Counter,
}

impl Metrics {
    /// The figures of `function`.
    pub fn function(&self, function: &FunctionName) -> Arc<FunctionMetrics> {
        if let Some(known) = self.functions.read().get(function) {
            return known.clone();
        }
        let name = function.to_string();
        let label = FunctionLabel {
            function: name.clone(),
        };
        let stage = |stage| {
            (
                stage,
                self.latency
                    .get_or_create(&StageLabel {
                        function: name.clone(),
                        stage,
                    })
                    .clone(),
            )
        };
        let made = Arc::new(FunctionMetrics {
            ok: self.outcome(&name, "ok"),
            stages: STAGES.map(stage),
            fuel: self.fuel.get_or_create(&label).clone(),
            cold: self.cold.get_or_create(&label).clone(),
            bytes_in: self.bytes_in.get_or_create(&label).clone(),
            bytes_out: self.bytes_out.get_or_create(&label).clone(),
            data_bytes: self.data_bytes.get_or_create(&label).clone(),
            name,
        });
        self.functions.write().insert(function.clone(), made.clone());
        made
    }

    /// Forgets the figures of all functions but these: a function that is gone has none.
    pub fn keep<'a>(&self, functions: impl Iterator<Item = &'a FunctionName>) {
        let kept: HashSet<_> = functions.collect();
        let mut known = self.functions.write();
        let gone: Vec<_> = known
            .keys()
            .filter(|name| !kept.contains(name))
            .cloned()
            .collect();
        for name in gone {
            known.remove(&name);
            self.forget(name.as_str());
        }
    }

    fn forget(&self, function: &str) {
        let function = function.to_owned();
        let outcomes = ProblemKind::ALL.iter().map(|kind| kind.slug());
        for outcome in outcomes.chain(["ok", "cancelled"]) {
            self.calls.remove(&OutcomeLabel {
                function: function.clone(),
                outcome: outcome.to_owned(),
            });
        }
        for stage in STAGES {
            let function = function.clone();
            self.latency.remove(&StageLabel { function, stage });
        }
        for way in [GpuWay::Up, GpuWay::Down] {
            let function = function.clone();
            self.gpu_bytes.remove(&GpuLabel { function, way });
        }
        let label = FunctionLabel { function };
        for counters in [
            &self.fuel,
            &self.cold,
            &self.bytes_in,
            &self.bytes_out,
            &self.data_bytes,
        ] {
            counters.remove(&label);
        }
        self.gpu.remove(&label);
    }

    /// Counts one finished call.
    pub fn call(&self, function: &FunctionMetrics, report: &CallReport, total: Duration) {
        match &report.problem {
            Some(problem) => self.outcome(&function.name, problem.kind.slug()).inc(),
            None if report.cancelled => self.outcome(&function.name, "cancelled").inc(),
            None => function.ok.inc(),
        };
        for (stage, histogram) in &function.stages {
            histogram.observe(match stage {
                Stage::Total => total.as_secs_f64(),
                Stage::Queue => report.stages.queue_us as f64 / 1e6,
                Stage::Load => report.stages.load_us as f64 / 1e6,
                Stage::Run => report.stages.run_us as f64 / 1e6,
            });
        }
        function.fuel.inc_by(report.fuel);
        function.cold.inc_by(u64::from(report.cold));
        function.bytes_in.inc_by(report.request_bytes);
        function.bytes_out.inc_by(report.response_bytes);
        function.data_bytes.inc_by(report.data_bytes);
        if let Some(usage) = &report.gpu {
            self.gpu(&function.name, usage);
        }
    }

    /// Few functions use a GPU, so theirs are looked up.
    fn gpu(&self, function: &str, usage: &GpuUsage) {
        let function = function.to_owned();
        let bytes = |way, bytes| {
            let function = function.clone();
            self.gpu_bytes
                .get_or_create(&GpuLabel { function, way })
                .inc_by(bytes);
        };
        bytes(GpuWay::Up, usage.uploaded_bytes);
        bytes(GpuWay::Down, usage.downloaded_bytes);
        let label = FunctionLabel { function };
        self.gpu.get_or_create(&label).inc_by(usage.gpu_ns as f64 / 1e9);
    }

    fn outcome(&self, function: &str, outcome: &str) -> Counter {
        let label = OutcomeLabel {
            function: function.to_owned(),
            outcome: outcome.to_owned(),
        };
        self.calls.get_or_create(&label).clone()
    }

    /// The text format.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use nearfield_protocol::Problem;
    use nearfield_protocol::call::Stages;

    use super::*;

    #[test]
    fn a_function_that_is_gone_leaves_no_series() {
        let metrics = Metrics::default();
        let (stays, goes): (FunctionName, FunctionName) = ("stays".parse().unwrap(), "goes".parse().unwrap());
        for name in [&stays, &goes] {
            let figures = metrics.function(name);
            let mut report = CallReport::without_guest(None, Stages::default());
            report.gpu = Some(GpuUsage::default());
            metrics.call(&figures, &report, Duration::from_millis(1));
            report.problem = Some(Problem::new(ProblemKind::Trap, ""));
            metrics.call(&figures, &report, Duration::from_millis(1));
        }
        metrics.keep([&stays].into_iter());
        let text = metrics.render();
        assert!(text.contains("function=\"stays\""));
        assert!(!text.contains("goes"), "{text}");
        // Deployed again, it begins anew.
        metrics.function(&goes);
        assert!(
            metrics
                .render()
                .contains("nearfield_fuel_total{function=\"goes\"} 0")
        );
    }
}
