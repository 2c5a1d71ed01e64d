//! Whose fault an error is, and whether trying again helps.

use std::time::Duration;

/// Who has to change something for the request to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The caller sent something that will never be accepted as it is (HTTP 400).
    Caller,
    /// The caller named something that is not here (HTTP 404).
    Missing,
    /// What the caller wants to make is there already (HTTP 409).
    Conflict,
    /// The request is larger than a limit allows (HTTP 413).
    TooLarge,
    /// The caller sends faster than it may (HTTP 429).
    Throttled,
    /// The server has more work than it can do in time, or is not ready yet (HTTP 503).
    Overload,
    /// The deadline passed before the answer was made (HTTP 504).
    Late,
    /// The request is fine, this server does not offer it (HTTP 501).
    Unsupported,
    /// Something broke on our side (HTTP 500).
    Ours,
}

impl Fault {
    /// The HTTP status of RFC 9110 that says this.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Fault::Caller => 400,
            Fault::Missing => 404,
            Fault::Conflict => 409,
            Fault::TooLarge => 413,
            Fault::Throttled => 429,
            Fault::Overload => 503,
            Fault::Late => 504,
            Fault::Unsupported => 501,
            Fault::Ours => 500,
        }
    }

    /// Whether the same request may succeed later, unchanged.
    #[must_use]
    pub const fn retry_helps(self) -> bool {
        matches!(self, Fault::Throttled | Fault::Overload | Fault::Late)
    }

    /// One word for logs, metrics and machine-readable error bodies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::Caller => "invalid_request",
            Fault::Missing => "not_found",
            Fault::Conflict => "conflict",
            Fault::TooLarge => "too_large",
            Fault::Throttled => "rate_limited",
            Fault::Overload => "overloaded",
            Fault::Late => "deadline_exceeded",
            Fault::Unsupported => "unsupported",
            Fault::Ours => "internal",
        }
    }
}

/// An error that knows whose fault it is.
///
/// The gateway turns any such error into each protocol's own shape, in one place. The `Display`
/// text of a blamed error reaches the client as it stands, so it names no path, host or buffer.
pub trait Blame: std::error::Error {
    /// Who has to change something.
    fn fault(&self) -> Fault;

    /// When to try again, where that can be computed.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}
