//! Which of the waiting items make the next batch.
//!
//! A batch computes `rows * longest` tokens, whatever its items bring: the rest is padding. So the
//! batch is a run of neighbours in the order of length that holds the item which is due first
//! (the seed), and of those runs the one that does the most useful work per second, by the
//! learned model of batch time. A wide run shares the fixed cost; a narrow one pads less.

use crate::LaneLimits;
use crate::time_model::TimeModel;

/// What packing needs to know about an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Length along the padded axis.
    pub length: usize,
    /// Rows it brings.
    pub rows: usize,
    /// Tokens its batch may have for it to meet its deadline.
    pub tokens_max: usize,
}

/// The size of a batch while it is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Rows in all.
    pub rows: usize,
    /// The longest item.
    pub longest: usize,
    /// Useful tokens.
    pub work: usize,
    /// The tokens that the tightest deadline allows.
    pub tokens_max: usize,
}

impl Extent {
    /// Nothing yet.
    pub const EMPTY: Extent = Extent { rows: 0, longest: 0, work: 0, tokens_max: usize::MAX };

    /// Tokens that will be computed, padding counted.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.rows.saturating_mul(self.longest)
    }

    /// With one more item.
    #[must_use]
    pub fn with(&self, item: &Candidate) -> Extent {
        Extent {
            rows: self.rows + item.rows,
            longest: self.longest.max(item.length),
            work: self.work + item.rows * item.length,
            tokens_max: self.tokens_max.min(item.tokens_max),
        }
    }

    /// Whether a batch may be this large.
    #[must_use]
    pub fn fits(&self, limits: &LaneLimits) -> bool {
        self.rows <= limits.max_batch_items && self.tokens() <= limits.max_batch_tokens.min(self.tokens_max)
    }
}

/// In order of arrival, up to the first that does not fit: what most servers do. Indices into
/// `candidates`, of which the first is the seed and is always taken.
#[must_use]
pub fn by_arrival(candidates: &[Candidate], limits: &LaneLimits) -> Vec<usize> {
    let mut extent = Extent::EMPTY;
    let mut taken = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        let wider = extent.with(candidate);
        if index > 0 && !wider.fits(limits) {
            break;
        }
        extent = wider;
        taken.push(index);
    }
    taken
}

/// The run of neighbours in length around `candidates[0]` that does the most useful work per
/// second. Indices into `candidates`.
#[must_use]
pub fn by_length(candidates: &[Candidate], limits: &LaneLimits, time: &TimeModel) -> Vec<usize> {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    // The seed stands first among its equals in length, so that equals are reached by going up.
    order.sort_by_key(|index| candidates.get(*index).map(|c| (c.length, *index)));
    let Some(seed) = order.iter().position(|index| *index == 0) else { return Vec::new() };
    let at = |place: usize| order.get(place).and_then(|index| candidates.get(*index));

    let mut best: Option<(f64, usize, usize)> = None;
    let mut upward = Extent::EMPTY;
    for high in seed..order.len() {
        let Some(candidate) = at(high) else { break };
        upward = upward.with(candidate);
        if high > seed && !upward.fits(limits) {
            break;
        }
        // Going down adds shorter items: each is padded to the same longest one, so each is worth
        // less than the one before, and the first that lowers the rate ends the run.
        let (mut extent, mut low) = (upward, seed);
        let mut rate = time.rate(extent.work, extent.tokens());
        while let Some(shorter) = low.checked_sub(1).and_then(at) {
            let wider = extent.with(shorter);
            let wider_rate = time.rate(wider.work, wider.tokens());
            if !wider.fits(limits) || wider_rate < rate {
                break;
            }
            (extent, rate, low) = (wider, wider_rate, low - 1);
        }
        if best.is_none_or(|(best_rate, ..)| rate >= best_rate) {
            best = Some((rate, low, high));
        }
    }
    best.and_then(|(_, low, high)| order.get(low..=high)).map(<[usize]>::to_vec).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use halny_types::project::Packing;
    use proptest::prelude::*;
    use std::time::Duration;

    fn limits(items: usize, tokens: usize) -> LaneLimits {
        LaneLimits {
            max_batch_items: items,
            max_batch_tokens: tokens,
            max_batch_delay: Duration::ZERO,
            max_queue_items: 1_000,
            max_queue_bytes: 1_000_000,
            packing: Packing::Length,
        }
    }

    fn candidates(lengths: &[usize]) -> Vec<Candidate> {
        lengths.iter().map(|length| Candidate { length: *length, rows: 1, tokens_max: usize::MAX }).collect()
    }

    fn extent(candidates: &[Candidate], taken: &[usize]) -> Extent {
        taken.iter().fold(Extent::EMPTY, |extent, index| extent.with(&candidates[*index]))
    }

    #[test]
    fn neighbours_in_length_go_together() {
        let waiting = candidates(&[9, 100, 10, 95, 8, 11, 120, 9]);
        let mut taken = by_length(&waiting, &limits(8, 10_000), &TimeModel::default());
        taken.sort_unstable();
        assert_eq!(taken, [0, 2, 4, 5, 7], "the long ones would make the short ones pad");
    }

    #[test]
    fn one_that_does_not_fit_does_not_end_the_batch() {
        let waiting = candidates(&[10, 500, 10, 10]);
        let taken = by_length(&waiting, &limits(8, 64), &TimeModel::default());
        assert_eq!(taken.len(), 3);
    }

    proptest! {
        #[test]
        fn the_seed_is_always_in_and_limits_hold(
            lengths in prop::collection::vec(1usize..200, 1..80), items in 1usize..40, tokens in 200usize..5_000,
        ) {
            let (waiting, limits) = (candidates(&lengths), limits(items, tokens));
            for taken in [by_length(&waiting, &limits, &TimeModel::default()), by_arrival(&waiting, &limits)] {
                prop_assert!(taken.contains(&0));
                prop_assert!(extent(&waiting, &taken).fits(&limits));
                let mut unique = taken.clone();
                unique.sort_unstable();
                unique.dedup();
                prop_assert_eq!(unique.len(), taken.len());
            }
        }

        #[test]
        fn by_length_is_never_slower_per_useful_token_than_the_seed_alone_or_arrival_order(
            lengths in prop::collection::vec(1usize..200, 1..80), items in 1usize..40,
        ) {
            let (waiting, limits, time) = (candidates(&lengths), limits(items, 100_000), TimeModel::default());
            let rate = |taken: &[usize]| { let e = extent(&waiting, taken); time.rate(e.work, e.tokens()) };
            let packed = rate(&by_length(&waiting, &limits, &time));
            prop_assert!(packed >= rate(&[0]) * 0.999_999);
        }

        #[test]
        fn a_deadline_narrows_the_batch(lengths in prop::collection::vec(1usize..50, 2..40), tokens_max in 50usize..500) {
            let mut waiting = candidates(&lengths);
            waiting[0].tokens_max = tokens_max;
            let taken = by_length(&waiting, &limits(64, 100_000), &TimeModel::default());
            prop_assert!(extent(&waiting, &taken).tokens() <= tokens_max);
        }
    }
}
