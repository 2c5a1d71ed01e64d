//! What each step of a request took, and how it ended.

use std::time::Duration;

use halny_types::Fault;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is at work, or was when the request was given up.
    Running,
    /// It gave what it gives.
    Done,
    /// It failed, and its fallback stands in for it.
    Fallback,
    /// It failed.
    Failed(Fault),
}

impl Outcome {
    /// One word for metrics and traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Running => "running",
            Outcome::Done => "ok",
            Outcome::Fallback => "fallback",
            Outcome::Failed(fault) => fault.as_str(),
        }
    }
}

/// A step that began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepTrace {
    /// Its place in the route.
    pub step: usize,
    /// When it began, after the request did: what it reads was there by then.
    pub began: Duration,
    /// When it ended, after the request began.
    pub ended: Option<Duration>,
    /// How it ended.
    pub outcome: Outcome,
}

/// The steps of a request in the order in which they began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Those that began; one whose needs were never met is not there unless its fallback was used.
    pub steps: Vec<StepTrace>,
}

impl Trace {
    pub(crate) fn began(&mut self, step: usize, now: Duration) {
        self.steps.push(StepTrace { step, began: now, ended: None, outcome: Outcome::Running });
    }

    pub(crate) fn ended(&mut self, step: usize, now: Duration, outcome: Outcome) {
        match self.steps.iter_mut().find(|trace| trace.step == step) {
            Some(trace) => {
                trace.ended = trace.ended.or(Some(now));
                trace.outcome = outcome;
            }
            None => self.steps.push(StepTrace { step, began: now, ended: Some(now), outcome }),
        }
    }

    /// The steps whose fallbacks were used.
    pub fn fallbacks(&self) -> impl Iterator<Item = usize> + '_ {
        self.steps.iter().filter(|trace| trace.outcome == Outcome::Fallback).map(|trace| trace.step)
    }
}
