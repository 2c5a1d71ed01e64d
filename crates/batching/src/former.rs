//! The rule that admits items and forms batches, without threads and without a clock.
//!
//! Everything takes `now`. The [lane](crate::lane) calls it under a lock; the tests drive it with
//! a simulated clock and device.

use std::time::Duration;

use halny_types::project::Packing;
use halny_types::{Priority, Tick};

use crate::arrivals::Arrivals;
use crate::pack::{Candidate, Extent, by_arrival, by_length, fill};
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
    time: TimeModel,
    arrivals: Arrivals,
    last_arrival: Tick,
    last_batch: Tick,
    /// For each instance, when its batch is expected to end.
    busy_until: Vec<Option<Tick>>,
    /// Mean work of an item, and mean share of a batch's tokens that is work.
    mean_work: f64,
    mean_density: f64,
    /// What waits have lately been, to what was predicted for them.
    lag: f64,
    /// Batches are not made narrower than this for the sake of one deadline.
    narrowest: usize,
    is_gone: fn(&I) -> bool,
}

/// So many full batches' work waiting is a backlog.
const BACKLOG_BATCHES: usize = 2;

/// The share of items that may wait longer than predicted.
const LATE_SHARE: f64 = 0.003;

/// A lane that has run nothing for so long may have learned what no longer holds.
const UNSURE_AFTER: Duration = Duration::from_secs(1);

/// A tenth of a request's time is kept for what predictions leave out.
const MARGIN_SHARE: u32 = 10;

/// How much of a correction one item is worth.
const LAG_STEP: f64 = 0.01;

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
        Former {
            limits,
            queue: Queue::default(),
            time: TimeModel::default(),
            arrivals: Arrivals::default(),
            last_arrival: Tick::ZERO,
            last_batch: Tick::ZERO,
            busy_until: vec![None; instances.max(1)],
            mean_work: 1.0,
            mean_density: 1.0,
            lag: 1.0,
            narrowest: 0,
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
        &self.time
    }

    /// Teaches the model of batch time what warming up showed.
    pub fn warmed_up(&mut self, tokens: usize, took: Duration) {
        self.time.observe(tokens, took);
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
        self.arrivals.observe(now, items.len());
        self.last_arrival = now;
        for (item, load) in items {
            self.mean_work += 0.02 * (load.work() as f64 - self.mean_work);
            let expected = now + self.start_in(now, self.queue.work_ahead(claim));
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
        for (unit, count, limit) in
            [("inputs", items, self.limits.max_queue_items), ("bytes", bytes, self.limits.max_queue_bytes)]
        {
            if count > limit {
                return Some(Refusal::LargerThanQueue { unit, count, limit });
            }
        }
        let excess_items = (self.queue.items() + items).saturating_sub(self.limits.max_queue_items);
        if excess_items > 0 {
            let retry_after = self.drain_time(excess_items as f64 * self.mean_work);
            return Some(Refusal::QueueItems {
                waiting: self.queue.items(),
                limit: self.limits.max_queue_items,
                retry_after,
            });
        }
        let excess_bytes = self.queue.bytes().saturating_add(bytes).saturating_sub(self.limits.max_queue_bytes);
        if excess_bytes > 0 {
            let mean_bytes = self.queue.bytes() as f64 / self.queue.items().max(1) as f64;
            let retry_after = self.drain_time(excess_bytes as f64 / mean_bytes.max(1.0) * self.mean_work);
            return Some(Refusal::QueueBytes { limit: self.limits.max_queue_bytes, retry_after });
        }
        self.too_late(now, claim, work, largest)
    }

    /// When the last of this work would be answered, `ahead` having gone first.
    fn answered_in(&self, start: Duration, ahead: f64, largest: usize) -> Duration {
        let own = self.time.careful_seconds(self.full_batch_tokens(ahead + largest as f64).max(largest));
        start + Duration::from_secs_f64(own)
    }

    /// When a batch with `ahead` work before it would start: by the model, times what waits have
    /// lately been to what the model had said.
    fn start_in(&self, now: Tick, ahead: f64) -> Duration {
        let free_in = self.busy_until.iter().map(|busy| busy.map_or(Duration::ZERO, |end| now.until(end))).min();
        (free_in.unwrap_or_default() + self.drain_time(ahead)).mul_f64(self.lag)
    }

    /// Learns from an item that starts now how far predictions fall short: `lag` is kept where only
    /// three items in a thousand wait longer than was predicted for it (stochastic approximation of a
    /// quantile: Robbins and Monro, 1951). The model of batch time
    /// cannot know what else holds items up: other work on the machine, the network's share of
    /// the processors, packing's detours.
    fn learn_lag(&mut self, now: Tick, arrived: Tick, expected: Tick) {
        let (was, predicted) = (now.since(arrived).as_secs_f64(), expected.since(arrived).as_secs_f64());
        // Shorter predictions say nothing about how good predictions are: one batch more or less decides.
        let backlog = self.time.seconds(self.full_batch_tokens(f64::INFINITY)) * BACKLOG_BATCHES as f64;
        if predicted * self.busy_until.len() as f64 > backlog {
            let step = if was > predicted { LAG_STEP * (1.0 - LATE_SHARE) } else { -LAG_STEP * LATE_SHARE };
            self.lag = (self.lag * (1.0 + step)).clamp(1.0, 4.0);
        }
    }

    fn too_late(&self, now: Tick, claim: &Claim, work: usize, largest: usize) -> Option<Refusal> {
        let budget = now.until(claim.deadline);
        if budget.is_zero() {
            return Some(Refusal::Expired);
        }
        // `lag` covers all but three in a thousand; the rest, and writing the answer, has this.
        let patience = budget - budget / MARGIN_SHARE;
        let before_last = work.saturating_sub(largest) as f64;
        let needed = self.answered_in(self.drain_time(before_last), before_last, largest);
        if needed > patience {
            return (!self.is_unsure(now)).then_some(Refusal::Impatient { needed, budget });
        }
        let ahead = self.queue.work_ahead(claim) + before_last;
        let predicted = self.answered_in(self.start_in(now, ahead), ahead, largest);
        let late_by = predicted.checked_sub(patience).filter(|late| !late.is_zero())?;
        Some(Refusal::Deadline { predicted, budget, retry_after: late_by.max(Duration::from_millis(1)) })
    }

    /// Whether what was learned is old, and there is nothing a wrong guess could hold up: then one
    /// request is let through that would be refused. A lane that refuses all learns nothing, and
    /// would go on refusing long after what had slowed it down is over.
    fn is_unsure(&self, now: Tick) -> bool {
        let idle = self.queue.items() == 0 && self.busy_until.iter().all(Option::is_none);
        idle && now.since(self.last_batch) >= UNSURE_AFTER
    }

    /// How long all instances together take for this work, in the widest batches it can fill.
    fn drain_time(&self, work: f64) -> Duration {
        if work <= 0.0 {
            return Duration::ZERO;
        }
        let tokens = self.full_batch_tokens(work);
        let per_token = self.time.seconds(tokens) / tokens.max(1) as f64;
        Duration::from_secs_f64(work / self.mean_density * per_token / self.busy_until.len() as f64)
    }

    /// Tokens in the widest batch that this much work can fill.
    fn full_batch_tokens(&self, work: f64) -> usize {
        let widest = self.limits.max_batch_items as f64 * self.mean_work;
        (widest.min(work) / self.mean_density).clamp(1.0, self.limits.max_batch_tokens as f64) as usize
    }

    /// What instance number `instance`, which is free, should do now. What cannot be answered in
    /// time, and what nobody waits for any more, is taken out first.
    pub fn next(&mut self, now: Tick, instance: usize, dropped: &mut Dropped<I>) -> Decision<I> {
        if let Some(busy) = self.busy_until.get_mut(instance) {
            *busy = None;
        }
        let Some((seed, candidates)) = self.candidates(now, dropped) else { return Decision::Idle };
        let (places, extent) = self.choose(now, seed, &candidates);
        let batch_is_all = places.len() == self.queue.items();
        if batch_is_all && let Some(until) = self.worth_waiting(now, &places, &extent) {
            return Decision::Wait(until);
        }
        self.leave(now, instance, &places, extent)
    }

    /// From now on batches are not held back for others: the lane closes.
    pub fn stop_waiting(&mut self) {
        self.limits.max_batch_delay = Duration::ZERO;
    }

    /// A batch has ended.
    pub fn finished(&mut self, instance: usize, extent: &Extent, device_time: Duration) {
        if let Some(busy) = self.busy_until.get_mut(instance) {
            *busy = None;
        }
        self.time.observe(extent.tokens(), device_time);
        let density = extent.work as f64 / extent.tokens().max(1) as f64;
        self.mean_density += 0.05 * (density.clamp(0.01, 1.0) - self.mean_density);
    }

    /// Takes out every item whose client has gone, wherever it waits.
    pub fn sweep_gone(&mut self, gone: &mut Vec<Entry<I>>) {
        let places: Vec<Place> =
            self.queue.in_order().filter(|(_, entry)| (self.is_gone)(&entry.item)).map(|(place, _)| place).collect();
        gone.extend(places.into_iter().filter_map(|place| self.queue.remove(place)));
    }

    /// The item that is due first, and those that may run with it, in order.
    fn candidates(&mut self, now: Tick, dropped: &mut Dropped<I>) -> Option<(Due, Vec<Due>)> {
        loop {
            self.narrowest = self.narrowest();
            let horizon = self.limits.max_batch_items.saturating_mul(HORIZON_BATCHES);
            let seen: Vec<Due> =
                self.queue.in_order().take(horizon).map(|(place, entry)| self.due(now, place, entry)).collect();
            let mut dropped_any = false;
            for due in seen.iter().filter(|due| due.fate != Fate::Runs) {
                let out = if due.fate == Fate::Gone { &mut dropped.gone } else { &mut dropped.late };
                out.extend(self.queue.remove(due.place));
                dropped_any = true;
            }
            if dropped_any {
                continue;
            }
            let seed = *seen.iter().find(|due| due.overdue).or_else(|| seen.first())?;
            let joins = |due: &&Due| due.batchable && seed.batchable && due.group == seed.group;
            let mut candidates = vec![seed];
            candidates.extend(seen.iter().filter(|due| due.place != seed.place).filter(joins));
            return Some((seed, candidates));
        }
    }

    /// With a backlog, an item so near its deadline that only a narrow batch could meet it is let
    /// go: the narrow batch would take the device from those behind it, bring them near their
    /// deadlines in turn, and so on until every batch is narrow.
    fn narrowest(&self) -> usize {
        let full = self.full_batch_tokens(f64::INFINITY);
        if self.queue.work() >= BACKLOG_BATCHES * full { full / 2 } else { 0 }
    }

    fn due(&self, now: Tick, place: Place, entry: &Entry<I>) -> Due {
        let left = now.until(entry.claim.deadline).as_secs_f64();
        let tokens_max = self.tokens_within(left);
        let fate = if (self.is_gone)(&entry.item) {
            Fate::Gone
        } else if tokens_max < entry.load.work().max(self.narrowest) && !entry.is_probe {
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

    /// The widest batch that ends within so many seconds, by a careful guess.
    fn tokens_within(&self, seconds: f64) -> usize {
        let fixed = self.time.careful_seconds(0);
        let per_token = (self.time.careful_seconds(1_000_000) - fixed) / 1e6;
        if seconds < fixed {
            0
        } else if per_token <= 0.0 {
            usize::MAX
        } else {
            // `as` saturates, which is what a deadline far away should do.
            ((seconds - fixed) / per_token) as usize
        }
    }

    /// The places of the next batch, and its extent.
    fn choose(&self, now: Tick, seed: Due, candidates: &[Due]) -> (Vec<Place>, Extent) {
        debug_assert!(
            candidates.first().is_some_and(|first| first.place == seed.place),
            "the seed comes first at {now:?}"
        );
        let (class, below): (Vec<&Due>, Vec<&Due>) = candidates.iter().partition(|due| due.priority == seed.priority);
        let shapes: Vec<Candidate> = class.iter().map(|due| due.candidate).collect();
        let overdue: Vec<usize> =
            (0..class.len()).filter(|index| class.get(*index).is_some_and(|due| due.overdue)).collect();
        let taken = match self.limits.packing {
            Packing::Arrival => by_arrival(&shapes, &self.limits),
            // What has been passed over too often goes next, in order.
            Packing::Length if overdue.len() > 1 => {
                let late: Vec<Candidate> = overdue.iter().filter_map(|index| shapes.get(*index).copied()).collect();
                by_arrival(&late, &self.limits).into_iter().filter_map(|index| overdue.get(index).copied()).collect()
            }
            Packing::Length => by_length(&shapes, &self.limits, &self.time),
        };
        let mut places: Vec<Place> = taken.iter().filter_map(|index| class.get(*index)).map(|due| due.place).collect();
        let mut extent =
            taken.iter().filter_map(|index| shapes.get(*index)).fold(Extent::EMPTY, |e, item| e.with(item));
        if places.len() == class.len() {
            let others: Vec<Candidate> = below.iter().map(|due| due.candidate).collect();
            for index in fill(extent, &others, &self.limits, &self.time) {
                if let (Some(due), Some(item)) = (below.get(index), others.get(index)) {
                    places.push(due.place);
                    extent = extent.with(item);
                }
            }
        }
        places.sort_unstable();
        (places, extent)
    }

    /// Until when to wait for more, if that is worth it. One more item comes after `1 / rate`
    /// seconds and saves its share of the fixed cost, `fixed / rows`.
    fn worth_waiting(&self, now: Tick, places: &[Place], extent: &Extent) -> Option<Tick> {
        let full = extent.rows >= self.limits.max_batch_items
            || extent.tokens() + extent.longest > self.limits.max_batch_tokens.min(extent.tokens_max);
        let rate = self.arrivals.per_second(now);
        if full || self.limits.max_batch_delay.is_zero() || rate * self.time.fixed_seconds() <= extent.rows as f64 {
            return None;
        }
        let chosen = |place: &Place| places.contains(place);
        let waiting = self.queue.in_order().filter(|(place, _)| chosen(place));
        let (oldest, deadline) = waiting.fold((Tick::NEVER, Tick::NEVER), |(oldest, deadline), (_, entry)| {
            (oldest.min(entry.arrived), deadline.min(entry.claim.deadline))
        });
        let latest_start =
            deadline - Duration::from_secs_f64(self.time.careful_seconds(extent.tokens() + extent.longest));
        let quiet = self.last_arrival + Duration::from_secs_f64(GAPS_MAX / rate);
        let until = latest_start.min(oldest + self.limits.max_batch_delay).min(quiet);
        (until > now).then_some(until)
    }

    /// Takes the batch out of the queue and counts it against those it went ahead of.
    fn leave(&mut self, now: Tick, instance: usize, places: &[Place], extent: Extent) -> Decision<I> {
        if let Some(last) = places.last().copied() {
            let ahead = self.queue.in_order().map(|(place, _)| place).take_while(|place| *place < last);
            let passed: Vec<Place> = ahead.filter(|place| places.binary_search(place).is_err()).collect();
            passed.into_iter().for_each(|place| self.queue.pass_over(place));
        }
        let entries: Vec<Entry<I>> = places.iter().filter_map(|place| self.queue.take(*place)).collect();
        entries.iter().for_each(|entry| self.learn_lag(now, entry.arrived, entry.expected));
        self.last_batch = now;
        let expected = Duration::from_secs_f64(self.time.seconds(extent.tokens()));
        if let Some(busy) = self.busy_until.get_mut(instance) {
            *busy = Some(now + expected);
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
