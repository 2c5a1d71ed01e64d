//! What the project's own routes count: requests, times, steps, fallbacks, objectives.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    route: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    route: String,
    step: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    route: String,
    objective: &'static str,
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectiveLabels {
    route: String,
    objective: &'static str,
}

/// Routes by their names, which the project file chooses: clients cannot make series.
#[derive(Clone)]
pub struct RouteFamilies {
    requests: Family<OutcomeLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    step_seconds: Family<StepLabels, Histogram, fn() -> Histogram>,
    fallbacks: Family<StepLabels, Counter>,
    events: Family<EventLabels, Counter>,
    objectives: Family<ObjectiveLabels, Gauge<f64, AtomicU64>>,
    /// The routes that there are: what ends after its route is gone must not bring its series back.
    bound: Arc<RwLock<HashSet<String>>>,
}

fn seconds() -> Histogram {
    // 0.5 ms to a minute.
    Histogram::new(exponential_buckets(5e-4, 2.0, 18))
}

/// A promise to the users of a route.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// How long an answer may take.
    pub latency: Duration,
    /// Of how many answers that holds, 0 to 1.
    pub quantile: f64,
    /// How many requests may fail, 0 to 1.
    pub errors: f64,
}

/// How a request of a route ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteOutcome {
    /// It was answered.
    Answered,
    /// Its client went before the answer was there.
    Cancelled,
    /// It was refused for what it says, as this word has it.
    Refused(&'static str),
    /// It failed, as this word has it.
    Failed(&'static str),
}

impl RouteOutcome {
    fn as_str(self) -> &'static str {
        match self {
            RouteOutcome::Answered => "ok",
            RouteOutcome::Cancelled => "cancelled",
            RouteOutcome::Refused(why) | RouteOutcome::Failed(why) => why,
        }
    }
}

impl RouteFamilies {
    pub(crate) fn register(registry: &mut Registry) -> RouteFamilies {
        let families = RouteFamilies {
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            step_seconds: Family::new_with_constructor(seconds),
            fallbacks: Family::default(),
            events: Family::default(),
            objectives: Family::default(),
            bound: Arc::default(),
        };
        let f = families.clone();
        registry.register("route_requests", "Requests of the project's own routes, by outcome", f.requests);
        let help = "Time from a request's head to the end of its answer, of those that were answered";
        registry.register("route_duration_seconds", help, f.seconds);
        let help = "Time of each step, once what it reads was there";
        registry.register("route_step_duration_seconds", help, f.step_seconds);
        registry.register("route_fallbacks", "Steps that a fallback stood in for", f.fallbacks);
        let help = "Requests that kept (good) and broke (bad) an objective of their route";
        registry.register("route_slo_requests", help, f.events);
        let help = "The part of requests that has to keep an objective";
        registry.register("route_slo_objective_ratio", help, f.objectives);
        families
    }

    /// The handle of one route, with its steps and what is promised.
    #[must_use]
    pub fn bind(&self, route: &str, steps: &[&str], objective: Option<Objective>) -> RouteMetrics {
        let metrics = RouteMetrics {
            families: self.clone(),
            route: route.to_owned(),
            steps: steps.iter().map(|step| (*step).to_owned()).collect(),
            objective,
        };
        self.bound.write().insert(route.to_owned());
        // Series that are there before anything happens: a rate over them is 0, not unknown.
        drop(self.requests.get_or_create(&metrics.outcome("ok")));
        for (objective, ratio) in metrics.ratios() {
            self.objectives.get_or_create(&ObjectiveLabels { route: route.to_owned(), objective }).set(ratio);
            for event in ["good", "bad"] {
                drop(self.events.get_or_create(&metrics.event(objective, event)));
            }
        }
        metrics
    }
}

/// What one route counts.
#[derive(Clone)]
pub struct RouteMetrics {
    families: RouteFamilies,
    route: String,
    steps: Vec<String>,
    objective: Option<Objective>,
}

impl RouteMetrics {
    /// A request ended so, after `took`; `first` is when the client had its first text or the whole answer.
    pub fn ended(&self, outcome: RouteOutcome, took: Duration, first: Duration) {
        if self.is_gone() {
            return;
        }
        self.families.requests.get_or_create(&self.outcome(outcome.as_str())).inc();
        let answered = outcome == RouteOutcome::Answered;
        if answered {
            self.families.seconds.get_or_create(&RouteLabels { route: self.route.clone() }).observe(took.as_secs_f64());
        }
        // What the client has wrong, or gave up, keeps and breaks no promise.
        let failed = matches!(outcome, RouteOutcome::Failed(_));
        let Some(objective) = self.objective.filter(|_| answered || failed) else { return };
        let count = |objective, good: bool| {
            self.families.events.get_or_create(&self.event(objective, if good { "good" } else { "bad" })).inc();
        };
        count("errors", answered);
        if answered {
            count("latency", first <= objective.latency);
        }
    }

    /// A step ended after `took`.
    pub fn step(&self, step: &str, took: Duration) {
        if self.is_gone() {
            return;
        }
        self.families.step_seconds.get_or_create(&self.of_step(step)).observe(took.as_secs_f64());
    }

    /// A fallback stood in for a step.
    pub fn fell_back(&self, step: &str) {
        if self.is_gone() {
            return;
        }
        self.families.fallbacks.get_or_create(&self.of_step(step)).inc();
    }

    /// Whether the project has no route of this name any more. What ends after that is counted nowhere.
    fn is_gone(&self) -> bool {
        !self.families.bound.read().contains(&self.route)
    }

    /// The route is gone, and its series with it.
    pub fn forget(&self) {
        self.families.bound.write().remove(&self.route);
        let faults = [
            "ok",
            "cancelled",
            "invalid_request",
            "not_found",
            "conflict",
            "too_large",
            "rate_limited",
            "overloaded",
            "deadline_exceeded",
            "unsupported",
            "internal",
        ];
        for outcome in faults {
            self.families.requests.remove(&self.outcome(outcome));
        }
        self.families.seconds.remove(&RouteLabels { route: self.route.clone() });
        self.steps.iter().for_each(|step| self.forget_step(step));
        self.forget_objectives();
    }

    /// The route is `now` what it was not before: what it no longer counts goes.
    pub fn forget_but(&self, now: &RouteMetrics) {
        self.steps.iter().filter(|step| !now.steps.contains(step)).for_each(|step| self.forget_step(step));
        if now.objective.is_none() {
            self.forget_objectives();
        }
    }

    fn forget_step(&self, step: &str) {
        self.families.step_seconds.remove(&self.of_step(step));
        self.families.fallbacks.remove(&self.of_step(step));
    }

    fn forget_objectives(&self) {
        for objective in ["latency", "errors"] {
            self.families.objectives.remove(&ObjectiveLabels { route: self.route.clone(), objective });
            for event in ["good", "bad"] {
                self.families.events.remove(&self.event(objective, event));
            }
        }
    }

    fn ratios(&self) -> Vec<(&'static str, f64)> {
        let of = |objective: Objective| vec![("latency", objective.quantile), ("errors", 1.0 - objective.errors)];
        self.objective.map(of).unwrap_or_default()
    }

    fn outcome(&self, outcome: &'static str) -> OutcomeLabels {
        OutcomeLabels { route: self.route.clone(), outcome }
    }

    fn of_step(&self, step: &str) -> StepLabels {
        StepLabels { route: self.route.clone(), step: step.to_owned() }
    }

    fn event(&self, objective: &'static str, event: &'static str) -> EventLabels {
        EventLabels { route: self.route.clone(), objective, event }
    }
}
