//! What a lane counts: waiting, batches, device time, refusals.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;

/// Which lane a series belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabels {
    /// The model's name.
    pub model: String,
    /// The first digits of the model's version.
    pub version: String,
    /// The profile's name.
    pub profile: String,
    /// The device it runs on.
    pub device: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    model: String,
    version: String,
    profile: String,
    reason: &'static str,
}

type Histograms = Family<LaneLabels, Histogram, fn() -> Histogram>;

#[derive(Clone)]
pub(crate) struct LaneFamilies {
    /// How many lanes use these labels.
    bound: Arc<Mutex<HashMap<LaneLabels, usize>>>,
    queue_seconds: Histograms,
    batch_items: Histograms,
    batch_tokens: Histograms,
    padding_ratio: Histograms,
    batch_seconds: Histograms,
    device_seconds: Family<LaneLabels, Counter<f64, AtomicU64>>,
    fixed_seconds: Family<LaneLabels, Gauge<f64, AtomicU64>>,
    token_seconds: Family<LaneLabels, Gauge<f64, AtomicU64>>,
    waiting_items: Family<LaneLabels, Gauge>,
    finished_items: Family<LaneLabels, Counter>,
    failed_items: Family<LaneLabels, Counter>,
    abandoned_items: Family<LaneLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
}

/// 0.1 ms to 26 s: from a wait for the next batch to the longest deadline that makes sense.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 19))
}

/// 1 to 4,096 items.
fn items() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 13))
}

/// 8 to 262,144 tokens.
fn tokens() -> Histogram {
    Histogram::new(exponential_buckets(8.0, 2.0, 16))
}

fn ratio() -> Histogram {
    Histogram::new([0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0])
}

impl LaneFamilies {
    pub(crate) fn register(registry: &mut Registry) -> LaneFamilies {
        let families = LaneFamilies {
            bound: Arc::default(),
            queue_seconds: Family::new_with_constructor(seconds),
            batch_items: Family::new_with_constructor(items),
            batch_tokens: Family::new_with_constructor(tokens),
            padding_ratio: Family::new_with_constructor(ratio),
            batch_seconds: Family::new_with_constructor(seconds),
            device_seconds: Family::default(),
            fixed_seconds: Family::default(),
            token_seconds: Family::default(),
            waiting_items: Family::default(),
            finished_items: Family::default(),
            failed_items: Family::default(),
            abandoned_items: Family::default(),
            refusals: Family::default(),
        };
        let f = families.clone();
        registry.register("lane_queue_seconds", "Time an item waited for its batch", f.queue_seconds);
        registry.register("batch_items", "Items in a batch", f.batch_items);
        registry.register(
            "batch_tokens",
            "Tokens in a batch, padding counted (1 an item where there are none)",
            f.batch_tokens,
        );
        registry.register("batch_padding_ratio", "Share of a batch's tokens that were padding", f.padding_ratio);
        registry.register("batch_seconds", "Time the device took for a batch", f.batch_seconds);
        registry.register("device_seconds", "Time the device was taken", f.device_seconds);
        registry.register("batch_fixed_seconds", "Learned: what a batch costs however narrow it is", f.fixed_seconds);
        registry.register("batch_token_seconds", "Learned: what each token of a batch costs on top", f.token_seconds);
        registry.register("lane_waiting_items", "Items waiting for a batch now", f.waiting_items);
        registry.register("lane_finished_items", "Items answered", f.finished_items);
        registry.register("lane_failed_items", "Items the model failed on", f.failed_items);
        registry.register(
            "lane_abandoned_items",
            "Items dropped before the device saw them: their client had gone",
            f.abandoned_items,
        );
        registry.register("lane_refused_items", "Items refused, by reason", f.refusals);
        families
    }

    /// One lane less uses these labels; tells whether it was the last.
    pub(crate) fn unbind(&self, labels: &LaneLabels) -> bool {
        let mut bound = self.bound.lock();
        let left = bound.get(labels).copied().unwrap_or(1).saturating_sub(1);
        if left == 0 {
            bound.remove(labels);
        } else {
            bound.insert(labels.clone(), left);
        }
        left == 0
    }

    pub(crate) fn bind(&self, labels: &LaneLabels) -> LaneMetrics {
        *self.bound.lock().entry(labels.clone()).or_default() += 1;
        LaneMetrics {
            labels: labels.clone(),
            queue_seconds: self.queue_seconds.get_or_create(labels).clone(),
            batch_items: self.batch_items.get_or_create(labels).clone(),
            batch_tokens: self.batch_tokens.get_or_create(labels).clone(),
            padding_ratio: self.padding_ratio.get_or_create(labels).clone(),
            batch_seconds: self.batch_seconds.get_or_create(labels).clone(),
            device_seconds: self.device_seconds.get_or_create(labels).clone(),
            fixed_seconds: self.fixed_seconds.get_or_create(labels).clone(),
            token_seconds: self.token_seconds.get_or_create(labels).clone(),
            waiting_items: self.waiting_items.get_or_create(labels).clone(),
            finished_items: self.finished_items.get_or_create(labels).clone(),
            failed_items: self.failed_items.get_or_create(labels).clone(),
            abandoned_items: self.abandoned_items.get_or_create(labels).clone(),
            refusals: self.refusals.clone(),
        }
    }

    pub(crate) fn answered(&self, labels: &LaneLabels) -> u64 {
        self.finished_items.get(labels).map_or(0, |counter| counter.get())
    }

    pub(crate) fn forget(&self, labels: &LaneLabels) {
        for family in
            [&self.queue_seconds, &self.batch_items, &self.batch_tokens, &self.padding_ratio, &self.batch_seconds]
        {
            family.remove(labels);
        }
        for family in [&self.finished_items, &self.failed_items, &self.abandoned_items] {
            family.remove(labels);
        }
        self.device_seconds.remove(labels);
        self.fixed_seconds.remove(labels);
        self.token_seconds.remove(labels);
        self.waiting_items.remove(labels);
        for reason in REASONS {
            self.refusals.remove(&refusal(labels, reason));
        }
    }
}

/// Every reason a lane refuses an item for.
pub const REASONS: [&str; 6] = ["queue_items", "queue_bytes", "deadline", "late", "too_large", "closed"];

fn refusal(labels: &LaneLabels, reason: &'static str) -> RefusalLabels {
    RefusalLabels {
        model: labels.model.clone(),
        version: labels.version.clone(),
        profile: labels.profile.clone(),
        reason,
    }
}

/// The handle of one lane: its labels are bound.
#[derive(Clone)]
pub struct LaneMetrics {
    labels: LaneLabels,
    queue_seconds: Histogram,
    batch_items: Histogram,
    batch_tokens: Histogram,
    padding_ratio: Histogram,
    batch_seconds: Histogram,
    device_seconds: Counter<f64, AtomicU64>,
    fixed_seconds: Gauge<f64, AtomicU64>,
    token_seconds: Gauge<f64, AtomicU64>,
    waiting_items: Gauge,
    finished_items: Counter,
    failed_items: Counter,
    abandoned_items: Counter,
    refusals: Family<RefusalLabels, Counter>,
}

impl LaneMetrics {
    /// One batch ran: its items, its tokens with padding, how many of those were padding, and how
    /// long the device was taken.
    pub fn batch(&self, items: usize, tokens: usize, padding: usize, device_time: Duration) {
        self.batch_items.observe(items as f64);
        self.batch_tokens.observe(tokens as f64);
        self.padding_ratio.observe(if tokens == 0 { 0.0 } else { padding as f64 / tokens as f64 });
        self.batch_seconds.observe(device_time.as_secs_f64());
        self.device_seconds.inc_by(device_time.as_secs_f64());
    }

    /// What was learned of batch time: seconds a batch, and seconds a token on top.
    pub fn learned(&self, fixed_seconds: f64, token_seconds: f64) {
        self.fixed_seconds.set(fixed_seconds);
        self.token_seconds.set(token_seconds);
    }

    /// An item left the queue for a batch after waiting so long.
    pub fn waited(&self, wait: Duration) {
        self.queue_seconds.observe(wait.as_secs_f64());
    }

    /// So many items wait now.
    pub fn waiting(&self, items: usize) {
        self.waiting_items.set(i64::try_from(items).unwrap_or(i64::MAX));
    }

    /// So many items were answered.
    pub fn finished(&self, items: usize) {
        self.finished_items.inc_by(items as u64);
    }

    /// So many items failed.
    pub fn failed(&self, items: usize) {
        self.failed_items.inc_by(items as u64);
    }

    /// So many items were dropped because their client had gone.
    pub fn abandoned(&self, items: usize) {
        self.abandoned_items.inc_by(items as u64);
    }

    /// So many items were refused for this reason, one of [`REASONS`].
    pub fn refused(&self, reason: &'static str, items: usize) {
        self.refusals.get_or_create(&refusal(&self.labels, reason)).inc_by(items as u64);
    }
}
