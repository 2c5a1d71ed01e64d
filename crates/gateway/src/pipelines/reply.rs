//! A request of a route, from its body to its answer: whole, or as events.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{FutureExt, stream};
use halny_pipeline::{Event, Outcome, Plan, RouteError, Running, Trace};
use halny_telemetry::RouteOutcome;
use halny_types::{Blame, Fault, Tick};
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value, json};

use super::Served;
use super::steps::Steps;
use crate::admission::Arrived;
use crate::error::Shape;
use crate::sse::{self, Events, KEEP_ALIVE, TOGETHER_MAX};
use crate::{ApiError, Shared, answer, body, bounded};

/// The header by which a client asks for the steps of its answer, and in which they come.
const TRACE_HEADER: &str = "x-halny-trace";
/// The header that names the steps that fallbacks stood in for.
const FALLBACK_HEADER: &str = "x-halny-fallback";
/// What each step took (W3C Server Timing).
const TIMING_HEADER: &str = "server-timing";

/// Answers a request.
pub(super) async fn answer(
    shared: &Shared,
    served: &Arc<Served>,
    arrived: Arrived,
    called: &str,
    headers: &HeaderMap,
    body: Body,
) -> Response {
    let mut counted =
        Counted { served: Arc::clone(served), arrived: arrived.0, running: None, outcome: None, first: None };
    let begun = begin(shared, served, arrived, called, headers, body).await;
    let (running, stream) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            counted.failed(error.fault());
            return error.respond(Shape::OpenAi);
        }
    };
    counted.running = Some(running);
    if stream { streamed(counted).await } else { whole(shared, counted, headers).await }
}

/// Reads the request, and makes it ready to run.
async fn begin(
    shared: &Shared,
    served: &Arc<Served>,
    arrived: Arrived,
    called: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Running, bool), ApiError> {
    let bytes = body::read(shared, headers, body).await?;
    if std::str::from_utf8(&bytes).is_ok_and(|text| bounded::elements(text) > bounded::ELEMENTS_MAX) {
        let text = format!("the body has more than {} values; send less", bounded::ELEMENTS_MAX);
        return Err(ApiError::new(Fault::TooLarge, text));
    }
    // Its texts are counted in characters: some 300 microseconds for what is not small.
    let small = bytes.len() <= body::PARSE_INLINE_BYTES_MAX;
    let body: Value = body::parse(shared, bytes).await?;
    let plan = &served.plan;
    let reader = Arc::clone(plan);
    let asked = shared.pool.run_unless(small, move || reader.read(body)).await?.map_err(|error| {
        let field = error.field.clone();
        let error = ApiError::from(error);
        if field.is_empty() { error } else { error.with_param(field) }
    })?;
    let budget = Duration::from_millis(plan.route().deadline_ms);
    let context = shared.context(headers, arrived.0, budget)?;
    let stream = asked.stream;
    let running = Running::start(plan, &Arc::new(Steps::of(shared)), asked, context, called);
    Ok((running, stream))
}

/// A request, counted when it ends, in whatever way it does: one that is dropped was given up by its client.
struct Counted {
    served: Arc<Served>,
    arrived: Tick,
    running: Option<Running>,
    outcome: Option<RouteOutcome>,
    /// When the client had its first text.
    first: Option<Duration>,
}

impl Counted {
    fn ended(&mut self, outcome: &Result<(), RouteError>) {
        match outcome {
            Ok(()) => self.outcome = Some(RouteOutcome::Answered),
            Err(error) => self.failed(error.fault()),
        }
    }

    fn failed(&mut self, fault: Fault) {
        let caused_by_client = matches!(fault, Fault::Caller | Fault::TooLarge | Fault::Throttled);
        let word = fault.as_str();
        self.outcome = Some(if caused_by_client { RouteOutcome::Refused(word) } else { RouteOutcome::Failed(word) });
    }

    fn trace(&self) -> Trace {
        self.running.as_ref().map(Running::trace).unwrap_or_default()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let (plan, metrics, took) = (&self.served.plan, &self.served.metrics, self.arrived.until(Tick::now()));
        for step in self.trace().steps {
            let name = plan.step_name(step.step);
            if let Some(ended) = step.ended {
                metrics.step(name, ended.saturating_sub(step.began));
            }
            if step.outcome == Outcome::Fallback {
                metrics.fell_back(name);
            }
        }
        metrics.ended(self.outcome.unwrap_or(RouteOutcome::Cancelled), took, self.first.unwrap_or(took));
    }
}

async fn whole(shared: &Shared, mut counted: Counted, headers: &HeaderMap) -> Response {
    let outcome = match counted.running.as_mut() {
        Some(running) => running.whole().await,
        None => Ok(Map::new()),
    };
    counted.ended(&outcome.as_ref().map(|_| ()).map_err(Clone::clone));
    let (plan, trace) = (Arc::clone(&counted.served.plan), counted.trace());
    drop(counted);
    let made = match outcome {
        Ok(fields) => answer::json(shared, work(&fields), move || Ok(Value::Object(fields))).await,
        Err(error) => Err(ApiError::from(error)),
    };
    let mut response = made.unwrap_or_else(|error| error.respond(Shape::OpenAi));
    let wants_trace = headers.get(TRACE_HEADER).is_some_and(|asked| asked == "1");
    let mut put = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    };
    if !trace.steps.is_empty() {
        put(TIMING_HEADER, timing(&plan, &trace));
    }
    let fallbacks: Vec<&str> = trace.fallbacks().map(|step| plan.step_name(step)).collect();
    if !fallbacks.is_empty() {
        put(FALLBACK_HEADER, fallbacks.join(", "));
    }
    if wants_trace {
        put(TRACE_HEADER, steps(&plan, &trace).to_string());
    }
    response
}

/// Bytes of an answer, at a guess: what decides where it is written.
fn work(fields: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len() / 8,
            Value::Array(items) => items.iter().map(of).sum::<usize>() + 8,
            Value::Object(fields) => fields.values().map(of).sum::<usize>() + 8,
            _ => 8,
        }
    }
    fields.values().map(of).sum()
}

/// `query;dur=1.234, best;dur=20;desc="fallback"`.
fn timing(plan: &Plan, trace: &Trace) -> String {
    let one = |step: &halny_pipeline::StepTrace| {
        let took = step.ended.unwrap_or(step.began).saturating_sub(step.began);
        let described = match step.outcome {
            Outcome::Done => String::new(),
            other => format!(";desc=\"{}\"", other.as_str()),
        };
        format!("{};dur={}{described}", plan.step_name(step.step), millis(took))
    };
    trace.steps.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The steps in the order in which they began, with when they did and when they ended, in milliseconds.
fn steps(plan: &Plan, trace: &Trace) -> Value {
    let one = |step: &halny_pipeline::StepTrace| {
        json!({
            "step": plan.step_name(step.step),
            "start_ms": millis(step.began),
            "end_ms": step.ended.map(millis),
            "outcome": step.outcome.as_str(),
        })
    };
    Value::Array(trace.steps.iter().map(one).collect())
}

/// Milliseconds with three digits behind the point.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The answer as events: fields as they are ready, text as it is written, and what the steps took.
async fn streamed(mut counted: Counted) -> Response {
    let first = match counted.running.as_mut() {
        Some(running) => running.next().await,
        None => None,
    };
    // What fails before anything was told is told as every other failure is.
    if let Some(Event::Ended(Err(error))) = first {
        counted.failed(error.fault());
        return ApiError::from(error).respond(Shape::OpenAi);
    }
    let told = Told { counted, first, open: true };
    sse::response(stream::unfold(told, |mut told| async move {
        let chunk = told.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), told))
    }))
}

struct Told {
    counted: Counted,
    /// The event that was waited for before the answer began.
    first: Option<Event>,
    open: bool,
}

impl Told {
    async fn next(&mut self) -> Option<Bytes> {
        if !self.open {
            return None;
        }
        let mut events = Events::default();
        if let Some(first) = self.first.take() {
            self.tell(Some(first), &mut events);
        }
        if events.is_empty() {
            let running = self.counted.running.as_mut()?;
            match tokio::time::timeout(KEEP_ALIVE, running.next()).await {
                Err(_silence) => return Some(Bytes::from_static(b": keep-alive\n\n")),
                Ok(event) => self.tell(event, &mut events),
            }
        }
        for _ in 1..TOGETHER_MAX {
            let ready = match self.counted.running.as_mut().filter(|_| self.open) {
                Some(running) => running.next().now_or_never(),
                None => None,
            };
            let Some(event) = ready else { break };
            self.tell(event, &mut events);
        }
        Some(events.into_bytes())
    }

    fn tell(&mut self, event: Option<Event>, events: &mut Events) {
        match event {
            Some(Event::Field { name, value }) => events.named("field", &json!({ "name": name, "value": value })),
            Some(Event::Text { name, text }) => {
                let counted = &mut self.counted;
                counted.first.get_or_insert_with(|| counted.arrived.until(Tick::now()));
                events.named("text", &json!({ "name": name, "text": text }));
            }
            Some(Event::Ended(outcome)) => {
                self.open = false;
                self.counted.ended(&outcome);
                match outcome {
                    Ok(()) => {
                        let (plan, trace) = (&self.counted.served.plan, self.counted.trace());
                        let fallbacks: Vec<&str> = trace.fallbacks().map(|step| plan.step_name(step)).collect();
                        events.named("done", &json!({ "steps": steps(plan, &trace), "fallbacks": fallbacks }));
                    }
                    Err(error) => events.named("error", &ApiError::from(error).openai_body()),
                }
            }
            None => self.open = false,
        }
    }
}
