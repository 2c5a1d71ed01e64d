//! A lane with its threads: one for each instance of the model, and nothing async that blocks.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use halny_telemetry::LaneMetrics;
use halny_types::{Fault, Tick};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::former::{Batch, Decision, Dropped, Former};
use crate::pending::{ItemError, Pending, Served, Slot, gather};
use crate::queue::Entry;
use crate::{Claim, LaneLimits, Load, Refusal};

/// Runs batches on one instance of a model. Called from one thread.
pub trait Runner: Send + 'static {
    /// What is run.
    type Item: Send + 'static;
    /// What comes out.
    type Answer: Send + 'static;

    /// Runs the items together and gives one answer an item, in order.
    ///
    /// # Errors
    /// A [`RunFailure`] when the batch as a whole failed. The lane then runs each item alone, once.
    fn run(&mut self, items: &[&Self::Item]) -> Result<Ran<Self::Answer>, RunFailure>;
}

/// What came out of a batch.
#[derive(Debug)]
pub struct Ran<A> {
    /// One answer an item, in order.
    pub answers: Vec<A>,
    /// Time the device was taken.
    pub device_time: Duration,
}

/// Why a batch failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFailure {
    /// Whose fault it was.
    pub fault: Fault,
    /// What to tell the client: no path, no buffer's name.
    pub message: String,
    /// What to write into the log.
    pub cause: String,
}

type Item<R> = <R as Runner>::Item;
type Answer<R> = <R as Runner>::Answer;

/// What a lane answers a submission it does not take: why, and the items back.
pub type Refused<I> = (Refusal, Vec<(I, Load)>);

/// The queue in front of one loaded profile, with a thread for each instance behind it.
///
/// Dropping it closes it; [`Lane::drained`] waits for what it had accepted.
pub struct Lane<R: Runner> {
    shared: Arc<Shared<R>>,
    alive: watch::Receiver<usize>,
}

struct Shared<R: Runner> {
    state: Mutex<State<R>>,
    arrived: Condvar,
    metrics: LaneMetrics,
    alive: watch::Sender<usize>,
    name: String,
}

struct State<R: Runner> {
    former: Former<Waiting<R>>,
    closed: bool,
}

struct Waiting<R: Runner> {
    item: Item<R>,
    slot: Slot<Answer<R>>,
}

impl<R: Runner> Lane<R> {
    /// Starts one thread for each runner. `warmed_up` holds what warming up showed: tokens and
    /// time of each batch. `on_thread` is called first on each thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        name: &str,
        limits: LaneLimits,
        runners: Vec<R>,
        warmed_up: &[(usize, Duration)],
        metrics: LaneMetrics,
        on_thread: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Lane<R>> {
        let mut former = Former::new(limits, runners.len(), |waiting: &Waiting<R>| waiting.slot.is_gone());
        warmed_up.iter().for_each(|(tokens, took)| former.warmed_up(*tokens, *took));
        let (alive, alive_seen) = watch::channel(0);
        let state = Mutex::new(State { former, closed: false });
        let shared = Arc::new(Shared { state, arrived: Condvar::new(), metrics, alive, name: name.to_owned() });
        let lane = Lane { shared, alive: alive_seen };
        for (instance, runner) in runners.into_iter().enumerate() {
            let shared = Arc::clone(&lane.shared);
            let on_thread = on_thread.clone();
            lane.shared.alive.send_modify(|alive| *alive += 1);
            let thread = std::thread::Builder::new().name(format!("{name}-{instance}"));
            let alive = Alive(lane.shared.alive.clone());
            thread.spawn(move || {
                let _alive = alive;
                on_thread();
                shared.serve(instance, runner);
            })?;
        }
        Ok(lane)
    }

    /// Accepts all of these items, or none. Never blocks for longer than the lock is held, which
    /// is microseconds.
    ///
    /// # Errors
    /// Why they were refused, with the items back.
    pub fn submit(&self, claim: &Claim, items: Vec<(Item<R>, Load)>) -> Result<Pending<Answer<R>>, Refused<Item<R>>> {
        let count = items.len();
        let mut state = self.shared.state.lock();
        if state.closed {
            drop(state);
            return Err(self.refuse(Refusal::Closed, items));
        }
        let now = Tick::now();
        let loads: Vec<Load> = items.iter().map(|(_, load)| *load).collect();
        let refusal = self.refusal(&mut state, now, claim, &loads);
        if let Some(refusal) = refusal {
            drop(state);
            return Err(self.refuse(refusal, items));
        }
        let (slots, pending) = gather(count);
        let waiting = items.into_iter().zip(slots).map(|((item, load), slot)| (Waiting { item, slot }, load)).collect();
        // Just asked, under the same lock and for the same moment: it does not refuse.
        let offered = state.former.offer(now, claim, waiting);
        debug_assert!(offered.is_ok(), "an offer that was not refused is accepted");
        self.shared.metrics.waiting(state.former.queue().items());
        drop(state);
        if count == 1 {
            self.shared.arrived.notify_one();
        } else {
            self.shared.arrived.notify_all();
        }
        Ok(pending)
    }

    /// Why a request of this claim would be refused now even if it brought next to nothing: what
    /// a gateway asks before it reads, decodes or tokenises.
    #[must_use]
    pub fn would_refuse(&self, claim: &Claim) -> Option<Refusal> {
        let least = Load { length: 1, rows: 1, bytes: 0, group: 0, batchable: true };
        self.refusal(&mut self.shared.state.lock(), Tick::now(), claim, &[least])
    }

    /// Counts a request that was refused on the word of [`Lane::would_refuse`].
    pub fn count_refusal(&self, refusal: &Refusal) {
        self.shared.metrics.refused(refusal.reason(), 1);
    }

    fn refusal(&self, state: &mut State<R>, now: Tick, claim: &Claim, loads: &[Load]) -> Option<Refusal> {
        let refusal = state.former.refusal(now, claim, loads.iter())?;
        if !refusal.is_passing() {
            return Some(refusal);
        }
        // Room may be held by those who have left.
        let mut gone = Vec::new();
        state.former.sweep_gone(&mut gone);
        if gone.is_empty() {
            return Some(refusal);
        }
        self.shared.metrics.abandoned(gone.len());
        state.former.refusal(now, claim, loads.iter())
    }

    /// Items that wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.state.lock().former.queue().items()
    }

    /// Takes nothing more; what was accepted is still answered.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits until everything that was accepted is answered and the threads have ended. Call
    /// [`Lane::close`] first.
    pub async fn drained(&self) {
        // The sender lives as long as this lane, so waiting cannot fail.
        let _ = self.alive.clone().wait_for(|alive| *alive == 0).await;
    }

    fn refuse(&self, refusal: Refusal, items: Vec<(Item<R>, Load)>) -> Refused<Item<R>> {
        self.shared.metrics.refused(refusal.reason(), items.len());
        (refusal, items)
    }
}

/// A thread that is counted until it ends, however it ends.
struct Alive(watch::Sender<usize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_modify(|alive| *alive -= 1);
    }
}

impl<R: Runner> Drop for Lane<R> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<R: Runner> Shared<R> {
    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.former.stop_waiting();
        drop(state);
        self.arrived.notify_all();
    }

    /// The life of one instance's thread.
    fn serve(&self, instance: usize, mut runner: R) {
        while let Some(batch) = self.next_batch(instance) {
            let extent = batch.extent;
            let began = Tick::now();
            let whole = self.run(&mut runner, batch, began);
            let mut state = self.state.lock();
            if whole {
                state.former.finished(instance, &extent, began.until(Tick::now()));
            }
            self.metrics.learned(state.former.time().fixed_seconds(), state.former.time().token_seconds());
        }
    }

    /// Blocks until there is a batch; `None` when the lane is closed and empty.
    fn next_batch(&self, instance: usize) -> Option<Batch<Waiting<R>>> {
        let mut dropped = Dropped::default();
        let mut state = self.state.lock();
        loop {
            let decision = state.former.next(Tick::now(), instance, &mut dropped);
            if !(dropped.late.is_empty() && dropped.gone.is_empty()) {
                self.metrics.waiting(state.former.queue().items());
                parking_lot::MutexGuard::unlocked(&mut state, || self.answer_dropped(&mut dropped));
            }
            match decision {
                Decision::Run(batch) => {
                    self.metrics.waiting(state.former.queue().items());
                    // What is left may be for an instance that was told of nothing: of what arrived it was
                    // this one that was woken.
                    if state.former.queue().items() > 0 {
                        self.arrived.notify_one();
                    }
                    return Some(batch);
                }
                Decision::Wait(until) => {
                    if let Some(instant) = until.to_instant() {
                        self.arrived.wait_until(&mut state, instant);
                    }
                }
                Decision::Idle if state.closed => return None,
                // Something may have arrived while what was dropped was answered.
                Decision::Idle if state.former.queue().items() > 0 => {}
                Decision::Idle => self.arrived.wait(&mut state),
            }
        }
    }

    fn answer_dropped(&self, dropped: &mut Dropped<Waiting<R>>) {
        self.metrics.abandoned(dropped.gone.len());
        self.metrics.refused("late", dropped.late.len());
        dropped.gone.clear();
        dropped.late.drain(..).for_each(|entry| entry.item.slot.answer(Err(ItemError::Late)));
    }

    /// Runs a batch and answers its items; tells whether it ran as a whole, so that its time says
    /// something about the time of batches.
    fn run(&self, runner: &mut R, batch: Batch<Waiting<R>>, began: Tick) -> bool {
        for entry in &batch.entries {
            self.metrics.waited(began.since(entry.arrived));
        }
        let items: Vec<&Item<R>> = batch.entries.iter().map(|entry| &entry.item.item).collect();
        match guarded(runner, &items) {
            Ok(ran) => {
                let tokens = batch.extent.tokens();
                let padding = tokens.saturating_sub(batch.extent.work);
                self.metrics.batch(batch.entries.len(), tokens, padding, ran.device_time);
                self.metrics.finished(batch.entries.len());
                let works: Vec<usize> = batch.entries.iter().map(|entry| entry.load.work()).collect();
                let shares = shares(ran.device_time, &works);
                for ((entry, answer), device_time) in batch.entries.into_iter().zip(ran.answers).zip(shares) {
                    let queued = began.since(entry.arrived);
                    entry.item.slot.answer(Ok(Served { answer, queued, device_time }));
                }
                true
            }
            Err(failure) if batch.entries.len() == 1 => {
                batch.entries.into_iter().for_each(|entry| self.fail(entry, &failure));
                false
            }
            Err(failure) => {
                tracing::warn!(
                    lane = self.name,
                    items = batch.entries.len(),
                    cause = failure.cause,
                    "batch failed, running its items alone"
                );
                batch.entries.into_iter().for_each(|entry| self.run_alone(runner, entry, began));
                false
            }
        }
    }

    /// The second and last try of an item whose batch failed.
    fn run_alone(&self, runner: &mut R, entry: Entry<Waiting<R>>, began: Tick) {
        if entry.item.slot.is_gone() {
            self.metrics.abandoned(1);
            return;
        }
        if Tick::now() >= entry.claim.deadline {
            self.metrics.refused("late", 1);
            return entry.item.slot.answer(Err(ItemError::Late));
        }
        match guarded(runner, &[&entry.item.item]) {
            Ok(mut ran) => {
                self.metrics.batch(1, entry.load.work(), 0, ran.device_time);
                self.metrics.finished(1);
                if let Some(answer) = ran.answers.pop() {
                    let queued = began.since(entry.arrived);
                    entry.item.slot.answer(Ok(Served { answer, queued, device_time: ran.device_time }));
                }
            }
            Err(failure) => self.fail(entry, &failure),
        }
    }

    fn fail(&self, entry: Entry<Waiting<R>>, failure: &RunFailure) {
        self.metrics.failed(1);
        if failure.fault == Fault::Ours {
            tracing::error!(lane = self.name, cause = failure.cause, "the model failed on an item");
        }
        entry.item.slot.answer(Err(ItemError::Failed { fault: failure.fault, message: failure.message.clone() }));
    }
}

/// Runs a batch; a panic or a wrong number of answers is a failure like any other.
fn guarded<R: Runner>(runner: &mut R, items: &[&Item<R>]) -> Result<Ran<Answer<R>>, RunFailure> {
    let ours =
        |cause: String| RunFailure { fault: Fault::Ours, message: "the model failed on this input".to_owned(), cause };
    let ran = catch_unwind(AssertUnwindSafe(|| runner.run(items)))
        .map_err(|_| ours("the runner panicked".to_owned()))
        .flatten()?;
    if ran.answers.len() == items.len() {
        Ok(ran)
    } else {
        Err(ours(format!("{} answers came out of a batch of {}", ran.answers.len(), items.len())))
    }
}

/// Cuts `total` into shares by work. The shares add up to `total` exactly: what division leaves
/// goes to the last.
fn shares(total: Duration, works: &[usize]) -> Vec<Duration> {
    let sum: u128 = works.iter().map(|work| *work as u128).sum::<u128>().max(1);
    let mut left = total;
    let mut shares: Vec<Duration> = works
        .iter()
        .map(|work| {
            let nanos = total.as_nanos() * *work as u128 / sum;
            let share = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(left);
            left -= share;
            share
        })
        .collect();
    if let Some(last) = shares.last_mut() {
        *last += left;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_of_device_time_add_up_to_it(nanos in any::<u32>(), works in prop::collection::vec(1usize..1_000_000, 1..64)) {
            let total = Duration::from_nanos(u64::from(nanos));
            prop_assert_eq!(shares(total, &works).into_iter().sum::<Duration>(), total);
        }
    }
}
