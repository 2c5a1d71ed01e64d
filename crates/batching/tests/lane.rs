//! The lane with its threads: what the rule's simulation cannot show.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use halny_batching::{Claim, ItemError, Lane, LaneLimits, Load, Packing, Ran, Refusal, RunFailure, Runner};
use halny_telemetry::{LaneLabels, LaneMetrics, Metrics};
use halny_types::{Fault, Priority, TenantId, Tick};
use parking_lot::{Condvar, Mutex};

/// Fails its batch.
const BAD: u64 = 1_000_013;
/// Panics.
const BEAST: u64 = 1_000_666;

/// Doubles numbers, but for two. Runs only while the gate is open.
struct Doubler {
    gate: Arc<Gate>,
    runs: Arc<AtomicUsize>,
    device_nanos: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock() = true;
        self.changed.notify_all();
    }

    fn pass(&self) {
        let mut open = self.open.lock();
        self.changed.wait_while(&mut open, |open| !*open);
    }
}

impl Runner for Doubler {
    type Item = u64;
    type Answer = u64;

    fn run(&mut self, items: &[&u64]) -> Result<Ran<u64>, RunFailure> {
        self.gate.pass();
        self.runs.fetch_add(1, Ordering::SeqCst);
        assert!(!items.contains(&&BEAST), "the number of the beast");
        if items.contains(&&BAD) {
            let (message, cause) = ("that is not doubled".to_owned(), "the bad number".to_owned());
            return Err(RunFailure { fault: Fault::Caller, message, cause });
        }
        let nanos = 1_000 + items.len() * 37;
        self.device_nanos.fetch_add(nanos, Ordering::SeqCst);
        Ok(Ran { answers: items.iter().map(|n| **n * 2).collect(), device_time: Duration::from_nanos(nanos as u64) })
    }
}

struct Rig {
    lane: Lane<Doubler>,
    gate: Arc<Gate>,
    runs: Arc<AtomicUsize>,
    device_nanos: Arc<AtomicUsize>,
    metrics: Metrics,
}

fn metrics(metrics: &Metrics) -> LaneMetrics {
    let text = |text: &str| text.to_owned();
    metrics.lane(&LaneLabels { model: text("doubler"), version: text("v"), profile: text("p"), device: text("cpu") })
}

fn rig(instances: usize) -> Rig {
    let limits = LaneLimits {
        max_batch_items: 8,
        max_batch_tokens: 64,
        max_batch_delay: Duration::ZERO,
        max_queue_items: 1_000,
        max_queue_bytes: 100_000,
        packing: Packing::Length,
    };
    let (gate, runs, device_nanos) =
        (Arc::<Gate>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let runner =
        || Doubler { gate: Arc::clone(&gate), runs: Arc::clone(&runs), device_nanos: Arc::clone(&device_nanos) };
    let all = Metrics::new();
    let runners = (0..instances).map(|_| runner()).collect();
    let lane = Lane::start("doubler", limits, runners, &[], metrics(&all), || {}).unwrap();
    Rig { lane, gate, runs, device_nanos, metrics: all }
}

fn claim() -> Claim {
    Claim {
        tenant: TenantId::anonymous(),
        weight: NonZeroU32::MIN,
        priority: Priority::Interactive,
        deadline: Tick::now() + Duration::from_secs(600),
    }
}

fn load() -> Load {
    Load { length: 1, rows: 1, bytes: 8, group: 0, batchable: true }
}

fn numbers(numbers: impl IntoIterator<Item = u64>) -> Vec<(u64, Load)> {
    numbers.into_iter().map(|number| (number, load())).collect()
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_questions() {
    let rig = rig(3);
    rig.gate.open();
    let pending = rig.lane.submit(&claim(), numbers(0..500)).unwrap();
    let answers: Vec<u64> = pending.await.into_iter().map(|outcome| outcome.unwrap().answer).collect();
    assert_eq!(answers, (0..500).map(|n| n * 2).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_empty_submission_is_answered_at_once() {
    let rig = rig(1);
    assert!(rig.lane.submit(&claim(), Vec::new()).unwrap().await.is_empty());
}

#[tokio::test]
async fn one_bad_item_fails_alone() {
    let rig = rig(1);
    // The first takes the instance; the others wait behind the gate and make one batch.
    let first = rig.lane.submit(&claim(), numbers([1])).unwrap();
    let rest = rig.lane.submit(&claim(), numbers([2, BAD, 3, BEAST, 4])).unwrap();
    rig.gate.open();
    assert_eq!(first.await[0].as_ref().unwrap().answer, 2);
    let outcomes = rest.await;
    assert_eq!(outcomes[0].as_ref().unwrap().answer, 4);
    assert_eq!(outcomes[1], Err(ItemError::Failed { fault: Fault::Caller, message: "that is not doubled".to_owned() }));
    assert_eq!(outcomes[2].as_ref().unwrap().answer, 6);
    assert!(matches!(&outcomes[3], Err(ItemError::Failed { fault: Fault::Ours, .. })), "a panic is a failure");
    assert_eq!(outcomes[4].as_ref().unwrap().answer, 8);
}

#[tokio::test]
async fn shares_of_device_time_add_up_to_the_time_the_device_was_taken() {
    let rig = rig(2);
    rig.gate.open();
    let pending: Vec<_> = (0..40).map(|n| rig.lane.submit(&claim(), numbers(100..101 + n % 7)).unwrap()).collect();
    let mut shares = Duration::ZERO;
    for pending in pending {
        shares += pending.await.into_iter().map(|outcome| outcome.unwrap().device_time).sum::<Duration>();
    }
    assert_eq!(shares.as_nanos(), rig.device_nanos.load(Ordering::SeqCst) as u128);
}

#[tokio::test]
async fn who_left_is_dropped_before_the_device() {
    let rig = rig(1);
    let first = rig.lane.submit(&claim(), numbers([1])).unwrap();
    let left = rig.lane.submit(&claim(), numbers(0..20)).unwrap();
    let stayed = rig.lane.submit(&claim(), numbers([5])).unwrap();
    drop(left);
    rig.gate.open();
    first.await;
    assert_eq!(stayed.await[0].as_ref().unwrap().answer, 10);
    // The first may have had some of the 20 with it; after it, one batch of one.
    assert!(rig.runs.load(Ordering::SeqCst) <= 3);
    rig.lane.close();
    rig.lane.drained().await;
    assert!(rig.metrics.render().contains("halny_lane_abandoned_items_total"));
}

#[tokio::test]
async fn those_who_left_make_room_for_those_who_come() {
    let rig = rig(1);
    let _running = rig.lane.submit(&claim(), numbers([1])).unwrap();
    let full = rig.lane.submit(&claim(), numbers(0..990)).unwrap();
    let refused = rig.lane.submit(&claim(), numbers(0..100));
    assert!(matches!(refused, Err((Refusal::QueueItems { .. }, items)) if items.len() == 100));
    drop(full);
    let accepted = rig.lane.submit(&claim(), numbers(0..100)).unwrap();
    rig.gate.open();
    assert_eq!(accepted.await.len(), 100);
}

#[tokio::test]
async fn a_closed_lane_answers_what_it_had_accepted_and_takes_nothing_more() {
    let rig = rig(2);
    let accepted: Vec<_> = (0..30).map(|n| rig.lane.submit(&claim(), numbers([n])).unwrap()).collect();
    rig.lane.close();
    assert!(matches!(rig.lane.submit(&claim(), numbers([1])), Err((Refusal::Closed, _))));
    rig.gate.open();
    rig.lane.drained().await;
    for (n, pending) in accepted.into_iter().enumerate() {
        assert_eq!(pending.await[0].as_ref().unwrap().answer, n as u64 * 2);
    }
}

#[tokio::test]
async fn submissions_from_many_tasks_are_all_answered_once() {
    let rig = Arc::new(rig(4));
    rig.gate.open();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200u64 {
        let rig = Arc::clone(&rig);
        tasks.spawn(async move {
            for m in 0..10 {
                let pending = rig.lane.submit(&claim(), numbers([n * 10 + m])).unwrap();
                assert_eq!(pending.await[0].as_ref().unwrap().answer, (n * 10 + m) * 2);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(rig.metrics.render().contains(
        "halny_lane_finished_items_total{model=\"doubler\",version=\"v\",profile=\"p\",device=\"cpu\"} 2000"
    ));
}
