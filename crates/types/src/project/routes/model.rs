//! A route as the project file writes it. The docs become the descriptions in the JSON Schema.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Field, Step};
use crate::RouteName;

/// The most routes in one project.
pub const ROUTES_MAX: usize = 256;
/// The most steps in one route.
pub const STEPS_MAX: usize = 32;
/// The most fields of a request, and of an answer.
pub(super) const FIELDS_MAX: usize = 64;
/// The time a request of a route has unless the route says otherwise.
const DEADLINE_MS: u64 = 30_000;

/// A path of the project's own, and how it is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its name, in metrics, traces and the list of routes.
    pub name: RouteName,
    /// Where it is served, by POST.
    #[schemars(length(min = 2, max = 256), extend("examples" = ["/ask", "/shop/search"]))]
    pub path: String,
    /// What it is for, in its description for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_000))]
    pub description: Option<String>,
    /// The time a request has, unless it asks for less; every step gets what is left of it.
    #[serde(default = "deadline_ms")]
    #[schemars(range(min = 1, max = 3_600_000))]
    pub deadline_ms: u64,
    /// What its users are promised; metrics count how often it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<Slo>,
    /// Whether a request may ask for its answer as events, with text as it is written (`"stream": true`).
    /// By default, where the answer has a field that is the text of a `generate` step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// The fields of a request. Others are refused.
    #[serde(default)]
    pub request: BTreeMap<String, Field>,
    /// What is done. A step begins when all that it reads is there; the order in the file means nothing.
    #[schemars(length(min = 1, max = 32))]
    pub steps: Vec<Step>,
    /// The fields of the answer: values with references, nested as they are to be.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 64))]
    pub response: BTreeMap<String, Value>,
}

fn deadline_ms() -> u64 {
    DEADLINE_MS
}

/// A service-level objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// How long an answer may take; of a stream, until its first text.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub latency_ms: u64,
    /// Of how many requests that holds: 0.95 is 95 of 100.
    #[serde(default = "quantile")]
    #[schemars(range(min = 0.5, max = 0.99999))]
    pub quantile: f64,
    /// How many requests may fail for other reasons than what they say: 0.01 is 1 of 100.
    #[serde(default = "errors")]
    #[schemars(range(min = 0.00001, max = 0.5))]
    pub errors: f64,
}

fn quantile() -> f64 {
    0.95
}

fn errors() -> f64 {
    0.01
}
