//! Logs: for people on a terminal, as JSON for machines.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;

use halny_types::guard::is_guarded;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging to standard error. `filter` is in the syntax of `RUST_LOG`; that variable, where
/// set, wins. Panics are logged too, with a backtrace where `RUST_BACKTRACE` asks for one. A second call
/// does nothing: the first one's choice stays.
pub fn init(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_timer(SystemTime)
        .with_ansi(std::io::stderr().is_terminal());
    let begun = match format {
        LogFormat::Human => builder.with_target(false).compact().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    if begun.is_ok() {
        std::panic::set_hook(Box::new(panicked));
    }
}

/// Logs a panic. One within guarded work is whoever sent the bytes, and told to them.
fn panicked(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a value that is no text");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    if is_guarded() {
        tracing::debug!(location, "what was read made its reader panic: {message}");
        return;
    }
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    let current = std::thread::current();
    tracing::error!(location, thread = current.name(), backtrace, "a thread panicked: {message}");
}
