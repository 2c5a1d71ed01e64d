//! What a lane has learned of its device and of those who ask, and what it predicts by it.
//!
//! Background work and the rest are learned apart: that thousands of background items wait, long and
//! longer than was thought, says nothing about who goes first.

use std::time::Duration;

use halny_types::{Priority, Tick};

use crate::background::{Background, calm_seconds};
use crate::pack::Extent;
use crate::rate::Rate;
use crate::time_model::TimeModel;
use crate::{LaneLimits, Load};

/// So many full batches' work waiting is a backlog.
pub(crate) const BACKLOG_BATCHES: usize = 2;

/// The memory of the rate at which items arrive: what decides whether waiting can widen a batch.
const ARRIVALS_MEMORY_SECONDS: f64 = 0.25;

/// The share of items that may wait longer than predicted.
const LATE_SHARE: f64 = 0.003;

/// The same of background items, for which little depends on it: people come and go, and what was
/// learned while they were about should not be believed for long after.
const BACKGROUND_LATE_SHARE: f64 = 0.1;

/// How much of a correction one item is worth.
const LAG_STEP: f64 = 0.01;

/// What was learned, and what is predicted.
pub(crate) struct Outlook {
    max_batch_items: usize,
    max_batch_tokens: usize,
    instances: usize,
    pub(crate) time: TimeModel,
    pub(crate) background: Background,
    /// Mean share of a batch's tokens that is work.
    mean_density: f64,
    /// Of those who go first, and of background work.
    kinds: [Kind; 2],
}

struct Kind {
    arrivals: Rate,
    last_arrival: Tick,
    /// Mean work of an item.
    mean_work: f64,
    /// What waits have lately been, to what was predicted for them.
    lag: f64,
    late_share: f64,
}

/// How fast the lane gets through the work of a class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Tokens a batch may have.
    tokens_max: usize,
    /// Instances that work on it, in the mean.
    instances: f64,
    /// Mean work of an item.
    pub(crate) mean_work: f64,
}

impl Outlook {
    pub(crate) fn new(limits: &LaneLimits, instances: usize) -> Outlook {
        let kind = |late_share| Kind {
            arrivals: Rate::over(ARRIVALS_MEMORY_SECONDS),
            last_arrival: Tick::ZERO,
            mean_work: 1.0,
            lag: 1.0,
            late_share,
        };
        Outlook {
            max_batch_items: limits.max_batch_items,
            max_batch_tokens: limits.max_batch_tokens,
            instances,
            time: TimeModel::default(),
            background: Background::default(),
            mean_density: 1.0,
            kinds: [kind(LATE_SHARE), kind(BACKGROUND_LATE_SHARE)],
        }
    }

    fn kind(&self, priority: Priority) -> &Kind {
        let [first, background] = &self.kinds;
        if priority == Priority::Batch { background } else { first }
    }

    fn kind_mut(&mut self, priority: Priority) -> &mut Kind {
        let [first, background] = &mut self.kinds;
        if priority == Priority::Batch { background } else { first }
    }

    /// A request was accepted.
    pub(crate) fn came<'a>(&mut self, now: Tick, priority: Priority, loads: impl Iterator<Item = &'a Load>) {
        let (mut items, mut rows, mut longest) = (0usize, 0usize, 0usize);
        let (rows_max, tokens_max) = (self.max_batch_items, self.max_batch_tokens);
        let kind = self.kind_mut(priority);
        for load in loads {
            items += 1;
            rows = rows.saturating_add(load.rows);
            longest = longest.max(load.length);
            kind.mean_work += 0.02 * (load.work() as f64 - kind.mean_work);
        }
        if items > 0 {
            kind.arrivals.observe(now, items as f64);
            kind.last_arrival = now;
            self.background.came(now, priority, rows.min(rows_max).saturating_mul(longest).min(tokens_max));
        }
    }

    /// A batch has run.
    pub(crate) fn ran(&mut self, extent: &Extent, device_time: Duration) {
        self.time.observe(extent.tokens(), device_time);
        let density = extent.work as f64 / extent.tokens().max(1) as f64;
        self.mean_density += 0.05 * (density.clamp(0.01, 1.0) - self.mean_density);
    }

    /// Items of this class a second, and when the last one came.
    pub(crate) fn arrivals(&self, now: Tick, priority: Priority) -> (f64, Tick) {
        let kind = self.kind(priority);
        (kind.arrivals.per_second(now), kind.last_arrival)
    }

    /// Mean work of an item of this class.
    pub(crate) fn mean_work(&self, priority: Priority) -> f64 {
        self.kind(priority).mean_work
    }

    /// Tokens that a batch of this class may have now.
    pub(crate) fn tokens_max(&self, now: Tick, priority: Priority) -> usize {
        if priority == Priority::Batch {
            self.tokens_in(self.background.seconds_max(now, self.instances, &self.time))
        } else {
            self.max_batch_tokens
        }
    }

    fn tokens_in(&self, seconds: f64) -> usize {
        self.time.tokens_in(seconds).clamp(1, self.max_batch_tokens)
    }

    /// How fast the lane gets through the work of this class, as things are.
    pub(crate) fn pace(&self, now: Tick, priority: Priority) -> Pace {
        let instances = match priority {
            Priority::Batch => self.background.instances_left(now, self.instances),
            Priority::Interactive | Priority::System => self.instances as f64,
        };
        Pace { tokens_max: self.tokens_max(now, priority), instances, mean_work: self.mean_work(priority) }
    }

    /// The same if nobody else asked for anything.
    pub(crate) fn pace_alone(&self, priority: Priority) -> Pace {
        let tokens_max = match priority {
            Priority::Batch => self.tokens_in(calm_seconds(&self.time)),
            Priority::Interactive | Priority::System => self.max_batch_tokens,
        };
        Pace { tokens_max, instances: self.instances as f64, mean_work: self.mean_work(priority) }
    }

    /// Tokens in the widest batch that this much work can fill.
    pub(crate) fn full_batch_tokens(&self, pace: Pace, work: f64) -> usize {
        let widest = self.max_batch_items as f64 * pace.mean_work;
        (widest.min(work) / self.mean_density).clamp(1.0, pace.tokens_max as f64) as usize
    }

    /// How long this work takes at this pace, in the widest batches it can fill.
    pub(crate) fn drain_time(&self, pace: Pace, work: f64) -> Duration {
        if work <= 0.0 {
            return Duration::ZERO;
        }
        // Where a batch may be narrower than an item, items run one by one.
        let tokens = self.full_batch_tokens(pace, work).max(pace.mean_work.min(work) as usize);
        let per_token = self.time.seconds(tokens) / tokens.max(1) as f64;
        Duration::from_secs_f64(work / self.mean_density * per_token / pace.instances)
    }

    /// When the last of this work would be answered, `ahead` having gone first.
    pub(crate) fn answered_in(&self, pace: Pace, start: Duration, ahead: f64, largest: usize) -> Duration {
        let tokens = self.full_batch_tokens(pace, ahead + largest as f64).max(largest);
        start + Duration::from_secs_f64(self.time.careful_seconds(tokens))
    }

    /// When a batch of this class starts that has `ahead` work before it, an instance being free for it
    /// in `free_in`: by the model, times what waits have lately been to what the model had said.
    pub(crate) fn start_in(&self, priority: Priority, pace: Pace, free_in: Duration, ahead: f64) -> Duration {
        (free_in + self.drain_time(pace, ahead)).mul_f64(self.kind(priority).lag)
    }

    /// Learns from the items that start now, each with when it arrived and when it was expected to start, how far
    /// predictions fall short: `lag` is kept where only
    /// three items in a thousand wait longer than was predicted for it (stochastic approximation of a
    /// quantile: Robbins and Monro, 1951). The model of batch time cannot know what else holds items
    /// up: other work on the machine, the network's share of the processors, packing's detours.
    pub(crate) fn learn_lag(&mut self, now: Tick, priority: Priority, items: impl Iterator<Item = (Tick, Tick)>) {
        // Shorter predictions say nothing about how good predictions are: one batch more or less decides.
        let full = self.full_batch_tokens(self.pace(now, priority), f64::INFINITY);
        let backlog = self.time.seconds(full) * BACKLOG_BATCHES as f64;
        let instances = self.instances as f64;
        let kind = self.kind_mut(priority);
        for (arrived, expected) in items {
            let (was, predicted) = (now.since(arrived).as_secs_f64(), expected.since(arrived).as_secs_f64());
            if predicted * instances > backlog {
                let late = kind.late_share;
                let step = if was > predicted { LAG_STEP * (1.0 - late) } else { -LAG_STEP * late };
                kind.lag = (kind.lag * (1.0 + step)).clamp(1.0, 4.0);
            }
        }
    }
}
