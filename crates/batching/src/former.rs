//! The rule that admits items and forms batches, without threads and without a clock.
//!
//! Everything takes `now`. The [lane](crate::lane) calls it under a lock; the tests drive it with
//! a simulated clock and device.

use std::time::Duration;

use halny_types::project::Packing;
use halny_types::{Priority, Tick};

use crate::outlook::{BACKLOG_BATCHES, Outlook, Pace};
use crate::pack::{Candidate, Extent, by_arrival, by_length};
use crate::queue::{Entry, Place, Queue};
use crate::time_model::TimeModel;
use crate::{Claim, HORIZON_BATCHES, LaneLimits, Load, PASSED_OVER_MAX, Refusal};

/// Without an arrival for so many mean gaps, none is waited for: under Poisson arrivals one gap in
/// twenty is longer.
const GAPS_MAX: f64 = 3.0;

/// The lane's state: what waits, what runs, and what was learned.
pub struct Former<I> {
    limits: LaneLimits,
    queue: Queue<I>,
    outlook: Outlook,
    last_batch: Tick,
    /// What each instance runs.
    running: Vec<Option<Running>>,
    is_gone: fn(&I) -> bool,
}

/// A batch on an instance.
#[derive(Clone, Copy, Debug)]
struct Running {
    /// When it is expected to end.
    until: Tick,
    priority: Priority,
}

/// A lane that has run nothing for so long may have learned what no longer holds.
const UNSURE_AFTER: Duration = Duration::from_secs(1);

/// A tenth of a request's time is kept for what predictions leave out.
const MARGIN_SHARE: u32 = 10;

/// A batch, ready to run.
#[derive(Debug)]
pub struct Batch<I> {
    /// Its items, in the order in which they were due.
    pub entries: Vec<Entry<I>>,
    /// Its size.
    pub extent: Extent,
}

/// What an instance should do now.
#[derive(Debug)]
pub enum Decision<I> {
    /// Run this.
    Run(Batch<I>),
    /// Ask again at this moment, or when something arrives.
    Wait(Tick),
    /// Nothing waits: ask again when something arrives.
    Idle,
}

/// What left the queue without running.
#[derive(Debug)]
pub struct Dropped<I> {
    /// Items whose deadline cannot be met any more.
    pub late: Vec<Entry<I>>,
    /// Items whose client has gone.
    pub gone: Vec<Entry<I>>,
}

impl<I> Default for Dropped<I> {
    fn default() -> Dropped<I> {
        Dropped { late: Vec::new(), gone: Vec::new() }
    }
}

impl<I> Former<I> {
    /// An empty lane with so many instances. `is_gone` tells whether an item's client has left.
    #[must_use]
    pub fn new(limits: LaneLimits, instances: usize, is_gone: fn(&I) -> bool) -> Former<I> {
        let instances = instances.max(1);
        let outlook = Outlook::new(&limits, instances);
        Former {
            limits,
            queue: Queue::default(),
            outlook,
            last_batch: Tick::ZERO,
            running: vec![None; instances],
            is_gone,
        }
    }

    /// The items that wait.
    #[must_use]
    pub fn queue(&self) -> &Queue<I> {
        &self.queue
    }

    /// What was learned of batch time.
    #[must_use]
    pub fn time(&self) -> &TimeModel {
        &self.outlook.time
    }

    /// Teaches the model of batch time what warming up showed.
    pub fn warmed_up(&mut self, tokens: usize, took: Duration) {
        self.outlook.time.observe(tokens, took);
    }

    /// Accepts all of these items, or none.
    ///
    /// # Errors
    /// The reason, with the items given back.
    pub fn offer(&mut self, now: Tick, claim: &Claim, items: Vec<(I, Load)>) -> Result<(), (Refusal, Vec<(I, Load)>)> {
        if let Some(refusal) = self.refusal(now, claim, items.iter().map(|(_, load)| load)) {
            return Err((refusal, items));
        }
        let is_probe = self.is_unsure(now);
        self.outlook.came(now, claim.priority, items.iter().map(|(_, load)| load));
        let (pace, free_in) = (self.outlook.pace(now, claim.priority), self.free_in(now, claim.priority));
        for (item, load) in items {
            let ahead = self.queue.work_ahead(claim);
            let expected = now + self.outlook.start_in(claim.priority, pace, free_in, ahead);
            self.queue.push(Entry {
                item,
                load,
                claim: claim.clone(),
                arrived: now,
                expected,
                passed_over: 0,
                is_probe,
            });
        }
        Ok(())
    }

    /// Why these items would be refused now; `None` when they would be accepted.
    pub fn refusal<'a>(&self, now: Tick, claim: &Claim, loads: impl Iterator<Item = &'a Load>) -> Option<Refusal> {
        let (mut items, mut bytes, mut work, mut largest) = (0usize, 0usize, 0usize, 0usize);
        for load in loads {
            let LaneLimits { max_batch_items: max_rows, max_batch_tokens: max_tokens, .. } = self.limits;
            if load.rows > max_rows || load.length.saturating_mul(load.rows) > max_tokens {
                return Some(Refusal::TooLarge { rows: load.rows, length: load.length, max_rows, max_tokens });
            }
            items += 1;
            bytes = bytes.saturating_add(load.bytes);
            work += load.work();
            largest = largest.max(load.work());
        }
        let (items_max, bytes_max) = self.room(claim.priority);
        for (unit, count, limit) in [("inputs", items, items_max), ("bytes", bytes, bytes_max)] {
            if count > limit {
                return Some(Refusal::LargerThanQueue { unit, count, limit });
            }
        }
        let pace = self.outlook.pace(now, claim.priority);
        let excess_items = (self.queue.items() + items).saturating_sub(items_max);
        if excess_items > 0 {
            let retry_after = self.outlook.drain_time(pace, excess_items as f64 * pace.mean_work);
            return Some(Refusal::QueueItems { waiting: self.queue.items(), limit: items_max, retry_after });
        }
        let excess_bytes = self.queue.bytes().saturating_add(bytes).saturating_sub(bytes_max);
        if excess_bytes > 0 {
            let mean_bytes = self.queue.bytes() as f64 / self.queue.items().max(1) as f64;
            let excess_items = excess_bytes as f64 / mean_bytes.max(1.0);
            let retry_after = self.outlook.drain_time(pace, excess_items * pace.mean_work);
            return Some(Refusal::QueueBytes { limit: bytes_max, retry_after });
        }
        self.too_late(now, claim, pace, work, largest)
    }

    /// Items and bytes that may wait when one of this class joins them. Background work may fill half
    /// the queue: the other half is there for those who go first.
    fn room(&self, priority: Priority) -> (usize, usize) {
        let LaneLimits { max_queue_items: items, max_queue_bytes: bytes, .. } = self.limits;
        if priority == Priority::Batch { (items.div_ceil(2), bytes.div_ceil(2)) } else { (items, bytes) }
    }

    /// How long until an instance is free for work of this class.
    fn free_in(&self, now: Tick, priority: Priority) -> Duration {
        // Where background work has all that it may have, it waits for some of its own to end.
        let held = priority == Priority::Batch && self.held_back(now).is_some();
        let counts = |running: &&Option<Running>| !held || running.is_some_and(|r| r.priority == Priority::Batch);
        let ends = self.running.iter().filter(counts).map(|r| r.map_or(Duration::ZERO, |r| now.until(r.until)));
        ends.min().unwrap_or_default()
    }

    /// Until when, at most, background work has as many instances as it may have now.
    fn held_back(&self, now: Tick) -> Option<Tick> {
        let background = &self.outlook.background;
        let has = self.running.iter().flatten().filter(|running| running.priority == Priority::Batch).count();
        background.about_until(now).filter(|_| has >= background.instances_max(now, self.running.len()))
    }

    fn too_late(&self, now: Tick, claim: &Claim, pace: Pace, work: usize, largest: usize) -> Option<Refusal> {
        let budget = now.until(claim.deadline);
        if budget.is_zero() {
            return Some(Refusal::Expired);
        }
        // `lag` covers all but three in a thousand; the rest, and writing the answer, has this.
        let patience = budget - budget / MARGIN_SHARE;
        let before_last = work.saturating_sub(largest) as f64;
        let (outlook, priority) = (&self.outlook, claim.priority);
        let alone = outlook.pace_alone(priority);
        let needed = outlook.answered_in(alone, outlook.drain_time(alone, before_last), before_last, largest);
        if needed > patience {
            return (!self.is_unsure(now)).then_some(Refusal::Impatient { needed, budget });
        }
        let ahead = self.queue.work_ahead(claim) + before_last;
        let start = outlook.start_in(priority, pace, self.free_in(now, priority), ahead);
        let predicted = outlook.answered_in(pace, start, ahead, largest);
        let late_by = predicted.checked_sub(patience).filter(|late| !late.is_zero())?;
        Some(Refusal::Deadline { predicted, budget, retry_after: late_by.max(Duration::from_millis(1)) })
    }

    /// Whether what was learned is old, and there is nothing a wrong guess could hold up: then one
    /// request is let through that would be refused. A lane that refuses all learns nothing, and
    /// would go on refusing long after what had slowed it down is over.
    fn is_unsure(&self, now: Tick) -> bool {
        let idle = self.queue.items() == 0 && self.running.iter().all(Option::is_none);
        idle && now.since(self.last_batch) >= UNSURE_AFTER
    }

    /// What instance number `instance`, which is free, should do now. What cannot be answered in
    /// time, and what nobody waits for any more, is taken out first.
    pub fn next(&mut self, now: Tick, instance: usize, dropped: &mut Dropped<I>) -> Decision<I> {
        if let Some(running) = self.running.get_mut(instance) {
            *running = None;
        }
        let Some(candidates) = self.candidates(now, dropped) else { return Decision::Idle };
        let priority = candidates.first().map_or(Priority::Batch, |seed| seed.priority);
        if priority == Priority::Batch
            && let Some(until) = self.held_back(now)
        {
            return Decision::Wait(until);
        }
        let limits = self.limits_of(now, priority);
        let (places, extent) = self.choose(&limits, &candidates);
        let batch_is_all = places.len() == self.queue.items();
        if batch_is_all && let Some(until) = self.worth_waiting(now, priority, &limits, &places, &extent) {
            return Decision::Wait(until);
        }
        self.leave(now, instance, priority, &places, extent)
    }

    /// The limits of a batch of this class.
    fn limits_of(&self, now: Tick, priority: Priority) -> LaneLimits {
        LaneLimits { max_batch_tokens: self.outlook.tokens_max(now, priority), ..self.limits.clone() }
    }

    /// From now on batches are not held back for others: the lane closes.
    pub fn stop_waiting(&mut self) {
        self.limits.max_batch_delay = Duration::ZERO;
        self.outlook.background.close();
    }

    /// A batch has ended.
    pub fn finished(&mut self, instance: usize, extent: &Extent, device_time: Duration) {
        if let Some(running) = self.running.get_mut(instance) {
            *running = None;
        }
        self.outlook.ran(extent, device_time);
    }

    /// Takes out every item whose client has gone, wherever it waits.
    pub fn sweep_gone(&mut self, gone: &mut Vec<Entry<I>>) {
        let places: Vec<Place> =
            self.queue.in_order().filter(|(_, entry)| (self.is_gone)(&entry.item)).map(|(place, _)| place).collect();
        gone.extend(places.into_iter().filter_map(|place| self.queue.remove(place)));
    }

    /// The item that is due first, and after it those that may run with it, in order: of its class, so
    /// that no class waits for another's items while its batch runs.
    fn candidates(&mut self, now: Tick, dropped: &mut Dropped<I>) -> Option<Vec<Due>> {
        loop {
            let first = self.queue.in_order().next().map(|(_, entry)| entry.claim.priority)?;
            let (horizon, narrowest) = (self.horizon(now, first), self.narrowest(now));
            let seen: Vec<Due> = self
                .queue
                .in_order()
                .take(horizon)
                .map(|(place, entry)| self.due(now, place, entry, narrowest(entry.claim.priority)))
                .collect();
            let mut dropped_any = false;
            for due in seen.iter().filter(|due| due.fate != Fate::Runs) {
                let out = if due.fate == Fate::Gone { &mut dropped.gone } else { &mut dropped.late };
                out.extend(self.queue.remove(due.place));
                dropped_any = true;
            }
            if dropped_any {
                continue;
            }
            let class = || seen.iter().filter(|due| due.priority == first);
            let seed = *class().find(|due| due.overdue).or_else(|| class().next())?;
            let joins = |due: &&Due| due.batchable && seed.batchable && due.group == seed.group;
            let mut candidates = vec![seed];
            candidates.extend(class().filter(|due| due.place != seed.place).filter(joins));
            return Some(candidates);
        }
    }

    /// How many items of the order packing looks at: what so many batches of this class can hold.
    fn horizon(&self, now: Tick, priority: Priority) -> usize {
        let most = self.limits.max_batch_items;
        let fit = self.outlook.tokens_max(now, priority) as f64 / self.outlook.mean_work(priority).max(1.0);
        let batch = if priority == Priority::Batch { (fit.ceil() as usize).clamp(1, most.max(1)) } else { most };
        batch.saturating_mul(HORIZON_BATCHES)
    }

    /// With a backlog, an item so near its deadline that only a narrow batch could meet it is let
    /// go: the narrow batch would take the device from those behind it, bring them near their
    /// deadlines in turn, and so on until every batch is narrow. How narrow, for each class: what
    /// waits behind a class is no backlog of its.
    fn narrowest(&self, now: Tick) -> impl Fn(Priority) -> usize + use<I> {
        let [background, interactive, system] =
            [Priority::Batch, Priority::Interactive, Priority::System].map(|class| {
                let full = self.outlook.full_batch_tokens(self.outlook.pace(now, class), f64::INFINITY);
                if self.queue.work_down_to(class) >= BACKLOG_BATCHES * full { full / 2 } else { 0 }
            });
        move |class| match class {
            Priority::Batch => background,
            Priority::Interactive => interactive,
            Priority::System => system,
        }
    }

    fn due(&self, now: Tick, place: Place, entry: &Entry<I>, narrowest: usize) -> Due {
        let left = now.until(entry.claim.deadline).as_secs_f64();
        let tokens_max = self.outlook.time.careful_tokens_in(left);
        let fate = if (self.is_gone)(&entry.item) {
            Fate::Gone
        } else if tokens_max < entry.load.work().max(narrowest) && !entry.is_probe {
            Fate::Late
        } else {
            Fate::Runs
        };
        Due {
            place,
            candidate: Candidate { length: entry.load.length, rows: entry.load.rows, tokens_max },
            priority: entry.claim.priority,
            group: entry.load.group,
            batchable: entry.load.batchable,
            overdue: entry.passed_over >= PASSED_OVER_MAX,
            fate,
        }
    }

    /// The places of the next batch, and its extent. The first of the candidates is in it.
    fn choose(&self, limits: &LaneLimits, candidates: &[Due]) -> (Vec<Place>, Extent) {
        let shapes: Vec<Candidate> = candidates.iter().map(|due| due.candidate).collect();
        let overdue: Vec<usize> =
            (0..candidates.len()).filter(|index| candidates.get(*index).is_some_and(|due| due.overdue)).collect();
        let taken = match limits.packing {
            Packing::Arrival => by_arrival(&shapes, limits),
            // What has been passed over too often goes next, in order.
            Packing::Length if overdue.len() > 1 => {
                let late: Vec<Candidate> = overdue.iter().filter_map(|index| shapes.get(*index).copied()).collect();
                by_arrival(&late, limits).into_iter().filter_map(|index| overdue.get(index).copied()).collect()
            }
            Packing::Length => by_length(&shapes, limits, &self.outlook.time),
        };
        let mut places: Vec<Place> =
            taken.iter().filter_map(|index| candidates.get(*index)).map(|due| due.place).collect();
        let extent = taken.iter().filter_map(|index| shapes.get(*index)).fold(Extent::EMPTY, |e, item| e.with(item));
        places.sort_unstable();
        (places, extent)
    }

    /// Until when to wait for more, if that is worth it. One more item comes after `1 / rate`
    /// seconds and saves its share of the fixed cost, `fixed / rows`.
    fn worth_waiting(
        &self,
        now: Tick,
        priority: Priority,
        limits: &LaneLimits,
        places: &[Place],
        extent: &Extent,
    ) -> Option<Tick> {
        let full = extent.rows >= limits.max_batch_items
            || extent.tokens() + extent.longest > limits.max_batch_tokens.min(extent.tokens_max);
        let ((rate, last_arrival), time) = (self.outlook.arrivals(now, priority), &self.outlook.time);
        if full || limits.max_batch_delay.is_zero() || rate * time.fixed_seconds() <= extent.rows as f64 {
            return None;
        }
        let chosen = |place: &Place| places.contains(place);
        let waiting = self.queue.in_order().filter(|(place, _)| chosen(place));
        let (oldest, deadline) = waiting.fold((Tick::NEVER, Tick::NEVER), |(oldest, deadline), (_, entry)| {
            (oldest.min(entry.arrived), deadline.min(entry.claim.deadline))
        });
        let latest_start = deadline - Duration::from_secs_f64(time.careful_seconds(extent.tokens() + extent.longest));
        let quiet = last_arrival + Duration::from_secs_f64(GAPS_MAX / rate);
        let until = latest_start.min(oldest + limits.max_batch_delay).min(quiet);
        (until > now).then_some(until)
    }

    /// Takes the batch out of the queue and counts it against those it went ahead of.
    fn leave(
        &mut self,
        now: Tick,
        instance: usize,
        priority: Priority,
        places: &[Place],
        extent: Extent,
    ) -> Decision<I> {
        if let Some(last) = places.last().copied() {
            let ahead = self.queue.in_order().map(|(place, _)| place).take_while(|place| *place < last);
            let passed: Vec<Place> = ahead.filter(|place| places.binary_search(place).is_err()).collect();
            passed.into_iter().for_each(|place| self.queue.pass_over(place));
        }
        let entries: Vec<Entry<I>> = places.iter().filter_map(|place| self.queue.take(*place)).collect();
        self.outlook.learn_lag(now, priority, entries.iter().map(|entry| (entry.arrived, entry.expected)));
        self.last_batch = now;
        let takes = Duration::from_secs_f64(self.outlook.time.seconds(extent.tokens()));
        self.outlook.background.starts(now, priority, takes);
        if let Some(running) = self.running.get_mut(instance) {
            *running = Some(Running { until: now + takes, priority });
        }
        Decision::Run(Batch { entries, extent })
    }
}

/// An item seen from the front of the queue.
#[derive(Clone, Copy, Debug)]
struct Due {
    place: Place,
    candidate: Candidate,
    priority: Priority,
    group: u64,
    batchable: bool,
    overdue: bool,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    Late,
    Gone,
}
