//! Running a plan: the fields of the answer ask for the steps they read, and those for theirs.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, try_join_all};
use halny_types::{Blame, Fault, RequestContext, Tick};
use parking_lot::Mutex;
use serde_json::Value as Json;
use tokio::time::Instant;
use tracing::Instrument;

use crate::plan::{Answered, Planned};
use crate::seen::{Absent, Seen};
use crate::{Asked, Capabilities, Outcome, Outputs, Plan, RouteError, StepError, Trace};

/// Where a route has no deadline that a clock can tell.
const LONG: Duration = Duration::from_secs(24 * 3_600);

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A field of the answer is ready.
    Field {
        /// Its name.
        name: String,
        /// Its value.
        value: Json,
    },
    /// More text of a field that is being written; the first piece tells that it has begun.
    Text {
        /// The field's name.
        name: String,
        /// What is added to it.
        text: String,
    },
    /// The end: every field is told, or something failed. Nothing comes after it.
    Ended(Result<(), RouteError>),
}

/// What a step gave, or why it did not; once for all that read it.
type Step = Shared<BoxFuture<'static, Result<Arc<Outputs>, RouteError>>>;

/// What all of one request's futures share.
struct Common<C> {
    plan: Arc<Plan>,
    capabilities: Arc<C>,
    request: Json,
    stream: bool,
    /// Of which steps text was told already.
    told: Vec<AtomicBool>,
    context: RequestContext,
    clock: Clock,
    trace: Arc<Mutex<Trace>>,
    events: Arc<Mutex<VecDeque<Event>>>,
    span: tracing::Span,
}

/// The request's time on the runtime's clock, which tests can stop, and on the process's.
#[derive(Clone, Copy)]
struct Clock {
    began: Instant,
    began_tick: Tick,
    deadline: Instant,
}

impl Clock {
    fn new(deadline: Tick) -> Clock {
        let (began, began_tick) = (Instant::now(), Tick::now());
        let left = began_tick.until(deadline).min(LONG);
        Clock { began, began_tick, deadline: began + left }
    }

    fn tick(&self, at: Instant) -> Tick {
        self.began_tick + at.saturating_duration_since(self.began)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// A request at work. Dropping it drops every step that is at work, and no other begins.
pub struct Running {
    work: Option<BoxFuture<'static, Result<(), RouteError>>>,
    events: Arc<Mutex<VecDeque<Event>>>,
    trace: Arc<Mutex<Trace>>,
}

impl Running {
    /// Begins a request that arrived with `context`, whose deadline is the route's or earlier. Nothing is done
    /// before [`Running::next`] is awaited.
    pub fn start<C: Capabilities>(
        plan: &Arc<Plan>,
        capabilities: &Arc<C>,
        asked: Asked,
        context: RequestContext,
        request_id: &str,
    ) -> Running {
        let (events, trace) = (Arc::default(), Arc::default());
        let span = tracing::info_span!("route", route = %plan.route.name, request_id);
        let common = Arc::new(Common {
            plan: Arc::clone(plan),
            capabilities: Arc::clone(capabilities),
            request: asked.body,
            stream: asked.stream && plan.streams(),
            clock: Clock::new(context.deadline),
            told: plan.steps.iter().map(|_| AtomicBool::new(false)).collect(),
            context,
            trace: Arc::clone(&trace),
            events: Arc::clone(&events),
            span: span.clone(),
        });
        Running { work: Some(answer(common).instrument(span).boxed()), events, trace }
    }

    /// What happens next; `None` after the end.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The same, to be polled.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        if let Some(event) = self.events.lock().pop_front() {
            return Poll::Ready(Some(event));
        }
        let Some(work) = &mut self.work else { return Poll::Ready(None) };
        if let Poll::Ready(outcome) = Pin::new(work).poll(context) {
            self.work = None;
            self.events.lock().push_back(Event::Ended(outcome));
        }
        match self.events.lock().pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None => Poll::Pending,
        }
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn whole(&mut self) -> Result<serde_json::Map<String, Json>, RouteError> {
        let mut answer = serde_json::Map::new();
        while let Some(event) = self.next().await {
            match event {
                Event::Field { name, value } => drop(answer.insert(name, value)),
                // Only where a stream was asked for.
                Event::Text { name, text } => match answer.get_mut(&name) {
                    Some(Json::String(before)) => before.push_str(&text),
                    _ => drop(answer.insert(name, Json::String(text))),
                },
                Event::Ended(outcome) => outcome?,
            }
        }
        Ok(answer)
    }

    /// What the steps took so far.
    #[must_use]
    pub fn trace(&self) -> Trace {
        self.trace.lock().clone()
    }
}

/// The whole of a request.
async fn answer<C: Capabilities>(common: Arc<Common<C>>) -> Result<(), RouteError> {
    let steps = steps(&common);
    let fields = common.plan.answer.iter().map(|answered| field(&common, &steps, answered));
    try_join_all(fields).await.map(|_| ())
}

/// A future for each step, which does nothing until someone asks for it.
fn steps<C: Capabilities>(common: &Arc<Common<C>>) -> Vec<Option<Step>> {
    let mut steps: Vec<Option<Step>> = vec![None; common.plan.steps.len()];
    for at in &common.plan.order {
        let Some(planned) = common.plan.steps.get(*at) else { continue };
        let needs = wanted(&steps, &planned.needs);
        let fallback = planned.fallback.as_ref().map(|fallback| wanted(&steps, &fallback.needs));
        let one = One { common: Arc::clone(common), at: *at, needs, fallback: fallback.unwrap_or_default() };
        if let Some(step) = steps.get_mut(*at) {
            *step = Some(one.run().boxed().shared());
        }
    }
    steps
}

/// Steps by their places, to be asked for.
fn wanted(steps: &[Option<Step>], places: &[usize]) -> Vec<(usize, Step)> {
    places.iter().filter_map(|place| Some((*place, steps.get(*place)?.clone()?))).collect()
}

async fn field<C: Capabilities>(
    common: &Arc<Common<C>>,
    steps: &[Option<Step>],
    answered: &Answered,
) -> Result<(), RouteError> {
    let wanted = wanted(steps, &answered.needs);
    let seen = see(common, &wanted).await?;
    if answered.written_by.is_some_and(|step| common.has_told(step)) {
        // Its text is told already, piece by piece.
        return Ok(());
    }
    let failed = |error| RouteError { step: format!("response.{}", answered.name), error, of_request: false };
    if let Some(value) = seen.json(&answered.mapping, Absent::Null).map_err(failed)? {
        let name = answered.name.clone();
        common.events.lock().push_back(Event::Field { name, value });
    }
    Ok(())
}

/// Waits for steps side by side; what they gave, and the request.
async fn see<'c, C>(common: &'c Common<C>, wanted: &[(usize, Step)]) -> Result<Seen<'c>, RouteError> {
    let given = try_join_all(wanted.iter().map(|(_, step)| step.clone())).await?;
    let names = wanted.iter().map(|(place, _)| common.plan.step_name(*place));
    Ok(Seen { request: &common.request, steps: names.zip(given).collect() })
}

impl<C> Common<C> {
    fn has_told(&self, step: usize) -> bool {
        self.told.get(step).is_some_and(|told| told.load(Ordering::Relaxed))
    }
}

/// One step of one request.
struct One<C> {
    common: Arc<Common<C>>,
    at: usize,
    needs: Vec<(usize, Step)>,
    /// Asked for only when the step has failed.
    fallback: Vec<(usize, Step)>,
}

impl<C: Capabilities> One<C> {
    async fn run(self) -> Result<Arc<Outputs>, RouteError> {
        let Some(planned) = self.common.plan.steps.get(self.at) else {
            let error = StepError::new(Fault::Ours, "there is no such step");
            return Err(RouteError { step: String::new(), error, of_request: false });
        };
        let failed = match self.perform(planned).await {
            Ok(outputs) => return Ok(Arc::new(outputs)),
            Err(failed) => failed,
        };
        // Half a text has been shown: nothing can stand for it any more.
        let shown = self.common.has_told(self.at);
        match &planned.fallback {
            Some(fallback) if !failed.of_request && !shown => {
                tracing::warn!(parent: &self.common.span, step = planned.name, error = %failed, "fallback");
                let seen = see(&self.common, &self.fallback).await?;
                let output = |(name, mapping): (&String, _)| Ok((name.clone(), seen.value(mapping)?));
                let outputs: Result<Outputs, StepError> = fallback.outputs.iter().map(output).collect();
                let outputs = outputs.map_err(|error| self.error(planned, error))?;
                self.common.trace.lock().ended(self.at, self.common.clock.now(), Outcome::Fallback);
                Ok(Arc::new(outputs))
            }
            _ => Err(failed),
        }
    }

    fn error(&self, planned: &Planned, error: StepError) -> RouteError {
        let at_fault = matches!(error.fault(), Fault::Caller | Fault::TooLarge);
        // What comes of other steps is not what the client sent.
        let of_request = at_fault && planned.needs.is_empty();
        RouteError { step: planned.name.clone(), error, of_request }
    }

    async fn perform(&self, planned: &Planned) -> Result<Outputs, RouteError> {
        let common = &self.common;
        let seen = see(common, &self.needs).await?;
        let now = Instant::now();
        let own = planned.timeout.map(|timeout| now + timeout);
        let deadline = own.map_or(common.clock.deadline, |own| own.min(common.clock.deadline));
        let context = RequestContext {
            arrived: common.clock.tick(now),
            deadline: common.clock.tick(deadline),
            ..common.context.clone()
        };
        let span = tracing::info_span!(
            parent: &common.span, "step", step = planned.name, took_ms = tracing::field::Empty, outcome = tracing::field::Empty
        );
        common.trace.lock().began(self.at, common.clock.now());
        let work = planned.work.perform(common.capabilities.as_ref(), &context, &seen, self.tell());
        let outcome = match tokio::time::timeout_at(deadline, work.instrument(span.clone())).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(late(planned, own.is_some_and(|own| own == deadline), &common.plan)),
        };
        let ended = outcome.as_ref().map_or_else(|error| Outcome::Failed(error.fault()), |_| Outcome::Done);
        common.trace.lock().ended(self.at, common.clock.now(), ended);
        span.record("took_ms", (now.elapsed().as_secs_f64() * 1e6).round() / 1e3);
        span.record("outcome", ended.as_str());
        outcome.map_err(|error| self.error(planned, error))
    }

    /// Tells the text of this step to every field that is it.
    fn tell(&self) -> crate::Tell {
        let fields = self.common.plan.answer.iter().filter(|answered| answered.written_by == Some(self.at));
        let names: Vec<String> = fields.map(|answered| answered.name.clone()).collect();
        if !self.common.stream || names.is_empty() {
            return Box::new(|_| {});
        }
        let (common, at) = (Arc::clone(&self.common), self.at);
        Box::new(move |text: &str| {
            if let Some(told) = common.told.get(at).filter(|_| !text.is_empty()) {
                told.store(true, Ordering::Relaxed);
                let event = |name: &String| Event::Text { name: name.clone(), text: text.to_owned() };
                common.events.lock().extend(names.iter().map(event));
            }
        })
    }
}

/// A step that ran out of time.
fn late(planned: &Planned, own: bool, plan: &Plan) -> StepError {
    let text = match planned.timeout.filter(|_| own) {
        Some(timeout) => format!("it did not end in the {} ms that it has (timeout_ms)", timeout.as_millis()),
        None => format!(
            "the time of the request is over; the route has {} ms (deadline_ms), or less where the request says so",
            plan.route.deadline_ms
        ),
    };
    StepError::new(Fault::Late, text)
}
