//! The open loop: a schedule that neither the server nor the connections can delay.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::clock::Timer;
use crate::connection::Connection;
use crate::options::limits;
use crate::recorder::{Failure, Outcome};
use crate::schedule::Schedule;
use crate::worker::{Admission, Due, Worker};
use crate::{Arrivals, LoadError};

/// Requests handed out in a row before the connections get a turn. A generator that is behind would
/// otherwise only hand out.
const BURST_MAX: u32 = 32;

/// Where more requests than this fall due in a second, they do not wake the generator one by one. Waking for each cost
/// 45 microseconds of processor time at 5,000 a second, taken from the server.
const WAKES_PER_S: f64 = 1_000.0;
/// It wakes no more often than this then, and requests that fell due meanwhile go out together. Latency counts from
/// when each was due, so the server is charged at most this.
const BETWEEN_WAKES: Duration = Duration::from_millis(1);

struct Lanes {
    worker: Rc<Worker>,
    connections_max: usize,
    idle: RefCell<Vec<Connection>>,
    pending: RefCell<VecDeque<Due>>,
    busy: Cell<usize>,
    all_done: Notify,
}

pub(crate) async fn run(
    worker: &Rc<Worker>,
    arrivals: Arrivals,
    rate_per_s: f64,
    connections_max: usize,
    thread: usize,
) -> Result<(), LoadError> {
    let plan = Rc::clone(worker);
    let plan = &plan.plan;
    let lanes = Rc::new(Lanes {
        worker: Rc::clone(worker),
        connections_max,
        idle: RefCell::default(),
        pending: RefCell::default(),
        busy: Cell::new(0),
        all_done: Notify::new(),
    });
    let timer = Timer::new()?;
    let between = if rate_per_s > WAKES_PER_S { BETWEEN_WAKES } else { Duration::ZERO };
    let (mut burst, mut woken) = (0, plan.begin);
    for offset in Schedule::new(arrivals, rate_per_s, plan.seed, thread, plan.threads) {
        // Beyond what the clock can count is beyond the window's end.
        let Some(intended) = plan.begin.checked_add(offset) else { break };
        let admission = worker.admit(intended);
        if admission == Admission::RunOver {
            break;
        }
        if Instant::now() < intended {
            timer.until(intended.max(woken + between)).await?;
            woken = Instant::now();
            burst = 0;
        } else {
            burst += 1;
            if burst % BURST_MAX == 0 {
                tokio::task::yield_now().await;
            }
        }
        let due = worker.due(intended, admission);
        if due.measured {
            worker.recorder.borrow_mut().late(intended.elapsed());
        }
        Lanes::hand_out(&lanes, due);
    }
    // Every request ends within its timeout, so this does too.
    while lanes.busy.get() > 0 {
        lanes.all_done.notified().await;
    }
    Ok(())
}

impl Lanes {
    /// Never waits: a request with no connection free is queued, or ends here.
    fn hand_out(lanes: &Rc<Self>, due: Due) {
        let busy = lanes.busy.get();
        if busy < lanes.connections_max {
            lanes.busy.set(busy + 1);
            let mut recorder = lanes.worker.recorder.borrow_mut();
            recorder.connections_peak = recorder.connections_peak.max(busy as u64 + 1);
            drop(recorder);
            tokio::task::spawn_local(Rc::clone(lanes).drive(due));
        } else if lanes.pending.borrow().len() < limits::PENDING_MAX {
            lanes.worker.recorder.borrow_mut().waited_for_connection += u64::from(due.measured);
            lanes.pending.borrow_mut().push_back(due);
        } else {
            lanes.worker.ended(due, Instant::now(), Outcome::Failed(Failure::NoConnection));
        }
    }

    async fn drive(self: Rc<Self>, first: Due) {
        let mut connection = self.idle.borrow_mut().pop();
        let mut next = Some(first);
        while let Some(due) = next {
            let now = Instant::now();
            if now >= due.intended + self.worker.plan.timeout {
                self.worker.ended(due, now, Outcome::Failed(Failure::NoConnection));
            } else {
                self.worker.perform(&mut connection, due).await;
            }
            next = self.pending.borrow_mut().pop_front();
        }
        self.idle.borrow_mut().extend(connection);
        self.busy.set(self.busy.get() - 1);
        if self.busy.get() == 0 {
            self.all_done.notify_one();
        }
    }
}
