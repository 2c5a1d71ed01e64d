//! What one thread has seen: histograms and counts, merged when the run is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::LoadError;

/// Latencies are kept in microseconds up to a bit more than the longest timeout, to three digits.
const MICROS_MAX: u64 = 2 * 3600 * 1_000_000;
const DIGITS: u8 = 3;

/// The grain of the timeline; the report makes it coarser for long runs.
pub(crate) const SLOT: Duration = Duration::from_millis(100);

/// Why a request has no usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// A status that is neither success nor refusal.
    Status(u16),
    /// No whole answer within the timeout.
    Timeout,
    /// No connection could be opened.
    Connect,
    /// The server closed the connection before the answer was whole.
    Closed,
    /// Another error of the connection.
    Io,
    /// The answer is not HTTP/1.1.
    Protocol,
    /// The answer is longer than the limit.
    TooLong,
    /// The connection limit left none for this request: it was never sent.
    NoConnection,
}

impl Failure {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Status(status) => format!("status_{status}"),
            Self::Timeout => "timeout".to_owned(),
            Self::Connect => "connect".to_owned(),
            Self::Closed => "closed_by_server".to_owned(),
            Self::Io => "io".to_owned(),
            Self::Protocol => "protocol".to_owned(),
            Self::TooLong => "answer_too_long".to_owned(),
            Self::NoConnection => "no_connection".to_owned(),
        }
    }
}

/// How one request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Refused(u16),
    Failed(Failure),
}

/// The measured window and the deadline, the same for every thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
    pub(crate) deadline: Option<Duration>,
}

/// Answers within the window, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) ok: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
}

#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) window: Window,
    /// From the intended time.
    pub(crate) ok: Histogram<u64>,
    pub(crate) refused: Histogram<u64>,
    pub(crate) failed: Histogram<u64>,
    /// From the actual time of sending, of requests that ended well.
    pub(crate) service: Histogram<u64>,
    /// How much later than intended the generator itself was.
    pub(crate) lateness: Histogram<u64>,
    pub(crate) endings: BTreeMap<String, u64>,
    pub(crate) samples: BTreeMap<String, String>,
    pub(crate) ok_within_deadline: u64,
    /// Answers that came within the window, whenever their requests were sent.
    pub(crate) slots: Vec<Slot>,
    pub(crate) goodput_in_window: u64,
    pub(crate) last_answer: Option<Instant>,
    pub(crate) waited_for_connection: u64,
    pub(crate) connections_opened: u64,
    pub(crate) connections_peak: u64,
}

impl Recorder {
    pub(crate) fn new(window: Window) -> Result<Self, LoadError> {
        Ok(Self {
            window,
            ok: histogram()?,
            refused: histogram()?,
            failed: histogram()?,
            service: histogram()?,
            lateness: histogram()?,
            endings: BTreeMap::new(),
            samples: BTreeMap::new(),
            ok_within_deadline: 0,
            slots: Vec::new(),
            goodput_in_window: 0,
            last_answer: None,
            waited_for_connection: 0,
            connections_opened: 0,
            connections_peak: 0,
        })
    }

    pub(crate) fn late(&mut self, by: Duration) {
        self.lateness.saturating_record(micros(by));
    }

    /// Notes how a request ended. `measured` tells whether it was due within the window.
    pub(crate) fn ended(&mut self, measured: bool, intended: Instant, sent: Instant, done: Instant, outcome: Outcome) {
        let latency = done.saturating_duration_since(intended);
        let in_time = self.window.deadline.is_none_or(|deadline| latency <= deadline);
        self.answered(done, outcome, in_time);
        if !measured {
            return;
        }
        let micros_taken = micros(latency);
        match outcome {
            Outcome::Ok => {
                self.ok.saturating_record(micros_taken);
                self.service.saturating_record(micros(done.saturating_duration_since(sent)));
                self.ok_within_deadline += u64::from(in_time);
            }
            Outcome::Refused(status) => {
                self.refused.saturating_record(micros_taken);
                *self.endings.entry(format!("status_{status}")).or_default() += 1;
            }
            Outcome::Failed(failure) => {
                self.failed.saturating_record(micros_taken);
                *self.endings.entry(failure.name()).or_default() += 1;
            }
        }
    }

    /// Counts for throughput: an answer within the window to a request from before it counts, and
    /// one after the window does not, so that a steady state gives the steady rate.
    fn answered(&mut self, done: Instant, outcome: Outcome, in_time: bool) {
        if done < self.window.start || done > self.window.end {
            return;
        }
        self.last_answer = self.last_answer.max(Some(done));
        let index = (done - self.window.start).as_micros() / SLOT.as_micros();
        // At most 864,000 slots: a day of 100 ms.
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if index >= self.slots.len() {
            self.slots.resize(index + 1, Slot::default());
        }
        let slot = &mut self.slots[index];
        match outcome {
            Outcome::Ok => {
                slot.ok += 1;
                self.goodput_in_window += u64::from(in_time);
            }
            Outcome::Refused(_) => slot.refused += 1,
            Outcome::Failed(_) => slot.failed += 1,
        }
    }

    /// Keeps the first answer of each unexpected status.
    pub(crate) fn sample(&mut self, status: u16, body: &[u8]) {
        if self.samples.len() < 16 {
            self.samples
                .entry(format!("status_{status}"))
                .or_insert_with(|| String::from_utf8_lossy(body).into_owned());
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (mine, theirs) in [
            (&mut self.ok, &other.ok),
            (&mut self.refused, &other.refused),
            (&mut self.failed, &other.failed),
            (&mut self.service, &other.service),
            (&mut self.lateness, &other.lateness),
        ] {
            // Cannot fail: all histograms have the same bounds.
            let merged = mine.add(theirs);
            debug_assert!(merged.is_ok());
        }
        for (name, count) in other.endings {
            *self.endings.entry(name).or_default() += count;
        }
        for (name, sample) in other.samples {
            self.samples.entry(name).or_insert(sample);
        }
        if other.slots.len() > self.slots.len() {
            self.slots.resize(other.slots.len(), Slot::default());
        }
        for (mine, theirs) in self.slots.iter_mut().zip(other.slots) {
            mine.ok += theirs.ok;
            mine.refused += theirs.refused;
            mine.failed += theirs.failed;
        }
        self.ok_within_deadline += other.ok_within_deadline;
        self.goodput_in_window += other.goodput_in_window;
        self.last_answer = self.last_answer.max(other.last_answer);
        self.waited_for_connection += other.waited_for_connection;
        self.connections_opened += other.connections_opened;
        self.connections_peak += other.connections_peak;
    }
}

fn histogram() -> Result<Histogram<u64>, LoadError> {
    Histogram::new_with_bounds(1, MICROS_MAX, DIGITS)
        .map_err(|error| LoadError::System(std::io::Error::other(error.to_string())))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
