//! Why a request of a route, or a step of one, was refused or failed.

use std::time::Duration;

use halny_types::{Blame, Fault};
use thiserror::Error;

/// Why a route of the project file cannot be run. A project that was checked has none such.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the route {route:?} cannot be run: {wrong}")]
pub struct PlanError {
    /// Which route.
    pub route: String,
    /// What is wrong with it.
    pub wrong: String,
}

/// Why a request was refused before any step began.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct RequestError {
    /// The field, such as `tags[3]`; empty where the whole request is meant.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Blame for RequestError {
    fn fault(&self) -> Fault {
        Fault::Caller
    }
}

/// Why a step failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{message}")]
pub struct StepError {
    fault: Fault,
    message: String,
    retry_after: Option<Duration>,
}

impl StepError {
    /// A failure of that fault.
    pub fn new(fault: Fault, message: impl Into<String>) -> StepError {
        StepError { fault, message: message.into(), retry_after: None }
    }

    /// The same, saying when another try may do.
    #[must_use]
    pub fn with_retry(mut self, after: Option<Duration>) -> StepError {
        self.retry_after = after;
        self
    }
}

impl Blame for StepError {
    fn fault(&self) -> Fault {
        self.fault
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Why a request came to nothing: a step that it needs failed, and nothing stood in for it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the step {step:?}: {error}")]
pub struct RouteError {
    /// The step.
    pub step: String,
    /// Why it failed.
    pub error: StepError,
    /// Whether the request itself is at fault, so that no fallback hides it.
    pub of_request: bool,
}

impl Blame for RouteError {
    fn fault(&self) -> Fault {
        self.error.fault()
    }

    fn retry_after(&self) -> Option<Duration> {
        Blame::retry_after(&self.error)
    }
}
