//! A scheduler with its thread: requests go in, events come out, and nothing async blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use halny_engine::{Decoder, LanguageModel};
use halny_telemetry::GenerationMetrics;
use halny_types::{Priority, RequestContext, Tick};
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::job::Sink;
use crate::refusal::GenerationError;
use crate::request::{Event, FinishReason, Request};
use crate::scheduler::{Scheduler, Settings, StepReport, check};

/// What a lane may hold, and how it works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaneLimits {
    /// Requests that may wait.
    pub waiting: usize,
    /// The longest a request may wait for its first step; one of the background as long as its deadline says.
    pub wait: Duration,
    /// What the scheduler may do.
    pub settings: Settings,
}

/// One language model's queue, scheduler and thread. Dropping it lets the thread end when what it had
/// accepted is answered or abandoned.
pub struct Lane {
    /// `None` once the lane is closed.
    commands: Mutex<Option<Sender<(Request, Outlet)>>>,
    ended: watch::Receiver<bool>,
    shared: Arc<Shared>,
    model: Arc<dyn LanguageModel>,
    context: usize,
    limits: LaneLimits,
}

struct Shared {
    metrics: GenerationMetrics,
    books: Mutex<Books>,
    closed: AtomicBool,
}

/// What a caller needs to know to be refused early. Those of the background are kept apart: nobody else
/// waits for them.
#[derive(Clone, Copy, Debug, Default)]
struct Books {
    first: Book,
    background: Book,
}

/// What waits, and how fast it is admitted.
#[derive(Clone, Copy, Debug, Default)]
struct Book {
    /// Requests that were sent and not yet seen by the thread.
    sent: usize,
    /// Requests that the thread has seen and not admitted.
    waiting: usize,
    /// Seconds between two admissions while some wait, smoothed; 0 while unknown.
    between_admissions: f64,
    last_admission: Option<Tick>,
}

/// What the last admissions count against the newest.
const SMOOTHING: f64 = 0.1;

impl Books {
    fn of(&mut self, priority: Priority) -> &mut Book {
        if priority == Priority::Batch { &mut self.background } else { &mut self.first }
    }

    fn waiting(&self) -> usize {
        self.first.ahead() + self.background.ahead()
    }

    /// Those of the background wait for all others, and then for their own.
    fn predicted_wait(&self, priority: Priority) -> Duration {
        let first = self.first.predicted_wait();
        if priority == Priority::Batch { first.saturating_add(self.background.predicted_wait()) } else { first }
    }
}

impl Book {
    fn ahead(&self) -> usize {
        self.sent + self.waiting
    }

    fn predicted_wait(&self) -> Duration {
        Duration::try_from_secs_f64(self.ahead() as f64 * self.between_admissions).unwrap_or(Duration::MAX)
    }

    /// So many requests were admitted; what waits now waits still.
    fn admitted(&mut self, count: usize, waiting: usize, now: Tick) {
        if count > 0 {
            if let Some(last) = self.last_admission.filter(|_| self.waiting > count) {
                let each = last.until(now).as_secs_f64() / count as f64;
                self.between_admissions += SMOOTHING * (each - self.between_admissions);
            }
            self.last_admission = Some(now);
        }
        self.waiting = waiting;
        if waiting == 0 {
            self.last_admission = Some(now);
        }
    }
}

/// A request that was accepted: its events, in order. Dropping it says that nobody listens any more,
/// and frees the request's cells before the next step.
#[derive(Debug)]
pub struct Generation {
    events: UnboundedReceiver<Result<Event, GenerationError>>,
}

impl Generation {
    /// What happens next; `None` after the end.
    ///
    /// # Errors
    /// Why the request ended without an answer; nothing comes after it.
    pub async fn next(&mut self) -> Option<Result<Event, GenerationError>> {
        self.events.recv().await
    }

    /// As [`Generation::next`], for implementations of streams.
    pub fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Event, GenerationError>>> {
        self.events.poll_recv(context)
    }
}

/// A request's end of its channel. It holds as many events as a request may have tokens, at most, so
/// that a client that reads slowly costs memory in proportion to what it asked for.
struct Outlet {
    events: UnboundedSender<Result<Event, GenerationError>>,
    arrived: Tick,
    shared: Arc<Shared>,
    ended: bool,
}

impl Sink for Outlet {
    fn send(&mut self, event: Result<Event, GenerationError>) {
        let metrics = &self.shared.metrics;
        let took = || self.arrived.until(Tick::now());
        match &event {
            Ok(Event::Text { .. }) => {}
            Ok(Event::Finished(finished)) => {
                self.ended = true;
                let reason = if finished.reason == FinishReason::Length { "length" } else { "stop" };
                metrics.finished(reason, took());
            }
            Err(error) => {
                self.ended = true;
                metrics.refused(error.reason());
                metrics.finished("error", took());
            }
        }
        // Nobody listens: the scheduler finds out by itself before its next step.
        let _ = self.events.send(event);
    }

    fn is_gone(&self) -> bool {
        self.events.is_closed()
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.ended {
            self.shared.metrics.finished("abort", self.arrived.until(Tick::now()));
        }
    }
}

impl Lane {
    /// Starts the thread. `prepare` runs on it first.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        name: &str,
        model: Arc<dyn LanguageModel>,
        mut decoder: Box<dyn Decoder>,
        limits: LaneLimits,
        metrics: GenerationMetrics,
        prepare: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Lane> {
        let (commands, requests) = channel();
        let shared = Arc::new(Shared { metrics, books: Mutex::default(), closed: AtomicBool::new(false) });
        let scheduler = Scheduler::new(Arc::clone(&model), decoder.limits(), limits.settings);
        let context = scheduler.context();
        let books = Arc::clone(&shared);
        let (end, ended) = watch::channel(false);
        std::thread::Builder::new().name(format!("generate {name}")).spawn(move || {
            prepare();
            let ran = catch_unwind(AssertUnwindSafe(|| serve(scheduler, decoder.as_mut(), &requests, &books)));
            if ran.is_err() {
                // What was accepted ends with its channels; nothing more is taken.
                books.closed.store(true, Ordering::Release);
                tracing::error!("a generation thread ended in a panic; its model has to be loaded again");
            }
            // The device's memory is given back before anyone is told.
            drop(decoder);
            let _ = end.send(true);
        })?;
        Ok(Lane { commands: Mutex::new(Some(commands)), ended, shared, model, context, limits })
    }

    /// Takes nothing more. What was accepted is answered.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.commands.lock().take();
    }

    /// Returns when the lane is closed, what it had accepted is answered, and its device's memory is
    /// given back.
    pub async fn drained(&self) {
        // An error means that the thread is gone, which is what is waited for.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// What never changes about the model.
    #[must_use]
    pub fn model(&self) -> &Arc<dyn LanguageModel> {
        &self.model
    }

    /// Tokens that one request may have, read and written.
    #[must_use]
    pub fn context(&self) -> usize {
        self.context
    }

    /// Whether a request would be refused if it came now, whatever its prompt; counts it if so.
    ///
    /// # Errors
    /// Why, with the time after which it would be taken where that can be known.
    pub fn admit(&self, context: &RequestContext, now: Tick) -> Result<(), GenerationError> {
        let refused = self.refusal(context, now);
        if let Err(error) = &refused {
            self.shared.metrics.refused(error.reason());
        }
        refused
    }

    fn refusal(&self, context: &RequestContext, now: Tick) -> Result<(), GenerationError> {
        let RequestContext { deadline, priority, .. } = *context;
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(GenerationError::Closed);
        }
        if now >= deadline {
            return Err(GenerationError::Late);
        }
        let mut books = *self.shared.books.lock();
        let between = books.of(priority).between_admissions.max(0.1);
        let between = Duration::try_from_secs_f64(between).unwrap_or(Duration::MAX);
        // Half the places are not for the background.
        let (limit, wait) = match priority {
            Priority::Batch => (self.limits.waiting.div_ceil(2), Duration::MAX),
            Priority::Interactive | Priority::System => (self.limits.waiting, self.limits.wait),
        };
        if books.waiting() >= limit {
            return Err(GenerationError::QueueFull { waiting: books.waiting(), limit, retry_after: between });
        }
        let predicted = books.predicted_wait(priority);
        let budget = wait.min(now.until(deadline));
        if predicted > budget {
            return Err(GenerationError::Wait { predicted, budget, retry_after: predicted - budget });
        }
        Ok(())
    }

    /// Takes a request.
    ///
    /// # Errors
    /// [`GenerationError`] when it can never be answered, or not in time.
    pub fn submit(&self, request: Request) -> Result<Generation, GenerationError> {
        let counted = |error: GenerationError| {
            self.shared.metrics.refused(error.reason());
            error
        };
        check(&request, self.model.card().vocabulary, self.context).map_err(counted)?;
        self.admit(&request.context, Tick::now())?;
        let priority = request.context.priority;
        let (sender, events) = unbounded_channel();
        let outlet =
            Outlet { events: sender, arrived: request.context.arrived, shared: Arc::clone(&self.shared), ended: false };
        self.shared.books.lock().of(priority).sent += 1;
        let sent = self.commands.lock().as_ref().is_some_and(|commands| commands.send((request, outlet)).is_ok());
        if sent { Ok(Generation { events }) } else { Err(counted(GenerationError::Closed)) }
    }
}

/// Works until nobody can ask any more and everyone is answered.
fn serve(
    mut scheduler: Scheduler<Outlet>,
    decoder: &mut dyn Decoder,
    requests: &Receiver<(Request, Outlet)>,
    shared: &Shared,
) {
    let cells = decoder.limits().cells;
    let mut open = true;
    while open || scheduler.running() + scheduler.waiting() > 0 {
        if scheduler.running() + scheduler.waiting() == 0 {
            match requests.recv() {
                Ok((request, outlet)) => take(&mut scheduler, request, outlet),
                Err(_) => return,
            }
        }
        loop {
            match requests.try_recv() {
                Ok((request, outlet)) => take(&mut scheduler, request, outlet),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        let report = scheduler.step(decoder, &Tick::now);
        record(&shared.metrics, &report);
        let ratio = scheduler.cells_running() as f64 / cells.max(1) as f64;
        shared.metrics.holds(scheduler.running(), scheduler.waiting(), ratio);
        let (now, background) = (Tick::now(), scheduler.waiting_background());
        let mut books = shared.books.lock();
        books.first.admitted(report.admissions, scheduler.waiting() - background, now);
        books.background.admitted(report.background_admissions, background, now);
    }
}

fn take(scheduler: &mut Scheduler<Outlet>, request: Request, outlet: Outlet) {
    {
        let mut books = outlet.shared.books.lock();
        let book = books.of(request.context.priority);
        book.sent -= 1;
        book.waiting += 1;
    }
    scheduler.submit(request, outlet);
}

fn record(metrics: &GenerationMetrics, report: &StepReport) {
    if report.read + report.written > 0 {
        let written = report.first_tokens.len() + report.gaps.len();
        metrics.stepped(report.read + report.written, written, report.device_time);
    }
    if report.admissions + report.background_admissions > 0 {
        metrics.admitted(report.admitted.0, report.admitted.1);
    }
    if report.preempted > 0 {
        metrics.preempted(report.preempted);
    }
    for took in &report.first_tokens {
        metrics.first_token(*took);
    }
    for took in &report.gaps {
        metrics.next_token(*took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_the_background_but_the_background() {
        let slow = Book { sent: 1, waiting: 99, between_admissions: 10.0, last_admission: None };
        let books = Books { first: Book { waiting: 2, between_admissions: 0.5, ..Book::default() }, background: slow };
        assert_eq!(books.predicted_wait(Priority::Interactive), Duration::from_secs(1));
        assert_eq!(books.predicted_wait(Priority::Batch), Duration::from_secs(1_001));
        assert_eq!(books.waiting(), 102);
    }
}
