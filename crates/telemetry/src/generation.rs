//! What a language model counts: tokens, times between them, cells; under Halny's names and vLLM's.
//!
//! The second set is there so that dashboards and autoscalers made for vLLM work as they are (names of
//! vLLM's "Production Metrics" page; `engine` is always `0`). What vLLM measures and Halny has no
//! notion of is left out.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::LaneLabels;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VllmLabels {
    model_name: String,
    engine: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    model: String,
    version: String,
    profile: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VllmFinishLabels {
    model_name: String,
    engine: &'static str,
    finished_reason: &'static str,
}

/// Why requests end, as [`GenerationMetrics::finished`] is told.
pub const FINISH_REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

/// Why requests are refused, as [`GenerationMetrics::refused`] is told.
pub const REFUSALS: [&str; 9] =
    ["queue_full", "wait", "too_long", "empty", "unknown_token", "late", "grammar", "failed", "closed"];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// 1 ms to 131 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-3, 2.0, 18))
}

/// 1 to 32,768 tokens.
fn tokens() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 2.0, 16))
}

/// One set of series, whatever its labels.
#[derive(Clone)]
struct Families<L: Clone + std::hash::Hash + Eq> {
    first_token_seconds: Histograms<L>,
    token_seconds: Histograms<L>,
    request_seconds: Histograms<L>,
    step_tokens: Histograms<L>,
    prompt_tokens: Family<L, Counter>,
    written_tokens: Family<L, Counter>,
    asked_prefix_tokens: Family<L, Counter>,
    known_prefix_tokens: Family<L, Counter>,
    preempted_requests: Family<L, Counter>,
    running_requests: Family<L, Gauge>,
    waiting_requests: Family<L, Gauge>,
    cells_ratio: Family<L, Gauge<f64, AtomicU64>>,
}

impl<L: Clone + std::hash::Hash + Eq> Default for Families<L> {
    fn default() -> Families<L> {
        Families {
            first_token_seconds: Family::new_with_constructor(seconds),
            token_seconds: Family::new_with_constructor(seconds),
            request_seconds: Family::new_with_constructor(seconds),
            step_tokens: Family::new_with_constructor(tokens),
            prompt_tokens: Family::default(),
            written_tokens: Family::default(),
            asked_prefix_tokens: Family::default(),
            known_prefix_tokens: Family::default(),
            preempted_requests: Family::default(),
            running_requests: Family::default(),
            waiting_requests: Family::default(),
            cells_ratio: Family::default(),
        }
    }
}

/// The handles of one set of series.
#[derive(Clone)]
struct Series {
    first_token_seconds: Histogram,
    token_seconds: Histogram,
    request_seconds: Histogram,
    step_tokens: Histogram,
    prompt_tokens: Counter,
    written_tokens: Counter,
    asked_prefix_tokens: Counter,
    known_prefix_tokens: Counter,
    preempted_requests: Counter,
    running_requests: Gauge,
    waiting_requests: Gauge,
    cells_ratio: Gauge<f64, AtomicU64>,
}

impl<L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static> Families<L> {
    fn bind(&self, labels: &L) -> Series {
        Series {
            first_token_seconds: self.first_token_seconds.get_or_create(labels).clone(),
            token_seconds: self.token_seconds.get_or_create(labels).clone(),
            request_seconds: self.request_seconds.get_or_create(labels).clone(),
            step_tokens: self.step_tokens.get_or_create(labels).clone(),
            prompt_tokens: self.prompt_tokens.get_or_create(labels).clone(),
            written_tokens: self.written_tokens.get_or_create(labels).clone(),
            asked_prefix_tokens: self.asked_prefix_tokens.get_or_create(labels).clone(),
            known_prefix_tokens: self.known_prefix_tokens.get_or_create(labels).clone(),
            preempted_requests: self.preempted_requests.get_or_create(labels).clone(),
            running_requests: self.running_requests.get_or_create(labels).clone(),
            waiting_requests: self.waiting_requests.get_or_create(labels).clone(),
            cells_ratio: self.cells_ratio.get_or_create(labels).clone(),
        }
    }

    fn forget(&self, labels: &L) {
        for family in [&self.first_token_seconds, &self.token_seconds, &self.request_seconds, &self.step_tokens] {
            family.remove(labels);
        }
        for family in [
            &self.prompt_tokens,
            &self.written_tokens,
            &self.asked_prefix_tokens,
            &self.known_prefix_tokens,
            &self.preempted_requests,
        ] {
            family.remove(labels);
        }
        self.running_requests.remove(labels);
        self.waiting_requests.remove(labels);
        self.cells_ratio.remove(labels);
    }

    /// Names in the order of the fields, each with its help.
    fn register(&self, registry: &mut Registry, names: [(&'static str, &'static str); 12]) {
        let f = self.clone();
        let [first, token, request, step, prompt, written, asked, known, preempted, running, waiting, cells] = names;
        registry.register(first.0, first.1, f.first_token_seconds);
        registry.register(token.0, token.1, f.token_seconds);
        registry.register(request.0, request.1, f.request_seconds);
        registry.register(step.0, step.1, f.step_tokens);
        registry.register(prompt.0, prompt.1, f.prompt_tokens);
        registry.register(written.0, written.1, f.written_tokens);
        registry.register(asked.0, asked.1, f.asked_prefix_tokens);
        registry.register(known.0, known.1, f.known_prefix_tokens);
        registry.register(preempted.0, preempted.1, f.preempted_requests);
        registry.register(running.0, running.1, f.running_requests);
        registry.register(waiting.0, waiting.1, f.waiting_requests);
        registry.register(cells.0, cells.1, f.cells_ratio);
    }
}

const OURS: [(&str, &str); 12] = [
    ("generation_first_token_seconds", "Time from arrival to the first token"),
    ("generation_token_seconds", "Time from one token of a request to its next"),
    ("generation_request_seconds", "Time from arrival to the last token"),
    ("generation_step_tokens", "Tokens computed in one step"),
    ("generation_prompt_tokens", "Tokens of admitted prompts"),
    ("generation_written_tokens", "Tokens written"),
    ("generation_asked_prefix_tokens", "Prompt tokens looked up among remembered prefixes"),
    ("generation_known_prefix_tokens", "Prompt tokens found there, and not computed again"),
    ("generation_preempted_requests", "Times a request gave its cells up to another"),
    ("generation_running_requests", "Requests that hold cells now"),
    ("generation_waiting_requests", "Requests that wait to be admitted now"),
    ("generation_cells_ratio", "Share of the KV cells that running requests hold now"),
];

const VLLM: [(&str, &str); 12] = [
    ("vllm:time_to_first_token_seconds", "Time from arrival to the first token"),
    ("vllm:inter_token_latency_seconds", "Time from one token of a request to its next"),
    ("vllm:e2e_request_latency_seconds", "Time from arrival to the last token"),
    ("vllm:iteration_tokens_total", "Tokens computed in one step"),
    ("vllm:prompt_tokens", "Tokens of admitted prompts"),
    ("vllm:generation_tokens", "Tokens written"),
    ("vllm:prefix_cache_queries", "Prompt tokens looked up among remembered prefixes"),
    ("vllm:prefix_cache_hits", "Prompt tokens found there"),
    ("vllm:num_preemptions", "Times a request gave its cells up to another"),
    ("vllm:num_requests_running", "Requests that hold cells now"),
    ("vllm:num_requests_waiting", "Requests that wait to be admitted now"),
    ("vllm:kv_cache_usage_perc", "Share of the KV cells that running requests hold now; 1 is all"),
];

#[derive(Clone)]
pub(crate) struct GenerationFamilies {
    bound: Arc<Mutex<HashMap<LaneLabels, usize>>>,
    ours: Families<LaneLabels>,
    vllm: Families<VllmLabels>,
    device_seconds: Family<LaneLabels, Counter<f64, AtomicU64>>,
    finished: Family<ReasonLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    succeeded: Family<VllmFinishLabels, Counter>,
}

impl GenerationFamilies {
    /// `registry` has Halny's prefix, `foreign` none.
    pub(crate) fn register(registry: &mut Registry, foreign: &mut Registry) -> GenerationFamilies {
        let families = GenerationFamilies {
            bound: Arc::default(),
            ours: Families::default(),
            vllm: Families::default(),
            device_seconds: Family::default(),
            finished: Family::default(),
            refused: Family::default(),
            succeeded: Family::default(),
        };
        families.ours.register(registry, OURS);
        let f = families.clone();
        registry.register("generation_device_seconds", "Time the device took for steps", f.device_seconds);
        registry.register("generation_finished_requests", "Requests that ended, by reason", f.finished);
        registry.register("generation_refused_requests", "Requests refused or failed, by reason", f.refused);
        families.vllm.register(foreign, VLLM);
        foreign.register("vllm:request_success", "Requests that ended, by reason", f.succeeded);
        families
    }

    pub(crate) fn bind(&self, labels: &LaneLabels) -> GenerationMetrics {
        *self.bound.lock().entry(labels.clone()).or_default() += 1;
        GenerationMetrics {
            labels: labels.clone(),
            series: [self.ours.bind(labels), self.vllm.bind(&vllm(labels))],
            device_seconds: self.device_seconds.get_or_create(labels).clone(),
            families: self.clone(),
        }
    }

    /// One lane less uses these labels; with the last its series go.
    fn unbind(&self, labels: &LaneLabels) {
        let mut bound = self.bound.lock();
        let left = bound.get(labels).copied().unwrap_or(1).saturating_sub(1);
        if left > 0 {
            bound.insert(labels.clone(), left);
            return;
        }
        bound.remove(labels);
        self.ours.forget(labels);
        self.device_seconds.remove(labels);
        for reason in FINISH_REASONS {
            self.finished.remove(&because(labels, reason));
        }
        for reason in REFUSALS {
            self.refused.remove(&because(labels, reason));
        }
        // vLLM's series know neither versions nor profiles: they go with the model.
        if !bound.keys().any(|other| other.model == labels.model) {
            self.vllm.forget(&vllm(labels));
            for reason in FINISH_REASONS {
                self.succeeded.remove(&ended(labels, reason));
            }
        }
    }
}

fn vllm(labels: &LaneLabels) -> VllmLabels {
    VllmLabels { model_name: labels.model.clone(), engine: "0" }
}

fn ended(labels: &LaneLabels, reason: &'static str) -> VllmFinishLabels {
    VllmFinishLabels { model_name: labels.model.clone(), engine: "0", finished_reason: reason }
}

fn because(labels: &LaneLabels, reason: &'static str) -> ReasonLabels {
    ReasonLabels {
        model: labels.model.clone(),
        version: labels.version.clone(),
        profile: labels.profile.clone(),
        reason,
    }
}

/// The handle of one language model's lane. Dropping the last of these labels forgets their series.
pub struct GenerationMetrics {
    labels: LaneLabels,
    series: [Series; 2],
    device_seconds: Counter<f64, AtomicU64>,
    families: GenerationFamilies,
}

impl Drop for GenerationMetrics {
    fn drop(&mut self) {
        self.families.unbind(&self.labels);
    }
}

impl GenerationMetrics {
    /// A step computed so many tokens, `written` of them for requests that write.
    pub fn stepped(&self, tokens: usize, written: usize, device_time: Duration) {
        self.device_seconds.inc_by(device_time.as_secs_f64());
        for series in &self.series {
            series.step_tokens.observe(tokens as f64);
            series.written_tokens.inc_by(written as u64);
        }
    }

    /// A prompt of so many tokens was admitted, so many of which were known.
    pub fn admitted(&self, prompt: usize, known: usize) {
        for series in &self.series {
            series.prompt_tokens.inc_by(prompt as u64);
            series.asked_prefix_tokens.inc_by(prompt as u64);
            series.known_prefix_tokens.inc_by(known as u64);
        }
    }

    /// A request got its first token so long after it arrived.
    pub fn first_token(&self, took: Duration) {
        for series in &self.series {
            series.first_token_seconds.observe(took.as_secs_f64());
        }
    }

    /// A request got another token so long after the one before.
    pub fn next_token(&self, took: Duration) {
        for series in &self.series {
            series.token_seconds.observe(took.as_secs_f64());
        }
    }

    /// So many requests gave way.
    pub fn preempted(&self, requests: usize) {
        for series in &self.series {
            series.preempted_requests.inc_by(requests as u64);
        }
    }

    /// What holds now.
    pub fn holds(&self, running: usize, waiting: usize, cells_ratio: f64) {
        for series in &self.series {
            series.running_requests.set(i64::try_from(running).unwrap_or(i64::MAX));
            series.waiting_requests.set(i64::try_from(waiting).unwrap_or(i64::MAX));
            series.cells_ratio.set(cells_ratio);
        }
    }

    /// A request ended for this reason, one of [`FINISH_REASONS`], so long after it arrived.
    pub fn finished(&self, reason: &'static str, took: Duration) {
        for series in &self.series {
            series.request_seconds.observe(took.as_secs_f64());
        }
        self.families.finished.get_or_create(&because(&self.labels, reason)).inc();
        self.families.succeeded.get_or_create(&ended(&self.labels, reason)).inc();
    }

    /// A request was refused, or failed, for this reason, one of [`REFUSALS`].
    pub fn refused(&self, reason: &'static str) {
        self.families.refused.get_or_create(&because(&self.labels, reason)).inc();
    }
}
