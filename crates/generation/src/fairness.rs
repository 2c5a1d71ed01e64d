//! Who is admitted next: virtual token counters (Sheng et al., "Fairness in Serving Large Language
//! Models", OSDI 2024).
//!
//! Each tenant has a counter of the service it got: the tokens of its prompts that were read, and
//! twice the tokens that were written for it. Of the tenants that wait, the one with the least is
//! next. A tenant that comes back from having nothing to ask is lifted to the least counter of those
//! that wait, so it neither saves up a share nor pays for having been alone.
//!
//! Priorities are strict: a class is looked at when no higher one waits, and what runs of the background
//! gives way to those above it that wait (see [`scheduler`](crate::scheduler)). The counters are one set for
//! all classes.

use std::collections::{HashMap, VecDeque};

use halny_types::{Priority, TenantId};

/// What reading one token costs (`w_p` in the paper).
pub const READ: u64 = 1;
/// What writing one token costs (`w_q` in the paper).
pub const WRITTEN: u64 = 2;

/// The classes, the most urgent first.
const CLASSES: [Priority; 3] = [Priority::System, Priority::Interactive, Priority::Batch];

/// Counters of more tenants than this are looked through for those that can be forgotten.
const TENANTS_KEPT: usize = 1_024;

#[derive(Debug)]
struct Tenant<T> {
    served: u64,
    waiting: [VecDeque<T>; 3],
}

impl<T> Tenant<T> {
    fn waits(&self) -> bool {
        self.waiting.iter().any(|queue| !queue.is_empty())
    }
}

/// What waits, by tenant.
#[derive(Debug)]
pub struct Waiting<T> {
    tenants: HashMap<TenantId, Tenant<T>>,
    /// The counter of the tenant that waited last, for when nobody waits.
    last: u64,
    /// How many wait, by class.
    counts: [usize; 3],
}

impl<T> Default for Waiting<T> {
    fn default() -> Waiting<T> {
        Waiting { tenants: HashMap::new(), last: 0, counts: [0; 3] }
    }
}

fn class(priority: Priority) -> usize {
    CLASSES.iter().position(|class| *class == priority).unwrap_or(0)
}

impl<T> Waiting<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of this class wait.
    #[must_use]
    pub fn len_of(&self, priority: Priority) -> usize {
        self.counts[class(priority)]
    }

    /// Puts one behind those of its tenant and class.
    pub fn push(&mut self, tenant: &TenantId, priority: Priority, item: T) {
        self.lift(tenant);
        self.entry(tenant).waiting[class(priority)].push_back(item);
        self.counts[class(priority)] += 1;
    }

    /// Puts one back in front of those of its tenant and class.
    pub fn push_front(&mut self, tenant: &TenantId, priority: Priority, item: T) {
        self.lift(tenant);
        self.entry(tenant).waiting[class(priority)].push_front(item);
        self.counts[class(priority)] += 1;
    }

    /// Takes the one that is next.
    pub fn pop(&mut self) -> Option<T> {
        for class in 0..CLASSES.len() {
            let candidates = self.tenants.iter_mut().filter(|(_, tenant)| !tenant.waiting[class].is_empty());
            // Names break ties, so that a run can be repeated.
            let next = candidates.min_by(|(a, x), (b, y)| (x.served, a).cmp(&(y.served, b)));
            if let Some((_, tenant)) = next {
                let item = tenant.waiting[class].pop_front();
                self.last = tenant.served;
                self.counts[class] -= 1;
                return item;
            }
        }
        None
    }

    /// A tenant got service: [`READ`] for each token read, [`WRITTEN`] for each token written.
    pub fn charge(&mut self, tenant: &TenantId, service: u64) {
        let entry = self.entry(tenant);
        entry.served += service;
        let served = entry.served;
        if self.is_empty() {
            self.last = self.last.max(served);
        }
    }

    /// Takes out what does not satisfy `keep`.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        for tenant in self.tenants.values_mut() {
            for (queue, count) in tenant.waiting.iter_mut().zip(&mut self.counts) {
                let before = queue.len();
                queue.retain_mut(&mut keep);
                *count -= before - queue.len();
            }
        }
    }

    /// A tenant that had nothing waiting starts where the least of the others stands.
    fn lift(&mut self, tenant: &TenantId) {
        if self.tenants.get(tenant).is_some_and(Tenant::waits) {
            return;
        }
        let least = self.tenants.values().filter(|other| other.waits()).map(|other| other.served).min();
        let floor = least.unwrap_or(self.last);
        self.forget(floor);
        let entry = self.entry(tenant);
        entry.served = entry.served.max(floor);
    }

    /// Forgets tenants that would be lifted anyway when they come back.
    fn forget(&mut self, floor: u64) {
        if self.tenants.len() > TENANTS_KEPT {
            self.tenants.retain(|_, tenant| tenant.waits() || tenant.served > floor);
        }
    }

    fn entry(&mut self, tenant: &TenantId) -> &mut Tenant<T> {
        if !self.tenants.contains_key(tenant) {
            let fresh = Tenant { served: 0, waiting: [VecDeque::new(), VecDeque::new(), VecDeque::new()] };
            self.tenants.insert(tenant.clone(), fresh);
        }
        self.tenants.get_mut(tenant).unwrap_or_else(|| unreachable!("it was put there"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    #[test]
    fn the_tenant_that_got_least_is_next() {
        let mut waiting = Waiting::default();
        for item in 0..4 {
            waiting.push(&tenant("a"), Priority::Interactive, ("a", item));
        }
        waiting.push(&tenant("b"), Priority::Interactive, ("b", 0));
        assert_eq!(waiting.pop(), Some(("a", 0)));
        waiting.charge(&tenant("a"), 10);
        assert_eq!(waiting.pop(), Some(("b", 0)));
        waiting.charge(&tenant("b"), 30);
        waiting.push(&tenant("b"), Priority::Interactive, ("b", 1));
        assert_eq!(waiting.pop(), Some(("a", 1)));
        assert_eq!(waiting.len(), 3);
    }

    #[test]
    fn who_was_away_is_lifted_and_who_was_alone_owes_nothing() {
        let mut waiting = Waiting::default();
        waiting.push(&tenant("a"), Priority::Interactive, 1);
        waiting.pop();
        waiting.charge(&tenant("a"), 1_000);
        // Nobody waits; a newcomer starts where the last one stood, not at nothing.
        waiting.push(&tenant("b"), Priority::Interactive, 2);
        waiting.push(&tenant("a"), Priority::Interactive, 3);
        assert_eq!(waiting.pop(), Some(3), "equal counters, names break the tie");
        waiting.charge(&tenant("a"), 1);
        assert_eq!(waiting.pop(), Some(2));
    }

    #[test]
    fn a_higher_class_goes_first_whatever_its_tenant_got() {
        let mut waiting = Waiting::default();
        waiting.push(&tenant("b"), Priority::Batch, 1);
        waiting.push(&tenant("a"), Priority::Interactive, 2);
        waiting.charge(&tenant("a"), 1_000_000);
        waiting.push(&tenant("c"), Priority::System, 3);
        assert_eq!([waiting.pop(), waiting.pop(), waiting.pop()], [Some(3), Some(2), Some(1)]);
    }

    #[test]
    fn what_is_put_back_in_front_is_next_of_its_tenant() {
        let mut waiting = Waiting::default();
        waiting.push(&tenant("a"), Priority::Interactive, 1);
        waiting.push(&tenant("a"), Priority::Interactive, 2);
        let first = waiting.pop().unwrap();
        waiting.push_front(&tenant("a"), Priority::Interactive, first);
        assert_eq!(waiting.pop(), Some(1));
        waiting.retain(|item| *item != 2);
        assert!(waiting.is_empty());
    }
}
