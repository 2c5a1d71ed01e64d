//! One thread's share of the load, common to the open and the closed loop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use tokio::time::timeout_at;

use crate::bodies::Body;
use crate::connection::{Answer, Connection};
use crate::recorder::{Failure, Outcome, Recorder, Window};
use crate::target::Target;
use crate::{Load, LoadError, closed_loop, open_loop, run::Stop};

/// What all threads of a run share.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) bodies: Vec<Body>,
    pub(crate) load: Load,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    pub(crate) timeout: Duration,
    /// The first request may be due here; the warm-up lies between it and the window.
    pub(crate) begin: Instant,
    pub(crate) window: Window,
    pub(crate) count: Option<u64>,
    /// Measured requests handed out.
    pub(crate) tickets: AtomicU64,
    pub(crate) live: Live,
}

impl Plan {
    /// Whether the count, and not the clock, has ended the run.
    pub(crate) fn count_reached(&self) -> bool {
        self.count.is_some_and(|count| self.tickets.load(Ordering::Relaxed) >= count)
    }
}

/// Counts that the progress display reads while the run goes on.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) ok: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// Whether a request that is due is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    WarmUp,
    Measured,
    RunOver,
}

/// A request that is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    pub(crate) intended: Instant,
    pub(crate) measured: bool,
    pub(crate) body: usize,
}

pub(crate) struct Worker {
    pub(crate) plan: Arc<Plan>,
    pub(crate) recorder: RefCell<Recorder>,
    next_body: Cell<usize>,
}

impl Worker {
    /// Runs thread `thread`'s share to its end, or until `stop`.
    pub(crate) fn run(plan: Arc<Plan>, thread: usize, stop: &Stop) -> Result<Recorder, LoadError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let worker = Rc::new(Self {
            recorder: RefCell::new(Recorder::new(plan.window)?),
            // Threads begin at different places, so that they do not send the same texts together.
            next_body: Cell::new(plan.bodies.len() * thread / plan.threads),
            plan,
        });
        let local = LocalSet::new();
        let ended = local.block_on(&runtime, async {
            let load = async {
                match worker.plan.load {
                    Load::Closed { connections } => {
                        closed_loop::run(&worker, share(connections, thread, worker.plan.threads)).await
                    }
                    Load::Open { rate_per_s, arrivals, connections_max } => {
                        let limit = share(connections_max, thread, worker.plan.threads);
                        open_loop::run(&worker, arrivals, rate_per_s, limit, thread).await
                    }
                }
            };
            tokio::select! {
                ended = load => ended,
                () = stop.stopped() => Ok(()),
            }
        });
        // Tasks still hold the worker when the run was stopped.
        drop(local);
        ended?;
        Rc::into_inner(worker).map(|worker| worker.recorder.into_inner()).ok_or(LoadError::WorkerLost)
    }

    /// Decides about a request that is due at `intended`, and takes its ticket.
    pub(crate) fn admit(&self, intended: Instant) -> Admission {
        let plan = &self.plan;
        if intended >= plan.window.end {
            return Admission::RunOver;
        }
        if intended < plan.window.start {
            return Admission::WarmUp;
        }
        let ticket = plan.tickets.fetch_add(1, Ordering::Relaxed);
        if plan.count.is_some_and(|count| ticket >= count) {
            return Admission::RunOver;
        }
        Admission::Measured
    }

    pub(crate) fn due(&self, intended: Instant, admission: Admission) -> Due {
        let body = self.next_body.get();
        self.next_body.set((body + 1) % self.plan.bodies.len());
        Due { intended, measured: admission == Admission::Measured, body }
    }

    /// Sends one request on `connection`, opening it where there is none, and records the outcome.
    /// A connection that can take another request is left in `connection`.
    pub(crate) async fn perform(&self, connection: &mut Option<Connection>, due: Due) -> Outcome {
        let sent = Instant::now();
        let limit = due.intended + self.plan.timeout;
        let exchange = async {
            if !connection.as_mut().is_some_and(Connection::is_open) {
                // Dropped first, so that there are never more connections than asked for.
                *connection = None;
                let opened = Connection::open(self.plan.target.address).await?;
                self.recorder.borrow_mut().connections_opened += 1;
                *connection = Some(opened);
            }
            let open = connection.as_mut().ok_or(Failure::Connect)?;
            open.exchange(self.plan.target.request(&self.plan.bodies[due.body])).await
        };
        let answer = timeout_at(limit.into(), exchange).await.unwrap_or(Err(Failure::Timeout));
        let outcome = match answer {
            Ok(answer) => self.outcome(&answer),
            Err(failure) => {
                *connection = None;
                Outcome::Failed(failure)
            }
        };
        self.ended(due, sent, outcome);
        outcome
    }

    fn outcome(&self, answer: &Answer) -> Outcome {
        match answer.status {
            200..=299 => Outcome::Ok,
            status @ (429 | 503) => {
                self.recorder.borrow_mut().sample(status, &answer.sample);
                Outcome::Refused(status)
            }
            status => {
                self.recorder.borrow_mut().sample(status, &answer.sample);
                Outcome::Failed(Failure::Status(status))
            }
        }
    }

    pub(crate) fn ended(&self, due: Due, sent: Instant, outcome: Outcome) {
        let live = &self.plan.live;
        let counter = match outcome {
            Outcome::Ok => &live.ok,
            Outcome::Refused(_) => &live.refused,
            Outcome::Failed(_) => &live.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let done = Instant::now();
        self.recorder.borrow_mut().ended(due.measured, due.intended, sent, done, outcome);
    }
}

/// The part of `total` that thread `thread` of `threads` carries.
fn share(total: usize, thread: usize, threads: usize) -> usize {
    total / threads + usize::from(thread < total % threads)
}
