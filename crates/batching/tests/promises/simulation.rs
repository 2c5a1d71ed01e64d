//! A lane's rule with a simulated clock and a simulated device.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use halny_batching::background::ABOUT;
use halny_batching::former::{Decision, Dropped, Former};
use halny_batching::pack::Extent;
use halny_batching::{Claim, LaneLimits, Load, Packing, Refusal};
use halny_types::{Priority, TenantId, Tick};

/// Something that will arrive.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: Tick,
    pub(crate) tenant: u8,
    pub(crate) weight: u32,
    pub(crate) priority: Priority,
    pub(crate) length: usize,
    pub(crate) deadline: Duration,
    pub(crate) leaves: bool,
}

impl Arrival {
    pub(crate) fn at(micros: u64, length: usize) -> Arrival {
        Arrival {
            at: Tick::from_nanos(1_000 + micros * 1_000),
            tenant: 0,
            weight: 1,
            priority: Priority::Interactive,
            length,
            deadline: Duration::from_secs(3_600),
            leaves: false,
        }
    }

    pub(crate) fn claim(&self) -> Claim {
        Claim {
            tenant: TenantId::new(&format!("t{}", self.tenant)).unwrap(),
            weight: NonZeroU32::new(self.weight).unwrap(),
            priority: self.priority,
            deadline: self.at + self.deadline,
        }
    }

    pub(crate) fn load(&self) -> Load {
        Load { length: self.length, rows: 1, bytes: self.length, group: 0, batchable: true }
    }
}

/// A device that takes `fixed + slope * tokens` for a batch, exactly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) fixed: Duration,
    pub(crate) slope: Duration,
}

impl Device {
    pub(crate) fn takes(&self, tokens: usize) -> Duration {
        self.fixed + self.slope * u32::try_from(tokens).unwrap()
    }
}

#[derive(Debug, Default)]
pub(crate) struct History {
    /// When each answered item was answered, and the batches that had gone ahead of it.
    pub(crate) answered: HashMap<usize, (Tick, u32)>,
    pub(crate) late: Vec<usize>,
    pub(crate) gone: Vec<usize>,
    pub(crate) refused: Vec<(usize, Refusal)>,
    /// Start, items, extent of each batch.
    pub(crate) batches: Vec<(Tick, Vec<usize>, Extent)>,
    /// The longest an instance was free while something waited that might have run there.
    pub(crate) idle_in_vain: Duration,
}

/// An item: its index, and whether its client has left.
pub(crate) type SimItem = (usize, bool);

/// A batch on the device: when it ends, its items with the batches that went ahead of each, its size,
/// its class.
type OnDevice = (Tick, Vec<(usize, u32)>, Extent, Priority);

pub(crate) struct Simulation {
    former: Former<SimItem>,
    limits: LaneLimits,
    device: Device,
    running: Vec<Option<OnDevice>>,
    ask_at: Vec<Tick>,
    free_since: Vec<Tick>,
    /// Whether an instance was last left free for who may come.
    left_free: Vec<bool>,
    /// When an interactive item last came, began or ended.
    about: Option<Tick>,
    history: History,
}

pub(crate) fn limits() -> LaneLimits {
    LaneLimits {
        max_batch_items: 8,
        max_batch_tokens: 1_024,
        max_batch_delay: Duration::from_millis(5),
        max_queue_items: 10_000,
        max_queue_bytes: 100_000_000,
        packing: Packing::Length,
    }
}

pub(crate) const DEVICE: Device = Device { fixed: Duration::from_millis(1), slope: Duration::from_micros(20) };

impl Simulation {
    pub(crate) fn new(limits: LaneLimits, instances: usize, device: Device) -> Simulation {
        let mut former = Former::new(limits.clone(), instances, |item: &SimItem| item.1);
        for tokens in [1, 16, 64, 256] {
            former.warmed_up(tokens, device.takes(tokens));
        }
        Simulation {
            former,
            limits,
            device,
            running: vec![None; instances],
            ask_at: vec![Tick::NEVER; instances],
            free_since: vec![Tick::ZERO; instances],
            left_free: vec![false; instances],
            about: None,
            history: History::default(),
        }
    }

    /// Plays all arrivals (sorted by time) and runs until nothing waits or runs.
    pub(crate) fn play(self, arrivals: &[Arrival]) -> History {
        self.play_until(arrivals, Tick::NEVER)
    }

    /// The same, but stops at `end_of_play`.
    pub(crate) fn play_until(mut self, arrivals: &[Arrival], end_of_play: Tick) -> History {
        let mut next = 0;
        loop {
            let arrival = arrivals.get(next).map_or(Tick::NEVER, |arrival| arrival.at);
            let end = self.running.iter().flatten().map(|running| running.0).min().unwrap_or(Tick::NEVER);
            let ask = self.ask_at.iter().copied().min().unwrap_or(Tick::NEVER);
            let now = arrival.min(end).min(ask);
            if now > end_of_play {
                return self.history;
            }
            if now == Tick::NEVER {
                assert_eq!(self.former.queue().items(), 0, "everything left the queue");
                assert_eq!(self.former.queue().bytes(), 0, "and so did its bytes");
                return self.history;
            }
            self.end_batches(now);
            while arrivals.get(next).is_some_and(|arrival| arrival.at <= now) {
                self.arrive(now, next, &arrivals[next]);
                next += 1;
            }
            (0..self.running.len()).for_each(|instance| self.ask(now, instance));
        }
    }

    fn arrive(&mut self, now: Tick, index: usize, arrival: &Arrival) {
        let offered = self.former.offer(now, &arrival.claim(), vec![((index, arrival.leaves), arrival.load())]);
        if let Err((refusal, items)) = offered {
            assert_eq!(items.len(), 1, "a refusal gives the items back");
            self.history.refused.push((index, refusal));
        } else if arrival.priority == Priority::Interactive {
            self.about = Some(now);
        }
    }

    fn end_batches(&mut self, now: Tick) {
        for (instance, running) in self.running.iter_mut().enumerate() {
            if let Some((end, items, extent, priority)) = running.take_if(|running| running.0 <= now) {
                self.former.finished(instance, &extent, self.device.takes(extent.tokens()));
                self.free_since[instance] = end;
                if priority == Priority::Interactive {
                    self.about = Some(end);
                }
                for (item, passed_over) in items {
                    assert!(self.history.answered.insert(item, (end, passed_over)).is_none(), "answered once");
                }
            }
        }
    }

    fn ask(&mut self, now: Tick, instance: usize) {
        if self.running[instance].is_some() {
            return;
        }
        let mut dropped = Dropped::default();
        // Between two events nothing changes: it could not run anything until now.
        if std::mem::take(&mut self.left_free[instance]) {
            self.free_since[instance] = now;
        }
        // Those who wait longest stand in front, but for classes and tenants.
        let oldest = self.former.queue().in_order().take(2_000).map(|(_, entry)| entry.arrived).min();
        self.ask_at[instance] = Tick::NEVER;
        match self.former.next(now, instance, &mut dropped) {
            Decision::Run(batch) => {
                let extent = batch.extent;
                assert!(extent.rows <= self.limits.max_batch_items, "rows within the limit");
                assert!(extent.tokens() <= self.limits.max_batch_tokens, "tokens within the limit");
                assert!(!batch.entries.is_empty());
                assert!(batch.entries.iter().all(|entry| !entry.item.1), "who left never reaches the device");
                let longest = batch.entries.iter().map(|entry| entry.load.length).max().unwrap();
                assert_eq!((extent.rows, extent.longest), (batch.entries.len(), longest));
                let priority = batch.entries[0].claim.priority;
                assert!(batch.entries.iter().all(|entry| entry.claim.priority == priority), "classes do not mix");
                if priority == Priority::Interactive {
                    self.about = Some(now);
                }
                if let Some(oldest) = oldest {
                    let waited = now.since(oldest.max(self.free_since[instance]));
                    self.history.idle_in_vain = self.history.idle_in_vain.max(waited);
                }
                let items: Vec<_> = batch.entries.iter().map(|entry| (entry.item.0, entry.passed_over)).collect();
                self.history.batches.push((now, items.iter().map(|item| item.0).collect(), extent));
                self.running[instance] = Some((now + self.device.takes(extent.tokens()), items, extent, priority));
            }
            Decision::Wait(until) => {
                assert!(until > now, "waiting is for a moment to come");
                self.ask_at[instance] = until;
                self.left_free[instance] = self.gives_way();
                if self.left_free[instance] {
                    let since = self.about.map(|about| now.since(about));
                    assert!(since.is_some_and(|since| since <= ABOUT), "{since:?}: for nobody");
                }
            }
            Decision::Idle => assert_eq!(self.former.queue().items(), 0),
        }
        self.history.late.extend(dropped.late.iter().map(|entry| entry.item.0));
        self.history.gone.extend(dropped.gone.iter().map(|entry| entry.item.0));
    }

    /// Whether background work, and nothing else, waits, and runs on all instances but one of several.
    fn gives_way(&self) -> bool {
        let background = self.running.iter().flatten().filter(|running| running.3 == Priority::Batch).count();
        let others = self.former.queue().in_order().any(|(_, entry)| entry.claim.priority != Priority::Batch);
        !others && self.running.len() > 1 && background + 1 == self.running.len()
    }
}
