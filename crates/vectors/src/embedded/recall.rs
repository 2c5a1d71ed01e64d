//! How many of the nearest are really found, measured on what is asked.
//!
//! One query in so many is kept. While nothing is to be built, the builder answers kept ones again,
//! as they were asked and exactly, both on the same points, and counts what the first lacks of the second.
//! It rests after each for many times as long as that took, so that measuring costs a machine next to
//! nothing however large a collection is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};

use halny_payload::{Condition, Filter, Match};
use parking_lot::Mutex;

use super::search::{self, Hit};
use super::space::Shared;
use super::view::Reading;
use crate::{Search, SearchParams};

/// One query in 2 to the power of this is kept.
const ONE_IN_BITS: u32 = 6;
/// Steps of the golden ratio round a circle: whatever comes in turns, some of each kind is kept.
const GOLDEN_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// Queries that wait to be measured; the oldest goes first.
const WAITING_MAX: usize = 32;
/// Queries of each vector that are remembered for tuning.
const RECENT_MAX: usize = 512;
/// Queries that want more are not kept: what they find is less and less a matter of the index.
const LIMIT_MAX: usize = 100;
/// Queries whose filters hold more ids and values are not kept: each could take megabytes.
const VALUES_MAX: usize = 1_000;
/// Shapes of filters that are told apart; queries of further ones count as `other`.
const SHAPES_MAX: usize = 32;
/// What a measurement counts for when so many have come after it: a third.
const MEMORY: f64 = 256.0;

/// What is counted of one vector under one shape of filters.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recall {
    /// Queries that were measured.
    pub queries: u64,
    /// The share of the nearest that was found, 0 to 1, the last few hundred queries counting most.
    /// A point as near as the last of the nearest counts as found.
    pub share: f64,
}

/// A vector's name and a shape of filters ([`Filter::shape`](halny_payload::Filter::shape)), empty where there is none.
pub type RecallKey = (String, String);

/// What is kept of queries.
#[derive(Default)]
pub(crate) struct Recalls {
    /// A step further round the circle for each query.
    asked: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    waiting: VecDeque<Search>,
    /// Those without a filter: tuning asks for no others.
    recent: BTreeMap<String, VecDeque<Search>>,
    measured: BTreeMap<RecallKey, Recall>,
}

impl Recalls {
    /// Keeps one query in so many; tells whether it kept this one.
    pub(super) fn notice(&self, search: &Search) -> bool {
        let candidate = !search.params.exact && (1..=LIMIT_MAX).contains(&search.limit);
        let candidate = candidate && search.filter.as_ref().is_none_or(|filter| values_in(filter) <= VALUES_MAX);
        if !candidate || self.asked.fetch_add(GOLDEN_STEP, Ordering::Relaxed).leading_zeros() < ONE_IN_BITS {
            return false;
        }
        // A query never waits for this.
        let Some(mut kept) = self.kept.try_lock() else { return false };
        push(&mut kept.waiting, search.clone(), WAITING_MAX);
        if search.filter.is_none() {
            push(kept.recent.entry(search.vector.clone()).or_default(), search.clone(), RECENT_MAX);
        }
        true
    }

    /// Whether a query waits to be measured.
    pub(super) fn waits(&self) -> bool {
        !self.kept.lock().waiting.is_empty()
    }

    /// What was measured.
    pub(super) fn measured(&self) -> BTreeMap<RecallKey, Recall> {
        self.kept.lock().measured.clone()
    }

    /// The vectors that were asked for lately, without filters, the latest last.
    pub(super) fn recent(&self, vector: &str) -> Vec<Search> {
        let kept = self.kept.lock();
        kept.recent.get(vector).into_iter().flatten().cloned().collect()
    }

    /// What is measured from now on is counted from nothing: the index or how it is asked has changed.
    pub(super) fn forget(&self) {
        self.kept.lock().measured.clear();
    }

    /// Measures the query that waits longest.
    pub(super) fn measure_one(&self, shared: &Shared) {
        let Some(search) = self.kept.lock().waiting.pop_front() else { return };
        let Some(found) = of_search(&shared.reading(), &search) else { return };
        let shape = search.filter.as_ref().map(|filter| filter.shape()).unwrap_or_default();
        let mut kept = self.kept.lock();
        let mut key = (search.vector, shape);
        if kept.measured.len() >= SHAPES_MAX && !kept.measured.contains_key(&key) {
            key.1 = "other".to_owned();
        }
        kept.measured.entry(key).or_default().count(found);
    }
}

/// Ids and values that a filter compares with, all together.
fn values_in(filter: &Filter) -> usize {
    let least = filter.min_should.as_ref().map_or(&[] as &[Condition], |(conditions, _)| conditions);
    let clauses = [&*filter.must, &filter.should, &filter.must_not, least];
    let values = |condition: &Condition| match condition {
        Condition::HasId(ids) => ids.len(),
        Condition::Match(_, Match::Any(values) | Match::Except(values)) => values.len(),
        Condition::Nested(_, filter) | Condition::Filter(filter) => values_in(filter),
        _ => 1,
    };
    clauses.into_iter().flatten().map(values).sum()
}

fn push(queue: &mut VecDeque<Search>, search: Search, most: usize) {
    if queue.len() >= most {
        queue.pop_front();
    }
    queue.push_back(search);
}

impl Recall {
    fn count(&mut self, share: f64) {
        self.queries += 1;
        // The mean of all at first, and then of the last ones.
        let weight = (1.0 / self.queries as f64).max(1.0 / MEMORY);
        self.share += (share - self.share) * weight;
    }
}

/// The share of the nearest that a search finds; nothing where there are none to be found.
fn of_search(reading: &Reading, search: &Search) -> Option<f64> {
    let exact = Search { params: SearchParams { exact: true, ..search.params }, ..search.clone() };
    share(&search::nearest(reading, search), &search::nearest(reading, &exact))
}

/// The share of the nearest that was found. One as near as the last of the nearest is one of them.
pub(super) fn share(found: &[Hit], nearest: &[Hit]) -> Option<f64> {
    let (_, least) = nearest.last()?;
    let hits = found.iter().filter(|(_, similarity)| similarity >= least).count();
    Some(hits.min(nearest.len()) as f64 / nearest.len() as f64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use halny_payload::PointId;

    use super::super::view::Place;
    use super::*;

    fn hits(similarities: &[f32]) -> Vec<Hit> {
        similarities.iter().map(|similarity| (Place { piece: 0, row: 0 }, *similarity)).collect()
    }

    #[test]
    fn a_twin_of_the_last_counts_as_found_and_nothing_counts_twice() {
        let nearest = hits(&[0.9, 0.8, 0.8]);
        assert_eq!(share(&hits(&[0.9, 0.8, 0.8, 0.8]), &nearest), Some(1.0));
        assert_eq!(share(&hits(&[0.9, 0.7]), &nearest), Some(1.0 / 3.0));
        assert_eq!(share(&[], &nearest), Some(0.0));
        assert_eq!(share(&[], &[]), None);
    }

    #[test]
    fn what_is_measured_later_counts_more_once_there_is_much() {
        let mut recall = Recall::default();
        (0..4).for_each(|n| recall.count(f64::from(n % 2)));
        assert!((recall.share - 0.5).abs() < 1e-9, "{recall:?}");
        (0..2_000).for_each(|_| recall.count(1.0));
        assert!(recall.share > 0.999 && recall.queries == 2_004, "{recall:?}");
    }

    #[test]
    fn a_query_with_very_many_ids_is_not_kept_and_one_with_a_filter_not_for_tuning() {
        let recalls = Recalls::default();
        let search = |ids: u64| Search {
            vector: "v".to_owned(),
            query: vec![0.0].into(),
            limit: 10,
            filter: Some(Arc::new(Filter::not(Filter::has_id((0..ids).map(PointId::Number).collect())))),
            params: SearchParams::default(),
            threshold: None,
        };
        let (few, many) = (search(10), search(VALUES_MAX as u64 + 1));
        let asked = 10 << ONE_IN_BITS;
        assert!((0..asked).any(|_| recalls.notice(&few)));
        assert!(!(0..asked).any(|_| recalls.notice(&many)));
        assert!(recalls.kept.lock().recent.is_empty());
    }

    #[test]
    fn one_query_in_so_many_is_kept_and_no_more_than_there_is_room_for() {
        let recalls = Recalls::default();
        let search = |limit, exact| Search {
            vector: "v".to_owned(),
            query: vec![0.0].into(),
            limit,
            filter: None,
            params: SearchParams { exact, ..SearchParams::default() },
            threshold: None,
        };
        let asked = 1_000 << ONE_IN_BITS;
        let kept: Vec<usize> = (0..asked).filter(|_| recalls.notice(&search(10, false))).collect();
        assert!((990..1_010).contains(&kept.len()), "{}", kept.len());
        let odd = kept.iter().filter(|number| *number % 2 == 1).count();
        assert!((400..600).contains(&odd), "of queries that come in turns one kind is kept only: {odd}");
        assert_eq!(recalls.kept.lock().waiting.len(), WAITING_MAX);
        assert_eq!(recalls.recent("v").len(), RECENT_MAX);
        let never = (0..asked).filter(|_| recalls.notice(&search(10, true)) || recalls.notice(&search(0, false)));
        assert_eq!(never.count(), 0);
    }
}
