//! What waits, in the order in which it is due: strict classes, and within a class start-time fair
//! queueing between tenants (Goyal, Vin, Cheng: "Start-time Fair Queuing", SIGCOMM 1996).
//!
//! Each item gets a start tag on arrival: the class's virtual time, or the finish tag of its
//! tenant's item before it, whichever is later; its finish tag lies its work divided by its
//! tenant's weight further on. Items are due by start tag. A tenant that was silent starts at the
//! virtual time, so it neither saves up a share nor pays for having been alone.

use std::collections::{BTreeMap, HashMap};

use halny_types::{Priority, TenantId, Tick};

use crate::{Claim, Load};

/// Tags count work in fractions of 2^-20, so that weights divide finely.
const SCALE: u128 = 1 << 20;

/// The classes, the most urgent first.
const CLASSES: [Priority; 3] = [Priority::System, Priority::Interactive, Priority::Batch];

/// Something that waits.
#[derive(Clone, Debug)]
pub struct Entry<I> {
    /// The item itself.
    pub item: I,
    /// What running it takes.
    pub load: Load,
    /// Whose it is, and until when.
    pub claim: Claim,
    /// When it was accepted.
    pub arrived: Tick,
    /// When its batch was expected to start, as of then.
    pub expected: Tick,
    /// Batches that went ahead of it out of turn.
    pub passed_over: u32,
    /// Whether it runs even if it should come too late: to see whether it does.
    pub is_probe: bool,
}

/// An item's place in the order; smaller is due sooner. Unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    class: usize,
    start: u128,
    number: u64,
}

/// The waiting items of a lane.
#[derive(Debug)]
pub struct Queue<I> {
    classes: [Class<I>; 3],
    items: usize,
    bytes: usize,
    next_number: u64,
}

#[derive(Debug)]
struct Class<I> {
    due: BTreeMap<(u128, u64), Entry<I>>,
    virtual_time: u128,
    tenants: HashMap<TenantId, Share>,
    work: usize,
}

#[derive(Debug, Default)]
struct Share {
    finish: u128,
    waiting_work: u128,
    weight: u128,
}

impl<I> Default for Queue<I> {
    fn default() -> Queue<I> {
        let class = || Class { due: BTreeMap::new(), virtual_time: 0, tenants: HashMap::new(), work: 0 };
        Queue { classes: [class(), class(), class()], items: 0, bytes: 0, next_number: 0 }
    }
}

impl<I> Class<I> {
    /// Drops tenants that have nothing waiting, now and then, so that the table stays as small as
    /// what waits. When nothing waits at all a new busy period begins: nobody owes anything.
    fn forget_idle_tenants(&mut self) {
        if self.due.is_empty() {
            let last = self.tenants.drain().map(|(_, share)| share.finish).max();
            self.virtual_time = self.virtual_time.max(last.unwrap_or(0));
        } else if self.tenants.len() > 64 && self.tenants.len() > 2 * self.due.len() {
            let now = self.virtual_time;
            self.tenants.retain(|_, share| share.waiting_work > 0 || share.finish > now);
        }
    }
}

fn class_of(priority: Priority) -> usize {
    CLASSES.iter().position(|class| *class == priority).unwrap_or(0)
}

impl<I> Queue<I> {
    /// Items that wait.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items
    }

    /// Bytes they hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Useful work that items of this class and those above bring.
    #[must_use]
    pub fn work_down_to(&self, priority: Priority) -> usize {
        self.classes.iter().take(class_of(priority) + 1).map(|class| class.work).sum()
    }

    /// Puts an item in its place.
    pub fn push(&mut self, entry: Entry<I>) {
        let Some(class) = self.classes.get_mut(class_of(entry.claim.priority)) else { return };
        let weight = u128::from(entry.claim.weight.get());
        let work = entry.load.work() as u128;
        let share = class.tenants.entry(entry.claim.tenant.clone()).or_default();
        let start = class.virtual_time.max(share.finish);
        share.finish = start + work * SCALE / weight;
        share.waiting_work += work;
        share.weight = weight;
        self.items += 1;
        self.bytes += entry.load.bytes;
        class.work += entry.load.work();
        class.due.insert((start, self.next_number), entry);
        self.next_number += 1;
    }

    /// The items with their places, the one that is due first in front.
    pub fn in_order(&self) -> impl Iterator<Item = (Place, &Entry<I>)> {
        self.classes.iter().enumerate().flat_map(|(class, waiting)| {
            waiting
                .due
                .iter()
                .map(move |((start, number), entry)| (Place { class, start: *start, number: *number }, entry))
        })
    }

    /// Takes an item out because it runs: its class's virtual time moves on.
    pub fn take(&mut self, place: Place) -> Option<Entry<I>> {
        let class = self.classes.get_mut(place.class)?;
        // The virtual time follows the item that is due first, not the one that is taken: what is
        // taken out of turn must not push newcomers behind what still waits.
        if let Some(((first, _), _)) = class.due.first_key_value() {
            class.virtual_time = class.virtual_time.max(*first);
        }
        self.remove(place)
    }

    /// Takes an item out that will not run.
    pub fn remove(&mut self, place: Place) -> Option<Entry<I>> {
        let class = self.classes.get_mut(place.class)?;
        let entry = class.due.remove(&(place.start, place.number))?;
        self.items -= 1;
        self.bytes -= entry.load.bytes;
        class.work -= entry.load.work();
        if let Some(share) = class.tenants.get_mut(&entry.claim.tenant) {
            share.waiting_work -= entry.load.work() as u128;
        }
        class.forget_idle_tenants();
        Some(entry)
    }

    /// Counts one more batch that went ahead of this item out of turn.
    pub fn pass_over(&mut self, place: Place) {
        if let Some(entry) = self.classes.get_mut(place.class).and_then(|c| c.due.get_mut(&(place.start, place.number)))
        {
            entry.passed_over += 1;
        }
    }

    /// The work that would run before the next item of this claim: all of the classes above, the
    /// tenant's own, and of every other tenant what its weight lets it have until then.
    #[must_use]
    pub fn work_ahead(&self, claim: &Claim) -> f64 {
        let own_class = class_of(claim.priority);
        let above: usize = self.classes.iter().take(own_class).map(|class| class.work).sum();
        let Some(class) = self.classes.get(own_class) else { return 0.0 };
        let own = class.tenants.get(&claim.tenant);
        let start = class.virtual_time.max(own.map_or(0, |share| share.finish));
        let until = start - class.virtual_time;
        let ahead: u128 = class
            .tenants
            .iter()
            .map(|(tenant, share)| {
                if *tenant == claim.tenant {
                    share.waiting_work
                } else {
                    share.waiting_work.min(until * share.weight / SCALE)
                }
            })
            .sum();
        (above as u128 + ahead) as f64
    }
}
