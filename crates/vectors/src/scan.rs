//! What an engine without a way of its own answers by looking at every point that passes.
//!
//! Memory is bounded by what is asked for, not by what is looked at: the best are kept, the rest forgotten.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use halny_payload::{FacetValue, Filter, PayloadIndex, PointId, order_value};
use rand::Rng;
use roaring::RoaringBitmap;
use serde_json::Value;

use crate::query::OrderBy;
use crate::{PayloadSelect, Points, Record, Scored, Select, VectorSelect, VectorsError};

/// Points whose values are counted at once.
const FACET_POINTS: u32 = 10_000;

/// The best few of many, with less memory than twice as many.
struct Best<T> {
    kept: Vec<T>,
    most: usize,
    order: fn(&T, &T) -> Ordering,
}

impl<T> Best<T> {
    fn new(most: usize, order: fn(&T, &T) -> Ordering) -> Best<T> {
        Best { kept: Vec::new(), most, order }
    }

    fn offer(&mut self, one: T) {
        self.kept.push(one);
        if self.kept.len() >= self.most.saturating_mul(2).max(1_024) {
            self.settle();
        }
    }

    /// A stable order: of two that are equal the one that came first.
    fn settle(&mut self) {
        self.kept.sort_by(self.order);
        self.kept.truncate(self.most);
    }

    fn done(mut self) -> Vec<T> {
        self.settle();
        self.kept
    }
}

/// See [`Points::best_by`]. What is wanted of the best is read when they are known.
pub(crate) fn best_by<P: Points + ?Sized>(
    points: &P,
    vector: &str,
    filter: Option<&Filter>,
    limit: usize,
    select: &Select,
    score: &dyn Fn(&[f32]) -> Option<f32>,
) -> Result<Vec<Scored>, VectorsError> {
    let wanted = Select { payload: PayloadSelect::None, vectors: VectorSelect::Only(vec![vector.to_owned()]) };
    let mut best: Best<(f32, PointId)> = Best::new(limit, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    points.each(filter, &wanted, &mut |record| {
        if let Some(score) = record.vectors.get(vector).and_then(|vector| score(vector)) {
            best.offer((score, record.id));
        }
    })?;
    let best = best.done();
    let ids: Vec<PointId> = best.iter().map(|(_, id)| *id).collect();
    let mut records: BTreeMap<PointId, Record> =
        points.retrieve(&ids, select)?.into_iter().map(|record| (record.id, record)).collect();
    // One that was deleted in between is left out.
    let scored = |(score, id): (f32, PointId)| {
        let Record { id, payload, vectors } = records.remove(&id)?;
        Some(Scored { id, score, payload, vectors })
    };
    Ok(best.into_iter().filter_map(scored).collect())
}

/// The values that a payload is ordered by, each once.
pub(crate) fn order_values(order: &OrderBy, payload: &crate::Payload) -> Vec<(Value, f64)> {
    let begins = |number: f64| match order.start_from {
        None => true,
        Some(start) if order.descending => number <= start,
        Some(start) => number >= start,
    };
    let mut found: Vec<(Value, f64)> = Vec::new();
    for value in order.key.values(payload) {
        let Some(number) = order_value(value).filter(|number| begins(*number)) else { continue };
        if !found.iter().any(|(_, known)| *known == number) {
            // A time is given as the number that it stands for.
            let value = if value.is_number() { value.clone() } else { Value::from(number as i64) };
            found.push((value, number));
        }
    }
    found
}

/// A point, the value that it is ordered by, and its number.
type Ordered = (Record, Value, f64);

/// See [`Points::ordered`].
pub(crate) fn ordered<P: Points + ?Sized>(
    points: &P,
    order: &OrderBy,
    filter: Option<&Filter>,
    limit: usize,
    select: &Select,
) -> Result<Vec<(Record, Value, f64)>, VectorsError> {
    let wanted = Select { payload: PayloadSelect::All, vectors: select.vectors.clone() };
    let compare: fn(&Ordered, &Ordered) -> Ordering =
        if order.descending { |a, b| b.2.total_cmp(&a.2) } else { |a, b| a.2.total_cmp(&b.2) };
    let mut best = Best::new(limit, compare);
    points.each(filter, &wanted, &mut |record| {
        let payload = record.payload.unwrap_or_default();
        let values = order_values(order, &payload);
        if values.is_empty() {
            return;
        }
        let kept = (!select.payload.is_none()).then(|| select.payload.of(std::sync::Arc::new(payload)));
        for (value, number) in values {
            best.offer((
                Record { id: record.id, payload: kept.clone(), vectors: record.vectors.clone() },
                value,
                number,
            ));
        }
    })?;
    Ok(best.done())
}

/// See [`Points::sample`]: a reservoir (Vitter, algorithm R), shuffled, since in it the places still tell of the ids.
pub(crate) fn sample<P: Points + ?Sized>(
    points: &P,
    filter: Option<&Filter>,
    most: usize,
) -> Result<Vec<PointId>, VectorsError> {
    use rand::seq::SliceRandom;
    let mut kept: Vec<PointId> = Vec::new();
    let (mut seen, mut random) = (0usize, rand::rng());
    points.each(filter, &Select::default(), &mut |record| {
        seen += 1;
        if kept.len() < most {
            kept.push(record.id);
        } else if let Some(place) = kept.get_mut(random.random_range(0..seen)) {
            *place = record.id;
        }
    })?;
    kept.shuffle(&mut random);
    Ok(kept)
}

/// See [`Points::facet`].
pub(crate) fn facet<P: Points + ?Sized>(
    points: &P,
    field: &str,
    filter: Option<&Filter>,
    limit: usize,
) -> Result<Vec<(FacetValue, u64)>, VectorsError> {
    let config = points.config();
    let kind = config.fields.get(field).ok_or_else(|| no_facet(field))?;
    let kinds = BTreeMap::from([(field.to_owned(), kind.clone())]);
    let empty = || PayloadIndex::new(kinds.clone());
    empty().facet(field, &RoaringBitmap::new()).ok_or_else(|| no_facet(field))?;
    let wanted = Select { payload: PayloadSelect::All, ..Select::default() };
    let mut counts: BTreeMap<FacetValue, u64> = BTreeMap::new();
    let (mut index, mut rows) = (empty(), 0u32);
    let mut take = |index: &PayloadIndex, rows: u32| {
        let mut within = RoaringBitmap::new();
        within.insert_range(0..rows);
        for (value, count) in index.facet(field, &within).unwrap_or_default() {
            *counts.entry(value).or_default() += count;
        }
    };
    points.each(filter, &wanted, &mut |record| {
        index.insert(rows, &record.payload.unwrap_or_default());
        rows += 1;
        if rows == FACET_POINTS {
            take(&index, rows);
            (index, rows) = (empty(), 0);
        }
    })?;
    take(&index, rows);
    Ok(most_first(counts, limit))
}

pub(crate) fn no_facet(field: &str) -> VectorsError {
    let text = format!("the field {field:?} has no index of keywords, integers, booleans or UUIDs; create one first");
    VectorsError::Invalid(text)
}

pub(crate) fn most_first(counts: BTreeMap<FacetValue, u64>, limit: usize) -> Vec<(FacetValue, u64)> {
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(a, more), (b, most)| most.cmp(more).then_with(|| a.cmp(b)));
    counts.truncate(limit);
    counts
}
