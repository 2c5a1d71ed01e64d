//! The result of a run, as one JSON object.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::recorder::{Recorder, SLOT, Slot};
use crate::{Arrivals, Load, Options};

/// The version of the report's shape. Fields may be added under the same number.
pub const SCHEMA: &str = "halny-load/1";

/// A generator this late at its 99th percentile is part of what it measured.
const LATE_MS: f64 = 5.0;

/// Points of the timeline at most.
const TIMELINE_POINTS: usize = 240;

/// What was measured, with units in the names.
///
/// *Measured* requests were due within the window. Percentiles and counts are of those, however
/// late their answers came. Rates (`..._per_s`) are of the answers that came within the window, so
/// that a backlog answered after the end is not taken for throughput.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// What was driven.
    pub target: TargetReport,
    /// How it was driven.
    pub load: LoadReport,
    /// Length of the measured window.
    pub window_s: f64,
    /// The user ended the run.
    pub interrupted: bool,
    /// Measured requests that ended: `ok + refused + failed`.
    pub requests: u64,
    /// Answered with success.
    pub ok: u64,
    /// Answered with 429 or 503.
    pub refused: u64,
    /// Ended in any other way.
    pub failed: u64,
    /// Refusals and failures by kind: `status_NNN`, `timeout`, `connect`, `closed_by_server`, `io`,
    /// `protocol`, `answer_too_long`, `no_connection` (never sent: the connection limit).
    pub errors: BTreeMap<String, u64>,
    /// The beginning of the first answer of each unexpected status.
    pub error_samples: BTreeMap<String, String>,
    /// The deadline of goodput, where one was given.
    pub deadline_ms: Option<f64>,
    /// Successes within the deadline; all of them where none was given.
    pub ok_within_deadline: u64,
    /// Successes a second.
    pub requests_per_s: f64,
    /// Texts of those a second.
    pub texts_per_s: f64,
    /// Successes within the deadline a second.
    pub goodput_requests_per_s: f64,
    /// Texts of those a second.
    pub goodput_texts_per_s: f64,
    /// Of successes, from the intended time to the last byte.
    pub latency_ms: Option<Percentiles>,
    /// Of successes, from the actual time of sending: what a generator that forgives stalls sees.
    pub service_ms: Option<Percentiles>,
    /// Of refusals, from the intended time.
    pub refused_latency_ms: Option<Percentiles>,
    /// Of failures, from the intended time.
    pub failed_latency_ms: Option<Percentiles>,
    /// The latency of successes over all percentiles.
    pub latency_curve: Vec<CurvePoint>,
    /// Answers a second over the window.
    pub timeline: Vec<TimelinePoint>,
    /// How the generator itself did.
    pub generator: GeneratorReport,
    /// The server's process, where it was sampled.
    pub server: Option<ServerReport>,
    /// The idle connections, where there were any.
    pub idle: Option<IdleReport>,
}

/// What was driven.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    /// The server as given.
    pub url: String,
    /// The path of the requests.
    pub path: String,
    /// `openai`, `oip-json`, `oip-binary` or `template`.
    pub api: String,
}

/// How it was driven.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// `closed`, `open-fixed` or `open-poisson`.
    pub kind: String,
    /// Connections, at most in the open loop.
    pub connections: usize,
    /// Requests a second asked for, in the open loop.
    pub rate_per_s: Option<f64>,
    /// Texts in each request.
    pub texts_per_request: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// The seed.
    pub seed: u64,
    /// The warm-up before the window.
    pub warm_up_s: f64,
    /// The timeout of a request.
    pub timeout_ms: f64,
}

/// A distribution of durations; the field that holds it names the unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "percentiles are named by their numbers")]
pub struct Percentiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// One point of the latency curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Between 0 and 100.
    pub percentile: f64,
    /// The latency that this share of requests did not exceed.
    pub latency_ms: f64,
}

/// One stretch of the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimelinePoint {
    /// Where the stretch begins, from the start of the window.
    pub at_s: f64,
    /// Successes a second.
    pub ok_per_s: f64,
    /// Refusals a second.
    pub refused_per_s: f64,
    /// Failures a second.
    pub failed_per_s: f64,
}

/// How the generator itself did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeneratorReport {
    /// Every request left when it was due, or close enough not to matter.
    pub kept_up: bool,
    /// What the reader of the figures has to know, in sentences.
    pub notes: Vec<String>,
    /// Later than intended, in the open loop.
    pub lateness_ms: Option<Percentiles>,
    /// Connections opened over the run.
    pub connections_opened: u64,
    /// Connections in use together at most.
    pub connections_peak: u64,
    /// Measured requests that waited because the connection limit was reached.
    pub waited_for_connection: u64,
    /// Processor time of this process in the window.
    pub cpu_s: Option<f64>,
    /// The same, for each answer in the window.
    pub cpu_us_per_request: Option<f64>,
}

/// The server's process over the window.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ServerReport {
    /// User and system time.
    pub cpu_s: Option<f64>,
    /// The same for every 1,000 texts answered with success in the window.
    pub cpu_s_per_1000_texts: Option<f64>,
    /// Least resident memory seen.
    pub rss_min_bytes: Option<u64>,
    /// Most resident memory seen.
    pub rss_max_bytes: Option<u64>,
    /// Times it was looked at.
    pub samples: u64,
    /// The process ended during the run.
    pub lost: bool,
}

/// The idle connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleReport {
    /// Asked for.
    pub connections_wanted: usize,
    /// Opened before the run.
    pub connections_opened: usize,
    /// Still open after it.
    pub connections_open_at_end: usize,
}

/// What a run hands over.
pub(crate) struct Measured {
    pub(crate) path: String,
    pub(crate) window: Duration,
    pub(crate) interrupted: bool,
    pub(crate) client_cpu: Option<Duration>,
    pub(crate) server: Option<ServerReport>,
    pub(crate) idle: Option<IdleReport>,
    pub(crate) recorder: Recorder,
}

impl Report {
    pub(crate) fn new(options: &Options, measured: Measured) -> Self {
        let generator = GeneratorReport::new(options, &measured);
        let Measured { path, window, interrupted, server, idle, recorder, .. } = measured;
        let window_s = rounded(window.as_secs_f64());
        let per_s = |count: u64| if window_s > 0.0 { rounded(count as f64 / window_s) } else { 0.0 };
        let requests_per_s = per_s(recorder.slots.iter().map(|slot| slot.ok).sum());
        let goodput_requests_per_s = per_s(recorder.goodput_in_window);
        let texts = options.texts_per_request as f64;
        let (ok, refused) = (recorder.ok.len(), recorder.refused.len());
        let failed = recorder.failed.len();
        Self {
            schema: SCHEMA.to_owned(),
            target: TargetReport { url: options.url.clone(), path, api: options.api.name().to_owned() },
            load: LoadReport::new(options),
            window_s,
            interrupted,
            requests: ok + refused + failed,
            ok,
            refused,
            failed,
            deadline_ms: options.deadline.map(|deadline| deadline.as_secs_f64() * 1e3),
            ok_within_deadline: recorder.ok_within_deadline,
            requests_per_s,
            texts_per_s: rounded(requests_per_s * texts),
            goodput_requests_per_s,
            goodput_texts_per_s: rounded(goodput_requests_per_s * texts),
            latency_ms: Percentiles::of(&recorder.ok),
            service_ms: Percentiles::of(&recorder.service),
            refused_latency_ms: Percentiles::of(&recorder.refused),
            failed_latency_ms: Percentiles::of(&recorder.failed),
            latency_curve: curve(&recorder.ok),
            timeline: timeline(&recorder.slots, window_s),
            errors: recorder.endings,
            error_samples: recorder.samples,
            generator,
            server,
            idle,
        }
    }
}

impl LoadReport {
    fn new(options: &Options) -> Self {
        let (kind, rate_per_s) = match options.load {
            Load::Closed { .. } => ("closed", None),
            Load::Open { rate_per_s, arrivals: Arrivals::Fixed, .. } => ("open-fixed", Some(rate_per_s)),
            Load::Open { rate_per_s, arrivals: Arrivals::Poisson, .. } => ("open-poisson", Some(rate_per_s)),
        };
        Self {
            kind: kind.to_owned(),
            connections: options.connections_max(),
            rate_per_s,
            texts_per_request: options.texts_per_request,
            threads: options.threads,
            seed: options.seed,
            warm_up_s: options.warm_up.as_secs_f64(),
            timeout_ms: options.timeout.as_secs_f64() * 1e3,
        }
    }
}

impl GeneratorReport {
    fn new(options: &Options, measured: &Measured) -> Self {
        let recorder = &measured.recorder;
        let lateness_ms = Percentiles::of(&recorder.lateness);
        let mut notes = Vec::new();
        if let Some(late) = lateness_ms.filter(|late| late.p99 > LATE_MS) {
            notes.push(format!(
                "the generator was late (P99 {:.1} ms): part of the latencies is its own; lower the rate, give it threads, or run it on another machine",
                late.p99
            ));
        }
        if recorder.waited_for_connection > 0 {
            notes.push(format!(
                "{} requests waited because all {} connections were in use; the wait is in their latency",
                recorder.waited_for_connection,
                options.connections_max()
            ));
        }
        if measured.window.is_zero() {
            notes.push("no answer came within the window, so there are no rates".to_owned());
        }
        if matches!(options.load, Load::Closed { .. }) {
            notes.push("closed loop: a stalled server is asked less, so its stalls weigh less in the percentiles; use the open loop for latency".to_owned());
        }
        let cpu_s = measured.client_cpu.map(|cpu| rounded(cpu.as_secs_f64()));
        let answers: u64 = recorder.slots.iter().map(|slot| slot.ok + slot.refused + slot.failed).sum();
        Self {
            kept_up: lateness_ms.is_none_or(|late| late.p99 <= LATE_MS)
                && recorder.waited_for_connection == 0
                && !recorder.endings.contains_key("no_connection"),
            notes,
            lateness_ms,
            connections_opened: recorder.connections_opened,
            connections_peak: recorder.connections_peak,
            waited_for_connection: recorder.waited_for_connection,
            cpu_s,
            cpu_us_per_request: cpu_s.filter(|_| answers > 0).map(|cpu_s| rounded(cpu_s * 1e6 / answers as f64)),
        }
    }
}

impl Percentiles {
    /// From a histogram of microseconds; `None` where it is empty.
    fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile: f64| millis(histogram.value_at_quantile(quantile).min(histogram.max()));
        (!histogram.is_empty()).then(|| Self {
            mean: rounded(histogram.mean() / 1e3),
            p50: at(0.50),
            p90: at(0.90),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: millis(histogram.max()),
        })
    }
}

/// To six decimals, which is below every clock used here, and short enough that the number read
/// back from JSON is the number written.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn curve(histogram: &Histogram<u64>) -> Vec<CurvePoint> {
    if histogram.is_empty() {
        return Vec::new();
    }
    // Ten points for every nine, up to the last nine that the number of requests supports.
    let nines = (histogram.len() as f64).log10().clamp(1.0, 5.0);
    let steps = (nines * 10.0) as i32;
    (0..=steps)
        .map(|step| 1.0 - 10f64.powf(-f64::from(step) / 10.0))
        .chain([1.0])
        .map(|quantile| CurvePoint {
            percentile: rounded(quantile * 100.0),
            latency_ms: millis(histogram.value_at_quantile(quantile).min(histogram.max())),
        })
        .collect()
}

fn timeline(slots: &[Slot], window_s: f64) -> Vec<TimelinePoint> {
    let whole = (window_s / SLOT.as_secs_f64()).ceil() as usize;
    let width = whole.div_ceil(TIMELINE_POINTS).max(1);
    let points = whole.div_ceil(width);
    let at = |index: usize| rounded((index * width) as f64 * SLOT.as_secs_f64());
    (0..points)
        .map(|index| {
            let from = (index * width).min(slots.len());
            let part = &slots[from..(from + width).min(slots.len())];
            // The last stretch may be shorter than the others.
            let length_s = (window_s - at(index)).min(width as f64 * SLOT.as_secs_f64());
            let per_s = |count: fn(&Slot) -> u64| {
                let count = part.iter().map(count).sum::<u64>() as f64;
                if length_s > 0.0 { rounded(count / length_s) } else { 0.0 }
            };
            TimelinePoint {
                at_s: at(index),
                ok_per_s: per_s(|slot| slot.ok),
                refused_per_s: per_s(|slot| slot.refused),
                failed_per_s: per_s(|slot| slot.failed),
            }
        })
        .collect()
}
