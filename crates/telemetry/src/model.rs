//! What loading and unloading count.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

use crate::LaneLabels;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    model: String,
    phase: String,
    warm: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    outcome: &'static str,
}

/// Which models are loaded, where, and what loading took.
#[derive(Clone)]
pub struct ModelMetrics {
    loaded: Family<LaneLabels, Gauge>,
    memory_bytes: Family<LaneLabels, Gauge>,
    load_seconds: Family<PhaseLabels, Gauge<f64, AtomicU64>>,
    loads: Family<OutcomeLabels, Counter>,
}

impl ModelMetrics {
    pub(crate) fn register(registry: &mut Registry) -> ModelMetrics {
        let metrics = ModelMetrics {
            loaded: Family::default(),
            memory_bytes: Family::default(),
            load_seconds: Family::default(),
            loads: Family::default(),
        };
        let m = metrics.clone();
        registry.register("loaded_models", "1 for each profile that is loaded, with the device it runs on", m.loaded);
        registry.register("device_memory_bytes", "Memory a loaded profile takes on its device", m.memory_bytes);
        registry.register("load_seconds", "Where the time of the last load of a model went", m.load_seconds);
        registry.register("model_loads_requests", "Loads asked for, by outcome", m.loads);
        metrics
    }

    /// A profile is loaded and takes so much memory.
    pub fn loaded(&self, labels: &LaneLabels, memory_bytes: u64) {
        self.loaded.get_or_create(labels).set(1);
        self.memory_bytes.get_or_create(labels).set(i64::try_from(memory_bytes).unwrap_or(i64::MAX));
    }

    /// A profile is gone.
    pub fn unloaded(&self, labels: &LaneLabels) {
        self.loaded.remove(labels);
        self.memory_bytes.remove(labels);
    }

    /// One phase of loading took so long.
    pub fn phase(&self, model: &str, phase: &str, warm: bool, took: Duration) {
        let labels = |warm| PhaseLabels { model: model.to_owned(), phase: phase.to_owned(), warm };
        let (is, was) = if warm { ("true", "false") } else { ("false", "true") };
        self.load_seconds.remove(&labels(was));
        self.load_seconds.get_or_create(&labels(is)).set(took.as_secs_f64());
    }

    /// A load ended, well or not.
    pub fn load_ended(&self, model: &str, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.loads.get_or_create(&OutcomeLabels { model: model.to_owned(), outcome }).inc();
    }
}
