//! What is shown while a run goes on.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::Options;

/// Counts since the run began, the warm-up included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Time since the run began.
    pub elapsed: Duration,
    /// Requests answered with success.
    pub ok: u64,
    /// Requests refused with 429 or 503.
    pub refused: u64,
    /// Requests that failed in another way.
    pub failed: u64,
}

/// A progress bar on standard error for [`crate::run`]; it shows nothing where that is no terminal.
pub fn terminal_bar(options: &Options) -> impl FnMut(&Progress) + use<> {
    let total = options.warm_up + options.duration;
    let count = options.count;
    let bar = ProgressBar::new(1000);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
        bar.set_style(style);
    }
    let mut last = Progress::default();
    move |now| {
        let seconds = now.elapsed.saturating_sub(last.elapsed).as_secs_f64();
        let rate = if seconds > 0.0 { (now.ok - last.ok) as f64 / seconds } else { 0.0 };
        last = *now;
        let by_time = now.elapsed.as_secs_f64() / total.as_secs_f64();
        let answered = now.ok + now.refused + now.failed;
        let by_count = count.map_or(0.0, |count| answered as f64 / count as f64);
        // From 0 to 1000.
        bar.set_position((by_time.max(by_count).min(1.0) * 1000.0) as u64);
        bar.set_message(format!(
            "{:.1} of {:.0} s, {rate:.0} ok/s, {} ok, {} refused, {} failed",
            now.elapsed.as_secs_f64(),
            total.as_secs_f64(),
            now.ok,
            now.refused,
            now.failed,
        ));
    }
}
