//! How far a fetch has come, for whoever shows it.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use parking_lot::Mutex;

/// What is being done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// It is being downloaded.
    Download,
    /// Its SHA-256 is being computed.
    Hash,
}

/// Told how a fetch goes on. Calls for different files may interleave; each file's come in order:
/// one `started`, any number of `advanced`, one `finished` (which is missing if the fetch fails).
pub trait Progress: Send + Sync {
    /// A file's step begins, with `done_bytes` of `total_bytes` already there. A download that
    /// breaks off and resumes starts anew, with what it kept as `done_bytes`.
    fn started(&self, step: Step, file: &str, done_bytes: u64, total_bytes: u64);
    /// `bytes` more are done.
    fn advanced(&self, step: Step, file: &str, bytes: u64);
    /// The step is done.
    fn finished(&self, step: Step, file: &str);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn started(&self, _: Step, _: &str, _: u64, _: u64) {}
    fn advanced(&self, _: Step, _: &str, _: u64) {}
    fn finished(&self, _: Step, _: &str) {}
}

/// Bars on the standard error stream, one a file; nothing where that is not a terminal.
///
/// Files below 1 MiB are done before an eye could follow and get no bar.
#[derive(Debug, Default)]
pub struct Bars {
    all: MultiProgress,
    open: Mutex<HashMap<(Step, String), ProgressBar>>,
}

const SMALLEST_BAR_BYTES: u64 = 1 << 20;

impl Bars {
    /// No bars yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn with_open<T>(&self, f: impl FnOnce(&mut HashMap<(Step, String), ProgressBar>) -> T) -> T {
        f(&mut self.open.lock())
    }
}

impl Progress for Bars {
    fn started(&self, step: Step, file: &str, done_bytes: u64, total_bytes: u64) {
        if total_bytes < SMALLEST_BAR_BYTES {
            return;
        }
        let verb = match step {
            Step::Download => "fetching",
            Step::Hash => "hashing",
        };
        let style =
            ProgressStyle::with_template("{prefix:>8} {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.all.add(ProgressBar::new(total_bytes).with_style(style));
        bar.set_prefix(verb);
        bar.set_message(file.to_owned());
        bar.set_position(done_bytes);
        bar.reset_eta();
        let replaced = self.with_open(|open| open.insert((step, file.to_owned()), bar));
        if let Some(replaced) = replaced {
            replaced.finish_and_clear();
        }
    }

    fn advanced(&self, step: Step, file: &str, bytes: u64) {
        self.with_open(|open| {
            if let Some(bar) = open.get(&(step, file.to_owned())) {
                bar.inc(bytes);
            }
        });
    }

    fn finished(&self, step: Step, file: &str) {
        if let Some(bar) = self.with_open(|open| open.remove(&(step, file.to_owned()))) {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_bar_is_forgotten() {
        let bars = Bars::new();
        bars.started(Step::Download, "model.onnx", 0, SMALLEST_BAR_BYTES);
        bars.advanced(Step::Download, "model.onnx", 10);
        bars.started(Step::Download, "model.onnx", 10, SMALLEST_BAR_BYTES);
        bars.started(Step::Download, "config.json", 0, 10);
        assert_eq!(bars.with_open(|open| open.len()), 1);
        bars.finished(Step::Download, "model.onnx");
        assert_eq!(bars.with_open(|open| open.len()), 0);
    }
}
