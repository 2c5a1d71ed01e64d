//! What is told of jobs: where each queue stands, what started, how it ended.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    queue: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    queue: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    queue: String,
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    queue: String,
    kind: String,
    how: &'static str,
}

/// Where a queue stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSample {
    /// Its name.
    pub queue: String,
    /// Jobs that wait for a worker.
    pub ready: u64,
    /// Jobs whose time has not come.
    pub delayed: u64,
    /// Jobs that workers have.
    pub running: u64,
    /// Jobs that failed each time.
    pub dead: u64,
    /// How long the first of those that wait has waited.
    pub oldest: Duration,
}

/// What is counted of jobs. Queues and kinds are the project's, so there are few.
#[derive(Clone)]
pub struct JobMetrics {
    depth: Family<StateLabels, Gauge>,
    oldest: Family<QueueLabels, Gauge<f64, std::sync::atomic::AtomicU64>>,
    started: Family<KindLabels, Counter>,
    ended: Family<EndLabels, Counter>,
    waited: Family<QueueLabels, Histogram, fn() -> Histogram>,
    took: Family<KindLabels, Histogram, fn() -> Histogram>,
}

/// 1 ms to 2.4 hours.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-3, 3.0, 16))
}

impl JobMetrics {
    pub(crate) fn register(registry: &mut Registry) -> JobMetrics {
        let metrics = JobMetrics {
            depth: Family::default(),
            oldest: Family::default(),
            started: Family::default(),
            ended: Family::default(),
            waited: Family::new_with_constructor(seconds),
            took: Family::new_with_constructor(seconds),
        };
        let m = metrics.clone();
        registry.register("jobs", "Jobs of a queue that have not ended well, by how they stand", m.depth);
        registry.register("jobs_oldest_ready_seconds", "How long the first job that waits has waited", m.oldest);
        registry.register("jobs_started", "Jobs that this server started", m.started);
        registry.register("jobs_ended", "Tries of jobs that ended here, by how", m.ended);
        registry.register("jobs_waited_seconds", "From when a job could start to when it did", m.waited);
        registry.register("jobs_took_seconds", "Time of one try", m.took);
        metrics
    }

    /// Where queues stand now.
    pub fn stand(&self, queues: &[QueueSample]) {
        for sample in queues {
            let states = [
                ("ready", sample.ready),
                ("delayed", sample.delayed),
                ("running", sample.running),
                ("dead", sample.dead),
            ];
            for (state, count) in states {
                let labels = StateLabels { queue: sample.queue.clone(), state };
                self.depth.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
            }
            let labels = QueueLabels { queue: sample.queue.clone() };
            self.oldest.get_or_create(&labels).set(sample.oldest.as_secs_f64());
        }
    }

    /// A job was started, so long after it could have been.
    pub fn started(&self, queue: &str, kind: &str, waited: Duration) {
        let labels = KindLabels { queue: queue.to_owned(), kind: kind.to_owned() };
        self.started.get_or_create(&labels).inc();
        self.waited.get_or_create(&QueueLabels { queue: labels.queue }).observe(waited.as_secs_f64());
    }

    /// A try ended after so long, in whichever way.
    pub fn ended(&self, queue: &str, kind: &str, how: &'static str, took: Duration) {
        let labels = KindLabels { queue: queue.to_owned(), kind: kind.to_owned() };
        self.took.get_or_create(&labels).observe(took.as_secs_f64());
        self.ended.get_or_create(&EndLabels { queue: labels.queue, kind: labels.kind, how }).inc();
    }
}
